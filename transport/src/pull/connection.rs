//! One connection to an agent: HTTP/1.1 over TLS, with a limit on everything.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::contact::Known;
use super::failure::Failure;
use crate::limits;
use crate::measures;
use crate::memory::{Held, Memory};

const AGENT: &str = "ratd";
/// How long a connection whose answer was read is given to say that it can be used again.
const READY: Duration = Duration::from_millis(100);

/// What is asked of an agent.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) body: Bytes,
    /// Whether nothing follows on this connection.
    pub(super) is_last: bool,
}

impl Asked {
    pub(super) const fn get(target: String, is_last: bool) -> Self {
        Self {
            method: Method::GET,
            target,
            body: Bytes::new(),
            is_last,
        }
    }
}

/// What an agent answered, and the memory that this holds.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) held: Vec<Held>,
}

/// An open connection. Nobody looks at it between two requests: whether the agent has closed it
/// shows with the next.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What the agent was shown.
    tls: Arc<ClientConfig>,
    /// When its last answer was read; `None` before the first.
    idle_since: Option<Instant>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({:?})", self.idle_since)
    }
}

impl Line {
    /// Connects to an agent.
    ///
    /// # Errors
    /// [`Failure`].
    ///
    /// # Security
    /// With a certificate, the agent has shown that it has its key when this returns.
    pub(super) async fn open(
        known: &Known,
        tls: &Arc<ClientConfig>,
        plain_http: bool,
    ) -> Result<Self, Failure> {
        let name = match (&known.contact.certificate, &known.server_name) {
            (None, _) if !plain_http => return Err(Failure::PlainHttp),
            (None, _) => None,
            (Some(_), None) => return Err(Failure::Certificate),
            (Some(_), Some(name)) => Some(name.clone()),
        };
        let within = Duration::from_millis(limits::PULL_CONNECT_MS_MAX);
        let connecting = async {
            let stream = connect(&known.contact.host, known.contact.port).await?;
            // An answer is waited for with each request: nothing is gained by waiting to send.
            let _ = stream.set_nodelay(true);
            match name {
                None => Self::over(stream, tls).await,
                Some(name) => {
                    let connector = TlsConnector::from(Arc::clone(tls));
                    let secured = connector.connect(name, stream).await;
                    let secured = secured.map_err(|error| of_tls(&error).unwrap_or(Failure::Tls));
                    Self::over(secured?, tls).await
                }
            }
        };
        let opened = timeout(within, connecting).await;
        opened.map_err(|_| Failure::Timeout)?
    }

    /// Whether it was opened with these keys, and not with some that were renewed since.
    pub(super) fn is_of(&self, tls: &Arc<ClientConfig>) -> bool {
        Arc::ptr_eq(&self.tls, tls)
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(limits::PULL_HEAD_BYTES_MAX)
            .max_headers(limits::PULL_HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Failure::Exchange)?;
        let driver = Box::pin(async move {
            // A connection that ends hands its last answer over first: whoever waits for it
            // decides.
            let _ = connection.await;
            std::future::pending().await
        });
        Ok(Self {
            sender,
            driver,
            tls: Arc::clone(tls),
            idle_since: None,
        })
    }

    /// How long nothing was asked over it.
    pub(super) fn idle_for(&self) -> Duration {
        self.idle_since.map_or(Duration::ZERO, |it| it.elapsed())
    }

    /// Sends a request and reads its answer to the end.
    ///
    /// # Errors
    /// [`Failure`]; then the connection is of no more use.
    pub(super) async fn ask(
        &mut self,
        asked: Asked,
        known: &Known,
        memory: &Memory,
        bytes_max: u64,
    ) -> Result<Answered, Failure> {
        let request = request(asked, known)?;
        let Self { sender, driver, .. } = self;
        let answered = async {
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| of_http(&error))?;
            read(response, memory, bytes_max).await
        };
        let answered = tokio::select! {
            answered = answered => answered,
            () = driver => Err(Failure::Exchange),
        };
        self.idle_since = Some(Instant::now());
        answered
    }

    /// The connection, if something more can be asked over it.
    pub(super) async fn reusable(mut self) -> Option<Self> {
        let Self { sender, driver, .. } = &mut self;
        let ready = async {
            tokio::select! {
                ready = sender.ready() => ready.is_ok(),
                () = driver => false,
            }
        };
        match timeout(READY, ready).await {
            Ok(true) => Some(self),
            Ok(false) | Err(_) => None,
        }
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => {
            let found = lookup_host((host, port)).await;
            let found = found.map_err(|_| Failure::Resolve)?;
            found.take(limits::PULL_ADDRESSES_MAX).collect()
        }
    };
    let mut failure = Failure::Resolve;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Failure::Connect(error.kind()),
        }
    }
    Err(failure)
}

fn request(asked: Asked, known: &Known) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder()
        .method(asked.method)
        .uri(asked.target)
        .header(HOST, &*known.authority)
        .header(USER_AGENT, AGENT);
    if asked.is_last {
        request = request.header(CONNECTION, HeaderValue::from_static("close"));
    }
    if !asked.body.is_empty() {
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let request = request.body(Full::new(asked.body));
    request.map_err(|_| Failure::Exchange)
}

/// Reads an answer whose length the sender chooses.
async fn read(
    response: Response<Incoming>,
    memory: &Memory,
    bytes_max: u64,
) -> Result<Answered, Failure> {
    let status = response.status().as_u16();
    let encoding = response.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|it| it.as_bytes() != b"identity") {
        return Err(Failure::Encoded);
    }
    let mut incoming = response.into_body();
    let too_long = || {
        measures::limit("PULL_ANSWER_BYTES_MAX");
        Err(Failure::TooLong(bytes_max))
    };
    if incoming.size_hint().lower() > bytes_max {
        return too_long();
    }
    let most = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    let mut held = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| of_http(&error))?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        if bytes.len() > most.saturating_sub(body.len()) {
            return too_long();
        }
        // Once as it was sent, and once read.
        let Some(more) = memory.hold(bytes.len().saturating_mul(2)).await else {
            measures::limit("PULL_BUFFERED_BYTES_MAX");
            return Err(Failure::Busy);
        };
        held.push(more);
        body.extend_from_slice(&bytes);
    }
    Ok(Answered { status, body, held })
}

/// TLS 1.3 lets a client speak before the server judged its certificate, so that this may show with
/// the first answer.
fn of_http(error: &hyper::Error) -> Failure {
    let mut source = error.source();
    while let Some(error) = source {
        let of_io = error.downcast_ref::<io::Error>();
        if let Some(failure) = of_io.and_then(of_tls) {
            return failure;
        }
        source = error.source();
    }
    Failure::Exchange
}

/// What TLS says; `None` when it is not TLS that failed.
fn of_tls(error: &io::Error) -> Option<Failure> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let pinned = CertificateError::ApplicationVerificationFailure;
    Some(match inner {
        rustls::Error::InvalidCertificate(fault) if *fault == pinned => Failure::Certificate,
        _ => Failure::Tls,
    })
}
