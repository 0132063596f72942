//! Which receivers are believed: TLS, and the CAs that vouch for them.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// CAs that vouch for a receiver.
#[derive(Debug, Clone)]
pub struct Roots(Arc<RootCertStore>);

/// Why there are none.
#[derive(Debug, Error)]
pub enum RootsError {
    /// The text is no PEM.
    #[error("is no PEM")]
    Pem,
    /// There is no certificate in it.
    #[error("holds no certificate")]
    Empty,
    /// A certificate cannot be a CA's.
    #[error("holds a certificate that cannot be used: {0}")]
    Certificate(rustls::Error),
    /// The system has no bundle of CAs where one is looked for.
    #[error("this system has no bundle of CAs: name one")]
    NoSystemBundle,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// Where distributions of Linux keep the CAs of the public Internet in one file: Debian and Alpine,
/// Fedora, SUSE.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Roots {
    /// The CAs in a PEM text, each of which must be usable.
    ///
    /// # Errors
    /// [`RootsError`].
    pub fn of_pem(text: &[u8]) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(|_| RootsError::Pem)?;
            roots.add(certificate).map_err(RootsError::Certificate)?;
        }
        Self::some(roots)
    }

    /// The CAs that the system's administrator trusts. Some of any bundle are of a form that is not
    /// read; they vouch for nobody.
    ///
    /// # Errors
    /// [`RootsError::NoSystemBundle`].
    pub fn of_system() -> Result<Self, RootsError> {
        let mut bundles = BUNDLES.into_iter();
        let found = bundles.find_map(|path| std::fs::read(Path::new(path)).ok());
        let text = found.ok_or(RootsError::NoSystemBundle)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
        Self::some(roots)
    }

    fn some(roots: RootCertStore) -> Result<Self, RootsError> {
        if roots.is_empty() {
            return Err(RootsError::Empty);
        }
        Ok(Self(Arc::new(roots)))
    }

    /// TLS that believes whom these vouch for.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, RootsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RootsError::Tls)?
            .with_root_certificates(Arc::clone(&self.0))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a07_a_file_without_usable_certificates_vouches_for_nobody() {
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken = "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (text, expected) in [
            ("", "Empty"),
            ("hello", "Empty"),
            (key, "Empty"),
            (garbage, "Certificate"),
            (broken, "Pem"),
        ] {
            let refused = Roots::of_pem(text.as_bytes()).unwrap_err();
            assert!(format!("{refused:?}").starts_with(expected), "{refused:?}");
        }
    }
}
