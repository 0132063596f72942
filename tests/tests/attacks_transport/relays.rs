//! Relays: what they carry, and what becomes of those that do as they like. (Q16)

use std::sync::atomic::Ordering;

use rat_engine::evidence::{Binding, ChallengeId, Refusal, ToAgent};
use rat_transport::limits;
use rat_transport::measures;
use rat_transport::quic::client::{
    AboutAgent, AgentHello, Batch, Client, Connection, Evidence, ForAgent, Line, ListHead,
};
use rat_transport::quic::wire::Frame;
use rat_transport::quic::{Reason, RenewRefused};

use super::certificates::{Identity, SERVER_NAME, key_of};
use super::recorder::{BUSY_MS, Event, answer};
use super::world::{World, eventually, hello, list, metric, parts, refusals, rejections};

/// A relay that does as a test tells it.
struct Relay {
    key_sha256: [u8; 32],
    _client: Client,
    connection: Connection,
    line: Line,
}

impl Relay {
    async fn of(world: &World, identity: Identity) -> Self {
        let key_sha256 = key_of(&identity);
        let client = world.client_of(identity);
        let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
        let line = connection.relay_hello().await.unwrap();
        Self {
            key_sha256,
            _client: client,
            connection,
            line,
        }
    }

    async fn new(world: &World) -> Self {
        Self::of(world, world.authority.agent("relay@site")).await
    }

    async fn say(&mut self, number: u64, said: ForAgent) {
        let mut batch = Batch::default();
        batch.add(number, said).unwrap();
        self.line.sender.send(&mut batch).await.unwrap();
    }

    async fn hello(&mut self, number: u64, agent: &str) {
        self.say(number, ForAgent::Hello(agent_hello(agent))).await;
    }

    async fn hears(&mut self) -> (u64, AboutAgent) {
        self.line.receiver.next().await.unwrap()
    }

    async fn is_told(&mut self) -> (u64, ToAgent) {
        match self.hears().await {
            (number, AboutAgent::Told(message)) => (number, message),
            other => panic!("{other:?}"),
        }
    }

    /// An agent that is welcome.
    async fn brings(&mut self, number: u64, agent: &str) {
        self.hello(number, agent).await;
        let welcome = ToAgent::Welcome { next_after_ms: 5 };
        assert_eq!(self.is_told().await, (number, welcome));
    }

    /// Takes the challenge that the recorder has sent.
    async fn challenged(&mut self, number: u64) -> ChallengeId {
        match self.is_told().await {
            (of, ToAgent::Challenge(challenge)) if of == number => challenge.id,
            other => panic!("{other:?}"),
        }
    }

    async fn attests(&mut self, world: &World, number: u64, agent: &str) {
        world.recorder.challenge(agent).await;
        let id = self.challenged(number).await;
        self.say(number, evidence(id, None, None)).await;
        let verdict = ToAgent::Verdict(id, answer("taken"));
        assert_eq!(self.is_told().await, (number, verdict));
    }

