//! TLS for every HTTP listener: certificates that renew while connections live, and optional
//! client certificates.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;

use crate::auth::Link;

/// A server certificate and its key, as the CA issues them.
pub struct Material {
    /// The leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The private key, PKCS#8 DER.
    pub key_pkcs8: Vec<u8>,
    /// When the leaf expires.
    pub not_after_unix_ms: u64,
}

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The library refuses key, certificate or CA.
    #[error("{what}: {source}")]
    Refused {
        /// What was refused.
        what: &'static str,
        /// Why.
        source: rustls::Error,
    },
    /// Client certificates cannot be verified with these CAs.
    #[error("client certificates: {0}")]
    Clients(String),
}

/// The server's certificate, which can be replaced while the server runs. One is shared by all
/// listeners, QUIC included.
pub struct ServerCertificate {
    current: ArcSwap<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    not_before_unix_ms: u64,
    not_after_unix_ms: u64,
}

impl ServerCertificate {
    /// This certificate, issued at `now`.
    ///
    /// # Errors
    /// [`TlsError::Refused`].
    pub fn new(material: Material, now_unix_ms: u64) -> Result<Self, TlsError> {
        Ok(Self {
            current: ArcSwap::from_pointee(Current::new(material, now_unix_ms)?),
        })
    }

    /// Serves this certificate from the next handshake on.
    ///
    /// # Errors
    /// [`TlsError::Refused`]; the old one stays.
    pub fn replace(&self, material: Material, now_unix_ms: u64) -> Result<(), TlsError> {
        self.current
            .store(Arc::new(Current::new(material, now_unix_ms)?));
        Ok(())
    }

    /// When it expires.
    pub fn not_after_unix_ms(&self) -> u64 {
        self.current.load().not_after_unix_ms
    }

    /// Whether two thirds of its life are over.
    pub fn is_due(&self, now_unix_ms: u64) -> bool {
        let current = self.current.load();
        let life = current
            .not_after_unix_ms
            .saturating_sub(current.not_before_unix_ms);
        let left = current.not_after_unix_ms.saturating_sub(now_unix_ms);
        left <= life.checked_div(3).unwrap_or(0)
    }
}

impl Current {
    fn new(material: Material, now_unix_ms: u64) -> Result<Self, TlsError> {
        let refused = |what| move |source| TlsError::Refused { what, source };
        let chain = material
            .chain
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(material.key_pkcs8));
        let provider = Arc::clone(ServerConfig::builder().crypto_provider());
        let key = provider
            .key_provider
            .load_private_key(der)
            .map_err(refused("the server's key"))?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match()
            .map_err(refused("the server's certificate"))?;
        Ok(Self {
            key: Arc::new(key),
            not_before_unix_ms: now_unix_ms,
            not_after_unix_ms: material.not_after_unix_ms,
        })
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("not_after_unix_ms", &self.not_after_unix_ms())
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

/// How a listener speaks TLS: 1.2 or 1.3, HTTP/2 or HTTP/1.1.
///
/// # Security
/// A client certificate is optional at the handshake, and verified when there is one: a client
/// with a certificate of another CA is refused, one without is anonymous. Routes decide what
/// either may do. (A02)
pub struct Acceptor {
    certificate: Arc<dyn ResolvesServerCert>,
    config: ArcSwap<ServerConfig>,
    link: Link,
}

impl Acceptor {
    /// An acceptor that asks for client certificates of these CAs (DER); for none when the list is
    /// empty.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        certificate: Arc<dyn ResolvesServerCert>,
        client_cas: &[Vec<u8>],
    ) -> Result<Self, TlsError> {
        Self::of_link(certificate, client_cas, Link::Tls)
    }

    /// An acceptor that asks for certificates of the CA for Keylime's clients (DER), whose holders are
    /// administrators to Keylime's routes.
    ///
    /// # Errors
    /// [`TlsError`].
    ///
    /// # Security
    /// The caller has made sure that nobody else gets certificates below this CA: no agent of ratd,
    /// above all. (A02)
    pub fn for_keylime(
        certificate: Arc<dyn ResolvesServerCert>,
        client_ca: Vec<u8>,
    ) -> Result<Self, TlsError> {
        Self::of_link(certificate, &[client_ca], Link::KeylimeTls)
    }

    fn of_link(
        certificate: Arc<dyn ResolvesServerCert>,
        client_cas: &[Vec<u8>],
        link: Link,
    ) -> Result<Self, TlsError> {
        let config = ArcSwap::new(config(Arc::clone(&certificate), client_cas)?);
        Ok(Self {
            certificate,
            config,
            link,
        })
    }

    /// Asks for client certificates of these CAs from the next handshake on.
    ///
    /// # Errors
    /// [`TlsError`]; the old ones stay.
    pub fn set_client_cas(&self, client_cas: &[Vec<u8>]) -> Result<(), TlsError> {
        let config = config(Arc::clone(&self.certificate), client_cas)?;
        self.config.store(config);
        Ok(())
    }

    /// What its connections are.
    pub(crate) const fn link(&self) -> Link {
        self.link
    }

    /// The present configuration.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

fn config(
    certificate: Arc<dyn ResolvesServerCert>,
    client_cas: &[Vec<u8>],
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder();
    let builder = if client_cas.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for ca in client_cas {
            roots
                .add(CertificateDer::from(ca.clone()))
                .map_err(|source| TlsError::Refused {
                    what: "a client CA",
                    source,
                })?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::Clients(error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Early data could be replayed by whoever recorded it.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}
