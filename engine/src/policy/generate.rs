//! A runtime policy made from what a machine measured.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::compiled::BOOT_AGGREGATE;
use super::document::{Document, DocumentIma, DocumentMeta};
use crate::hash::{Digest, HashAlg};
use crate::limits::POLICY_PATHS_MAX;

#[cfg(test)]
mod tests;

/// One entry of a measurement list, as a policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured<'a> {
    /// The path, the keyring's name or the buffer's name.
    pub name: &'a [u8],
    /// What was measured.
    pub kind: MeasuredKind<'a>,
}

/// What an entry measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasuredKind<'a> {
    /// A file, with the algorithm's name as the log writes it.
    File {
        /// The algorithm.
        alg_name: &'a [u8],
        /// The digest's bytes.
        digest: &'a [u8],
    },
    /// A key, measured into the keyring of that name.
    Key {
        /// The algorithm.
        alg_name: &'a [u8],
        /// The digest's bytes.
        digest: &'a [u8],
    },
    /// Another buffer.
    Buffer {
        /// The algorithm.
        alg_name: &'a [u8],
        /// The digest's bytes.
        digest: &'a [u8],
    },
    /// A violation: the file changed while it was measured, so nothing is known of it.
    Violation,
}

/// What to do with an entry that a policy cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnObstacle {
    /// Make no policy.
    #[default]
    Refuse,
    /// Leave the entry out and count it.
    LeaveOut,
}

/// Choices of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerateOptions<'o> {
    /// Exclude patterns that the policy holds, as they are; nothing is left out because of them.
    pub excludes: &'o [String],
    /// The algorithm of the template hashes in the lists that will be judged.
    pub log_hash_alg: HashAlg,
    /// Violations. A policy made in spite of one may lack what the machine ran (L08).
    pub violations: OnObstacle,
    /// Names that are not UTF-8, which JSON cannot hold, and digests of unknown algorithms.
    pub unrepresentable: OnObstacle,
}

impl Default for GenerateOptions<'_> {
    /// No exclude patterns, SHA-1 template hashes as kernels write them, no obstacle passed over.
    fn default() -> Self {
        Self {
            excludes: &[],
            log_hash_alg: HashAlg::Sha1,
            violations: OnObstacle::Refuse,
            unrepresentable: OnObstacle::Refuse,
        }
    }
}

/// A policy and what it does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The policy's JSON text.
    pub text: String,
    /// Distinct paths in it.
    pub paths: usize,
    /// Distinct (path, digest) pairs in it.
    pub digests: usize,
    /// Entries of the boot aggregate, which is never taken over (L08).
    pub boot_aggregates: usize,
    /// Violations left out.
    pub violations: usize,
    /// Entries left out because a policy cannot hold them.
    pub unrepresentable: usize,
}

/// Why no policy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GenerateError {
    /// An entry is a violation.
    #[error("entry {entry} is a violation: nothing is known of what was read there")]
    Violation {
        /// Its number in the sequence given, from 0.
        entry: usize,
    },
    /// A name is not UTF-8.
    #[error("the name of entry {entry} is not UTF-8, so JSON cannot hold it")]
    NotUtf8 {
        /// Its number, from 0.
        entry: usize,
    },
    /// The digest is of no algorithm that we compute, or has another length.
    #[error("the digest of entry {entry} is of no known algorithm")]
    UnknownAlgorithm {
        /// Its number, from 0.
        entry: usize,
    },
    /// More names than a policy may have.
    #[error("more than {max} names")]
    TooMany {
        /// [`POLICY_PATHS_MAX`].
        max: usize,
    },
    /// The JSON could not be written.
    #[error("the policy could not be written as JSON")]
    Unwritable,
}

type Table = BTreeMap<String, BTreeSet<Digest>>;

