//! A listener with the product's store, gate and surfaces, people to call it, and an agent's
//! certificate.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509Req};
use rat_api::auth::account::new_user;
use rat_api::auth::credential::{Credential, CredentialKind};
use rat_api::auth::{Gate, Passwords, roles};
use rat_api::clock::unix_ms;
use rat_api::listen::{Listener, Security, Stop};
use rat_api::people::{self, People};
use rat_api::surface::{Route, Shared, Surface, join};
use rat_api::tls::{Acceptor, Material, ServerCertificate};
use rat_api::{core, docs, exposition, health, keylime};
use rat_engine::agent_id::AgentId;
use rat_identity::ca::Ca;
use rat_store::{NewApiToken, NewSession, Store, StoredUser};
use rat_tests::http_client::{Answer, Client};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A password that every user here has.
pub(crate) const PASSWORD: &str = "correct horse battery";
pub(crate) const HOUR_MS: u64 = 60 * 60 * 1000;

pub(crate) struct World {
    pub(crate) store: Store,
    folder: tempfile::TempDir,
    ca: Ca,
    address: SocketAddr,
    stop: Stop,
    runtime: Runtime,
    sources: AtomicU32,
}

/// What is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// The routes of accounts.
    Accounts,
    /// Every route of every surface, behind its own entrance; its handler answers `reached`.
    Entrances,
}

async fn reached() -> &'static str {
    "reached"
}

/// Every route that the product declares.
pub(crate) fn declared(shared: &Arc<Shared>) -> Vec<Route> {
    [
        core::surface(Arc::clone(shared)).routes().to_vec(),
        people::surface(Arc::clone(shared)).routes().to_vec(),
        health::surface(Arc::clone(shared)).routes().to_vec(),
        exposition::surface(Arc::clone(shared)).routes().to_vec(),
        docs::surface(Arc::clone(shared)).routes().to_vec(),
        keylime::surface(Arc::clone(shared)).routes().to_vec(),
        keylime::registrar::surface(Arc::clone(shared))
            .routes()
            .to_vec(),
    ]
    .concat()
}

impl World {
    pub(crate) fn new(served: Served) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let data = folder.path().join("data");
        let store = runtime.block_on(Store::open(&data)).unwrap();
        let ca = Ca::open(folder.path(), unix_ms()).unwrap();
        let issued = ca
            .issue_server(&["127.0.0.1".to_owned()], unix_ms())
            .unwrap();
        let material = Material {
            chain: issued.chain_der,
            key_pkcs8: issued.key_pkcs8_der,
            not_after_unix_ms: issued.not_after_unix_ms,
        };
        let certificate = ServerCertificate::new(material, unix_ms()).unwrap();
        let acceptor = Acceptor::new(Arc::new(certificate), &ca.certificates()).unwrap();
        let shared = Shared::new(Gate::new(store.clone()), 10_000);
        let router = match served {
            Served::Accounts => {
                let people = People {
                    store: store.clone(),
                    shared: Arc::clone(&shared),
                    first_password: folder.path().join("admin-password"),
                };
                people::surface(Arc::clone(&shared)).into_router(Arc::new(people))
            }
            Served::Entrances => declared(&shared)
                .into_iter()
                .fold(Surface::new(Arc::clone(&shared)), |surface, route| {
                    surface.route(route, reached)
                })
                .into_router(()),
        };
        let security = Security::Tls(Arc::new(acceptor));
        let bound = Listener::bind("test", "127.0.0.1:0".parse().unwrap(), security);
        let listener = runtime.block_on(bound).unwrap();
        let (address, stop) = (listener.local_addr(), Stop::default());
        runtime.spawn(listener.serve(join(&shared, [router]), stop.clone()));
        Self {
            store,
            folder,
            ca,
            address,
            stop,
            runtime,
            sources: AtomicU32::new(1),
        }
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn ca_certificates(&self) -> Vec<Vec<u8>> {
        self.ca.certificates()
    }

    pub(crate) fn first_password(&self) -> PathBuf {
        self.folder.path().join("admin-password")
    }

    /// An address that nobody has called from, so that guesses of others do not count.
    pub(crate) fn source(&self) -> IpAddr {
        let [_, high, middle, low] = self.sources.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        IpAddr::from([127, high.max(1), middle, low])
    }

