//! Measurement lists: chunks by content, shared by the fleet, and a short tail for each list.
//!
//! What an attestation adds to a list is a few hundred bytes, so it goes to the list's *tail*;
//! when that holds a chunk's worth it becomes chunks. Long lists arrive in pieces while they are
//! judged; each piece is a chunk from the start, and the commit only names them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rat_engine::agent_id::AgentId;
use rat_engine::crypto;
use rat_engine::evidence::ChallengeId;
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::shard::{KeptLog, Outcome};
use sqlx::Row;

use crate::Store;
use crate::database::{Connection, count, natural, number, time};
use crate::error::{RowName, StoreError};
use crate::limits::{self, CHUNK_BYTES};
use crate::packed::{self, Fault};
use crate::rows::{Statement, slices};

/// The name under which the bytes of all agents are counted: no agent has it.
const ALL_AGENTS: &str = "";

/// A piece of a list that is being judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPiece<'a> {
    /// Whose list it is.
    pub agent: &'a AgentId,
    /// The challenge that the list answers.
    pub upload: ChallengeId,
    /// Its place; the first is 0.
    pub piece: u64,
    /// Its bytes; not empty.
    pub bytes: &'a [u8],
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// It is kept.
    Kept,
    /// Its agent has staged as much as one may
    /// ([`STAGED_AGENT_BYTES_MAX`](limits::STAGED_AGENT_BYTES_MAX)).
    AgentFull,
    /// As much as may be is staged in all ([`STAGED_BYTES_MAX`](limits::STAGED_BYTES_MAX)).
    Full,
}

/// What a log of an agent is, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogHead {
    pub(crate) id: i64,
    format: LogFormat,
    to_entry: u64,
    pub(crate) raw_bytes: u64,
    chunked_bytes: u64,
    pub(crate) gap_at_entry: Option<u64>,
}

pub(crate) const fn format_text(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Ascii => "ascii",
        LogFormat::Binary => "binary",
    }
}

pub(crate) fn format_from_text(text: &str) -> Result<LogFormat, Fault> {
    [LogFormat::Ascii, LogFormat::Binary]
        .into_iter()
        .find(|format| format_text(*format) == text)
        .ok_or(Fault::Content)
}

/// New entries, packed before the transaction begins.
pub(crate) struct NewEntries<'a> {
    log: &'a KeptLog,
    /// The whole bytes, packed; `None` when they are staged.
    packed: Option<Vec<u8>>,
}

impl<'a> NewEntries<'a> {
    pub(crate) fn new(log: &'a KeptLog) -> Self {
        Self {
            log,
            packed: log.whole.as_deref().map(packed::pack_bytes),
        }
    }
}

impl Store {
    /// Keeps pieces of lists that are being judged, all in one transaction, until the commit
    /// that names their challenge or until retention drops them. Says of each what became of it:
    /// an agent that has staged too much does not keep others from it.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for a piece that is empty, too long or too far, before anything
    /// is kept. A piece that is staged already is replaced.
    pub async fn stage_log(
        &self,
        pieces: &[LogPiece<'_>],
        now_unix_ms: u64,
    ) -> Result<Vec<Staged>, StoreError> {
        let mut chunks = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let bytes = piece.bytes.len();
            limits::check("bytes of a staged piece", bytes, CHUNK_BYTES)?;
            if bytes == 0 || piece.piece >= limits::STAGED_PIECES_MAX {
                return Err(StoreError::TooLarge {
                    name: "pieces of a staged list",
                    found: piece.piece,
                    max: limits::STAGED_PIECES_MAX,
                });
            }
            chunks.push(Chunk::new(piece.bytes));
        }
        let mut tx = self.pools().write().await?;
        let results = rooms_for(&mut tx, pieces).await?;
        let mut kept = BTreeMap::new();
        for ((piece, chunk), room) in pieces.iter().zip(&chunks).zip(&results) {
            if *room == Staged::Kept {
                // A piece that comes twice is replaced, like one that is staged already.
                kept.insert((piece.upload.0, piece.piece), (piece, chunk));
            }
        }
        let kept: Vec<_> = kept.into_values().collect();
        insert_chunks(&mut tx, &kept).await?;
        drop_staged(&mut tx, &kept).await?;
        insert_staged(&mut tx, &kept, now_unix_ms).await?;
        tx.commit().await?;
        Ok(results)
    }
}

