//! One of Keylime's agents that are polled: an HTTPS server with a TPM behind it, that speaks what
//! real ones were recorded to speak and does otherwise where a test wants it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::pkey::Private;
use openssl::rsa::Rsa;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_transport::pull::data_pcr;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::evidence::Machine;
use crate::keylime::{pcr_blob, quote_text};
use crate::measured::ascii;
use crate::pull_tpm::TpmMachine;
use crate::software_tpm::Attest;
use crate::tenant_asks::{self, Given, Tenant};

/// Since when the clocks of all those in software run.
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What makes an agent's quotes.
#[derive(Debug)]
pub enum Device {
    /// Software, in the boot with this number.
    Software(Box<Machine>, u32),
    /// swtpm.
    Tpm(Box<TpmMachine>),
}

impl Device {
    /// The lines of its list from this entry; all of them when there are not so many.
    fn list(&self, from: usize) -> (usize, String) {
        let list = match self {
            Self::Software(machine, _) => &machine.list,
            Self::Tpm(machine) => &machine.list,
        };
        let from = if from > list.len() { 0 } else { from };
        (from, String::from_utf8(ascii(&list[from..])).unwrap())
    }

    /// How its key encrypts and signs, in Keylime's words.
    pub(crate) fn algorithms(&self) -> (&'static str, &'static str) {
        match self {
            Self::Software(machine, _) if machine.ak.is_ecc() => ("ecc256", "ecdsa"),
            Self::Software(..) | Self::Tpm(_) => ("rsa2048", "rsassa"),
        }
    }

    /// A quote of the PCRs in a mask and of PCR 16, which shows this key.
    pub fn quote(&self, nonce: &str, mask: u32, shown: &str) -> String {
        let pcrs = PcrSet::from_bits(mask | 1 << 16).unwrap();
        match self {
            Self::Tpm(machine) => machine.quote(nonce, pcrs, shown).unwrap(),
            Self::Software(machine, boot) => {
                let banks = vec![(HashAlg::Sha256, pcrs)];
                let mut machine = machine.as_ref().clone();
                machine.banks.clone_from(&banks);
                let mut values = machine.values();
                values.insert(
                    PcrIndex::KEYLIME_DATA,
                    data_pcr(HashAlg::Sha256, shown.as_bytes()),
                );
                let mut attest = Attest::quote(HashAlg::Sha256, nonce.as_bytes(), &banks, &values);
                attest.reset_count = *boot;
                attest.clock += u64::try_from(STARTED.elapsed().as_millis()).unwrap();
                let message = attest.to_bytes();
                let signature = machine.ak.sign(&message);
                quote_text(&message, &signature, &pcr_blob(&banks, &values))
            }
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// More lines of the head, each with its end.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
    /// How it is sent.
    pub how: How,
}

/// How an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// At once.
    Whole,
    /// After a while.
    Late(Duration),
    /// A byte at a time, with this pause.
    Drip(Duration),
    /// Without an end.
    Endless,
    /// Not at all: the connection ends.
    Never,
    /// These bytes in place of an answer.
    Raw(&'static [u8]),
}

impl Reply {
    /// JSON as agents send it.
    pub fn of(status: u16, text: &str, results: Value) -> Self {
        let body = json!({"code": status, "status": text, "results": results});
        Self {
            status,
            head: String::new(),
            body: body.to_string().into_bytes(),
            how: How::Whole,
        }
    }

    /// The same with a change to the members of its results.
    pub fn changed(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut body: Value = serde_json::from_slice(&self.body).unwrap();
        change(&mut body["results"]);
        self.body = body.to_string().into_bytes();
        self
    }
}

/// Requests that are remembered.
const REQUESTS_MAX: usize = 10_000;

/// Changes the answer to a path and query.
pub type Bend = dyn Fn(&str, Reply) -> Reply + Send + Sync;

struct Shared {
    device: Mutex<Device>,
    bend: Mutex<Arc<Bend>>,
    asked: Mutex<Vec<String>>,
    versions: Mutex<Vec<&'static str>>,
    key: Rsa<Private>,
    /// PEM.
    shown: String,
    v_keys: Mutex<Vec<Vec<u8>>>,
    tenant: Tenant,
    revocations: Mutex<Vec<Value>>,
    connections: AtomicUsize,
}

/// A running agent.
pub struct PullAgent {
    shared: Arc<Shared>,
    /// Where it is.
    pub address: SocketAddr,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    acceptor: Option<TlsAcceptor>,
    serving: Option<JoinHandle<()>>,
}

/// A self-signed certificate as agents make it, and TLS with it.
fn tls(client_ca: Option<Vec<u8>>) -> (Vec<u8>, TlsAcceptor) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["agent".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().to_vec();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from(ca)).unwrap();
            let clients =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(clients.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from(certificate.clone())];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = builder.with_single_cert(chain, key).unwrap();
    (certificate, TlsAcceptor::from(Arc::new(config)))
}

impl PullAgent {
    /// An agent that takes any client.
    pub async fn start(device: Device) -> Self {
        Self::with(device, Some(tls(None))).await
    }

