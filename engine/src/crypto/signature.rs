//! The checks of a signature that come before any library sees it, and the errors of all.

use thiserror::Error;

use crate::crypto::key::KeyMaterial;
use crate::crypto::{ecdsa, rsa};
use crate::hash::HashAlg;
use crate::tpm::Signature;

/// Why a signature was not verified. No variant ever means that it is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The scheme belongs to another type of key.
    #[error("a signature by {scheme} cannot come from this {key} key")]
    KeyTypeMismatch {
        /// Scheme that the signature names.
        scheme: &'static str,
        /// Type of the key.
        key: &'static str,
    },
    /// The hash is too weak and the caller did not allow it.
    #[error("a signature over {0} is not allowed")]
    HashNotAllowed(HashAlg),
    /// The key did not make this signature over this message.
    #[error("the signature is not valid: {0}")]
    Invalid(SignatureFault),
    /// A library could not do its work, so nothing is known about the signature.
    #[error("the cryptographic library failed")]
    Library,
}

/// What is wrong with a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureFault {
    /// It has not as many bytes as the key needs; for ECDSA, more than the field has.
    #[error("{found} bytes where the key has {expected}")]
    Length {
        /// Bytes of the signature, or of its longer number.
        found: usize,
        /// Bytes of the modulus or field.
        expected: usize,
    },
    /// A number in it is zero, or not below the modulus or the order of the curve.
    #[error("a number is out of range")]
    Range,
    /// It is in good form but not by this key over this message.
    #[error("it does not match key and message")]
    Mismatch,
}

/// A signature that fits its key in type, length and range: the input of every backend.
#[derive(Debug, Clone)]
pub(crate) enum Fitting<'a> {
    RsaSsa { hash: HashAlg, sig: &'a [u8] },
    RsaPss { hash: HashAlg, sig: &'a [u8] },
    Ecdsa { hash: HashAlg, der: Vec<u8> },
}

impl<'a> Fitting<'a> {
    pub(crate) fn new(
        key: &KeyMaterial,
        signature: &Signature<'a>,
        allow_sha1: bool,
    ) -> Result<Self, SignatureError> {
        let hash = signature.hash();
        let fitting = match (key, signature) {
            (KeyMaterial::Rsa { modulus, .. }, Signature::RsaSsa { sig, .. }) => {
                rsa::check_range(modulus, sig)?;
                Self::RsaSsa { hash, sig }
            }
            (KeyMaterial::Rsa { modulus, .. }, Signature::RsaPss { sig, .. }) => {
                rsa::check_range(modulus, sig)?;
                Self::RsaPss { hash, sig }
            }
            (KeyMaterial::Ecc { curve, .. }, Signature::Ecdsa { r, s, .. }) => {
                let der = ecdsa::to_der(*curve, r, s)?;
                Self::Ecdsa { hash, der }
            }
            _ => {
                return Err(SignatureError::KeyTypeMismatch {
                    scheme: signature.scheme(),
                    key: key.type_name(),
                });
            }
        };
        // Q09: refused here, so that no caller can forget it.
        if hash == HashAlg::Sha1 && !allow_sha1 {
            return Err(SignatureError::HashNotAllowed(hash));
        }
        Ok(fitting)
    }
}
