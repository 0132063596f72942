//! What the lists of one fleet have in common, remembered: hashes of entries, and through the
//! numbers of their records what each policy said of them.
//!
//! [`ImaCaches`] holds two kinds of records: an entry's template and template data with their
//! hashes, and a path. Each has a number that no other record ever has; a [`Judge`](super::judge)
//! keeps what its policy says by that number.
//!
//! # Security
//! A record is used only where its kind and all of its bytes are equal to what a list holds. Only
//! what a list showed before its matched cut becomes a record; violations, boot_aggregate and
//! measured buffers never do. What an entry carries outside its template data (logged hash, PCR,
//! template name) is compared each time, as if there were no cache. (I19)

mod table;

use std::fmt;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Template;
use super::batch::{Batch, Known};
use super::hashes::Algorithms;
use super::verdicts::{Answers, Verdicts};
use crate::agent_id::AgentId;
use crate::policy::Seed;
use table::{Inserted, Table};

/// Records that are inserted before others may use the table again.
const INSERTIONS_AT_ONCE: usize = 64;

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes of all records. A quarter of them is for records that one machine alone has shown.
    pub bytes_max: usize,
    /// Bytes of the records that one machine alone has shown, and of those that one list adds.
    pub agent_bytes_max: usize,
}

impl Default for CacheLimits {
    /// 64 MiB, about 250,000 entries, and 1 MiB for each machine.
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            agent_bytes_max: 1 << 20,
        }
    }
}

/// What the caches have done, and hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheFigures {
    /// Entries whose hashes were remembered.
    pub hits: u64,
    /// Entries whose hashes were computed: new ones, and those that are never remembered. A
    /// violation is neither a hit nor a miss.
    pub misses: u64,
    /// Records inserted.
    pub insertions: u64,
    /// Records that a second machine showed, so that they count for the fleet.
    pub promotions: u64,
    /// Records of lists that proved more new ones than one machine may add.
    pub refused_by_quota: u64,
    /// Records that made room for others.
    pub evictions: u64,
    /// Records held.
    pub records: u64,
    /// Bytes held.
    pub bytes: u64,
}

/// The records of a fleet, shared by all that appraise its lists.
///
/// # Cost
/// At most [`CacheLimits::bytes_max`]. A lookup takes no lock of its own: a batch of entries takes
/// one, which others that look up share.
pub struct ImaCaches {
    table: RwLock<Table>,
    seed: Seed,
    limits: CacheLimits,
    hits: AtomicU64,
    misses: AtomicU64,
    refused_by_quota: AtomicU64,
}

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u16);

impl Kind {
    /// A path, as exclude patterns are asked about it.
    pub(super) const PATH: Self = Self(u16::MAX);

    /// An entry with this template, hashed in these algorithms; `None` when none is remembered.
    pub(super) fn of_entry(template: Template, algorithms: Algorithms) -> Option<Self> {
        let template = match template {
            Template::Ima => 0_u8,
            Template::ImaNg => 1,
            Template::ImaSig => 2,
            Template::ImaNgV2 => 3,
            Template::ImaSigV2 => 4,
            Template::ImaModSig => 5,
            // A measured buffer may be a key, which counts for the machine that loaded it.
            Template::ImaBuf => return None,
        };
        Some(Self(u16::from_le_bytes([template, algorithms.bits()])))
    }
}

/// What a list found that is no record yet.
#[derive(Debug)]
pub(super) struct NewRecord {
    pub(super) hash: u64,
    pub(super) kind: Kind,
    /// Bytes of hashes before the compared ones.
    pub(super) hashes: u8,
    pub(super) bytes: Box<[u8]>,
    /// What the list's policy says of it.
    pub(super) answers: Answers,
}

impl NewRecord {
    /// What a record of so many bytes of hashes and of data counts.
    pub(super) const fn cost_of(hashes: usize, data: usize) -> usize {
        table::cost(hashes.saturating_add(data))
    }

    const fn cost(&self) -> usize {
        table::cost(self.bytes.len())
    }

    /// The bytes that are compared.
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(usize::from(self.hashes)..).unwrap_or(&[])
    }
}

/// A record of which only the machine `owner` is known to have shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Newcomer {
    pub(super) slot: u32,
    pub(super) number: u64,
}

