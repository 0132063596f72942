//! Committing ticks: the one write on the way of every verdict.

use std::collections::HashMap;

use rat_engine::agent_id::ShardIndex;
use rat_engine::shard::{ChainHash, Outcome, Tick};
use sqlx::Connection as _;

use crate::Store;
use crate::database::{Connection, number};
use crate::error::{RowName, StoreError};
use crate::evidence;
use crate::limits;
use crate::load::ShardHead;
use crate::logs::{self, NewEntries};
use crate::packed;
use crate::rows::{slices, statement};

/// What became of one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitResult {
    /// It is durable.
    Committed,
    /// It was durable already: this was another try of the same tick.
    AlreadyCommitted,
    /// Its epoch is not the shard's: another owner took over. Nothing of it was written. (S04)
    Fenced,
    /// It does not follow the shard's newest tick, or its own chain is not that of its outcomes.
    /// Nothing of it was written.
    OutOfOrder,
}

impl Store {
    /// Makes these ticks durable, in one transaction, and says of each what became of it.
    ///
    /// A tick is checked against its shard's epoch, newest number and head; one that is refused
    /// does not keep the others from being committed.
    ///
    /// # Errors
    /// One that [lasts](StoreError::is_lasting) means that nothing was done, and that one of the
    /// ticks, or a row that it needs, is at fault: the others go through without it. Any other error
    /// means that it is unknown whether the ticks are durable: call again with the same ticks. (S03)
    ///
    /// # Cost
    /// One synchronous write of the log for all ticks together.
    pub async fn commit(&self, ticks: &[Tick]) -> Result<Vec<CommitResult>, StoreError> {
        limits::check("ticks in one commit", ticks.len(), limits::COMMIT_TICKS_MAX)?;
        let packed = ticks.iter().map(pack).collect::<Result<Vec<_>, _>>()?;
        let mut tx = self.pools().write().await?;
        let mut heads = heads_of(&mut tx, ticks).await?;
        let mut results = Vec::with_capacity(ticks.len());
        let mut committed = Vec::with_capacity(ticks.len());
        for (tick, packed) in ticks.iter().zip(&packed) {
            let result = judge(&mut tx, &mut heads, tick).await?;
            if result == CommitResult::Committed {
                committed.push((tick, packed));
            }
            results.push(result);
        }
        if committed.is_empty() {
            return Ok(results);
        }
        insert_ticks(&mut tx, &committed).await?;
        move_heads(&mut tx, &committed).await?;
        for (tick, packed) in &committed {
            for kept in &packed.kept {
                keep(&mut tx, tick.seq, kept).await?;
            }
        }
        tx.commit().await?;
        Ok(results)
    }
}

/// A tick, packed before the transaction begins.
struct PackedTick<'a> {
    outcomes: Vec<u8>,
    /// What its outcomes keep: which outcome, its evidence, its log entries.
    kept: Vec<Kept<'a>>,
}

struct Kept<'a> {
    outcome: &'a Outcome,
    evidence: Vec<Vec<u8>>,
    log: Option<NewEntries<'a>>,
}

async fn keep(tx: &mut Connection, seq: u64, kept: &Kept<'_>) -> Result<(), StoreError> {
    if let Some(log) = &kept.log {
        let mut step = tx.begin().await?;
        match logs::append(&mut step, kept.outcome, log).await {
            Ok(()) => step.commit().await?,
            // A verdict does not wait for a list that cannot be continued: the list notes it.
            Err(error) if error.is_lasting() => {
                step.rollback().await?;
                tracing::error!(agent = %kept.outcome.agent, %error, "log entries are not kept");
                logs::note_gap(tx, kept.outcome).await?;
            }
            Err(error) => return Err(error),
        }
    }
    evidence::insert(tx, kept.outcome, seq, &kept.evidence).await
}

fn pack(tick: &Tick) -> Result<PackedTick<'_>, StoreError> {
    let outcomes = tick.outcomes.len();
    limits::check("outcomes in one tick", outcomes, limits::TICK_OUTCOMES_MAX)?;
    let packed = packed::pack_outcomes(&tick.outcomes)?;
    let mut kept = Vec::new();
    for outcome in &tick.outcomes {
        let has_new = !outcome.kept.is_empty() || outcome.log.is_some();
        if !has_new && !evidence::is_bare_failure(outcome) {
            continue;
        }
        let evidence = outcome.kept.iter().map(packed::pack_compressed);
        kept.push(Kept {
            outcome,
            evidence: evidence.collect::<Result<_, _>>()?,
            log: outcome.log.as_ref().map(NewEntries::new),
        });
    }
    Ok(PackedTick {
        outcomes: packed,
        kept,
    })
}

