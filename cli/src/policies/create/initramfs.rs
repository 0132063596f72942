//! Images that a kernel unpacks at its start, as sources.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::policy::PolicyDraft;
use rat_engine::policy::sources::cpio::{Archives, CpioError, Fed};
use thiserror::Error;

use super::super::progress;
use super::sieve::Sieve;
use crate::input::{self, InputError};
use crate::output::name_text;

const OPTION: &str = "--from-initramfs";

/// How the names of images begin in a folder of them, as keylime-policy looks for them.
const IMAGE_PREFIX: &str = "initr";

/// Bytes of a stream that are decompressed at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Streams of one image: a few that boot loaders appended, besides its own.
const STREAMS_MAX: usize = 64;

/// The largest window of a stream. Kernels take no larger ones of zstd; xz -9 has 64 MiB.
const WINDOW_LOG_MAX: u32 = 27;
const XZ_MEMORY_KIB_MAX: u32 = 192 * 1024;

/// Why an image is refused.
#[derive(Debug, Error)]
enum ImageError {
    #[error("{0}")]
    Archive(#[from] CpioError),
    #[error("byte {at}: the {format} stream cannot be decompressed: {source}")]
    Stream {
        at: usize,
        format: &'static str,
        source: std::io::Error,
    },
    #[error("byte {at}: the {format} stream holds something else than archives")]
    Contents { at: usize, format: &'static str },
    #[error("byte {at}: {found}; uncompressed archives, gzip, zstd and xz are read")]
    Format { at: usize, found: &'static str },
    #[error("there is no archive in it")]
    Empty,
    #[error("more than {STREAMS_MAX} compressed streams")]
    Streams,
}

/// Lists the files of an image, or of each image in a folder.
pub(super) fn read(
    path: &Path,
    alg: HashAlg,
    draft: &mut PolicyDraft,
    sieve: &mut Sieve,
) -> Result<()> {
    let images = images(path)?;
    let length = u64::try_from(images.len()).unwrap_or(u64::MAX);
    let bar = progress::bar("initramfs", length);
    for image in images {
        let bytes = input::read(OPTION, &image, "INITRAMFS_BYTES_MAX")?;
        let fault = |error: &dyn std::fmt::Display| InputError::new(OPTION, &image, error);
        let files = unpack(&bytes, alg).map_err(|error| fault(&error))?;
        for (name, digest) in files {
            let listed = sieve.list(draft, &name, &digest);
            listed.map_err(|error| fault(&format_args!("{}: {error}", name_text(&name))))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn images(path: &Path) -> Result<Vec<PathBuf>, InputError> {
    let fault = |path: &Path, error: &dyn std::fmt::Display| InputError::new(OPTION, path, error);
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut images = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| fault(path, &error))? {
        let entry = entry.map_err(|error| fault(path, &error))?;
        let named = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(IMAGE_PREFIX));
        let kind = entry
            .file_type()
            .map_err(|error| fault(&entry.path(), &error))?;
        if named && kind.is_file() {
            images.push(entry.path());
        }
    }
    images.sort();
    match images.is_empty() {
        true => Err(fault(path, &"no file whose name begins with initr")),
        false => Ok(images),
    }
}

/// The files of an image, in memory for nothing but their digests.
fn unpack(image: &[u8], alg: HashAlg) -> Result<BTreeMap<Vec<u8>, Digest>, ImageError> {
    let mut archives = Archives::new(alg);
    let mut rest = image;
    let mut streams = 0_usize;
    loop {
        match archives.feed(rest)? {
            Fed::All => break,
            Fed::Foreign(taken) => rest = rest.get(taken..).unwrap_or_default(),
        }
        let at = image.len().saturating_sub(rest.len());
        streams = streams.saturating_add(1);
        if streams > STREAMS_MAX {
            return Err(ImageError::Streams);
        }
        rest = decompress(rest, at, &mut archives)?;
    }
    if archives.is_untouched() && streams == 0 {
        return Err(ImageError::Empty);
    }
    Ok(archives.finish()?)
}

/// Feeds what the stream at the front of `rest` decompresses to; returns what is behind it.
fn decompress<'i>(
    mut rest: &'i [u8],
    at: usize,
    archives: &mut Archives,
) -> Result<&'i [u8], ImageError> {
    match rest {
        [0x1f, 0x8b, ..] => {
            feed(&mut GzDecoder::new(&mut rest), "gzip", at, archives)?;
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let stream = |source| ImageError::Stream {
                at,
                format: "zstd",
                source,
            };
            let decoder = zstd::stream::read::Decoder::with_buffer(&mut rest);
            let mut decoder = decoder.map_err(stream)?.single_frame();
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(stream)?;
            feed(&mut decoder, "zstd", at, archives)?;
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let mut reader = XzReader::new_mem_limit(&mut rest, false, XZ_MEMORY_KIB_MAX);
            feed(&mut reader, "xz", at, archives)?;
        }
        other => {
            let found = match other {
                [b'B', b'Z', b'h', ..] => "a bzip2 stream",
                [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => "an lz4 stream",
                [0x89, b'L', b'Z', b'O', ..] => "an lzop stream",
                [0x5d, 0, 0, ..] => "an lzma stream",
                _ => "neither an archive nor a known stream",
            };
            return Err(ImageError::Format { at, found });
        }
    }
    Ok(rest)
}

fn feed(
    stream: &mut dyn Read,
    format: &'static str,
    at: usize,
    archives: &mut Archives,
) -> Result<(), ImageError> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = stream.read(&mut piece);
        let read = read.map_err(|source| ImageError::Stream { at, format, source })?;
        if read == 0 {
            break;
        }
        let fed = archives.feed(piece.get(..read).unwrap_or_default())?;
        if fed != Fed::All {
            return Err(ImageError::Contents { at, format });
        }
    }
    // A kernel unpacks each stream by itself.
    Ok(archives.check_between()?)
}
