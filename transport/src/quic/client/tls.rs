//! Whom an agent trusts, and how it shows who it is.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use super::error::TlsError;
use super::{ClientOptions, Crowd};
use crate::limits;
use crate::quic::ALPN;
use crate::quic::roots::{provider, root_store};

/// Whether a server with this chain is trusted under these CAs now.
pub(super) fn verify(
    ca_set: &[Vec<u8>],
    chain: &[CertificateDer<'_>],
    server_name: &str,
) -> Result<(), TlsError> {
    let (leaf, above) = chain.split_first().ok_or(TlsError::ServerUnknown)?;
    let name = ServerName::try_from(server_name).map_err(|_| TlsError::ServerUnknown)?;
    verifier(ca_set)?.verify_server_cert(leaf, above, &name, &[], UnixTime::now())?;
    Ok(())
}

fn verifier(ca_set: &[Vec<u8>]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let roots = Arc::new(root_store(ca_set)?);
    Ok(WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?)
}

/// TLS 1.3 under the pinned CAs, without resumption or early data. (Q12)
pub(super) fn client_config(
    options: ClientOptions,
    crowd: Crowd,
) -> Result<ClientConfig, TlsError> {
    let ClientOptions {
        ca_set,
        certificate_chain,
        key_pkcs8,
        keep_alive_ms,
        probe_mtu,
    } = options;
    let keep_alive = Duration::from_millis(keep_alive_ms.clamp(
        limits::KEEP_ALIVE_MS_MIN,
        limits::IDLE_MS_MAX.wrapping_div(3),
    ));
    let chain = certificate_chain.into_iter().map(CertificateDer::from);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_pkcs8));
    let mut crypto = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier(&ca_set)?)
        .with_client_auth_cert(chain.collect(), key)?;
    crypto.alpn_protocols = vec![ALPN.to_vec()];
    crypto.resumption = Resumption::disabled();
    crypto.enable_early_data = false;
    let crypto =
        QuicClientConfig::try_from(Arc::new(crypto)).map_err(|_| TlsError::NoInitialCipherSuite)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(keep_alive, probe_mtu, crowd)));
    Ok(config)
}

/// A server opens one stream at a time, and sends little on it.
fn transport(keep_alive: Duration, probe_mtu: bool, crowd: Crowd) -> TransportConfig {
    let idle = VarInt::from_u64(limits::IDLE_MS_MAX).unwrap_or(VarInt::MAX);
    let window = VarInt::from_u32(limits::STREAM_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window)
        .receive_window(window)
        // What is sent by one call is kept as a buffer of ten packets from then on.
        .enable_segmentation_offload(crowd == Crowd::Few)
        .mtu_discovery_config(probe_mtu.then(MtuDiscoveryConfig::default))
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .keep_alive_interval(Some(keep_alive));
    config
}
