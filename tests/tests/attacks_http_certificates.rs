//! A02: client certificates at an HTTP listener: none, ours, another CA's, and one beside a token.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::{X509, X509Req};
use rat_api::auth::credential::{Credential, CredentialKind};
use rat_api::auth::{ClientCertificate, Gate, Peer, Permission};
use rat_api::clock::unix_ms;
use rat_api::listen::{Listener, Security, Stop};
use rat_api::surface::{Route, Shared, Surface, join};
use rat_api::tls::{Acceptor, Material, ServerCertificate};
use rat_engine::agent_id::AgentId;
use rat_identity::agent_certificate;
use rat_identity::ca::{Ca, Issued};
use rat_store::{NewApiToken, Store};
use rat_tests::http_client::{Answer, read};

/// A listener with two routes, and the CA behind it.
struct Listening {
    ca: Ca,
    folder: tempfile::TempDir,
    address: SocketAddr,
    certificate: Arc<ServerCertificate>,
    acceptor: Arc<Acceptor>,
    stop: Stop,
    runtime: tokio::runtime::Runtime,
    /// An API token that may do everything.
    token: String,
}

fn material(issued: &Issued) -> Material {
    Material {
        chain: issued.chain_der.clone(),
        key_pkcs8: issued.key_pkcs8_der.clone(),
        not_after_unix_ms: issued.not_after_unix_ms,
    }
}

async fn store_with_a_token(directory: &std::path::Path) -> (Store, String) {
    let store = Store::open(directory).await.unwrap();
    let credential = Credential::generate(CredentialKind::ApiToken).unwrap();
    let token = NewApiToken {
        id: credential.id().to_owned(),
        sha256: credential.sha256(),
        name: "test".to_owned(),
        owner: None,
        role: "admin".to_owned(),
        created_by: "test".to_owned(),
        created_unix_ms: unix_ms(),
        expires_unix_ms: u64::MAX / 4,
    };
    store.put_api_token(&token).await.unwrap();
    (store, credential.as_str().to_owned())
}

/// Who the listener says is calling.
async fn whoami(Extension(peer): Extension<Peer>) -> String {
    let certificate = peer.certificate.as_ref().map(ClientCertificate::der);
    let agent = certificate.and_then(|der| agent_certificate::read(der).ok());
    agent.map_or("nobody".to_owned(), |peer| peer.agent.to_string())
}

impl Listening {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::open(folder.path(), unix_ms()).unwrap();
        let issued = ca
            .issue_server(&["127.0.0.1".to_owned()], unix_ms())
            .unwrap();
        let certificate = ServerCertificate::new(material(&issued), unix_ms()).unwrap();
        let certificate = Arc::new(certificate);
        let acceptor = Acceptor::new(certificate.clone(), &ca.certificates()).unwrap();
        let acceptor = Arc::new(acceptor);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let data = folder.path().join("data");
        let (store, token) = runtime.block_on(store_with_a_token(&data));
        let shared = Shared::new(Gate::new(store), 50);
        let surface = Surface::new(Arc::clone(&shared))
            .route(Route::get("/whoami", Permission::Public), whoami)
            .route(
                Route::get("/operators", Permission::Operator("agents:view")),
                whoami,
            );
        let router = join(&shared, [surface.into_router(())]);
        let security = Security::Tls(acceptor.clone());
        let bound = Listener::bind("test", "127.0.0.1:0".parse().unwrap(), security);
        let listener = runtime.block_on(bound).unwrap();
        let (address, stop) = (listener.local_addr(), Stop::default());
        runtime.spawn(listener.serve(router, stop.clone()));
        Self {
            ca,
            folder,
            address,
            certificate,
            acceptor,
            stop,
            runtime,
            token,
        }
    }

    /// A request with a certificate, a token, both or neither; `None` when the handshake fails.
    fn get(&self, path: &str, identity: Option<&Identity>, token: Option<&str>) -> Option<Answer> {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder
            .set_ca_file(self.folder.path().join("ca.pem"))
            .unwrap();
        builder.set_verify(SslVerifyMode::PEER);
        if let Some(identity) = identity {
            builder.set_certificate(&identity.certificate).unwrap();
            builder.set_private_key(&identity.key).unwrap();
        }
        let stream = std::net::TcpStream::connect(self.address).unwrap();
        let mut stream = builder.build().connect("127.0.0.1", stream).ok()?;
        let authorization = token.map_or(String::new(), |token| {
            format!("authorization: Bearer {token}\r\n")
        });
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{authorization}\r\n");
        // With TLS 1.3 a client learns only now that its certificate was refused.
        stream.write_all(request.as_bytes()).ok()?;
        let answer = read(&mut stream);
        (answer.status != 0).then_some(answer)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.force.cancel();
    }
}

