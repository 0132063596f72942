//! A server of the enrolment routes, with the product's own CA, EK trust and activation: what an
//! agent needs to be enrolled, without store, groups or people.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_agent::token::Token;
use rat_agent::unix_ms;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::NonceSource;
use rat_identity::ca::Ca;
use rat_identity::ek::EkTrust;
use rat_identity::enrolment::{Pending, Request, challenge, check, verify};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The group of every token.
pub const GROUP: &str = "test-fleet";

/// Random numbers of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemRandom;

impl NonceSource for SystemRandom {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        getrandom::fill(bytes).ok()
    }
}

/// What the server does and has seen.
#[derive(Debug)]
pub struct Core {
    /// The CA.
    pub ca: Ca,
    /// Which TPMs it knows.
    pub trust: EkTrust,
    /// Where agents are sent with their evidence.
    pub evidence_address: Mutex<String>,
    /// `stay` or `leave`.
    pub mode: &'static str,
    /// Requests that are put off before one is served.
    pub put_off: AtomicU32,
    /// Requests that arrived, whatever came of them.
    pub requests: AtomicUsize,
    /// Measurement lists that came with a baseline.
    pub lists: Mutex<Vec<String>>,
    pending: Mutex<HashMap<String, Pending>>,
    /// Attestation keys by agent, once proven.
    pub enrolled: Mutex<HashMap<AgentId, Pending>>,
}

