//! What a list is appraised by, and what comes of it.

use std::borrow::Cow;

use super::boot_aggregate::{BootAggregateFault, Evidence, Form};
use super::decoder::LogFormat;
use super::judge::Denial;
use super::keyring::LearnedKeys;
use super::replay::{BankScheme, Committed};
use super::template::Template;
use crate::hash::{Digest, HashAlg};
use crate::limits;
use crate::pcr::{PcrIndex, PcrSet};

/// How a machine's list is made, as declared for it.
#[derive(Debug, Clone)]
pub struct ImaOptions {
    /// The list's format.
    pub format: LogFormat,
    /// The algorithm of the template hashes that the list shows.
    pub log_hash: HashAlg,
    /// What the kernel extends into each bank.
    pub scheme: BankScheme,
    /// The PCRs that the kernel measures into.
    pub pcrs: PcrSet,
    /// Templates that may occur.
    pub templates: Cow<'static, [Template]>,
    /// The form of boot_aggregate that this machine's first full list had; `None` before that.
    pub boot_aggregate: Option<Form>,
    /// Count violations without failing because of them.
    pub accept_violations: bool,
    /// Refuse files whose signature does not verify, also when their digest is listed.
    pub require_valid_ima_sig: bool,
    /// The longest list that is read.
    pub limit_bytes: u64,
}

impl Default for ImaOptions {
    fn default() -> Self {
        Self {
            format: LogFormat::Ascii,
            log_hash: HashAlg::Sha1,
            scheme: BankScheme::OwnHash,
            pcrs: PcrSet::from_iter([PcrIndex::IMA]),
            templates: Cow::Borrowed(&Template::ALL),
            boot_aggregate: None,
            accept_violations: false,
            require_valid_ima_sig: false,
            limit_bytes: u64::try_from(limits::IMA_LOG_BYTES_MAX).unwrap_or(u64::MAX),
        }
    }
}

/// Where a list starts, and what is known of the machine's earlier ones.
#[derive(Debug, Clone)]
pub enum Start {
    /// At entry 0, of a machine that nothing is known of.
    First,
    /// At entry 0, of a machine that proved a list in this boot before.
    AgainInBoot(Committed),
    /// At entry 0, of a machine whose last proven list was of an earlier boot.
    AfterBoot(Committed),
    /// At the first entry that was not proven yet.
    Continue {
        /// What was proven.
        committed: Committed,
        /// Keys learned until then, under the policy that judges now.
        learned: LearnedKeys,
        /// The policy under which everything until then passed, if it did. Under another one, or
        /// when it failed, what follows passes nothing: the whole list must be judged (L07).
        passed_under: Option<Digest>,
    },
}

/// The first event that fails in one way, and how many do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// Why it fails; `None` for a violation.
    pub denial: Option<Denial>,
    /// Its position from the start of the machine's list.
    pub entry: u64,
    /// The path or name; for a violation what the log claims, which nothing authenticates.
    pub path: Option<Box<[u8]>>,
    /// Its digest as the list has it, `sha256:` and hexadecimal.
    pub digest: Option<Box<str>>,
    /// How many events fail in this way.
    pub count: u64,
}

/// Counts over one list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImaReport {
    /// Entries before the cut that were sent this time.
    pub entries: u64,
    /// Bytes of the stream up to the end of the last of them.
    pub proven_bytes: u64,
    /// Entries after the cut: added since the quote, neither judged nor failed.
    pub pending: u64,
    /// Whether decoding stopped in the pending part, which is not judged.
    pub pending_malformed: bool,
    /// Violations before the cut.
    pub violations: u64,
    /// Events that passed because an exclude pattern matches their name.
    pub excluded: u64,
    /// Events that passed by signature.
    pub signed: u64,
    /// Events that failed.
    pub denied: u64,
    /// The first event of each way to fail, in order.
    pub offences: Vec<Offence>,
}

/// Shows that a list was replayed into quoted PCR values. Made by [`ImaAppraiser::finish`](super::ImaAppraiser::finish) only.
#[derive(Debug, Clone)]
pub struct ImaProof {
    cut: u64,
    judged: Option<Digest>,
}

impl ImaProof {
    pub(super) const fn new(cut: u64, judged: Option<Digest>) -> Self {
        Self { cut, judged }
    }

    /// Entries proven, from the start of the machine's list.
    pub const fn cut(&self) -> u64 {
        self.cut
    }

    /// The policy under which every event passed; `None` when there was no policy or one failed.
    pub const fn passed_under(&self) -> Option<&Digest> {
        self.judged.as_ref()
    }
}

/// What a list proves.
#[derive(Debug, Clone)]
pub struct ImaOutcome {
    /// The state to continue from.
    pub committed: Committed,
    /// Keys learned up to the cut.
    pub learned: LearnedKeys,
    /// What showed that boot_aggregate is right, or that nothing could; `None` when the list
    /// continued an earlier one and holds no further aggregate.
    pub boot_aggregate: Option<Result<Evidence, BootAggregateFault>>,
    /// The counts.
    pub report: ImaReport,
    /// The proof.
    pub proof: ImaProof,
}
