//! What can be wrong with a measurement list.

use std::fmt;

use thiserror::Error;

use super::boot_aggregate::BootAggregateFault;
use super::decoder::DecodeError;
use super::template::Template;
use crate::hash::HashAlg;
use crate::malformed::Malformed;
use crate::pcr::PcrIndex;

/// Why an entry could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// The bytes are not an entry.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The entry has a template that we do not know, so its data cannot be read.
    #[error("template `{0}` is not supported")]
    TemplateUnsupported(TemplateName),
    /// The list is longer than the caller allows.
    #[error("the log is longer than {limit_bytes} bytes")]
    LogTooLong {
        /// The limit.
        limit_bytes: u64,
    },
}

impl EntryFault {
    pub(super) fn unsupported(name: &[u8]) -> Self {
        Self::TemplateUnsupported(TemplateName::new(name))
    }
}

/// The front of a template name that a log gave, kept for a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TemplateName {
    bytes: [u8; Self::KEPT_BYTES],
    length: usize,
}

impl TemplateName {
    const KEPT_BYTES: usize = 24;

    fn new(name: &[u8]) -> Self {
        let mut bytes = [0; Self::KEPT_BYTES];
        bytes
            .iter_mut()
            .zip(name)
            .for_each(|(to, from)| *to = *from);
        Self {
            bytes,
            length: name.len().min(Self::KEPT_BYTES),
        }
    }
}

/// Escaped, so that a hostile name cannot forge lines of a log or a page.
impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.bytes.get(..self.length).unwrap_or(&self.bytes);
        name.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Why a measurement list does not prove what its sender says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImaError {
    /// An entry before the cut cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An entry before the cut has a template hash but not the data that it is the hash of.
    #[error("entry {entry}: the logged template hash is not the hash of the template data")]
    TemplateHash {
        /// Its position, from the start of the list.
        entry: u64,
    },
    /// An entry's hashed data does not follow its template.
    #[error("entry {entry}: {fault}")]
    TemplateData {
        /// Its position, from the start of the list.
        entry: u64,
        /// What is wrong with the data.
        fault: Malformed,
    },
    /// An entry has a template that is not among the ones declared for this machine.
    #[error("entry {entry}: template `{template}` is not accepted for this machine")]
    TemplateNotAccepted {
        /// Its position, from the start of the list.
        entry: u64,
        /// The template it names.
        template: Template,
    },
    /// An entry names a PCR that the quote does not cover, so nothing proves its position.
    #[error("entry {entry} names PCR {pcr}, which is not a quoted IMA PCR")]
    WrongPcr {
        /// Its position, from the start of the list.
        entry: u64,
        /// The PCR it names.
        pcr: u32,
    },
    /// After no entry do the replayed values equal the quoted ones.
    #[error(
        "after none of the {entries} entries do the replayed values of PCR {pcr} equal the quoted \
         {bank} value"
    )]
    PcrMismatch {
        /// The first PCR that never matched.
        pcr: PcrIndex,
        /// Its bank.
        bank: HashAlg,
        /// Entries replayed, from the start of the list.
        entries: u64,
    },
    /// Each quoted value was reached, but not all after the same entry.
    #[error(
        "PCR {pcr} matches the quote in bank {bank} after entry {entry}, where another quoted \
         value does not"
    )]
    BanksDisagree {
        /// A PCR that matched alone.
        pcr: PcrIndex,
        /// The bank in which it did.
        bank: HashAlg,
        /// After how many entries.
        entry: u64,
    },
    /// The list ends, or its cut lies, before entries that were judged earlier in this boot.
    #[error("the list proves {proven} entries, but {committed} were proven before in this boot")]
    Truncated {
        /// Entries that this list proves.
        proven: u64,
        /// Entries that were proven before.
        committed: u64,
    },
    /// The list replays into the quote, and is another one than was proven earlier in this boot.
    ///
    /// One TPM cannot have quoted both: PCRs only grow until a reset, so that the later list begins
    /// with the earlier one. (T09)
    #[error("this is not the list of which {committed} entries were proven before in this boot")]
    Diverged {
        /// Entries that were proven before.
        committed: u64,
    },
    /// The list continues where it may not: the entries before did not pass under this policy, or
    /// were not replayed in this bank.
    #[error("the list starts at entry {from}, expected {expected}")]
    OffsetMismatch {
        /// Where it starts.
        from: u64,
        /// Where it should.
        expected: u64,
    },
    /// Fewer or more bytes came than were announced.
    #[error("{received} bytes of the list came, and {announced} were announced")]
    Incomplete {
        /// Bytes announced.
        announced: u64,
        /// Bytes that came.
        received: u64,
    },
    /// The last proven line has no newline: nothing could be appended to what is kept.
    #[error("the list ends within a line")]
    Unterminated,
    /// A list came that was not asked for.
    #[error("a list was sent that was not asked for")]
    NotAsked,
    /// The list starts again where a kexec happened and the earlier part is missing.
    #[error("the list matches only as a continuation of the one proven before: lost at a kexec")]
    KexecLogLost,
    /// The list holds entries of before a reset that the PCRs have forgotten.
    #[error("the list goes on from before a reset of the TPM: the machine was hibernated")]
    Hibernated,
    /// The quote has no value for an IMA PCR.
    #[error("IMA PCR {pcr} is not in the quote")]
    NotQuoted {
        /// The PCR.
        pcr: PcrIndex,
    },
    /// A PCR declared as an IMA PCR can be reset by software at any time.
    #[error("PCR {pcr} can be reset by software and proves no list")]
    Resettable {
        /// The PCR.
        pcr: PcrIndex,
    },
    /// The aggregate of the boot PCRs is missing or wrong.
    #[error("entry {entry}: {fault}")]
    BootAggregate {
        /// The entry's position.
        entry: u64,
        /// What is wrong with it.
        fault: BootAggregateFault,
    },
}
