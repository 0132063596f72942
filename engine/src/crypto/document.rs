//! Keys that sign documents: ECDSA with SHA-256 over a whole message, in DER.

use std::fmt;

use openssl::pkey::{PKey, Public as LibraryPublic};
use openssl::x509::X509;

use super::ecdsa;
use super::key::{KeyError, KeyMaterial, VerifyingKey};
use super::{digest, pem, reference};
use crate::hash::HashAlg;

/// A public key that verifies signatures of documents: a point on P-256, P-384 or P-521.
///
/// # Security
/// Whoever calls names the key. A certificate is a container here: neither its signature nor its
/// dates are looked at, because naming it is what makes it trusted.
#[derive(Clone, PartialEq, Eq)]
pub struct DocumentKey {
    key: VerifyingKey,
    id: String,
}

/// The key did not make this signature over this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match key and message")]
pub struct DocumentMismatch;

impl DocumentKey {
    /// The key in one PEM block, `PUBLIC KEY` or `CERTIFICATE`.
    ///
    /// # Errors
    /// [`KeyError`]; [`KeyError::Type`] for an RSA key.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        match pem::decode(text)? {
            ("PUBLIC KEY", der) => Self::new(VerifyingKey::from_spki_der(&der)?),
            ("CERTIFICATE", der) => {
                let certificate = X509::from_der(&der).map_err(|_| KeyError::Der)?;
                if certificate.to_der().ok().as_deref() != Some(&der) {
                    return Err(KeyError::Der);
                }
                let key = certificate.public_key().map_err(|_| KeyError::Type)?;
                let spki = key.public_key_to_der().map_err(|_| KeyError::Library)?;
                Self::new(VerifyingKey::from_spki_der(&spki)?)
            }
            _ => Err(KeyError::Pem),
        }
    }

    fn new(key: VerifyingKey) -> Result<Self, KeyError> {
        if !matches!(key.material(), KeyMaterial::Ecc { .. }) {
            return Err(KeyError::Type);
        }
        let id = id_of(&reference::parse(key.material()).map_err(|_| KeyError::Library)?)?;
        Ok(Self { key, id })
    }

    /// What Keylime calls the key by: SHA-256 of its PEM text, in hexadecimal.
    ///
    /// Source: Keylime, `keylime/dsse/ecdsa.py`, `Verifier.keyid`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Verifies that this key signed exactly `message`.
    ///
    /// # Errors
    /// [`DocumentMismatch`]; nothing but `Ok` means valid.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), DocumentMismatch> {
        let KeyMaterial::Ecc { curve, x, y } = self.key.material() else {
            return Err(DocumentMismatch);
        };
        let algorithm = ecdsa::algorithm(*curve, HashAlg::Sha256).ok_or(DocumentMismatch)?;
        let key = ecdsa::parse(x, y, algorithm).map_err(|_| DocumentMismatch)?;
        key.verify_sig(message, signature)
            .map_err(|_| DocumentMismatch)
    }
}

fn id_of(key: &PKey<LibraryPublic>) -> Result<String, KeyError> {
    let pem = key.public_key_to_pem().map_err(|_| KeyError::Library)?;
    Ok(digest(HashAlg::Sha256, &pem).to_hex())
}

impl fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DocumentKey({})", self.id)
    }
}