/// The heads of the shards that these ticks are of.
async fn heads_of(
    tx: &mut Connection,
    ticks: &[Tick],
) -> Result<HashMap<ShardIndex, ShardHead>, StoreError> {
    const SELECT: &str = "SELECT id, epoch, seq, head FROM shard WHERE id IN ";
    let mut heads = HashMap::with_capacity(ticks.len());
    for slice in slices(ticks) {
        let mut query = sqlx::query(statement(SELECT, slice.len(), 1, ""));
        for tick in slice {
            query = query.bind(i64::from(tick.shard.get()));
        }
        for row in query.fetch_all(&mut *tx).await? {
            let head = ShardHead::read(&row)?;
            heads.insert(head.shard, head);
        }
    }
    Ok(heads)
}

/// Whether a tick follows its shard's head; when it does, the head moves to it.
async fn judge(
    tx: &mut Connection,
    heads: &mut HashMap<ShardIndex, ShardHead>,
    tick: &Tick,
) -> Result<CommitResult, StoreError> {
    let head = heads
        .get_mut(&tick.shard)
        .ok_or_else(|| StoreError::Missing(RowName::Shard(tick.shard.get().into())))?;
    if tick.epoch != head.epoch {
        return Ok(CommitResult::Fenced);
    }
    if tick.seq <= head.seq {
        let same = is_committed(tx, head, tick).await?;
        return Ok(match same {
            true => CommitResult::AlreadyCommitted,
            false => CommitResult::OutOfOrder,
        });
    }
    let follows = head.seq.checked_add(1) == Some(tick.seq) && head.head == tick.before;
    if !follows || !is_sound(tick) {
        return Ok(CommitResult::OutOfOrder);
    }
    head.seq = tick.seq;
    head.head = tick.after;
    Ok(CommitResult::Committed)
}

/// Whether the chain is that of the outcomes, and all of them are of this shard.
fn is_sound(tick: &Tick) -> bool {
    let of_shard = |shard: ShardIndex| shard == tick.shard;
    tick.is_chained() && tick.outcomes.iter().all(|o| of_shard(o.agent.shard()))
}

/// Whether this very tick is the one with its number. Of folded ticks only the newest is known:
/// a shard has one tick in flight, so no other is ever tried again.
async fn is_committed(
    tx: &mut Connection,
    head: &ShardHead,
    tick: &Tick,
) -> Result<bool, StoreError> {
    if tick.seq == head.seq {
        return Ok(tick.after == head.head);
    }
    let after: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT after FROM tick WHERE shard = $1 AND seq = $2")
            .bind(i64::from(tick.shard.get()))
            .bind(number(tick.seq)?)
            .fetch_optional(tx)
            .await?;
    Ok(after.is_some_and(|after| after == tick.after.0))
}

async fn insert_ticks(
    tx: &mut Connection,
    ticks: &[(&Tick, &PackedTick<'_>)],
) -> Result<(), StoreError> {
    const INSERT: &str = "INSERT INTO tick (shard, seq, epoch, before, after, packed) VALUES ";
    for slice in slices(ticks) {
        let mut query = sqlx::query(statement(INSERT, 6, slice.len(), ""));
        for (tick, packed) in slice {
            query = query
                .bind(i64::from(tick.shard.get()))
                .bind(number(tick.seq)?)
                .bind(number(tick.epoch.0)?)
                .bind(&tick.before.0[..])
                .bind(&tick.after.0[..])
                .bind(packed.outcomes.as_slice());
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Moves each shard's head to its newest tick. The rows are there: only the update ever runs.
async fn move_heads(
    tx: &mut Connection,
    ticks: &[(&Tick, &PackedTick<'_>)],
) -> Result<(), StoreError> {
    const INSERT: &str = "INSERT INTO shard
        (id, owner, epoch, lease_until_unix_ms, seq, head, kept_seq, kept_head)
        SELECT v.column1, '', 0, 0, v.column2, v.column3, 0, v.column3 FROM (VALUES ";
    const UPDATE: &str = ") v WHERE true
        ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, head = excluded.head";
    let mut newest: HashMap<ShardIndex, (u64, ChainHash)> = HashMap::new();
    for (tick, _) in ticks {
        newest.insert(tick.shard, (tick.seq, tick.after));
    }
    let newest: Vec<_> = newest.into_iter().collect();
    for slice in slices(&newest) {
        let mut query = sqlx::query(statement(INSERT, 3, slice.len(), UPDATE));
        for (shard, (seq, head)) in slice {
            query = query
                .bind(i64::from(shard.get()))
                .bind(number(*seq)?)
                .bind(head.0.to_vec());
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}