    /// One that takes clients of this CA alone (DER).
    pub async fn of_ca(device: Device, ca: Vec<u8>) -> Self {
        Self::with(device, Some(tls(Some(ca)))).await
    }

    /// One that speaks plain HTTP.
    pub async fn plain(device: Device) -> Self {
        Self::with(device, None).await
    }

    async fn with(device: Device, tls: Option<(Vec<u8>, TlsAcceptor)>) -> Self {
        // One for all of a process: nobody tells agents apart by it, and making one takes long.
        static KEY: LazyLock<Rsa<Private>> = LazyLock::new(|| Rsa::generate(2048).unwrap());
        let key = KEY.clone();
        let shown = String::from_utf8(key.public_key_to_pem().unwrap()).unwrap();
        let shared = Shared {
            device: Mutex::new(device),
            bend: Mutex::new(Arc::new(|_, reply| reply)),
            asked: Mutex::default(),
            versions: Mutex::new(vec!["2.1", "2.2", "2.3", "2.4", "2.5", "2.6"]),
            key,
            shown,
            v_keys: Mutex::default(),
            tenant: Tenant::default(),
            revocations: Mutex::default(),
            connections: AtomicUsize::new(0),
        };
        let (certificate, acceptor) = tls.unzip();
        let mut agent = Self {
            shared: Arc::new(shared),
            address: "127.0.0.1:0".parse().unwrap(),
            certificate: certificate.unwrap_or_default(),
            acceptor,
            serving: None,
        };
        agent.resume().await;
        agent
    }

    /// Serves, again at the same address.
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (shared, acceptor) = (Arc::clone(&self.shared), self.acceptor.clone());
        self.serving = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(Arc::clone(&shared), stream, acceptor.clone()));
            }
        }));
    }

    /// Is gone, with all of its connections.
    pub async fn pause(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Is another one from now on: it has another certificate.
    pub async fn replace_certificate(&mut self) {
        self.pause().await;
        let (_, acceptor) = tls(None);
        self.acceptor = Some(acceptor);
        self.resume().await;
    }

    /// Changes what answers are from now on.
    pub fn bend(&self, bend: impl Fn(&str, Reply) -> Reply + Send + Sync + 'static) {
        *self.shared.bend.lock().unwrap() = Arc::new(bend);
    }

    /// Answers truthfully again.
    pub fn straighten(&self) {
        self.bend(|_, reply| reply);
    }

    /// Changes the machine.
    pub fn change(&self, change: impl FnOnce(&mut Device)) {
        change(&mut self.shared.device.lock().unwrap());
    }

    /// Serves these versions from now on.
    pub fn serve_versions(&self, versions: &[&'static str]) {
        *self.shared.versions.lock().unwrap() = versions.to_vec();
    }

    /// Path and query of each request for evidence so far.
    pub fn quotes_asked(&self) -> Vec<String> {
        let asked = self.shared.asked.lock().unwrap();
        let quotes = asked.iter().filter(|it| it.contains("/quotes/integrity?"));
        quotes.cloned().collect()
    }

    /// Path and query of each request so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// V keys that it was given, opened.
    pub fn v_keys(&self) -> Vec<Vec<u8>> {
        self.shared.v_keys.lock().unwrap().clone()
    }

    /// What its tenant gave it last.
    pub fn given(&self) -> Option<Given> {
        self.shared.tenant.given()
    }

    /// Revocations of others that it was told of, in order.
    pub fn revocations(&self) -> Vec<Value> {
        self.shared.revocations.lock().unwrap().clone()
    }

    /// Connections that were opened to it so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The key that it shows, PEM.
    pub fn shown(&self) -> String {
        self.shared.shown.clone()
    }
}

impl Drop for PullAgent {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
    stream.set_nodelay(true).unwrap();
    match acceptor {
        None => converse(&shared, stream).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                converse(&shared, stream).await;
            }
        }
    }
}

