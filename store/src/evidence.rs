//! Kept evidence, and measurement lists read back.

use rat_engine::agent_id::AgentId;
use rat_engine::ima::LogFormat;
use rat_engine::shard::{BootEpoch, KeptEvidence, Outcome, Retention};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::database::{Connection, natural, number, time};
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::logs;
use crate::packed::{self, Fault};

/// Evidence that was kept whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvidence {
    /// Its number: later evidence has a greater one.
    pub id: i64,
    /// The tick of its shard that it was committed with.
    pub seq: u64,
    /// The evidence.
    pub evidence: KeptEvidence,
    /// The measurement list that it proves the first [`KeptEvidence::ima_entries`] entries of.
    pub log: Option<StoredLog>,
}

/// A measurement list that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredLog {
    id: i64,
    /// Its format.
    pub format: LogFormat,
    /// The boot that it is of.
    pub boot: Option<BootEpoch>,
    /// How many entries were proven.
    pub entries: u64,
    /// How many bytes of it can be read.
    pub raw_bytes: u64,
    /// From this entry on some are missing, and none that came later is kept.
    pub gap_at_entry: Option<u64>,
}

const fn reason_text(reason: Retention) -> &'static str {
    match reason {
        Retention::FirstPass => "first_pass",
        Retention::Failure => "failure",
        Retention::BeforeFailure => "before_failure",
    }
}

/// Keeps the evidence of one outcome, packed before, with the list as it is now. What comes with a
/// failure is of its time, whenever it was judged.
pub(crate) async fn insert(
    tx: &mut Connection,
    outcome: &Outcome,
    seq: u64,
    packed: &[Vec<u8>],
) -> Result<(), StoreError> {
    let failed_at = fails_now(outcome).then_some(outcome.at_unix_ms);
    let is_bare = is_bare_failure(outcome);
    if packed.is_empty() && !is_bare {
        return Ok(());
    }
    let log = match logs::newest(tx, &outcome.agent).await {
        // A verdict does not wait for a list that is damaged. (S06)
        Err(error) if error.is_lasting() => {
            tracing::error!(agent = %outcome.agent, %error, "evidence is kept without its list");
            None
        }
        log => log?,
    };
    for (kept, packed) in outcome.kept.iter().zip(packed) {
        sqlx::query(
            "INSERT INTO evidence (shard, agent, seq, reason, at_unix_ms, log, log_bytes,
                                   is_of_newest, packed)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $6 IS NOT NULL, $8)",
        )
        .bind(i64::from(outcome.agent.shard().get()))
        .bind(outcome.agent.as_str())
        .bind(number(seq)?)
        .bind(reason_text(kept.reason))
        .bind(time(failed_at.unwrap_or(kept.at_unix_ms)))
        .bind(log.map(|log| log.id))
        .bind(number(log.map_or(0, |log| log.raw_bytes))?)
        .bind(packed)
        .execute(&mut *tx)
        .await?;
        drop_oldest(tx, outcome, kept.reason).await?;
    }
    if is_bare {
        keep_newest(tx, outcome, seq, log).await?;
    }
    Ok(())
}

/// Whether an agent fails by this outcome, and nothing shows why: its stored list was judged, and
/// the process did not see its last pass.
pub(crate) fn is_bare_failure(outcome: &Outcome) -> bool {
    outcome.kept.is_empty() && outcome.evidence_sha256 == [0; 32] && fails_now(outcome)
}

/// Whether the failure that an agent is in is of this outcome.
fn fails_now(outcome: &Outcome) -> bool {
    let failure = outcome.state.failure.as_ref();
    failure.is_some_and(|failure| failure.at_unix_ms == outcome.at_unix_ms)
}

