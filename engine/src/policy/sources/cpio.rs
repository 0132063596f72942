//! Archives of an initramfs, unpacked to nothing but the digests of their files.
//!
//! An image is a row of archives and compressed streams with zeros between them. This reads archives;
//! at anything else it stops and says where, so that the caller can decompress from there.
//!
//! Source: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`; `init/initramfs.c`.

mod names;
use std::collections::BTreeMap;

use thiserror::Error;

use crate::crypto::Hasher;
use crate::hash::{Digest, HashAlg};
use crate::limits::{
    INITRAMFS_MEMBERS_MAX, INITRAMFS_NAME_BYTES_MAX, INITRAMFS_UNPACKED_BYTES_MAX,
};

use names::{absolute, shown};

const HEADER_BYTES: usize = 110;
const MAGIC_BYTES: usize = 6;
/// `newc`, and the same with a sum of the file's bytes.
const MAGIC_PLAIN: &[u8] = b"070701";
const MAGIC_SUMMED: &[u8] = b"070702";
const TRAILER: &[u8] = b"TRAILER!!!";
/// The type of a file within its mode, and that of regular files. Source: POSIX, `sys/stat.h`.
const TYPE_MASK: u32 = 0o170_000;
const TYPE_REGULAR: u32 = 0o100_000;

/// Why an archive is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CpioError {
    /// A header that is not the magic and thirteen numbers of eight hexadecimal digits.
    #[error("member {member}: not a header of a newc archive")]
    Header {
        /// Its number in the image, from 0.
        member: usize,
    },
    /// A name that is empty, has no NUL at its end or one within, or is longer than
    /// [`INITRAMFS_NAME_BYTES_MAX`].
    #[error("member {member}: a name of {bytes} bytes that is no path")]
    Name {
        /// Its number in the image, from 0.
        member: usize,
        /// Bytes of the name, its NUL counted.
        bytes: u32,
    },
    /// A name with a `..` in it: what it means depends on where it is unpacked.
    #[error("{name}: a name that leaves its folder")]
    Traversal {
        /// The name, shortened.
        name: String,
    },
    /// The sum that the header gives is not the sum of the file's bytes.
    #[error("{name}: the file's sum is wrong")]
    Sum {
        /// The name, shortened.
        name: String,
    },
    /// More than [`INITRAMFS_MEMBERS_MAX`] members.
    #[error("more than {max} members", max = INITRAMFS_MEMBERS_MAX)]
    Members,
    /// More bytes than [`INITRAMFS_UNPACKED_BYTES_MAX`].
    #[error("more than {max} bytes when unpacked", max = INITRAMFS_UNPACKED_BYTES_MAX)]
    Unpacked,
    /// The image ends within an archive.
    #[error("the image ends within member {member}")]
    Truncated {
        /// Its number in the image, from 0.
        member: usize,
    },
    /// Links of one file whose contents differ.
    #[error("{name}: another link of the same file has other contents")]
    Links {
        /// The name, shortened.
        name: String,
    },
}

/// How far the reader came with what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// All of it was taken.
    All,
    /// So many bytes were taken, and what follows is no archive.
    Foreign(usize),
}

/// Reads archives, and keeps the digest of every regular file.
#[derive(Debug)]
pub struct Archives {
    alg: HashAlg,
    files: BTreeMap<Vec<u8>, Digest>,
    links: Links,
    state: State,
    members: usize,
    bytes: usize,
}

/// Files with several names, by device and number: names that wait for the contents, which stand
/// with one of them, and the contents when they came.
type Links = BTreeMap<[u32; 3], Linked>;

#[derive(Debug, Default)]
struct Linked {
    waiting: Vec<Vec<u8>>,
    contents: Option<Digest>,
}

#[derive(Debug)]
enum State {
    /// Between archives: zeros, a magic, or something else.
    Between {
        magic: Vec<u8>,
    },
    Header {
        bytes: Vec<u8>,
    },
    Name {
        header: Header,
        bytes: Vec<u8>,
    },
    File(File),
    Padding {
        left: usize,
        ends: bool,
    },
}

#[derive(Debug)]
struct File {
    header: Header,
    name: Vec<u8>,
    left: u32,
    sum: u32,
    hasher: Option<Hasher>,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    summed: bool,
    number: u32,
    mode: u32,
    links: u32,
    file_bytes: u32,
    device: [u32; 2],
    name_bytes: u32,
    sum: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_at_checked(MAGIC_BYTES)?;
        let summed = magic == MAGIC_SUMMED;
        if !summed && magic != MAGIC_PLAIN {
            return None;
        }
        let (fields, rest) = rest.as_chunks::<8>();
        let mut numbers = [0; 13];
        if fields.len() != numbers.len() || !rest.is_empty() {
            return None;
        }
        for (number, field) in numbers.iter_mut().zip(fields) {
            let mut raw = [0; 4];
            hex::decode_to_slice(field, &mut raw).ok()?;
            *number = u32::from_be_bytes(raw);
        }
        let [
            number,
            mode,
            _,
            _,
            links,
            _,
            file_bytes,
            major,
            minor,
            _,
            _,
            name_bytes,
            sum,
        ] = numbers;
        Some(Self {
            summed,
            number,
            mode,
            links,
            file_bytes,
            device: [major, minor],
            name_bytes,
            sum,
        })
    }

    fn is_regular(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_REGULAR
    }
}

