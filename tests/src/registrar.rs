//! Keylime's registrar on its two listeners, and agents that speak to it, with keys in software.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::x509::X509;
use rat_api::auth::Gate;
use rat_api::clock::unix_ms;
use rat_api::keylime;
use rat_api::keylime::registrar::{self, Registrar};
use rat_api::listen::{Listener, Security, Stop};
use rat_api::surface::Shared;
use rat_api::tls::{Acceptor, Material, ServerCertificate};
use rat_engine::agent_id::AgentId;
use rat_engine::tpm::Public;
use rat_identity::ek::EkTrust;
use rat_identity::keylime::{EkCheck, KeylimeCa, Policy};
use rat_store::{KeylimeRegistration, Store};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::endorsement::{Authority, Profile, SoftwareEk, Template, pem};
use crate::http_client::{Answer, Client, read};
use crate::keylime::tpm2b;
use crate::software_tpm::SoftwareAk;

/// How a registrar behaves.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What it demands.
    pub policy: Policy,
    /// Whether one TPM may have several ids.
    pub shares_ek: bool,
    /// Requests that an address may make each second.
    pub per_second: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            shares_ek: false,
            per_second: 10_000,
        }
    }
}

impl Settings {
    /// Every TPM may register.
    pub fn open() -> Self {
        let policy = Policy {
            ek_check: EkCheck::Off,
            ..Policy::default()
        };
        Self {
            policy,
            ..Self::default()
        }
    }
}

/// A registrar that serves, and its store.
pub struct Served {
    /// Its records.
    pub store: Store,
    /// Where agents reach it.
    pub plain: SocketAddr,
    /// Where tenants do.
    pub tls: SocketAddr,
    folder: TempDir,
    runtime: Runtime,
    stop: Stop,
}

impl Served {
    /// A registrar that knows these CAs.
    pub fn start(settings: Settings, cas: &[&Authority]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots.pem");
        let certificates: Vec<&X509> = cas.iter().map(|ca| &ca.certificate).collect();
        std::fs::write(&roots, pem(&certificates)).unwrap();
        let named = if cas.is_empty() { vec![] } else { vec![roots] };
        Self::start_in(folder, settings, EkTrust::load(&named, &[]).unwrap())
    }

    /// A registrar in this folder, which may have been another's.
    pub fn start_in(folder: TempDir, settings: Settings, trust: EkTrust) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = runtime.block_on(Store::open(&folder.path().join("data")));
        let store = store.unwrap();
        let ca_folder = folder.path().join("cv_ca");
        let ca = match std::fs::create_dir(&ca_folder) {
            Ok(()) => {
                let names = ["127.0.0.1".to_owned()];
                KeylimeCa::make(&ca_folder, &names, unix_ms()).unwrap()
            }
            Err(_) => KeylimeCa::open(&ca_folder, unix_ms()).unwrap().unwrap(),
        };
        let server = ca.server().unwrap();
        let material = Material {
            chain: server.chain_der,
            key_pkcs8: server.key_pkcs8_der,
            not_after_unix_ms: server.not_after_unix_ms,
        };
        let certificate = Arc::new(ServerCertificate::new(material, unix_ms()).unwrap());
        let acceptor = Acceptor::for_keylime(certificate, ca.certificate_der().to_vec());
        let shared = Shared::new(Gate::new(store.clone()), settings.per_second);
        let state = Arc::new(Registrar {
            store: store.clone(),
            trust: Arc::new(trust),
            policy: settings.policy,
            shares_ek: settings.shares_ek,
        });
        let routes = registrar::surface(Arc::clone(&shared)).into_router(state);
        let router = keylime::join(&shared, [routes]);
        let bind = |name, security| {
            let any = "127.0.0.1:0".parse().unwrap();
            runtime
                .block_on(Listener::bind(name, any, security))
                .unwrap()
        };
        let plain = bind("registrar", Security::Plain);
        let tls = bind("registrar-tls", Security::Tls(Arc::new(acceptor.unwrap())));
        let (plain_address, tls_address) = (plain.local_addr(), tls.local_addr());
        let stop = Stop::default();
        for listener in [plain, tls] {
            runtime.spawn(listener.serve(router.clone(), stop.clone()));
        }
        Self {
            store,
            plain: plain_address,
            tls: tls_address,
            folder,
            runtime,
            stop,
        }
    }

    /// Stops it; what is left is its folder.
    pub fn end(self) -> TempDir {
        self.stop.drain.cancel();
        self.stop.force.cancel();
        self.runtime.block_on(self.store.close());
        self.folder
    }

    /// Waits for a future.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The folder of Keylime's CA.
    pub fn ca(&self) -> std::path::PathBuf {
        self.folder.path().join("cv_ca")
    }

    /// A request over plain HTTP, with header lines.
    pub fn plain(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        self.plain_from(IpAddr::from([127, 0, 0, 1]), method, path, headers, body)
    }

    /// The same from another address of this machine.
    pub fn plain_from(
        &self,
        source: IpAddr,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Answer {
        let mut stream = connect(source, self.plain);
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let head = head(method, path, headers, body.len());
        // A server that refuses early closes before everything is written.
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
        read(&mut stream)
    }

    /// A request with a body in JSON, over plain HTTP.
    pub fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let text = body.to_string();
        self.plain(
            method,
            path,
            &["content-type: application/json"],
            text.as_bytes(),
        )
    }

    /// Somebody at the TLS listener without a certificate.
    pub fn anonymous(&self) -> Client {
        Client::new(self.tls, &self.ca().join("cacert.crt"))
    }

    /// A tenant, with the files that it is given.
    pub fn admin(&self) -> Client {
        let (certificate, key) = client_files(&self.ca());
        Client::with_certificate(self.tls, &self.ca().join("cacert.crt"), &certificate, &key)
    }

    /// A request of the tenant.
    pub fn ask(&self, method: &str, path: &str) -> Answer {
        self.admin().request_of_own(method, path, &[], b"")
    }

    /// What is registered under an id.
    pub fn registration(&self, id: &str) -> Option<KeylimeRegistration> {
        let id = AgentId::parse(id).unwrap();
        let found = self.wait(self.store.keylime_registration(&id, unix_ms()));
        found.unwrap().map(|(registration, _)| registration)
    }

    /// Registers an agent, which answers as it should.
    #[track_caller]
    pub fn register(&self, agent: &Agent) {
        let answer = self.json("POST", &agent.path(), &agent.body());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{text}");
        let answer = self.json("PUT", &agent.path(), &agent.answer(&answer.json()));
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{text}");
    }
}

