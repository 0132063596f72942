//! The folder: moves committed ticks into agent rows and history, and forgets the ticks.

use std::sync::atomic::Ordering;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::AgentState;

use crate::Store;
use crate::chain::Block;
use crate::database::{Connection, number};
use crate::enrolment;
use crate::error::StoreError;
use crate::limits;
use crate::load::{NewestState, Tail, TickRow};
use crate::packed;
use crate::rows::{Statement, slices};

/// What one call of the folder did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// Ticks that were moved.
    pub ticks: u64,
    /// Of them, ticks that could not be read to their end: they are kept aside as they are, and
    /// the agents that they may have been about are unreadable until a newer tick. (S06)
    pub unreadable: u64,
    /// Whether more ticks are left.
    pub more: bool,
}

impl Store {
    /// Moves at most `ticks_max` ticks into agent rows, in key order, and deletes them, in one
    /// transaction. Each call goes on at the shard where the one before ended.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was moved, and the next call tries the same ticks again.
    ///
    /// # Cost
    /// One write for each agent that the ticks are about, however many of them are about it.
    pub async fn fold(&self, ticks_max: u32) -> Result<Folded, StoreError> {
        let ticks_max = ticks_max.clamp(1, limits::FOLD_TICKS_MAX);
        let from = self.inner.fold_from.load(Ordering::Relaxed);
        let mut tx = self.pools().write().await?;
        let mut ticks = read_ticks(&mut tx, from, ShardIndex::COUNT, ticks_max).await?;
        if ticks.is_empty() {
            ticks = read_ticks(&mut tx, 0, from, ticks_max).await?;
        }
        let Some(last) = ticks.last().map(|tick| tick.shard) else {
            return Ok(Folded::default());
        };
        let mut folded = fold_ticks(&mut tx, ticks).await?;
        let left: Option<i64> = sqlx::query_scalar("SELECT 1 FROM tick LIMIT 1")
            .fetch_optional(&mut *tx)
            .await?;
        folded.more = left.is_some();
        tx.commit().await?;
        self.inner.fold_from.store(last.get(), Ordering::Relaxed);
        Ok(folded)
    }
}

/// Folds all that is left of one shard, so that its rows alone say what its agents' states are.
pub(crate) async fn fold_shard(tx: &mut Connection, shard: ShardIndex) -> Result<(), StoreError> {
    loop {
        let from = shard.get();
        let to = from.saturating_add(1);
        let ticks = read_ticks(tx, from, to, limits::FOLD_TICKS_MAX).await?;
        if ticks.is_empty() {
            return Ok(());
        }
        fold_ticks(tx, ticks).await?;
    }
}

/// The first ticks of the shards `from..to`, in key order: whole rows up to both limits.
async fn read_ticks(
    tx: &mut Connection,
    from: u16,
    to: u16,
    ticks_max: u32,
) -> Result<Vec<TickRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT shard, seq, epoch, before, after, packed FROM (
             SELECT *, sum(length(packed)) OVER (ORDER BY shard, seq) - length(packed) AS bytes_before
             FROM (SELECT * FROM tick WHERE shard >= $1 AND shard < $2 ORDER BY shard, seq LIMIT $3)
         ) WHERE bytes_before < $4 ORDER BY shard, seq",
    )
    .bind(i64::from(from))
    .bind(i64::from(to))
    .bind(i64::from(ticks_max))
    .bind(crate::database::count(limits::FOLD_BYTES_MAX)?)
    .fetch_all(tx)
    .await?;
    rows.iter().map(TickRow::read).collect()
}

