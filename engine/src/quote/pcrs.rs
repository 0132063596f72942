//! From a bound quote to the PCR values that it proves.

use thiserror::Error;

use super::{Bound, Quote, QuoteError};
use crate::crypto;
use crate::fault::fault_point;
use crate::hash::{Digest, HashAlg};
use crate::pcr::{PcrIndex, PcrSet, PcrValues};
use crate::tpm::{MissingPcr, PcrSelection, pcr_digest};

/// What a quote's selection must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PcrRules {
    /// The selection that the challenge asked for; `None` where there was no challenge.
    pub challenged: Option<PcrSelection>,
    /// Accept values of the SHA-1 bank.
    pub allow_sha1: bool,
}

/// Why values are not the quoted ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PcrError {
    /// The quote selects no PCR.
    #[error("the quote selects no PCR")]
    SelectionEmpty,
    /// The quote selects other PCRs than the challenge asked for.
    #[error("the quote selects {found}, the challenge asked for {challenged}")]
    SelectionMismatch {
        /// What was quoted.
        found: PcrSelection,
        /// What was asked for.
        challenged: PcrSelection,
    },
    /// The quote covers the SHA-1 bank.
    #[error("the quote covers bank {bank}, which is not allowed")]
    BankNotAllowed {
        /// The bank.
        bank: HashAlg,
    },
    /// A selected PCR has no value.
    #[error(transparent)]
    Missing(#[from] MissingPcr),
    /// A value was sent that the quote does not cover.
    #[error("the value of PCR {pcr} in bank {bank} is not covered by the quote")]
    NotCovered {
        /// Its bank.
        bank: HashAlg,
        /// Its index.
        pcr: PcrIndex,
    },
    /// The values do not hash to the quoted digest.
    #[error("the PCR values hash to {found}, the quote says {quoted}")]
    DigestMismatch {
        /// The hash of the values sent.
        found: Digest,
        /// The quoted digest.
        quoted: Digest,
    },
    /// The quoted digest has another size than the signature's hash.
    #[error(transparent)]
    Quote(QuoteError),
}

/// PCR values that a bound quote proves. Made by [`Quote::prove_pcrs`] only.
#[derive(Debug, Clone)]
pub struct QuotedPcrs {
    values: PcrValues,
    selection: PcrSelection,
}

impl QuotedPcrs {
    /// The values, exactly those that were quoted.
    pub const fn values(&self) -> &PcrValues {
        &self.values
    }

    pub(crate) fn into_values(self) -> PcrValues {
        self.values
    }

    /// The selection, in the TPM's own order.
    pub const fn selection(&self) -> &PcrSelection {
        &self.selection
    }

    /// PCR 0-7 of a bank that hold a reset value: firmware that measures leaves none. (P07)
    ///
    /// Such a bank proves nothing about the boot, because software can extend it at leisure
    /// (CVE-2021-42299).
    pub fn unextended(&self, bank: HashAlg) -> PcrSet {
        let is_reset = |pcr: &PcrIndex| {
            let value = self.values.bytes(bank, *pcr);
            value.is_some_and(|value| [0, 0xff].iter().any(|all| value.iter().all(|it| it == all)))
        };
        PcrSet::FIRMWARE.iter().filter(is_reset).collect()
    }
}

impl Quote<'_, Bound> {
    /// Shows that `values` are exactly the quoted ones.
    ///
    /// # Errors
    /// [`PcrError`], the selection before the values.
    ///
    /// # Security
    /// `values` come from the sender; this is the comparison that makes them the TPM's word. A
    /// value that the quote does not cover is refused, so that none slips into what is judged.
    pub fn prove_pcrs(&self, values: PcrValues, rules: &PcrRules) -> Result<QuotedPcrs, PcrError> {
        self.prove_pcrs_or_return(values, rules)
            .map_err(|(error, _)| error)
    }

    /// The same; the values come back when they are not the quoted ones.
    pub(crate) fn prove_pcrs_or_return(
        &self,
        values: PcrValues,
        rules: &PcrRules,
    ) -> Result<QuotedPcrs, (PcrError, PcrValues)> {
        match self.check_pcrs(&values, rules) {
            Ok(selection) => Ok(QuotedPcrs { values, selection }),
            Err(error) => Err((error, values)),
        }
    }

    /// The selection, when these are the quoted values.
    fn check_pcrs(&self, values: &PcrValues, rules: &PcrRules) -> Result<PcrSelection, PcrError> {
        fault_point!(PcrError::SelectionEmpty);
        let selection = *self.selection();
        if selection.is_empty() {
            return Err(PcrError::SelectionEmpty);
        }
        if let Some(challenged) = rules.challenged
            && !selection.same_pcrs(&challenged)
        {
            return Err(PcrError::SelectionMismatch {
                found: selection,
                challenged,
            });
        }
        if !rules.allow_sha1 && !selection.pcrs(HashAlg::Sha1).is_empty() {
            return Err(PcrError::BankNotAllowed {
                bank: HashAlg::Sha1,
            });
        }
        let quoted = self.pcr_digest().map_err(PcrError::Quote)?;
        let found = pcr_digest(self.hash(), &selection, values)?;
        for bank in HashAlg::ALL {
            let uncovered = values.pcrs(bank).difference(selection.pcrs(bank));
            if let Some(pcr) = uncovered.iter().next() {
                return Err(PcrError::NotCovered { bank, pcr });
            }
        }
        if !crypto::constant_time_eq(found.as_bytes(), quoted.as_bytes()) {
            return Err(PcrError::DigestMismatch { found, quoted });
        }
        Ok(selection)
    }
}