    /// The frame or reason with which the server ends the connection.
    async fn is_ended_for(&mut self, expected: Reason) {
        let error = loop {
            match self.line.receiver.next().await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        match error {
            rat_transport::quic::client::ClientError::Refused { reason, .. } => {
                assert_eq!(reason, expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn agent_hello(agent: &str) -> AgentHello {
    AgentHello {
        client_key_sha256: [3; 32],
        hello: hello(agent),
    }
}

fn evidence(id: ChallengeId, boot_log: Option<Vec<u8>>, list: Option<Vec<u8>>) -> ForAgent {
    let head = list.as_ref().map(|list| ListHead {
        from_entry: 11,
        count: 12,
        format: rat_engine::ima::LogFormat::Binary,
        length: list.len() as u64,
    });
    let parts = parts();
    ForAgent::Evidence {
        evidence: Evidence {
            challenge: id,
            claimed_binding: Some([5; 32]),
            quote: parts.quote,
            signature: parts.signature,
            pcr_values: parts.pcr_values,
            reset_count: 1,
            restart_count: 2,
            ima: head,
            boot_log_bytes: boot_log.as_ref().map(|log| log.len() as u64),
        },
        boot_log,
        list: list.filter(|list| list.len() as u64 <= limits::WHOLE_LIST_BYTES_MAX),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_a_relay_carries_the_evidence_of_many_agents_bound_to_its_key() {
    let world = World::new();
    let mut relay = Relay::new(&world).await;
    for number in 1..=20 {
        relay.brings(number, &format!("agent-{number}")).await;
    }
    assert_eq!(metric(measures::RELAYED_AGENTS, None), 20.0);
    assert_eq!(metric(measures::RELAYS, None), 1.0);
    for number in 1..=20 {
        relay
            .attests(&world, number, &format!("agent-{number}"))
            .await;
    }
    let submission = world.recorder.evidence("agent-7", 0).await;
    assert_eq!(submission.binding, Binding::Relay(relay.key_sha256));
    assert_eq!(submission.claimed_binding, Some([5; 32]));
    let events = world.recorder.events("agent-7");
    let Event::Connected(_, heard) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(heard.relay_key_sha256, Some(relay.key_sha256));
    assert_eq!(heard.client_key_sha256, [3; 32]);
    relay.say(7, ForAgent::Left).await;
    world.recorder.gone("agent-7").await;
    world.serves_others().await;
    // What dies with the relay is gone in the normal way.
    relay.connection.close();
    for number in 1..=20 {
        world.recorder.gone(&format!("agent-{number}")).await;
    }
    eventually("no relay", || metric(measures::RELAYS, None) == 0.0).await;
    assert_eq!(metric(measures::RELAYED_AGENTS, None), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_logs_go_through_a_relay_piece_by_piece_when_they_are_asked_for() {
    let world = World::new();
    let mut relay = Relay::new(&world).await;
    relay.brings(1, "long").await;
    world.recorder.challenge("long").await;
    let id = relay.challenged(1).await;
    let (boot_log, long) = (list(100_000), list(150_000));
    relay.say(1, ForAgent::Arriving(id, 100_000)).await;
    let said = evidence(id, Some(boot_log.clone()), Some(long.clone()));
    relay.say(1, said).await;
    for piece in long.chunks(limits::PIECE_BYTES_MAX) {
        assert_eq!(relay.is_told().await, (1, ToAgent::More(id)));
        relay.say(1, ForAgent::Piece(id, piece.to_vec())).await;
    }
    let verdict = ToAgent::Verdict(id, answer("taken"));
    assert_eq!(relay.is_told().await, (1, verdict));
    assert_eq!(world.recorder.pieces("long").concat(), long);
    let submission = world.recorder.evidence("long", 0).await;
    assert_eq!(submission.boot_log, Some(boot_log));
    assert_eq!(metric(measures::BUFFERED_BYTES, None), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_what_nobody_asked_for_is_dropped() {
    let world = World::new();
    let mut relay = Relay::new(&world).await;
    relay.brings(1, "first").await;
    relay.brings(2, "second").await;
    world.recorder.challenge("first").await;
    let id = relay.challenged(1).await;
    // For nobody, by another agent, about another challenge, announced twice, a piece too early.
    relay.say(9, evidence(id, None, None)).await;
    relay.say(2, evidence(id, Some(list(70_000)), None)).await;
    relay
        .say(1, evidence(ChallengeId([0xee; 16]), None, None))
        .await;
    relay.say(1, ForAgent::Arriving(id, 1)).await;
    relay.say(1, ForAgent::Arriving(id, 1)).await;
    relay.say(1, ForAgent::Piece(id, list(10))).await;
    relay.say(9, ForAgent::Renew(vec![1])).await;
    relay.say(9, ForAgent::Left).await;
    eventually("six are counted", || {
        metric(measures::RELAY_UNASKED, None) == 6.0
    })
    .await;
    // The true answer still counts, once.
    relay.say(1, evidence(id, None, None)).await;
    let verdict = ToAgent::Verdict(id, answer("taken"));
    assert_eq!(relay.is_told().await, (1, verdict));
    for _ in 0..100 {
        relay.say(1, evidence(id, None, None)).await;
    }
    relay.attests(&world, 2, "second").await;
    let evidence = |event: &&Event| matches!(event, Event::Evidence(..));
    let events = world.recorder.events("first");
    assert_eq!(events.iter().filter(evidence).count(), 1);
    assert_eq!(metric(measures::RELAY_UNASKED, None), 106.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_an_agent_is_no_relay_and_a_relay_no_agent() {
    let world = World::new();
    let agent = world.raw("agent").await;
    let (mut send, _receive) = agent.connection.open_bi().await.unwrap();
    let frame = Frame::RelayHello.encode().unwrap();
    send.write_all(&frame).await.unwrap();
    agent.is_closed_for(Reason::Malformed).await;
    let relay = world.raw("relay@site").await;
    let (mut send, _receive) = relay.connection.open_bi().await.unwrap();
    let frame = Frame::Hello(hello("relay@site".trim_start_matches("relay@")));
    send.write_all(&frame.encode().unwrap()).await.unwrap();
    relay.is_closed_for(Reason::Malformed).await;
    assert!(world.recorder.events("site").is_empty());
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_one_number_for_two_agents_ends_the_line() {
    let world = World::new();
    let mut relay = Relay::new(&world).await;
    relay.brings(1, "first").await;
    relay.hello(1, "second").await;
    relay.is_ended_for(Reason::Malformed).await;
    world.recorder.gone("first").await;
    assert!(world.recorder.events("second").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_x03_junk_on_a_line_ends_it() {
    let world = World::new();
    let whole = |frame: Frame| {
        let mut bytes = 1_u64.to_le_bytes().to_vec();
        bytes.extend(frame.encode().unwrap());
        bytes
    };
    let mut altered = whole(Frame::Left);
    altered[20] ^= 0xff;
    let verdict = Frame::Verdict(ChallengeId([1; 16]), answer("forged"));
    for (what, bytes) in [
        ("no magic", vec![0xab; 64]),
        ("another archive", altered),
        ("what servers say", whole(verdict)),
        (
            "a Hello without its key",
            whole(Frame::Hello(hello("bare"))),
        ),
        ("half of a parcel", whole(Frame::Left)[..15].to_vec()),
    ] {
        let raw = world.raw("relay@site").await;
        let (mut send, mut receive) = raw.connection.open_bi().await.unwrap();
        let frame = Frame::RelayHello.encode().unwrap();
        send.write_all(&frame).await.unwrap();
        let mut welcome = [0; 12];
        receive.read_exact(&mut welcome).await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        let (reason, _) = raw.closed().await;
        assert_eq!(reason, Reason::Malformed, "{what}");
    }
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_s07_a_relay_has_so_many_agents_and_hellos() {
    let world = World::limited(|limits| limits.relay_agents_max = 2);
    let mut relay = Relay::new(&world).await;
    assert_eq!(relay.line.welcome.agents_max, 2);
    relay.brings(1, "first").await;
    relay.brings(2, "second").await;
    relay.hello(3, "third").await;
    let (number, refused) = relay.is_told().await;
    let is_busy = matches!(refused, ToAgent::Refused { code: Refusal::Busy, retry_after_ms }
        if retry_after_ms >= limits::BUSY_RETRY_MS);
    assert!(number == 3 && is_busy, "{refused:?}");
    assert_eq!(rejections("RELAY_AGENTS_MAX"), 1.0);
    relay.say(2, ForAgent::Left).await;
    relay.brings(3, "third").await;

    let world = World::limited(|limits| limits.relay_hellos_per_second_max = 0);
    let mut relay = Relay::new(&world).await;
    relay.hello(1, "herd").await;
    assert!(matches!(relay.is_told().await.1, ToAgent::Refused { .. }));
    assert_eq!(rejections("RELAY_HELLOS_PER_SECOND_MAX"), 1.0);
    assert!(world.recorder.events("herd").is_empty());
    // Nobody else waits for that.
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_s07_a_full_shard_sends_one_agent_away_and_not_its_relay() {
    let world = World::new();
    let mut relay = Relay::new(&world).await;
    world
        .recorder
        .busy_for_connections
        .store(true, Ordering::SeqCst);
    relay.hello(1, "first").await;
    assert!(matches!(
        relay.is_told().await,
        (1, ToAgent::Refused { code: Refusal::Busy, retry_after_ms }) if retry_after_ms >= BUSY_MS
    ));
    world
        .recorder
        .busy_for_connections
        .store(false, Ordering::SeqCst);
    relay.brings(1, "first").await;
    relay.brings(2, "second").await;
    world.recorder.challenge("first").await;
    let id = relay.challenged(1).await;
    world
        .recorder
        .busy_for_evidence
        .store(true, Ordering::SeqCst);
    relay.say(1, evidence(id, None, None)).await;
    assert!(matches!(
        relay.is_told().await,
        (
            1,
            ToAgent::Refused {
                code: Refusal::Busy,
                ..
            }
        )
    ));
    world.recorder.gone("first").await;
    world
        .recorder
        .busy_for_evidence
        .store(false, Ordering::SeqCst);
    relay.attests(&world, 2, "second").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_a_relay_that_is_taken_back_or_started_again_loses_its_line() {
    let world = World::new();
    let identity = world.authority.agent("relay@site");
    let mut first = Relay::of(&world, identity.clone()).await;
    first.brings(1, "agent").await;
    let mut second = Relay::of(&world, identity).await;
    first.is_ended_for(Refusal::Superseded.into()).await;
    world.recorder.gone("agent").await;
    second.brings(1, "agent").await;
    second.attests(&world, 1, "agent").await;
    world.server().end_relay(&[1; 32]);
    second.attests(&world, 1, "agent").await;
    world.server().end_relay(&second.key_sha256);
    second.is_ended_for(Reason::CertificateUnusable).await;
    world.recorder.gone("agent").await;
    assert_eq!(refusals(Reason::CertificateUnusable), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_certificates_are_renewed_for_agents_that_are_welcome() {
    let world = World::new();
    *world.renewal.lock().unwrap() = Ok(vec![b"leaf".to_vec()]);
    let mut relay = Relay::new(&world).await;
    relay.brings(1, "renews").await;
    relay.say(1, ForAgent::Renew(b"request".to_vec())).await;
    let (1, AboutAgent::Renewed(Ok(chain))) = relay.hears().await else {
        panic!("not renewed")
    };
    assert_eq!(chain, [b"leaf".to_vec()]);
    // The relay's own: this server's CA has none for it.
    let mut batch = Batch::default();
    batch.add_own_renewal(b"request".to_vec()).unwrap();
    relay.line.sender.send(&mut batch).await.unwrap();
    let (0, AboutAgent::Renewed(Err(refused))) = relay.hears().await else {
        panic!("renewed")
    };
    assert_eq!(refused.reason, Reason::Renew(RenewRefused::Unavailable));
    // An agent that its shard has not welcomed is nobody's to speak for.
    world.recorder.silent.store(true, Ordering::SeqCst);
    relay.hello(2, "claimed").await;
    world.recorder.session("claimed").await;
    relay.say(2, ForAgent::Renew(b"request".to_vec())).await;
    eventually("dropped", || metric(measures::RELAY_UNASKED, None) == 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_x01_logs_over_the_limits_end_the_line_before_they_are_read() {
    let world = World::limited(|limits| limits.boot_log_bytes_max = 1000);
    let mut relay = Relay::new(&world).await;
    assert_eq!(relay.line.welcome.limits.boot_log_bytes_max, 1000);
    relay.brings(1, "long").await;
    world.recorder.challenge("long").await;
    let id = relay.challenged(1).await;
    relay.say(1, evidence(id, Some(list(1001)), None)).await;
    relay.is_ended_for(Reason::Limit).await;
    world.recorder.gone("long").await;
    assert_eq!(metric(measures::BUFFERED_BYTES, None), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q16_a_server_that_stops_lets_a_relays_agents_finish() {
    let mut world = World::new();
    let mut relay = Relay::new(&world).await;
    relay.brings(1, "last").await;
    world.recorder.challenge("last").await;
    let id = relay.challenged(1).await;
    let server = world.server.take().unwrap();
    let stopping = tokio::spawn(server.shutdown(std::time::Duration::from_secs(30)));
    relay.say(1, evidence(id, None, None)).await;
    let verdict = ToAgent::Verdict(id, answer("taken"));
    assert_eq!(relay.is_told().await, (1, verdict));
    let session = world.recorder.session("last").await;
    world.recorder.refuse(session, Refusal::Draining, 7);
    assert!(matches!(
        relay.is_told().await,
        (
            1,
            ToAgent::Refused {
                code: Refusal::Draining,
                ..
            }
        )
    ));
    relay.is_ended_for(Refusal::Draining.into()).await;
    stopping.await.unwrap();
    world.recorder.gone("last").await;
}
