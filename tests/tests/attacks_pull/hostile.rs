//! Agents that answer anything but evidence: silent each time, untrusted never, and bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rat_engine::shard::EffectiveStatus;
use rat_tests::evidence::Machine;
use rat_tests::pull_agent::{Device, How, PullAgent, Reply};
use rat_transport::pull::{self, News, Standing};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::world::{World, polling};

type Change = Box<dyn Fn(Reply) -> Reply + Send + Sync>;

fn results(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Change {
    Box::new(move |reply| reply.changed(&change))
}

fn status(status: u16) -> Change {
    Box::new(move |_| Reply::of(status, "no", json!({})))
}

fn how(how: How) -> Change {
    Box::new(move |mut reply| {
        reply.how = how;
        reply
    })
}

fn head(line: &'static str) -> Change {
    Box::new(move |mut reply| {
        reply.head = line.to_owned();
        reply
    })
}

fn body(body: Vec<u8>) -> Change {
    Box::new(move |mut reply| {
        reply.body.clone_from(&body);
        reply
    })
}

/// What an agent answers when it is asked for evidence, and the word for it.
fn cases() -> Vec<(&'static str, Change)> {
    vec![
        ("status", status(408)),
        ("status", status(500)),
        ("status", status(400)),
        ("status", status(204)),
        ("redirect", status(302)),
        ("timeout", how(How::Late(Duration::from_secs(30)))),
        ("timeout", how(How::Drip(Duration::from_millis(20)))),
        ("exchange", how(How::Never)),
        ("exchange", how(How::Raw(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"))),
        ("too_long", how(How::Endless)),
        ("encoded", head("content-encoding: gzip\r\n")),
        ("malformed", body(Vec::new())),
        ("malformed", body(b"\xff\xfe{}".to_vec())),
        ("malformed", body(b"[".repeat(1 << 20))),
        ("malformed", results(|it| it["quote"] = json!(7))),
        (
            "malformed",
            results(|it| it["ima_measurement_list_entry"] = json!(-1)),
        ),
        ("malformed", results(|it| *it = json!({}))),
        ("quote", results(|it| it["quote"] = "d:::".into())),
        (
            "quote",
            results(|it| it["quote"] = "rAAAA:AAAA:AAAA".into()),
        ),
        ("algorithm", results(|it| it["hash_alg"] = "md5".into())),
        ("algorithm", results(|it| it["hash_alg"] = "sha1".into())),
        ("algorithm", results(|it| it["enc_alg"] = "sm2".into())),
        ("algorithm", results(|it| it["sign_alg"] = "rsapss".into())),
        ("bank", results(|it| it["hash_alg"] = "sha384".into())),
        (
            "entry",
            results(|it| it["ima_measurement_list_entry"] = json!(1)),
        ),
    ]
}

fn small() -> pull::Settings {
    pull::Settings {
        answer_bytes_max: 2 << 20,
        ..polling()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x01_x02_s13_what_is_no_evidence_makes_an_agent_silent_and_never_untrusted() {
    let world = World::with(small(), None).await;
    let (_, id, agent) = world.machine("odd").await;
    let answers = |standing| standing == Standing::Answers;
    for (nth, (why, change)) in cases().into_iter().enumerate() {
        world.until_standing(&id, answers).await;
        world.until(&id, EffectiveStatus::Trusted).await;
        let fired = Arc::new(AtomicBool::new(false));
        let has_fired = Arc::clone(&fired);
        agent.bend(move |target, reply| match target.contains("/quotes/") {
            false => reply,
            true => {
                has_fired.store(true, Ordering::SeqCst);
                change(reply)
            }
        });
        let is_so = |standing| matches!(standing, Standing::Silent { failure, .. } if failure.as_str() == why);
        let silent =
            tokio::time::timeout(Duration::from_secs(20), world.until_standing(&id, is_so));
        let is_silent = silent.await.is_ok();
        assert!(is_silent, "case {nth}: {why}: {:?}", world.news(&id));
        assert!(fired.load(Ordering::SeqCst));
        let status = world.status(&id).await;
        assert_ne!(status, EffectiveStatus::Untrusted, "case {nth}: {why}");
        agent.straighten();
    }
    world.until(&id, EffectiveStatus::Trusted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_reached_is_overdue_and_comes_back() {
    let world = World::new().await;
    let (_, id, mut agent) = world.machine("away").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    agent.pause().await;
    world.until_silent(&id, "connect").await;
    let view = world.until(&id, EffectiveStatus::Overdue).await;
    assert!(!view.is_connected);
    assert!(view.state.list.denied.is_none() && view.state.failure.is_none());
    agent.resume().await;
    world.until(&id, EffectiveStatus::Trusted).await;
    world
        .until_standing(&id, |standing| standing == Standing::Answers)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_another_certificate_is_not_asked_for_evidence() {
    let world = World::new().await;
    let (_, id, mut agent) = world.machine("impostor").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    agent.replace_certificate().await;
    let asked = agent.asked().len();
    world.until_silent(&id, "certificate").await;
    world.until(&id, EffectiveStatus::Overdue).await;
    assert_eq!(agent.asked().len(), asked, "it learned of no nonce");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_spoken_only_where_it_is_allowed() {
    let allowed = pull::Settings {
        plain_http: true,
        ..polling()
    };
    for (settings, is_allowed) in [(polling(), false), (allowed, true)] {
        let world = World::with(settings, None).await;
        let machine = Machine::valid();
        let agent = PullAgent::plain(Device::Software(Box::new(machine.clone()), 7)).await;
        let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
        let id = world.add("plain", &agent, &ak, &policy).await;
        if is_allowed {
            world.until(&id, EffectiveStatus::Trusted).await;
        } else {
            world.until_silent(&id, "plain_http").await;
            assert_eq!(agent.connections(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x04_agents_that_never_answer_keep_nobody_else_waiting() {
    let few = pull::Settings {
        exchanges_max: 4,
        ..polling()
    };
    let world = World::with(few, None).await;
    let mut silent = Vec::new();
    for nth in 0..24 {
        let (_, id, agent) = world.machine(&format!("silent-{nth}")).await;
        agent.bend(|_, mut reply| {
            reply.how = How::Late(Duration::from_secs(60));
            reply
        });
        silent.push((id, agent));
    }
    // Added while they hold every place, it waits for its turn and is not blamed for that.
    let (_, id, agent) = world.machine("honest").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    for (id, _) in &silent {
        let is_suspect = |standing| matches!(standing, Standing::Silent { times, .. } if times > 1);
        world.until_standing(id, is_suspect).await;
    }
    // From now on they have places of their own.
    world.until(&id, EffectiveStatus::Trusted).await;
    let begun = Instant::now();
    world.more_quotes(&agent, 20).await;
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(world.status(&id).await, EffectiveStatus::Trusted);
    let blamed = |news: &News| matches!(news, News::Silent { .. });
    assert!(!world.news(&id).iter().any(blamed), "{:?}", world.news(&id));
}
