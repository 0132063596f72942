//! The V key that one of Keylime's agents is given once it has attested.

use thiserror::Error;

use crate::LibraryError;
use crate::x509::secrecy::rsa_oaep_sha1;

/// Why a V key cannot be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VKeyError {
    /// The agent's key is no RSA key, or one that is too weak.
    #[error("the agent's key is no RSA key of at least 2048 bits")]
    Key,
    /// The library failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

/// The V key, encrypted for this public key (PEM) as Keylime's agents decrypt it: RSAES-OAEP with
/// SHA-1. Its collisions do not matter here: OAEP is as strong with it.
///
/// # Errors
/// [`VKeyError`].
///
/// # Security
/// Whose key this is must have been shown by evidence before.
///
/// Source: RFC 8017, 7.1.1; Keylime, `POST /keys/vkey`.
pub fn seal_v_key(public_key_pem: &[u8], v_key: &[u8]) -> Result<Vec<u8>, VKeyError> {
    rsa_oaep_sha1(public_key_pem, v_key)?.ok_or(VKeyError::Key)
}
