//! A server on loopback with its authority, agents of ours, and agents that do as they like.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, ConnectionError, Endpoint, VarInt};
use rat_engine::agent_id::AgentId;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::LogFormat;
use rat_engine::pcr::{PcrIndex, PcrValues};
use rat_transport::measures;
use rat_transport::quic::client::{
    Client, ClientOptions, Connection, EvidenceParts, Hello, ListParts, ListSource,
};
use rat_transport::quic::server::{self, Certified, Server, ServerLimits, ServerOptions};
use rat_transport::quic::wire::{Frame, Refused};
use rat_transport::quic::{ALPN, Reason, RenewRefused};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::certificates::{Authority, Identity, SERVER_NAME, identify};
use super::recorder::Recorder;

/// How long something may take that must happen.
pub(crate) const GENEROUS: Duration = Duration::from_secs(60);

/// A server and what belongs to it.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) server: Option<Server>,
    pub(crate) address: SocketAddr,
    /// What Welcomes tell.
    pub(crate) ca_set: Arc<Mutex<Vec<Vec<u8>>>>,
    /// How long certificates of connections that begin now are still valid.
    pub(crate) valid_for: Arc<Mutex<Duration>>,
    /// What renewals are answered with.
    pub(crate) renewal: Arc<Mutex<Result<Vec<Vec<u8>>, RenewRefused>>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::limited(|_| {})
    }

    pub(crate) fn limited(change: impl FnOnce(&mut ServerLimits)) -> Self {
        metrics();
        let authority = Authority::new("ratd test authority");
        let recorder = Arc::new(Recorder::new());
        let ca_set = Arc::new(Mutex::new(vec![authority.der()]));
        let renewal = Arc::new(Mutex::new(Err(RenewRefused::Unavailable)));
        let mut limits = ServerLimits::default();
        change(&mut limits);
        let valid_for = Arc::new(Mutex::new(Duration::MAX));
        let left = Arc::clone(&valid_for);
        let (told, answer) = (Arc::clone(&ca_set), Arc::clone(&renewal));
        let options = ServerOptions {
            reset_secret: [5; 32],
            tls: authority.server(&[&authority]),
            identify: Arc::new(move |der: &[u8]| {
                let valid_for = *left.lock().unwrap();
                identify(der).map(|whose| match whose {
                    Certified::Agent(client) => Certified::Agent(server::Client {
                        valid_for,
                        ..client
                    }),
                    Certified::Relay(relay) => Certified::Relay(relay),
                })
            }),
            renew: Arc::new(move |_, _, _| answer.lock().unwrap().clone()),
            renew_relay: Arc::new(|_, _, _| Err(RenewRefused::Unavailable)),
            ca_set: Arc::new(move || told.lock().unwrap().clone()),
            limits,
        };
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let intake = Arc::clone(&recorder);
        let server = Server::bind(any, options, intake).unwrap();
        let address = server.local_addr().unwrap();
        Self {
            authority,
            recorder,
            server: Some(server),
            address,
            ca_set,
            valid_for,
            renewal,
        }
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// A client with a certificate of this authority for this agent.
    pub(crate) fn client(&self, agent: &str) -> Client {
        self.client_of(self.authority.agent(agent))
    }

    pub(crate) fn client_of(&self, identity: Identity) -> Client {
        Client::new(ClientOptions {
            keep_alive_ms: 20_000,
            probe_mtu: true,
            ca_set: vec![self.authority.der()],
            certificate_chain: identity.chain,
            key_pkcs8: identity.key,
        })
        .unwrap()
    }

    /// An agent that is welcome.
    pub(crate) async fn agent(&self, agent: &str) -> Agent {
        let client = self.client(agent);
        let connection = client.connect(self.address, SERVER_NAME).await.unwrap();
        connection.hello(hello(agent)).await.unwrap();
        Agent {
            id: agent.to_owned(),
            client,
            connection,
        }
    }

    /// Proves that somebody else is served: a whole exchange on a connection of its own.
    pub(crate) async fn serves_others(&self) {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let agent = self.agent(&format!("bystander-{number}")).await;
        let answer = agent.attest(&self.recorder, parts()).await;
        assert_eq!(answer.detail, "taken");
    }

    /// A connection that does as it likes.
    pub(crate) async fn raw(&self, agent: &str) -> Raw {
        self.raw_with(Some(self.authority.agent(agent)), |_, _| {})
            .await
    }

    pub(crate) async fn raw_with(
        &self,
        identity: Option<Identity>,
        change: impl FnOnce(&mut rustls::ClientConfig, &mut quinn::TransportConfig),
    ) -> Raw {
        let (endpoint, config) = self.raw_config(identity, change);
        let connecting = endpoint.connect_with(config, self.address, SERVER_NAME);
        let connection = connecting.unwrap().await.unwrap();
        Raw {
            _endpoint: endpoint,
            connection,
        }
    }

    pub(crate) fn raw_config(
        &self,
        identity: Option<Identity>,
        change: impl FnOnce(&mut rustls::ClientConfig, &mut quinn::TransportConfig),
    ) -> (Endpoint, ClientConfig) {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(self.authority.der()))
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match identity {
            Some(Identity { chain, key }) => {
                let chain = chain.into_iter().map(CertificateDer::from).collect();
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let mut transport = quinn::TransportConfig::default();
        change(&mut tls, &mut transport);
        let crypto = QuicClientConfig::try_from(Arc::new(tls)).unwrap();
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        (endpoint, config)
    }
}

/// One of our agents.
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) client: Client,
    pub(crate) connection: Connection,
}