    /// A client at an address of its own.
    pub(crate) fn client(&self) -> Client {
        let pem = self.folder.path().join("ca.pem");
        Client::new(self.address, &pem).at(self.source())
    }

    /// A client with an agent's certificate.
    pub(crate) fn agent(&self) -> Client {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut request = X509Req::builder().unwrap();
        request.set_pubkey(&key).unwrap();
        request.sign(&key, MessageDigest::sha256()).unwrap();
        let csr = request.build().to_der().unwrap();
        let agent = AgentId::parse("agent-1").unwrap();
        let issued = self.ca.issue_agent(&csr, &agent, unix_ms()).unwrap();
        let certificate = X509::from_der(&issued.chain_der[0]).unwrap();
        let pem = self.folder.path().join("ca.pem");
        Client::with_certificate(self.address, &pem, &certificate, &key).at(self.source())
    }

    /// A user with these roles and [`PASSWORD`].
    pub(crate) fn user(&self, name: &str, role_ids: &[&str]) -> StoredUser {
        let held: Vec<_> = role_ids
            .iter()
            .map(|id| roles::named(id).unwrap())
            .collect();
        let hash = Passwords::hash_now(PASSWORD).unwrap();
        let user = new_user(name, "", &held, hash, unix_ms()).unwrap();
        self.run(self.store.put_user(&user, "test")).unwrap();
        self.stored(name)
    }

    pub(crate) fn stored(&self, name: &str) -> StoredUser {
        self.run(self.store.user_named(name)).unwrap().unwrap()
    }

    /// A session as the store keeps one, without a login; it ends at `expires_unix_ms`.
    pub(crate) fn session(&self, user: &StoredUser, expires_unix_ms: u64) -> String {
        let credential = Credential::generate(CredentialKind::Session).unwrap();
        let session = NewSession {
            id: credential.id().to_owned(),
            sha256: credential.sha256(),
            user: user.id.clone(),
            created_unix_ms: unix_ms(),
            expires_unix_ms,
        };
        let opened = self.run(self.store.open_session(&session, &user.password));
        assert!(opened.unwrap());
        credential.as_str().to_owned()
    }

    /// An API token as the store keeps one.
    pub(crate) fn token(
        &self,
        role: &str,
        owner: Option<&StoredUser>,
        expires_unix_ms: u64,
    ) -> String {
        let credential = Credential::generate(CredentialKind::ApiToken).unwrap();
        let token = NewApiToken {
            id: credential.id().to_owned(),
            sha256: credential.sha256(),
            name: "test".to_owned(),
            owner: owner.map(|owner| owner.id.clone()),
            role: role.to_owned(),
            created_by: "test".to_owned(),
            created_unix_ms: unix_ms(),
            expires_unix_ms,
        };
        self.run(self.store.put_api_token(&token)).unwrap();
        credential.as_str().to_owned()
    }

    /// T2, from an address of its own.
    pub(crate) fn log_in(&self, name: &str, password: &str) -> Answer {
        let body = json!({ "username": name, "password": password });
        self.client().post("/api/v1/auth/login", &body)
    }

    /// The token of a login that must succeed.
    #[track_caller]
    pub(crate) fn logged_in(&self, name: &str) -> String {
        let answer = self.log_in(name, PASSWORD);
        assert_eq!(
            answer.status,
            200,
            "{:?}",
            String::from_utf8_lossy(&answer.body)
        );
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn get(&self, path: &str, token: &str) -> Answer {
        self.client().get(path, Some(token))
    }

    pub(crate) fn send(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        self.client().send(method, path, Some(token), Some(body))
    }

    /// The status of T5.
    pub(crate) fn me(&self, token: &str) -> u16 {
        self.get("/api/v1/auth/me", token).status
    }

    /// The actions that the audit log holds.
    pub(crate) fn audited(&self) -> Vec<String> {
        let entries = self.run(self.store.audit_entries(0, 1000)).unwrap();
        entries.into_iter().map(|entry| entry.action).collect()
    }
}

/// A refusal in the fleet API's shape: status and code.
#[track_caller]
pub(crate) fn refused(answer: &Answer) -> (u16, String) {
    let body = answer.json();
    assert!(
        body["error"].is_string() && body["details"].is_object(),
        "{body}"
    );
    (answer.status, body["code"].as_str().unwrap().to_owned())
}

/// The same, to compare with.
pub(crate) fn refusal(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.force.cancel();
    }
}
