//! Keylime's verifier in front of real shards, and agents that push to it, with keys in software.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_api::auth::Gate;
use rat_api::clock::unix_ms;
use rat_api::core::fleet::{Answer as Later, Fleet, FleetUnavailable, Seen};
use rat_api::keylime::push;
use rat_api::keylime::verifier::{self, Mode, Verifier};
use rat_api::keylime::{self, Keylime, MeasuredBoot};
use rat_api::listen::{Listener, Security, Stop};
use rat_api::surface::Shared;
use rat_api::tls::{Acceptor, Material, ServerCertificate};
use rat_engine::agent_id::AgentId;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::shard::{Coverage, Glance, KEYLIME_GROUP, Operation, StatusCounts};
use rat_engine::tpm::Public;
use rat_identity::keylime::KeylimeCa;
use rat_ops::webhook;
use rat_runtime::{ControlError, EventStream, KeylimeSettings, Runtime, Settings, SystemClock};
use rat_store::{GroupSettings, KeylimeKind, NewGroup, Store, StoredAgent};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driven;
use crate::evidence::Machine;
use crate::http_client::{Answer, Client};
use crate::keylime::{pcr_blob, tpm2b};
use crate::measured;
use crate::registrar::client_files;

/// The driven shards, as the API asks for them.
struct Shards(Arc<Runtime>);

fn told<T>(told: Result<T, ControlError>) -> Result<T, FleetUnavailable> {
    told.map_err(|_| FleetUnavailable)
}

impl Fleet for Shards {
    fn enrolled(&self, agent: StoredAgent) -> Later<'_, ()> {
        Box::pin(async move { told(self.0.enrolled(agent.record, agent.state).await) })
    }

    fn seen(&self, agent: AgentId) -> Later<'_, Option<Seen>> {
        Box::pin(async move {
            let view = told(self.0.view(agent).await)?;
            Ok(view.map(Seen::from))
        })
    }

    fn glances(&self, agents: Vec<AgentId>) -> Later<'_, Vec<Option<Glance>>> {
        Box::pin(async move { told(self.0.glances(agents).await) })
    }

    fn group_changed(&self, slug: String) -> Later<'_, ()> {
        Box::pin(async move { told(self.0.reload_group(&slug).await.map(|_| ())) })
    }

    fn keylime_changed(&self, agent: AgentId) -> Later<'_, ()> {
        Box::pin(async move { told(self.0.reload_keylime(&agent).await) })
    }

    fn keylime_policy_changed(&self, kind: KeylimeKind, name: String) -> Later<'_, ()> {
        Box::pin(async move { told(self.0.keylime_policy_changed(kind, &name).await) })
    }

    fn clear(&self, agent: AgentId) -> Later<'_, ()> {
        Box::pin(async move { told(self.0.operate(agent, Operation::Clear).await) })
    }

    fn remove(&self, agent: AgentId) -> Later<'_, ()> {
        Box::pin(async move { told(self.0.remove(agent).await) })
    }

    fn set_aside(&self, agent: AgentId) -> Later<'_, ()> {
        Box::pin(async move { told(self.0.set_aside(agent).await) })
    }

    fn coverage(&self, slug: String) -> Later<'_, Option<Coverage>> {
        Box::pin(async move { told(self.0.coverage(&slug).await) })
    }

    fn status_counts(&self) -> Later<'_, StatusCounts> {
        Box::pin(async move { told(self.0.status_counts().await) })
    }
}

/// Agents may attest twice a second, and have two seconds to answer.
pub fn often() -> KeylimeSettings {
    KeylimeSettings {
        interval_ms: 500,
        ..KeylimeSettings::default()
    }
}

/// The records in a folder, with the group of Keylime's agents, and the shards over them.
async fn records(folder: &TempDir, keylime: KeylimeSettings) -> (Store, Arc<Runtime>) {
    let store = Store::open(&folder.path().join("data")).await.unwrap();
    if store.group(KEYLIME_GROUP).await.unwrap().is_none() {
        let group = NewGroup {
            slug: KEYLIME_GROUP.into(),
            hex_id: "00".repeat(16),
            settings: GroupSettings::default(),
        };
        store.create_group(&group, "test", 1).await.unwrap();
    }
    let settings = Settings {
        keylime,
        ..driven::settings()
    };
    let clock = Arc::new(SystemClock::start());
    let shards = Runtime::start(store.clone(), settings, clock).await;
    (store, Arc::new(shards.unwrap()))
}

