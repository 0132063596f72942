//! History: what each shard's hash chain was made of, and whether it still is. (S18)

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::hash::Digest;
use rat_engine::shard::{ChainHash, VerdictKind};
use rat_engine::verdict::Code;
use sqlx::Row;
use thiserror::Error;

use crate::Store;
use crate::database::{Connection, chain_hash, natural, number, time};
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::load::TickRow;
use crate::packed::{self, Facts, Fault};
use crate::rows::{Statement, slices};

/// One concluded attestation, as history keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryOutcome {
    /// The tick of its shard.
    pub seq: u64,
    /// When it was concluded.
    pub at_unix_ms: u64,
    /// The verdict.
    pub verdict: VerdictKind,
    /// The first thing that failed.
    pub code: Option<Code>,
    /// The policy that was held.
    pub policy: Option<Digest>,
    /// SHA-256 of the evidence.
    pub evidence_sha256: [u8; 32],
}

/// What a chain that verifies covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedChain {
    /// The newest tick before the kept history; everything up to it was dropped by retention.
    pub kept_seq: u64,
    /// The newest tick.
    pub seq: u64,
    /// The head after it.
    pub head: ChainHash,
    /// Outcomes that were hashed again.
    pub outcomes: u64,
    /// Ticks that were set aside because they cannot be read: of them only the heads are known.
    pub unreadable: u64,
}

/// Where a chain does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChainFault {
    /// Ticks are missing before this one, or it is there twice.
    #[error("tick {seq} does not follow the one before it")]
    Sequence {
        /// The first tick that does not follow.
        seq: u64,
    },
    /// The head before this tick is not the head after the one before.
    #[error("the chain is broken before tick {seq}")]
    Before {
        /// The tick.
        seq: u64,
    },
    /// The outcomes of this tick, or of one after it in the same block, do not give its head.
    #[error("the outcomes from tick {seq} on do not give the chain's head")]
    Outcomes {
        /// The first tick of the block.
        seq: u64,
    },
    /// The row of this tick cannot be read.
    #[error("tick {seq} cannot be read: {fault}")]
    Unreadable {
        /// The first tick of the row.
        seq: u64,
        /// Why.
        fault: Fault,
    },
    /// The newest tick is not the shard's.
    #[error("the chain ends at tick {found}, and the shard's newest is {expected}")]
    End {
        /// The last tick found.
        found: u64,
        /// The shard's newest.
        expected: u64,
    },
    /// The chain's end is not the shard's head.
    #[error("the chain does not end at the shard's head")]
    Head,
}

/// Of each tick, the facts of its outcomes.
type Ticks = Vec<Vec<Facts>>;

/// Consecutive ticks of one shard, on their way into history.
pub(crate) struct Block {
    shard: ShardIndex,
    from_seq: u64,
    to_seq: u64,
    newest_unix_ms: u64,
    before: ChainHash,
    after: ChainHash,
    ticks: Ticks,
}

impl Block {
    pub(crate) fn new(first: &TickRow, facts: Vec<Facts>) -> Self {
        let mut block = Self {
            shard: first.shard,
            from_seq: first.seq,
            to_seq: first.seq,
            newest_unix_ms: 0,
            before: first.before,
            after: first.before,
            ticks: Vec::new(),
        };
        block.push(first, facts);
        block
    }

    /// Whether this tick continues the block.
    pub(crate) fn takes(&self, tick: &TickRow) -> bool {
        tick.shard == self.shard
            && self.to_seq.checked_add(1) == Some(tick.seq)
            && tick.before == self.after
    }

    pub(crate) fn push(&mut self, tick: &TickRow, facts: Vec<Facts>) {
        self.to_seq = tick.seq;
        self.after = tick.after;
        for fact in &facts {
            self.newest_unix_ms = self.newest_unix_ms.max(fact.at_unix_ms);
        }
        self.ticks.push(facts);
    }

