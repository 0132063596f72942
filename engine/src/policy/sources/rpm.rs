//! The list of files in the header of an RPM package. The payload is not read.
//!
//! Source: rpm 4.20, `docs/manual/format_v4.md`, `format_header.md` and `tags.md`.

use thiserror::Error;

use crate::bytes::Reader;
use crate::hash::{Digest, HashAlg};
use crate::limits::{IMA_NAME_BYTES_MAX, RPM_FILES_MAX, RPM_HEADER_BYTES_MAX, RPM_TAGS_MAX};
use crate::malformed::Malformed;

const LEAD_BYTES: usize = 96;
const LEAD_MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
const HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 0x01];
const INDEX_ENTRY_BYTES: usize = 16;

const TAG_FILE_MODES: u32 = 1030;
const TAG_FILE_DIGESTS: u32 = 1035;
const TAG_DIR_INDEXES: u32 = 1116;
const TAG_BASE_NAMES: u32 = 1117;
const TAG_DIR_NAMES: u32 = 1118;
const TAG_FILE_DIGEST_ALGO: u32 = 5011;

const TYPE_INT16: u32 = 3;
const TYPE_INT32: u32 = 4;
const TYPE_STRING_ARRAY: u32 = 8;

/// The type of a file within its mode, and that of regular files.
const MODE_TYPE_MASK: u16 = 0o170_000;
const MODE_REGULAR: u16 = 0o100_000;

/// Why the header of a package is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RpmError {
    /// The package goes on behind the bytes that were given.
    #[error("the package ends within its header: {needed} bytes are needed")]
    Truncated {
        /// Bytes from the package's begin that are needed to read on.
        needed: usize,
    },
    /// Not a package of version 4: no lead, or no header behind it.
    #[error("not an RPM package")]
    NotRpm,
    /// More than a limit allows.
    #[error("more than {max} ({limit})")]
    Limit {
        /// The name of the limit in [`limits`](mod@crate::limits).
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// Fields that do not fit each other.
    #[error("{0}")]
    Malformed(Malformed),
    /// A tag whose type, count or place is wrong, or whose length is not that of the list of names.
    #[error("tag {tag} of the header is malformed")]
    Tag {
        /// Its number.
        tag: u32,
    },
    /// Digests of an algorithm that we do not compute; MD5 is the one of old packages.
    #[error("file digests of algorithm {id} are not supported")]
    Algorithm {
        /// The number that OpenPGP gives it (RFC 9580, 9.5).
        id: u32,
    },
    /// A digest that is not one of the package's algorithm.
    #[error("the digest of file {file} is not one of {alg}")]
    Digest {
        /// The file's number, from 0.
        file: usize,
        /// The algorithm.
        alg: HashAlg,
    },
    /// A name that is not absolute, has a `..` in it or is longer than [`IMA_NAME_BYTES_MAX`].
    #[error("the name of file {file} is no absolute path")]
    Name {
        /// The file's number, from 0.
        file: usize,
    },
}

impl From<Malformed> for RpmError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// A regular file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagedFile {
    /// Its absolute path; any bytes but NUL.
    pub path: Vec<u8>,
    /// What the package says its contents hash to.
    pub digest: Digest,
}

/// The regular files that a package installs, by its header. Files that are in no payload (`%ghost`)
/// have no digest and are left out.
///
/// `package` begins with the package's first byte; it may be cut anywhere behind the header.
///
/// # Errors
/// [`RpmError`]; for [`RpmError::Truncated`] the caller reads on.
///
/// # Security
/// Nothing is authenticated: verify the package's signature with rpm.
pub fn package_files(package: &[u8]) -> Result<Vec<PackagedFile>, RpmError> {
    let front = |bytes: usize| {
        let needed = RpmError::Truncated { needed: bytes };
        package.get(..bytes).ok_or(needed)
    };
    if !front(LEAD_BYTES)?.starts_with(&LEAD_MAGIC) {
        return Err(RpmError::NotRpm);
    }
    let signature = Span::at(package, LEAD_BYTES)?;
    // The signature's data is filled up to eight bytes.
    let header_at = signature.end.next_multiple_of(8);
    let header = Span::at(package, header_at)?;
    front(header.end)?;
    Header::read(package, &header)?.files()
}

