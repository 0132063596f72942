//! Retention: what is dropped, after how long, in small steps.
//!
//! Each step looks only at rows that an index says are due, drops at most so many of them in a
//! transaction of its own, and leaves the rest for the next call.

use sqlx::Row;

use crate::Store;
use crate::database::{Connection, number};
use crate::error::StoreError;
use crate::limits;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// History of verdicts, which the hash chain is verified with.
    pub history_ms: u64,
    /// Evidence of earlier boots. What is of the newest list stays longer.
    pub evidence_ms: u64,
    /// Pieces of lists whose verdict never came.
    pub staged_ms: u64,
    /// The memory that an agent was removed, for verdicts that were on their way.
    pub removed_ms: u64,
    /// Rows that one step drops.
    pub rows_max: u32,
}

/// A week of history, a quarter of a year of evidence.
impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            history_ms: 7 * DAY_MS,
            evidence_ms: 90 * DAY_MS,
            staged_ms: 15 * MINUTE_MS,
            removed_ms: DAY_MS,
            rows_max: 256,
        }
    }
}

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// What one call dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Pieces of lists that were never committed.
    pub staged: u64,
    /// Pending activations that are over.
    pub pending: u64,
    /// Blocks of history.
    pub history: u64,
    /// Pieces of evidence.
    pub evidence: u64,
    /// Superseded lists that nothing needs, whole or their ends.
    pub logs: u64,
    /// Chunks that no list has.
    pub chunks: u64,
    /// Whether some step stopped at its limit.
    pub more: bool,
}

impl Dropped {
    fn note(count: &mut u64, more: &mut bool, rows: u64, rows_max: u32) {
        *count = count.saturating_add(rows);
        *more |= rows >= u64::from(rows_max);
    }
}

impl Store {
    /// Drops what is older than the policy keeps, at most `rows_max` rows of each kind. While
    /// [`Dropped::more`] is set, call again: what comes in must go out as fast.
    ///
    /// # Errors
    /// [`StoreError`]; what earlier steps dropped stays dropped.
    pub async fn retention(
        &self,
        now_unix_ms: u64,
        policy: &RetentionPolicy,
    ) -> Result<Dropped, StoreError> {
        let max = policy.rows_max.clamp(1, limits::RETENTION_ROWS_MAX);
        let before = |age_ms: u64| number(now_unix_ms.saturating_sub(age_ms));
        let mut dropped = Dropped::default();
        let more = &mut dropped.more;
        let staged = self
            .drop_rows(STAGED, before(policy.staged_ms)?, max)
            .await?;
        Dropped::note(&mut dropped.staged, more, staged, max);
        let pending = self.drop_rows(PENDING, before(0)?, max).await?;
        Dropped::note(&mut dropped.pending, more, pending, max);
        let removed = self
            .drop_rows(REMOVED, before(policy.removed_ms)?, max)
            .await?;
        *more |= removed >= u64::from(max);
        let history = self.drop_history(before(policy.history_ms)?, max).await?;
        Dropped::note(&mut dropped.history, more, history, max);
        let evidence = self.drop_evidence(before(policy.evidence_ms)?, max).await?;
        Dropped::note(&mut dropped.evidence, more, evidence, max);
        let logs = self.trim_logs(max).await?;
        Dropped::note(&mut dropped.logs, more, logs, max);
        let (looked_at, chunks) = self.drop_chunks(max).await?;
        dropped.chunks = chunks;
        *more |= looked_at >= u64::from(max);
        Ok(dropped)
    }

    async fn drop_rows(&self, sql: &'static str, before: i64, max: u32) -> Result<u64, StoreError> {
        let mut tx = self.pools().write().await?;
        let gone = sqlx::query(sql)
            .bind(before)
            .bind(max)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(gone.rows_affected())
    }

    /// Drops blocks from the beginning of chains, and moves the beginning after them.
    async fn drop_history(&self, before: i64, max: u32) -> Result<u64, StoreError> {
        let mut tx = self.pools().write().await?;
        let due = sqlx::query(
            "SELECT shard, from_seq, to_seq, after FROM history INDEXED BY history_by_age
             WHERE newest_unix_ms < $1 ORDER BY newest_unix_ms LIMIT $2",
        )
        .bind(before)
        .bind(max)
        .fetch_all(&mut *tx)
        .await?;
        let mut due: Vec<(i64, i64, i64, Vec<u8>)> = due
            .iter()
            .map(|row| {
                let (shard, from) = (row.try_get(0)?, row.try_get(1)?);
                Ok::<_, sqlx::Error>((shard, from, row.try_get(2)?, row.try_get(3)?))
            })
            .collect::<Result<_, _>>()?;
        due.sort_unstable();
        let mut dropped = 0_u64;
        for (shard, from_seq, to_seq, after) in due {
            // Only the first block of a chain may go, and only when nothing is missing before
            // it: a hole that somebody made must not become the chain's beginning.
            let moved = sqlx::query(
                "UPDATE shard SET kept_seq = $3, kept_head = $4
                 WHERE id = $1 AND kept_seq + 1 + (
                     SELECT count(*) FROM unreadable_tick u
                     WHERE u.shard = $1 AND u.seq > kept_seq AND u.seq < $2
                 ) = $2",
            )
            .bind(shard)
            .bind(from_seq)
            .bind(to_seq)
            .bind(after)
            .execute(&mut *tx)
            .await?;
            if moved.rows_affected() == 0 {
                continue;
            }
            for sql in [
                "DELETE FROM history WHERE shard = $1 AND from_seq <= $2",
                "DELETE FROM unreadable_tick WHERE shard = $1 AND seq <= $2",
            ] {
                sqlx::query(sql)
                    .bind(shard)
                    .bind(to_seq)
                    .execute(&mut *tx)
                    .await?;
            }
            dropped = dropped.saturating_add(1);
        }
        tx.commit().await?;
        Ok(dropped)
    }

