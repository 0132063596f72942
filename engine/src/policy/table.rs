//! An exact map from names to digests, packed for a million names.

use std::fmt;
use std::hash::Hasher as _;

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use hashbrown::HashTable;

use crate::crypto;
use crate::hash::{Digest, HashAlg};

/// Names (paths, keyrings, buffers) and the digests that each may have.
///
/// All bytes lie in two buffers; an entry is two offsets into them, and the index holds entry
/// numbers. Names are compared exactly, byte by byte (L03).
#[derive(Debug, Clone)]
pub(super) struct DigestTable {
    index: HashTable<u32>,
    entries: Vec<Entry>,
    names: Vec<u8>,
    /// For each digest one byte for the algorithm, then its bytes.
    digests: Vec<u8>,
    seed: Seed,
}

/// What makes a table's hashes unlike any other's.
///
/// # Security
/// Machines submit baselines, so who sends a policy may want its names to collide. Every constant
/// of the hash is made of the seed: without it nobody can tell which names do.
#[derive(Clone)]
pub(crate) struct Seed {
    own: u64,
    shared: SharedSeed,
}

impl Seed {
    /// Any number will do, 0 too; the same number gives the same hashes.
    pub(crate) fn new(seed: u64) -> Self {
        // Multiplications by constants of related seeds are related; digests are not.
        let digest = crypto::digest(HashAlg::Sha256, &seed.to_le_bytes());
        let (words, _) = digest.as_bytes().as_chunks();
        let word = |at: usize| words.get(at).map_or(seed, |word| u64::from_le_bytes(*word));
        Self {
            own: word(0),
            shared: SharedSeed::from_u64(word(1)),
        }
    }

    pub(crate) fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.own, &self.shared);
        hasher.write(name);
        hasher.finish()
    }
}

/// A seed is a secret.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

/// Where an entry's name and digests begin; they end where the next entry's begin.
#[derive(Debug, Clone, Copy)]
struct Entry {
    name: u32,
    digests: u32,
}

/// The answer of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Digest,
    NameOnly,
    Nothing,
}

/// Where a name may stand. Of use for that name in that table only; for another name it leads to no
/// digests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    hash: u64,
    /// The first entry whose hash looks like it; `None` when there is none.
    number: Option<u32>,
}

/// Why a table does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableError {
    Duplicate,
    Full,
}

