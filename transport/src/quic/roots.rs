//! CA sets and the provider of cryptography, for both ends.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use thiserror::Error;

/// Why certificates are no CA set.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RootsError {
    /// A set without a certificate trusts nobody.
    #[error("there is no CA certificate")]
    Empty,
    /// One that cannot be read.
    #[error("CA certificate {at} cannot be used")]
    Certificate {
        /// Its position in the set.
        at: usize,
        /// Why.
        source: rustls::Error,
    },
}

/// The one provider of cryptography for TLS.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The trust anchors in these certificates.
pub(super) fn root_store(ca_set: &[Vec<u8>]) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in ca_set.iter().enumerate() {
        roots
            .add(CertificateDer::from(certificate.as_slice()))
            .map_err(|source| RootsError::Certificate { at, source })?;
    }
    if roots.is_empty() {
        return Err(RootsError::Empty);
    }
    Ok(roots)
}
