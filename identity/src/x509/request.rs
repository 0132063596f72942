//! Certificate requests (PKCS#10).

use openssl::x509::X509Req;
use rat_engine::crypto::{Curve, KeyError, KeyMaterial, VerifyingKey};
use thiserror::Error;

use crate::der::{self, DerError, Reader};
use crate::limits;
use crate::x509::fields::only;
use crate::x509::sha256;

/// Why a certificate request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CsrError {
    /// More bytes than a request has.
    #[error("{0} bytes are more than a certificate request has")]
    TooLong(usize),
    /// Not exactly one PKCS#10 request.
    #[error("not a certificate request in DER: {0}")]
    Der(#[from] DerError),
    /// The library cannot read it.
    #[error("the certificate request cannot be read")]
    Unreadable,
    /// The signature is by an algorithm that is not accepted.
    #[error("the request is not signed with RSA or ECDSA and SHA-256, SHA-384 or SHA-512")]
    Algorithm,
    /// The key is of a kind that is not accepted.
    #[error("the key of the request is not accepted: {0}")]
    Key(#[from] KeyError),
    /// P-521, which not every TLS library offers.
    #[error("keys on P-521 are not accepted")]
    Curve,
    /// The signature is not by the key in the request.
    #[error("the request is not signed by its own key")]
    Signature,
    /// The key is not the one that is bound to the agent.
    #[error("the key of the request is not the one that is bound to the agent")]
    OtherKey,
    /// The certificate could not be made.
    #[error("the certificate cannot be made: {0}")]
    Issue(#[from] crate::x509::LibraryError),
}

/// Signatures of requests: ecdsa-with-SHA256, -384, -512 and sha256-, 384-, 512WithRSAEncryption.
const ALGORITHMS: [&[u8]; 6] = [
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13],
];

/// A request whose sender holds the private key of it. Its subject and attributes are not read.
#[derive(Debug, Clone)]
pub(crate) struct CertificateRequest {
    /// The canonical `SubjectPublicKeyInfo`.
    pub(crate) public_key_info: Vec<u8>,
}

impl CertificateRequest {
    /// Reads exactly one request and verifies it with its own key.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > limits::REQUEST_BYTES_MAX {
            return Err(CsrError::TooLong(der.len()));
        }
        // RFC 2986, 4.2: information, algorithm, signature.
        let mut parts = only(der, der::SEQUENCE)?.inside();
        parts.expect(der::SEQUENCE)?;
        let mut algorithm: Reader<'_> = parts.expect(der::SEQUENCE)?.inside();
        if !ALGORITHMS.contains(&algorithm.expect(der::OID)?.content) {
            return Err(CsrError::Algorithm);
        }
        parts.expect(3)?;
        parts.finish()?;

        let request = X509Req::from_der(der).map_err(|_| CsrError::Unreadable)?;
        let key = request.public_key().map_err(|_| CsrError::Unreadable)?;
        let public_key_info = key.public_key_to_der().map_err(|_| CsrError::Unreadable)?;
        match VerifyingKey::from_spki_der(&public_key_info)?.material() {
            KeyMaterial::Rsa { .. } => {}
            KeyMaterial::Ecc {
                curve: Curve::P256 | Curve::P384,
                ..
            } => {}
            KeyMaterial::Ecc { .. } => return Err(CsrError::Curve),
        }
        match request.verify(&key) {
            Ok(true) => Ok(Self { public_key_info }),
            Ok(false) | Err(_) => Err(CsrError::Signature),
        }
    }

    /// SHA-256 of the key's `SubjectPublicKeyInfo`.
    pub(crate) fn key_sha256(&self) -> [u8; 32] {
        sha256(&self.public_key_info)
    }
}
