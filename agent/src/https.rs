//! The server's HTTPS interface, as far as an agent needs it: JSON over HTTP/1.1 over TLS 1.3.
//!
//! Who the server is, is settled in the handshake: until then nothing leaves this machine but a
//! ClientHello. (N14)

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rat_engine::crypto::constant_time_eq;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::keys::sha256;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A baseline of tens of MiB, over a slow line, and the server's work on it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How often a request is made that the server puts off.
const TRIES: u32 = 5;
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const DETAIL_CHARACTERS_MAX: usize = 300;
const HTTPS_PORT: u16 = 443;

/// `https://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    host: String,
    port: u16,
}

/// Why a text is no server's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("write the server as https://host:port, without a path")]
pub struct ServerUrlError;

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = Uri::from_str(text).map_err(|_| ServerUrlError)?;
        let plain = uri.scheme_str() == Some("https")
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none();
        let host = uri.host().filter(|host| plain && !host.is_empty());
        let host = host.ok_or(ServerUrlError)?;
        // An authority with a user is not what anybody means.
        if uri
            .authority()
            .is_some_and(|all| all.as_str().contains('@'))
        {
            return Err(ServerUrlError);
        }
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(HTTPS_PORT),
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}")
        } else {
            write!(f, "https://{host}:{port}")
        }
    }
}

/// Whom to believe.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The CA whose certificate has this SHA-256. The server sends that certificate along.
    Fingerprint([u8; 32]),
    /// One of these CAs, in DER.
    Set(Vec<Vec<u8>>),
}

/// Why a request had no result.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The server's certificate is from another CA than the one that the token names.
    #[error(
        "{server} is not the server that this token was made for: none of its certificates is \
         the CA {wanted}. Nothing was sent. Check --server; if it is right, somebody else answers \
         there, or the server's CA was replaced after the token was made"
    )]
    ForeignCa {
        /// The server.
        server: String,
        /// SHA-256 of the CA's certificate, as the token has it.
        wanted: String,
    },
    /// A CA that we were told to believe cannot be read.
    #[error("the CA certificates cannot be used: {0}")]
    Ca(rustls::Error),
    /// No connection.
    #[error("{server} cannot be reached: {source}")]
    Connect {
        /// The server.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("{server} did not answer in {} seconds", .after.as_secs())]
    Timeout {
        /// The server.
        server: String,
        /// The time that it had.
        after: Duration,
    },
    /// The HTTP exchange broke off.
    #[error("{server}: {source}")]
    Exchange {
        /// The server.
        server: String,
        /// Why.
        source: hyper::Error,
    },
    /// The answer was too long, or broke off.
    #[error("{server} sent an answer that is longer than {ANSWER_BYTES_MAX} bytes, or half of one")]
    Answer {
        /// The server.
        server: String,
    },
    /// The answer is not what it should be.
    #[error("{server} answered {path} with something else than was expected: {source}")]
    Content {
        /// The server.
        server: String,
        /// The path that was asked for.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The server says no.
    #[error("{server} refused {path} with status {status}: {detail}")]
    Refused {
        /// The server.
        server: String,
        /// The path that was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the server says, bounded and printable.
        detail: String,
    },
}

/// A server, and what makes it believed.
#[derive(Debug, Clone)]
pub struct CoreClient {
    server: ServerUrl,
    tls: Arc<ClientConfig>,
}

impl CoreClient {
    /// A client of this server. Nothing is opened yet.
    ///
    /// # Errors
    /// [`HttpError::Ca`].
    pub fn new(server: ServerUrl, trust: Trust) -> Result<Self, HttpError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(HttpError::Ca)?;
        let tls = match trust {
            Trust::Fingerprint(wanted) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pinned { wanted, provider }))
                .with_no_client_auth(),
            Trust::Set(certificates) => {
                let mut roots = RootCertStore::empty();
                for der in certificates {
                    roots
                        .add(CertificateDer::from(der))
                        .map_err(HttpError::Ca)?;
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        };
        Ok(Self {
            server,
            tls: Arc::new(tls),
        })
    }

    /// The server.
    pub const fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// Posts JSON and reads JSON; again, when the server asks for a moment.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn post<B: Serialize + Sync, R: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<R, HttpError> {
        let body = serde_json::to_vec(body).map_err(|source| self.content(path, source))?;
        let body = Bytes::from(body);
        let mut tries = 1;
        loop {
            let answer = self.exchange(Method::POST, path, body.clone()).await?;
            if answer.status.is_success() {
                return serde_json::from_slice(&answer.body)
                    .map_err(|source| self.content(path, source));
            }
            let puts_off = matches!(
                answer.status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            if !puts_off || tries >= TRIES {
                return Err(HttpError::Refused {
                    server: self.server.to_string(),
                    path: path.to_owned(),
                    status: answer.status.as_u16(),
                    detail: detail(&answer.body),
                });
            }
            tries = tries.saturating_add(1);
            sleep(retry_after(&answer.headers)).await;
        }
    }

    /// The server's own clock, from the `Date` of an answer.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn date(&self) -> Result<Option<String>, HttpError> {
        let answer = self.exchange(Method::GET, "/livez", Bytes::new()).await?;
        let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
        Ok(date.map(str::to_owned))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Reply, HttpError> {
        let server = self.server.to_string();
        let late = |after| {
            let server = server.clone();
            move |_| HttpError::Timeout { server, after }
        };
        let stream = timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(late(CONNECT_TIMEOUT))??;
        timeout(ANSWER_TIMEOUT, self.speak(stream, method, path, body))
            .await
            .map_err(late(ANSWER_TIMEOUT))?
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, HttpError> {
        let failed = |source| self.connect_error(source);
        let ServerUrl { host, port } = &self.server;
        let name = ServerName::try_from(host.clone())
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let stream = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(failed)?;
        TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .map_err(failed)
    }

    async fn speak(
        &self,
        stream: tokio_rustls::client::TlsStream<TcpStream>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Reply, HttpError> {
        let server = self.server.to_string();
        let broken = |source| HttpError::Exchange {
            server: server.clone(),
            source,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let driver = tokio::spawn(connection);
        let authority = server.trim_start_matches("https://");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let sent = match request {
            Ok(request) => sender.send_request(request).await.map_err(broken),
            Err(_) => Err(HttpError::Answer {
                server: server.clone(),
            }),
        };
        let reply = match sent {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let read = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
                read.map(|read| Reply {
                    status: parts.status,
                    headers: parts.headers,
                    body: read.to_bytes(),
                })
                .map_err(|_| HttpError::Answer { server })
            }
            Err(error) => Err(error),
        };
        driver.abort();
        reply
    }

    fn connect_error(&self, source: std::io::Error) -> HttpError {
        let server = self.server.to_string();
        match foreign(&source) {
            Some(wanted) => HttpError::ForeignCa {
                server,
                wanted: hex::encode(wanted),
            },
            None => HttpError::Connect { server, source },
        }
    }

    fn content(&self, path: &str, source: serde_json::Error) -> HttpError {
        HttpError::Content {
            server: self.server.to_string(),
            path: path.to_owned(),
            source,
        }
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What a refusal says, in a form that is safe to print. (X07)
fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Detail {
        detail: serde_json::Value,
    }
    let text = match serde_json::from_slice::<Detail>(body) {
        Ok(Detail {
            detail: serde_json::Value::String(text),
        }) => text,
        Ok(Detail { detail }) => detail.to_string(),
        Err(_) => "it says no more".to_owned(),
    };
    printable(&text)
}

/// A server's text, bounded and without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(DETAIL_CHARACTERS_MAX)
        .collect()
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1)).clamp(Duration::from_secs(1), LONGEST_WAIT)
}

