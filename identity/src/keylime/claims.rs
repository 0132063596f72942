//! Keys and certificates of a registration, held against each other and against what an operator
//! trusts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::crypto::{KeyError, VerifyingKey};
use rat_engine::tpm::attributes::{KeyAttributeError, ObjectAttributes, check_attestation_key};
use rat_engine::tpm::{Public, PublicError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::certify::{self, Certified, CertifyError};
use crate::ek::{EkError, EkTrust, EkVouch, EndorsementKey};
use crate::pem::{self, PemError};
use crate::x509::certificate::{Certificate, without_nv_padding};
use crate::x509::chain::ChainFault;
use crate::x509::fields::FieldError;

/// What a machine says it is. Public areas are `TPM2B_PUBLIC` or `TPMT_PUBLIC`, certificates DER.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// Its endorsement key.
    pub ek_public: &'a [u8],
    /// The certificate of that, if it has one.
    pub ek_certificate: Option<&'a [u8]>,
    /// Its attestation key.
    pub ak_public: &'a [u8],
    /// Its initial keys, if it has them.
    pub device: Option<Device<'a>>,
}

/// Initial keys of a device, with their certificates.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// The initial attestation key (IAK).
    pub iak_public: &'a [u8],
    /// Its certificate.
    pub iak_certificate: &'a [u8],
    /// The initial device identity (IDevID).
    pub idevid_public: &'a [u8],
    /// Its certificate.
    pub idevid_certificate: &'a [u8],
    /// The proof that the attestation key is in the same TPM. `None` where it was checked before.
    pub certified: Option<Certified<'a>>,
}

/// What happens to a machine whose endorsement key nobody vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EkCheck {
    /// Nobody looks: clients must.
    Off,
    /// It registers, and a warning says so.
    Warn,
    /// It is refused.
    #[default]
    Enforce,
}

/// What must identify a machine: Keylime's `tpm_identity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmIdentity {
    /// Its endorsement key, or IAK and IDevID.
    #[default]
    EkCertOrIakIdevid,
    /// Its endorsement key.
    EkCert,
    /// IAK and IDevID.
    IakIdevid,
}

/// What an operator demands of registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Of endorsement keys.
    pub ek_check: EkCheck,
    /// Of identities.
    pub tpm_identity: TpmIdentity,
}

/// How the TPM is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouch {
    /// Nobody has looked.
    Unchecked,
    /// Nobody vouches for it, for this reason, and the operator takes it all the same.
    Unknown(EkError),
    /// By its EK certificate's chain to this root (SHA-256).
    Chain([u8; 32]),
    /// By the operator's list.
    List,
    /// By the certificates of its IAK and IDevID.
    Device,
}

/// Claims that fit together. That the machine holds the keys is not proven yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo: the machine.
    pub ek_sha256: [u8; 32],
    /// The attestation key's name, computed here.
    pub ak_name: Vec<u8>,
    /// How the TPM is known.
    pub vouch: Vouch,
}