/// Where a header lies.
struct Span {
    index_at: usize,
    tags: usize,
    data_at: usize,
    end: usize,
}

impl Span {
    fn at(package: &[u8], at: usize) -> Result<Self, RpmError> {
        let index_at = at.saturating_add(16);
        let needed = RpmError::Truncated { needed: index_at };
        let intro = package.get(at..index_at).ok_or(needed)?;
        let mut reader = Reader::new("RPM header", intro);
        if reader.array::<4>("magic")? != HEADER_MAGIC {
            return Err(RpmError::NotRpm);
        }
        reader.array::<4>("reserved")?;
        let tags = usize::try_from(reader.u32_be("tags")?).unwrap_or(usize::MAX);
        let bytes = usize::try_from(reader.u32_be("bytes")?).unwrap_or(usize::MAX);
        if tags > RPM_TAGS_MAX {
            let (limit, max) = ("RPM_TAGS_MAX", RPM_TAGS_MAX);
            return Err(RpmError::Limit { limit, max });
        }
        if bytes > RPM_HEADER_BYTES_MAX {
            let (limit, max) = ("RPM_HEADER_BYTES_MAX", RPM_HEADER_BYTES_MAX);
            return Err(RpmError::Limit { limit, max });
        }
        let data_at = index_at.saturating_add(tags.saturating_mul(INDEX_ENTRY_BYTES));
        Ok(Self {
            index_at,
            tags,
            data_at,
            end: data_at.saturating_add(bytes),
        })
    }
}

/// One entry of the index: type, place in the data, and number of values.
#[derive(Clone, Copy)]
struct Tag {
    kind: u32,
    at: usize,
    count: usize,
}

/// The tags that say what a package's files are.
#[derive(Default)]
struct Header<'p> {
    data: &'p [u8],
    modes: Option<Tag>,
    digests: Option<Tag>,
    dir_indexes: Option<Tag>,
    base_names: Option<Tag>,
    dir_names: Option<Tag>,
    algorithm: Option<Tag>,
}

impl<'p> Header<'p> {
    fn read(package: &'p [u8], span: &Span) -> Result<Self, RpmError> {
        let truncated = RpmError::Truncated { needed: span.end };
        let index = package.get(span.index_at..span.data_at);
        let data = package.get(span.data_at..span.end);
        let (Some(index), Some(data)) = (index, data) else {
            return Err(truncated);
        };
        let mut header = Self {
            data,
            ..Self::default()
        };
        let mut reader = Reader::new("RPM header", index);
        for _ in 0..span.tags {
            let tag = reader.u32_be("tag")?;
            let kind = reader.u32_be("type")?;
            let at = reader.u32_be("offset")?;
            let count = reader.u32_be("count")?;
            let value = Tag {
                kind,
                at: usize::try_from(at).unwrap_or(usize::MAX),
                count: usize::try_from(count).unwrap_or(usize::MAX),
            };
            let place = match tag {
                TAG_FILE_MODES => &mut header.modes,
                TAG_FILE_DIGESTS => &mut header.digests,
                TAG_DIR_INDEXES => &mut header.dir_indexes,
                TAG_BASE_NAMES => &mut header.base_names,
                TAG_DIR_NAMES => &mut header.dir_names,
                TAG_FILE_DIGEST_ALGO => &mut header.algorithm,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(RpmError::Tag { tag });
            }
        }
        Ok(header)
    }