struct Identity {
    certificate: X509,
    key: PKey<Private>,
}

impl Identity {
    fn of(ca: &Ca, agent: &str, now_unix_ms: u64) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut request = X509Req::builder().unwrap();
        request.set_pubkey(&key).unwrap();
        request.sign(&key, MessageDigest::sha256()).unwrap();
        let csr = request.build().to_der().unwrap();
        let agent = AgentId::parse(agent).unwrap();
        let issued = ca.issue_agent(&csr, &agent, now_unix_ms).unwrap();
        Self {
            certificate: X509::from_der(&issued.chain_der[0]).unwrap(),
            key,
        }
    }
}

#[test]
fn a02_a_certificate_names_an_agent_and_opens_no_operators_route() {
    let listening = Listening::start();
    let agent = Identity::of(&listening.ca, "agent-1", unix_ms());
    let body = |answer: Option<Answer>| String::from_utf8(answer.unwrap().body).unwrap();
    assert_eq!(body(listening.get("/whoami", None, None)), "nobody");
    assert_eq!(
        body(listening.get("/whoami", Some(&agent), None)),
        "agent-1"
    );
    let token = listening.token.as_str();
    let status = |identity: Option<&Identity>, token: Option<&str>| {
        let answer = listening.get("/operators", identity, token).unwrap();
        answer.status
    };
    assert_eq!(status(None, None), 401);
    assert_eq!(status(None, Some("wrong")), 401);
    assert_eq!(status(None, Some(token)), 200);
    assert_eq!(status(Some(&agent), None), 403);
    assert_eq!(status(Some(&agent), Some("wrong")), 401);
    assert_eq!(status(Some(&agent), Some(token)), 403, "the lesser of both");
}

#[test]
fn a02_certificates_of_another_ca_expired_or_of_a_server_are_refused() {
    let listening = Listening::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Ca::open(elsewhere.path(), unix_ms()).unwrap();
    let foreign = Identity::of(&other, "agent-1", unix_ms());
    assert!(listening.get("/whoami", Some(&foreign), None).is_none());
    let year_ms = 365 * 24 * 60 * 60 * 1000;
    // Issued by a CA that was there two years ago, so that it expired long since.
    let folder = tempfile::tempdir().unwrap();
    let old = Ca::open(folder.path(), unix_ms() - 2 * year_ms).unwrap();
    let expired = Identity::of(&old, "agent-1", unix_ms() - 2 * year_ms);
    listening
        .acceptor
        .set_client_cas(&old.certificates())
        .unwrap();
    assert!(listening.get("/whoami", Some(&expired), None).is_none());
    listening
        .acceptor
        .set_client_cas(&listening.ca.certificates())
        .unwrap();
    let server = listening
        .ca
        .issue_server(&["x".to_owned()], unix_ms())
        .unwrap();
    let server = Identity {
        certificate: X509::from_der(&server.chain_der[0]).unwrap(),
        key: PKey::private_key_from_der(&server.key_pkcs8_der).unwrap(),
    };
    assert!(listening.get("/whoami", Some(&server), None).is_none());
    assert_eq!(listening.get("/whoami", None, None).unwrap().status, 200);
}

#[test]
fn the_servers_certificate_is_replaced_while_it_serves() {
    let listening = Listening::start();
    let first = listening.certificate.not_after_unix_ms();
    assert!(!listening.certificate.is_due(unix_ms()));
    assert!(listening.certificate.is_due(first - 1));
    let later = unix_ms() + 1000;
    let issued = listening
        .ca
        .issue_server(&["127.0.0.1".to_owned()], later)
        .unwrap();
    listening
        .certificate
        .replace(material(&issued), later)
        .unwrap();
    assert!(listening.certificate.not_after_unix_ms() > first);
    assert_eq!(listening.get("/whoami", None, None).unwrap().status, 200);
    // A key that is not the certificate's is refused, and the old pair stays.
    let other = listening
        .ca
        .issue_server(&["127.0.0.1".to_owned()], later)
        .unwrap();
    let mixed = Material {
        key_pkcs8: other.key_pkcs8_der.clone(),
        ..material(&issued)
    };
    assert!(listening.certificate.replace(mixed, later).is_err());
    assert_eq!(listening.get("/whoami", None, None).unwrap().status, 200);
    let runtime = &listening.runtime;
    let plain = Listener::bind(
        "test",
        "0.0.0.0:0".parse().unwrap(),
        Security::PlainOnLoopback,
    );
    assert!(runtime.block_on(plain).is_err(), "plain HTTP for everybody");
}