/// TLS as Keylime's clients expect it, by the CA in a folder, which is made there when it has none.
fn acceptor(ca_folder: &Path) -> Acceptor {
    let ca = match std::fs::create_dir(ca_folder) {
        Ok(()) => KeylimeCa::make(ca_folder, &["127.0.0.1".to_owned()], unix_ms()).unwrap(),
        Err(_) => KeylimeCa::open(ca_folder, unix_ms()).unwrap().unwrap(),
    };
    let server = ca.server().unwrap();
    let material = Material {
        chain: server.chain_der,
        key_pkcs8: server.key_pkcs8_der,
        not_after_unix_ms: server.not_after_unix_ms,
    };
    let certificate = Arc::new(ServerCertificate::new(material, unix_ms()).unwrap());
    Acceptor::for_keylime(certificate, ca.certificate_der().to_vec()).unwrap()
}

/// A verifier that serves.
pub struct Served {
    /// Its records.
    pub store: Store,
    /// Where everybody reaches it.
    pub address: SocketAddr,
    folder: TempDir,
    tokio: tokio::runtime::Runtime,
    shards: Arc<Runtime>,
    stop: Stop,
}

impl Served {
    /// One whose agents may attest twice a second.
    pub fn start() -> Self {
        Self::start_with(often())
    }

    /// One with these settings.
    pub fn start_with(keylime: KeylimeSettings) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), keylime)
    }

    /// The same, which perhaps demands that policies are signed.
    pub fn start_demanding(keylime: KeylimeSettings, signatures: bool) -> Self {
        Self::start_as(tempfile::tempdir().unwrap(), keylime, signatures)
    }

    /// The same in the folder of an earlier one.
    pub fn start_in(folder: TempDir, keylime: KeylimeSettings) -> Self {
        Self::start_as(folder, keylime, false)
    }

    fn start_as(folder: TempDir, keylime: KeylimeSettings, signatures: bool) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (store, shards) = tokio.block_on(records(&folder, keylime));
        let acceptor = acceptor(&folder.path().join("cv_ca"));
        let fleet: Arc<dyn Fleet> = Arc::new(Shards(Arc::clone(&shards)));
        let pushes = push::Inner::new(
            store.clone(),
            Arc::clone(&fleet),
            shards.intake(),
            Duration::from_secs(180),
            Duration::from_millis(keylime.interval_ms),
        );
        let gate = Gate::new(store.clone()).with_push(&pushes);
        let shared = Shared::new(gate, 10_000);
        let state = Arc::new(Verifier {
            store: store.clone(),
            fleet,
            polls: None,
            mode: Mode::Auto,
            id: "default".into(),
            require_policy_signatures: signatures,
            boot_policy: keylime.boot_policy,
            ip: "127.0.0.1".into(),
            port: 8881,
            interval_seconds: 10,
            severities: Arc::default(),
            turn: tokio::sync::Mutex::default(),
        });
        let routers = [
            verifier::surface(Arc::clone(&shared)).into_router(state),
            push::surface(Arc::clone(&shared)).into_router(pushes),
            keylime::surface(Arc::clone(&shared))
                .into_router(Keylime::new(1, MeasuredBoot::default())),
        ];
        let router = keylime::join(&shared, routers);
        let any = "127.0.0.1:0".parse().unwrap();
        let security = Security::Tls(Arc::new(acceptor));
        let listener = tokio.block_on(Listener::bind("verifier", any, security));
        let listener = listener.unwrap();
        let address = listener.local_addr();
        let stop = Stop::default();
        tokio.spawn(listener.serve(router, stop.clone()));
        Self {
            store,
            address,
            folder,
            tokio,
            shards,
            stop,
        }
    }

    /// Stops it; what is left is its folder.
    pub fn end(self) -> TempDir {
        self.stop.drain.cancel();
        self.stop.force.cancel();
        let Self {
            tokio,
            shards,
            store,
            folder,
            ..
        } = self;
        tokio.block_on(async {
            let shards = sole(shards).await;
            shards.drain(Duration::from_secs(60)).await;
            store.close().await;
        });
        folder
    }

    /// What the shards tell from now on.
    pub fn events(&self) -> EventStream {
        self.shards.events()
    }

    /// The shards, as whoever tells of agents asks them; for as long as they are there.
    pub fn views(&self) -> Arc<dyn webhook::Fleet> {
        Arc::clone(&self.shards) as Arc<dyn webhook::Fleet>
    }

    /// Waits for a future.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.tokio.block_on(future)
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("cv_ca")
    }

    /// Somebody without a certificate.
    pub fn anonymous(&self) -> Client {
        Client::new(self.address, &self.ca().join("cacert.crt"))
    }

    /// A tenant.
    pub fn admin(&self) -> Client {
        let (certificate, key) = client_files(&self.ca());
        let ca = self.ca().join("cacert.crt");
        Client::with_certificate(self.address, &ca, &certificate, &key)
    }

    /// A request of the tenant, who says no media type.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let text = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        self.admin()
            .request_of_own(method, path, &[], text.as_bytes())
    }

    /// How an agent stands.
    #[track_caller]
    pub fn standing(&self, agent: &Pusher) -> Value {
        let answer = self.ask("GET", &format!("/v2.6/agents/{}", agent.id), &Value::Null);
        assert_eq!(answer.status, 200, "{}", shown(&answer));
        answer.json()["results"].clone()
    }

    /// Adds an agent with the policy that its machine keeps to.
    #[track_caller]
    pub fn add(&self, agent: &Pusher) {
        let answer = self.ask("POST", &agent.path(), &agent.body());
        assert_eq!(answer.status, 200, "{}", shown(&answer));
    }
}

