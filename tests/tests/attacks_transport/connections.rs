//! Who may connect, and what idle or greedy connections come to.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use rat_engine::evidence::Refusal;
use rat_transport::limits;
use rat_transport::measures;
use rat_transport::quic::client::{Client, ClientError, ClientOptions};
use rat_transport::quic::server::Server;
use rat_transport::quic::wire::Frame;
use rat_transport::quic::{Advice, Reason};
use rustls::NamedGroup;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;

use super::certificates::{Authority, SERVER_NAME};
use super::world::{World, eventually, hello, metric, parts, refusals, rejections};

fn handshakes(result: &str) -> f64 {
    metric(measures::HANDSHAKES, Some(("result", result)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_a_hello_for_another_agent_is_refused_before_anyone_hears_of_it() {
    let world = World::new();
    let victim = world.agent("victim").await;
    let heard = world.recorder.events("victim");
    let client = world.client("impostor");
    let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
    let error = connection.hello(hello("victim")).await.unwrap_err();
    let ClientError::Refused { reason, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(reason, Reason::AgentMismatch);
    assert_eq!(error.advice(), Advice::Stop);
    assert_eq!(world.recorder.events("victim"), heard);
    assert_eq!(world.recorder.events("impostor"), []);
    assert_eq!(refusals(Reason::AgentMismatch), 1.0);
    assert_eq!(
        victim.attest(&world.recorder, parts()).await.detail,
        "taken"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_certificates_of_nobody_and_of_strangers_are_refused_by_tls() {
    let world = World::new();
    let stranger = Authority::new("stranger");
    let client = world.client_of(stranger.agent("victim"));
    let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
    let error = connection.hello(hello("victim")).await.unwrap_err();
    assert!(
        matches!(error, ClientError::CertificateRejected { .. }),
        "{error:?}"
    );
    assert_eq!(error.advice(), Advice::Stop);
    eventually("counted", || handshakes("failed") == 1.0).await;
    // Without a certificate: certificate_required (RFC 8446, 6.2).
    let raw = world.raw_with(None, |_, _| {}).await;
    match raw.connection.closed().await {
        quinn::ConnectionError::ConnectionClosed(close) => {
            assert_eq!(u64::from(close.error_code), 0x100 + 116);
        }
        other => panic!("{other:?}"),
    }
    eventually("counted", || handshakes("failed") == 2.0).await;
    assert_eq!(world.recorder.events("victim"), []);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_a_certificate_that_names_no_agent_is_refused() {
    let world = World::new();
    let client = world.client_of(world.authority.agent("no agent id"));
    let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
    let error = connection.hello(hello("someone")).await.unwrap_err();
    let ClientError::Refused { reason, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(reason, Reason::CertificateUnusable);
    assert_eq!(world.recorder.events("someone"), []);
    assert_eq!(refusals(Reason::CertificateUnusable), 1.0);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_a_connection_ends_with_the_certificate_that_it_began_with() {
    let world = World::new();
    let lasting = world.agent("lasting").await;
    *world.valid_for.lock().unwrap() = Duration::from_millis(200);
    let brief = world.agent("brief").await;
    let error = brief.connection.next_challenge().await.unwrap_err();
    let ClientError::Refused { reason, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(reason, Reason::CertificateExpired);
    // It comes back with the certificate that it has by now.
    assert_eq!(error.advice(), Advice::Reconnect);
    eventually("the shard knows", || {
        world.recorder.events("brief").len() == 2
    })
    .await;
    assert_eq!(refusals(Reason::CertificateExpired), 1.0);
    assert_eq!(
        lasting.attest(&world.recorder, parts()).await.detail,
        "taken"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_trust_no_server_but_under_a_pinned_ca_and_by_its_name() {
    let world = World::new();
    let stranger = Authority::new("stranger");
    let identity = world.authority.agent("careful");
    let client = Client::new(ClientOptions {
        keep_alive_ms: 20_000,
        probe_mtu: true,
        ca_set: vec![stranger.der()],
        certificate_chain: identity.chain,
        key_pkcs8: identity.key,
    })
    .unwrap();
    let error = client
        .connect(world.address, SERVER_NAME)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::ServerUntrusted { .. }),
        "{error:?}"
    );
    let client = world.client("careful");
    let error = client
        .connect(world.address, "other.example")
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::ServerUntrusted { .. }),
        "{error:?}"
    );
    assert_eq!(world.recorder.events("careful"), []);
}

/// What a client would keep to resume its sessions by: counted.
#[derive(Debug, Default)]
struct Sessions {
    handshakes: AtomicUsize,
    kept: AtomicUsize,
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {
        self.handshakes.fetch_add(1, Ordering::SeqCst);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {
        self.kept.fetch_add(1, Ordering::SeqCst);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.kept.fetch_add(1, Ordering::SeqCst);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q12_there_is_no_early_data_and_nothing_to_resume() {
    let world = World::new();
    let identity = world.authority.agent("eager");
    let sessions = Arc::new(Sessions::default());
    let (endpoint, config) = world.raw_config(Some(identity), |tls, _| {
        tls.enable_early_data = true;
        tls.resumption = Resumption::store(Arc::clone(&sessions) as Arc<dyn ClientSessionStore>);
    });
    for _ in 0..3 {
        let connecting = endpoint.connect_with(config.clone(), world.address, SERVER_NAME);
        // Early data needs a ticket, and this server gives none.
        let connecting = match connecting.unwrap().into_0rtt() {
            Ok(_) => panic!("early data was possible"),
            Err(connecting) => connecting,
        };
        let connection = connecting.await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let frame = Frame::Hello(hello("eager")).encode().unwrap();
        send.write_all(&frame).await.unwrap();
        send.finish().unwrap();
        // The Welcome comes after any ticket would have come.
        assert!(receive.read_to_end(1 << 17).await.is_ok());
        connection.close(0_u32.into(), b"");
    }
    assert_eq!(handshakes("done"), 3.0);
    assert_eq!(sessions.handshakes.load(Ordering::SeqCst), 3);
    assert_eq!(sessions.kept.load(Ordering::SeqCst), 0, "tickets");
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_a_connection_without_a_whole_hello_is_cut() {
    let world = World::limited(|limits| limits.hello_ms_max = 300);
    let silent = world.raw("silent").await;
    let unfinished = world.raw("unfinished").await;
    let (mut send, _receive) = unfinished.connection.open_bi().await.unwrap();
    let frame = Frame::Hello(hello("unfinished")).encode().unwrap();
    send.write_all(&frame).await.unwrap();
    silent.is_closed_for(Refusal::Timeout.into()).await;
    unfinished.is_closed_for(Refusal::Timeout.into()).await;
    assert_eq!(world.recorder.events("silent"), []);
    assert_eq!(world.recorder.events("unfinished"), []);
    assert_eq!(rejections("HELLO_MS_MAX"), 2.0);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_a_peer_that_is_gone_without_a_word_is_noticed() {
    let world = World::limited(|limits| limits.idle_ms_max = 500);
    let raw = world.raw("gone").await;
    raw.welcomed("gone").await;
    // No packet is sent while nobody polls for one: as if its cable was cut.
    world.recorder.session("gone").await;
    world.recorder.gone("gone").await;
    world.serves_others().await;
    eventually("its place is free", || {
        metric(measures::CONNECTIONS, None) <= 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_streams_beyond_the_limit_cannot_be_opened() {
    let world = World::new();
    let raw = world.raw("many").await;
    raw.welcomed("many").await;
    let mut held = Vec::new();
    loop {
        // Opening a stream waits for nothing but the peer's permission.
        let mut opening = pin!(raw.connection.open_bi());
        let polled = poll_fn(|context| Poll::Ready(opening.as_mut().poll(context))).await;
        match polled {
            Poll::Ready(opened) => held.push(opened.unwrap()),
            Poll::Pending => break,
        }
        assert!(held.len() <= limits::STREAMS_MAX as usize);
    }
    assert!(!held.is_empty());
    let mut opening = pin!(raw.connection.open_uni());
    let polled = poll_fn(|context| Poll::Ready(opening.as_mut().poll(context).is_pending())).await;
    assert!(polled, "a stream in one direction");
    assert!(raw.connection.max_datagram_size().is_none());
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x04_one_address_has_a_cap_and_places_become_free_again() {
    let world = World::limited(|limits| limits.connections_per_address_max = 3);
    let first = world.agent("flood-1").await;
    let _second = world.agent("flood-2").await;
    let _third = world.agent("flood-3").await;
    let client = world.client("flood-4");
    let error = client
        .connect(world.address, SERVER_NAME)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Full), "{error:?}");
    assert!(matches!(error.advice(), Advice::BackOff { .. }));
    assert_eq!(rejections("CONNECTIONS_PER_ADDRESS_MAX"), 1.0);
    assert_eq!(handshakes("refused"), 1.0);
    // Those that are in are served, and a place that is left is taken.
    assert_eq!(first.attest(&world.recorder, parts()).await.detail, "taken");
    first.connection.close();
    world.recorder.gone("flood-1").await;
    eventually("a place", || metric(measures::CONNECTIONS, None) < 3.0).await;
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_together_have_a_cap() {
    let world = World::limited(|limits| limits.connections_max = 1);
    let _first = world.agent("first").await;
    let client = world.client("second");
    let error = client
        .connect(world.address, SERVER_NAME)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Full), "{error:?}");
    assert_eq!(rejections("CONNECTIONS_MAX"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_come_back_to_a_server_that_was_restarted() {
    let mut world = World::new();
    let agent = world.agent("returns").await;
    drop(world.server.take());
    let error = agent.connection.next_challenge().await.unwrap_err();
    assert!(
        matches!(error.advice(), Advice::BackOff { .. }),
        "{error:?}"
    );
    world.recorder.gone("returns").await;
    let options = rat_transport::quic::server::ServerOptions {
        reset_secret: [5; 32],
        tls: world.authority.server(&[&world.authority]),
        identify: std::sync::Arc::new(super::certificates::identify),
        renew: std::sync::Arc::new(|_, _, _| Ok(Vec::new())),
        renew_relay: std::sync::Arc::new(|_, _, _| Ok(Vec::new())),
        ca_set: std::sync::Arc::new({
            let ca = world.authority.der();
            move || vec![ca.clone()]
        }),
        limits: Default::default(),
    };
    // The old socket closes when its last connection is over.
    let mut restarted = None;
    eventually("the port is free", || {
        let recorder = std::sync::Arc::clone(&world.recorder);
        restarted = Server::bind(world.address, options.clone(), recorder).ok();
        restarted.is_some()
    })
    .await;
    let connection = agent
        .client
        .connect(world.address, SERVER_NAME)
        .await
        .unwrap();
    connection.hello(hello("returns")).await.unwrap();
    world.recorder.challenge("returns").await;
    let incoming = connection.next_challenge().await.unwrap();
    assert_eq!(incoming.answer(parts()).await.unwrap().detail, "taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_another_ca_set_holds_for_new_connections_and_drops_no_open_one() {
    let world = World::new();
    let next = Authority::new("next authority");
    let open = world.agent("open").await;
    let server = world.server();
    server.set_tls(&world.authority.server(&[&next])).unwrap();
    assert_eq!(open.attest(&world.recorder, parts()).await.detail, "taken");
    // The old authority's agents cannot connect any more, by no earlier session either.
    let connection = open
        .client
        .connect(world.address, SERVER_NAME)
        .await
        .unwrap();
    let error = connection.hello(hello("open")).await.unwrap_err();
    assert!(
        matches!(error, ClientError::CertificateRejected { .. }),
        "{error:?}"
    );
    let client = world.client_of(next.agent("newcomer"));
    let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
    connection.hello(hello("newcomer")).await.unwrap();
    // A set that cannot be used changes nothing.
    let mut broken = world.authority.server(&[&next]);
    broken.client_ca = vec![b"no certificate".to_vec()];
    assert!(server.set_tls(&broken).is_err());
    broken.client_ca.clear();
    assert!(server.set_tls(&broken).is_err());
    let connection = client.connect(world.address, SERVER_NAME).await.unwrap();
    connection.hello(hello("newcomer")).await.unwrap();
    assert_eq!(handshakes("failed"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_answers_where_no_server_is() {
    let world = World::new();
    let client = world.client("lonely");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let connecting = client.connect(address, SERVER_NAME);
    let limit = Duration::from_millis(limits::HANDSHAKE_MS_MAX * 10);
    let error = tokio::time::timeout(limit, connecting)
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, ClientError::Unreachable), "{error:?}");
}
