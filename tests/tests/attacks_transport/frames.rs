//! X03: frames that are none, on the stream of the Hello and on that of evidence.

use rat_engine::evidence::{Answer, ChallengeId, Refusal};
use rat_engine::shard::EffectiveStatus;
use rat_transport::limits;
use rat_transport::quic::Reason;
use rat_transport::quic::wire::{Evidence, Frame, ListHead, PREAMBLE_BYTES, Versions};

use super::recorder::Event;
use super::world::{Raw, World, hello, parts, refusals, rejections};

/// Sends these bytes as a Hello, and proves that they are refused for this reason alone.
async fn hello_is_refused(world: &World, what: &str, bytes: &[u8], expected: Reason) {
    let before = refusals(expected);
    let raw = world.raw("hostile").await;
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    let _ = send.finish();
    raw.is_closed_for(expected).await;
    assert_eq!(world.recorder.events("hostile"), [], "{what}");
    assert_eq!(refusals(expected), before + 1.0, "{what}");
    world.serves_others().await;
}

fn hello_bytes() -> Vec<u8> {
    Frame::Hello(hello("hostile")).encode().unwrap()
}

fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x03_hellos_that_are_none_are_refused_by_name() {
    let world = World::new();
    let good = hello_bytes();
    let cut = |end: usize| good[..end].to_vec();
    let refused = Frame::Renew(vec![1]).encode().unwrap();
    let junk = [
        &good[..PREAMBLE_BYTES],
        &vec![0xff; good.len() - PREAMBLE_BYTES],
    ]
    .concat();
    for (what, bytes, reason) in [
        ("nothing", Vec::new(), Reason::Malformed),
        ("a cut preamble", cut(5), Reason::Malformed),
        ("a cut body", cut(good.len() - 1), Reason::Malformed),
        (
            "another protocol",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            Reason::Malformed,
        ),
        (
            "an unknown type",
            with(good.clone(), 6, &[99, 0]),
            Reason::Malformed,
        ),
        (
            "a type that is kept for relays",
            with(good.clone(), 6, &[0x48, 0]),
            Reason::RelayReserved,
        ),
        ("another frame", refused, Reason::Malformed),
        ("a bad archive", junk, Reason::Malformed),
        (
            "trailing bytes",
            [good.clone(), vec![0]].concat(),
            Reason::Malformed,
        ),
        (
            "a huge length",
            with(good.clone(), 8, &[0xff; 4]),
            Reason::Limit,
        ),
    ] {
        hello_is_refused(&world, what, &bytes, reason).await;
    }
    assert_eq!(rejections("FRAME_BYTES_MAX"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_nobody_speaks_is_answered_with_those_that_are() {
    let world = World::new();
    let raw = world.raw("newer").await;
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    let frame = with(Frame::Hello(hello("newer")).encode().unwrap(), 4, &[7, 9]);
    send.write_all(&frame).await.unwrap();
    let (reason, notice) = raw.closed().await;
    assert_eq!(reason, Reason::Version);
    assert_eq!(notice, Frame::Versions(Versions::SPOKEN));
    assert_eq!(refusals(Reason::Version), 1.0);
    // One that also speaks ours is welcome.
    let raw = world.raw("bilingual").await;
    let (mut send, mut receive) = raw.connection.open_bi().await.unwrap();
    let frame = with(
        Frame::Hello(hello("bilingual")).encode().unwrap(),
        4,
        &[1, 2],
    );
    send.write_all(&frame).await.unwrap();
    send.finish().unwrap();
    let welcome = receive.read_to_end(1 << 17).await.unwrap();
    assert!(matches!(Frame::decode(&welcome), Ok(Frame::Welcome(_))));
    world.serves_others().await;
}

/// A welcome agent whose next challenge is open, the challenge, and the stream to answer on.
async fn challenged(world: &World, agent: &str) -> (Raw, ChallengeId, quinn::SendStream) {
    let raw = world.raw(agent).await;
    raw.welcomed(agent).await;
    let challenge = world.recorder.challenge(agent).await;
    let (send, mut receive) = raw.connection.accept_bi().await.unwrap();
    let mut frame = vec![0; PREAMBLE_BYTES];
    receive.read_exact(&mut frame).await.unwrap();
    (raw, challenge.id, send)
}

fn evidence(challenge: ChallengeId) -> Evidence {
    let parts = parts();
    Evidence {
        challenge,
        claimed_binding: None,
        quote: parts.quote,
        signature: parts.signature,
        pcr_values: parts.pcr_values,
        reset_count: 0,
        restart_count: 0,
        ima: None,
        boot_log_bytes: None,
    }
}

fn listing(challenge: ChallengeId, length: u64) -> Evidence {
    Evidence {
        ima: Some(ListHead {
            from_entry: 0,
            count: 1,
            format: rat_engine::ima::LogFormat::Ascii,
            length,
        }),
        ..evidence(challenge)
    }
}

/// Sends these bytes as evidence, and proves that they are refused for this reason alone and that
/// no evidence was taken.
async fn evidence_is_refused(
    world: &World,
    what: &str,
    bytes: impl Fn(ChallengeId) -> Vec<u8>,
    expected: Reason,
) {
    let before = refusals(expected);
    let (raw, challenge, mut send) = challenged(world, "hostile").await;
    let _ = send.write_all(&bytes(challenge)).await;
    let _ = send.finish();
    raw.is_closed_for(expected).await;
    world.recorder.gone("hostile").await;
    let events = world.recorder.events("hostile");
    let taken = events
        .iter()
        .any(|event| matches!(event, Event::Evidence(..)));
    assert!(!taken, "{what}: {events:?}");
    assert_eq!(refusals(expected), before + 1.0, "{what}");
    world.serves_others().await;
}

fn encoded(evidence: Evidence) -> Vec<u8> {
    Frame::Evidence(evidence).encode().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x03_evidence_that_is_none_is_refused_and_never_handed_over() {
    let world = World::new();
    type Bytes = fn(ChallengeId) -> Vec<u8>;
    let cases: [(&str, Bytes, Reason); 10] = [
        ("nothing", |_| Vec::new(), Reason::Malformed),
        (
            "a cut frame",
            |id| encoded(evidence(id))[..80].to_vec(),
            Reason::Malformed,
        ),
        ("another frame", |_| hello_bytes(), Reason::Malformed),
        (
            "a verdict",
            |id| {
                let answer = Answer {
                    status: EffectiveStatus::Trusted,
                    code: None,
                    detail: String::new(),
                    next_after_ms: 0,
                };
                Frame::Verdict(id, answer).encode().unwrap()
            },
            Reason::Malformed,
        ),
        (
            "another challenge",
            |_| encoded(evidence(ChallengeId([0xee; 16]))),
            Reason::Session(Refusal::Protocol),
        ),
        (
            "bytes after evidence",
            |id| [encoded(evidence(id)), vec![0]].concat(),
            Reason::Malformed,
        ),
        (
            "a list that ends early",
            |id| [encoded(listing(id, 100)), vec![0; 99]].concat(),
            Reason::Malformed,
        ),
        (
            "a list with more than announced",
            |id| [encoded(listing(id, 100)), vec![0; 101]].concat(),
            Reason::Malformed,
        ),
        (
            "a list over the limit",
            |id| encoded(listing(id, limits::LIST_BYTES_MAX + 1)),
            Reason::Limit,
        ),
        (
            "a boot log over the limit",
            |id| {
                let bytes = limits::BOOT_LOG_BYTES_MAX as u64 + 1;
                encoded(Evidence {
                    boot_log_bytes: Some(bytes),
                    ..evidence(id)
                })
            },
            Reason::Limit,
        ),
    ];
    for (what, bytes, reason) in cases {
        evidence_is_refused(&world, what, bytes, reason).await;
    }
    assert_eq!(rejections("LIST_BYTES_MAX"), 1.0);
    assert_eq!(rejections("BOOT_LOG_BYTES_MAX"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x03_a_long_list_that_ends_early_or_late_ends_its_connection() {
    let world = World::new();
    let length = limits::WHOLE_LIST_BYTES_MAX + 10;
    for (agent, sent) in [("short", length - 1), ("longer", length + 1)] {
        let (raw, challenge, mut send) = challenged(&world, agent).await;
        send.write_all(&encoded(listing(challenge, length)))
            .await
            .unwrap();
        let _ = send
            .write_all(&vec![0; usize::try_from(sent).unwrap()])
            .await;
        let _ = send.finish();
        raw.is_closed_for(Reason::Malformed).await;
        // The evidence was taken; that its list never came whole is told by the disconnect.
        world.recorder.gone(agent).await;
        assert_eq!(world.recorder.pieces(agent).len(), 1);
        world.serves_others().await;
    }
    assert_eq!(refusals(Reason::Malformed), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_have_no_place_on_an_agents_stream_end_the_connection() {
    let world = World::new();
    for (agent, frame, reason) in [
        ("again", hello_bytes(), Reason::Malformed),
        (
            "server",
            Frame::Versions(Versions::SPOKEN).encode().unwrap(),
            Reason::Malformed,
        ),
        (
            "relay",
            with(hello_bytes(), 6, &[0x4f, 0]),
            Reason::RelayReserved,
        ),
    ] {
        let raw = world.raw(agent).await;
        raw.welcomed(agent).await;
        let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
        send.write_all(&frame).await.unwrap();
        let _ = send.finish();
        raw.is_closed_for(reason).await;
        world.recorder.gone(agent).await;
        world.serves_others().await;
    }
    assert_eq!(refusals(Reason::RelayReserved), 1.0);
}
