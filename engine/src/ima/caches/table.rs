//! The table of records: found by hash, bounded in bytes, in two parts.
//!
//! A record starts as a *newcomer*, which one machine has shown, in a quarter of the room; a second
//! machine makes it *shared*. Newcomers push out newcomers only, and one machine's push out its own
//! beyond its quota, so that no machine alone can push out what a fleet shares. Two machines
//! together can, as far as their quotas reach at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashTable;

use super::{CacheFigures, CacheLimits, Kind, NewRecord, Newcomer};
use crate::ima::verdicts::NUMBERS_MAX;

/// The next record's number. One count for the process: a policy that judges lists of two fleets
/// meets each number once.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// Bytes that a record takes beside its own: its place in the table, in the index and in its
/// owner's queue, and what an allocation costs.
const OVERHEAD_BYTES: usize = 120;

/// What a record of this many bytes counts.
pub(super) const fn cost(bytes: usize) -> usize {
    bytes.saturating_add(OVERHEAD_BYTES)
}

/// Who has shown a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// One machine.
    Newcomer { owner: u64 },
    /// More than one.
    Shared,
}

#[derive(Debug)]
pub(super) struct Record {
    hash: u64,
    number: u64,
    kind: Kind,
    hashes: u8,
    standing: Standing,
    /// Whether it was found since the hand passed.
    is_used: AtomicBool,
    bytes: Box<[u8]>,
}

impl Record {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn hashes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.hashes)).unwrap_or(&[])
    }

    /// The bytes that are compared.
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(usize::from(self.hashes)..).unwrap_or(&[])
    }

    /// Marks it as used, and writes to memory only when it was not.
    pub(super) fn mark(&self) {
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_newcomer_of_other_than(&self, owner: u64) -> bool {
        matches!(self.standing, Standing::Newcomer { owner: other } if other != owner)
    }

    fn cost(&self) -> usize {
        cost(self.bytes.len())
    }
}

/// The newcomers of one machine.
#[derive(Debug, Default)]
struct Owner {
    bytes: usize,
    records: usize,
    /// Oldest first; some have gone since.
    queue: VecDeque<Newcomer>,
}

/// What came of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It is there, with this number.
    Number(u64),
    /// It is not.
    Refused,
}

#[derive(Debug)]
pub(super) struct Table {
    index: HashTable<u32>,
    slots: Vec<Option<Record>>,
    free: Vec<u32>,
    owners: BTreeMap<u64, Owner>,
    newcomers: Part,
    shared: Part,
    agent_bytes_max: usize,
    insertions: u64,
    promotions: u64,
    evictions: u64,
}

/// One part of the room, and where its eviction goes on.
#[derive(Debug)]
struct Part {
    bytes: usize,
    bytes_max: usize,
    records: u64,
    hand: usize,
}

impl Part {
    const fn new(bytes_max: usize) -> Self {
        Self {
            bytes: 0,
            bytes_max,
            records: 0,
            hand: 0,
        }
    }

    const fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.records = self.records.saturating_add(1);
    }

    const fn remove(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.records = self.records.saturating_sub(1);
    }
}

