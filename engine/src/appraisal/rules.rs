//! What evidence is held against.

use std::sync::Arc;

use crate::crypto::VerifyingKey;
use crate::hash::HashAlg;
use crate::ima::judge::Judge;
use crate::pcr::PcrSet;
use crate::pcr_policy::PcrPolicy;
use crate::tpm::PcrSelection;
use crate::tpm::attributes::KeyAttributeError;
use crate::uefi::policy::MeasuredBootPolicy;

/// Rules that do not depend on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Accept SHA-1 signatures and banks.
    pub allow_sha1: bool,
    /// Fail, rather than warn, where a machine's group would decide.
    pub strict: bool,
    /// The bank that a group would pin.
    pub bank: HashAlg,
    /// Whether boot PCRs must be quoted beside those of the measurement list. Without them its
    /// boot_aggregate needs a reference value.
    pub needs_boot_pcrs: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            allow_sha1: false,
            strict: false,
            bank: HashAlg::Sha256,
            needs_boot_pcrs: true,
        }
    }
}

/// What a quote's `extraData` has to be.
#[derive(Debug, Clone)]
pub enum ExtraData {
    /// Qualifying data that was computed.
    Computed([u8; 32]),
    /// What somebody says it is; of any length.
    Given(Box<[u8]>),
}

impl ExtraData {
    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Computed(bytes) => bytes,
            Self::Given(bytes) => bytes,
        }
    }
}

impl From<[u8; 32]> for ExtraData {
    fn from(bytes: [u8; 32]) -> Self {
        Self::Computed(bytes)
    }
}

impl From<Vec<u8>> for ExtraData {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Given(bytes.into())
    }
}

impl From<&[u8]> for ExtraData {
    fn from(bytes: &[u8]) -> Self {
        Self::Given(bytes.into())
    }
}

/// What is known of one machine: its key, the challenge, and the values to compare with.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The attestation key.
    pub key: Arc<VerifyingKey>,
    /// The outcome of checking the key's attributes; `None` when only its public part is known,
    /// as from a PEM file.
    pub key_attributes: Option<Result<(), KeyAttributeError>>,
    /// The expected `extraData`, exactly.
    pub nonce: ExtraData,
    /// The selection asked for; `None` where there was no challenge.
    pub challenged: Option<PcrSelection>,
    /// The PCR policy.
    pub pcr_policy: Option<Arc<PcrPolicy>>,
    /// The PCRs that the boot log must explain; `None` for those of PCR 0-9 and 11-15 that are
    /// quoted and, above 9, occur in the log.
    pub boot_pcrs: Option<PcrSet>,
    /// The measured boot policy: it judges what the boot log holds.
    pub measured_boot: Option<Arc<MeasuredBootPolicy>>,
    /// The runtime policy.
    pub judge: Option<Arc<Judge>>,
}
