//! X04: peers that are slow, that stop in the middle, or that do not read.

use std::sync::atomic::Ordering;

use rat_engine::evidence::{ChallengeId, Refusal, ToAgent};
use rat_transport::limits;
use rat_transport::measures;
use rat_transport::quic::Reason;
use rat_transport::quic::client::ClientError;
use rat_transport::quic::wire::{Evidence, Frame, ListHead, PREAMBLE_BYTES};

use super::recorder::{Event, answer};
use super::world::{Raw, World, list, metric, parts, refusals, rejections, varint, with_list};

fn evidence(challenge: ChallengeId, list: Option<u64>, boot_log_bytes: Option<u64>) -> Vec<u8> {
    let parts = parts();
    Frame::Evidence(Evidence {
        challenge,
        claimed_binding: None,
        quote: parts.quote,
        signature: parts.signature,
        pcr_values: parts.pcr_values,
        reset_count: 0,
        restart_count: 0,
        ima: list.map(|length| ListHead {
            from_entry: 0,
            count: 1,
            format: rat_engine::ima::LogFormat::Ascii,
            length,
        }),
        boot_log_bytes,
    })
    .encode()
    .unwrap()
}

/// Takes up the next challenge without answering it.
async fn open(raw: &Raw) -> (quinn::SendStream, quinn::RecvStream, Frame) {
    let (send, mut receive) = raw.connection.accept_bi().await.unwrap();
    let mut bytes = vec![0; PREAMBLE_BYTES];
    receive.read_exact(&mut bytes).await.unwrap();
    let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    bytes.resize(PREAMBLE_BYTES + length as usize, 0);
    receive
        .read_exact(&mut bytes[PREAMBLE_BYTES..])
        .await
        .unwrap();
    let frame = Frame::decode(&bytes).unwrap();
    (send, receive, frame)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_an_upload_that_stops_is_cut_and_leaves_nothing_behind() {
    let world = World::limited(|limits| {
        limits.upload_grace_ms = 200;
        limits.upload_bytes_per_second_min = 1 << 20;
    });
    for (agent, list, boot_log) in [
        ("boot-log", None, Some(1_000_000)),
        ("whole-list", Some(60_000), None),
        ("never-finished", None, None),
    ] {
        let raw = world.raw(agent).await;
        raw.welcomed(agent).await;
        let challenge = world.recorder.challenge(agent).await;
        let (mut send, _receive, _) = open(&raw).await;
        send.write_all(&evidence(challenge.id, list, boot_log))
            .await
            .unwrap();
        if list.or(boot_log).is_some() {
            send.write_all(&[0; 1000]).await.unwrap();
        }
        world.serves_others().await;
        raw.is_closed_for(Reason::TooSlow).await;
        world.recorder.gone(agent).await;
        let events = world.recorder.events(agent);
        assert!(
            !events
                .iter()
                .any(|event| matches!(event, Event::Evidence(..))),
            "{agent}"
        );
    }
    assert_eq!(refusals(Reason::TooSlow), 3.0);
    assert_eq!(rejections("UPLOAD_BYTES_PER_SECOND_MIN"), 3.0);
    assert_eq!(metric(measures::BUFFERED_BYTES, None), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_a_list_that_drips_is_cut_between_pieces() {
    let world = World::limited(|limits| limits.upload_grace_ms = 200);
    let raw = world.raw("drips").await;
    raw.welcomed("drips").await;
    let challenge = world.recorder.challenge("drips").await;
    let (mut send, _receive, _) = open(&raw).await;
    send.write_all(&evidence(challenge.id, Some(1_000_000), None))
        .await
        .unwrap();
    send.write_all(&vec![0; limits::PIECE_BYTES_MAX])
        .await
        .unwrap();
    // A byte now and then, for as long as the server takes them.
    let dripping = tokio::spawn(async move {
        while send.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    raw.is_closed_for(Reason::TooSlow).await;
    world.recorder.gone("drips").await;
    assert_eq!(world.recorder.pieces("drips").len(), 1);
    dripping.await.unwrap();
    assert_eq!(rejections("UPLOAD_BYTES_PER_SECOND_MIN"), 1.0);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_time_in_which_the_shard_asks_for_nothing_is_not_the_agents_fault() {
    let world = World::limited(|limits| limits.upload_grace_ms = 100);
    let agent = world.agent("patient").await;
    let session = world.recorder.session("patient").await;
    world.recorder.hold_more.store(true, Ordering::SeqCst);
    let challenge = world.recorder.challenge("patient").await;
    let incoming = agent.connection.next_challenge().await.unwrap();
    let (verdict, ()) = tokio::join!(incoming.answer(with_list(list(100_000))), async {
        world.recorder.evidence("patient", 0).await;
        // Far longer than a piece may take.
        tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
        world.recorder.hold_more.store(false, Ordering::SeqCst);
        world.recorder.more(session, challenge.id);
    });
    assert_eq!(verdict.unwrap(), answer("taken"));
    assert_eq!(rejections("UPLOAD_BYTES_PER_SECOND_MIN"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_evidence_after_its_deadline_costs_the_challenge_and_not_the_connection() {
    let world = World::new();
    let agent = world.agent("late").await;
    world.recorder.challenge_within("late", 1).await;
    let incoming = agent.connection.next_challenge().await.unwrap();
    super::world::eventually("the deadline", || refusals(Refusal::Timeout.into()) > 0.0).await;
    let error = incoming.answer(parts()).await.unwrap_err();
    let ClientError::Refused { reason, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(reason, Refusal::Timeout.into());
    let events = world.recorder.events("late");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(agent.attest(&world.recorder, parts()).await.detail, "taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_logs_of_all_connections_share_one_budget_of_memory() {
    let world = World::limited(|limits| {
        limits.buffered_bytes_max = 128 * 1024;
        limits.upload_grace_ms = 2_000;
    });
    // Holds the whole budget: two pieces of a boot log whose third never comes.
    let hoarder = world.raw("hoards").await;
    hoarder.welcomed("hoards").await;
    let challenge = world.recorder.challenge("hoards").await;
    let (mut send, _receive, _) = open(&hoarder).await;
    send.write_all(&evidence(challenge.id, None, Some(300_000)))
        .await
        .unwrap();
    send.write_all(&vec![0; 2 * limits::PIECE_BYTES_MAX])
        .await
        .unwrap();
    let full = || metric(measures::BUFFERED_BYTES, None) >= 131_072.0;
    super::world::eventually("the budget is held", full).await;
    // Evidence without logs needs none of it.
    world.serves_others().await;
    let (reason, _) = hoarder.closed().await;
    assert_eq!(reason, Refusal::Busy.into());
    world.recorder.gone("hoards").await;
    assert_eq!(rejections("BUFFERED_BYTES_MAX"), 1.0);
    assert_eq!(metric(measures::BUFFERED_BYTES, None), 0.0);
    let agent = world.agent("fits").await;
    let verdict = agent.attest(&world.recorder, with_list(list(65_536))).await;
    assert_eq!(verdict.detail, "taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_a_peer_that_takes_no_streams_is_cut_when_its_outbox_is_full() {
    let world = World::new();
    let identity = world.authority.agent("deaf");
    let raw = world
        .raw_with(Some(identity), |_, transport| {
            transport.max_concurrent_bidi_streams(varint(0));
        })
        .await;
    raw.welcomed("deaf").await;
    let session = world.recorder.session("deaf").await;
    let challenge = world.recorder.challenge("deaf").await;
    world.serves_others().await;
    // The connection's task is writing the challenge: nothing else leaves the outbox.
    for _ in 0..=limits::OUTBOX_MESSAGES_MAX {
        world.recorder.send(session, ToAgent::More(challenge.id));
    }
    raw.is_closed_for(Reason::NotReading).await;
    world.recorder.gone("deaf").await;
    assert_eq!(rejections("OUTBOX_MESSAGES_MAX"), 1.0);
    assert_eq!(refusals(Reason::NotReading), 1.0);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_a_peer_that_takes_no_streams_is_cut_after_a_while_too() {
    let world = World::new();
    let identity = world.authority.agent("deaf");
    let raw = world
        .raw_with(Some(identity), |_, transport| {
            transport.max_concurrent_bidi_streams(varint(0));
        })
        .await;
    raw.welcomed("deaf").await;
    world.recorder.challenge("deaf").await;
    raw.is_closed_for(Reason::NotReading).await;
    world.recorder.gone("deaf").await;
    assert_eq!(rejections("WRITE_MS_MAX"), 1.0);
    world.serves_others().await;
}
