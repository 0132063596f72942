//! The certificate that a relay shows, to the server and to its agents: which relay it is.

use std::fmt;

use thiserror::Error;

use crate::der::{self, DerError};
use crate::x509::fields::{FieldError, Fields, SUBJECT_ALT_NAME, only};
use crate::x509::sha256;

/// What stands before the name in the certificate's URI.
pub const URI_PREFIX: &str = "urn:ratd:relay:";

/// The name by which agents find a relay's certificate, whatever its host is called.
///
/// Every relay has it, and no server: `.invalid` is nobody's domain (RFC 6761, 6.4). So a relay
/// cannot pass for a server, and a server or an agent not for a relay.
pub const TLS_NAME: &str = "relay.ratd.invalid";

/// `uniformResourceIdentifier` of a GeneralName. (RFC 5280, 4.2.1.6)
const URI: u8 = 0x86;
/// `dNSName` of a GeneralName.
const DNS: u8 = 0x82;
const NAME_CHARACTERS_MAX: usize = 64;

/// What an operator calls a relay: 1 to 64 of `[a-z0-9.-]`, not beginning or ending with a dot or
/// hyphen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayName(String);

/// A text is no relay's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a relay's name has 1 to 64 of a-z, 0-9, dot and hyphen, and neither begins nor ends with a dot or hyphen"
)]
pub struct RelayNameError;

impl RelayName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`RelayNameError`].
    pub fn parse(text: &str) -> Result<Self, RelayNameError> {
        let is_inner = |byte: u8| matches!(byte, b'.' | b'-');
        let is_outer = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let has_ends = [bytes.first(), bytes.last()]
            .iter()
            .all(|end| end.is_some_and(|byte| is_outer(*byte)));
        let is_name = has_ends
            && bytes.len() <= NAME_CHARACTERS_MAX
            && bytes.iter().all(|byte| is_outer(*byte) || is_inner(*byte));
        match is_name {
            true => Ok(Self(text.to_owned())),
            false => Err(RelayNameError),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayCertificate {
    /// The relay.
    pub name: RelayName,
    /// SHA-256 of the certified key's SubjectPublicKeyInfo: what its agents' quotes are bound to.
    pub key_sha256: [u8; 32],
    /// The first moment of its validity.
    pub not_before_unix_ms: u64,
    /// The last moment of its validity.
    pub not_after_unix_ms: u64,
}

/// Why a certificate is no relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RelayCertificateError {
    /// It cannot be read.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// Its alternative names are not one URI and [`TLS_NAME`].
    #[error("the certificate's alternative names are not those of a relay")]
    NotARelay,
    /// The URI names no relay.
    #[error("the certificate's URI names no relay: {0}")]
    Name(#[from] RelayNameError),
    /// The times cannot be read.
    #[error("the certificate's validity cannot be read")]
    Validity,
}

impl From<DerError> for RelayCertificateError {
    fn from(error: DerError) -> Self {
        Self::Field(error.into())
    }
}

/// The relay that a certificate names.
///
/// # Errors
/// [`RelayCertificateError`]; whatever [`crate::ca::Ca`] would not have issued is refused.
///
/// # Security
/// Reads and does not verify: the TLS library has found that the certificate leads to our CA and
/// is valid now before this is asked.
pub fn read(certificate_der: &[u8]) -> Result<RelayCertificate, RelayCertificateError> {
    // The library would read the key, which takes longer than the arithmetic of a handshake.
    let fields = Fields::read(certificate_der)?;
    let names = fields
        .extension(SUBJECT_ALT_NAME)
        .ok_or(RelayCertificateError::NotARelay)?;
    let mut names = only(names.value, der::SEQUENCE)?.inside();
    let (uri, dns) = (names.next()?, names.next()?);
    let (Some(uri), Some(dns), None) = (uri, dns, names.next()?) else {
        return Err(RelayCertificateError::NotARelay);
    };
    if uri.tag != URI || dns.tag != DNS || dns.content != TLS_NAME.as_bytes() {
        return Err(RelayCertificateError::NotARelay);
    }
    let name = std::str::from_utf8(uri.content)
        .ok()
        .and_then(|uri| uri.strip_prefix(URI_PREFIX))
        .ok_or(RelayCertificateError::NotARelay)?;
    let (not_before_unix_ms, not_after_unix_ms) = fields
        .validity_unix_ms()
        .ok_or(RelayCertificateError::Validity)?;
    Ok(RelayCertificate {
        name: RelayName::parse(name)?,
        key_sha256: sha256(fields.public_key_info),
        not_before_unix_ms,
        not_after_unix_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q16_a_relays_name_is_canonical() {
        let longest = "a".repeat(NAME_CHARACTERS_MAX);
        for good in ["a", "site-1", "r.example", longest.as_str()] {
            assert_eq!(RelayName::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(NAME_CHARACTERS_MAX + 1);
        for bad in [
            "",
            "-",
            ".a",
            "a-",
            "Site",
            "a b",
            "a\n",
            "ü",
            "a/b",
            long.as_str(),
        ] {
            assert_eq!(RelayName::parse(bad), Err(RelayNameError), "{bad:?}");
        }
    }
}
