//! CA sets and the provider of cryptography, for both ends.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, RootCertStore};
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
///
/// AES-128 with SHA-256 is preferred: it is as strong as the keys that are certified here, and
/// processors hash SHA-256 in hardware, which counts in handshakes and in every channel binding.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    // One for all: a process may have as many clients as there are agents.
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        let preferred = CipherSuite::TLS13_AES_128_GCM_SHA256;
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != preferred);
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_128_is_preferred_and_nothing_else_is_lost() {
        let ours = provider().cipher_suites.clone();
        assert_eq!(
            ours.first().map(|suite| suite.suite()),
            Some(CipherSuite::TLS13_AES_128_GCM_SHA256)
        );
        let all = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
        assert_eq!(ours.len(), all.len());
        assert!(all.iter().all(|suite| ours.contains(suite)));
    }
}