/// Why a registration is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RegistrationError {
    /// A certificate is neither PEM nor the base64 of DER.
    #[error("a certificate is neither PEM nor base64")]
    Encoding,
    /// A certificate in PEM is damaged.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A certificate cannot be read.
    #[error("a certificate cannot be read: {0}")]
    Certificate(#[from] FieldError),
    /// The endorsement key or its certificate.
    #[error(transparent)]
    Ek(#[from] EkError),
    /// The attestation key cannot be read.
    #[error("aik_tpm cannot be read: {0}")]
    AkMalformed(PublicError),
    /// The attestation key can do more, or less, than attest.
    #[error("aik_tpm is not made for attesting alone: {0}")]
    AkAttributes(KeyAttributeError),
    /// The attestation key is no key.
    #[error("aik_tpm is no key: {0}")]
    AkKey(KeyError),
    /// IAK or IDevID cannot be read, or is no key.
    #[error("{0} is no key of a TPM")]
    DeviceKey(&'static str),
    /// The IAK signs other things than a TPM's statements, or the IDevID is not of a TPM alone.
    #[error("{0} has not the attributes of such a key")]
    DeviceAttributes(&'static str),
    /// The certificate of IAK or IDevID is that of another key.
    #[error("{0} is that of another key")]
    DeviceMismatch(&'static str),
    /// The certificate of IAK or IDevID does not lead to a CA that the operator named.
    #[error("{which} is not accepted: {fault}")]
    DeviceChain {
        /// Which.
        which: &'static str,
        /// Why.
        fault: ChainFault,
    },
    /// The attestation key was not shown to be beside the IAK.
    #[error(transparent)]
    Certify(#[from] CertifyError),
    /// The server's `tpm_identity` asks for IAK and IDevID.
    #[error("iak_tpm and idevid_tpm are required")]
    DeviceMissing,
}

impl RegistrationError {
    /// A stable word for metrics and logs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Encoding | Self::Pem(_) | Self::Certificate(_) => "certificate.malformed",
            Self::Ek(error) => error.code(),
            Self::AkMalformed(_) | Self::AkKey(_) => "ak.malformed",
            Self::AkAttributes(KeyAttributeError::Roca) => "ak.roca",
            Self::AkAttributes(_) => "ak.attributes",
            Self::DeviceKey(_) => "device.malformed",
            Self::DeviceAttributes(_) => "device.attributes",
            Self::DeviceMismatch(_) => "device.key_mismatch",
            Self::DeviceChain { .. } => "device.chain_invalid",
            Self::Certify(_) => "device.not_certified",
            Self::DeviceMissing => "device.missing",
        }
    }
}

/// The certificate in a text: PEM, of which the first counts, or the base64 of DER. What fills up the
/// NV index that it was read from is taken away.
///
/// # Errors
/// [`RegistrationError`].
pub fn certificate_of(text: &str) -> Result<Vec<u8>, RegistrationError> {
    let der = if pem::is_pem(text.as_bytes()) {
        let mut blocks = pem::blocks(text)?.into_iter();
        match blocks.next() {
            Some(("CERTIFICATE", der)) => der,
            _ => return Err(RegistrationError::Encoding),
        }
    } else {
        let decoded = BASE64.decode(text);
        decoded.map_err(|_| RegistrationError::Encoding)?
    };
    let der = without_nv_padding(&der)?;
    Ok(Certificate::parse(der)?.der().to_vec())
}

/// Checks that the claims of a machine fit together, each key is what it should be, and somebody
/// vouches for its TPM, as far as the operator asks for that.
///
/// # Errors
/// [`RegistrationError`].
///
/// # Security
/// Proves nothing about who sent them: see [`challenge`](super::challenge). The certificates of IAK
/// and IDevID must lead to a CA that the operator named, whatever the policy. (N01-N03, N13)
pub fn check(
    trust: &EkTrust,
    policy: Policy,
    agent: &str,
    claims: &Claims<'_>,
    now_unix_ms: u64,
) -> Result<Checked, RegistrationError> {
    let ak = Public::parse(claims.ak_public).map_err(RegistrationError::AkMalformed)?;
    check_attestation_key(&ak, false).map_err(RegistrationError::AkAttributes)?;
    VerifyingKey::from_tpm(&ak).map_err(RegistrationError::AkKey)?;
    let ak_name = ak.name().to_bytes();
    let ek = EndorsementKey::parse(claims.ek_public)?;
    match (&claims.device, policy.tpm_identity) {
        (Some(device), _) => check_device(trust, device, &ak_name, agent, now_unix_ms)?,
        (None, TpmIdentity::IakIdevid) => return Err(RegistrationError::DeviceMissing),
        (None, _) => {}
    }
    let vouched = ek_vouch(trust, policy.ek_check, claims, &ek, now_unix_ms)?;
    let by_device = claims.device.is_some() && policy.tpm_identity != TpmIdentity::EkCert;
    let vouch = match vouched {
        Ok(vouch @ (Vouch::Chain(_) | Vouch::List)) => vouch,
        _ if by_device => Vouch::Device,
        Ok(vouch) => vouch,
        Err(error) => return Err(error.into()),
    };
    Ok(Checked {
        ek_sha256: ek.sha256,
        ak_name,
        vouch,
    })
}

/// How the endorsement key is known. The inner error is one that IAK and IDevID make good; a
/// certificate that is another key's, or that cannot be read, is refused whatever the policy.
fn ek_vouch(
    trust: &EkTrust,
    check: EkCheck,
    claims: &Claims<'_>,
    ek: &EndorsementKey<'_>,
    now_unix_ms: u64,
) -> Result<Result<Vouch, EkError>, RegistrationError> {
    if let Some(certificate) = claims.ek_certificate {
        let certified = Certificate::parse(without_nv_padding(certificate)?)?.key();
        let certified = certified.map_err(|_| EkError::Chain(ChainFault::Key))?;
        if certified != ek.key {
            return Err(EkError::KeyMismatch.into());
        }
    }
    if check == EkCheck::Off {
        return Ok(Ok(Vouch::Unchecked));
    }
    Ok(
        match trust.vouch(claims.ek_certificate, ek, None, now_unix_ms) {
            Ok(proof) => Ok(match proof.by {
                EkVouch::Chain { root } => Vouch::Chain(root),
                EkVouch::List | EkVouch::Approved => Vouch::List,
            }),
            Err(error) if check == EkCheck::Warn => Ok(Vouch::Unknown(error)),
            Err(error) => Err(error),
        },
    )
}

/// Checks IAK and IDevID: their attributes, their certificates, and that the IAK has certified the
/// attestation key.
fn check_device(
    trust: &EkTrust,
    device: &Device<'_>,
    ak_name: &[u8],
    agent: &str,
    now_unix_ms: u64,
) -> Result<(), RegistrationError> {
    let iak =
        Public::parse(device.iak_public).map_err(|_| RegistrationError::DeviceKey("iak_tpm"))?;
    // Only a restricted key says nothing but what its TPM says.
    check_attestation_key(&iak, false)
        .map_err(|_| RegistrationError::DeviceAttributes("iak_tpm"))?;
    let idevid = Public::parse(device.idevid_public)
        .map_err(|_| RegistrationError::DeviceKey("idevid_tpm"))?;
    let needed = ObjectAttributes::FIXED_TPM
        .union(ObjectAttributes::FIXED_PARENT)
        .union(ObjectAttributes::SENSITIVE_DATA_ORIGIN)
        .union(ObjectAttributes::SIGN);
    if !idevid.attributes.contains(needed) {
        return Err(RegistrationError::DeviceAttributes("idevid_tpm"));
    }
    for (public, certificate, which) in [
        (&iak, device.iak_certificate, "iak_cert"),
        (&idevid, device.idevid_certificate, "idevid_cert"),
    ] {
        let key =
            VerifyingKey::from_tpm(public).map_err(|_| RegistrationError::DeviceKey(which))?;
        let certificate = Certificate::parse(certificate)?;
        if certificate.key().ok().as_ref() != Some(&key) {
            return Err(RegistrationError::DeviceMismatch(which));
        }
        let issued = trust.vouch_device(&certificate, now_unix_ms);
        issued.map_err(|fault| RegistrationError::DeviceChain { which, fault })?;
    }
    match device.certified {
        Some(certified) => Ok(certify::verify(certified, &iak, ak_name, agent)?),
        None => Ok(()),
    }
}