fn head(method: &str, path: &str, headers: &[&str], bytes: usize) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str(&format!("content-length: {bytes}\r\n\r\n"));
    head
}

fn connect(source: IpAddr, address: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let connected = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(address).await?.into_std()
    });
    let stream = connected.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

/// The client's certificate and key in a `cv_ca` folder.
pub fn client_files(folder: &Path) -> (X509, PKey<openssl::pkey::Private>) {
    let certificate = std::fs::read(folder.join("client-cert.crt")).unwrap();
    let key = std::fs::read(folder.join("client-private.pem")).unwrap();
    (
        X509::from_pem(&certificate).unwrap(),
        PKey::private_key_from_pem(&key).unwrap(),
    )
}

/// An agent of Keylime with a TPM in software.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// Its endorsement key.
    pub ek: SoftwareEk,
    /// Its attestation key.
    pub ak: SoftwareAk,
    /// The certificate of its endorsement key.
    pub ek_certificate: Option<X509>,
}

impl Agent {
    /// An agent whose endorsement key nobody has certified.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ek: SoftwareEk::new(Template::P256),
            ak: SoftwareAk::p256(),
            ek_certificate: None,
        }
    }

    /// The same with a certificate of this CA.
    pub fn certified(id: &str, ca: &Authority) -> Self {
        let agent = Self::new(id);
        let certificate = ca.issue(&Profile::endorsement(false), &agent.ek.spki());
        Self {
            ek_certificate: Some(certificate),
            ..agent
        }
    }

    /// Where it registers.
    pub fn path(&self) -> String {
        format!("/v2.6/agents/{}", self.id)
    }

    /// What it registers.
    pub fn body(&self) -> Value {
        let certificate = self.ek_certificate.as_ref();
        json!({
            "ek_tpm": tpm2b(&self.ek.public()),
            "ekcert": certificate.map(|it| BASE64.encode(it.to_der().unwrap())),
            "aik_tpm": tpm2b(&self.ak.public()),
            "iak_cert": null,
            "idevid_cert": null,
            "ip": "192.0.2.10",
            "port": 9002,
            "mtls_cert": "disabled",
        })
    }

    /// What it answers to this challenge.
    pub fn answer(&self, challenge: &Value) -> Value {
        json!({"auth_tag": self.auth_tag(challenge)})
    }

    /// Its proof for this challenge.
    pub fn auth_tag(&self, challenge: &Value) -> String {
        let blob = challenge["results"]["blob"].as_str().unwrap();
        let (object, secret) = credential(&BASE64.decode(blob).unwrap());
        let public = self.ak.public();
        let name = Public::parse(&public).unwrap().name().to_bytes();
        let released = self.ek.activate(&name, &object, &secret);
        auth_tag(&released.expect("the TPM releases the secret"), &self.id)
    }
}

/// Both structures of a credential in tpm2-tools' form.
pub fn credential(blob: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let rest = blob.strip_prefix(&[0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1]);
    let rest = rest.expect("the header of tpm2-tools");
    let size = usize::from(u16::from_be_bytes([rest[0], rest[1]])) + 2;
    let (object, secret) = rest.split_at(size);
    let size = usize::from(u16::from_be_bytes([secret[0], secret[1]])) + 2;
    assert_eq!(secret.len(), size, "nothing follows the secret");
    (object.to_vec(), secret.to_vec())
}

/// The answer that follows from a secret: HMAC-SHA-384, by the base64 of the secret, of the id.
pub fn auth_tag(secret: &[u8], id: &str) -> String {
    let key = PKey::hmac(BASE64.encode(secret).as_bytes()).unwrap();
    let mut signer = Signer::new(MessageDigest::sha384(), &key).unwrap();
    hex::encode(signer.sign_oneshot_to_vec(id.as_bytes()).unwrap())
}
