//! Measurement lists read for what they say, without a quote to hold them against.

use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use rat_engine::ima::{DecodeError, Decoder, Entry, LogFormat};

use crate::input::{Input, InputError};

/// Bytes of a list that are held at a time.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// How reading a list went.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The form of the list.
    pub(crate) format: LogFormat,
    /// Entries read.
    pub(crate) entries: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// Why reading stopped before the end.
    pub(crate) fault: Option<DecodeError>,
}

/// Hands each entry to `sink`, with its position from 0, in constant memory.
pub(crate) fn stream(
    log: &mut Input<'_>,
    log_hash: HashAlg,
    sink: &mut impl FnMut(u64, &Entry<'_>),
) -> Result<Reading, InputError> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut filled = log.read_piece(&mut buffer)?;
    let format = LogFormat::detect(&buffer);
    let mut decoder = Decoder::new(format, log_hash, u64::MAX);
    let mut position = 0_u64;
    let mut counted = |entry: Entry<'_>| {
        sink(position, &entry);
        position = position.saturating_add(1);
    };
    let fault = loop {
        if filled == 0 {
            break decoder.finish(&mut counted).err();
        }
        let piece = buffer.get(..filled).unwrap_or(&buffer);
        if let Err(fault) = decoder.feed(piece, &mut counted) {
            break Some(fault);
        }
        filled = log.read_piece(&mut buffer)?;
    };
    Ok(Reading {
        format,
        entries: decoder.entries(),
        bytes: decoder.offset_bytes(),
        fault,
    })
}

/// Whether the template hash that the list shows is the hash of the entry's data. A violation
/// shows none.
pub(crate) fn hash_fits(entry: &Entry<'_>, log_hash: HashAlg) -> bool {
    entry.is_violation() || digest(log_hash, entry.data).as_bytes() == entry.template_hash
}
