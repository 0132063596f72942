//! One attempt to deliver one message.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::permitted;
use super::endpoint::Scheme;
use super::pace::retry_after;
use super::settings::Webhook;
use super::signature::SIGNATURE_HEADER;
use super::trust::RootsError;
use crate::limits::{
    WEBHOOK_ADDRESSES_MAX, WEBHOOK_ANSWER_BODY_BYTES_MAX, WEBHOOK_ANSWER_HEAD_BYTES_MAX,
    WEBHOOK_ANSWER_HEADERS_MAX,
};

/// The id of a message, over all of its attempts.
const ID_HEADER: &str = "ratd-message-id";
const AGENT: &str = concat!("ratd/", env!("CARGO_PKG_VERSION"));
/// How long the rest of an answer is waited for; it changes nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Why an attempt failed. Nothing that the receiver wrote stands in it. (X07, X08)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Failure {
    /// Its name leads to no address.
    #[error("its name cannot be resolved")]
    Resolve,
    /// Its name leads to addresses that a webhook may not be at. (A05)
    #[error("it is at {0}, which is not allowed")]
    Address(IpAddr),
    /// No connection.
    #[error("no connection: {0}")]
    Connect(io::ErrorKind),
    /// Its certificate is for another name.
    #[error("its certificate is for another name")]
    CertificateName,
    /// No CA that is believed vouches for it.
    #[error("its certificate is of an unknown CA")]
    CertificateIssuer,
    /// Its certificate is not valid now, or not at all.
    #[error("its certificate is not valid")]
    Certificate,
    /// TLS failed otherwise.
    #[error("no TLS")]
    Tls,
    /// It took too long.
    #[error("no answer in {0} ms")]
    Timeout(u128),
    /// The exchange broke off, or was not HTTP.
    #[error("no answer in HTTP")]
    Exchange,
    /// It points elsewhere, which is never followed. (A05)
    #[error("it answered {0}, and redirects are not followed")]
    Redirect(u16),
    /// It does not take the message.
    #[error("it answered {0}")]
    Status(u16),
    /// It is a channel that is not open.
    #[error("the channel is not open")]
    Unavailable,
}

/// Statuses that are about one message; all others are about the receiver.
const OF_MESSAGE: [u16; 4] = [400, 413, 415, 422];

impl Failure {
    /// A fixed word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Address(_) => "address",
            Self::Connect(_) => "connect",
            Self::CertificateName | Self::CertificateIssuer | Self::Certificate | Self::Tls => {
                "tls"
            }
            Self::Timeout(_) => "timeout",
            Self::Exchange => "exchange",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether another message might be taken all the same.
    pub(super) fn is_of_message(self) -> bool {
        matches!(self, Self::Status(status) if OF_MESSAGE.contains(&status))
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) result: Result<(), Failure>,
    /// The pause that the receiver asks for.
    pub(super) retry_after: Option<Duration>,
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self {
            result: Err(failure),
            retry_after: None,
        }
    }
}

/// Delivers to one webhook.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) webhook: Webhook,
    tls: Arc<ClientConfig>,
}

impl Client {
    pub(super) fn new(webhook: Webhook) -> Result<Self, RootsError> {
        let tls = webhook.roots.tls()?;
        Ok(Self { webhook, tls })
    }

    /// Posts a message once, signed as of now. Nothing is followed, nothing is repeated.
    pub(super) async fn post(&self, id: &str, body: &str, now_unix_ms: u64) -> Attempt {
        let within = self.webhook.target.timeout;
        match timeout(within, self.exchange(id, body, now_unix_ms)).await {
            Ok(Ok(attempt)) => attempt,
            Ok(Err(failure)) => failure.into(),
            Err(_) => Failure::Timeout(within.as_millis()).into(),
        }
    }

