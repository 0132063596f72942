//! Decoded entries that wait to be replayed together, so that caches are asked for all at once.

use std::ops::Range;

use super::hashes::{Algorithms, Together};
use super::{Entry, Event, Template};
use crate::crypto::hash_mb::{MESSAGES, Messages};
use crate::malformed::Malformed;

/// Entries in a batch.
const ROWS_MAX: usize = 128;
/// Bytes in a batch after which it is taken, whatever its entries.
const BYTES_MAX: usize = 32 * 1024;

/// A record that the caches hold of an entry.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The record's number, which no other ever has.
    pub(super) number: u64,
    /// Where the batch keeps the record's hashes.
    pub(super) hashes: Range<usize>,
}

/// Where an entry lies in the batch, and what is known of it.
#[derive(Debug)]
pub(super) struct Row {
    pcr: u32,
    template: Template,
    template_hash: Range<usize>,
    data: Range<usize>,
    end_bytes: u64,
    is_violation: bool,
    /// Under the caches' seed.
    pub(super) hash: u64,
    /// Where the caches may hold it.
    pub(super) slot: Option<u32>,
    pub(super) known: Option<Known>,
    /// Where the batch keeps the hashes of another.
    computed: Range<usize>,
}

/// Entries, copied out of the pieces in which they came.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Hashes of the entries, remembered or computed.
    hashes: Vec<u8>,
    rows: Vec<Row>,
    /// For entries that are hashed together.
    cut: Option<Box<Messages>>,
}

impl Batch {
    pub(super) fn push(&mut self, entry: &Entry<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(entry.template_hash);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(entry.data);
        self.rows.push(Row {
            pcr: entry.pcr,
            template: entry.template,
            template_hash: start..middle,
            data: middle..self.bytes.len(),
            end_bytes: entry.end_bytes,
            is_violation: entry.is_violation(),
            hash: 0,
            slot: None,
            known: None,
            computed: 0..0,
        });
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_MAX || self.bytes.len() >= BYTES_MAX
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.hashes.clear();
        self.rows.clear();
    }

    /// The entries in order, and the hashes that the caches hold of them.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Entry<'_>, &Row)> {
        self.rows.iter().map(|row| {
            let entry = Entry {
                pcr: row.pcr,
                template_hash: self.bytes.get(row.template_hash.clone()).unwrap_or(&[]),
                template: row.template,
                data: self.bytes.get(row.data.clone()).unwrap_or(&[]),
                end_bytes: row.end_bytes,
            };
            (entry, row)
        })
    }

    /// Computes the hashes of what the caches do not hold, of many entries at a time.
    pub(super) fn hash(&mut self, algorithms: Algorithms) {
        let Self {
            bytes,
            hashes,
            rows,
            cut,
        } = self;
        let is_asked = |row: &&mut Row| !row.is_violation && row.known.is_none();
        let mut rows = rows.iter_mut().filter(is_asked).peekable();
        while rows.peek().is_some() {
            let mut group: [_; MESSAGES] = std::array::from_fn(|_| rows.next());
            let messages = group.each_ref().map(|row| {
                let row = row.as_ref()?;
                bytes.get(row.data.clone())
            });
            let together = Together::new(algorithms, &messages, cut);
            for (place, (row, data)) in group.iter_mut().zip(messages).enumerate() {
                let (Some(row), Some(data)) = (row, data) else {
                    continue;
                };
                let start = hashes.len();
                together.write(place, data, hashes);
                row.computed = start..hashes.len();
            }
        }
    }

    /// The events of files that the caches do not hold.
    pub(super) fn events(&self) -> Vec<Option<Result<Event<'_>, Malformed>>> {
        let is_file = |row: &Row| !row.is_violation && row.template != Template::ImaBuf;
        let read = self.entries().map(|(entry, row)| {
            let is_asked = row.known.is_none() && is_file(row);
            is_asked.then(|| Event::parse(entry.template, entry.data))
        });
        read.collect()
    }

    /// The hashes of an entry that is no violation, computed or remembered.
    pub(super) fn hashes(&self, row: &Row) -> &[u8] {
        let known = row.known.as_ref().map(|known| &known.hashes);
        let place = known.unwrap_or(&row.computed).clone();
        self.hashes.get(place).unwrap_or(&[])
    }

    /// Goes over the entries that are no violations: their rows, templates and data.
    pub(super) fn visit(&mut self, mut each: impl FnMut(&mut Row, Template, &[u8], &mut Vec<u8>)) {
        for row in self.rows.iter_mut().filter(|row| !row.is_violation) {
            let data = self.bytes.get(row.data.clone()).unwrap_or(&[]);
            each(row, row.template, data, &mut self.hashes);
        }
    }
}
