//! What agents and server do when all is well, and how refusals of the shards arrive.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Binding, ChallengeId, Refusal, ToAgent};
use rat_transport::limits;
use rat_transport::measures;
use rat_transport::quic::client::{ClientError, EvidenceParts, ListParts, ListSource};
use rat_transport::quic::{Advice, Reason};

use super::certificates::{Authority, SERVER_NAME, key_of};
use super::recorder::{BUSY_MS, Event, answer};
use super::world::{World, hello, list, metric, parts, refusals, rejections, with_list};

fn refused(error: &ClientError) -> (Reason, u32) {
    match error {
        ClientError::Refused {
            reason,
            retry_after_ms,
        } => (*reason, *retry_after_ms),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_stays_and_answers_when_it_is_challenged() {
    let world = World::new();
    let identity = world.authority.agent("stays");
    let key_sha256 = key_of(&identity);
    let client = world.client_of(identity);
    let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
    let welcome = connection.hello(hello("stays")).await.unwrap();
    assert_eq!(welcome.next_after_ms, 5);
    assert_eq!(welcome.ca_set, [world.authority.der()]);
    for nth in 0..3 {
        let sent = world.recorder.challenge("stays").await;
        let incoming = connection.next_challenge().await.unwrap();
        assert_eq!(incoming.challenge, sent);
        let binding = incoming.binding;
        let verdict = incoming.answer(parts()).await.unwrap();
        assert_eq!(verdict, answer("taken"));
        let submission = world.recorder.evidence("stays", nth).await;
        assert_eq!(submission.challenge, sent.id);
        assert_eq!(submission.binding, Binding::Channel(binding));
        assert_eq!(submission.claimed_binding, Some(binding));
        assert_eq!(submission.quote, parts().quote);
        assert_eq!(submission.signature, parts().signature);
        assert_eq!(submission.pcr_values, parts().pcr_values);
        assert_eq!((submission.boot_log, submission.ima), (None, None));
    }
    let events = world.recorder.events("stays");
    let Event::Connected(_, heard) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(heard.client_key_sha256, key_sha256);
    assert_eq!(heard.entry_count, 3);
    assert_eq!(heard.relay_key_sha256, None);
    assert_eq!(metric(measures::VERDICTS, None), 3.0);
    connection.close();
    client.finish().await;
    world.recorder.gone("stays").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_connects_answers_and_leaves() {
    let world = World::new();
    let client = world.client("leaves");
    let mut sessions = Vec::new();
    for nth in 0..2 {
        let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
        connection.hello(hello("leaves")).await.unwrap();
        sessions.push(world.recorder.session("leaves").await);
        world.recorder.challenge("leaves").await;
        let incoming = connection.next_challenge().await.unwrap();
        let verdict = incoming.answer(parts()).await.unwrap();
        assert_eq!(verdict.next_after_ms, 777);
        connection.close();
        client.finish().await;
        world.recorder.gone("leaves").await;
        world.recorder.evidence("leaves", nth).await;
    }
    assert_ne!(sessions[0], sessions[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q13_a_binding_belongs_to_one_connection_and_one_challenge() {
    let world = World::new();
    let mut bindings = Vec::new();
    for agent in ["first", "second"] {
        let agent = world.agent(agent).await;
        let session = world.recorder.session(&agent.id).await;
        for id in [1, 2] {
            let mut challenge = world.recorder.challenge(&agent.id).await;
            // The same ids on both connections.
            agent.connection.next_challenge().await.unwrap();
            challenge.id = ChallengeId([id; 16]);
            world.recorder.send(session, ToAgent::Challenge(challenge));
            let incoming = agent.connection.next_challenge().await.unwrap();
            assert_eq!(incoming.challenge.id, challenge.id);
            bindings.push(incoming.binding);
            incoming.answer(parts()).await.unwrap();
            let submission = world
                .recorder
                .evidence(&agent.id, usize::from(id) - 1)
                .await;
            assert_eq!(
                submission.binding,
                Binding::Channel(*bindings.last().unwrap())
            );
        }
    }
    bindings.sort_unstable();
    bindings.dedup();
    assert_eq!(bindings.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lists_and_boot_logs_come_with_their_evidence() {
    let world = World::new();
    let agent = world.agent("whole").await;
    let longest = usize::try_from(limits::WHOLE_LIST_BYTES_MAX).unwrap();
    let boot_log = list(3 * limits::PIECE_BYTES_MAX + 17);
    for (nth, length) in [0, 1, longest].into_iter().enumerate() {
        let parts = EvidenceParts {
            boot_log: Some(boot_log.clone()),
            ..with_list(list(length))
        };
        agent.attest(&world.recorder, parts).await;
        let submission = world.recorder.evidence("whole", nth).await;
        assert_eq!(submission.boot_log.as_ref(), Some(&boot_log));
        let upload = submission.ima.unwrap();
        assert_eq!(upload.from_entry, 11);
        assert_eq!(upload.length, length as u64);
        assert_eq!(upload.whole, Some(list(length)));
    }
    assert_eq!(world.recorder.pieces("whole").len(), 0);
    assert_eq!(metric(measures::BUFFERED_BYTES, None), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_ten_megabytes_is_taken_piece_by_piece_as_the_shard_asks() {
    let world = World::new();
    let agent = world.agent("long").await;
    let session = world.recorder.session("long").await;
    world.recorder.hold_more.store(true, Ordering::SeqCst);
    let challenge = world.recorder.challenge("long").await;
    let log = list(10_000_001);
    let bytes = log.clone();
    let answering = tokio::spawn(async move {
        let incoming = agent.connection.next_challenge().await.unwrap();
        let parts = EvidenceParts {
            ima: Some(ListParts {
                from_entry: 0,
                count: 1,
                format: rat_engine::ima::LogFormat::Ascii,
                length: bytes.len() as u64,
                source: ListSource::Reader(Box::new(std::io::Cursor::new(bytes))),
            }),
            ..parts()
        };
        let answer = incoming.answer(parts).await.unwrap();
        (agent, answer)
    });
    let submission = world.recorder.evidence("long", 0).await;
    assert_eq!(submission.ima.unwrap().whole, None);
    // Not a byte before the shard asks: the rest waits at the agent, behind the flow control.
    world.serves_others().await;
    assert_eq!(world.recorder.pieces("long").len(), 0);
    assert!(!answering.is_finished());
    let mut most_buffered: f64 = 0.0;
    let pieces = log.len().div_ceil(limits::PIECE_BYTES_MAX);
    for nth in 0..pieces {
        world.recorder.more(session, challenge.id);
        let piece = |events: &[Event]| {
            let pieces = events
                .iter()
                .filter(|event| matches!(event, Event::Piece(..)));
            (pieces.count() > nth).then_some(())
        };
        world.recorder.until("long", piece).await;
        assert_eq!(world.recorder.pieces("long").len(), nth + 1);
        most_buffered = most_buffered.max(metric(measures::BUFFERED_BYTES, None));
        world
            .recorder
            .hold_verdicts
            .store(nth + 2 == pieces, Ordering::SeqCst);
    }
    // The last piece left the verdict to us.
    world.recorder.verdict(session, challenge.id, "all of it");
    let (agent, verdict) = answering.await.unwrap();
    assert_eq!(verdict, answer("all of it"));
    let pieces = world.recorder.pieces("long");
    assert!(
        pieces
            .iter()
            .all(|piece| piece.len() <= limits::PIECE_BYTES_MAX)
    );
    assert_eq!(pieces.concat(), log);
    assert!(
        most_buffered <= limits::PIECE_BYTES_MAX as f64,
        "{most_buffered}"
    );
    assert!(metric(measures::LOG_BYTES, None) >= log.len() as f64);
    drop(agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_that_is_dropped_is_declined_and_the_next_one_answered() {
    let world = World::new();
    let agent = world.agent("declines").await;
    world.recorder.challenge("declines").await;
    drop(agent.connection.next_challenge().await.unwrap());
    let verdict = agent.attest(&world.recorder, parts()).await;
    assert_eq!(verdict.detail, "taken");
    // Reading less than was announced declines too: nobody takes the front for the whole.
    world.recorder.challenge("declines").await;
    let incoming = agent.connection.next_challenge().await.unwrap();
    let mut short = with_list(list(100_000));
    short.ima.as_mut().unwrap().source = ListSource::Reader(Box::new(tokio::io::empty()));
    let error = incoming.answer(short).await.unwrap_err();
    assert!(matches!(error, ClientError::List(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_challenge_replaces_the_open_one() {
    let world = World::new();
    let agent = world.agent("slowly").await;
    world.recorder.challenge("slowly").await;
    let older = agent.connection.next_challenge().await.unwrap();
    let newer = world.recorder.challenge("slowly").await;
    let incoming = agent.connection.next_challenge().await.unwrap();
    assert_eq!(incoming.challenge, newer);
    let error = older.answer(parts()).await.unwrap_err();
    assert_eq!(refused(&error).0, Refusal::Timeout.into());
    assert_eq!(incoming.answer(parts()).await.unwrap().detail, "taken");
    assert_eq!(
        world.recorder.evidence("slowly", 0).await.challenge,
        newer.id
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_may_come_before_the_list_has_been_read() {
    let world = World::new();
    let agent = world.agent("early").await;
    let session = world.recorder.session("early").await;
    world.recorder.hold_more.store(true, Ordering::SeqCst);
    let challenge = world.recorder.challenge("early").await;
    let incoming = agent.connection.next_challenge().await.unwrap();
    let (verdict, ()) = tokio::join!(incoming.answer(with_list(list(1_000_000))), async {
        world.recorder.evidence("early", 0).await;
        world.recorder.verdict(session, challenge.id, "enough");
    });
    assert_eq!(verdict.unwrap().detail, "enough");
    assert_eq!(world.recorder.pieces("early").len(), 0);
    world.recorder.hold_more.store(false, Ordering::SeqCst);
    assert_eq!(agent.attest(&world.recorder, parts()).await.detail, "taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s07_busy_shards_send_agents_away_with_jitter() {
    let world = World::new();
    world
        .recorder
        .busy_for_connections
        .store(true, Ordering::SeqCst);
    let mut delays = std::collections::BTreeSet::new();
    for number in 0..8 {
        let agent = format!("herd-{number}");
        let client = world.client(&agent);
        let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
        let error = connection.hello(hello(&agent)).await.unwrap_err();
        let (reason, retry_after_ms) = refused(&error);
        assert_eq!(reason, Refusal::Busy.into());
        assert!((BUSY_MS..=2 * BUSY_MS).contains(&retry_after_ms));
        let after_ms = retry_after_ms;
        assert_eq!(error.advice(), Advice::BackOff { after_ms });
        delays.insert(retry_after_ms);
        assert_eq!(world.recorder.events(&agent), []);
    }
    assert!(delays.len() > 1, "all come back at once");
    assert_eq!(refusals(Refusal::Busy.into()), 8.0);
    world
        .recorder
        .busy_for_connections
        .store(false, Ordering::SeqCst);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s07_busy_for_evidence_keeps_the_connection_and_busy_for_a_piece_ends_it() {
    let world = World::new();
    let agent = world.agent("unlucky").await;
    world
        .recorder
        .busy_for_evidence
        .store(true, Ordering::SeqCst);
    world.recorder.challenge("unlucky").await;
    let incoming = agent.connection.next_challenge().await.unwrap();
    let error = incoming.answer(parts()).await.unwrap_err();
    assert_eq!(refused(&error).0, Refusal::Busy.into());
    assert!(refused(&error).1 >= BUSY_MS);
    world
        .recorder
        .busy_for_evidence
        .store(false, Ordering::SeqCst);
    assert_eq!(agent.attest(&world.recorder, parts()).await.detail, "taken");
    world.recorder.busy_for_pieces.store(true, Ordering::SeqCst);
    world.recorder.challenge("unlucky").await;
    let incoming = agent.connection.next_challenge().await.unwrap();
    let error = incoming.answer(with_list(list(200_000))).await.unwrap_err();
    assert_eq!(refused(&error).0, Refusal::Busy.into());
    world.recorder.gone("unlucky").await;
    assert_eq!(refusals(Refusal::Busy.into()), 2.0);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_shard_arrive_with_code_delay_and_advice() {
    let world = World::new();
    for refusal in Refusal::ALL {
        let id = format!("agent-{}", refusal.as_str());
        let agent = world.agent(&id).await;
        let session = world.recorder.session(&id).await;
        world.recorder.refuse(session, refusal, 4567);
        let error = agent.connection.next_challenge().await.unwrap_err();
        assert_eq!(refused(&error), (refusal.into(), 4567));
        let stops = matches!(
            refusal,
            Refusal::UnknownAgent | Refusal::CertificateNotCurrent | Refusal::PathNotEnrolled
        );
        assert_eq!(error.advice() == Advice::Stop, stops, "{refusal}");
        world.recorder.gone(&id).await;
        assert_eq!(refusals(refusal.into()), 1.0);
    }
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_server_lets_go_ends_as_draining() {
    let world = World::new();
    let agent = world.agent("forgotten").await;
    let session = world.recorder.session("forgotten").await;
    world.recorder.forget(session);
    let error = agent.connection.next_challenge().await.unwrap_err();
    assert_eq!(refused(&error).0, Refusal::Draining.into());
    world.recorder.gone("forgotten").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n14_a_welcome_tells_cas_and_pins_none() {
    let world = World::new();
    let next = Authority::new("next authority");
    let client = world.client("pins");
    let (current, both) = (
        vec![world.authority.der()],
        vec![world.authority.der(), next.der()],
    );
    *world.ca_set.lock().unwrap() = both.clone();
    let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
    let welcome = connection.hello(hello("pins")).await.unwrap();
    assert_eq!(welcome.ca_set, both);
    // What a change of the set would mean can be asked.
    assert!(connection.is_trusted_under(&both));
    assert!(connection.is_trusted_under(&current));
    assert!(!connection.is_trusted_under(&[next.der()]));
    assert!(!connection.is_trusted_under(&[]));
    assert!(!connection.is_trusted_under(&[b"no certificate".to_vec()]));
    let server = connection.server_certificate().unwrap();
    assert_ne!(server, world.authority.der());
    // A server of the CA that was told is refused all the same.
    world
        .server()
        .set_tls(&next.server(&[&world.authority, &next]))
        .unwrap();
    let error = client
        .connect(world.address, SERVER_NAME)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::ServerUntrusted { .. }),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_lets_open_challenges_be_answered_and_refuses_what_is_new() {
    let mut world = World::new();
    let idle = world.agent("idle").await;
    let busy = world.agent("busy").await;
    world.recorder.challenge("busy").await;
    let incoming = busy.connection.next_challenge().await.unwrap();
    let server = world.server.take().unwrap();
    let shutdown = tokio::spawn(server.shutdown(Duration::from_secs(60)));
    let error = idle.connection.next_challenge().await.unwrap_err();
    assert_eq!(refused(&error).0, Refusal::Draining.into());
    let late = world.client("late");
    let connection = late.connect(world.address, SERVER_NAME).await.unwrap();
    let error = connection.hello(hello("late")).await.unwrap_err();
    assert_eq!(refused(&error).0, Refusal::Draining.into());
    assert_eq!(world.recorder.events("late"), []);
    assert!(!shutdown.is_finished());
    assert_eq!(incoming.answer(parts()).await.unwrap().detail, "taken");
    let error = busy.connection.next_challenge().await.unwrap_err();
    assert_eq!(refused(&error).0, Refusal::Draining.into());
    shutdown.await.unwrap();
    let last = world.recorder.events("busy").pop().unwrap();
    assert!(
        matches!(last, Event::Disconnected(_, agent) if agent == AgentId::parse("busy").unwrap())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s08_agents_of_a_server_that_stops_are_told_to_come_back_apart() {
    let mut world = World::new();
    let mut agents = Vec::new();
    for number in 0..8 {
        agents.push(world.agent(&format!("herd-{number}")).await);
    }
    let server = world.server.take().unwrap();
    server.shutdown(Duration::from_secs(60)).await;
    let mut delays = std::collections::BTreeSet::new();
    for agent in &agents {
        let error = agent.connection.next_challenge().await.unwrap_err();
        let (reason, retry_after_ms) = refused(&error);
        assert_eq!(reason, Refusal::Draining.into());
        let least = limits::DRAINING_RETRY_MS;
        assert!((least..=2 * least).contains(&retry_after_ms));
        delays.insert(retry_after_ms);
    }
    assert!(delays.len() > 1, "all come back at once");
    assert_eq!(refusals(Refusal::Draining.into()), 8.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_longer_than_its_deadline() {
    let mut world = World::new();
    let agent = world.agent("stuck").await;
    world.recorder.challenge("stuck").await;
    let incoming = agent.connection.next_challenge().await.unwrap();
    let server = world.server.take().unwrap();
    server.shutdown(Duration::from_millis(50)).await;
    world.recorder.gone("stuck").await;
    let error = incoming.answer(parts()).await.unwrap_err();
    assert_eq!(refused(&error).0, Refusal::Draining.into());
    assert_eq!(rejections("WELCOME_MS_MAX"), 0.0);
}