    /// Puts blocks into history.
    pub(crate) async fn insert_all(tx: &mut Connection, blocks: &[Self]) -> Result<(), StoreError> {
        const INSERT: Statement = Statement {
            before: "INSERT INTO history
                (shard, from_seq, to_seq, newest_unix_ms, before, after, packed)
                SELECT * FROM (VALUES ",
            columns: 7,
            after: ") v WHERE v.column1 IS NOT NULL",
        };
        for slice in slices(blocks) {
            let query = INSERT.about(slice, |row, block| {
                let row = row
                    .bind(i64::from(block.shard.get()))
                    .bind(number(block.from_seq)?)
                    .bind(number(block.to_seq)?)
                    .bind(time(block.newest_unix_ms))
                    .bind(&block.before.0[..])
                    .bind(&block.after.0[..])
                    .bind(packed::pack_compressed(&block.ticks)?);
                Ok::<_, StoreError>(row)
            })?;
            query.execute(&mut *tx).await?;
        }
        Ok(())
    }
}

/// Follows a chain row by row.
struct Walk {
    seq: u64,
    head: ChainHash,
    outcomes: u64,
    unreadable: u64,
}

/// What a row of the chain says that its ticks were.
enum Content {
    Ticks(Result<Ticks, Fault>),
    /// A tick that was set aside; as long as its heads fit, the chain goes on after it. (S06)
    SetAside,
}

impl Walk {
    /// One row: ticks `from..=to`, the heads that it claims, and the outcomes of its ticks.
    fn row(
        &mut self,
        (from, to): (u64, u64),
        (before, after): (ChainHash, ChainHash),
        content: Content,
    ) -> Result<(), ChainFault> {
        if self.seq.checked_add(1) != Some(from) {
            return Err(ChainFault::Sequence { seq: from });
        }
        if before != self.head {
            return Err(ChainFault::Before { seq: from });
        }
        let ticks = match content {
            Content::Ticks(ticks) => {
                ticks.map_err(|fault| ChainFault::Unreadable { seq: from, fault })?
            }
            Content::SetAside => {
                self.unreadable = self.unreadable.saturating_add(1);
                (self.seq, self.head) = (to, after);
                return Ok(());
            }
        };
        let span = to.checked_sub(from).and_then(|span| span.checked_add(1));
        if span != u64::try_from(ticks.len()).ok() {
            return Err(ChainFault::Outcomes { seq: from });
        }
        for facts in ticks.into_iter().flatten() {
            self.head = self.head.after(&facts.into_outcome());
            self.outcomes = self.outcomes.saturating_add(1);
        }
        if self.head != after {
            return Err(ChainFault::Outcomes { seq: from });
        }
        self.seq = to;
        Ok(())
    }
}

fn facts_of(packed: &[u8]) -> Result<Vec<Facts>, Fault> {
    match packed::unpack_outcomes(packed) {
        (outcomes, None) => Ok(outcomes.into_iter().map(|outcome| outcome.facts).collect()),
        (_, Some(fault)) => Err(fault),
    }
}

impl Store {
    /// Hashes again all that is kept of a shard's history, from where retention left it to the
    /// newest tick, and compares with the heads.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails. What is wrong with the chain is no error of the
    /// call: it is the inner [`ChainFault`].
    ///
    /// # Cost
    /// Proportional to the kept history; rows are read one at a time.
    pub async fn verify_chain(
        &self,
        shard: ShardIndex,
    ) -> Result<Result<VerifiedChain, ChainFault>, StoreError> {
        let mut snapshot = self.pools().read().begin().await?;
        verify(&mut snapshot, shard).await
    }

    /// The outcomes of an agent among the newest `ticks_max` ticks of its shard before
    /// `before_seq`, newest first; `None` begins at the newest.
    ///
    /// # Errors
    /// [`StoreError`].
    ///
    /// # Cost
    /// Reads the whole shard's rows: history is kept by shard, for the chain.
    pub async fn history(
        &self,
        agent: &AgentId,
        before_seq: Option<u64>,
        ticks_max: u32,
    ) -> Result<Vec<HistoryOutcome>, StoreError> {
        let shard = agent.shard();
        let before_seq = before_seq.map_or(Ok(i64::MAX), number)?;
        let limit = i64::from(ticks_max.min(limits::PAGE_MAX));
        let mut snapshot = self.pools().read().begin().await?;
        let mut found = Vec::new();
        let ticks = sqlx::query(
            "SELECT seq, packed FROM tick WHERE shard = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3",
        )
        .bind(i64::from(shard.get()))
        .bind(before_seq)
        .bind(limit)
        .fetch_all(&mut *snapshot)
        .await?;
        for row in &ticks {
            let seq = natural(row.try_get(0)?).unwrap_or_default();
            let facts = facts_of(row.try_get(1)?)
                .map_err(|fault| StoreError::unreadable(RowName::Tick { shard, seq }, fault))?;
            keep(&mut found, agent, seq, facts);
        }
        let blocks = sqlx::query(
            "SELECT from_seq, packed FROM history WHERE shard = $1 AND from_seq < $2
             ORDER BY from_seq DESC LIMIT $3",
        )
        .bind(i64::from(shard.get()))
        .bind(before_seq)
        .bind(limit.saturating_sub(i64::try_from(ticks.len()).unwrap_or(limit)))
        .fetch_all(&mut *snapshot)
        .await?;
        for row in blocks {
            let from_seq = natural(row.try_get(0)?).unwrap_or_default();
            let unreadable =
                |fault| StoreError::unreadable(RowName::History { shard, from_seq }, fault);
            let ticks: Ticks = packed::unpack(row.try_get(1)?).map_err(unreadable)?;
            for (seq, facts) in (from_seq..)
                .zip(ticks)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                if number(seq)? < before_seq {
                    keep(&mut found, agent, seq, facts);
                }
            }
        }
        Ok(found)
    }
}

