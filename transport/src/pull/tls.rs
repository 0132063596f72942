//! TLS with agents whose certificates nobody vouches for: each is known by the one that it has.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use thiserror::Error;

use super::contact::sha256;
use crate::quic::provider;

/// What we show to agents: they refuse whoever has no certificate of the CA that they trust.
pub struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why a PEM text is not what it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PemError {
    /// It holds no certificate that can be read.
    #[error("holds no certificate in PEM")]
    Certificate,
    /// It holds no private key, or one that is encrypted.
    #[error("holds no private key in PEM that is not encrypted")]
    Key,
}

impl ClientIdentity {
    /// The certificate and those of its issuers (DER), and its private key (PKCS #8 in DER).
    pub fn new(chain: Vec<Vec<u8>>, key_pkcs8: Vec<u8>) -> Self {
        Self {
            chain: chain.into_iter().map(CertificateDer::from).collect(),
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_pkcs8)),
        }
    }

    /// The same in PEM, as Keylime has them in `client-cert.crt` and `client-private.pem`.
    ///
    /// # Errors
    /// [`PemError`].
    pub fn of_pem(chain: &[u8], key: &[u8]) -> Result<Self, PemError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|_| PemError::Certificate)?;
        if chain.is_empty() {
            return Err(PemError::Certificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PemError::Key)?;
        Ok(Self { chain, key })
    }
}

/// The certificate (DER) of an agent, as tenants name it in PEM.
///
/// # Errors
/// [`PemError::Certificate`].
pub fn certificate_of_pem(pem: &[u8]) -> Result<Vec<u8>, PemError> {
    let certificate = CertificateDer::from_pem_slice(pem);
    let certificate = certificate.map_err(|_| PemError::Certificate)?;
    Ok(certificate.to_vec())
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientIdentity({} certificates)", self.chain.len())
    }
}

/// TLS of every connection to an agent.
///
/// One configuration is enough for all of them: the name under which an agent is asked for is the
/// fingerprint of its certificate, and is not sent.
///
/// # Errors
/// When the certificate or its key cannot be used.
///
/// # Security
/// Sessions are never resumed, so that each connection sees the agent prove its key.
pub(super) fn client(identity: Option<ClientIdentity>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = provider();
    let verifier = Pinned(Arc::clone(&provider));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(ClientIdentity { chain, key }) => builder.with_client_auth_cert(chain, key)?,
    };
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A name that stands for the certificate with this fingerprint.
pub(super) fn name_of(fingerprint: &[u8; 32]) -> Option<ServerName<'static>> {
    // Two labels: one may have 63 characters at most.
    let (first, second) = fingerprint.split_at(16);
    let hex = |half: &[u8]| -> String { half.iter().map(|byte| format!("{byte:02x}")).collect() };
    ServerName::try_from(format!("{}.{}", hex(first), hex(second))).ok()
}

/// Believes whoever has the key of the certificate that the name stands for. What else stands in
/// that certificate, its dates included, was for the tenant to judge who named it.
#[derive(Debug)]
struct Pinned(Arc<CryptoProvider>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = name_of(&sha256(end_entity));
        if shown.is_some_and(|shown| shown == *server_name) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
