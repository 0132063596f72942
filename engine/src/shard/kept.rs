//! What is kept of agents and of their evidence, and how it is checked again.

use std::sync::Arc;

use thiserror::Error;

use super::state::{AgentState, BootEpoch, KeptLearnedKey};
use super::tick::{KeptEvidence, Retention};
use crate::agent_id::AgentId;
use crate::appraisal::{Appraisal, Appraised, Reference, Rules};
use crate::crypto::{Hasher, VerifyingKey};
use crate::evidence::{Binding, Challenge, PreimageParties, preimage_digest, qualifying_preimage};
use crate::hash::{Digest, HashAlg};
use crate::ima::judge::Judge;
use crate::ima::{ImaOptions, LearnedKeys, LearnedKeysError, Start};
use crate::malformed::Malformed;
use crate::pcr::{PcrIndex, PcrSet, PcrValues};
use crate::pcr_policy::PcrPolicy;
use crate::time::Now;
use crate::tpm::ClockInfo;

impl BootEpoch {
    /// The epoch in which a TPM had this clock.
    pub const fn of(clock: &ClockInfo) -> Self {
        Self {
            reset_count: clock.reset_count,
            restart_count: clock.restart_count,
        }
    }
}

impl AgentState {
    /// The keys that were learned up to the proven position. (I23)
    ///
    /// # Errors
    /// [`LearnedKeysError`] when one cannot be a key: then the whole list must be judged again.
    ///
    /// # Cost
    /// Parses every key.
    pub fn learned_keys(&self) -> Result<LearnedKeys, LearnedKeysError> {
        let kept = self.learned.iter();
        LearnedKeys::restore(kept.map(|key| (&*key.keyring, &*key.measured)))
    }

    /// Keeps what was learned in place of what was kept before.
    pub fn keep_learned(&mut self, learned: &LearnedKeys) {
        let kept = learned
            .measured()
            .map(|(keyring, measured)| KeptLearnedKey {
                keyring: keyring.to_vec(),
                measured: measured.to_vec(),
            });
        self.learned = kept.collect();
    }
}

/// The parts of evidence that are kept when a verdict is to be checked again later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptParts {
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The PCR values.
    pub pcr_values: PcrValues,
    /// What the quote was to be tied to.
    pub tied: Tied,
    /// The boot log, when one was sent.
    pub boot_log: Option<Vec<u8>>,
}

/// What qualifying data is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tied {
    /// The challenge.
    pub challenge: Challenge,
    /// The connection, or the relay.
    pub binding: Binding,
    /// The Name of the attestation key.
    pub ak_name: Arc<[u8]>,
    /// The agent.
    pub agent: AgentId,
}

impl KeptParts {
    /// The bytes whose SHA-256 is the qualifying data.
    pub fn preimage(&self) -> Vec<u8> {
        let tied = &self.tied;
        qualifying_preimage(&tied.challenge, &tied.binding, &tied.ak_name, &tied.agent)
    }

    /// The digest of the evidence whose qualifying data has to be `nonce`.
    pub(super) fn digest(&self, nonce: &[u8; 32]) -> [u8; 32] {
        let values = self.pcr_values.iter();
        let values = values.map(|(bank, pcr, value)| (bank.tpm_id(), pcr.get(), value));
        let parts = [&*self.quote, &self.signature, nonce];
        evidence_digest(parts, self.pcr_values.len(), values)
    }

    /// The same, to be stored.
    pub(super) fn into_kept(
        self,
        reason: Retention,
        at_unix_ms: u64,
        ima_entries: u64,
    ) -> KeptEvidence {
        let values = self.pcr_values.iter();
        KeptEvidence {
            reason,
            at_unix_ms,
            pcr_values: values
                .map(|(bank, pcr, value)| (bank.tpm_id(), pcr.get(), value.as_bytes().to_vec()))
                .collect(),
            preimage: self.preimage(),
            quote: self.quote,
            signature: self.signature,
            boot_log: self.boot_log,
            ima_entries,
        }
    }
}

/// A pass that is kept in case the next attestation fails.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    pub(super) at_unix_ms: u64,
    pub(super) parts: KeptParts,
    pub(super) ima_entries: u64,
}

impl Passed {
    /// A pass that proved so many entries. One that came with a boot log is stored with its outcome.
    pub(super) fn new(mut parts: KeptParts, ima_entries: u64, now: Now) -> Self {
        parts.boot_log = None;
        Self {
            at_unix_ms: now.unix_ms,
            parts,
            ima_entries,
        }
    }

    /// The same, to be stored with a failure.
    pub(super) fn kept(&self) -> KeptEvidence {
        let parts = self.parts.clone();
        parts.into_kept(Retention::BeforeFailure, self.at_unix_ms, self.ima_entries)
    }
}

