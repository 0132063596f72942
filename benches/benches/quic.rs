//! Challenge, evidence, verdict over QUIC on loopback: server, agents and their cryptography in
//! one process, against an intake that answers at once.
//!
//! One element is one exchange. Evidence is of a steady agent's size: a quote, an RSA-2048
//! signature, eleven PCR values, no logs.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{
    Answer, Busy, Challenge, ChallengeId, Hello, Instance, Intake, Nonce, Peer, SessionId,
    Submission, ToAgent,
};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::shard::EffectiveStatus;
use rat_engine::tpm::PcrSelection;
use rat_transport::quic::client::{self, ClientOptions, Connection, EvidenceParts, Sockets};
use rat_transport::quic::server::{Certified, Client, Server, ServerLimits, ServerOptions, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::runtime::Runtime;

const NAME: &str = "ratd.example";
/// Exchanges of one measured iteration, over all connections.
const EXCHANGES: u32 = 2000;

/// Welcomes, and answers evidence with a verdict and the next challenge.
#[derive(Default)]
struct AtOnce(Mutex<HashMap<SessionId, Box<dyn Peer>>>);

fn challenge() -> Challenge {
    let pcrs = PcrSet::from_bits(0x07ff).unwrap();
    Challenge {
        id: ChallengeId([1; 16]),
        nonce: Nonce([2; 32]),
        selection: PcrSelection::new([(HashAlg::Sha256, pcrs)]).unwrap(),
        ima_from_entry: Some(1_000),
        boot_log: false,
        deadline_ms: 5_000,
    }
}

impl Intake for AtOnce {
    fn connected(&self, session: SessionId, _: Hello, peer: Box<dyn Peer>) -> Result<(), Busy> {
        peer.send(ToAgent::Welcome { next_after_ms: 0 });
        peer.send(ToAgent::Challenge(challenge()));
        self.0.lock().unwrap().insert(session, peer);
        Ok(())
    }

    fn logs_arrive(&self, _: SessionId, _: &AgentId, _: ChallengeId, _: u64) -> Result<(), Busy> {
        Ok(())
    }

    fn evidence(&self, session: SessionId, _: &AgentId, got: Submission) -> Result<(), Busy> {
        let answer = Answer {
            status: EffectiveStatus::Trusted,
            code: None,
            detail: String::new(),
            next_after_ms: 10_000,
        };
        let peers = self.0.lock().unwrap();
        if let Some(peer) = peers.get(&session) {
            peer.send(ToAgent::Verdict(got.challenge, answer));
            peer.send(ToAgent::Challenge(challenge()));
        }
        Ok(())
    }

    fn log_piece(&self, _: SessionId, _: &AgentId, _: ChallengeId, _: Vec<u8>) -> Result<(), Busy> {
        Ok(())
    }

    fn disconnected(&self, session: SessionId, _: &AgentId) {
        self.0.lock().unwrap().remove(&session);
    }
}

fn evidence() -> EvidenceParts {
    let mut pcr_values = PcrValues::new();
    for pcr in 0..11 {
        let value = Digest::new(HashAlg::Sha256, &[7; 32]).unwrap();
        pcr_values.insert(PcrIndex::new(pcr).unwrap(), value);
    }
    EvidenceParts {
        quote: vec![1; 145],
        signature: vec![2; 262],
        pcr_values,
        reset_count: 1,
        restart_count: 0,
        ima: None,
        boot_log: None,
    }
}

/// One answer to one challenge.
async fn exchange(connection: &Connection) {
    let incoming = connection.next_challenge().await.unwrap();
    incoming.answer(evidence()).await.unwrap();
}

/// A server, and the options of a client that it takes.
fn server() -> (Server, SocketAddr, ClientOptions) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let leaf = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        (vec![certificate.der().to_vec()], key.serialize_der())
    };
    let ca_set = vec![ca.der().to_vec()];
    let (certificate_chain, key_pkcs8) = leaf(NAME);
    let tls = Tls {
        certificate_chain,
        key_pkcs8,
        client_ca: ca_set.clone(),
    };
    let told = ca_set.clone();
    let options = ServerOptions {
        reset_secret: [5; 32],
        tls,
        identify: Arc::new(|_| {
            Some(Certified::Agent(Client {
                agent: AgentId::parse("bench").unwrap(),
                key_sha256: [0; 32],
                valid_for: Duration::MAX,
            }))
        }),
        renew: Arc::new(|_, _, _| Ok(Vec::new())),
        renew_relay: Arc::new(|_, _, _| Ok(Vec::new())),
        ca_set: Arc::new(move || told.clone()),
        limits: ServerLimits::default(),
    };
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::bind(any, options, Arc::new(AtOnce::default())).unwrap();
    let address = server.local_addr().unwrap();
    let (certificate_chain, key_pkcs8) = leaf("agent.example");
    let client = ClientOptions {
        keep_alive_ms: 20_000,
        probe_mtu: true,
        ca_set,
        certificate_chain,
        key_pkcs8,
    };
    (server, address, client)
}

async fn connect(client: &client::Client, address: SocketAddr) -> Arc<Connection> {
    let connection = client.connect(address, NAME).await.unwrap();
    let hello = client::Hello {
        agent: AgentId::parse("bench").unwrap(),
        log_formats: Vec::new(),
        banks: vec![HashAlg::Sha256],
        reset_count: 1,
        restart_count: 0,
        entry_count: 1_000,
        instance: Instance([1; 16]),
    };
    connection.hello(hello).await.unwrap();
    Arc::new(connection)
}

fn exchanges(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("quic");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(EXCHANGES.into()));
    for count in [1_u32, 100] {
        let (server, connections) = runtime.block_on(async {
            let (server, address, options) = server();
            let client = client::Client::sharing(Sockets::default(), options).unwrap();
            let mut connections = Vec::new();
            for _ in 0..count {
                connections.push(connect(&client, address).await);
            }
            (server, connections)
        });
        let each = EXCHANGES.checked_div(count).unwrap_or(0);
        group.bench_function(BenchmarkId::new("exchange", count), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let mut running = Vec::new();
                    for connection in &connections {
                        let connection = Arc::clone(connection);
                        running.push(tokio::spawn(async move {
                            for _ in 0..each {
                                exchange(&connection).await;
                            }
                        }));
                    }
                    for task in running {
                        task.await.unwrap();
                    }
                });
            });
        });
        runtime.block_on(server.shutdown(Duration::ZERO));
    }
    group.finish();
}

criterion_group!(benches, exchanges);
criterion_main!(benches);
