//! Certificates and QUIC parameters of the server's end.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{IdleTimeout, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use thiserror::Error;

use super::options::{ServerLimits, Tls};
use crate::limits;
use crate::quic::ALPN;
use crate::quic::roots::{RootsError, provider, root_store};

/// Why certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The CAs of agents.
    #[error("the CA certificates for agents cannot be used")]
    ClientCa(#[from] RootsError),
    /// The verifier made of them.
    #[error("agents' certificates cannot be verified")]
    Verifier(#[from] VerifierBuilderError),
    /// The server's own certificate or key.
    #[error("the server's certificate and key cannot be used")]
    Identity(#[from] rustls::Error),
    /// The provider of cryptography has no cipher suite that QUIC starts with.
    #[error("no cipher suite for QUIC's first packets")]
    NoInitialCipherSuite,
}

/// The configuration for connections from now on.
///
/// # Security
/// TLS 1.3 alone; a client certificate under one of the CAs is required; no early data, no
/// tickets: nothing that arrives was sent before this handshake, and no connection outlives a
/// change of the CA set by resuming. (Q12)
pub(super) fn server_config(tls: &Tls, limits: &ServerLimits) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let roots = Arc::new(root_store(&tls.client_ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let chain = tls.certificate_chain.iter().cloned();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(tls.key_pkcs8.clone()));
    let mut crypto = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(chain.map(CertificateDer::from).collect(), key)?;
    crypto.alpn_protocols = vec![ALPN.to_vec()];
    crypto.max_early_data_size = 0;
    crypto.send_tls13_tickets = 0;
    crypto.session_storage = Arc::new(NoServerSessionStorage {});
    let crypto =
        QuicServerConfig::try_from(Arc::new(crypto)).map_err(|_| TlsError::NoInitialCipherSuite)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport(limits)));
    Ok(config)
}

/// Windows cut down to what the protocol needs, so that an idle connection is cheap. (X04)
fn transport(limits: &ServerLimits) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(limits::STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(limits::CONNECTION_WINDOW_BYTES))
        .send_window(limits::SEND_WINDOW_BYTES)
        // The server sends little: probing for larger packets would cost more than it saves.
        .mtu_discovery_config(None)
        // Nor is it worth a buffer of ten packets, which each connection would keep from its
        // handshake on.
        .enable_segmentation_offload(false)
        .max_idle_timeout(idle(limits.idle_ms_max));
    config
}

fn idle(ms: u64) -> Option<IdleTimeout> {
    // QUIC's longest idle time is millions of years.
    let longest = IdleTimeout::from(VarInt::MAX);
    Some(IdleTimeout::try_from(Duration::from_millis(ms)).unwrap_or(longest))
}