/// SHA-256 over a label and, each preceded by its length, quote, signature, qualifying data and PCR
/// values.
fn evidence_digest<V: AsRef<[u8]>>(
    parts: [&[u8]; 3],
    count: usize,
    values: impl Iterator<Item = (u16, u8, V)>,
) -> [u8; 32] {
    let mut hasher = Hasher::new(HashAlg::Sha256);
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    hasher.update(b"ratd evidence v1\0");
    for part in parts {
        hasher.update(&length(part.len()));
        hasher.update(part);
    }
    hasher.update(&length(count));
    for (bank, pcr, value) in values {
        let value = value.as_ref();
        let ([high, low], [a, b, c, d]) = (bank.to_be_bytes(), length(value.len()));
        hasher.update(&[high, low, pcr, a, b, c, d]);
        hasher.update(value);
    }
    // SHA-256 has 32 bytes; the zeros are never reached.
    hasher.finish().as_bytes().try_into().unwrap_or([0; 32])
}

/// What kept evidence is checked against.
#[derive(Debug, Clone)]
pub struct Recheck<'r> {
    /// The agent whose evidence it is said to be.
    pub agent: &'r AgentId,
    /// The attestation key that it had, whose attributes were found right when it enrolled.
    pub key: Arc<VerifyingKey>,
    /// The Name of that key.
    pub ak_name: &'r [u8],
    /// Rules of its group.
    pub rules: Rules,
    /// The PCR policy.
    pub pcr_policy: Option<Arc<PcrPolicy>>,
    /// The PCRs that the boot log must explain.
    pub boot_pcrs: Option<PcrSet>,
    /// The runtime policy; `None` to check that the evidence is genuine, and no more.
    pub judge: Option<Arc<Judge>>,
    /// How the list is made.
    pub ima: ImaOptions,
    /// The kept list from entry 0; what lies beyond the quote is pending.
    pub list: Option<&'r [u8]>,
}

/// Why kept evidence is not what it is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecheckError {
    /// The preimage is none of ours.
    #[error(transparent)]
    Preimage(#[from] Malformed),
    /// It was made for another agent.
    #[error("the evidence was made for another agent")]
    OtherAgent,
    /// It was made with another attestation key.
    #[error("the evidence was made with another attestation key")]
    OtherKey,
    /// A PCR value that cannot be one.
    #[error("the value of PCR {pcr} in bank {bank:#06x} cannot be one")]
    PcrValue {
        /// The bank's TPM id.
        bank: u16,
        /// The index.
        pcr: u8,
    },
    /// It proves another number of entries than was recorded.
    #[error("the evidence proves {found} entries, and {recorded} are recorded")]
    Entries {
        /// Entries that it proves.
        found: u64,
        /// Entries recorded.
        recorded: u64,
    },
}

impl KeptEvidence {
    /// The digest that the outcome of this evidence carries: what ties it to the chain. (S18)
    pub fn digest(&self) -> [u8; 32] {
        let values = self.pcr_values.iter();
        let values = values.map(|(bank, pcr, value)| (*bank, *pcr, value));
        let parts = [
            &*self.quote,
            &self.signature,
            &preimage_digest(&self.preimage),
        ];
        evidence_digest(parts, self.pcr_values.len(), values)
    }

    /// Judges the evidence again.
    ///
    /// # Errors
    /// [`RecheckError`] when it is of somebody else, or proves something else. What is wrong with
    /// the evidence itself stands among the findings.
    ///
    /// # Security
    /// Shows that the TPM signed this; that it was fresh then, only the record can say.
    pub fn recheck(&self, against: Recheck<'_>) -> Result<Appraised, RecheckError> {
        let parties = PreimageParties::read(&self.preimage)?;
        if parties.agent != against.agent.as_str().as_bytes() {
            return Err(RecheckError::OtherAgent);
        }
        if parties.ak_name != against.ak_name {
            return Err(RecheckError::OtherKey);
        }
        let values = self.values()?;
        let reference = Reference {
            key: against.key,
            key_attributes: Some(Ok(())),
            nonce: parties.extra_data(&self.preimage),
            challenged: None,
            pcr_policy: against.pcr_policy,
            boot_pcrs: against.boot_pcrs,
            measured_boot: None,
            judge: against.judge,
        };
        let (quote, signature) = (&self.quote, &self.signature);
        let mut appraisal = Appraisal::of_quote(reference, against.rules, quote, signature, values);
        if let Some(log) = &self.boot_log {
            appraisal.boot_log(log);
        }
        if let Some(list) = against.list
            && let Some(mut appraiser) = appraisal.ima(against.ima, Start::First)
        {
            appraiser.feed(list);
            appraisal.ima_finished(appraiser.finish());
        }
        let appraised = appraisal.conclude();
        let found = appraised
            .ima
            .as_ref()
            .map(|state| state.committed.position());
        match found {
            Some(found) if found != self.ima_entries => Err(RecheckError::Entries {
                found,
                recorded: self.ima_entries,
            }),
            _ => Ok(appraised),
        }
    }

    fn values(&self) -> Result<PcrValues, RecheckError> {
        let mut values = PcrValues::new();
        for (bank, pcr, value) in &self.pcr_values {
            let fault = RecheckError::PcrValue {
                bank: *bank,
                pcr: *pcr,
            };
            let index = PcrIndex::new(u64::from(*pcr)).ok_or(fault)?;
            let alg = HashAlg::from_tpm_id(*bank).ok_or(fault)?;
            let value = Digest::new(alg, value).map_err(|_| fault)?;
            if !values.insert(index, value) {
                return Err(fault);
            }
        }
        Ok(values)
    }
}
