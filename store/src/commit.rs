//! Committing ticks: the one write on the way of every verdict.

use std::collections::{HashMap, HashSet};

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
use crate::rows::{Statement, slices};

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
        let all: Vec<_> = ticks.iter().zip(&packed).collect();
        let mut tx = self.pools().write().await?;
        if do_all_follow(&mut tx, ticks).await? {
            write(&mut tx, &all).await?;
            tx.commit().await?;
            return Ok(vec![CommitResult::Committed; ticks.len()]);
        }
        tx.rollback().await?;
        self.commit_what_follows(ticks, &all).await
    }

    /// Judges each tick by itself, and makes those durable that follow.
    async fn commit_what_follows(
        &self,
        ticks: &[Tick],
        all: &[(&Tick, &PackedTick<'_>)],
    ) -> Result<Vec<CommitResult>, StoreError> {
        let mut tx = self.pools().write().await?;
        let mut heads = heads_of(&mut tx, ticks).await?;
        let mut results = Vec::with_capacity(ticks.len());
        let mut committed = Vec::with_capacity(ticks.len());
        for (tick, packed) in all {
            let result = judge(&mut tx, &mut heads, tick).await?;
            if result == CommitResult::Committed {
                committed.push((*tick, *packed));
            }
            results.push(result);
        }
        if committed.is_empty() {
            return Ok(results);
        }
        move_heads(&mut tx, &committed).await?;
        write(&mut tx, &committed).await?;
        tx.commit().await?;
        Ok(results)
    }
}

/// Writes ticks whose shards' heads were moved to them, and what they keep.
async fn write(tx: &mut Connection, ticks: &[(&Tick, &PackedTick<'_>)]) -> Result<(), StoreError> {
    insert_ticks(tx, ticks).await?;
    for (tick, packed) in ticks {
        for kept in &packed.kept {
            keep(tx, tick.seq, kept).await?;
        }
    }
    Ok(())
}

/// Moves the heads of these ticks' shards to them, if each follows its shard's head: nearly always
/// it does, and then nothing need be read. Else heads may have been moved, and the transaction must
/// not be committed.
async fn do_all_follow(tx: &mut Connection, ticks: &[Tick]) -> Result<bool, StoreError> {
    const MOVE: Statement = Statement {
        before: "UPDATE shard SET seq = v.column3, head = v.column5 FROM (VALUES ",
        columns: 5,
        after: ") v WHERE shard.id = v.column1 AND shard.epoch = v.column2
            AND shard.seq + 1 = v.column3 AND shard.head = v.column4",
    };
    let mut shards = HashSet::with_capacity(ticks.len());
    // No shard has an epoch that the database cannot take.
    let is_simple =
        |tick: &Tick| shards.insert(tick.shard) && number(tick.epoch.0).is_ok() && is_sound(tick);
    if !ticks.iter().all(is_simple) {
        return Ok(false);
    }
    for slice in slices(ticks) {
        let query = MOVE.about(slice, |row, tick| {
            let row = row
                .bind(i64::from(tick.shard.get()))
                .bind(number(tick.epoch.0)?)
                .bind(number(tick.seq)?)
                .bind(&tick.before.0[..])
                .bind(&tick.after.0[..]);
            Ok::<_, StoreError>(row)
        });
        let moved = query?.execute(&mut *tx).await?.rows_affected();
        if u64::try_from(slice.len()).ok() != Some(moved) {
            return Ok(false);
        }
    }
    Ok(true)
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
    const SELECT: Statement = Statement {
        before: "SELECT id, epoch, seq, head FROM shard WHERE id IN (VALUES ",
        columns: 1,
        after: ")",
    };
    let mut heads = HashMap::with_capacity(ticks.len());
    for slice in slices(ticks) {
        let query = SELECT.about(slice, |row, tick| {
            Ok::<_, StoreError>(row.bind(i64::from(tick.shard.get())))
        })?;
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
    const INSERT: Statement = Statement {
        before: "INSERT INTO tick (shard, seq, epoch, before, after, packed)
            SELECT * FROM (VALUES ",
        columns: 6,
        after: ") v WHERE v.column1 IS NOT NULL",
    };
    for slice in slices(ticks) {
        let query = INSERT.about(slice, |row, (tick, packed)| {
            let row = row
                .bind(i64::from(tick.shard.get()))
                .bind(number(tick.seq)?)
                .bind(number(tick.epoch.0)?)
                .bind(&tick.before.0[..])
                .bind(&tick.after.0[..])
                .bind(packed.outcomes.as_slice());
            Ok::<_, StoreError>(row)
        })?;
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Moves each shard's head to its newest tick.
async fn move_heads(
    tx: &mut Connection,
    ticks: &[(&Tick, &PackedTick<'_>)],
) -> Result<(), StoreError> {
    const MOVE: Statement = Statement {
        before: "UPDATE shard SET seq = v.column2, head = v.column3 FROM (VALUES ",
        columns: 3,
        after: ") v WHERE shard.id = v.column1",
    };
    let mut newest: HashMap<ShardIndex, (u64, ChainHash)> = HashMap::new();
    for (tick, _) in ticks {
        newest.insert(tick.shard, (tick.seq, tick.after));
    }
    let newest: Vec<_> = newest.into_iter().collect();
    for slice in slices(&newest) {
        let query = MOVE.about(slice, |row, (shard, (seq, head))| {
            let row = row
                .bind(i64::from(shard.get()))
                .bind(number(*seq)?)
                .bind(&head.0[..]);
            Ok::<_, StoreError>(row)
        })?;
        query.execute(&mut *tx).await?;
    }
    Ok(())
}
