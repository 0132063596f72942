//! The runtime over a real store: from a connection to a durable verdict, and what happens when
//! something breaks on the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use rat_engine::evidence::{ChallengeId, Peer, SessionId, ToAgent};
use rat_engine::shard::{Abandon, AgentState, EffectiveStatus, Event, Glance};
use rat_runtime::{ControlError, Drained, Settings, StoreHealth, WorkerHealth};
use rat_tests::assignment::streamed;
use rat_tests::driven::{Connected, Driven, PATIENCE, agent_of, event, settings, until};
use rat_tests::evidence::Machine;
use rat_tests::measured::Measured;

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_verdict_is_durable_when_it_is_answered() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agent = agent_of(0, 0);
    driven.enrol(&machine, &agent).await;
    assert_eq!(driven.view(&agent).await.status, EffectiveStatus::Pending);
    let mut events = driven.runtime.events();
    let connected = driven.connect(1, &machine, &agent);
    let challenge = connected.challenged();
    driven
        .deliver(&connected, connected.answer(&challenge))
        .unwrap();
    let answer = connected.verdict(challenge.id);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    let stored = driven.stored(agent.shard()).await;
    let stored = stored.iter().find(|it| it.record.id == agent).unwrap();
    assert_eq!((stored.state.attestations, stored.state.passed), (1, 1));
    let view = driven.view(&agent).await;
    assert_eq!(view.status, EffectiveStatus::Trusted);
    assert_eq!(view.state, stored.state);
    let attested = |event: &Event| matches!(event, Event::Attested { .. });
    let Event::Attested { entries, .. } = event(&mut events, attested).await else {
        panic!();
    };
    assert_eq!(entries, 4);
    assert!(driven.runtime.health().is_ready());
    assert_eq!(driven.runtime.drain(PATIENCE).await, Drained::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn glances_come_in_the_order_that_was_asked_whichever_worker_has_the_agent() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let [first, attested, other] = [agent_of(1, 0), agent_of(0, 0), agent_of(1, 1)];
    for agent in [&first, &attested, &other] {
        driven.enrol(&machine, agent).await;
    }
    driven.attest(1, &machine, &attested);
    let seen = driven.view(&attested).await;
    let asked = vec![first, agent_of(0, 1), attested, agent_of(1, 2), other];
    let glances = driven.runtime.glances(asked).await.unwrap();
    let pending = Some(Glance::new(
        EffectiveStatus::Pending,
        &AgentState::default(),
    ));
    let trusted = Glance::new(EffectiveStatus::Trusted, &seen.state);
    assert_eq!(glances, [pending, None, Some(trusted), None, pending]);
    assert!(trusted.challenged_unix_ms > 0);
    assert_eq!(driven.runtime.glances(Vec::new()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_s17_without_the_store_there_is_no_verdict_and_after_a_restart_no_trust() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agent = agent_of(0, 0);
    driven.enrol(&machine, &agent).await;
    let connected = driven.connect(1, &machine, &agent);
    let challenge = connected.challenged();
    // The store goes away between the challenge and the commit.
    driven.store.clone().close().await;
    driven
        .deliver(&connected, connected.answer(&challenge))
        .unwrap();
    until(|| driven.runtime.health().store == StoreHealth::Failing).await;
    assert!(!driven.runtime.health().is_ready());
    assert_eq!(connected.messages.try_recv(), Err(TryRecvError::Empty));
    let view = driven.view(&agent).await;
    assert_eq!(
        (view.status, view.state.attestations),
        (EffectiveStatus::Pending, 0)
    );
    let Driven {
        directory,
        store,
        runtime,
    } = driven;
    let drained = runtime.drain(Duration::from_millis(50)).await;
    assert_eq!(drained, Drained::CutShort);
    assert!(!matches!(
        connected.messages.try_recv(),
        Ok(ToAgent::Verdict(..))
    ));
    drop(store);
    let driven = Driven::open(directory, settings()).await;
    let view = driven.view(&agent).await;
    assert_eq!(
        (view.status, view.state.attestations),
        (EffectiveStatus::Pending, 0)
    );
    // The old answer counts no more; a new one does.
    let again = driven.connect(2, &machine, &agent);
    let newer = again.challenged();
    assert_ne!(newer.id, challenge.id);
    driven.deliver(&again, again.answer(&challenge)).unwrap();
    let stale = again.verdict(challenge.id);
    assert_eq!(stale.code.unwrap().as_str(), "quote.stale");
    driven.deliver(&again, again.answer(&newer)).unwrap();
    assert_eq!(again.verdict(newer.id).status, EffectiveStatus::Trusted);
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loads_the_same_states() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agents = [agent_of(0, 0), agent_of(1, 0), agent_of(1, 1)];
    for (nth, agent) in agents.iter().enumerate() {
        driven.enrol(&machine, agent).await;
        let connected = driven.connect(nth as u64, &machine, agent);
        let challenge = connected.challenged();
        let mut answer = connected.answer(&challenge);
        if nth == 1 {
            // Not as the policy has it: the machine fails, twice because it is asked once more.
            let other = machine
                .clone()
                .with(|m| m.list[1] = Measured::file("/usr/bin/bash", b"x"));
            let other = Connected {
                machine: other,
                session: connected.session,
                agent: agent.clone(),
                messages: channel().1,
            };
            answer = other.answer(&challenge);
        }
        driven.deliver(&connected, answer).unwrap();
        connected.verdict(challenge.id);
    }
    let mut before = Vec::new();
    for agent in &agents {
        before.push(driven.view(agent).await);
    }
    let Driven {
        directory,
        store,
        runtime,
    } = driven;
    assert_eq!(runtime.drain(PATIENCE).await, Drained::Finished);
    store.close().await;
    let driven = Driven::open(directory, settings()).await;
    for (agent, before) in agents.iter().zip(before) {
        let after = driven.view(agent).await;
        assert_eq!(
            (after.record, after.state),
            (before.record, before.state),
            "{agent}"
        );
        assert_eq!(after.status, before.status, "{agent}");
    }
    assert_eq!(
        driven.view(&agents[0]).await.status,
        EffectiveStatus::Trusted
    );
    assert_eq!(
        driven.view(&agents[1]).await.status,
        EffectiveStatus::Untrusted
    );
    driven.runtime.drain(PATIENCE).await;
}

/// Holds its worker in `send` until the test lets go: nothing else lets a mailbox fill up.
struct Holding {
    reached: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Peer for Holding {
    fn send(&self, _: ToAgent) {
        let _ = self.reached.send(());
        let _ = self.go_on.lock().unwrap().recv();
    }
}

/// Holds the first worker; it goes on when the sender is dropped.
async fn hold(driven: &Driven, machine: &Machine) -> Sender<()> {
    let agent = agent_of(0, 20);
    driven.enrol(machine, &agent).await;
    let (reached, has_reached) = channel();
    let (go_on, waits) = channel();
    let connected = Connected {
        session: SessionId(1_000),
        agent,
        machine: machine.clone(),
        messages: channel().1,
    };
    let peer = Holding {
        reached,
        go_on: Mutex::new(waits),
    };
    driven.greet(&connected, Box::new(peer)).unwrap();
    has_reached.recv_timeout(PATIENCE).unwrap();
    go_on
}

#[tokio::test(flavor = "multi_thread")]
async fn s07_a_full_mailbox_answers_busy_and_loses_nothing() {
    let machine = Machine::valid();
    let settings = Settings {
        mailbox_messages_max: 4,
        retry_after_ms: 1_234,
        ..settings()
    };
    let driven = Driven::new(&machine, settings).await;
    let agents: Vec<_> = (0..5).map(|nth| agent_of(0, nth)).collect();
    for agent in &agents {
        driven.enrol(&machine, agent).await;
    }
    let elsewhere = agent_of(1, 0);
    driven.enrol(&machine, &elsewhere).await;
    let held = hold(&driven, &machine).await;
    let (sender, _unread) = channel();
    let taken: Vec<_> = agents[..4]
        .iter()
        .enumerate()
        .map(|(nth, agent)| driven.connect(nth as u64, &machine, agent))
        .collect();
    let refused = Connected {
        session: SessionId(77),
        agent: agents[4].clone(),
        machine: machine.clone(),
        messages: channel().1,
    };
    let busy = driven.greet(&refused, Box::new(rat_tests::driven::Wire(sender)));
    assert_eq!(busy.unwrap_err().retry_after_ms, 1_234);
    // The other worker is not concerned.
    let other = driven.connect(50, &machine, &elsewhere);
    let challenge = other.challenged();
    driven.deliver(&other, other.answer(&challenge)).unwrap();
    assert_eq!(other.verdict(challenge.id).status, EffectiveStatus::Trusted);
    drop(held);
    for connected in &taken {
        let challenge = connected.challenged();
        driven
            .deliver(connected, connected.answer(&challenge))
            .unwrap();
        assert_eq!(
            connected.verdict(challenge.id).status,
            EffectiveStatus::Trusted
        );
    }
    let late = driven.connect(78, &machine, &agents[4]);
    late.challenged();
    driven.runtime.drain(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s07_s13_who_floods_is_refused_before_others_are() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let (flooding, honest) = (agent_of(0, 0), agent_of(0, 1));
    driven.enrol(&machine, &flooding).await;
    driven.enrol(&machine, &honest).await;
    let flood = driven.connect(1, &machine, &flooding);
    let asked = flood.challenged();
    let other = driven.connect(2, &machine, &honest);
    let challenge = other.challenged();
    let held = hold(&driven, &machine).await;
    let mut wrong = flood.answer(&asked);
    wrong.challenge = ChallengeId([9; 16]);
    let sent = 10_000;
    let taken = (0..sent)
        .filter(|_| driven.deliver(&flood, wrong.clone()).is_ok())
        .count();
    assert_eq!(taken, 8);
    driven.deliver(&other, other.answer(&challenge)).unwrap();
    drop(held);
    assert_eq!(other.verdict(challenge.id).status, EffectiveStatus::Trusted);
    let view = driven.view(&flooding).await;
    assert_eq!(
        (view.status, view.state.attestations),
        (EffectiveStatus::Pending, 0)
    );
    driven.runtime.drain(PATIENCE).await;
}

struct Panicking;

impl Peer for Panicking {
    fn send(&self, _: ToAgent) {
        panic!("a peer that panics, in a test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_s14_a_dead_worker_shows_nobody_as_trusted_and_the_others_go_on() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let (lost, killer, kept) = (agent_of(0, 0), agent_of(0, 1), agent_of(1, 0));
    for agent in [&lost, &killer, &kept] {
        driven.enrol(&machine, agent).await;
    }
    let connected = driven.connect(1, &machine, &lost);
    let challenge = connected.challenged();
    driven
        .deliver(&connected, connected.answer(&challenge))
        .unwrap();
    assert_eq!(
        connected.verdict(challenge.id).status,
        EffectiveStatus::Trusted
    );
    let last = Connected {
        session: SessionId(2),
        agent: killer.clone(),
        machine: machine.clone(),
        messages: channel().1,
    };
    driven.greet(&last, Box::new(Panicking)).unwrap();
    until(|| driven.runtime.health().workers[0] == WorkerHealth::Dead).await;
    assert!(!driven.runtime.health().is_ready());
    for agent in [&lost, &killer] {
        let view = driven.runtime.view(agent.clone()).await;
        assert!(matches!(view, Err(ControlError::WorkerDead)), "{view:?}");
    }
    assert!(driven.runtime.views(lost.shard()).await.is_err());
    assert!(
        driven.runtime.status_counts().await.is_err(),
        "a part of the fleet is no answer"
    );
    assert!(
        driven
            .deliver(&connected, connected.answer(&challenge))
            .is_err()
    );
    // What is stored ends by itself.
    let stored = driven.stored(lost.shard()).await;
    let stored = stored.iter().find(|it| it.record.id == lost).unwrap();
    let newest = stored.state.verdict.as_ref().unwrap().challenged_unix_ms;
    let age = settings().shard.max_age_ms;
    assert!(stored.state.trusted_until_unix_ms <= newest + age + 1_000);
    let other = driven.connect(3, &machine, &kept);
    let challenge = other.challenged();
    driven.deliver(&other, other.answer(&challenge)).unwrap();
    assert_eq!(other.verdict(challenge.id).status, EffectiveStatus::Trusted);
    let drained = driven.runtime.drain(Duration::from_secs(60)).await;
    assert_eq!(drained, Drained::CutShort);
}

/// A machine whose list takes several pieces.
fn long() -> Machine {
    Machine::valid().with(|machine| {
        let files = (0..2_000).map(|n| {
            let name = format!("/usr/lib/x86_64-linux-gnu/package-{n:06}/libfile.so.{n}");
            Measured::file(&name, &i32::to_le_bytes(n))
        });
        machine.list.extend(files);
    })
}

const PIECE_BYTES: usize = 64 * 1024;

async fn streams(settings: Settings) {
    let machine = long();
    let driven = Driven::new(&machine, settings).await;
    let agent = agent_of(0, 0);
    driven.enrol(&machine, &agent).await;
    let connected = driven.connect(1, &machine, &agent);
    let challenge = connected.challenged();
    let (submission, bytes) = streamed(connected.answer(&challenge));
    assert!(bytes.len() > 3 * PIECE_BYTES);
    driven.deliver(&connected, submission).unwrap();
    let intake = driven.runtime.intake();
    let mut pieces = bytes.chunks(PIECE_BYTES);
    let mut asked: usize = 0;
    let answer = loop {
        match connected.next() {
            ToAgent::More(id) => {
                assert_eq!(id, challenge.id);
                asked += 1;
                let piece = pieces.next().expect("no more is asked for than there is");
                let sent = intake.log_piece(connected.session, &agent, id, piece.to_vec());
                sent.unwrap();
            }
            ToAgent::Verdict(id, answer) if id == challenge.id => break answer,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    assert_eq!(asked, bytes.len().div_ceil(PIECE_BYTES));
    // What was staged is what the commit kept.
    let mut kept = Vec::new();
    let mut reader = driven.store.log_of(&agent).await.unwrap().unwrap();
    while let Some(chunk) = reader.next().await.unwrap() {
        kept.extend(chunk);
    }
    assert!(kept == bytes);
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i29_a_long_list_is_asked_for_piece_by_piece() {
    streams(settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i29_a_long_list_is_judged_in_lanes() {
    streams(Settings {
        arith_threads: 2,
        ..settings()
    })
    .await;
}

/// Begins to send a long list, breaks it off in this way, and expects it to be abandoned.
async fn breaks_off(
    why: Abandon,
    settings: Settings,
    how: impl FnOnce(&Driven, &Connected, ChallengeId),
) {
    let machine = long();
    let driven = Driven::new(&machine, settings).await;
    let (agent, honest) = (agent_of(0, 0), agent_of(0, 1));
    driven.enrol(&machine, &agent).await;
    driven.enrol(&machine, &honest).await;
    let mut events = driven.runtime.events();
    let connected = driven.connect(1, &machine, &agent);
    let challenge = connected.challenged();
    let (submission, _) = streamed(connected.answer(&challenge));
    driven.deliver(&connected, submission).unwrap();
    for _ in 0..2 {
        assert_eq!(connected.next(), ToAgent::More(challenge.id));
    }
    how(&driven, &connected, challenge.id);
    let abandoned = |event: &Event| matches!(event, Event::Abandoned { .. });
    let expected = Event::Abandoned {
        agent: agent.clone(),
        why,
    };
    assert_eq!(event(&mut events, abandoned).await, expected);
    let view = driven.view(&agent).await;
    assert_eq!(
        (view.status, view.state.attestations),
        (EffectiveStatus::Pending, 0)
    );
    // Its place is free for others.
    let other = driven.connect(2, &machine, &honest);
    let asked = other.challenged();
    driven.deliver(&other, other.answer(&asked)).unwrap();
    assert_eq!(other.verdict(asked.id).status, EffectiveStatus::Trusted);
    driven.runtime.drain(PATIENCE).await;
}

fn one_upload() -> Settings {
    Settings {
        uploads_per_worker_max: 1,
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x04_a_piece_that_never_comes_frees_its_place() {
    let settings = Settings {
        piece_ms_max: 300,
        ..one_upload()
    };
    breaks_off(Abandon::Timeout, settings, |_, _, _| {}).await;
}

/// A list that drips in, each byte in time for its piece, and another that waits for its turn.
#[tokio::test(flavor = "multi_thread")]
async fn s07_a_list_that_drips_in_gives_its_turn_to_one_that_waits() {
    let mut settings = Settings {
        piece_ms_max: 600_000,
        turn_ms_max: 200,
        ..one_upload()
    };
    settings.shard.upload_bytes_per_second_min = 1 << 40;
    let machine = long();
    let driven = Driven::new(&machine, settings).await;
    let (slow, honest) = (agent_of(0, 0), agent_of(0, 1));
    driven.enrol(&machine, &slow).await;
    driven.enrol(&machine, &honest).await;
    let mut events = driven.runtime.events();
    let intake = driven.runtime.intake();
    let drips = driven.connect(1, &machine, &slow);
    let challenge = drips.challenged();
    let (submission, bytes) = streamed(drips.answer(&challenge));
    driven.deliver(&drips, submission).unwrap();
    for byte in &bytes[..3] {
        assert_eq!(drips.next(), ToAgent::More(challenge.id));
        let piece = vec![*byte];
        intake
            .log_piece(drips.session, &slow, challenge.id, piece)
            .unwrap();
    }
    let waits = driven.connect(2, &machine, &honest);
    let asked = waits.challenged();
    let (submission, bytes) = streamed(waits.answer(&asked));
    driven.deliver(&waits, submission).unwrap();
    let abandoned = |event: &Event| matches!(event, Event::Abandoned { .. });
    let expected = Event::Abandoned {
        agent: slow.clone(),
        why: Abandon::Timeout,
    };
    assert_eq!(event(&mut events, abandoned).await, expected);
    let mut pieces = bytes.chunks(PIECE_BYTES);
    let answer = loop {
        match waits.next() {
            ToAgent::More(id) => {
                let piece = pieces.next().unwrap().to_vec();
                intake.log_piece(waits.session, &honest, id, piece).unwrap();
            }
            ToAgent::Verdict(id, answer) if id == asked.id => break answer,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    assert_eq!(driven.view(&slow).await.state.attestations, 0);
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i01_a_connection_that_ends_within_its_list_proves_nothing() {
    breaks_off(Abandon::Incomplete, one_upload(), |driven, connected, _| {
        let intake = driven.runtime.intake();
        intake.disconnected(connected.session, &connected.agent);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_a_piece_that_was_not_asked_for_ends_its_upload_only() {
    breaks_off(
        Abandon::Incomplete,
        one_upload(),
        |driven, connected, open| {
            let intake = driven.runtime.intake();
            let oversized = vec![b'1'; PIECE_BYTES + 1];
            let (session, agent) = (connected.session, &connected.agent);
            let sent = |session, challenge| {
                let piece = oversized.clone();
                intake.log_piece(session, agent, challenge, piece).unwrap();
            };
            // For another challenge, or by another connection: nothing happens.
            sent(session, ChallengeId([1; 16]));
            sent(SessionId(99), open);
            sent(session, open);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_hello_and_a_removed_agent_are_not_served() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agent = agent_of(0, 0);
    let stranger = driven.connect(1, &machine, &agent);
    let refused = stranger.next();
    assert!(matches!(refused, ToAgent::Refused { .. }), "{refused:?}");
    driven.enrol(&machine, &agent).await;
    let connected = driven.connect(2, &machine, &agent);
    let challenge = connected.challenged();
    driven.runtime.remove(agent.clone()).await.unwrap();
    let refused = connected.next();
    assert!(matches!(refused, ToAgent::Refused { .. }), "{refused:?}");
    assert!(driven.runtime.view(agent.clone()).await.unwrap().is_none());
    driven
        .deliver(&connected, connected.answer(&challenge))
        .unwrap();
    assert!(driven.runtime.view(agent).await.unwrap().is_none());
    driven.runtime.drain(PATIENCE).await;
}