impl Core {
    /// A server with a CA in this folder.
    pub fn new(folder: &std::path::Path, trust: EkTrust) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            ca: Ca::open(folder, unix_ms())?,
            trust,
            evidence_address: Mutex::new("127.0.0.1:1".into()),
            mode: "stay",
            put_off: AtomicU32::new(0),
            requests: AtomicUsize::new(0),
            lists: Mutex::default(),
            pending: Mutex::default(),
            enrolled: Mutex::default(),
        })
    }

    /// A token for this server.
    pub fn token(&self, baseline: bool) -> Token {
        let prefix = if baseline { "esp_b_" } else { "esp_" };
        let fingerprint = hex::encode(self.ca.fingerprint());
        format!("{prefix}{}{}{fingerprint}", "1".repeat(16), "2".repeat(32))
            .parse()
            .unwrap()
    }

    /// Serves on a port of the kernel's choice until the runtime ends.
    pub async fn serve(self: &Arc<Self>) -> Result<SocketAddr> {
        let issued = self
            .ca
            .issue_server(&["localhost".into(), "127.0.0.1".into()], unix_ms())?;
        let chain = issued.chain_der.into_iter().map(CertificateDer::from);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key_pkcs8_der));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let core = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (core, acceptor) = (Arc::clone(&core), acceptor.clone());
                tokio::spawn(async move {
                    // A client that turns away is part of the tests.
                    let _ = core.connection(stream, acceptor).await;
                });
            }
        });
        Ok(address)
    }

    async fn connection(&self, stream: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
        let mut stream = acceptor.accept(stream).await?;
        let mut request = Vec::new();
        let head_end = loop {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
            let end = request.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
        };
        self.requests.fetch_add(1, Ordering::SeqCst);
        let head = String::from_utf8(request[..head_end].to_vec())?.to_lowercase();
        let path = head.split(' ').nth(1).context("no path")?.to_owned();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(Ok(0), str::parse::<usize>)?;
        while request.len() < head_end + length {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let (status, body) = self.answer(&path, &request[head_end..]);
        let body = body.to_string();
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nretry-after: 1\r\ndate: {date}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        Ok(stream.shutdown().await?)
    }

    fn answer(&self, path: &str, body: &[u8]) -> (&'static str, Value) {
        let less = |count: u32| count.checked_sub(1);
        if self
            .put_off
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
        {
            return ("503 Busy", json!({"detail": "busy"}));
        }
        if path == "/livez" {
            return ("200 OK", json!({}));
        }
        match self.routes(path, body) {
            Ok(answer) => ("200 OK", answer),
            Err(error) => ("422 No", json!({"detail": format!("{error:#}")})),
        }
    }

    fn routes(&self, path: &str, body: &[u8]) -> Result<Value> {
        let body: Value = serde_json::from_slice(body)?;
        let text = |field: &str| body[field].as_str().with_context(|| field.to_owned());
        if let Some(agent) = path.strip_prefix("/agents/")
            && let Some(agent) = agent.strip_suffix("/activate")
        {
            let id = text("activation_id")?;
            let proof = hex::decode(text("proof")?)?;
            return self.activate(&AgentId::parse(agent)?, id, &proof);
        }
        let token: Token = text("token")?.parse()?;
        anyhow::ensure!(*token.ca_sha256() == self.ca.fingerprint(), "unknown token");
        match path {
            "/tokens/validate" => Ok(json!({
                "registrar_ip": "127.0.0.1",
                "verifier_ip": "127.0.0.1",
                "core_url": "https://localhost",
                "is_baseline": token.is_baseline(),
                "group_id": GROUP,
            })),
            "/agents/enroll" | "/agents/enroll-baseline" => {
                if token.is_baseline() {
                    self.lists.lock().unwrap().push(text("ima_log")?.into());
                }
                self.apply(&body, &token)
            }
            _ => anyhow::bail!("no such route"),
        }
    }

    fn apply(&self, body: &Value, token: &Token) -> Result<Value> {
        let bytes = |field: &str| -> Result<Vec<u8>> {
            Ok(BASE64.decode(body[field].as_str().with_context(|| field.to_owned())?)?)
        };
        let agent = AgentId::parse(body["agent_uuid"].as_str().context("agent_uuid")?)?;
        let certificate = match body.get("ek_cert") {
            Some(_) => Some(bytes("ek_cert")?),
            None => None,
        };
        let (ek_public, ak_public, csr) = (bytes("ek_public")?, bytes("ak_public")?, bytes("csr")?);
        let request = Request {
            agent,
            ek_certificate: certificate.as_deref(),
            ek_public: &ek_public,
            ak_public: &ak_public,
            csr: &csr,
            approved_ek_sha256: None,
            allow_sha1: false,
        };
        let applicant = check(&self.trust, &request, unix_ms())?;
        let challenged = challenge(&applicant, &token.sha256(), GROUP, &mut SystemRandom)?;
        let id = challenged.pending.activation_id.clone();
        let mut pending = self.pending.lock().unwrap();
        pending.insert(id.clone(), challenged.pending);
        Ok(json!({
            "status": "success",
            "verifier_ip": "127.0.0.1",
            "verifier_port": 8881,
            "activation": {
                "id": id,
                "blob": BASE64.encode(challenged.credential.blob),
                "secret": BASE64.encode(challenged.credential.encrypted_secret),
            },
        }))
    }

    fn activate(&self, agent: &AgentId, id: &str, proof: &[u8]) -> Result<Value> {
        let pending = self
            .pending
            .lock()
            .unwrap()
            .remove(id)
            .context("no such activation")?;
        anyhow::ensure!(verify(&pending, proof), "wrong proof");
        anyhow::ensure!(pending.agent == *agent, "another agent's activation");
        let issued = self.ca.issue_agent(&pending.csr, agent, unix_ms())?;
        self.enrolled.lock().unwrap().insert(agent.clone(), pending);
        let ca: Vec<String> = self
            .ca
            .certificates()
            .iter()
            .map(|der| rat_agent::keys::to_pem([der]))
            .collect::<Result<_, _>>()?;
        Ok(json!({
            "certificate": rat_agent::keys::to_pem(&issued.chain_der)?,
            "ca": ca,
            "evidence": {
                "addresses": [*self.evidence_address.lock().unwrap()],
                "server_name": "localhost",
            },
            "settings": {"interval_ms": 1000, "mode": self.mode},
        }))
    }
}
