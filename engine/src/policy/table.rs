//! An exact map from names to digests, packed for a million names.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

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
    // The names come from an operator and are fixed when an Attester asks, so a hostile Attester
    // cannot choose what collides with what; a fixed seed keeps the engine free of random sources.
    hasher: FixedState,
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

/// Why a table does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableError {
    Duplicate,
    Full,
}

impl Default for DigestTable {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            entries: Vec::new(),
            names: Vec::new(),
            digests: Vec::new(),
            hasher: FixedState::with_seed(0),
        }
    }
}

impl DigestTable {
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
        let hash = self.hasher.hash_one(name);
        let Self {
            index,
            entries,
            names,
            hasher,
            ..
        } = self;
        index.insert_unique(hash, number, |other| {
            hasher.hash_one(name_at(entries, names, *other))
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
            hasher,
            ..
        } = self;
        index.shrink_to_fit(|other| hasher.hash_one(name_at(entries, names, *other)));
        self.entries.shrink_to_fit();
        self.names.shrink_to_fit();
        self.digests.shrink_to_fit();
    }

    pub(super) fn find(&self, name: &[u8], alg: HashAlg, digest: &[u8]) -> Found {
        match self.position(name) {
            None => Found::Nothing,
            Some(entry) if self.has_digest(entry, alg, digest) => Found::Digest,
            Some(_) => Found::NameOnly,
        }
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.position(name).is_some()
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
        let hash = self.hasher.hash_one(name);
        let number = self.index.find(hash, |number| {
            name_at(&self.entries, &self.names, *number) == name
        })?;
        usize::try_from(*number).ok()
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
