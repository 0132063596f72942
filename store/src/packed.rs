//! Records as bytes: a version, an encoding, a checksum, and the record in postcard.
//!
//! SQLite does not check what it reads. The checksum finds bits that rotted, so that one damaged
//! row is one unreadable agent and never another state that happens to decode. (S06) Against
//! somebody who can write to the database it does nothing: that is what the hash chain is for.

use std::cell::RefCell;

use rat_engine::agent_id::AgentId;
use rat_engine::crypto;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::shard::{AgentRecord, AgentState, Failure, KeptEvidence, Outcome, VerdictKind};
use rat_engine::verdict::Code;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::error::StoreError;
use crate::keylime_agents::KeylimeFacts;
use crate::limits;

/// The version that is written. Readers know this one and those before.
const VERSION: u8 = 5;
const VERSION_MIN: u8 = 1;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
const CHECK_BYTES: usize = 8;
/// Length, version, encoding and checksum before a record of a tick.
const PART_HEAD_BYTES: usize = 14;
const ZSTD_LEVEL: i32 = 1;
/// Shorter ticks fit into one page of the database anyway. Above, compression pays: of 1,000
/// outcomes it leaves a quarter of the bytes, for a tenth of what writing them costs.
const ZSTD_TICK_FROM_BYTES: usize = 4096;
/// Shorter content never gets smaller by more than a frame's header costs.
const ZSTD_FROM_BYTES: usize = 256;

/// What is wrong with stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// They end too early.
    #[error("it is cut short")]
    Short,
    /// A version that this program does not know.
    #[error("its version {0} is unknown")]
    Version(u8),
    /// An encoding that this program does not know.
    #[error("its encoding {0} is unknown")]
    Encoding(u8),
    /// The checksum is of other bytes.
    #[error("its checksum is wrong")]
    Checksum,
    /// What they hold is no such record.
    #[error("its content is no such record")]
    Content,
    /// A newer tick of this agent could not be read.
    #[error("tick {seq} could not be read")]
    NewerTick {
        /// The tick.
        seq: u64,
    },
}

fn checksum(version: u8, encoding: u8, body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = crypto::Hasher::new(HashAlg::Sha256);
    hasher.update(&[version, encoding]);
    hasher.update(body);
    let digest = hasher.finish();
    // SHA-256 has 32 bytes; the zeros are never reached.
    *digest.as_bytes().first_chunk().unwrap_or(&[0; CHECK_BYTES])
}

thread_local! {
    /// What compressing takes, made once: it is half a megabyte, and most of what is compressed is
    /// short.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

fn compress(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        };
        compressor.compress(raw)
    })
}

fn framed(encoding: u8, body: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(body.len().saturating_add(CHECK_BYTES).saturating_add(2));
    packed.extend([VERSION, encoding]);
    packed.extend(checksum(VERSION, encoding, body));
    packed.extend_from_slice(body);
    packed
}

/// These bytes, compressed when that makes them smaller.
pub(crate) fn pack_bytes(raw: &[u8]) -> Vec<u8> {
    if raw.len() >= ZSTD_FROM_BYTES
        && let Ok(small) = compress(raw)
        && small.len() < raw.len()
    {
        return framed(ZSTD, &small);
    }
    framed(PLAIN, raw)
}

/// The bytes that were packed, at most `bytes_max` of them.
pub(crate) fn unpack_bytes(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, Fault> {
    let Checked { encoding, body, .. } = checked(packed)?;
    match encoding {
        PLAIN if body.len() <= bytes_max => Ok(body.to_vec()),
        ZSTD => zstd::bulk::decompress(body, bytes_max).map_err(|_| Fault::Content),
        PLAIN => Err(Fault::Content),
        other => Err(Fault::Encoding(other)),
    }
}

/// What was packed, as it was written.
struct Checked<'p> {
    version: u8,
    encoding: u8,
    body: &'p [u8],
}