/// Accepts a chain under the CA with one fingerprint.
#[derive(Debug)]
struct Pinned {
    wanted: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// No certificate that the server sent is the wanted CA.
#[derive(Debug, Error)]
#[error("the server's certificates do not include the CA {}", hex::encode(.0))]
struct NotTheCa([u8; 32]);

/// The fingerprint that was wanted, when that is what ended the handshake.
fn foreign(error: &std::io::Error) -> Option<[u8; 32]> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) = inner
    else {
        return None;
    };
    Some(other.downcast_ref::<NotTheCa>()?.0)
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|sent| constant_time_eq(&sha256(sent), &self.wanted))
            .ok_or_else(|| {
                let other = OtherError(Arc::new(NotTheCa(self.wanted)));
                rustls::Error::InvalidCertificate(CertificateError::Other(other))
            })?;
        // The fingerprint makes it a trust anchor; name, dates, usage and signatures are checked
        // as under any other.
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_written_as_https_urls() {
        let url: ServerUrl = "https://ratd.example:8001".parse().unwrap();
        assert_eq!(url.to_string(), "https://ratd.example:8001");
        let six: ServerUrl = "https://[::1]:8001/".parse().unwrap();
        assert_eq!((six.host.as_str(), six.port), ("::1", 8001));
        assert_eq!(six.to_string(), "https://[::1]:8001");
        assert_eq!("https://a".parse::<ServerUrl>().unwrap().port, 443);
        for refused in [
            "http://a:8001",
            "a:8001",
            "https://",
            "https://a/b",
            "https://a?b",
            "https://user@a",
            "",
        ] {
            assert!(refused.parse::<ServerUrl>().is_err(), "{refused}");
        }
    }

    #[test]
    fn x07_what_a_server_says_is_printed_without_control_characters() {
        assert_eq!(
            detail(br#"{"detail":"no\u001b[31m\nmore"}"#),
            "no [31m more"
        );
        assert_eq!(detail(b"<html>"), "it says no more");
        let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(9_999));
        assert_eq!(detail(long.as_bytes()).len(), DETAIL_CHARACTERS_MAX);
    }

    #[test]
    fn waits_that_a_server_asks_for_are_bounded() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), Duration::from_secs(1));
        for (value, seconds) in [("5", 5), ("0", 1), ("99999999", 60), ("never", 1)] {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            assert_eq!(
                retry_after(&headers),
                Duration::from_secs(seconds),
                "{value}"
            );
        }
    }
}
