//! The agent's own copy of the measurement list of this boot.
//!
//! The copy is what lets the agent read only what is new, and what holds entries that the kernel
//! has trimmed since. It starts at entry 0 and only grows; the kernel's list must continue it, or
//! it is made anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rat_engine::ima::LogFormat;
use rat_engine::limits;

use super::{LogError, record};

const PIECE_BYTES: usize = 64 * 1024;
/// Of every so many entries the offset is remembered.
const MARK_EVERY: u64 = 1024;

/// A list of whole entries in a file.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    file: File,
    format: LogFormat,
    entries: u64,
    bytes: u64,
    /// Offset of the last entry.
    last_at: u64,
    /// Offsets of entries 0, 1024, 2048, …
    marks: Vec<u64>,
    /// Bytes at the front that the kernel's list no longer holds.
    trimmed_bytes: u64,
}

impl Kept {
    /// The copy at `path`: what an earlier run of the agent left there, or an empty one.
    pub(super) fn open(path: PathBuf, format: LogFormat) -> Result<Self, LogError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        let mut kept = Self {
            path,
            file,
            format,
            entries: 0,
            bytes: 0,
            last_at: 0,
            marks: Vec::new(),
            trimmed_bytes: 0,
        };
        let left = kept.file.try_clone().map_err(failed(&kept.path))?;
        let path = kept.path.clone();
        if kept.take_entries(&left, 0, &path, false).is_err() {
            kept.clear()?;
        }
        // A write that was cut short leaves part of an entry.
        kept.file.set_len(kept.bytes).map_err(failed(&kept.path))?;
        Ok(kept)
    }

    pub(super) const fn entries(&self) -> u64 {
        self.entries
    }

    /// Brings the copy up to date with the kernel's list.
    ///
    /// `whole` compares every byte that both hold, instead of the first and last entry.
    pub(super) fn follow(&mut self, list: &File, path: &Path, whole: bool) -> Result<(), LogError> {
        if self.entries > 0 && !self.is_continued_by(list, self.trimmed_bytes, whole)? {
            match self.continuation(list)? {
                Some(at) => {
                    tracing::warn!(
                        trimmed_bytes = at,
                        "the kernel trimmed its measurement list"
                    );
                    self.trimmed_bytes = at;
                }
                None => self.start_again(list)?,
            }
        }
        if self.entries == 0 {
            match entry_at(list, self.format, 0, path)? {
                Some(first) if record::is_first_of_list(&first) => {}
                Some(_) => return Err(LogError::Trimmed { path: path.into() }),
                None => return Ok(()),
            }
        }
        let from = self.bytes.saturating_sub(self.trimmed_bytes);
        self.take_entries(list, from, path, true)
    }

    /// The copy from this entry on, and its length.
    pub(super) fn open_at(&self, entry: u64) -> Result<(File, u64), LogError> {
        let at = self.offset_of(entry)?;
        // A file of its own, so that its position is, too.
        let mut file = File::open(&self.path).map_err(failed(&self.path))?;
        file.seek(SeekFrom::Start(at)).map_err(failed(&self.path))?;
        Ok((file, self.bytes.saturating_sub(at)))
    }

    /// Whether the kernel's list, from its start, holds what the copy holds from `at` on.
    fn is_continued_by(&self, list: &File, at: u64, whole: bool) -> Result<bool, LogError> {
        if whole {
            return self.same(list, at, at, self.bytes);
        }
        // A list that was trimmed begins with another entry; one that was replaced ends with one.
        let head = entry_at(&self.file, self.format, at, &self.path)?;
        let head = head.map_or(0, |entry| length_of(&entry));
        Ok(self.same(list, at, at, at.saturating_add(head))?
            && self.same(list, at, self.last_at.max(at), self.bytes)?)
    }

    /// Whether copy and list are the same between two offsets of the copy, `at` being the offset
    /// of the list's start.
    fn same(&self, list: &File, at: u64, start: u64, end: u64) -> Result<bool, LogError> {
        let (mut ours, mut theirs) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
        let mut position = start;
        while position < end {
            let left = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
            let size = left.min(PIECE_BYTES);
            let (Some(ours), Some(theirs)) = (ours.get_mut(..size), theirs.get_mut(..size)) else {
                return Ok(false);
            };
            let found = fill(&self.file, ours, position).map_err(failed(&self.path))?;
            let other = fill(list, theirs, position.saturating_sub(at));
            if found < size || other.map_err(failed(&self.path))? < size || ours != theirs {
                return Ok(false);
            }
            position = position.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
        }
        Ok(true)
    }

    /// The offset in the copy at which the kernel's list now starts.
    ///
    /// The end of the copy, when nothing of it is left in the list: whether entries are missing
    /// between the two, only a replay against the PCR can tell.
    fn continuation(&self, list: &File) -> Result<Option<u64>, LogError> {
        let Some(first) = entry_at(list, self.format, 0, &self.path)? else {
            return Ok(Some(self.bytes));
        };
        let size = length_of(&first);
        let mut at = self.trimmed_bytes;
        let mut entries = Entries::new(&self.file, self.format, at);
        while let Some(entry) = entries.next(&self.path)? {
            if entry == first.as_slice() && self.same(list, at, at, self.bytes)? {
                return Ok(Some(at));
            }
            let length = length_of(entry);
            at = at.saturating_add(length);
        }
        let is_new_list = record::is_first_of_list(&first);
        // Bytes from 0 on are the first entry of both: then the copy is wrong, not the list.
        let same_start = self.same(list, 0, 0, size)?;
        Ok((!is_new_list && !same_start).then_some(self.bytes))
    }

    fn start_again(&mut self, list: &File) -> Result<(), LogError> {
        let first = entry_at(list, self.format, 0, &self.path)?;
        if first.is_some_and(|first| record::is_first_of_list(&first)) {
            tracing::info!("the measurement list is another one than was kept; reading it anew");
        }
        self.clear()
    }

    fn clear(&mut self) -> Result<(), LogError> {
        self.file.set_len(0).map_err(failed(&self.path))?;
        self.entries = 0;
        self.bytes = 0;
        self.last_at = 0;
        self.marks.clear();
        self.trimmed_bytes = 0;
        Ok(())
    }

    /// Counts the whole entries of `list` from `from` on, and appends them when `append` says so.
    fn take_entries(
        &mut self,
        list: &File,
        from: u64,
        path: &Path,
        append: bool,
    ) -> Result<(), LogError> {
        let list = list.try_clone().map_err(failed(path))?;
        let mut entries = Entries::new(&list, self.format, from);
        while let Some(entry) = entries.next(path)? {
            let length = length_of(entry);
            let end = self.bytes.saturating_add(length);
            let max_bytes = u64::try_from(limits::IMA_LOG_BYTES_MAX).unwrap_or(u64::MAX);
            if end > max_bytes {
                let path = path.into();
                return Err(LogError::TooLong { path, max_bytes });
            }
            if append {
                self.file
                    .write_all_at(entry, self.bytes)
                    .map_err(failed(&self.path))?;
            }
            if self.entries.is_multiple_of(MARK_EVERY) {
                self.marks.push(self.bytes);
            }
            self.last_at = self.bytes;
            self.bytes = end;
            self.entries = self.entries.saturating_add(1);
        }
        Ok(())
    }

    fn offset_of(&self, entry: u64) -> Result<u64, LogError> {
        if entry >= self.entries {
            return Ok(self.bytes);
        }
        let mark = entry.checked_div(MARK_EVERY).unwrap_or(0);
        let start = usize::try_from(mark)
            .ok()
            .and_then(|mark| self.marks.get(mark));
        let mut at = start.copied().unwrap_or(0);
        let mut entries = Entries::new(&self.file, self.format, at);
        for _ in 0..entry.checked_rem(MARK_EVERY).unwrap_or(0) {
            let Some(passed) = entries.next(&self.path)? else {
                break;
            };
            let length = length_of(passed);
            at = at.saturating_add(length);
        }
        Ok(at)
    }
}