async fn converse(shared: &Shared, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let head = String::from_utf8(read.drain(..end).collect()).unwrap();
        let lower = head.to_lowercase();
        let length = lower.split("content-length: ").nth(1);
        let length = length.map_or(0, |it| it.split("\r\n").next().unwrap().parse().unwrap());
        while read.len() < length {
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = read.drain(..length).collect();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        {
            let mut asked = shared.asked.lock().unwrap();
            if asked.len() < REQUESTS_MAX {
                asked.push(target.clone());
            }
        }
        let reply = answer(shared, &target, &body);
        let bend = Arc::clone(&shared.bend.lock().unwrap());
        let reply = bend(&target, reply);
        let closes = lower.contains("connection: close");
        if !send(&mut stream, reply, closes).await || closes {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

/// Sends an answer; false when the connection is to end.
async fn send(stream: &mut (impl AsyncWrite + Unpin), reply: Reply, closes: bool) -> bool {
    let Reply {
        status,
        head,
        body,
        how,
    } = reply;
    let mut bytes = format!("HTTP/1.1 {status} X\r\n{head}");
    if closes {
        bytes.push_str("connection: close\r\n");
    }
    if how != How::Endless && !head.contains("content-length") {
        bytes.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    bytes.push_str("content-type: application/json\r\n\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend(body);
    match how {
        How::Never => false,
        How::Raw(raw) => stream.write_all(raw).await.is_ok(),
        How::Whole => stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok(),
        How::Late(after) => {
            tokio::time::sleep(after).await;
            stream.write_all(&bytes).await.is_ok()
        }
        How::Drip(pause) => {
            for byte in bytes {
                if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
                    return false;
                }
                tokio::time::sleep(pause).await;
            }
            true
        }
        How::Endless => {
            let _ = stream.write_all(&bytes).await;
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
            false
        }
    }
}

fn answer(shared: &Shared, target: &str, body: &[u8]) -> Reply {
    let versions = shared.versions.lock().unwrap().clone();
    if target == "/version" {
        let newest = versions.last().unwrap();
        let said = json!({"supported_version": newest, "supported_versions": versions});
        return Reply::of(200, "Success", said);
    }
    let (version, rest) = target[2..].split_once('/').unwrap();
    if !versions.contains(&version) {
        return Reply::of(400, "API version not supported", json!({}));
    }
    if rest == "keys/vkey" {
        let body: Value = serde_json::from_slice(body).unwrap();
        let opened = tenant_asks::opened(&shared.key, &body);
        shared.v_keys.lock().unwrap().push(opened);
        return Reply::of(200, "Success", json!({}));
    }
    if rest == "notifications/revocation" {
        let body: Value = serde_json::from_slice(body).unwrap();
        shared.revocations.lock().unwrap().push(body);
        return Reply::of(200, "Success", json!({}));
    }
    if let Some(query) = rest.strip_prefix("quotes/integrity?") {
        return integrity(shared, query);
    }
    let v_key = shared.v_keys.lock().unwrap().last().cloned();
    let device = shared.device.lock().unwrap();
    let asked = shared.tenant.answer(
        (rest, body),
        (&shared.key, &shared.shown),
        (&device, v_key.as_ref()),
    );
    asked.unwrap_or_else(|| Reply::of(404, "Not Found", json!({})))
}

fn integrity(shared: &Shared, query: &str) -> Reply {
    let value = |name: &str| {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap());
        pairs.into_iter().find(|(key, _)| *key == name).unwrap().1
    };
    let nonce = value("nonce");
    assert!(nonce.len() <= 64 && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let mask = u32::from_str_radix(value("mask").strip_prefix("0x").unwrap(), 16).unwrap();
    let device = shared.device.lock().unwrap();
    let sign_alg = device.algorithms();
    let mut results = json!({
        "quote": device.quote(nonce, mask, &shared.shown),
        "hash_alg": "sha256",
        "enc_alg": sign_alg.0,
        "sign_alg": sign_alg.1,
    });
    if value("partial") == "0" {
        results["pubkey"] = shared.shown.clone().into();
    }
    if let Device::Software(machine, _) = &*device
        && mask & 1 != 0
    {
        results["mb_measurement_list"] = STANDARD.encode(machine.boot_log()).into();
    }
    if mask & (1 << 10) != 0 {
        let (from, lines) = device.list(value("ima_ml_entry").parse().unwrap());
        results["ima_measurement_list"] = lines.into();
        results["ima_measurement_list_entry"] = from.into();
    }
    Reply::of(200, "Success", results)
}