async fn fold_ticks(tx: &mut Connection, ticks: Vec<TickRow>) -> Result<Folded, StoreError> {
    let mut folded = Folded::default();
    let mut tail = Tail::default();
    let mut blocks: Vec<Block> = Vec::new();
    for tick in &ticks {
        folded.ticks = folded.ticks.saturating_add(1);
        let (outcomes, fault) = packed::unpack_outcomes(&tick.packed);
        if fault.is_some() {
            folded.unreadable = folded.unreadable.saturating_add(1);
            tail.broken(tick.shard, tick.seq);
            set_aside(tx, tick).await?;
        }
        let mut facts = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            facts.push(outcome.facts.clone());
            tail.outcome(tick.seq, outcome.facts.agent, outcome.state);
        }
        if fault.is_some() {
            continue;
        }
        // A block ends where the shard does, and before and after a tick that cannot be read.
        match blocks.last_mut() {
            Some(block) if block.takes(tick) => block.push(tick, facts),
            _ => blocks.push(Block::new(tick, facts)),
        }
    }
    Block::insert_all(tx, &blocks).await?;
    write_states(tx, tail).await?;
    delete_ticks(tx, &ticks).await?;
    Ok(folded)
}

async fn set_aside(tx: &mut Connection, tick: &TickRow) -> Result<(), StoreError> {
    tracing::error!(
        shard = tick.shard.get(),
        seq = tick.seq,
        "a committed tick cannot be read; it is kept aside"
    );
    sqlx::query(
        "INSERT INTO unreadable_tick (shard, seq, epoch, before, after, packed)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(i64::from(tick.shard.get()))
    .bind(number(tick.seq)?)
    .bind(tick.epoch)
    .bind(&tick.before.0[..])
    .bind(&tick.after.0[..])
    .bind(tick.packed.as_slice())
    .execute(tx)
    .await?;
    Ok(())
}

async fn write_states(tx: &mut Connection, tail: Tail) -> Result<(), StoreError> {
    let (newest, broken) = tail.into_parts();
    const UPDATE: Statement = Statement {
        before: "UPDATE agent_state SET seq = v.column3, packed = v.column4 FROM (VALUES ",
        columns: 4,
        after: ") v WHERE agent_state.shard = v.column1
            AND agent_state.agent = v.column2 AND agent_state.seq < v.column3",
    };
    for slice in slices(&newest) {
        let query = UPDATE.about(slice, |row, (shard, agent, seq, state)| {
            let row = row
                .bind(i64::from(shard.get()))
                .bind(agent.as_str())
                .bind(number(*seq)?)
                .bind(state.as_slice());
            Ok::<_, StoreError>(row)
        })?;
        let written = query.execute(&mut *tx).await?.rows_affected();
        if u64::try_from(slice.len()).ok() != Some(written) {
            find_removed(tx, slice).await?;
        }
    }
    for (shard, seq) in broken {
        sqlx::query("UPDATE agent_state SET suspect_seq = $2 WHERE shard = $1 AND seq < $2")
            .bind(i64::from(shard.get()))
            .bind(number(seq)?)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// Looks for the agents of these states that are gone.
async fn find_removed(tx: &mut Connection, states: &[NewestState]) -> Result<(), StoreError> {
    for (shard, agent, seq, state) in states {
        let held: Option<i64> =
            sqlx::query_scalar("SELECT seq FROM agent_state WHERE shard = $1 AND agent = $2")
                .bind(i64::from(shard.get()))
                .bind(agent.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        if held != Some(number(*seq)?) {
            after_removal(tx, agent, *seq, state).await?;
        }
    }
    Ok(())
}

/// A verdict that was on its way while its agent was removed: a failure still sticks to the
/// machine. (S16)
async fn after_removal(
    tx: &mut Connection,
    agent: &AgentId,
    seq: u64,
    state: &[u8],
) -> Result<(), StoreError> {
    match packed::unpack::<AgentState>(state) {
        Ok(AgentState {
            failure: Some(failure),
            ..
        }) => enrolment::failed_after_removal(tx, agent, seq, &failure).await,
        _ => Ok(()),
    }
}

async fn delete_ticks(tx: &mut Connection, ticks: &[TickRow]) -> Result<(), StoreError> {
    // They are all that there are between the first and the last, in key order.
    let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else {
        return Ok(());
    };
    sqlx::query("DELETE FROM tick WHERE (shard, seq) >= ($1, $2) AND (shard, seq) <= ($3, $4)")
        .bind(i64::from(first.shard.get()))
        .bind(number(first.seq)?)
        .bind(i64::from(last.shard.get()))
        .bind(number(last.seq)?)
        .execute(tx)
        .await?;
    Ok(())
}
