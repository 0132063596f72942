//! The certificate that an agent shows: which agent it is.

use rat_engine::agent_id::{AgentId, AgentIdError};
use thiserror::Error;

use crate::der::{self, DerError};
use crate::x509::fields::{FieldError, Fields, SUBJECT_ALT_NAME, only};
use crate::x509::sha256;

/// What stands before the id in the certificate's URI.
pub const URI_PREFIX: &str = "urn:ratd:agent:";

/// `uniformResourceIdentifier` of a GeneralName. (RFC 5280, 4.2.1.6)
const URI: u8 = 0x86;

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The agent.
    pub agent: AgentId,
    /// SHA-256 of the certified key's SubjectPublicKeyInfo.
    pub key_sha256: [u8; 32],
    /// The first moment of its validity.
    pub not_before_unix_ms: u64,
    /// The last moment of its validity.
    pub not_after_unix_ms: u64,
}

impl PeerCertificate {
    /// When to ask for the next one: after two thirds of its life.
    pub const fn renew_at_unix_ms(&self) -> u64 {
        renew_at_unix_ms(self.not_before_unix_ms, self.not_after_unix_ms)
    }
}

/// The moment after two thirds of a certificate's life.
pub const fn renew_at_unix_ms(not_before_unix_ms: u64, not_after_unix_ms: u64) -> u64 {
    let third = match not_after_unix_ms
        .saturating_sub(not_before_unix_ms)
        .checked_div(3)
    {
        Some(third) => third,
        None => 0,
    };
    not_after_unix_ms.saturating_sub(third)
}

/// Why a certificate is no agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AgentCertificateError {
    /// It cannot be read.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// It has no alternative name.
    #[error("the certificate has no subjectAltName")]
    NameMissing,
    /// It has several alternative names, or one that is no URI.
    #[error("the certificate has another subjectAltName than one URI")]
    NameNotAlone,
    /// The URI does not begin with [`URI_PREFIX`].
    #[error("the certificate's URI does not name an agent")]
    NotAnAgent,
    /// The URI names no agent id in canonical form.
    #[error("the certificate's URI names no agent id: {0}")]
    Id(#[from] AgentIdError),
    /// The id is not written in its canonical form.
    #[error("the certificate's agent id is not in its canonical form")]
    IdForm,
    /// The times cannot be read.
    #[error("the certificate's validity cannot be read")]
    Validity,
}

impl From<DerError> for AgentCertificateError {
    fn from(error: DerError) -> Self {
        Self::Field(error.into())
    }
}

/// The agent that a certificate names, in its one alternative name.
///
/// # Errors
/// [`AgentCertificateError`]; whatever [`crate::ca::Ca`] would not have issued is refused.
///
/// # Security
/// Reads and does not verify: the TLS library has found that the certificate leads to our CA and
/// is valid now before this is asked.
pub fn read(certificate_der: &[u8]) -> Result<PeerCertificate, AgentCertificateError> {
    // The library would read the key, which takes longer than the arithmetic of a handshake.
    let fields = Fields::read(certificate_der)?;
    let names = fields
        .extension(SUBJECT_ALT_NAME)
        .ok_or(AgentCertificateError::NameMissing)?;
    let mut names = only(names.value, der::SEQUENCE)?.inside();
    let name = names.next()?.ok_or(AgentCertificateError::NameMissing)?;
    if name.tag != URI || names.next()?.is_some() {
        return Err(AgentCertificateError::NameNotAlone);
    }
    let id = std::str::from_utf8(name.content)
        .ok()
        .and_then(|uri| uri.strip_prefix(URI_PREFIX))
        .ok_or(AgentCertificateError::NotAnAgent)?;
    let agent = AgentId::parse(id)?;
    if agent.as_str() != id {
        return Err(AgentCertificateError::IdForm);
    }
    let (not_before_unix_ms, not_after_unix_ms) = fields
        .validity_unix_ms()
        .ok_or(AgentCertificateError::Validity)?;
    Ok(PeerCertificate {
        agent,
        key_sha256: sha256(fields.public_key_info),
        not_before_unix_ms,
        not_after_unix_ms,
    })
}
