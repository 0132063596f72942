//! Requests over HTTP/1.1 over TLS 1.3, to a server that has proven itself.
//!
//! Who the server is, is settled in the handshake: until then nothing leaves this machine but a
//! ClientHello. (N14)

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rat_engine::crypto::{constant_time_eq, digest};
use rat_engine::hash::HashAlg;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum HttpsError {
    /// The server's certificate is from another CA than the pinned one.
    #[error(
        "{server} is not the server that is meant: none of its certificates is the CA {wanted}. \
         Nothing was sent"
    )]
    ForeignCa {
        /// The server.
        server: String,
        /// SHA-256 of the pinned CA's certificate.
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
    /// The path cannot stand in a request.
    #[error("{0:?} is no path of a request")]
    Path(String),
    /// The answer was too long, or broke off.
    #[error("{server} sent an answer that is longer than {max_bytes} bytes, or half of one")]
    Answer {
        /// The server.
        server: String,
        /// The limit.
        max_bytes: usize,
    },
}

/// A server, and what makes it believed.
#[derive(Debug, Clone)]
pub struct Client {
    server: ServerUrl,
    tls: Arc<ClientConfig>,
}

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// Headers beside `Host`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; empty for none.
    pub body: Bytes,
    /// How long the answer may take, from the end of the handshake.
    pub patience: Duration,
    /// How long the answer's body may be.
    pub answer_bytes_max: usize,
}

/// What the server answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Client {
    /// A client of this server. Nothing is opened yet.
    ///
    /// # Errors
    /// [`HttpsError::Ca`].
    pub fn new(server: ServerUrl, trust: Trust) -> Result<Self, HttpsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(HttpsError::Ca)?;
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
                        .map_err(HttpsError::Ca)?;
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

    /// Sends one request over a connection of its own.
    ///
    /// # Errors
    /// [`HttpsError`].
    pub async fn exchange(&self, asked: Asked<'_>) -> Result<Reply, HttpsError> {
        self.open().await?.exchange(asked).await
    }

    /// A connection for many requests, one after the other.
    ///
    /// # Errors
    /// [`HttpsError`].
    pub async fn open(&self) -> Result<Connection, HttpsError> {
        let stream = timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| self.server.late(CONNECT_TIMEOUT))??;
        let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.server.broken(source))?;
        Ok(Connection {
            server: self.server.clone(),
            sender,
            driver: tokio::spawn(driver),
        })
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, HttpsError> {
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

    fn connect_error(&self, source: std::io::Error) -> HttpsError {
        let server = self.server.to_string();
        match foreign(&source) {
            Some(wanted) => HttpsError::ForeignCa {
                server,
                wanted: hex::encode(wanted),
            },
            None => HttpsError::Connect { server, source },
        }
    }
}

impl ServerUrl {
    fn late(&self, after: Duration) -> HttpsError {
        let server = self.to_string();
        HttpsError::Timeout { server, after }
    }

    fn broken(&self, source: hyper::Error) -> HttpsError {
        let server = self.to_string();
        HttpsError::Exchange { server, source }
    }
}

/// A connection to a server that has proven itself.
#[derive(Debug)]
pub struct Connection {
    server: ServerUrl,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<Result<(), hyper::Error>>,
}

impl Connection {
    /// Sends one request, and reads its answer to the end.
    ///
    /// # Errors
    /// [`HttpsError`]. The connection is of no use after one.
    pub async fn exchange(&mut self, asked: Asked<'_>) -> Result<Reply, HttpsError> {
        let patience = asked.patience;
        timeout(patience, self.speak(asked))
            .await
            .map_err(|_| self.server.late(patience))?
    }

    async fn speak(&mut self, asked: Asked<'_>) -> Result<Reply, HttpsError> {
        let max_bytes = asked.answer_bytes_max;
        let request = self.request(asked)?;
        let sent = match self.sender.ready().await {
            Ok(()) => self.sender.send_request(request).await,
            Err(error) => Err(error),
        };
        let (parts, body) = sent
            .map_err(|source| self.server.broken(source))?
            .into_parts();
        let body = Limited::new(body, max_bytes).collect().await;
        let body = body.map_err(|_| HttpsError::Answer {
            server: self.server.to_string(),
            max_bytes,
        })?;
        Ok(Reply {
            status: parts.status,
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }

    fn request(&self, asked: Asked<'_>) -> Result<Request<Full<Bytes>>, HttpsError> {
        let authority = self.server.to_string();
        let mut request = Request::builder()
            .method(asked.method)
            .uri(asked.path)
            .header(HOST, authority.trim_start_matches("https://"))
            .body(Full::new(asked.body))
            .map_err(|_| HttpsError::Path(asked.path.to_owned()))?;
        request.headers_mut().extend(asked.headers);
        Ok(request)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    // SHA-256 has 32 bytes; the zeros are never reached.
    let digest = digest(HashAlg::Sha256, bytes);
    digest.as_bytes().try_into().unwrap_or([0; 32])
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
}