    async fn exchange(&self, id: &str, body: &str, now_unix_ms: u64) -> Result<Attempt, Failure> {
        let endpoint = &self.webhook.target.endpoint;
        let stream = self.connect().await?;
        let request = self.request(id, body, now_unix_ms)?;
        let (status, asked_for) = match endpoint.scheme {
            Scheme::PlainHttp => speak(stream, request).await?,
            Scheme::Https => {
                let name =
                    ServerName::try_from(endpoint.host.clone()).map_err(|_| Failure::Resolve)?;
                let connector = TlsConnector::from(Arc::clone(&self.tls));
                let secured = connector.connect(name, stream).await;
                speak(secured.map_err(|error| of_tls(&error))?, request).await?
            }
        };
        let result = match status {
            200..=299 => Ok(()),
            300..=399 => Err(Failure::Redirect(status)),
            _ => Err(Failure::Status(status)),
        };
        Ok(Attempt {
            result,
            retry_after: asked_for.and_then(|value| retry_after(&value, now_unix_ms)),
        })
    }

    /// A connection to an address of the receiver that was judged first.
    ///
    /// # Security
    /// The name is resolved once, and connected to is what was judged: between the two there is no
    /// second look at DNS that could say something else. (A05)
    async fn connect(&self) -> Result<TcpStream, Failure> {
        let target = &self.webhook.target;
        let (host, port) = (target.endpoint.host.as_str(), target.endpoint.port);
        let found = lookup_host((host, port)).await;
        let found: Vec<IpAddr> = found
            .map_err(|_| Failure::Resolve)?
            .map(|address| address.ip())
            .take(WEBHOOK_ADDRESSES_MAX)
            .collect();
        let first = *found.first().ok_or(Failure::Resolve)?;
        let is_plain = target.endpoint.scheme == Scheme::PlainHttp;
        let judged = found
            .into_iter()
            .filter_map(|address| permitted(address, &target.allowed))
            // What is not encrypted stays on this machine, wherever its name leads.
            .filter(|address| !is_plain || address.is_loopback());
        let mut failure = Failure::Address(first);
        for address in judged {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Failure::Connect(error.kind()),
            }
        }
        Err(failure)
    }

    fn request(
        &self,
        id: &str,
        body: &str,
        now_unix_ms: u64,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let endpoint = &self.webhook.target.endpoint;
        let signature = self.webhook.secret.sign(now_unix_ms, body.as_bytes());
        Request::builder()
            .method(Method::POST)
            .uri(endpoint.target.as_str())
            .header(HOST, endpoint.authority())
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/json")
            .header(ID_HEADER, id)
            .header(SIGNATURE_HEADER, signature)
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(|_| Failure::Exchange)
    }
}

/// Sends a request; the status of its answer, and what it says of when to try again.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(u16, Option<String>), Failure> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(WEBHOOK_ANSWER_HEAD_BYTES_MAX)
        .max_headers(WEBHOOK_ANSWER_HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Failure::Exchange)?;
    let answered = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|_| Failure::Exchange)?;
        let status = response.status().as_u16();
        let asked_for = response.headers().get(RETRY_AFTER);
        let asked_for = asked_for.and_then(|value| value.to_str().ok());
        let asked_for = asked_for.map(str::to_owned);
        read_to_its_end(response).await;
        Ok((status, asked_for))
    };
    // The connection is driven beside the request, and ends with this attempt.
    tokio::select! {
        answer = answered => answer,
        () = driven(connection) => Err(Failure::Exchange),
    }
}

async fn driven<S>(connection: http1::Connection<S, Full<Bytes>>)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    // A connection that ends hands its last answer over first: whoever waits for it decides.
    let _ = connection.await;
    std::future::pending().await
}

/// Reads a little more than most receivers write, so that they see their answer taken.
async fn read_to_its_end(response: Response<Incoming>) {
    let body = Limited::new(response.into_body(), WEBHOOK_ANSWER_BODY_BYTES_MAX);
    // What it says, and whether it ends, is of no use.
    let _ = timeout(BODY_TIMEOUT, body.collect()).await;
}

fn of_tls(error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(fault)) = inner else {
        return Failure::Tls;
    };
    match fault {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Failure::CertificateName
        }
        CertificateError::UnknownIssuer => Failure::CertificateIssuer,
        _ => Failure::Certificate,
    }
}
