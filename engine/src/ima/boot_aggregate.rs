//! The first entry of a list: the hash of the boot PCRs, which ties the list to this boot.
//!
//! Without it a list, with PCR 10 extended to fit, could be replayed on another kernel. The entry
//! is checked against the boot PCRs and never by path rules or exclude patterns.
//!
//! Source: Linux `security/integrity/ima/ima_crypto.c`, `ima_calc_boot_aggregate_tfm`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::template::{DigestOf, MeasuredDigest};
use crate::crypto::Hasher;
use crate::fault::fault_point;
use crate::hash::{Digest, HashAlg};
use crate::pcr::{PcrSet, PcrValues};

/// Which PCRs an aggregate covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// PCR 0-7: every SHA-1 aggregate, and all aggregates of kernels before 5.8.
    Pcr0To7,
    /// PCR 0-9.
    Pcr0To9,
}

impl Form {
    const fn pcrs(self) -> PcrSet {
        match self {
            Self::Pcr0To7 => PcrSet::FIRMWARE,
            Self::Pcr0To9 => PcrSet::BOOT,
        }
    }
}

/// What showed that an aggregate is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// It is the hash of quoted PCR values, in this form.
    QuotedPcrs(Form),
    /// Its bank was not quoted; it is the hash of values replayed from a boot log whose replay in
    /// a quoted bank was right.
    ReplayedPcrs(Form),
    /// Its PCRs are not known; the policy lists it as a reference value.
    ReferenceValue,
}

/// What is wrong with an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum BootAggregateFault {
    /// The first entry is something else.
    #[error("the first entry of the list is not boot_aggregate")]
    NotFirst,
    /// The quoted IMA PCRs were never extended, so that every entry is newer than the quote.
    #[error(
        "the quoted IMA PCR holds its reset value: nothing was measured, and no entry is proven"
    )]
    NothingProven,
    /// The kernel found no TPM when IMA started.
    #[error("boot_aggregate is all zero: the kernel had no TPM when IMA started")]
    AllZero,
    /// It is not the hash of the boot PCRs.
    #[error("boot_aggregate is not the hash of the boot PCRs in its bank")]
    Mismatch,
    /// Its form is not the one that this machine used before.
    #[error("boot_aggregate covers other PCRs than it did before on this machine")]
    FormChanged,
    /// Its bank is neither quoted nor replayed, and it is none of the policy's reference values.
    #[error(
        "boot_aggregate is of a bank that was neither quoted nor replayed, and the policy lists others"
    )]
    NotListed,
    /// Its bank is neither quoted nor replayed, and the policy has no reference value for it.
    #[error(
        "boot_aggregate cannot be checked: PCR 0-9 of its bank were neither quoted nor replayed"
    )]
    Unverifiable,
}

/// The aggregates that would be right for one boot.
#[derive(Debug, Clone, Default)]
pub struct BootAggregates {
    computed: Vec<(Evidence, Form, Digest)>,
    references: Vec<Digest>,
    pinned: Option<Form>,
}

impl BootAggregates {
    /// The aggregates of quoted boot PCR values, in every bank that has PCR 0-7.
    ///
    /// # Security
    /// `quoted` must have been compared with the quote's digest.
    pub fn from_quoted(quoted: &PcrValues) -> Self {
        let mut aggregates = Self::default();
        aggregates.add(quoted, Evidence::QuotedPcrs);
        aggregates
    }

    /// Adds banks that were not quoted, from a boot log that was compared with quoted values.
    pub fn with_replayed(mut self, replayed: &PcrValues) -> Self {
        self.add(replayed, Evidence::ReplayedPcrs);
        self
    }

    /// Adds reference values of a policy, used only for banks of which PCR 0-9 are not known.
    pub fn with_references(mut self, references: impl IntoIterator<Item = Digest>) -> Self {
        self.references.extend(references);
        self
    }

    /// Accepts only this form, which the machine used at its first full list.
    pub fn pinned_to(mut self, form: Form) -> Self {
        self.pinned = Some(form);
        self
    }

    fn add(&mut self, values: &PcrValues, evidence: fn(Form) -> Evidence) {
        for bank in HashAlg::ALL {
            if self
                .computed
                .iter()
                .any(|(.., digest)| digest.alg() == bank)
            {
                continue;
            }
            for form in [Form::Pcr0To7, Form::Pcr0To9] {
                // SHA-1 aggregates keep their first form for old policies' sake.
                let exists = bank != HashAlg::Sha1 || form == Form::Pcr0To7;
                if exists && let Some(digest) = aggregate(values, bank, form) {
                    self.computed.push((evidence(form), form, digest));
                }
            }
        }
    }

    /// Checks an aggregate that a list holds.
    ///
    /// # Errors
    /// [`BootAggregateFault`] when it is wrong or cannot be checked.
    pub fn check(&self, measured: &MeasuredDigest<'_>) -> Result<Evidence, BootAggregateFault> {
        fault_point!(BootAggregateFault::Mismatch);
        if measured.bytes.iter().all(|byte| *byte == 0) {
            return Err(BootAggregateFault::AllZero);
        }
        let known = HashAlg::from_name(measured.alg)
            .filter(|_| measured.of == DigestOf::Content)
            .and_then(|alg| Digest::new(alg, measured.bytes).ok());
        let Some(found) = known else {
            return Err(BootAggregateFault::Unverifiable);
        };
        let mut bank_known = false;
        for (evidence, form, digest) in &self.computed {
            // Over PCR 0-7 alone nothing is known of an aggregate that covers PCR 0-9.
            bank_known |= digest.alg() == found.alg()
                && (*form == Form::Pcr0To9 || found.alg() == HashAlg::Sha1);
            if *digest == found {
                return match self.pinned {
                    Some(pinned) if pinned != *form => Err(BootAggregateFault::FormChanged),
                    _ => Ok(*evidence),
                };
            }
        }
        if bank_known {
            Err(BootAggregateFault::Mismatch)
        } else if self.references.contains(&found) {
            Ok(Evidence::ReferenceValue)
        } else if self
            .references
            .iter()
            .any(|reference| reference.alg() == found.alg())
        {
            Err(BootAggregateFault::NotListed)
        } else {
            Err(BootAggregateFault::Unverifiable)
        }
    }
}

fn aggregate(values: &PcrValues, bank: HashAlg, form: Form) -> Option<Digest> {
    let mut hasher = Hasher::new(bank);
    for pcr in form.pcrs().iter() {
        hasher.update(values.get(bank, pcr)?.as_bytes());
    }
    Some(hasher.finish())
}
