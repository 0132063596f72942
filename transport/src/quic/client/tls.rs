//! Whom an agent trusts, and how it shows who it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, IdleTimeout, TransportConfig, VarInt};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use super::ClientOptions;
use super::error::TlsError;
use crate::limits;
use crate::quic::ALPN;
use crate::quic::roots::{provider, root_store};

/// The pinned CA set, and the configuration made of it.
pub(super) struct Trust {
    certificate_chain: Vec<Vec<u8>>,
    key_pkcs8: Vec<u8>,
    keep_alive: Duration,
    pinned: Mutex<Pinned>,
}

struct Pinned {
    ca_set: Vec<Vec<u8>>,
    config: ClientConfig,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

impl Trust {
    pub(super) fn new(options: ClientOptions) -> Result<Self, TlsError> {
        let ClientOptions {
            ca_set,
            certificate_chain,
            key_pkcs8,
            keep_alive_ms,
        } = options;
        let keep_alive = Duration::from_millis(keep_alive_ms.clamp(
            limits::KEEP_ALIVE_MS_MIN,
            limits::IDLE_MS_MAX.wrapping_div(3),
        ));
        let config = client_config(&ca_set, &certificate_chain, &key_pkcs8, keep_alive)?;
        let pinned = Mutex::new(Pinned { ca_set, config });
        Ok(Self {
            certificate_chain,
            key_pkcs8,
            keep_alive,
            pinned,
        })
    }

    pub(super) fn config(&self) -> ClientConfig {
        self.pinned().config.clone()
    }

    pub(super) fn ca_set(&self) -> Vec<Vec<u8>> {
        self.pinned().ca_set.clone()
    }

    /// Pins the set that a server told, when that server's own chain holds under it.
    ///
    /// # Security
    /// The server has proven itself under the set pinned before, so it may extend it. A set under
    /// which it would not be trusted itself would lock this agent out, and is not taken.
    pub(super) fn adopt(
        &self,
        told: &[Vec<u8>],
        chain: &[CertificateDer<'_>],
        server_name: &str,
    ) -> Result<(), TlsError> {
        if self.pinned().ca_set == told {
            return Ok(());
        }
        let (leaf, above) = chain.split_first().ok_or(TlsError::ServerUnknown)?;
        let name = ServerName::try_from(server_name).map_err(|_| TlsError::ServerUnknown)?;
        verifier(told)?.verify_server_cert(leaf, above, &name, &[], UnixTime::now())?;
        let config = client_config(
            told,
            &self.certificate_chain,
            &self.key_pkcs8,
            self.keep_alive,
        )?;
        *self.pinned() = Pinned {
            ca_set: told.to_vec(),
            config,
        };
        Ok(())
    }

    fn pinned(&self) -> std::sync::MutexGuard<'_, Pinned> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verifier(ca_set: &[Vec<u8>]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let roots = Arc::new(root_store(ca_set)?);
    Ok(WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?)
}

/// TLS 1.3 under the pinned CAs, without resumption or early data. (Q12)
fn client_config(
    ca_set: &[Vec<u8>],
    certificate_chain: &[Vec<u8>],
    key_pkcs8: &[u8],
    keep_alive: Duration,
) -> Result<ClientConfig, TlsError> {
    let chain = certificate_chain.iter().cloned().map(CertificateDer::from);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_pkcs8.to_vec()));
    let mut crypto = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier(ca_set)?)
        .with_client_auth_cert(chain.collect(), key)?;
    crypto.alpn_protocols = vec![ALPN.to_vec()];
    crypto.resumption = Resumption::disabled();
    crypto.enable_early_data = false;
    let crypto =
        QuicClientConfig::try_from(Arc::new(crypto)).map_err(|_| TlsError::NoInitialCipherSuite)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(keep_alive)));
    Ok(config)
}

/// A server opens one stream at a time, and sends little on it.
fn transport(keep_alive: Duration) -> TransportConfig {
    let idle = VarInt::from_u64(limits::IDLE_MS_MAX).unwrap_or(VarInt::MAX);
    let window = VarInt::from_u32(limits::STREAM_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window)
        .receive_window(window)
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .keep_alive_interval(Some(keep_alive));
    config
}