fn checked(packed: &[u8]) -> Result<Checked<'_>, Fault> {
    let (&[version, encoding], rest) = packed.split_first_chunk().ok_or(Fault::Short)?;
    if !matches!(version, VERSION_MIN..=VERSION) {
        return Err(Fault::Version(version));
    }
    let (check, body) = rest
        .split_first_chunk::<CHECK_BYTES>()
        .ok_or(Fault::Short)?;
    if *check == checksum(version, encoding, body) {
        Ok(Checked {
            version,
            encoding,
            body,
        })
    } else {
        Err(Fault::Checksum)
    }
}

/// A small record.
pub(crate) fn pack<T: Stored>(record: &T) -> Result<Vec<u8>, StoreError> {
    let body = postcard::to_stdvec(record).map_err(|_| StoreError::Pack)?;
    Ok(framed(PLAIN, &body))
}

/// A large record, compressed when that pays.
pub(crate) fn pack_compressed<T: Stored>(record: &T) -> Result<Vec<u8>, StoreError> {
    let body = postcard::to_stdvec(record).map_err(|_| StoreError::Pack)?;
    Ok(pack_bytes(&body))
}

/// Something that is stored, and read again by this version and those that follow.
pub(crate) trait Stored: Serialize + DeserializeOwned {
    /// The record that this version wrote, none newer than [`VERSION`]: the same fields, unless
    /// this says otherwise.
    fn of_version(_version: u8, body: &[u8]) -> Option<Self> {
        exactly(body)
    }
}

impl Stored for AgentRecord {}
impl Stored for KeptEvidence {}
impl Stored for KeylimeFacts {}
impl Stored for Facts {}
impl<T: Stored> Stored for Vec<T> {}

impl Stored for Failure {
    fn of_version(version: u8, body: &[u8]) -> Option<Self> {
        let before: version_2::Failure = match version {
            1 => exactly::<version_1::Failure>(body)?.into(),
            2 => exactly(body)?,
            _ => return exactly(body),
        };
        Some(before.into())
    }
}

impl Stored for AgentState {
    fn of_version(version: u8, body: &[u8]) -> Option<Self> {
        let before: version_2::State = match version {
            1 => exactly::<version_1::State>(body)?.into(),
            2 => exactly(body)?,
            3 => return Some(exactly::<version_3::State>(body)?.into()),
            4 => return Some(exactly::<version_4::State>(body)?.into()),
            _ => return exactly(body),
        };
        Some(before.into())
    }
}

/// The value whose encoding is all of this.
fn exactly<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

/// The record that was packed.
pub(crate) fn unpack<T: Stored>(packed: &[u8]) -> Result<T, Fault> {
    let decompressed;
    let packed = checked(packed)?;
    let body = match packed.encoding {
        PLAIN => packed.body,
        ZSTD => {
            decompressed = zstd::bulk::decompress(packed.body, limits::RECORD_BYTES_MAX)
                .map_err(|_| Fault::Content)?;
            &decompressed
        }
        other => return Err(Fault::Encoding(other)),
    };
    T::of_version(packed.version, body).ok_or(Fault::Content)
}

/// What the hash chain says of one outcome: everything that [`ChainHash::after`] hashes.
///
/// [`ChainHash::after`]: rat_engine::shard::ChainHash::after
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) agent: AgentId,
    pub(crate) at_unix_ms: u64,
    pub(crate) verdict: VerdictKind,
    pub(crate) code: Option<Code>,
    pub(crate) policy: Option<Digest>,
    pub(crate) evidence_sha256: [u8; 32],
}

/// The same of an outcome, where it stands: packed it is [`Facts`].
#[derive(Serialize)]
struct FactsOf<'o> {
    agent: &'o AgentId,
    at_unix_ms: u64,
    verdict: VerdictKind,
    code: Option<Code>,
    policy: Option<Digest>,
    evidence_sha256: [u8; 32],
}

impl<'o> FactsOf<'o> {
    const fn new(outcome: &'o Outcome) -> Self {
        Self {
            agent: &outcome.agent,
            at_unix_ms: outcome.at_unix_ms,
            verdict: outcome.verdict,
            code: outcome.code,
            policy: outcome.policy,
            evidence_sha256: outcome.evidence_sha256,
        }
    }
}

