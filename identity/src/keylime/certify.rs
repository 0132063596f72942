//! The proof that an attestation key lives beside an initial attestation key (IAK).

use rat_engine::crypto::{KeyError, SignatureError, VerifyingKey, constant_time_eq};
use rat_engine::malformed::Malformed;
use rat_engine::tpm::attest::attest_bytes;
use rat_engine::tpm::{Attest, AttestError, Attested, Public, Signature, SignatureFormatError};
use thiserror::Error;

use crate::x509::sha256;

/// What the TPM said of the attestation key, signed with the IAK.
#[derive(Debug, Clone, Copy)]
pub struct Certified<'a> {
    /// `TPMS_ATTEST`.
    pub attest: &'a [u8],
    /// `TPMT_SIGNATURE`.
    pub signature: &'a [u8],
}

/// Why the proof is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertifyError {
    /// The structure cannot be read.
    #[error("iak_attest: {0}")]
    Attest(#[from] AttestError),
    /// It is of another length than there is.
    #[error("iak_attest: {0}")]
    Length(#[from] Malformed),
    /// It is a quote or something else, and no `TPM2_Certify`.
    #[error("iak_attest certifies no key")]
    Kind,
    /// It was made for another id.
    #[error("iak_attest is for another agent id")]
    Agent,
    /// It is about another key.
    #[error("iak_attest is about another key")]
    Name,
    /// The IAK is no key.
    #[error("iak_tpm: {0}")]
    Key(KeyError),
    /// The signature cannot be read.
    #[error("iak_sign: {0}")]
    Format(#[from] SignatureFormatError),
    /// The IAK has not signed it.
    #[error("iak_sign: {0}")]
    Signature(SignatureError),
}

/// Checks that the TPM with this IAK has the attestation key of this name, and said so for this id:
/// the id itself, or its SHA-256 since version 2.6.
pub(super) fn verify(
    certified: Certified<'_>,
    iak: &Public<'_>,
    ak_name: &[u8],
    agent: &str,
) -> Result<(), CertifyError> {
    let message = attest_bytes(certified.attest)?;
    let attest = Attest::parse(message)?;
    let key = VerifyingKey::from_tpm(iak).map_err(CertifyError::Key)?;
    let signature = Signature::parse(certified.signature)?;
    key.verify(&signature, message, false)
        .map_err(CertifyError::Signature)?;
    let Attested::Certify { name, .. } = attest.attested else {
        return Err(CertifyError::Kind);
    };
    let hashed = sha256(agent.as_bytes());
    let is_for_agent = constant_time_eq(attest.extra_data, &hashed)
        || constant_time_eq(attest.extra_data, agent.as_bytes());
    if !is_for_agent {
        return Err(CertifyError::Agent);
    }
    if name != ak_name {
        return Err(CertifyError::Name);
    }
    Ok(())
}