    async fn drop_evidence(&self, before: i64, max: u32) -> Result<u64, StoreError> {
        const DUE: &str = "SELECT id, log FROM evidence INDEXED BY evidence_by_age
            WHERE is_of_newest = 0 AND at_unix_ms < $1 ORDER BY at_unix_ms LIMIT $2";
        let mut tx = self.pools().write().await?;
        let due: Vec<(i64, Option<i64>)> = sqlx::query_as(DUE)
            .bind(before)
            .bind(max)
            .fetch_all(&mut *tx)
            .await?;
        for (id, log) in &due {
            sqlx::query("DELETE FROM evidence WHERE id = $1")
                .bind(id)
                .execute(&mut *tx)
                .await?;
            sqlx::query("UPDATE log SET needs_trim = 1 WHERE id = $1")
                .bind(log)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(u64::try_from(due.len()).unwrap_or(u64::MAX))
    }

    /// Drops of superseded lists what no kept evidence needs.
    async fn trim_logs(&self, max: u32) -> Result<u64, StoreError> {
        let mut tx = self.pools().write().await?;
        let due: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM log WHERE is_newest = 0 AND needs_trim = 1 ORDER BY id LIMIT $1",
        )
        .bind(max)
        .fetch_all(&mut *tx)
        .await?;
        let mut rows_left = u64::from(max);
        for log in &due {
            if rows_left == 0 {
                break;
            }
            rows_left = rows_left.saturating_sub(trim(&mut tx, *log, rows_left).await?);
        }
        tx.commit().await?;
        Ok(match rows_left {
            0 => u64::from(max),
            _ => u64::try_from(due.len()).unwrap_or(u64::MAX),
        })
    }

    /// Drops chunks that lost a reference and have no other.
    async fn drop_chunks(&self, max: u32) -> Result<(u64, u64), StoreError> {
        let mut tx = self.pools().write().await?;
        let chunks = sqlx::query(
            "DELETE FROM chunk WHERE digest IN (SELECT digest FROM orphan ORDER BY digest LIMIT $1)
             AND NOT EXISTS (SELECT 1 FROM log_chunk l WHERE l.digest = chunk.digest)
             AND NOT EXISTS (SELECT 1 FROM staged s WHERE s.digest = chunk.digest)",
        )
        .bind(max)
        .execute(&mut *tx)
        .await?;
        let looked_at = sqlx::query(
            "DELETE FROM orphan WHERE digest IN (SELECT digest FROM orphan ORDER BY digest LIMIT $1)",
        )
        .bind(max)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok((looked_at.rows_affected(), chunks.rows_affected()))
    }
}

const STAGED: &str = "DELETE FROM staged WHERE (upload, piece) IN (
    SELECT upload, piece FROM staged WHERE at_unix_ms < $1 ORDER BY at_unix_ms LIMIT $2)";
const PENDING: &str = "DELETE FROM pending WHERE id IN (
    SELECT id FROM pending WHERE expires_unix_ms <= $1 ORDER BY expires_unix_ms LIMIT $2)";
const REMOVED: &str = "DELETE FROM removed_agent WHERE (shard, id) IN (
    SELECT shard, id FROM removed_agent WHERE removed_unix_ms < $1
    ORDER BY removed_unix_ms LIMIT $2)";

/// Drops at most `rows_max` rows of a superseded list, from the end; how many it dropped.
async fn trim(tx: &mut Connection, log: i64, rows_max: u64) -> Result<u64, StoreError> {
    const STEPS: [&str; 2] = [
        "DELETE FROM log_chunk WHERE log = $1 AND start IN (
             SELECT start FROM log_chunk WHERE log = $1 AND start >= $2
             ORDER BY start DESC LIMIT $3)",
        "DELETE FROM log_tail WHERE log = $1 AND start IN (
             SELECT start FROM log_tail WHERE log = $1 AND start >= $2
             ORDER BY start DESC LIMIT $3)",
    ];
    let needed: Option<i64> =
        sqlx::query_scalar("SELECT max(log_bytes) FROM evidence WHERE log = $1")
            .bind(log)
            .fetch_one(&mut *tx)
            .await?;
    let mut dropped = 1_u64;
    for sql in STEPS {
        let gone = sqlx::query(sql)
            .bind(log)
            .bind(needed.unwrap_or(0))
            .bind(number(rows_max)?)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        dropped = dropped.saturating_add(gone);
        if gone >= rows_max {
            return Ok(dropped);
        }
    }
    let done = match needed {
        None => "DELETE FROM log WHERE id = $1",
        Some(_) => "UPDATE log SET needs_trim = 0 WHERE id = $1",
    };
    sqlx::query(done).bind(log).execute(&mut *tx).await?;
    Ok(dropped)
}
