//! Measurement lists as they arrive: in pieces of any size, in constant memory.

use serde::{Deserialize, Serialize};

use super::ascii::{self, Scratch};
use super::binary;
use super::{Entry, EntryFault};
use crate::hash::HashAlg;
use crate::limits;
use crate::malformed::{Fault, Malformed};

/// The two forms in which the kernel shows its measurement list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogFormat {
    /// `ascii_runtime_measurements`.
    Ascii,
    /// `binary_runtime_measurements`, little-endian.
    Binary,
}

impl LogFormat {
    /// The format of a log that starts with these bytes (four are enough).
    ///
    /// A binary log starts with a PCR index as little-endian u32, so its second byte is NUL,
    /// which no ascii log holds.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [_, 0, ..] => Self::Binary,
            _ => Self::Ascii,
        }
    }
}

/// Cuts a measurement list into entries.
///
/// Feed it pieces, then finish it; however the list is cut into pieces, the same entries come out
/// at the same positions. It holds at most one incomplete entry.
#[derive(Debug, Clone)]
pub struct Decoder {
    format: LogFormat,
    log_hash: HashAlg,
    /// The front of an entry whose end has not arrived.
    partial: Vec<u8>,
    done: Done,
    limit_bytes: u64,
    scratch: Scratch,
    legacy: Vec<u8>,
}

/// What was decoded of a list.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    entries: u64,
    offset_bytes: u64,
}

impl Done {
    /// Counts an entry of this many bytes, and says where it ends.
    fn count<'e>(&mut self, entry: Entry<'e>, length: usize) -> Entry<'e> {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.offset_bytes = self.offset_bytes.saturating_add(length);
        self.entries = self.entries.saturating_add(1);
        let end_bytes = self.offset_bytes;
        Entry { end_bytes, ..entry }
    }
}

/// An entry that could not be decoded, and where it starts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {entry} (byte {offset_bytes} of the log): {fault}")]
pub struct DecodeError {
    /// Entries decoded before it, from the start of what was fed.
    pub entry: u64,
    /// Bytes before it, from the start of what was fed.
    pub offset_bytes: u64,
    /// What is wrong with it.
    pub fault: EntryFault,
}

impl Decoder {
    /// A decoder at the start of a list whose template hashes are of `log_hash`.
    ///
    /// `limit_bytes` bounds the whole list; it is capped by [`limits::IMA_LOG_BYTES_MAX`].
    pub fn new(format: LogFormat, log_hash: HashAlg, limit_bytes: u64) -> Self {
        let cap = u64::try_from(limits::IMA_LOG_BYTES_MAX).unwrap_or(u64::MAX);
        Self {
            format,
            log_hash,
            partial: Vec::new(),
            done: Done::default(),
            limit_bytes: limit_bytes.min(cap),
            scratch: Scratch::default(),
            legacy: Vec::new(),
        }
    }

    /// Entries decoded so far.
    pub const fn entries(&self) -> u64 {
        self.done.entries
    }

    /// Bytes of whole entries decoded so far.
    pub const fn offset_bytes(&self) -> u64 {
        self.done.offset_bytes
    }

