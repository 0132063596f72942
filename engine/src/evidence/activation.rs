//! The answer to a credential activation: what it ties together.

use crate::agent_id::AgentId;
use crate::crypto::hmac_sha256;

/// Everything that an enrolment claims, and that its activation proves together. (N11)
#[derive(Debug, Clone, Copy)]
pub struct Enrolling<'a> {
    /// The id.
    pub agent: &'a AgentId,
    /// The activation's id, as the server gave it.
    pub activation_id: &'a str,
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo.
    pub ek_sha256: &'a [u8; 32],
    /// The attestation key's Name, computed from its public area.
    pub ak_name: &'a [u8],
    /// SHA-256 of the enrolment token.
    pub token_sha256: &'a [u8; 32],
    /// The group's slug.
    pub group: &'a str,
    /// SHA-256 of the SubjectPublicKeyInfo of the certificate request's key.
    pub client_key_sha256: &'a [u8; 32],
}

/// HMAC-SHA-256, keyed with the activated secret, over a domain label and each field preceded by
/// its length.
///
/// # Security
/// Only a TPM that holds both the endorsement key and the attestation key can release `secret`;
/// compare in constant time. An answer for one enrolment is wrong for every other.
pub fn activation_proof(secret: &[u8], enrolling: &Enrolling<'_>) -> [u8; 32] {
    let Enrolling {
        agent,
        activation_id,
        ek_sha256,
        ak_name,
        token_sha256,
        group,
        client_key_sha256,
    } = enrolling;
    let mut message = b"ratd activation v1\0".to_vec();
    let fields: [&[u8]; 7] = [
        agent.as_str().as_bytes(),
        activation_id.as_bytes(),
        &ek_sha256[..],
        ak_name,
        &token_sha256[..],
        group.as_bytes(),
        &client_key_sha256[..],
    ];
    for field in fields {
        message.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(field);
    }
    hmac_sha256(secret, &message)
}
