//! The key that an agent's tenant has its revocations signed with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::x509::secrecy::rsa_pss_sha256;

/// Why nothing is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RevocationKeyError {
    /// It is no RSA key in PEM, it is encrypted, or it is too weak or too long.
    #[error("is no RSA key of 2048 to 8192 bits in PEM that is not encrypted")]
    Key,
}

/// Whether this text is such a key.
///
/// # Errors
/// [`RevocationKeyError`].
pub fn check_revocation_key(key_pem: &str) -> Result<(), RevocationKeyError> {
    sign_revocation(key_pem, b"").map(drop)
}

/// The signature of a message: RSASSA-PSS with SHA-256, MGF1 with SHA-256, and the longest salt that
/// the key has room for, as Keylime's clients verify it; in base64.
///
/// # Errors
/// [`RevocationKeyError`].
///
/// Source: RFC 8017, 8.1.1; Keylime 7.14 `keylime/crypto.py`.
pub fn sign_revocation(key_pem: &str, message: &[u8]) -> Result<String, RevocationKeyError> {
    let signed = rsa_pss_sha256(key_pem.as_bytes(), message);
    let signed = signed.ok().flatten().ok_or(RevocationKeyError::Key)?;
    Ok(STANDARD.encode(signed))
}