impl Table {
    pub(super) fn new(limits: CacheLimits) -> Self {
        let newcomers = limits.bytes_max.wrapping_div(4);
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            owners: BTreeMap::new(),
            newcomers: Part::new(newcomers),
            shared: Part::new(limits.bytes_max.saturating_sub(newcomers)),
            agent_bytes_max: limits.agent_bytes_max.min(newcomers),
            insertions: 0,
            promotions: 0,
            evictions: 0,
        }
    }

    pub(super) fn figures(&self) -> CacheFigures {
        CacheFigures {
            hits: 0,
            misses: 0,
            insertions: self.insertions,
            promotions: self.promotions,
            refused_by_quota: 0,
            evictions: self.evictions,
            records: self.newcomers.records.saturating_add(self.shared.records),
            bytes: bytes(self.newcomers.bytes).saturating_add(bytes(self.shared.bytes)),
        }
    }

    /// Where a record of this kind with this hash is; its bytes are still to be compared.
    pub(super) fn slot(&self, hash: u64, kind: Kind) -> Option<u32> {
        let is_it = |slot: &u32| {
            let record = self.record(*slot);
            record.is_some_and(|record| record.hash == hash && record.kind == kind)
        };
        self.index.find(hash, is_it).copied()
    }

    pub(super) fn record(&self, slot: u32) -> Option<&Record> {
        self.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    /// Makes a record shared that is still the newcomer that was meant.
    pub(super) fn promote(&mut self, newcomer: Newcomer) {
        let Some(at) = usize::try_from(newcomer.slot).ok() else {
            return;
        };
        let Some(Some(record)) = self.slots.get_mut(at) else {
            return;
        };
        let Standing::Newcomer { owner } = record.standing else {
            return;
        };
        if record.number != newcomer.number {
            return;
        }
        record.standing = Standing::Shared;
        let cost = record.cost();
        self.forget_newcomer(owner, cost);
        self.shared.add(cost);
        self.promotions = self.promotions.saturating_add(1);
        while self.shared.bytes > self.shared.bytes_max && self.evict_shared() {}
    }

    /// Inserts a record that `owner` has shown, if it is not there.
    pub(super) fn insert(&mut self, owner: u64, new: NewRecord) -> Inserted {
        if let Some(slot) = self.slot(new.hash, new.kind) {
            // Other bytes with the same hash: one of them is remembered, and not both.
            let Some(record) = self.record(slot).filter(|r| r.data() == new.data()) else {
                return Inserted::Refused;
            };
            let number = record.number;
            if record.is_newcomer_of_other_than(owner) {
                self.promote(Newcomer { slot, number });
            }
            return Inserted::Number(number);
        }
        let cost = new.cost();
        if cost > self.agent_bytes_max || !self.make_room(owner, cost) {
            return Inserted::Refused;
        }
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        if number >= NUMBERS_MAX {
            return Inserted::Refused;
        }
        match self.place(owner, number, new) {
            Some(slot) => {
                let standing = self.owners.entry(owner).or_default();
                standing.bytes = standing.bytes.saturating_add(cost);
                standing.records = standing.records.saturating_add(1);
                standing.queue.push_back(Newcomer { slot, number });
                self.newcomers.add(cost);
                self.insertions = self.insertions.saturating_add(1);
                Inserted::Number(number)
            }
            None => Inserted::Refused,
        }
    }

    fn place(&mut self, owner: u64, number: u64, new: NewRecord) -> Option<u32> {
        let record = Record {
            hash: new.hash,
            number,
            kind: new.kind,
            hashes: new.hashes,
            standing: Standing::Newcomer { owner },
            is_used: AtomicBool::new(false),
            bytes: new.bytes,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.slots.get_mut(usize::try_from(slot).ok()?)? = Some(record);
                slot
            }
            None => {
                let slot = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(Some(record));
                slot
            }
        };
        let Self { index, slots, .. } = self;
        index.insert_unique(new.hash, slot, |slot| hash_at(slots, *slot));
        Some(slot)
    }

    /// Evicts newcomers until `owner` may have one more of this cost.
    fn make_room(&mut self, owner: u64, cost: usize) -> bool {
        while self
            .owners
            .get(&owner)
            .is_some_and(|o| o.bytes.saturating_add(cost) > self.agent_bytes_max)
        {
            let queue = self.owners.get_mut(&owner).map(|owner| &mut owner.queue);
            let Some(oldest) = queue.and_then(VecDeque::pop_front) else {
                return false;
            };
            if self.is_newcomer(oldest) {
                self.evict(oldest.slot);
            }
        }
        while self.newcomers.bytes.saturating_add(cost) > self.newcomers.bytes_max {
            if !self.evict_newcomer() {
                return false;
            }
        }
        self.tidy(owner);
        true
    }

    /// Forgets what has gone from the queue of an owner, when that is the larger part of it.
    fn tidy(&mut self, owner: u64) {
        let Self { owners, slots, .. } = self;
        if let Some(owner) = owners.get_mut(&owner)
            && owner.queue.len() > owner.records.saturating_mul(2).saturating_add(64)
        {
            owner.queue.retain(|n| is_newcomer(slots, *n));
        }
    }

    fn is_newcomer(&self, newcomer: Newcomer) -> bool {
        is_newcomer(&self.slots, newcomer)
    }

    /// Evicts the next newcomer, whoever has shown it.
    fn evict_newcomer(&mut self) -> bool {
        for _ in 0..self.slots.len() {
            let at = self
                .newcomers
                .hand
                .checked_rem(self.slots.len())
                .unwrap_or(0);
            self.newcomers.hand = at.saturating_add(1);
            let is_newcomer = matches!(
                self.slots.get(at),
                Some(Some(record)) if matches!(record.standing, Standing::Newcomer { .. })
            );
            if is_newcomer && let Ok(slot) = u32::try_from(at) {
                self.evict(slot);
                return true;
            }
        }
        false
    }

    /// Evicts the next shared record that nobody has used since the hand passed last.
    fn evict_shared(&mut self) -> bool {
        // Twice around: the first time may find every record used.
        for _ in 0..self.slots.len().saturating_mul(2) {
            let at = self.shared.hand.checked_rem(self.slots.len()).unwrap_or(0);
            self.shared.hand = at.saturating_add(1);
            let is_idle = matches!(
                self.slots.get(at),
                Some(Some(record)) if record.standing == Standing::Shared
                    && !record.is_used.swap(false, Ordering::Relaxed)
            );
            if is_idle && let Ok(slot) = u32::try_from(at) {
                self.evict(slot);
                return true;
            }
        }
        false
    }

    fn evict(&mut self, slot: u32) {
        let at = usize::try_from(slot).ok();
        let Some(record) = at
            .and_then(|at| self.slots.get_mut(at))
            .and_then(Option::take)
        else {
            return;
        };
        if let Ok(found) = self.index.find_entry(record.hash, |other| *other == slot) {
            found.remove();
        }
        self.free.push(slot);
        match record.standing {
            Standing::Newcomer { owner } => self.forget_newcomer(owner, record.cost()),
            Standing::Shared => self.shared.remove(record.cost()),
        }
        self.evictions = self.evictions.saturating_add(1);
    }

    fn forget_newcomer(&mut self, owner: u64, cost: usize) {
        self.newcomers.remove(cost);
        if let Some(standing) = self.owners.get_mut(&owner) {
            standing.bytes = standing.bytes.saturating_sub(cost);
            standing.records = standing.records.saturating_sub(1);
            if standing.records == 0 {
                self.owners.remove(&owner);
            }
        }
    }
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn hash_at(slots: &[Option<Record>], slot: u32) -> u64 {
    let at = usize::try_from(slot).ok();
    let record = at.and_then(|at| slots.get(at)).and_then(Option::as_ref);
    record.map_or(0, |record| record.hash)
}

fn is_newcomer(slots: &[Option<Record>], newcomer: Newcomer) -> bool {
    let at = usize::try_from(newcomer.slot).ok();
    let record = at.and_then(|at| slots.get(at)).and_then(Option::as_ref);
    record.is_some_and(|record| {
        record.number == newcomer.number && matches!(record.standing, Standing::Newcomer { .. })
    })
}