impl DigestTable {
    /// An empty table.
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            index: HashTable::new(),
            entries: Vec::new(),
            names: Vec::new(),
            digests: Vec::new(),
            seed,
        }
    }

    /// Adds a name; the digests pushed next belong to it.
    pub(super) fn push_name(&mut self, name: &[u8]) -> Result<(), TableError> {
        if self.position(name).is_some() {
            return Err(TableError::Duplicate);
        }
        let number = u32::try_from(self.entries.len()).map_err(|_| TableError::Full)?;
        let entry = Entry {
            name: u32::try_from(self.names.len()).map_err(|_| TableError::Full)?,
            digests: u32::try_from(self.digests.len()).map_err(|_| TableError::Full)?,
        };
        self.names.extend_from_slice(name);
        self.entries.push(entry);
        let hash = self.seed.hash(name);
        let Self {
            index,
            entries,
            names,
            seed,
            ..
        } = self;
        index.insert_unique(hash, number, |other| {
            seed.hash(name_at(entries, names, *other))
        });
        Ok(())
    }

    /// Adds a digest to the newest name.
    pub(super) fn push_digest(&mut self, digest: &Digest) -> Result<(), TableError> {
        // Offsets are u32: the buffer may not outgrow them.
        u32::try_from(self.digests.len()).map_err(|_| TableError::Full)?;
        self.digests.push(tag(digest.alg()));
        self.digests.extend_from_slice(digest.as_bytes());
        Ok(())
    }

    /// Returns memory that growing left over.
    pub(super) fn shrink(&mut self) {
        let Self {
            index,
            entries,
            names,
            seed,
            ..
        } = self;
        index.shrink_to_fit(|other| seed.hash(name_at(entries, names, *other)));
        self.entries.shrink_to_fit();
        self.names.shrink_to_fit();
        self.digests.shrink_to_fit();
    }

    /// Where each of these names may stand.
    ///
    /// The work goes over the names twice, and compares none: so the processor waits for many places
    /// of a large table at once, and has them when [`find_at`](Self::find_at) compares.
    pub(super) fn places<'n>(&self, names: impl Iterator<Item = &'n [u8]>) -> Vec<Place> {
        let hashed = names.map(|name| Place {
            hash: self.seed.hash(name),
            number: None,
        });
        let mut places: Vec<_> = hashed.collect();
        for place in &mut places {
            place.number = self.index.find(place.hash, |_| true).copied();
        }
        places
    }

    /// Where this name may stand.
    pub(super) fn place(&self, name: &[u8]) -> Place {
        let hash = self.seed.hash(name);
        let number = self.index.find(hash, |_| true).copied();
        Place { hash, number }
    }

    /// What the table says of a name and a digest; `place` is the name's.
    pub(super) fn find_at(&self, place: Place, name: &[u8], alg: HashAlg, digest: &[u8]) -> Found {
        match self.position_at(place, name) {
            None => Found::Nothing,
            Some(entry) if self.has_digest(entry, alg, digest) => Found::Digest,
            Some(_) => Found::NameOnly,
        }
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.position(name).is_some()
    }

    /// The same, at the name's place.
    pub(super) fn contains_at(&self, place: Place, name: &[u8]) -> bool {
        self.position_at(place, name).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that the table holds on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let entries = self.entries.capacity().saturating_mul(size_of::<Entry>());
        self.index
            .allocation_size()
            .saturating_add(entries)
            .saturating_add(self.names.capacity())
            .saturating_add(self.digests.capacity())
    }

    /// Every name and its digests, in the order of the policy.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Digests<'_>)> {
        (0..self.entries.len()).map(|entry| {
            let number = u32::try_from(entry).unwrap_or(u32::MAX);
            let name = name_at(&self.entries, &self.names, number);
            (name, self.digests_of(entry))
        })
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.position_at(self.place(name), name)
    }

    fn position_at(&self, place: Place, name: &[u8]) -> Option<usize> {
        let is_it = |number: &u32| name_at(&self.entries, &self.names, *number) == name;
        let first = place.number?;
        let number = match is_it(&first) {
            true => first,
            // Another name's hash looks the same: one in twenty.
            false => *self.index.find(place.hash, is_it)?,
        };
        usize::try_from(number).ok()
    }

    fn digests_of(&self, entry: usize) -> Digests<'_> {
        let start = self.entries.get(entry).map(|entry| entry.digests);
        let end = self.entries.get(entry.saturating_add(1));
        let end = end.map(|entry| entry.digests);
        Digests(between(&self.digests, start, end))
    }

    fn has_digest(&self, entry: usize, alg: HashAlg, digest: &[u8]) -> bool {
        self.digests_of(entry)
            .any(|(found, bytes)| found == alg && bytes == digest)
    }
}

/// The digests of one name.
#[derive(Debug, Clone)]
pub struct Digests<'a>(&'a [u8]);

impl<'a> Iterator for Digests<'a> {
    type Item = (HashAlg, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (first, rest) = self.0.split_first()?;
        let alg = HashAlg::ALL.into_iter().find(|alg| tag(*alg) == *first)?;
        let (bytes, rest) = rest.split_at_checked(alg.size())?;
        self.0 = rest;
        Some((alg, bytes))
    }
}

const fn tag(alg: HashAlg) -> u8 {
    match alg {
        HashAlg::Sha1 => 1,
        HashAlg::Sha256 => 2,
        HashAlg::Sha384 => 3,
        HashAlg::Sha512 => 4,
    }
}

fn name_at<'a>(entries: &[Entry], names: &'a [u8], number: u32) -> &'a [u8] {
    let Ok(entry) = usize::try_from(number) else {
        return &[];
    };
    let start = entries.get(entry).map(|entry| entry.name);
    let end = entries.get(entry.saturating_add(1));
    between(names, start, end.map(|entry| entry.name))
}

