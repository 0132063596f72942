//! A receiver of webhooks: an HTTPS server with a CA of its own, that keeps what it gets and answers
//! what a test says.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rat_identity::ca::Ca;
use rat_runtime::{Clock as _, SystemClock};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// A request that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What follows `POST`.
    pub target: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The status that it was answered with; 0 for none.
    pub answered: u16,
    /// When it arrived.
    pub at_unix_ms: u64,
}

impl Delivery {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// A member of the body that is a text; empty for null.
    pub fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_default().to_owned()
    }

    /// A header.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        &found.unwrap_or_else(|| panic!("{name}: {self:?}")).1
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status, and header lines that end in CR LF.
    Status(u16, String),
    /// These bytes, and then the connection stays open.
    Raw(Vec<u8>),
    /// Nothing, ever.
    Silence,
}

impl Reply {
    /// A status alone.
    pub const fn status(status: u16) -> Self {
        Self::Status(status, String::new())
    }
}

type Answer = dyn Fn(&Delivery) -> Reply + Send + Sync;

struct Shared {
    deliveries: Mutex<Vec<Delivery>>,
    answer: Mutex<Arc<Answer>>,
    connections: AtomicUsize,
    acceptor: Option<TlsAcceptor>,
}

/// The server.
pub struct Receiver {
    folder: TempDir,
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

fn unix_ms() -> u64 {
    SystemClock::start().now().unix_ms
}

impl Receiver {
    /// One whose certificate is for 127.0.0.1 and localhost, and that takes everything.
    pub fn start() -> Self {
        Self::named(&["127.0.0.1", "localhost"])
    }

    /// One whose certificate is for these names.
    pub fn named(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::open(folder.path(), unix_ms()).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let issued = ca.issue_server(&names, unix_ms()).unwrap();
        let chain = issued.chain_der.into_iter().map(CertificateDer::from);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key_pkcs8_der));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .unwrap();
        Self::with(folder, Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// One that speaks plain HTTP.
    pub fn plain() -> Self {
        Self::with(tempfile::tempdir().unwrap(), None)
    }

    fn with(folder: TempDir, acceptor: Option<TlsAcceptor>) -> Self {
        let shared = Shared {
            deliveries: Mutex::default(),
            answer: Mutex::new(Arc::new(|_: &Delivery| Reply::status(200))),
            connections: AtomicUsize::new(0),
            acceptor,
        };
        let mut receiver = Self {
            folder,
            address: "127.0.0.1:0".parse().unwrap(),
            shared: Arc::new(shared),
            runtime: None,
        };
        receiver.resume();
        receiver
    }

    /// Serves again, at the same address.
    pub fn resume(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let shared = Arc::clone(&self.shared);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection(Arc::clone(&shared), stream));
            }
        });
        self.runtime = Some(runtime);
    }

    /// Goes away: connections end, and new ones are refused.
    pub fn pause(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not in the thread of a caller that may be a task itself.
            let stop = move || runtime.shutdown_timeout(Duration::from_secs(10));
            std::thread::spawn(stop).join().unwrap();
        }
    }

    /// Answers like this from now on.
    pub fn answers(&self, answer: impl Fn(&Delivery) -> Reply + Send + Sync + 'static) {
        *self.shared.answer.lock().unwrap() = Arc::new(answer);
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        let scheme = match self.shared.acceptor {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}{path}", self.address)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The file of the CA that vouches for it.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Everything that arrived, in order.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap().clone()
    }

    /// What arrived and was taken, in order.
    pub fn taken(&self) -> Vec<Delivery> {
        let mut taken = self.deliveries();
        taken.retain(|delivery| (200..300).contains(&delivery.answered));
        taken
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    let Some(acceptor) = shared.acceptor.clone() else {
        return exchange(&shared, stream).await;
    };
    // A client that turns away is part of the tests.
    if let Ok(stream) = acceptor.accept(stream).await {
        exchange(&shared, stream).await;
    }
}

async fn exchange(shared: &Shared, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let Some(mut delivery) = read(&mut stream).await else {
        return;
    };
    let answer = Arc::clone(&shared.answer.lock().unwrap());
    let reply = answer(&delivery);
    delivery.answered = match &reply {
        Reply::Status(status, _) => *status,
        Reply::Raw(_) | Reply::Silence => 0,
    };
    shared.deliveries.lock().unwrap().push(delivery);
    match reply {
        Reply::Status(status, headers) => {
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\n{headers}\r\nok");
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Reply::Raw(bytes) => {
            let _ = stream.write_all(&bytes).await;
            std::future::pending::<()>().await;
        }
        Reply::Silence => std::future::pending().await,
    }
}

/// The request, once it is whole.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Delivery> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let target = lines.next()?.strip_prefix("POST ")?;
    let target = target.strip_suffix(" HTTP/1.1")?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length")?;
    let length: usize = length.1.parse().unwrap();
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(Delivery {
        target,
        headers,
        body: bytes[head_end..].to_vec(),
        answered: 0,
        at_unix_ms: unix_ms(),
    })
}

/// The recipe of the documentation, run as it stands there: whether it takes a signature.
pub fn recipe_takes(secret: &str, header: &str, body: &[u8]) -> bool {
    let page = crate::workspace_root().join("docs/reference/webhooks.md");
    let page = std::fs::read_to_string(page).unwrap();
    let recipe = page.split_once("```python\n").unwrap().1;
    let recipe = recipe.split_once("```").unwrap().0;
    let ask = "import sys\nprint(is_genuine(sys.argv[1].encode(), sys.argv[2], bytes.fromhex(sys.argv[3])))";
    let output = std::process::Command::new("python3")
        .args(["-c", &format!("{recipe}\n{ask}"), secret, header])
        .arg(hex::encode(body))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    match String::from_utf8(output.stdout).unwrap().trim() {
        "True" => true,
        "False" => false,
        other => panic!("{other}"),
    }
}