async fn sole(mut shared: Arc<Runtime>) -> Runtime {
    for _ in 0..1_000 {
        match Arc::try_unwrap(shared) {
            Ok(runtime) => return runtime,
            Err(still) => shared = still,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("somebody holds the shards");
}

/// The body of an answer as text.
pub fn shown(answer: &Answer) -> String {
    format!(
        "{} {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    )
}

/// An agent of Keylime that pushes.
#[derive(Debug, Clone)]
pub struct Pusher {
    /// Its id.
    pub id: String,
    /// Its machine.
    pub machine: Machine,
    /// Its TPM's clock.
    pub clock: u64,
    /// How often its TPM was reset.
    pub reset_count: u32,
    /// The algorithm of its key, as it says.
    pub algorithm: &'static str,
    /// The token of its session.
    pub token: Option<String>,
}

impl Pusher {
    /// One with this id, whose TPM has a P-256 key.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            machine: Machine::valid(),
            clock: 123_456,
            reset_count: 7,
            algorithm: "ecc",
            token: None,
        }
    }

    /// Where it is added.
    pub fn path(&self) -> String {
        format!("/v2.6/agents/{}", self.id)
    }

    /// The policy that its machine keeps to.
    pub fn policy(&self) -> String {
        self.machine.keylime_policy()
    }

    /// What its tenant says of it.
    pub fn body(&self) -> Value {
        json!({
            "v": null,
            "cloudagent_ip": null,
            "cloudagent_port": null,
            "tpm_policy": "{\"mask\": \"0x400\"}",
            "runtime_policy": BASE64.encode(self.policy()),
            "runtime_policy_name": null,
            "runtime_policy_key": "",
            "mb_policy": null,
            "mb_policy_name": null,
            "ima_sign_verification_keys": "",
            "metadata": "{}",
            "revocation_key": "",
            "accept_tpm_hash_algs": ["sha512", "sha384", "sha256"],
            "accept_tpm_encryption_algs": ["rsa", "ecc"],
            "accept_tpm_signing_algs": ["ecschnorr", "rsassa", "ecdsa"],
            "ak_tpm": tpm2b(&self.machine.ak.public()),
            "mtls_cert": "disabled",
            "supported_version": "1.0",
        })
    }

    /// What it asks a session with.
    pub fn asks(&self) -> Value {
        json!({"data": {"type": "session", "attributes": {
            "agent_id": self.id,
            "authentication_supported": [
                {"authentication_class": "pop", "authentication_type": "tpm_pop"},
            ],
        }}})
    }

    /// `TPM2_Certify` of its attestation key by itself, for a challenge.
    pub fn certify(&self, challenge: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let public = self.machine.ak.public();
        let name = Public::parse(&public).unwrap().name().to_bytes();
        let sized = |bytes: &[u8]| {
            let size = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            [&size[..], bytes].concat()
        };
        let mut attest = 0xff54_4347_u32.to_be_bytes().to_vec();
        attest.extend(0x8017_u16.to_be_bytes());
        attest.extend(sized(&name));
        attest.extend(sized(challenge));
        attest.extend(self.clock.to_be_bytes());
        attest.extend(self.reset_count.to_be_bytes());
        attest.extend(0_u32.to_be_bytes());
        attest.push(1);
        attest.extend(4_u64.to_be_bytes());
        attest.extend(sized(&name));
        attest.extend(sized(&name));
        let signature = self.machine.ak.sign(&attest);
        (attest, signature)
    }

    /// What it proves its key with, for the answer to [`asks`](Self::asks).
    pub fn proves(&self, challenged: &Value) -> (String, Value) {
        let data = &challenged["data"];
        let name = data["id"].as_str().unwrap().to_owned();
        let requested = &data["attributes"]["authentication_requested"][0];
        let challenge = requested["chosen_parameters"]["challenge"]
            .as_str()
            .unwrap();
        let (message, signature) = self.certify(&BASE64.decode(challenge).unwrap());
        let body = json!({"data": {"type": "session", "id": name, "attributes": {
            "agent_id": self.id,
            "authentication_provided": [{
                "authentication_class": "pop",
                "authentication_type": "tpm_pop",
                "data": {
                    "message": BASE64.encode(message),
                    "signature": BASE64.encode(signature),
                },
            }],
        }}});
        (name, body)
    }

    /// Sends a document of JSON:API, with its token if it has one.
    pub fn send(&self, served: &Served, method: &str, path: &str, body: &Value) -> Answer {
        let mut headers = vec!["content-type: application/vnd.api+json".to_owned()];
        headers.extend(
            self.token
                .as_ref()
                .map(|it| format!("authorization: Bearer {it}")),
        );
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let text = body.to_string();
        served
            .anonymous()
            .request_of_own(method, path, &headers, text.as_bytes())
    }

    /// Asks for a session and proves its key; the answer to the proof.
    pub fn prove(&self, served: &Served) -> Answer {
        let anonymous = Self {
            token: None,
            ..self.clone()
        };
        let asked = anonymous.send(served, "POST", "/v3.0/sessions", &self.asks());
        assert_eq!(asked.status, 200, "{}", shown(&asked));
        let (name, body) = self.proves(&asked.json());
        anonymous.send(served, "PATCH", &format!("/v3.0/sessions/{name}"), &body)
    }

    /// Opens a session.
    #[track_caller]
    pub fn open(&mut self, served: &Served) {
        let answer = self.prove(served);
        let attributes = &answer.json()["data"]["attributes"];
        assert_eq!(attributes["evaluation"], "pass", "{}", shown(&answer));
        self.token = Some(attributes["token"].as_str().unwrap().to_owned());
    }

    /// What it offers.
    pub fn offers(&self) -> Value {
        let scheme = if self.algorithm == "ecc" {
            "ecdsa"
        } else {
            "rsassa"
        };
        let hash = self.machine.ak.hash().name();
        let all: Vec<u8> = (0..24).collect();
        json!({"data": {"type": "attestation", "attributes": {
            "evidence_supported": [
                {"evidence_class": "certification", "evidence_type": "tpm_quote", "capabilities": {
                    "component_version": "2.0",
                    "hash_algorithms": ["sha1", hash],
                    "signature_schemes": [scheme],
                    "available_subjects": {"sha1": all, hash: all},
                    "certification_keys": [{
                        "key_class": "asymmetric",
                        "key_algorithm": self.algorithm,
                        "key_size": 256,
                        "server_identifier": "ak",
                        "local_identifier": "000b",
                        "public": tpm2b(&self.machine.ak.public()),
                        "allowable_hash_algorithms": [hash],
                        "allowable_signature_schemes": [scheme],
                    }],
                }},
                {"evidence_class": "log", "evidence_type": "uefi_log", "capabilities": {
                    "evidence_version": "2.1", "entry_count": 0, "supports_partial_access": false,
                    "appendable": false, "formats": ["application/octet-stream"],
                }},
                {"evidence_class": "log", "evidence_type": "ima_log", "capabilities": {
                    "entry_count": self.machine.list.len(), "supports_partial_access": true,
                    "appendable": true, "formats": ["text/plain"],
                }},
            ],
            "system_info": {"boot_time": "2026-11-22T07:50:49Z"},
        }}})
    }

    /// Begins an attestation.
    pub fn begin(&self, served: &Served) -> Answer {
        let path = format!("/v3.0/agents/{}/attestations", self.id);
        self.send(served, "POST", &path, &self.offers())
    }

    /// The same, as often as it is told to come later.
    pub fn begin_when_due(&self, served: &Served) -> Answer {
        loop {
            let begun = self.begin(served);
            if begun.status != 429 {
                return begun;
            }
            let seconds = begun.header("retry-after").unwrap().parse().unwrap();
            std::thread::sleep(Duration::from_secs(seconds));
        }
    }

    /// The evidence for what an attestation asks for.
    pub fn evidence(&self, begun: &Value) -> Value {
        let requested = begun["data"]["attributes"]["evidence_requested"].as_array();
        let collected = requested.unwrap().iter().map(|asked| {
            let parameters = &asked["chosen_parameters"];
            let data = match asked["evidence_type"].as_str().unwrap() {
                "tpm_quote" => self.quote(parameters),
                "ima_log" => self.list(parameters["starting_offset"].as_u64().unwrap()),
                "uefi_log" => json!({"entries": BASE64.encode(self.machine.boot_log())}),
                other => panic!("{other} is asked for"),
            };
            json!({
                "evidence_class": asked["evidence_class"],
                "evidence_type": asked["evidence_type"],
                "data": data,
            })
        });
        let collected: Vec<Value> = collected.collect();
        json!({"data": {"type": "attestation", "attributes": {"evidence_collected": collected}}})
    }

    fn quote(&self, parameters: &Value) -> Value {
        let challenge = BASE64.decode(parameters["challenge"].as_str().unwrap());
        let bank = HashAlg::from_name(parameters["hash_algorithm"].as_str().unwrap().as_bytes());
        let bank = bank.unwrap();
        let pcrs = parameters["selected_subjects"][bank.name()]
            .as_array()
            .unwrap();
        let pcrs = pcrs
            .iter()
            .map(|pcr| PcrIndex::new(pcr.as_u64().unwrap()).unwrap());
        // Keylime's agents quote it whatever they are asked for.
        let pcrs: PcrSet = pcrs.chain([PcrIndex::KEYLIME_DATA]).collect();
        let machine = Machine {
            banks: vec![(bank, pcrs)],
            ..self.machine.clone()
        };
        let submission = machine.attest(&challenge.unwrap()).with_attest(|attest| {
            attest.clock = self.clock;
            attest.reset_count = self.reset_count;
        });
        json!({
            "message": BASE64.encode(&submission.quote),
            "signature": BASE64.encode(&submission.signature),
            "subject_data": BASE64.encode(pcr_blob(&machine.banks, &submission.values)),
        })
    }

    fn list(&self, from: u64) -> Value {
        let from = usize::try_from(from).unwrap().min(self.machine.list.len());
        let lines = measured::ascii(&self.machine.list[from..]);
        json!({
            "entries": String::from_utf8(lines).unwrap(),
            "entry_count": self.machine.list.len() - from,
        })
    }

    /// One attestation, from its begin to the answer to its evidence.
    #[track_caller]
    pub fn attest(&mut self, served: &Served) -> Answer {
        let begun = self.begin_when_due(served);
        self.conclude(served, &begun)
    }

    /// The answer to its evidence for an attestation that it began.
    #[track_caller]
    pub fn conclude(&mut self, served: &Served, begun: &Answer) -> Answer {
        assert_eq!(begun.status, 201, "{}", shown(begun));
        self.clock += 100;
        let location = begun.header("location").unwrap().to_owned();
        self.send(served, "PATCH", &location, &self.evidence(&begun.json()))
    }
}