type ChunkedPiece<'a> = (&'a LogPiece<'a>, &'a Chunk);

async fn insert_chunks(tx: &mut Connection, pieces: &[ChunkedPiece<'_>]) -> Result<(), StoreError> {
    const INSERT: Statement = Statement {
        before: "INSERT INTO chunk (digest, raw_bytes, packed) SELECT * FROM (VALUES ",
        columns: 3,
        after: ") v WHERE v.column1 IS NOT NULL ON CONFLICT (digest) DO NOTHING",
    };
    for slice in slices(pieces) {
        let query = INSERT.about(slice, |row, (_, chunk)| {
            let row = row
                .bind(&chunk.digest[..])
                .bind(count(chunk.raw_bytes)?)
                .bind(&chunk.packed[..]);
            Ok::<_, StoreError>(row)
        })?;
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Drops what is staged already in the place of these pieces: nearly always there is nothing. The
/// trigger notes that their chunks lost a reference.
async fn drop_staged(tx: &mut Connection, pieces: &[ChunkedPiece<'_>]) -> Result<(), StoreError> {
    const SELECT: Statement = Statement {
        before: "SELECT s.upload, s.piece FROM (VALUES ",
        columns: 2,
        after: ") v JOIN staged s ON s.upload = v.column1 AND s.piece = v.column2",
    };
    for slice in slices(pieces) {
        let query = SELECT.about(slice, |row, (piece, _)| {
            let row = row.bind(&piece.upload.0[..]).bind(number(piece.piece)?);
            Ok::<_, StoreError>(row)
        })?;
        for row in query.fetch_all(&mut *tx).await? {
            sqlx::query("DELETE FROM staged WHERE upload = $1 AND piece = $2")
                .bind(row.try_get::<Vec<u8>, _>(0)?)
                .bind(row.try_get::<i64, _>(1)?)
                .execute(&mut *tx)
                .await?;
        }
    }
    Ok(())
}

async fn insert_staged(
    tx: &mut Connection,
    pieces: &[ChunkedPiece<'_>],
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    const INSERT: Statement = Statement {
        before: "INSERT INTO staged (upload, piece, agent, raw_bytes, digest, at_unix_ms)
            SELECT * FROM (VALUES ",
        columns: 6,
        after: ") v WHERE v.column1 IS NOT NULL",
    };
    for slice in slices(pieces) {
        let query = INSERT.about(slice, |row, (piece, chunk)| {
            let row = row
                .bind(&piece.upload.0[..])
                .bind(number(piece.piece)?)
                .bind(piece.agent.as_str())
                .bind(count(chunk.raw_bytes)?)
                .bind(&chunk.digest[..])
                .bind(number(now_unix_ms)?);
            Ok::<_, StoreError>(row)
        })?;
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Of each piece, whether both its agent and the store have room for it, after those before it.
async fn rooms_for(
    tx: &mut Connection,
    pieces: &[LogPiece<'_>],
) -> Result<Vec<Staged>, StoreError> {
    const SELECT: Statement = Statement {
        before: "SELECT agent, raw_bytes FROM staged_use WHERE agent IN (VALUES ",
        columns: 1,
        after: ")",
    };
    let names: BTreeSet<&str> = pieces.iter().map(|piece| piece.agent.as_str()).collect();
    let names: Vec<&str> = names.into_iter().chain([ALL_AGENTS]).collect();
    let mut used = HashMap::with_capacity(names.len());
    for slice in slices(&names) {
        let query = SELECT.about(slice, |row, name| Ok::<_, StoreError>(row.bind(*name)))?;
        for row in query.fetch_all(&mut *tx).await? {
            let bytes = u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0);
            used.insert(row.try_get::<String, _>(0)?, bytes);
        }
    }
    let mut rooms = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let length = u64::try_from(piece.bytes.len()).unwrap_or(u64::MAX);
        let with_it = |name: &str| {
            let used = used.get(name).copied().unwrap_or(0);
            used.saturating_add(length)
        };
        let of_agent = with_it(piece.agent.as_str());
        let of_all = with_it(ALL_AGENTS);
        rooms.push(if of_agent > limits::STAGED_AGENT_BYTES_MAX {
            Staged::AgentFull
        } else if of_all > limits::STAGED_BYTES_MAX {
            Staged::Full
        } else {
            used.insert(piece.agent.as_str().to_owned(), of_agent);
            used.insert(ALL_AGENTS.to_owned(), of_all);
            Staged::Kept
        });
    }
    Ok(rooms)
}

struct Chunk {
    digest: Vec<u8>,
    raw_bytes: usize,
    packed: Vec<u8>,
}

impl Chunk {
    fn new(raw: &[u8]) -> Self {
        Self {
            digest: digest(raw),
            raw_bytes: raw.len(),
            packed: packed::pack_bytes(raw),
        }
    }

    async fn insert(&self, tx: &mut Connection) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO chunk (digest, raw_bytes, packed) VALUES ($1, $2, $3)
             ON CONFLICT (digest) DO NOTHING",
        )
        .bind(&self.digest[..])
        .bind(count(self.raw_bytes)?)
        .bind(&self.packed[..])
        .execute(tx)
        .await?;
        Ok(())
    }
}

fn digest(raw: &[u8]) -> Vec<u8> {
    crypto::digest(HashAlg::Sha256, raw).as_bytes().to_vec()
}

/// The bytes of a chunk, checked against the digest that names it.
pub(crate) fn read_chunk(named: &[u8], bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    let raw =
        packed::unpack_bytes(bytes, CHUNK_BYTES).and_then(|raw| match digest(&raw) == named {
            true => Ok(raw),
            false => Err(Fault::Checksum),
        });
    raw.map_err(|fault| StoreError::unreadable(RowName::Chunk, fault))
}

/// The list that an agent's newest entries belong to.
pub(crate) async fn newest(
    tx: &mut Connection,
    agent: &AgentId,
) -> Result<Option<LogHead>, StoreError> {
    let row = sqlx::query(
        "SELECT id, format, to_entry, raw_bytes, chunked_bytes, gap_at_entry FROM log
         WHERE shard = $1 AND agent = $2 AND is_newest = 1",
    )
    .bind(i64::from(agent.shard().get()))
    .bind(agent.as_str())
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let id: i64 = row.try_get(0)?;
    let unreadable = |fault| StoreError::unreadable(RowName::Log(id), fault);
    let gap: Option<i64> = row.try_get(5)?;
    Ok(Some(LogHead {
        id,
        format: format_from_text(row.try_get(1)?).map_err(unreadable)?,
        to_entry: natural(row.try_get(2)?).map_err(unreadable)?,
        raw_bytes: natural(row.try_get(3)?).map_err(unreadable)?,
        chunked_bytes: natural(row.try_get(4)?).map_err(unreadable)?,
        gap_at_entry: gap.map(natural).transpose().map_err(unreadable)?,
    }))
}

/// Adds the entries of an outcome to its agent's list, or begins a new one.
///
/// Entries that do not continue the list, or whose staged pieces are gone, are left out, and the
/// list notes from which entry on it lacks some: a verdict never waits for its list.
pub(crate) async fn append(
    tx: &mut Connection,
    outcome: &Outcome,
    entries: &NewEntries<'_>,
) -> Result<(), StoreError> {
    let log = entries.log;
    let older = match log.from_entry {
        // What was before does not matter, and may be damaged. (S06)
        0 => None,
        _ => newest(tx, &outcome.agent).await?,
    };
    let mut head = match older {
        Some(head) => head,
        None => begin(tx, outcome, log.format).await?,
    };
    let continues = head.gap_at_entry.is_none()
        && head.to_entry == log.from_entry
        && head.format == log.format
        && log.to_entry >= log.from_entry;
    let added = match (&entries.packed, &log.whole) {
        _ if !continues => false,
        (Some(packed), Some(whole)) => {
            let length = count(whole.len())?;
            if length > 0 {
                insert_tail(tx, head.id, head.raw_bytes, length, packed).await?;
            }
            head.raw_bytes = grown(head.raw_bytes, length)?;
            natural(length).ok() == Some(log.length)
        }
        _ => adopt_staged(tx, &mut head, log).await?,
    };
    if log.whole.is_none() {
        sqlx::query("DELETE FROM staged WHERE upload = $1")
            .bind(&log.upload.0[..])
            .execute(&mut *tx)
            .await?;
    }
    if added {
        head.to_entry = log.to_entry;
    } else {
        head.gap_at_entry = head.gap_at_entry.or(Some(head.to_entry));
    }
    compact(tx, &mut head, CHUNK_BYTES).await?;
    write_head(tx, &head).await
}

/// Notes that an agent's list lacks the entries of an outcome, and all that follow.
pub(crate) async fn note_gap(tx: &mut Connection, outcome: &Outcome) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE log SET gap_at_entry = coalesce(gap_at_entry, to_entry)
         WHERE shard = $1 AND agent = $2 AND is_newest = 1",
    )
    .bind(i64::from(outcome.agent.shard().get()))
    .bind(outcome.agent.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

fn grown(length: u64, by: i64) -> Result<u64, StoreError> {
    let by = u64::try_from(by).map_err(|_| StoreError::Number(length))?;
    length.checked_add(by).ok_or(StoreError::Number(length))
}

async fn begin(
    tx: &mut Connection,
    outcome: &Outcome,
    format: LogFormat,
) -> Result<LogHead, StoreError> {
    sqlx::query("UPDATE log SET is_newest = 0 WHERE shard = $1 AND agent = $2 AND is_newest = 1")
        .bind(i64::from(outcome.agent.shard().get()))
        .bind(outcome.agent.as_str())
        .execute(&mut *tx)
        .await?;
    let boot = outcome.state.boot;
    let id = sqlx::query_scalar(
        "INSERT INTO log (shard, agent, is_newest, needs_trim, format, reset_count, restart_count,
                          began_unix_ms, to_entry, raw_bytes, chunked_bytes)
         VALUES ($1, $2, 1, 1, $3, $4, $5, $6, 0, 0, 0) RETURNING id",
    )
    .bind(i64::from(outcome.agent.shard().get()))
    .bind(outcome.agent.as_str())
    .bind(format_text(format))
    .bind(boot.map(|boot| i64::from(boot.reset_count)))
    .bind(boot.map(|boot| i64::from(boot.restart_count)))
    .bind(time(outcome.at_unix_ms))
    .fetch_one(tx)
    .await?;
    Ok(LogHead {
        id,
        format,
        to_entry: 0,
        raw_bytes: 0,
        chunked_bytes: 0,
        gap_at_entry: None,
    })
}

async fn write_head(tx: &mut Connection, head: &LogHead) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE log SET to_entry = $2, raw_bytes = $3, chunked_bytes = $4, gap_at_entry = $5
         WHERE id = $1",
    )
    .bind(head.id)
    .bind(number(head.to_entry)?)
    .bind(number(head.raw_bytes)?)
    .bind(number(head.chunked_bytes)?)
    .bind(head.gap_at_entry.map(number).transpose()?)
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_tail(
    tx: &mut Connection,
    log: i64,
    start: u64,
    raw_bytes: i64,
    packed: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO log_tail (log, start, raw_bytes, packed) VALUES ($1, $2, $3, $4)")
        .bind(log)
        .bind(number(start)?)
        .bind(raw_bytes)
        .bind(packed)
        .execute(tx)
        .await?;
    Ok(())
}

async fn insert_chunk(
    tx: &mut Connection,
    head: &mut LogHead,
    raw: &[u8],
) -> Result<(), StoreError> {
    let chunk = Chunk::new(raw);
    chunk.insert(tx).await?;
    sqlx::query("INSERT INTO log_chunk (log, start, digest) VALUES ($1, $2, $3)")
        .bind(head.id)
        .bind(number(head.chunked_bytes)?)
        .bind(chunk.digest)
        .execute(tx)
        .await?;
    head.chunked_bytes = grown(head.chunked_bytes, count(raw.len())?)?;
    Ok(())
}

/// Makes chunks of the tail when it has at least `from_bytes`; what is left of it, less than a
/// chunk, is the tail again.
async fn compact(
    tx: &mut Connection,
    head: &mut LogHead,
    from_bytes: usize,
) -> Result<(), StoreError> {
    let tail_bytes = head.raw_bytes.saturating_sub(head.chunked_bytes);
    if tail_bytes == 0 || tail_bytes < u64::try_from(from_bytes).unwrap_or(u64::MAX) {
        return Ok(());
    }
    let rows: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT packed FROM log_tail WHERE log = $1 ORDER BY start")
            .bind(head.id)
            .fetch_all(&mut *tx)
            .await?;
    let mut raw = Vec::new();
    for row in rows {
        let piece = packed::unpack_bytes(&row, limits::RECORD_BYTES_MAX)
            .map_err(|fault| StoreError::unreadable(RowName::Log(head.id), fault))?;
        raw.extend(piece);
    }
    sqlx::query("DELETE FROM log_tail WHERE log = $1")
        .bind(head.id)
        .execute(&mut *tx)
        .await?;
    for piece in raw.chunks(CHUNK_BYTES) {
        // Everything becomes chunks when the tail must end here, so that pieces can follow.
        if piece.len() == CHUNK_BYTES || from_bytes < CHUNK_BYTES {
            insert_chunk(tx, head, piece).await?;
        } else {
            let start = head.chunked_bytes;
            let packed = packed::pack_bytes(piece);
            insert_tail(tx, head.id, start, count(piece.len())?, &packed).await?;
        }
    }
    Ok(())
}

/// Appends the staged pieces up to the length that was proven; false when some are missing.
async fn adopt_staged(
    tx: &mut Connection,
    head: &mut LogHead,
    log: &KeptLog,
) -> Result<bool, StoreError> {
    let rows = sqlx::query(
        "SELECT s.piece, s.raw_bytes, s.digest FROM staged s WHERE s.upload = $1 ORDER BY s.piece",
    )
    .bind(&log.upload.0[..])
    .fetch_all(&mut *tx)
    .await?;
    let proven = number(log.length)?;
    let (mut whole_pieces, mut bytes, mut cut) = (0_i64, 0_i64, None);
    for row in &rows {
        let (piece, length): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if piece != whole_pieces || bytes >= proven {
            break;
        }
        let after = bytes.saturating_add(length);
        if after > proven {
            cut = Some(row.try_get::<Vec<u8>, _>(2)?);
            break;
        }
        whole_pieces = whole_pieces.saturating_add(1);
        bytes = after;
    }
    if bytes < proven && cut.is_none() {
        return Ok(false);
    }
    // Chunks follow chunks: a tail before them becomes one.
    compact(tx, head, 1).await?;
    sqlx::query(
        "INSERT INTO log_chunk (log, start, digest)
         SELECT $1, $2 + sum(raw_bytes) OVER (ORDER BY piece) - raw_bytes, digest
         FROM staged WHERE upload = $3 AND piece < $4",
    )
    .bind(head.id)
    .bind(number(head.raw_bytes)?)
    .bind(&log.upload.0[..])
    .bind(whole_pieces)
    .execute(&mut *tx)
    .await?;
    head.raw_bytes = grown(head.raw_bytes, bytes)?;
    head.chunked_bytes = head.raw_bytes;
    if let Some(named) = cut {
        let packed: Vec<u8> = sqlx::query_scalar("SELECT packed FROM chunk WHERE digest = $1")
            .bind(&named)
            .fetch_one(&mut *tx)
            .await?;
        let raw = read_chunk(&named, &packed)?;
        let rest = proven.saturating_sub(bytes);
        let keep = usize::try_from(rest).unwrap_or(usize::MAX);
        let (proven_part, _) = raw
            .split_at_checked(keep)
            .ok_or_else(|| StoreError::unreadable(RowName::Chunk, Fault::Short))?;
        let packed = packed::pack_bytes(proven_part);
        insert_tail(tx, head.id, head.raw_bytes, rest, &packed).await?;
        head.raw_bytes = grown(head.raw_bytes, rest)?;
    }
    Ok(true)
}