impl ImaCaches {
    /// Empty caches.
    ///
    /// # Security
    /// With a random `seed` no machine can measure files whose records are slow to find. It changes
    /// nothing else.
    pub fn new(limits: CacheLimits, seed: u64) -> Self {
        Self {
            table: RwLock::new(Table::new(limits)),
            seed: Seed::new(seed),
            limits,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            refused_by_quota: AtomicU64::new(0),
        }
    }

    /// What the caches have done until now, and hold.
    pub fn figures(&self) -> CacheFigures {
        let held = self
            .table
            .read()
            .map_or_else(|_| CacheFigures::default(), |table| table.figures());
        CacheFigures {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            refused_by_quota: self.refused_by_quota.load(Ordering::Relaxed),
            ..held
        }
    }

    pub(super) const fn agent_bytes_max(&self) -> usize {
        self.limits.agent_bytes_max
    }

    /// How a machine is named in records.
    pub(super) fn owner(&self, agent: &AgentId) -> u64 {
        self.seed.hash(agent.as_str().as_bytes())
    }

    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        self.seed.hash(bytes)
    }

    /// Looks up a batch of entries; returns those that no other machine than `owner` has shown.
    ///
    /// The work goes over the batch three times, so that the processor waits for many records at
    /// once instead of one after the other.
    pub(super) fn look_up(
        &self,
        batch: &mut Batch,
        algorithms: Algorithms,
        owner: u64,
        newcomers: &mut Vec<Newcomer>,
    ) {
        batch.visit(|row, _, data, _| row.hash = self.seed.hash(data));
        // A lock that a panic poisoned: nothing is known from then on.
        let Ok(table) = self.table.read() else {
            return;
        };
        batch.visit(|row, template, _, _| {
            let kind = Kind::of_entry(template, algorithms);
            row.slot = kind.and_then(|kind| table.slot(row.hash, kind));
        });
        let (mut hits, mut misses): (u64, u64) = (0, 0);
        batch.visit(|row, _, data, hashes| {
            let record = row.slot.and_then(|slot| table.record(slot));
            let Some(record) = record.filter(|record| record.data() == data) else {
                misses = misses.saturating_add(1);
                return;
            };
            hits = hits.saturating_add(1);
            record.mark();
            if let Some(slot) = row.slot
                && record.is_newcomer_of_other_than(owner)
            {
                let number = record.number();
                newcomers.push(Newcomer { slot, number });
            }
            let start = hashes.len();
            hashes.extend_from_slice(record.hashes());
            row.known = Some(Known {
                number: record.number(),
                hashes: start..hashes.len(),
            });
        });
        drop(table);
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// The number of a path's record.
    pub(super) fn path(
        &self,
        hash: u64,
        path: &[u8],
        owner: u64,
        newcomers: &mut Vec<Newcomer>,
    ) -> Option<u64> {
        let table = self.table.read().ok()?;
        let slot = table.slot(hash, Kind::PATH)?;
        let record = table.record(slot).filter(|record| record.data() == path)?;
        record.mark();
        let number = record.number();
        if record.is_newcomer_of_other_than(owner) {
            newcomers.push(Newcomer { slot, number });
        }
        Some(number)
    }

    /// Inserts what a list proved, and keeps what its policy said of that.
    pub(super) fn learn(
        &self,
        owner: u64,
        new: Vec<NewRecord>,
        newcomers: &[Newcomer],
        verdicts: Option<&Verdicts>,
    ) {
        for newcomers in newcomers.chunks(INSERTIONS_AT_ONCE) {
            let Ok(mut table) = self.table.write() else {
                return;
            };
            for newcomer in newcomers {
                table.promote(*newcomer);
            }
        }
        let mut new = new.into_iter().peekable();
        while new.peek().is_some() {
            let Ok(mut table) = self.table.write() else {
                return;
            };
            for record in new.by_ref().take(INSERTIONS_AT_ONCE) {
                let answers = record.answers;
                if let Inserted::Number(number) = table.insert(owner, record)
                    && let Some(verdicts) = verdicts
                {
                    verdicts.keep(number, answers);
                }
            }
        }
    }

    pub(super) fn refuse(&self, records: u64) {
        self.refused_by_quota.fetch_add(records, Ordering::Relaxed);
    }
}

/// Its records are the fleet's, and its seed is a secret.
impl fmt::Debug for ImaCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImaCaches")
            .field("limits", &self.limits)
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