/// A runtime policy that allows exactly what was measured.
///
/// `timestamp` stands in the policy as given. Names and digests are sorted and without
/// repetition, so that the same entries in any order make the same text. The boot aggregate is
/// left out: it is recomputed from quoted PCRs.
///
/// # Errors
/// [`GenerateError`], by default also for violations and for names that JSON cannot hold.
///
/// Security: the result says what ran, not that it was good. A list that no quote covers is
/// unproven (L08).
pub fn generate<'a>(
    timestamp: &str,
    measured: impl IntoIterator<Item = Measured<'a>>,
    options: GenerateOptions<'_>,
) -> Result<Generated, GenerateError> {
    let mut collected = Collected::default();
    for (entry, item) in measured.into_iter().enumerate() {
        match collected.add(entry, item) {
            Err(GenerateError::Violation { .. }) if options.violations == OnObstacle::LeaveOut => {
                collected.violations = collected.violations.saturating_add(1);
            }
            Err(GenerateError::NotUtf8 { .. } | GenerateError::UnknownAlgorithm { .. })
                if options.unrepresentable == OnObstacle::LeaveOut =>
            {
                collected.unrepresentable = collected.unrepresentable.saturating_add(1);
            }
            other => other?,
        }
    }
    collected.write(timestamp, &options)
}

#[derive(Debug, Default)]
struct Collected {
    files: Table,
    keys: Table,
    buffers: Table,
    boot_aggregates: usize,
    violations: usize,
    unrepresentable: usize,
}

impl Collected {
    fn add(&mut self, entry: usize, item: Measured<'_>) -> Result<(), GenerateError> {
        let (table, alg_name, bytes) = match item.kind {
            MeasuredKind::Violation => return Err(GenerateError::Violation { entry }),
            MeasuredKind::File { .. } if item.name == BOOT_AGGREGATE => {
                self.boot_aggregates = self.boot_aggregates.saturating_add(1);
                return Ok(());
            }
            MeasuredKind::File { alg_name, digest } => (&mut self.files, alg_name, digest),
            MeasuredKind::Key { alg_name, digest } => (&mut self.keys, alg_name, digest),
            MeasuredKind::Buffer { alg_name, digest } => (&mut self.buffers, alg_name, digest),
        };
        let digest = HashAlg::from_name(alg_name)
            .and_then(|alg| Digest::new(alg, bytes).ok())
            .ok_or(GenerateError::UnknownAlgorithm { entry })?;
        let name = str::from_utf8(item.name).map_err(|_| GenerateError::NotUtf8 { entry })?;
        if let Some(digests) = table.get_mut(name) {
            digests.insert(digest);
            return Ok(());
        }
        if table.len() >= POLICY_PATHS_MAX {
            return Err(GenerateError::TooMany {
                max: POLICY_PATHS_MAX,
            });
        }
        table.insert(name.to_owned(), BTreeSet::from([digest]));
        Ok(())
    }

    fn write(
        &self,
        timestamp: &str,
        options: &GenerateOptions<'_>,
    ) -> Result<Generated, GenerateError> {
        let policy = Document {
            meta: DocumentMeta::new(timestamp),
            release: 0,
            digests: hexadecimal(&self.files),
            excludes: options.excludes,
            keyrings: hexadecimal(&self.keys),
            ima: DocumentIma::new(options.log_hash_alg.name(), Vec::new()),
            buffers: hexadecimal(&self.buffers),
            verification_keys: "",
        };
        let text = serde_json::to_string_pretty(&policy).map_err(|_| GenerateError::Unwritable)?;
        Ok(Generated {
            text,
            paths: self.files.len(),
            digests: self.files.values().map(BTreeSet::len).sum(),
            boot_aggregates: self.boot_aggregates,
            violations: self.violations,
            unrepresentable: self.unrepresentable,
        })
    }
}

fn hexadecimal(table: &Table) -> BTreeMap<&str, Vec<String>> {
    table
        .iter()
        .map(|(name, digests)| (name.as_str(), digests.iter().map(Digest::to_hex).collect()))
        .collect()
}
