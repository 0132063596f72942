//! A runtime policy as it is asked: exact tables, exclude patterns, keys.

use super::exclude::{Match, Pattern, StepBudget};
use super::table::{DigestTable, Digests, Found, Place};
use super::verification_keys::VerificationKey;
use crate::hash::{Digest, HashAlg};

/// The path that the kernel gives the aggregate of the boot PCRs.
pub const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";

/// What a table of the policy says of a name and a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathRule {
    /// The name is listed with this algorithm and digest.
    Allowed,
    /// The name is listed, but not with this algorithm and digest.
    DigestNotListed,
    /// The name is not listed.
    PathNotListed,
}

/// What the exclude patterns say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// A pattern matches; `index` is the first that does.
    Excluded {
        /// Its place in the policy's list.
        index: usize,
    },
    /// No pattern matches.
    NotExcluded,
    /// No pattern matches, and one reached its cap of steps: the path is not excluded.
    StepCap {
        /// The first such pattern's place in the policy's list.
        index: usize,
    },
}

/// A runtime policy, compiled.
///
/// Names are compared as bytes, without any normalisation (L03); digests as (algorithm, bytes)
/// (I14). Precedence between exclusion, signatures and digests is the caller's: see the stage
/// that appraises measurement lists.
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    pub(super) digest: Digest,
    pub(super) paths: DigestTable,
    pub(super) keyrings: DigestTable,
    pub(super) buffers: DigestTable,
    pub(super) boot_aggregates: Vec<Digest>,
    pub(super) lists_boot_aggregate: bool,
    pub(super) excludes: Vec<Pattern>,
    pub(super) ignored_keyrings: Vec<String>,
    pub(super) log_hash_alg: HashAlg,
    pub(super) verification_keys: Vec<VerificationKey>,
}

impl CompiledPolicy {
    /// The SHA-256 digest of the policy's text: its identity in verdicts.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What the policy lists for a measured file. `alg_name` is the algorithm as the log writes
    /// it; one that we do not know matches nothing, whatever its length (I14).
    ///
    /// The boot aggregate is never answered here (I24): see
    /// [`reference_boot_aggregates`](Self::reference_boot_aggregates).
    pub fn lookup(&self, path: &[u8], alg_name: &[u8], digest: &[u8]) -> PathRule {
        ask(&self.paths, path, alg_name, digest)
    }

    /// Where the policy may list these paths; for [`lookup_at`](Self::lookup_at), at less cost than
    /// for one after the other.
    pub(crate) fn places<'p>(&self, paths: impl Iterator<Item = &'p [u8]>) -> Vec<Place> {
        self.paths.places(paths)
    }

    /// Where the policy may list this path.
    pub(crate) fn place(&self, path: &[u8]) -> Place {
        self.paths.place(path)
    }

    /// The same as [`lookup`](Self::lookup), at the path's place.
    pub(crate) fn lookup_at(
        &self,
        place: Place,
        path: &[u8],
        alg_name: &[u8],
        digest: &[u8],
    ) -> PathRule {
        ask_at(&self.paths, place, path, alg_name, digest)
    }

    /// What the policy lists for a key measured into the keyring `name`.
    pub fn lookup_keyring(&self, name: &[u8], alg_name: &[u8], digest: &[u8]) -> PathRule {
        ask(&self.keyrings, name, alg_name, digest)
    }

    /// What the policy lists for a measured buffer that is not a key.
    pub fn lookup_buffer(&self, name: &[u8], alg_name: &[u8], digest: &[u8]) -> PathRule {
        ask(&self.buffers, name, alg_name, digest)
    }

    /// Whether keys of the keyring `name` are neither checked nor learned.
    pub fn ignores_keyring(&self, name: &[u8]) -> bool {
        self.ignored_keyrings
            .iter()
            .any(|ignored| ignored == "*" || ignored.as_bytes() == name)
    }

    /// Whether a pattern excludes the path. A path that is not UTF-8 is never excluded, and
    /// neither is the boot aggregate (I24).
    ///
    /// Cost: every pattern is tried in turn until one matches. Ask once per distinct path.
    pub fn excluded(&self, path: &[u8]) -> Exclusion {
        self.excluded_within(path, &mut StepBudget::default())
    }

    /// The same for one of many paths, whose patterns share a budget of steps.
    pub fn excluded_within(&self, path: &[u8], budget: &mut StepBudget) -> Exclusion {
        let Ok(text) = str::from_utf8(path) else {
            return Exclusion::NotExcluded;
        };
        if path == BOOT_AGGREGATE {
            return Exclusion::NotExcluded;
        }
        let mut capped = Exclusion::NotExcluded;
        for (index, pattern) in self.excludes.iter().enumerate() {
            match pattern.excludes_within(text, budget) {
                Match::Excluded => return Exclusion::Excluded { index },
                Match::StepCap if capped == Exclusion::NotExcluded => {
                    capped = Exclusion::StepCap { index };
                }
                Match::StepCap | Match::NotExcluded => {}
            }
        }
        capped
    }

    /// The boot aggregates that the policy lists, in its order.
    pub fn reference_boot_aggregates(&self) -> &[Digest] {
        &self.boot_aggregates
    }

    /// The exclude patterns, in the policy's order.
    pub fn excludes(&self) -> &[Pattern] {
        &self.excludes
    }

    /// The keyrings whose keys are not checked; `*` means all.
    pub fn ignored_keyrings(&self) -> &[String] {
        &self.ignored_keyrings
    }

    /// The algorithm of the template hashes in the log.
    pub fn log_hash_alg(&self) -> HashAlg {
        self.log_hash_alg
    }

    /// The keys that file signatures are verified with.
    pub fn verification_keys(&self) -> &[VerificationKey] {
        &self.verification_keys
    }

    /// The number of paths with digests, without the boot aggregate.
    pub fn path_count(&self) -> usize {
        self.paths.len()
    }

    /// Every path and its digests, in the policy's order.
    pub fn paths(&self) -> impl Iterator<Item = (&[u8], Digests<'_>)> {
        self.paths.iter()
    }

    /// Whether the path is listed, with whatever digests.
    pub fn lists_path(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }

    /// The same, at the path's place.
    pub(crate) fn lists_path_at(&self, place: Place, path: &[u8]) -> bool {
        self.paths.contains_at(place, path)
    }

    /// Bytes that the three tables hold on the heap.
    pub fn table_bytes(&self) -> usize {
        let tables = [&self.paths, &self.keyrings, &self.buffers];
        tables.iter().fold(0, |sum: usize, table| {
            sum.saturating_add(table.heap_bytes())
        })
    }
}

fn ask(table: &DigestTable, name: &[u8], alg_name: &[u8], digest: &[u8]) -> PathRule {
    ask_at(table, table.place(name), name, alg_name, digest)
}

fn ask_at(
    table: &DigestTable,
    place: Place,
    name: &[u8],
    alg_name: &[u8],
    digest: &[u8],
) -> PathRule {
    let Some(alg) = HashAlg::from_name(alg_name) else {
        return if table.contains_at(place, name) {
            PathRule::DigestNotListed
        } else {
            PathRule::PathNotListed
        };
    };
    match table.find_at(place, name, alg, digest) {
        Found::Digest => PathRule::Allowed,
        Found::NameOnly => PathRule::DigestNotListed,
        Found::Nothing => PathRule::PathNotListed,
    }
}