impl Agent {
    /// Is challenged, and answers.
    pub(crate) async fn attest(
        &self,
        recorder: &Recorder,
        parts: EvidenceParts,
    ) -> rat_engine::evidence::Answer {
        recorder.challenge(&self.id).await;
        let incoming = self.connection.next_challenge().await.unwrap();
        incoming.answer(parts).await.unwrap()
    }
}

/// An agent that does as it likes.
pub(crate) struct Raw {
    _endpoint: Endpoint,
    pub(crate) connection: quinn::Connection,
}

impl Raw {
    /// Says Hello and reads the Welcome.
    pub(crate) async fn welcomed(&self, agent: &str) {
        let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
        let frame = Frame::Hello(hello(agent)).encode().unwrap();
        send.write_all(&frame).await.unwrap();
        send.finish().unwrap();
        let welcome = receive.read_to_end(1 << 17).await.unwrap();
        assert!(matches!(Frame::decode(&welcome), Ok(Frame::Welcome(_))));
    }

    /// Why the server closed: the number, and the frame that says the same.
    pub(crate) async fn closed(&self) -> (Reason, Frame) {
        let closed = tokio::time::timeout(GENEROUS, self.connection.closed()).await;
        match closed.expect("not closed") {
            ConnectionError::ApplicationClosed(close) => {
                let number = u32::try_from(close.error_code.into_inner()).unwrap();
                let frame = Frame::decode(&close.reason).unwrap();
                (Reason::from_number(number), frame)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Panics unless the server closes with this reason, on the connection and in its frame.
    pub(crate) async fn is_closed_for(&self, expected: Reason) {
        let (reason, frame) = self.closed().await;
        assert_eq!(reason, expected);
        match frame {
            Frame::Refused(Refused { reason, .. }) => assert_eq!(reason, expected),
            Frame::Versions(_) => assert_eq!(expected, Reason::Version),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn hello(agent: &str) -> Hello {
    Hello {
        agent: AgentId::parse(agent).unwrap(),
        log_formats: vec![LogFormat::Ascii],
        banks: vec![HashAlg::Sha256],
        reset_count: 1,
        restart_count: 2,
        entry_count: 3,
        instance: rat_engine::evidence::Instance([4; 16]),
    }
}

/// Evidence without logs.
pub(crate) fn parts() -> EvidenceParts {
    let mut pcr_values = PcrValues::new();
    let value = Digest::new(HashAlg::Sha256, &[7; 32]).unwrap();
    pcr_values.insert(PcrIndex::IMA, value);
    EvidenceParts {
        quote: b"quote".to_vec(),
        signature: b"signature".to_vec(),
        pcr_values,
        reset_count: 1,
        restart_count: 2,
        ima: None,
        boot_log: None,
    }
}

/// A list of this many bytes, none of which repeats its neighbours.
pub(crate) fn list(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

pub(crate) fn with_list(list: Vec<u8>) -> EvidenceParts {
    EvidenceParts {
        ima: Some(ListParts {
            from_entry: 11,
            count: 12,
            format: LogFormat::Binary,
            length: list.len() as u64,
            source: ListSource::Bytes(list),
        }),
        ..parts()
    }
}

pub(crate) fn metrics() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let handle = PrometheusBuilder::new().install_recorder().unwrap();
        measures::describe();
        handle
    })
}

/// The value of one series; 0 when there is none yet.
pub(crate) fn metric(name: &str, label: Option<(&str, &str)>) -> f64 {
    let series = match label {
        Some((key, value)) => format!("{name}{{{key}=\"{value}\"}} "),
        None => format!("{name} "),
    };
    let text = metrics().render();
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

pub(crate) fn refusals(reason: Reason) -> f64 {
    metric(measures::REFUSALS, Some(("reason", reason.as_str())))
}

pub(crate) fn rejections(limit: &str) -> f64 {
    metric(measures::LIMIT_REJECTIONS, Some(("limit", limit)))
}

/// Waits until a condition holds that no event announces.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(GENEROUS, wait).await;
    waited.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) fn varint(number: u32) -> VarInt {
    VarInt::from_u32(number)
}