/// Keeps the newest pass that is stored for the failure that comes after it: the process that saw a
/// newer one has ended. (S18)
async fn keep_newest(
    tx: &mut Connection,
    outcome: &Outcome,
    seq: u64,
    newest: Option<logs::LogHead>,
) -> Result<(), StoreError> {
    let row = sqlx::query(
        "SELECT id, log, log_bytes, packed FROM evidence
         WHERE shard = $1 AND agent = $2 AND reason <> $3 ORDER BY id DESC LIMIT 1",
    )
    .bind(i64::from(outcome.agent.shard().get()))
    .bind(outcome.agent.as_str())
    .bind(reason_text(Retention::Failure))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let id: i64 = row.try_get(0)?;
    let kept = match packed::unpack::<KeptEvidence>(row.try_get(3)?) {
        Ok(kept) => kept,
        // A verdict does not wait for evidence that is damaged. (S06)
        Err(fault) => {
            tracing::error!(agent = %outcome.agent, id, %fault, "a failure is kept without evidence");
            return Ok(());
        }
    };
    let reason = Retention::BeforeFailure;
    let log: Option<i64> = row.try_get(1)?;
    // The list may have grown since; what failed may stand in what was added.
    let grown = newest.filter(|newest| Some(newest.id) == log);
    let log_bytes = match grown {
        Some(newest) => number(newest.raw_bytes)?,
        None => row.try_get(2)?,
    };
    sqlx::query(
        "INSERT INTO evidence (shard, agent, seq, reason, at_unix_ms, log, log_bytes,
                               is_of_newest, packed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(i64::from(outcome.agent.shard().get()))
    .bind(outcome.agent.as_str())
    .bind(number(seq)?)
    .bind(reason_text(reason))
    .bind(time(outcome.at_unix_ms))
    .bind(log)
    .bind(log_bytes)
    .bind(grown.is_some())
    .bind(packed::pack_compressed(&KeptEvidence { reason, ..kept })?)
    .execute(&mut *tx)
    .await?;
    drop_oldest(tx, outcome, reason).await
}

/// Drops the oldest evidence of this agent and reason beyond what may be kept (S07), except what
/// came with the failure that the agent is in: later ones must not drive out why it is failed.
async fn drop_oldest(
    tx: &mut Connection,
    outcome: &Outcome,
    reason: Retention,
) -> Result<(), StoreError> {
    let failure = outcome.state.failure.as_ref();
    let failed_at = failure.map(|failure| failure.at_unix_ms);
    let dropped: Vec<Option<i64>> = sqlx::query_scalar(
        "DELETE FROM evidence WHERE id IN (
             SELECT id FROM evidence WHERE shard = $1 AND agent = $2 AND reason = $3
             AND seq NOT IN (
                 SELECT seq FROM evidence
                 WHERE shard = $1 AND agent = $2 AND at_unix_ms = $5
             )
             ORDER BY id DESC LIMIT -1 OFFSET $4
         ) RETURNING log",
    )
    .bind(i64::from(outcome.agent.shard().get()))
    .bind(outcome.agent.as_str())
    .bind(reason_text(reason))
    .bind(limits::EVIDENCE_PER_REASON_MAX)
    .bind(failed_at.map(time))
    .fetch_all(&mut *tx)
    .await?;
    for log in dropped.into_iter().flatten() {
        sqlx::query("UPDATE log SET needs_trim = 1 WHERE id = $1")
            .bind(log)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

impl StoredLog {
    /// Columns from `at` on: id, format, reset_count, restart_count, to_entry, raw_bytes,
    /// gap_at_entry.
    fn read(row: &SqliteRow, at: usize) -> Result<Option<Self>, StoreError> {
        let column = |offset: usize| at.saturating_add(offset);
        let Some(id) = row.try_get::<Option<i64>, _>(column(0))? else {
            return Ok(None);
        };
        let unreadable = |fault| StoreError::unreadable(RowName::Log(id), fault);
        let counter = |value: i64| u32::try_from(value).map_err(|_| unreadable(Fault::Content));
        let boot = match (row.try_get(column(2))?, row.try_get(column(3))?) {
            (Some(reset), Some(restart)) => Some(BootEpoch {
                reset_count: counter(reset)?,
                restart_count: counter(restart)?,
            }),
            _ => None,
        };
        let gap: Option<i64> = row.try_get(column(6))?;
        Ok(Some(Self {
            id,
            format: logs::format_from_text(row.try_get(column(1))?).map_err(unreadable)?,
            boot,
            entries: natural(row.try_get(column(4))?).map_err(unreadable)?,
            raw_bytes: natural(row.try_get(column(5))?).map_err(unreadable)?,
            gap_at_entry: gap.map(natural).transpose().map_err(unreadable)?,
        }))
    }
}

/// Reads one measurement list from its beginning, a piece at a time.
#[derive(Debug)]
pub struct LogReader {
    store: Store,
    log: StoredLog,
    at: u64,
}

impl LogReader {
    /// What is being read.
    pub const fn log(&self) -> &StoredLog {
        &self.log
    }

    /// The next bytes, at most 64 KiB; `None` at the end.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when a piece is damaged, [`StoreError::Missing`] when the list
    /// was dropped meanwhile.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let left = self.log.raw_bytes.saturating_sub(self.at);
        if left == 0 {
            return Ok(None);
        }
        let (start, raw) = self.piece().await?;
        let skip = usize::try_from(self.at.saturating_sub(start)).unwrap_or(usize::MAX);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = raw.into_iter().skip(skip).take(left).collect();
        if bytes.is_empty() {
            return Err(StoreError::Missing(RowName::Log(self.log.id)));
        }
        let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(read);
        Ok(Some(bytes))
    }

    /// The chunk or part of the tail that holds the position, and where it starts. Which of the
    /// two holds it can change from one call to the next; where the bytes stand does not.
    async fn piece(&self) -> Result<(u64, Vec<u8>), StoreError> {
        let id = self.log.id;
        let unreadable = |fault| StoreError::unreadable(RowName::Log(id), fault);
        let mut snapshot = self.store.pools().read().begin().await?;
        let chunk = sqlx::query(
            "SELECT l.start, c.raw_bytes, l.digest, c.packed
             FROM log_chunk l JOIN chunk c ON c.digest = l.digest
             WHERE l.log = $1 AND l.start <= $2 ORDER BY l.start DESC LIMIT 1",
        )
        .bind(id)
        .bind(number(self.at)?)
        .fetch_optional(&mut *snapshot)
        .await?;
        if let Some(row) = chunk {
            let start = natural(row.try_get(0)?).map_err(unreadable)?;
            let length = natural(row.try_get(1)?).map_err(unreadable)?;
            if self.at < start.saturating_add(length) {
                return Ok((start, logs::read_chunk(row.try_get(2)?, row.try_get(3)?)?));
            }
        }
        let tail = sqlx::query(
            "SELECT start, packed FROM log_tail WHERE log = $1 AND start <= $2
             ORDER BY start DESC LIMIT 1",
        )
        .bind(id)
        .bind(number(self.at)?)
        .fetch_optional(&mut *snapshot)
        .await?;
        let row = tail.ok_or(StoreError::Missing(RowName::Log(id)))?;
        let raw = packed::unpack_bytes(row.try_get(1)?, limits::RECORD_BYTES_MAX);
        Ok((
            natural(row.try_get(0)?).map_err(unreadable)?,
            raw.map_err(unreadable)?,
        ))
    }
}

impl Store {
    /// Reads the newest list of an agent that is still enrolled; `None` when it has none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn log_of(&self, agent: &AgentId) -> Result<Option<LogReader>, StoreError> {
        let row = sqlx::query(
            "SELECT id, format, reset_count, restart_count, to_entry, raw_bytes, gap_at_entry
             FROM log WHERE shard = $1 AND agent = $2 AND is_newest = 1",
        )
        .bind(i64::from(agent.shard().get()))
        .bind(agent.as_str())
        .fetch_optional(self.pools().read())
        .await?;
        let log = row.map(|row| StoredLog::read(&row, 0)).transpose()?;
        Ok(log.flatten().map(|log| self.read_log(log)))
    }

    /// Reads the list of kept evidence, up to what was kept when the evidence was.
    pub fn read_log(&self, log: StoredLog) -> LogReader {
        LogReader {
            store: self.clone(),
            log,
            at: 0,
        }
    }

    /// Evidence kept of an agent, removed or not, newest first, before this number.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when one of them is damaged: it names its number.
    pub async fn evidence(
        &self,
        agent: &AgentId,
        before_id: Option<i64>,
        evidence_max: u32,
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        let rows = sqlx::query(
            "SELECT e.id, e.seq, e.packed, l.id, l.format, l.reset_count, l.restart_count,
                    l.to_entry, e.log_bytes, l.gap_at_entry
             FROM evidence e LEFT JOIN log l ON l.id = e.log
             WHERE e.shard = $1 AND e.agent = $2 AND e.id < $3 ORDER BY e.id DESC LIMIT $4",
        )
        .bind(i64::from(agent.shard().get()))
        .bind(agent.as_str())
        .bind(before_id.unwrap_or(i64::MAX))
        .bind(evidence_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let id: i64 = row.try_get(0)?;
            let unreadable = |fault| StoreError::unreadable(RowName::Evidence(id), fault);
            found.push(StoredEvidence {
                id,
                seq: natural(row.try_get(1)?).map_err(unreadable)?,
                evidence: packed::unpack(row.try_get(2)?).map_err(unreadable)?,
                log: StoredLog::read(&row, 3)?,
            });
        }
        Ok(found)
    }
}