/// The bytes from `start` up to `end`, or to the end of the buffer.
fn between(bytes: &[u8], start: Option<u32>, end: Option<u32>) -> &[u8] {
    let to_index = |offset: u32| usize::try_from(offset).unwrap_or(usize::MAX);
    let end = end.map_or(bytes.len(), to_index);
    start
        .map(to_index)
        .and_then(|start| bytes.get(start..end))
        .unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Paths of 31 bytes whose hashes are equal under `seed`, for who knows it: both operands of
    /// which the hash keeps no more than a product are chosen to be zero.
    fn colliding(seed: u64, count: usize) -> Vec<Vec<u8>> {
        let Seed { own, shared } = Seed::new(seed);
        let first = own.rotate_right(31);
        let shared = format!("{shared:?}");
        let second = shared
            .split(['[', ',', ']'])
            .nth(2)
            .and_then(|number| number.trim().parse::<u64>().ok())
            .unwrap();
        let second = first.wrapping_add(second);
        (0..count)
            .map(|n| {
                let mut name = [first.to_le_bytes(), second.to_le_bytes()].concat();
                name.extend(format!("{n:07}").as_bytes());
                name.extend(b"/libc.so");
                assert_eq!(name.len(), 31);
                name
            })
            .collect()
    }

    fn hashes(names: &[Vec<u8>], seed: u64) -> HashSet<u64> {
        let seed = Seed::new(seed);
        names.iter().map(|name| seed.hash(name)).collect()
    }

    #[test]
    fn l03_names_found_together_are_found_as_alone() {
        let digest = |n: u32| crypto::digest(HashAlg::Sha256, &n.to_le_bytes());
        let name = |n: u32| format!("/usr/lib/lib{n}.so").into_bytes();
        for (listed, seed) in [(0, 3), (1, 4), (3_000, 5), (20_000, 6)] {
            let mut table = DigestTable::new(Seed::new(seed));
            for n in 0..listed {
                table.push_name(&name(n)).unwrap();
                table.push_digest(&digest(n)).unwrap();
            }
            let names: Vec<_> = (0..listed + 2_000).map(name).collect();
            let places = table.places(names.iter().map(Vec::as_slice));
            assert_eq!(places.len(), names.len());
            for ((n, name), place) in (0..).zip(&names).zip(places) {
                let find = |of: u32| {
                    let digest = digest(of);
                    let at = table.find_at(place, name, HashAlg::Sha256, digest.as_bytes());
                    let alone = table.place(name);
                    let alone = table.find_at(alone, name, HashAlg::Sha256, digest.as_bytes());
                    assert_eq!(at, alone);
                    at
                };
                let [right, other] = match n < listed {
                    true => [Found::Digest, Found::NameOnly],
                    false => [Found::Nothing; 2],
                };
                assert_eq!((find(n), find(n + 1)), (right, other));
                assert_eq!(table.contains_at(place, name), n < listed);
            }
        }
    }

    #[test]
    fn l03_a_place_of_one_name_never_finds_digests_of_another() {
        let mut table = DigestTable::new(Seed::new(9));
        let zero = Digest::zero(HashAlg::Sha256);
        let names: Vec<_> = (0..500_u32).map(|n| n.to_le_bytes()).collect();
        for name in &names {
            table.push_name(name).unwrap();
            table.push_digest(&zero).unwrap();
        }
        let absent = table.place(b"absent");
        for name in &names {
            let place = table.place(name);
            let found = table.find_at(place, b"absent", HashAlg::Sha256, zero.as_bytes());
            assert_eq!(found, Found::Nothing);
            let one = Digest::ones(HashAlg::Sha256);
            let found = table.find_at(absent, name, HashAlg::Sha256, one.as_bytes());
            assert_ne!(found, Found::Digest);
        }
    }

    #[test]
    fn l02_names_that_collide_under_a_known_seed_do_not_under_another() {
        const COUNT: usize = 10_000;
        let names = colliding(0, COUNT);
        assert_eq!(hashes(&names, 0).len(), 1, "the attack works where it can");
        for seed in [1, 0x5bd1_e995, u64::MAX] {
            assert_eq!(hashes(&names, seed).len(), COUNT, "seed {seed:x}");
        }
    }

    #[test]
    fn l02_crafted_names_are_found_without_looking_at_the_others() {
        let names = colliding(0, 10_000);
        let mut table = DigestTable::new(Seed::new(0x5bd1_e995));
        let digest = Digest::zero(HashAlg::Sha256);
        for name in &names {
            table.push_name(name).unwrap();
            table.push_digest(&digest).unwrap();
        }
        let mut compared: usize = 0;
        for name in &names {
            let hash = table.seed.hash(name);
            let found = table.index.find(hash, |number| {
                compared += 1;
                name_at(&table.entries, &table.names, *number) == name.as_slice()
            });
            assert!(found.is_some());
        }
        // One comparison a name, and some where seven bits of the hash agree by chance.
        assert!(compared < 2 * names.len(), "{compared} comparisons");
    }
}
