//! Enrolment: what a machine claims, what it is asked, and whether its answer proves the claim.

use rat_engine::agent_id::AgentId;
use rat_engine::crypto::{KeyError, VerifyingKey, constant_time_eq};
use rat_engine::evidence::{Enrolling, NonceSource, activation_proof};
use rat_engine::tpm::attributes::{KeyAttributeError, check_attestation_key};
use rat_engine::tpm::{Public, PublicError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::CsrError;
use crate::credential::{Credential, CredentialError, make_credential};
use crate::ek::{EkError, EkTrust, EkVouch, EndorsementKey};
use crate::x509::request::CertificateRequest;
use crate::x509::sha256;

/// Bytes of a secret that an activation releases.
const SECRET_BYTES: usize = 32;

/// What a machine sends to enrol.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The id that it wants.
    pub agent: AgentId,
    /// Its EK certificate in DER, if it has one; as the TPM's NV index holds it.
    pub ek_certificate: Option<&'a [u8]>,
    /// Its endorsement key: `TPM2B_PUBLIC` or `TPMT_PUBLIC`.
    pub ek_public: &'a [u8],
    /// Its attestation key, in the same forms.
    pub ak_public: &'a [u8],
    /// A PKCS#10 request in DER for the key that it will connect with.
    pub csr: &'a [u8],
    /// The machine, by its endorsement key, that an operator let into the group: vouched for,
    /// whatever certificate it has. `None` when this one was not.
    pub approved_ek_sha256: Option<&'a [u8; 32]>,
    /// Whether the group accepts SHA-1 as the hash of the attestation key's scheme and Name. (Q09)
    pub allow_sha1: bool,
}

/// A machine whose claims fit together. That it holds the keys is not proven yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// The id that it wants.
    pub agent: AgentId,
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo.
    pub ek_sha256: [u8; 32],
    /// How the endorsement key is known.
    pub vouch: EkVouch,
    /// The endorsement key: `TPMT_PUBLIC`.
    pub ek_public: Vec<u8>,
    /// The attestation key: `TPMT_PUBLIC`.
    pub ak_public: Vec<u8>,
    /// Its name, computed here.
    pub ak_name: Vec<u8>,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that it will connect with.
    pub client_key_sha256: [u8; 32],
    /// The certificate request, verified with its own key.
    pub csr: Vec<u8>,
}

/// Why an enrolment is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EnrolmentError {
    /// The endorsement key or its certificate.
    #[error(transparent)]
    Ek(#[from] EkError),
    /// The attestation key cannot be read.
    #[error("the attestation key cannot be read: {0}")]
    AkMalformed(#[from] PublicError),
    /// The attestation key is no key.
    #[error("the attestation key is no key: {0}")]
    AkKey(KeyError),
    /// The attestation key can do more, or less, than attest.
    #[error("the attestation key is not made for attesting alone: {0}")]
    AkAttributes(KeyAttributeError),
    /// The attestation key has the fingerprint of weak primes (CVE-2017-15361).
    #[error("the attestation key has the ROCA weakness (CVE-2017-15361)")]
    AkRoca,
    /// The certificate request.
    #[error(transparent)]
    Csr(#[from] CsrError),
}

impl EnrolmentError {
    /// The stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Ek(error) => error.code(),
            Self::AkMalformed(_) | Self::AkKey(_) => "ak.malformed",
            Self::AkAttributes(_) => "ak.attributes",
            Self::AkRoca => "ak.roca",
            Self::Csr(CsrError::Issue(_)) => "internal",
            Self::Csr(CsrError::Signature) => "csr.signature",
            Self::Csr(
                CsrError::Key(_) | CsrError::Curve | CsrError::Algorithm | CsrError::OtherKey,
            ) => "csr.key",
            Self::Csr(CsrError::TooLong(_) | CsrError::Der(_) | CsrError::Unreadable) => {
                "csr.malformed"
            }
        }
    }
}

/// What is kept of an enrolment until its answer comes: all that verifying and admitting need, and
/// nothing that helps to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its name: 32 hexadecimal digits, random.
    pub activation_id: String,
    /// The id that the machine wants.
    pub agent: AgentId,
    /// The group's slug.
    pub group: String,
    /// SHA-256 of the enrolment token.
    pub token_sha256: [u8; 32],
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo.
    pub ek_sha256: [u8; 32],
    /// How the endorsement key is known.
    pub vouch: EkVouch,
    /// The attestation key: `TPMT_PUBLIC`.
    pub ak_public: Vec<u8>,
    /// The certificate request.
    pub csr: Vec<u8>,
    /// SHA-256 of the SubjectPublicKeyInfo of the request's key.
    pub client_key_sha256: [u8; 32],
    /// SHA-256 of the only right answer.
    proof_sha256: [u8; 32],
}

