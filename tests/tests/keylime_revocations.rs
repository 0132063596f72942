//! Revocations of agents that push, over real shards and a real store: what is told, once, whatever
//! is missed in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_ops::revocation::{Parts, Polling, Revocations};
use rat_ops::webhook::{self, Carried, Channel, Delivery, Fleet, Unavailable, Webhooks};
use rat_runtime::SystemClock;
use rat_tests::driven::until;
use rat_tests::keylime_verifier::{Pusher, Served};
use rat_tests::measured::Measured;
use serde_json::{Value, json};

/// Keeps what it is brought.
#[derive(Default)]
struct Kept {
    bodies: Mutex<Vec<(String, Value)>>,
    is_closed: AtomicBool,
}

impl Kept {
    fn messages(&self) -> Vec<Value> {
        let bodies = self.bodies.lock().unwrap();
        let message = |(_, body): &(String, Value)| {
            serde_json::from_str(body["msg"].as_str().unwrap()).unwrap()
        };
        bodies.iter().map(message).collect()
    }
}

impl Channel for Kept {
    fn name(&self) -> &str {
        "kept"
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn carry<'a>(&'a self, subject: &'a str, body: &'a str) -> Carried<'a> {
        Box::pin(async move {
            if self.is_closed.load(Ordering::SeqCst) {
                return Err(Unavailable);
            }
            let body = serde_json::from_str(body).unwrap();
            self.bodies.lock().unwrap().push((subject.to_owned(), body));
            Ok(())
        })
    }
}

/// Nobody polls agents that push.
struct Nobody;

impl Polling for Nobody {
    fn stop(&self, agent: &AgentId) {
        panic!("{agent} is not polled");
    }

    fn go_on(&self, agent: AgentId) {
        panic!("{agent} is not polled");
    }
}

async fn start(served: &Served, kept: &Arc<Kept>) -> (Delivery, Revocations) {
    let fleet: Arc<dyn Fleet> = served.views();
    let clock = Arc::new(SystemClock::start());
    let delivery = Webhooks::start(webhook::Parts {
        webhooks: Vec::new(),
        channels: vec![Arc::clone(kept) as Arc<dyn Channel>],
        store: served.store.clone(),
        fleet: Arc::clone(&fleet),
        events: served.events(),
        clock: clock.clone(),
    });
    let delivery = delivery.await.unwrap();
    let revocations = Revocations::start(Parts {
        store: served.store.clone(),
        fleet,
        events: served.events(),
        clock,
        webhooks: delivery.webhooks(),
        severities: Arc::default(),
        sign: Arc::new(|_, _| None),
        polling: Arc::new(Nobody),
        auto_recover: false,
        silence_after: Duration::ZERO,
    });
    (delivery, revocations)
}

fn failing(served: &Served) -> Pusher {
    let mut agent = Pusher::new("machine-1");
    served.add(&agent);
    agent.open(served);
    assert_eq!(agent.attest(served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_status"], "PASS");
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/evil", b"evil"));
    assert_eq!(agent.attest(served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_status"], "FAIL");
    agent
}

#[test]
fn a_pushing_agent_that_fails_is_told_of_once_and_goes_on_attesting() {
    let served = Served::start();
    let kept = Arc::new(Kept::default());
    let _working = served.wait(start(&served, &kept));
    let mut agent = failing(&served);
    served.wait(until(|| kept.messages().len() == 1));
    let message = kept.messages().remove(0);
    assert_eq!(message["type"], "revocation");
    assert_eq!(message["agent_id"], "machine-1");
    assert_eq!(
        (&message["ip"], &message["port"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(message["severity_label"], "emergency");
    assert_eq!(kept.bodies.lock().unwrap()[0].0, "machine-1");
    assert_eq!(kept.bodies.lock().unwrap()[0].1["signature"], "");
    // The same failure, again: nobody is told again.
    assert_eq!(agent.attest(&served).status, 202);
    assert_eq!(served.standing(&agent)["severity_level"], 6);
    assert_eq!(kept.messages().len(), 1);
    // Once it was taken back, another one is news.
    let path = format!("{}/reactivate", agent.path());
    assert_eq!(served.ask("PUT", &path, &Value::Null).status, 200);
    assert_eq!(agent.attest(&served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_status"], "FAIL");
    served.wait(until(|| kept.messages().len() > 1));
    assert_eq!(kept.messages().len(), 2, "{:?}", kept.messages());
}

#[test]
fn a_failure_while_nobody_watched_is_told_at_the_next_start_and_what_was_told_is_not() {
    let served = Served::start();
    let agent = failing(&served);
    let kept = Arc::new(Kept::default());
    let working = served.wait(start(&served, &kept));
    served.wait(until(|| kept.messages().len() == 1));
    drop(working);
    let again = Arc::new(Kept::default());
    let _working = served.wait(start(&served, &again));
    assert_eq!(
        served.standing(&agent)["last_event_id"],
        kept.messages()[0]["event_id"]
    );
    std::thread::sleep(Duration::from_millis(500));
    assert!(again.messages().is_empty(), "{:?}", again.messages());
}

#[test]
fn what_a_channel_does_not_take_waits_and_is_shown() {
    let served = Served::start();
    let kept = Arc::new(Kept::default());
    kept.is_closed.store(true, Ordering::SeqCst);
    let working = served.wait(start(&served, &kept));
    failing(&served);
    let shown = || working.0.webhooks().shown().remove(0);
    served.wait(until(|| {
        shown().standing.queued == 1 && shown().standing.error.is_some()
    }));
    assert_eq!(
        (shown().name.as_str(), shown().url.as_str()),
        ("kept", "memory")
    );
    drop(working);
    kept.is_closed.store(false, Ordering::SeqCst);
    // The queue is in the store.
    let _working = served.wait(start(&served, &kept));
    served.wait(until(|| kept.messages().len() == 1));
    assert_eq!(kept.messages()[0]["type"], json!("revocation"));
}

#[test]
fn s11_failures_while_nobody_takes_them_are_told_in_their_order() {
    let served = Served::start();
    let kept = Arc::new(Kept::default());
    kept.is_closed.store(true, Ordering::SeqCst);
    let working = served.wait(start(&served, &kept));
    let mut agent = failing(&served);
    let queued = || working.0.webhooks().shown().remove(0).standing.queued;
    for before in 1..4 {
        served.wait(until(|| queued() == before));
        // Times are told in seconds.
        std::thread::sleep(Duration::from_millis(1_100));
        let path = format!("{}/reactivate", agent.path());
        assert_eq!(served.ask("PUT", &path, &Value::Null).status, 200);
        assert_eq!(agent.attest(&served).status, 202);
        assert_eq!(served.standing(&agent)["attestation_status"], "FAIL");
    }
    served.wait(until(|| queued() == 4));
    assert!(kept.messages().is_empty());
    kept.is_closed.store(false, Ordering::SeqCst);
    served.wait(until(|| queued() == 0));
    let messages = kept.messages();
    let times: Vec<&str> = messages
        .iter()
        .map(|it| it["event_time"].as_str().unwrap())
        .collect();
    assert_eq!(times.len(), 4, "{times:?}");
    assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
    assert_eq!(
        working.0.webhooks().shown().remove(0).standing.dead_letters,
        0
    );
}
