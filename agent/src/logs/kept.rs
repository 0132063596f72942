//! The agent's own copy of the measurement list of this boot.
//!
//! The copy is what lets the agent read only what is new, and what holds entries that the kernel
//! has trimmed since. It starts at entry 0 and only grows. The kernel's list must continue it: a
//! list that is another one is read anew, and one that begins after the copy's end is an error,
//! because what was between the two is lost.

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
/// How often a list is looked at that changes its front each time.
const LOOKS_MAX: usize = 8;

/// Where the kernel's list belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its first entry is the copy's at this offset.
    At(u64),
    /// It begins like every list, and is not the one that was copied.
    OtherList,
    /// It begins with neither.
    Unknown,
}

/// How much of a list is copied.
#[derive(Debug, Clone, Copy)]
struct Extent {
    entries: u64,
    bytes: u64,
    last_at: u64,
    marks: usize,
}

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
    /// `whole` compares every byte that both hold, instead of the first and last entry; where the
    /// list was trimmed that is done anyway.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] when entries may be missing between copy and list. The copy is left
    /// as it was: a list with a hole explains no PCR, and would fail an honest machine for good.
    pub(super) fn follow(&mut self, list: &File, path: &Path, whole: bool) -> Result<(), LogError> {
        for _ in 0..LOOKS_MAX {
            let Some(head) = entry_at(list, self.format, 0, path)? else {
                // A list without any entry is one before the first, or one that lost all.
                return match self.entries {
                    0 => Ok(()),
                    _ => Err(LogError::Trimmed { path: path.into() }),
                };
            };
            let place = self.place(list, &head, whole)?;
            if self.take(list, path, &head, place)? {
                return Ok(());
            }
        }
        Err(LogError::Unsteady { path: path.into() })
    }

    /// Does what follows from the list's place; false when there is more to do: the list was not
    /// the one that was copied, or its front was trimmed meanwhile.
    fn take(
        &mut self,
        list: &File,
        path: &Path,
        head: &[u8],
        place: Place,
    ) -> Result<bool, LogError> {
        let before = self.extent();
        let taken = match place {
            Place::At(at) => {
                let from = self.bytes.saturating_sub(at);
                self.take_entries(list, from, path, true)
            }
            Place::OtherList | Place::Unknown => Ok(()),
        };
        // All of it was found at offsets, and those move when the front is trimmed.
        if entry_at(list, self.format, 0, path)?.as_deref() != Some(head) {
            self.return_to(before)?;
            return Ok(false);
        }
        match place {
            Place::At(at) => {
                if at > self.trimmed_bytes {
                    tracing::warn!(trimmed_bytes = at, "the kernel trimmed its list");
                }
                self.trimmed_bytes = at;
                taken.map(|()| true)
            }
            Place::OtherList => {
                tracing::info!("the list is another one than was kept; reading it anew");
                self.clear()?;
                Ok(false)
            }
            Place::Unknown => Err(LogError::Trimmed { path: path.into() }),
        }
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

    /// Where the kernel's list, which begins with this entry, belongs.
    fn place(&self, list: &File, head: &[u8], whole: bool) -> Result<Place, LogError> {
        let begins = record::is_first_of_list(head);
        if self.entries == 0 {
            return Ok(if begins { Place::At(0) } else { Place::Unknown });
        }
        // A list that was never trimmed begins with boot_aggregate, which occurs once. Others begin
        // with any entry, and where entries are alike, first and last may fit in two places.
        let whole = whole || self.trimmed_bytes > 0;
        if self.is_continued_by(list, self.trimmed_bytes, whole)? {
            return Ok(Place::At(self.trimmed_bytes));
        }
        match self.continuation(list, head)? {
            Some(at) => Ok(Place::At(at)),
            None if begins => Ok(Place::OtherList),
            None => Ok(Place::Unknown),
        }
    }

    /// The offset from which on the copy, its last entry included, is what the list begins with.
    ///
    /// Of several the first: the list then repeats nothing that it dropped. Violations can be all
    /// the same, so that this is the likely offset and not a proven one; the replay tells.
    fn continuation(&self, list: &File, head: &[u8]) -> Result<Option<u64>, LogError> {
        let mut at = self.trimmed_bytes;
        let mut entries = Entries::new(&self.file, self.format, at);
        while at < self.bytes {
            let Some(entry) = entries.next(&self.path)? else {
                break;
            };
            if entry == head && self.same(list, at, at, self.bytes)? {
                return Ok(Some(at));
            }
            let length = length_of(entry);
            at = at.saturating_add(length);
        }
        Ok(None)
    }

    const fn extent(&self) -> Extent {
        Extent {
            entries: self.entries,
            bytes: self.bytes,
            last_at: self.last_at,
            marks: self.marks.len(),
        }
    }

    /// Forgets what was appended since.
    fn return_to(&mut self, extent: Extent) -> Result<(), LogError> {
        self.file
            .set_len(extent.bytes)
            .map_err(failed(&self.path))?;
        self.entries = extent.entries;
        self.bytes = extent.bytes;
        self.last_at = extent.last_at;
        self.marks.truncate(extent.marks);
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn lines(range: std::ops::Range<u32>) -> String {
        let line = |nth| match nth {
            0 => "10 00 ima-ng sha256:00 boot_aggregate\n".to_owned(),
            nth => format!("10 {nth:02} ima-ng sha256:00 /usr/bin/tool-{nth}\n"),
        };
        range.map(line).collect()
    }

    /// A copy of five entries, and the path of the list that it follows.
    fn five() -> (tempfile::TempDir, Kept, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        fs::write(&path, lines(0..5)).unwrap();
        let copy = directory.path().join("copy");
        let mut kept = Kept::open(copy, LogFormat::Ascii).unwrap();
        let list = File::open(&path).unwrap();
        kept.follow(&list, &path, false).unwrap();
        assert_eq!(kept.entries(), 5);
        (directory, kept, path)
    }

    fn copied(kept: &Kept) -> String {
        fs::read_to_string(&kept.path).unwrap()
    }

    #[test]
    fn i29_a_front_that_is_trimmed_while_the_list_is_read_appends_nothing() {
        let (_directory, mut kept, path) = five();
        fs::write(&path, lines(0..20)).unwrap();
        let list = File::open(&path).unwrap();
        let head = entry_at(&list, LogFormat::Ascii, 0, &path).unwrap();
        let head = head.unwrap();
        let place = kept.place(&list, &head, false).unwrap();
        assert_eq!(place, Place::At(0));
        // Between the look at its front and the reading of what is new.
        fs::write(&path, lines(3..20)).unwrap();
        assert!(!kept.take(&list, &path, &head, place).unwrap());
        assert_eq!((kept.entries(), copied(&kept)), (5, lines(0..5)));
        // The next look finds its place.
        kept.follow(&list, &path, false).unwrap();
        assert_eq!((kept.entries(), copied(&kept)), (20, lines(0..20)));
    }

    #[test]
    fn i29_a_copy_is_not_given_up_for_a_list_that_moved_meanwhile() {
        let (_directory, mut kept, path) = five();
        let list = File::open(&path).unwrap();
        let head = entry_at(&list, LogFormat::Ascii, 0, &path).unwrap();
        let head = head.unwrap();
        fs::write(&path, lines(3..8)).unwrap();
        for place in [Place::OtherList, Place::Unknown] {
            assert!(!kept.take(&list, &path, &head, place).unwrap());
            assert_eq!((kept.entries(), copied(&kept)), (5, lines(0..5)));
        }
        kept.follow(&list, &path, false).unwrap();
        assert_eq!(copied(&kept), lines(0..8));
    }

    #[test]
    fn i29_a_list_that_could_begin_at_two_places_begins_at_the_first() {
        let (_directory, mut kept, path) = five();
        let violation = "10 00 ima-ng sha256:00 /var/log/same\n";
        let all = [&lines(0..2), violation, &lines(2..4), violation].concat();
        fs::write(&path, &all).unwrap();
        let list = File::open(&path).unwrap();
        kept.follow(&list, &path, false).unwrap();
        assert_eq!(copied(&kept), all);
        // The first violation, with all that follows it; not the second, with entries repeated.
        let rest = [violation, &lines(2..4), violation, &lines(4..5)].concat();
        fs::write(&path, &rest).unwrap();
        kept.follow(&list, &path, false).unwrap();
        assert_eq!(copied(&kept), all + &lines(4..5));
    }
}
