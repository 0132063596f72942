//! The kernel's measurement list: decoding, replay into quoted PCRs, and what it measured.
//!
//! Bytes flow one way: [`Decoder`] cuts the list into [`Entry`]s, [`Replay`] extends each into
//! the running PCR values until they equal the quoted ones (the *cut*), and the entries' hashed
//! template data is read as [`Event`]s, which [`judge`] holds against a policy. [`ImaCaches`] spares
//! hashing and judging again what lists of a fleet have in common.
//!
//! # Security
//! An entry's template data is authentic when the entry lies before the cut. The PCR index, the
//! template's name and the data of a violation are never authenticated.

mod appraiser;
mod ascii;
mod batch;
mod binary;
pub mod boot_aggregate;
mod caches;
mod decoder;
mod error;
mod few;
mod hashes;
pub mod judge;
mod keyring;
mod outcome;
mod recall;
mod replay;
mod signature;
mod template;
mod verdicts;

pub use appraiser::ImaAppraiser;
pub use caches::{CacheFigures, CacheLimits, ImaCaches};
pub use decoder::{DecodeError, Decoder, LogFormat};
pub use error::{EntryFault, ImaError, TemplateName};
pub use keyring::{LearnedKeys, LearnedKeysError};
pub use outcome::{ImaOptions, ImaOutcome, ImaProof, ImaReport, Offence, Start};
pub use replay::{BankScheme, Committed, Replay};
pub use signature::{FileSignature, SignatureFault};
pub use template::{DigestOf, Event, MeasuredDigest, Template};

/// One record of a measurement list, as either format gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The PCR that the log names; not hashed.
    pub pcr: u32,
    /// The template hash that the log claims; all zero for a violation.
    pub template_hash: &'a [u8],
    /// The template that the log names; not hashed.
    pub template: Template,
    /// The bytes that the kernel hashed.
    pub data: &'a [u8],
    /// Where the record ends, in bytes from the start of what was fed.
    pub end_bytes: u64,
}

impl Entry<'_> {
    /// Whether this records a violation (a file written while it was measured, or the reverse).
    ///
    /// The kernel logs a zero hash and extends 0xff bytes, so nothing else in the entry is proven.
    pub fn is_violation(&self) -> bool {
        self.template_hash.iter().all(|byte| *byte == 0)
    }
}