fn keep(found: &mut Vec<HistoryOutcome>, agent: &AgentId, seq: u64, facts: Vec<Facts>) {
    let of_agent = facts.into_iter().filter(|facts| facts.agent == *agent);
    found.extend(of_agent.map(|facts| HistoryOutcome {
        seq,
        at_unix_ms: facts.at_unix_ms,
        verdict: facts.verdict,
        code: facts.code,
        policy: facts.policy,
        evidence_sha256: facts.evidence_sha256,
    }));
}

/// Rows that one query of the walk reads.
const WALK_ROWS: i64 = 256;

pub(crate) async fn verify(
    connection: &mut Connection,
    shard: ShardIndex,
) -> Result<Result<VerifiedChain, ChainFault>, StoreError> {
    let id = i64::from(shard.get());
    let unreadable = |fault| StoreError::unreadable(RowName::Shard(id), fault);
    let row = sqlx::query("SELECT seq, head, kept_seq, kept_head FROM shard WHERE id = $1")
        .bind(id)
        .fetch_one(&mut *connection)
        .await?;
    let expected = natural(row.try_get(0)?).map_err(unreadable)?;
    let head = chain_hash(row.try_get(1)?).map_err(unreadable)?;
    let kept_seq = natural(row.try_get(2)?).map_err(unreadable)?;
    let mut walk = Walk {
        seq: kept_seq,
        head: chain_hash(row.try_get(3)?).map_err(unreadable)?,
        outcomes: 0,
        unreadable: 0,
    };
    for source in [BLOCKS, TICKS] {
        if let Err(fault) = walk_rows(connection, shard, source, &mut walk).await? {
            return Ok(Err(fault));
        }
    }
    if walk.seq != expected {
        return Ok(Err(ChainFault::End {
            found: walk.seq,
            expected,
        }));
    }
    if walk.head != head {
        return Ok(Err(ChainFault::Head));
    }
    Ok(Ok(VerifiedChain {
        kept_seq,
        seq: walk.seq,
        head,
        outcomes: walk.outcomes,
        unreadable: walk.unreadable,
    }))
}

/// Where rows of a chain are, and how their content is read.
struct Source {
    sql: &'static str,
    read: fn(&[u8]) -> Result<Ticks, Fault>,
}

/// History, and between its blocks the ticks that were set aside.
const BLOCKS: Source = Source {
    sql: "SELECT from_seq, to_seq, before, after, packed, 0 FROM history
          WHERE shard = $1 AND from_seq > $2
          UNION ALL
          SELECT seq, seq, before, after, packed, 1 FROM unreadable_tick
          WHERE shard = $1 AND seq > $2
          ORDER BY 1 LIMIT $3",
    read: |bytes| packed::unpack(bytes),
};
const TICKS: Source = Source {
    sql: "SELECT seq, seq, before, after, packed, 0 FROM tick
          WHERE shard = $1 AND seq > $2 ORDER BY seq LIMIT $3",
    read: read_tick,
};

fn read_tick(bytes: &[u8]) -> Result<Ticks, Fault> {
    facts_of(bytes).map(|facts| vec![facts])
}

/// A tick that was set aside and can be read all the same is checked like any other.
fn read_set_aside(bytes: &[u8]) -> Content {
    match read_tick(bytes) {
        Ok(ticks) => Content::Ticks(Ok(ticks)),
        Err(_) => Content::SetAside,
    }
}

async fn walk_rows(
    connection: &mut Connection,
    shard: ShardIndex,
    source: Source,
    walk: &mut Walk,
) -> Result<Result<(), ChainFault>, StoreError> {
    let mut after_seq = -1;
    loop {
        let rows = sqlx::query(source.sql)
            .bind(i64::from(shard.get()))
            .bind(after_seq)
            .bind(WALK_ROWS)
            .fetch_all(&mut *connection)
            .await?;
        if rows.is_empty() {
            return Ok(Ok(()));
        }
        for row in rows {
            after_seq = row.try_get(0)?;
            let seq = walk.seq.saturating_add(1);
            let read = |fault| ChainFault::Unreadable { seq, fault };
            let step = || -> Result<_, sqlx::Error> {
                let span = (natural(row.try_get(0)?), natural(row.try_get(1)?));
                let heads = (chain_hash(row.try_get(2)?), chain_hash(row.try_get(3)?));
                let content = match row.try_get::<i64, _>(5)? {
                    0 => Content::Ticks((source.read)(row.try_get(4)?)),
                    _ => read_set_aside(row.try_get(4)?),
                };
                Ok((span, heads, content))
            };
            let (span, heads, content) = step()?;
            let step = match (span, heads) {
                ((Ok(from), Ok(to)), (Ok(before), Ok(after))) => {
                    walk.row((from, to), (before, after), content)
                }
                _ => Err(read(Fault::Content)),
            };
            if let Err(fault) = step {
                return Ok(Err(fault));
            }
        }
    }
}