/// A question to a machine.
#[derive(Debug, Clone)]
pub struct Challenged {
    /// What to keep.
    pub pending: Pending,
    /// What to send, with [`Pending::activation_id`].
    pub credential: Credential,
}

/// Checks that the claims of a machine fit together, each key is what it should be, and the
/// operator knows its TPM.
///
/// # Errors
/// [`EnrolmentError`] with a stable code.
///
/// # Security
/// Proves possession of the certificate request's key only. The keys of the TPM are proven by
/// [`challenge`] and [`verify`].
pub fn check(
    trust: &EkTrust,
    request: &Request<'_>,
    now_unix_ms: u64,
) -> Result<Applicant, EnrolmentError> {
    let csr = CertificateRequest::parse(request.csr)?;
    let ak = Public::parse(request.ak_public)?;
    check_ak(&ak, request.allow_sha1)?;
    VerifyingKey::from_tpm(&ak).map_err(EnrolmentError::AkKey)?;
    let ek = EndorsementKey::parse(request.ek_public)?;
    let approved = request.approved_ek_sha256;
    let proof = trust.vouch(request.ek_certificate, &ek, approved, now_unix_ms)?;
    Ok(Applicant {
        agent: request.agent.clone(),
        ek_sha256: proof.ek_sha256,
        vouch: proof.by,
        ek_public: ek.public.raw.to_vec(),
        ak_public: ak.raw.to_vec(),
        ak_name: ak.name().to_bytes(),
        client_key_sha256: csr.key_sha256(),
        csr: request.csr.to_vec(),
    })
}

fn check_ak(ak: &Public<'_>, allow_sha1: bool) -> Result<(), EnrolmentError> {
    check_attestation_key(ak, allow_sha1).map_err(|error| match error {
        KeyAttributeError::Roca => EnrolmentError::AkRoca,
        other => EnrolmentError::AkAttributes(other),
    })
}

impl Pending {
    /// Checks the attestation key once more: its group may accept SHA-1 no longer.
    ///
    /// # Errors
    /// [`EnrolmentError`] of the key.
    pub fn check_ak(&self, allow_sha1: bool) -> Result<(), EnrolmentError> {
        check_ak(&Public::parse(&self.ak_public)?, allow_sha1)
    }
}

/// Wraps a new secret for an applicant's TPM, and keeps what the right answer looks like.
///
/// Each call draws a new secret and a new id: enrolments of one agent side by side do not meet,
/// and no answer serves twice. (N05, N11)
///
/// # Errors
/// [`CredentialError`]; without random numbers there is no challenge.
pub fn challenge(
    applicant: &Applicant,
    token_sha256: &[u8; 32],
    group: &str,
    random: &mut dyn NonceSource,
) -> Result<Challenged, CredentialError> {
    let mut id = [0; 16];
    let mut secret = [0; SECRET_BYTES];
    random.fill(&mut id).ok_or(CredentialError::Random)?;
    random.fill(&mut secret).ok_or(CredentialError::Random)?;
    let activation_id = hex::encode(id);
    let credential = make_credential(&applicant.ek_public, &applicant.ak_name, &secret, random)?;
    let proof = activation_proof(
        &secret,
        &Enrolling {
            agent: &applicant.agent,
            activation_id: &activation_id,
            ek_sha256: &applicant.ek_sha256,
            ak_name: &applicant.ak_name,
            token_sha256,
            group,
            client_key_sha256: &applicant.client_key_sha256,
        },
    );
    let pending = Pending {
        activation_id,
        agent: applicant.agent.clone(),
        group: group.to_owned(),
        token_sha256: *token_sha256,
        ek_sha256: applicant.ek_sha256,
        vouch: applicant.vouch,
        ak_public: applicant.ak_public.clone(),
        csr: applicant.csr.clone(),
        client_key_sha256: applicant.client_key_sha256,
        proof_sha256: sha256(&proof),
    };
    Ok(Challenged {
        pending,
        credential,
    })
}

/// Whether `proof` is the answer to this question.
///
/// # Security
/// Takes the same time for every wrong answer. Counting tries, dropping the record after
/// [`crate::limits::ACTIVATION_TRIES_MAX`] or [`crate::limits::ACTIVATION_TTL_MS`], and using it
/// once are the store's part, in one transaction. (N05)
pub fn verify(pending: &Pending, proof: &[u8]) -> bool {
    constant_time_eq(&sha256(proof), &pending.proof_sha256)
}