    fn files(&self) -> Result<Vec<PackagedFile>, RpmError> {
        let names = self.strings(TAG_BASE_NAMES, self.base_names)?;
        // A package may have no files at all.
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let directories = self.strings(TAG_DIR_NAMES, self.dir_names)?;
        let indexes = self.numbers::<4>(TAG_DIR_INDEXES, self.dir_indexes, TYPE_INT32)?;
        let modes = self.numbers::<2>(TAG_FILE_MODES, self.modes, TYPE_INT16)?;
        let digests = self.strings(TAG_FILE_DIGESTS, self.digests)?;
        for (tag, found) in [
            (TAG_DIR_INDEXES, indexes.len()),
            (TAG_FILE_MODES, modes.len()),
            (TAG_FILE_DIGESTS, digests.len()),
        ] {
            if found != names.len() {
                return Err(RpmError::Tag { tag });
            }
        }
        let mut files = Vec::new();
        let mut path_bytes = 0_usize;
        let of_files = names.iter().zip(indexes).zip(modes.iter().zip(digests));
        for (file, ((name, index), (mode, digest))) in of_files.enumerate() {
            let index = usize::try_from(u32::from_be_bytes(*index)).unwrap_or(usize::MAX);
            let tag = TAG_DIR_INDEXES;
            let directory = directories.get(index).ok_or(RpmError::Tag { tag })?;
            let regular = u16::from_be_bytes(*mode) & MODE_TYPE_MASK == MODE_REGULAR;
            let zeros = digest.iter().all(|byte| *byte == b'0');
            if !regular || zeros {
                continue;
            }
            // Many files may share a folder with a long name: their paths together are bounded.
            let length = directory.len().saturating_add(name.len());
            path_bytes = path_bytes.saturating_add(length);
            if path_bytes > RPM_HEADER_BYTES_MAX {
                let (limit, max) = ("RPM_HEADER_BYTES_MAX", RPM_HEADER_BYTES_MAX);
                return Err(RpmError::Limit { limit, max });
            }
            if length > IMA_NAME_BYTES_MAX {
                return Err(RpmError::Name { file });
            }
            let path = [*directory, *name].concat();
            let mut parts = path.split(|byte| *byte == b'/');
            if parts.next() != Some(b"") || parts.any(|part| part == b"..") {
                return Err(RpmError::Name { file });
            }
            let alg = self.algorithm()?;
            let digest = Digest::from_hex(alg, digest);
            let digest = digest.ok_or(RpmError::Digest { file, alg })?;
            files.push(PackagedFile { path, digest });
        }
        Ok(files)
    }

    /// The algorithm of the digests; MD5 where the package does not say.
    fn algorithm(&self) -> Result<HashAlg, RpmError> {
        let tag = TAG_FILE_DIGEST_ALGO;
        let ids = self.numbers::<4>(tag, self.algorithm, TYPE_INT32)?;
        let id = match ids {
            [] => 1,
            [id] => u32::from_be_bytes(*id),
            _ => return Err(RpmError::Tag { tag }),
        };
        // RFC 9580, 9.5.
        match id {
            2 => Ok(HashAlg::Sha1),
            8 => Ok(HashAlg::Sha256),
            9 => Ok(HashAlg::Sha384),
            10 => Ok(HashAlg::Sha512),
            id => Err(RpmError::Algorithm { id }),
        }
    }

    fn values(&self, tag: u32, value: Tag, kind: u32) -> Result<&'p [u8], RpmError> {
        if value.kind != kind {
            return Err(RpmError::Tag { tag });
        }
        if value.count > RPM_FILES_MAX {
            let (limit, max) = ("RPM_FILES_MAX", RPM_FILES_MAX);
            return Err(RpmError::Limit { limit, max });
        }
        self.data.get(value.at..).ok_or(RpmError::Tag { tag })
    }

    fn numbers<const BYTES: usize>(
        &self,
        tag: u32,
        value: Option<Tag>,
        kind: u32,
    ) -> Result<&'p [[u8; BYTES]], RpmError> {
        let Some(value) = value else {
            return Ok(&[]);
        };
        let (numbers, _) = self.values(tag, value, kind)?.as_chunks::<BYTES>();
        numbers.get(..value.count).ok_or(RpmError::Tag { tag })
    }

    fn strings(&self, tag: u32, value: Option<Tag>) -> Result<Vec<&'p [u8]>, RpmError> {
        let Some(value) = value else {
            return Ok(Vec::new());
        };
        let mut rest = self.values(tag, value, TYPE_STRING_ARRAY)?;
        let mut strings = Vec::new();
        for _ in 0..value.count {
            let end = memchr::memchr(0, rest).ok_or(RpmError::Tag { tag })?;
            let (string, after) = rest.split_at(end);
            strings.push(string);
            rest = after.get(1..).unwrap_or_default();
        }
        Ok(strings)
    }
}