/// Zeros that fill `bytes` up to a multiple of four.
const fn padding(bytes: usize) -> usize {
    bytes.wrapping_neg() & 3
}

/// Moves up to `wanted` bytes in all from the front of `piece` into `bytes`; true when they are there.
fn fill(bytes: &mut Vec<u8>, wanted: usize, piece: &mut &[u8]) -> bool {
    let missing = wanted.saturating_sub(bytes.len());
    let (taken, rest) = piece.split_at(missing.min(piece.len()));
    bytes.extend_from_slice(taken);
    *piece = rest;
    bytes.len() >= wanted
}

impl Archives {
    /// A reader that has read nothing, and makes digests with `alg`.
    pub fn new(alg: HashAlg) -> Self {
        Self {
            alg,
            files: BTreeMap::new(),
            links: Links::new(),
            state: State::Between { magic: Vec::new() },
            members: 0,
            bytes: 0,
        }
    }

    /// Takes the next bytes of the image, or of what one of its streams decompresses to.
    ///
    /// # Errors
    /// [`CpioError`]; the reader is of no use afterwards.
    ///
    /// # Cost
    /// The hash of the files' bytes. Memory for names and digests, never for contents.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Fed, CpioError> {
        let mut rest = piece;
        while !rest.is_empty() {
            if let State::Between { magic } = &mut self.state {
                if magic.is_empty() {
                    let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                    rest = rest.get(zeros..).unwrap_or_default();
                    self.count(zeros)?;
                    if rest.is_empty() {
                        break;
                    }
                }
                if !self.begins(&mut rest) {
                    let taken = piece.len().saturating_sub(rest.len());
                    return Ok(Fed::Foreign(taken));
                }
                continue;
            }
            let before = rest.len();
            self.step(&mut rest)?;
            self.count(before.saturating_sub(rest.len()))?;
        }
        self.settle()?;
        Ok(Fed::All)
    }

    fn count(&mut self, bytes: usize) -> Result<(), CpioError> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > INITRAMFS_UNPACKED_BYTES_MAX {
            true => Err(CpioError::Unpacked),
            false => Ok(()),
        }
    }

    /// Whether an archive may begin here: as many bytes as are known are those of a magic. Nothing
    /// is taken from `rest` otherwise.
    fn begins(&mut self, rest: &mut &[u8]) -> bool {
        let State::Between { magic } = &mut self.state else {
            return true;
        };
        // The first five bytes are the same for both.
        let front = MAGIC_PLAIN.get(magic.len()..).unwrap_or_default();
        let same = front.len().saturating_sub(1).min(rest.len());
        if rest.get(..same) != front.get(..same) {
            return false;
        }
        let mut after = *rest;
        if fill(magic, MAGIC_BYTES, &mut after) {
            if magic != MAGIC_PLAIN && magic != MAGIC_SUMMED {
                return false;
            }
            let bytes = std::mem::take(magic);
            self.state = State::Header { bytes };
        }
        *rest = after;
        true
    }

    /// Takes what the present state wants from the front of `rest`.
    fn step(&mut self, rest: &mut &[u8]) -> Result<(), CpioError> {
        let member = self.members;
        match &mut self.state {
            State::Between { .. } => {}
            State::Header { bytes } => {
                if fill(bytes, HEADER_BYTES, rest) {
                    let header = Header::read(bytes).ok_or(CpioError::Header { member })?;
                    let bytes = header.name_bytes;
                    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
                    if !(2..=INITRAMFS_NAME_BYTES_MAX).contains(&size) {
                        return Err(CpioError::Name { member, bytes });
                    }
                    let bytes = Vec::new();
                    self.state = State::Name { header, bytes };
                }
            }
            State::Name { header, bytes } => {
                let size = usize::try_from(header.name_bytes).unwrap_or(usize::MAX);
                let padded = size.saturating_add(padding(HEADER_BYTES.saturating_add(size)));
                if fill(bytes, padded, rest) {
                    bytes.truncate(size);
                    let (header, bytes) = (*header, std::mem::take(bytes));
                    self.named(header, bytes)?;
                }
            }
            State::File(file) => {
                let left = usize::try_from(file.left).unwrap_or(usize::MAX);
                let (contents, after) = rest.split_at(left.min(rest.len()));
                file.take(contents);
                *rest = after;
            }
            State::Padding { left, .. } => {
                let (_, after) = rest.split_at((*left).min(rest.len()));
                *left = left.saturating_sub(rest.len().saturating_sub(after.len()));
                *rest = after;
            }
        }
        self.settle()
    }

    /// Begins the member whose header and name were read.
    fn named(&mut self, header: Header, mut name: Vec<u8>) -> Result<(), CpioError> {
        let member = self.members;
        let bytes = header.name_bytes;
        if name.pop() != Some(0) || memchr::memchr(0, &name).is_some() {
            return Err(CpioError::Name { member, bytes });
        }
        if name == TRAILER {
            // Numbers of files are those of one archive.
            self.links.clear();
            let size = usize::try_from(header.file_bytes).unwrap_or(usize::MAX);
            let left = size.saturating_add(padding(size));
            self.state = State::Padding { left, ends: true };
            return Ok(());
        }
        if member >= INITRAMFS_MEMBERS_MAX {
            return Err(CpioError::Members);
        }
        self.members = member.saturating_add(1);
        let regular = header.is_regular();
        self.state = State::File(File {
            header,
            name: absolute(&name)?,
            left: header.file_bytes,
            sum: 0,
            hasher: regular.then(|| Hasher::new(self.alg)),
        });
        Ok(())
    }

    /// Leaves states that want no more bytes.
    fn settle(&mut self) -> Result<(), CpioError> {
        if matches!(&self.state, State::File(file) if file.left == 0) {
            let after = State::Padding {
                left: 0,
                ends: false,
            };
            if let State::File(file) = std::mem::replace(&mut self.state, after) {
                let size = usize::try_from(file.header.file_bytes).unwrap_or(usize::MAX);
                self.state = State::Padding {
                    left: padding(size),
                    ends: false,
                };
                self.ended(file)?;
            }
        }
        if let State::Padding { left: 0, ends } = self.state {
            self.state = match ends {
                true => State::Between { magic: Vec::new() },
                false => State::Header { bytes: Vec::new() },
            };
        }
        Ok(())
    }

    /// Keeps the digest of a file. A later file of a name takes the earlier one's place, as when the
    /// kernel unpacks them.
    fn ended(&mut self, file: File) -> Result<(), CpioError> {
        let File {
            header,
            name,
            sum,
            hasher,
            ..
        } = file;
        let Some(hasher) = hasher else {
            // A folder, device or symbolic link stands where a file of an earlier archive was.
            self.files.remove(&name);
            return Ok(());
        };
        if header.summed && sum != header.sum {
            return Err(CpioError::Sum { name: shown(&name) });
        }
        let digest = hasher.finish();
        if header.links < 2 {
            self.files.insert(name, digest);
            return Ok(());
        }
        let [major, minor] = header.device;
        let linked = self.links.entry([major, minor, header.number]).or_default();
        if header.file_bytes > 0 {
            if linked.contents.is_some_and(|contents| contents != digest) {
                return Err(CpioError::Links { name: shown(&name) });
            }
            linked.contents = Some(digest);
            // They were empty as long as this was all that was known of them.
            for waiting in linked.waiting.drain(..) {
                self.files.insert(waiting, digest);
            }
        } else if linked.contents.is_none() {
            linked.waiting.push(name.clone());
        }
        let digest = linked.contents.unwrap_or(digest);
        self.files.insert(name, digest);
        Ok(())
    }

    /// The digest of every regular file by its absolute path, after the end of the image.
    ///
    /// # Errors
    /// [`CpioError::Truncated`] when it ends within an archive.
    pub fn finish(&mut self) -> Result<BTreeMap<Vec<u8>, Digest>, CpioError> {
        match &self.state {
            State::Between { magic } if magic.is_empty() => Ok(std::mem::take(&mut self.files)),
            _ => Err(CpioError::Truncated {
                member: self.members,
            }),
        }
    }

    /// Whether no archive was met yet.
    pub fn is_untouched(&self) -> bool {
        self.members == 0 && matches!(&self.state, State::Between { magic } if magic.is_empty())
    }

    /// Checks that a stream within the image does not end within an archive.
    ///
    /// # Errors
    /// [`CpioError::Truncated`].
    pub fn check_between(&self) -> Result<(), CpioError> {
        match &self.state {
            State::Between { magic } if magic.is_empty() => Ok(()),
            _ => Err(CpioError::Truncated {
                member: self.members,
            }),
        }
    }
}

impl File {
    fn take(&mut self, contents: &[u8]) {
        let taken = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_sub(taken);
        if self.header.summed {
            let bytes = contents.iter().copied().map(u32::from);
            self.sum = bytes.fold(self.sum, u32::wrapping_add);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(contents);
        }
    }
}