impl Facts {
    /// An outcome of which nothing but these facts is known: what the chain's hash takes.
    pub(crate) fn into_outcome(self) -> Outcome {
        Outcome {
            agent: self.agent,
            at_unix_ms: self.at_unix_ms,
            verdict: self.verdict,
            code: self.code,
            policy: self.policy,
            evidence_sha256: self.evidence_sha256,
            state: Default::default(),
            kept: Vec::new(),
            log: None,
        }
    }
}

/// One outcome of a packed tick. The state stays packed: the folder moves it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackedOutcome {
    pub(crate) facts: Facts,
    pub(crate) state: Vec<u8>,
}

/// The outcomes of one tick: for each, length and facts, length and state, both packed; all of it
/// compressed when it is long.
///
/// Kept evidence and log entries have rows of their own.
pub(crate) fn pack_outcomes(outcomes: &[Outcome]) -> Result<Vec<u8>, StoreError> {
    let mut packed = vec![VERSION, PLAIN];
    for outcome in outcomes {
        packed = with_part(packed, &FactsOf::new(outcome))?;
        packed = with_part(packed, &outcome.state)?;
    }
    limits::check("bytes of one tick", packed.len(), limits::TICK_BYTES_MAX)?;
    if packed.len() >= ZSTD_TICK_FROM_BYTES
        && let Some((_, parts)) = packed.split_first_chunk::<2>()
        && let Ok(small) = compress(parts)
    {
        return Ok(framed(ZSTD, &small));
    }
    Ok(packed)
}

/// These bytes, and after them the length of a record and the record as [`pack`] packs it.
fn with_part(mut packed: Vec<u8>, record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let at = packed.len();
    packed.extend([0; PART_HEAD_BYTES]);
    let mut packed = postcard::to_extend(record, packed).map_err(|_| StoreError::Pack)?;
    let part = packed.get_mut(at..).ok_or(StoreError::Pack)?;
    let (head, body) = part
        .split_first_chunk_mut::<PART_HEAD_BYTES>()
        .ok_or(StoreError::Pack)?;
    let length = PART_HEAD_BYTES
        .saturating_sub(size_of::<u32>())
        .saturating_add(body.len());
    let length = u32::try_from(length).map_err(|_| StoreError::Pack)?;
    let [l0, l1, l2, l3] = length.to_le_bytes();
    let [c0, c1, c2, c3, c4, c5, c6, c7] = checksum(VERSION, PLAIN, body);
    *head = [
        l0, l1, l2, l3, VERSION, PLAIN, c0, c1, c2, c3, c4, c5, c6, c7,
    ];
    Ok(packed)
}

/// The outcomes of one tick, as far as they can be read: after a fault nothing more is read,
/// because facts that are damaged do not say whose they are.
pub(crate) fn unpack_outcomes(packed: &[u8]) -> (Vec<PackedOutcome>, Option<Fault>) {
    let mut outcomes = Vec::new();
    let decompressed;
    let mut rest = match packed {
        // Each part has a checksum of its own.
        [VERSION_MIN..=VERSION, PLAIN, parts @ ..] => parts,
        _ => match unpack_bytes(packed, limits::TICK_BYTES_MAX) {
            Ok(parts) => {
                decompressed = parts;
                decompressed.as_slice()
            }
            Err(fault) => return (outcomes, Some(fault)),
        },
    };
    while !rest.is_empty() {
        match next_outcome(&mut rest) {
            Ok(outcome) => outcomes.push(outcome),
            Err(fault) => return (outcomes, Some(fault)),
        }
    }
    (outcomes, None)
}

fn next_outcome(rest: &mut &[u8]) -> Result<PackedOutcome, Fault> {
    let facts = unpack(next_part(rest)?)?;
    let state = next_part(rest)?.to_vec();
    Ok(PackedOutcome { facts, state })
}

fn next_part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let (length, after) = rest.split_first_chunk().ok_or(Fault::Short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Fault::Short)?;
    let (part, after) = after.split_at_checked(length).ok_or(Fault::Short)?;
    *rest = after;
    Ok(part)
}

mod version_1;
mod version_2;
mod version_3;
mod version_4;

#[cfg(test)]
mod tests;