/// The entries of a file, one after the other.
struct Entries<'f> {
    file: &'f File,
    format: LogFormat,
    /// Where `buffer` starts in the file.
    at: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl<'f> Entries<'f> {
    const fn new(file: &'f File, format: LogFormat, from: u64) -> Self {
        Self {
            file,
            format,
            at: from,
            buffer: Vec::new(),
            used: 0,
        }
    }

    /// The next whole entry; `None` at the end, also when part of an entry follows.
    fn next(&mut self, path: &Path) -> Result<Option<&[u8]>, LogError> {
        loop {
            let rest = self.buffer.get(self.used..).unwrap_or(&[]);
            let length = record::length(self.format, rest).map_err(|fault| {
                let used = u64::try_from(self.used).unwrap_or(u64::MAX);
                LogError::Record {
                    path: path.into(),
                    offset_bytes: self.at.saturating_add(used),
                    fault,
                }
            })?;
            if let Some(length) = length {
                let start = self.used;
                self.used = self.used.saturating_add(length);
                return Ok(self.buffer.get(start..self.used));
            }
            if !self.read_more(path)? {
                return Ok(None);
            }
        }
    }

    /// Appends a piece to what is not used yet; false when there is no more.
    fn read_more(&mut self, path: &Path) -> Result<bool, LogError> {
        self.buffer.drain(..self.used.min(self.buffer.len()));
        let used = u64::try_from(self.used).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(used);
        self.used = 0;
        let held = self.buffer.len();
        self.buffer.resize(held.saturating_add(PIECE_BYTES), 0);
        let offset = self
            .at
            .saturating_add(u64::try_from(held).unwrap_or(u64::MAX));
        let free = self.buffer.get_mut(held..).unwrap_or_default();
        let read = fill(self.file, free, offset).map_err(failed(path))?;
        self.buffer.truncate(held.saturating_add(read));
        Ok(read > 0)
    }
}

/// Whole entries in a list.
pub(super) fn count_entries(list: &File, format: LogFormat, path: &Path) -> Result<u64, LogError> {
    let mut entries = Entries::new(list, format, 0);
    let mut count: u64 = 0;
    while entries.next(path)?.is_some() {
        count = count.saturating_add(1);
    }
    Ok(count)
}

/// The entry at an offset.
fn entry_at(
    file: &File,
    format: LogFormat,
    at: u64,
    path: &Path,
) -> Result<Option<Vec<u8>>, LogError> {
    let mut entries = Entries::new(file, format, at);
    Ok(entries.next(path)?.map(<[u8]>::to_vec))
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Reads until the buffer is full or the file ends; the kernel gives a page at a time.
fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled: usize = 0;
    while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
        let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        match file.read_at(free, at) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_path_buf();
    |source| LogError::File { path, source }
}