    /// Decodes what `piece` completes, and hands each entry to `sink` in order.
    ///
    /// # Errors
    /// [`DecodeError`] for the first entry that cannot be decoded, or when the list passes its
    /// limit; the decoder must not be fed again then.
    pub fn feed(
        &mut self,
        piece: &[u8],
        sink: &mut impl FnMut(Entry<'_>),
    ) -> Result<(), DecodeError> {
        // What lies within the limit is decoded first, so that the outcome does not depend on
        // where the pieces end.
        let (within, beyond) = piece.split_at_checked(self.room()).unwrap_or((piece, &[]));
        self.feed_within_limit(within, sink)?;
        if beyond.is_empty() {
            return Ok(());
        }
        let limit_bytes = self.limit_bytes;
        Err(self.error(EntryFault::LogTooLong { limit_bytes }))
    }

    fn feed_within_limit(
        &mut self,
        mut piece: &[u8],
        sink: &mut impl FnMut(Entry<'_>),
    ) -> Result<(), DecodeError> {
        while !self.partial.is_empty() && !piece.is_empty() {
            let wanted = self.wanted(piece)?;
            let (head, tail) = piece.split_at_checked(wanted).unwrap_or((piece, &[]));
            self.partial.extend_from_slice(head);
            piece = tail;
            if self.format == LogFormat::Ascii && head.last() != Some(&b'\n') {
                // Still no whole line; looking again at what is held would cost its square.
                break;
            }
            let mut partial = std::mem::take(&mut self.partial);
            let used = self.decode_all(&partial, sink)?;
            partial.drain(..used.min(partial.len()));
            self.partial = partial;
        }
        if !piece.is_empty() {
            let used = self.decode_all(piece, sink)?;
            self.partial
                .extend_from_slice(piece.get(used..).unwrap_or(&[]));
        }
        self.check_partial()
    }

    /// Ends the list: decodes a last ascii line without newline.
    ///
    /// # Errors
    /// [`DecodeError`] when the list ends within an entry.
    pub fn finish(&mut self, sink: &mut impl FnMut(Entry<'_>)) -> Result<(), DecodeError> {
        if self.partial.is_empty() {
            return Ok(());
        }
        let partial = std::mem::take(&mut self.partial);
        match self.format {
            LogFormat::Ascii => self.decode_line(&partial, partial.len(), sink),
            LogFormat::Binary => {
                let fault = match binary::decode(&partial, self.log_hash, &mut self.legacy) {
                    Err(fault) => fault,
                    // Whole records never stay in `partial`.
                    Ok(_) => return Ok(()),
                };
                Err(self.error(fault))
            }
        }
    }

    /// How many bytes of `piece` to append to the partial entry before trying again.
    fn wanted(&mut self, piece: &[u8]) -> Result<usize, DecodeError> {
        let wanted = match self.format {
            LogFormat::Ascii => memchr::memchr(b'\n', piece).map(|at| at.saturating_add(1)),
            LogFormat::Binary => {
                match binary::decode(&self.partial, self.log_hash, &mut self.legacy) {
                    Ok(_) => Some(0),
                    Err(fault) => match binary::bytes_needed(&fault) {
                        Some(total) => Some(total.saturating_sub(self.partial.len())),
                        None => return Err(self.error(fault)),
                    },
                }
            }
        };
        Ok(wanted.unwrap_or(piece.len()))
    }

    /// Decodes the whole entries at the front of `bytes`; returns how many bytes they took.
    fn decode_all(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(Entry<'_>),
    ) -> Result<usize, DecodeError> {
        let mut used: usize = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or(&[]);
            let length = match self.format {
                LogFormat::Ascii => {
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        return Ok(used);
                    };
                    let length = end.saturating_add(1);
                    self.decode_line(rest.get(..end).unwrap_or(rest), length, sink)?;
                    length
                }
                LogFormat::Binary => match binary::decode(rest, self.log_hash, &mut self.legacy) {
                    Ok((entry, length)) => {
                        sink(self.done.count(entry, length));
                        length
                    }
                    Err(fault) if binary::bytes_needed(&fault).is_some() => return Ok(used),
                    Err(fault) => return Err(self.error(fault)),
                },
            };
            used = used.saturating_add(length);
        }
    }

    /// `length` counts the newline too. An empty line is no entry: it is skipped.
    fn decode_line(
        &mut self,
        line: &[u8],
        length: usize,
        sink: &mut impl FnMut(Entry<'_>),
    ) -> Result<(), DecodeError> {
        if line.len() > limits::IMA_LINE_BYTES_MAX {
            return Err(self.error(too_long()));
        }
        if line.is_empty() {
            self.done.offset_bytes = self.done.offset_bytes.saturating_add(1);
            return Ok(());
        }
        match ascii::decode(line, &mut self.scratch) {
            Ok(entry) if entry.template_hash.len() != self.log_hash.size() => {
                let size = self.log_hash.size();
                let fault = Fault::Length {
                    value: entry.template_hash.len(),
                    min: size,
                    max: size,
                };
                Err(self.error(malformed("template hash", fault)))
            }
            Ok(entry) => {
                sink(self.done.count(entry, length));
                Ok(())
            }
            Err(fault) => Err(self.error(fault)),
        }
    }

    /// Bytes that may still come.
    fn room(&self) -> usize {
        let held = u64::try_from(self.partial.len()).unwrap_or(u64::MAX);
        let taken = self.done.offset_bytes.saturating_add(held);
        usize::try_from(self.limit_bytes.saturating_sub(taken)).unwrap_or(usize::MAX)
    }

    fn check_partial(&self) -> Result<(), DecodeError> {
        // A binary record is bounded by the limits on its fields.
        match self.format {
            LogFormat::Ascii if self.partial.len() > limits::IMA_LINE_BYTES_MAX => {
                Err(self.error(too_long()))
            }
            _ => Ok(()),
        }
    }

    fn error(&self, fault: EntryFault) -> DecodeError {
        DecodeError {
            entry: self.done.entries,
            offset_bytes: self.done.offset_bytes,
            fault,
        }
    }
}

/// Names the first length that is too long: how long the line is may not be known yet.
fn too_long() -> EntryFault {
    let max = limits::IMA_LINE_BYTES_MAX;
    malformed(
        "line",
        Fault::Length {
            value: max.saturating_add(1),
            min: 1,
            max,
        },
    )
}

fn malformed(field: &'static str, fault: Fault) -> EntryFault {
    EntryFault::Malformed(Malformed {
        structure: "IMA measurement list",
        field,
        offset: 0,
        fault,
    })
}
