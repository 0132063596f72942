//! Reading agents back: rows, and over them the tail of ticks.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::{AgentRecord, AgentState, ChainHash, Epoch};
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row};

use crate::Store;
use crate::database::{Connection, chain_hash, natural, shard_index};
use crate::error::{RowName, StoreError};
use crate::packed::{self, Fault};

/// An agent as it was last committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAgent {
    /// What enrolment bound.
    pub record: AgentRecord,
    /// What attestation showed.
    pub state: AgentState,
}

/// An agent that cannot be served, because what is stored of it cannot be read. (S06)
///
/// It is not trusted and nothing says whether it has failed: an operator removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its id.
    pub agent: String,
    /// The slug of its group.
    pub group: String,
    /// Its shard.
    pub shard: ShardIndex,
    /// What cannot be read.
    pub row: RowName,
    /// Why.
    pub fault: Fault,
}

/// What a range of shards holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaded {
    /// The agents.
    pub agents: Vec<StoredAgent>,
    /// Agents that cannot be read; all others are above.
    pub unreadable: Vec<Unreadable>,
}

/// Where a shard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardHead {
    /// The shard.
    pub shard: ShardIndex,
    /// Who may write.
    pub epoch: Epoch,
    /// The newest tick; 0 before the first.
    pub seq: u64,
    /// The chain's head after it.
    pub head: ChainHash,
}

impl ShardHead {
    pub(crate) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let id: i64 = row.try_get("id")?;
        let unreadable = |fault| StoreError::unreadable(RowName::Shard(id), fault);
        Ok(Self {
            shard: shard_index(id)?,
            epoch: Epoch(natural(row.try_get("epoch")?).map_err(unreadable)?),
            seq: natural(row.try_get("seq")?).map_err(unreadable)?,
            head: chain_hash(row.try_get("head")?).map_err(unreadable)?,
        })
    }
}

impl Store {
    /// Makes `owner` the owner of every shard, under a new epoch: from now on ticks of older
    /// epochs are refused. (S04)
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_ownership(&self, owner: &str) -> Result<Epoch, StoreError> {
        crate::limits::check_name("owner", owner)?;
        let mut tx = self.pools().write().await?;
        let epoch: i64 = sqlx::query_scalar(
            "UPDATE shard SET owner = $1, epoch = (SELECT max(epoch) + 1 FROM shard)
             RETURNING epoch",
        )
        .bind(owner)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        let epoch = natural(epoch).map_err(|f| StoreError::unreadable(RowName::Shard(0), f))?;
        Ok(Epoch(epoch))
    }

    /// Where every shard stands, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn heads(&self) -> Result<Vec<ShardHead>, StoreError> {
        sqlx::query("SELECT id, epoch, seq, head FROM shard ORDER BY id")
            .fetch_all(self.pools().read())
            .await?
            .iter()
            .map(ShardHead::read)
            .collect()
    }

    /// Every agent of these shards, as it was last committed.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails. An agent that cannot be read is no error: it is
    /// listed in [`Loaded::unreadable`], and the others are loaded. (S06)
    ///
    /// # Cost
    /// Two queries, however many agents there are, over a connection of its own: what SQLite keeps
    /// of the pages that it read goes with it.
    pub async fn load(&self, shards: RangeInclusive<ShardIndex>) -> Result<Loaded, StoreError> {
        let mut connection = self.pools().connect().await?;
        let loaded = load(&mut connection, shards).await;
        connection.close().await?;
        loaded
    }
}

async fn load(
    connection: &mut Connection,
    shards: RangeInclusive<ShardIndex>,
) -> Result<Loaded, StoreError> {
    // One snapshot: between two, the folder could move a tick out of both results.
    let mut snapshot = connection.begin().await?;
    let (from, to) = (shards.start().get(), shards.end().get());
    let tail = Tail::read(&mut snapshot, from, to).await?;
    let rows = sqlx::query(
        "SELECT a.shard, a.id, a.packed, s.seq, s.suspect_seq, s.packed, a.slug
         FROM agent a LEFT JOIN agent_state s ON s.shard = a.shard AND s.agent = a.id
         WHERE a.shard BETWEEN $1 AND $2 ORDER BY a.shard, a.id",
    )
    .bind(i64::from(from))
    .bind(i64::from(to))
    .fetch_all(&mut *snapshot)
    .await?;
    let mut loaded = Loaded::default();
    for row in rows {
        let shard = shard_index(row.try_get(0)?)?;
        let id: &str = row.try_get(1)?;
        match read_agent(&row, shard, id, &tail) {
            Ok(agent) => loaded.agents.push(agent),
            Err(StoreError::Unreadable { row: name, fault }) => {
                loaded.unreadable.push(Unreadable {
                    agent: id.to_owned(),
                    group: row.try_get(6)?,
                    shard,
                    row: name,
                    fault,
                })
            }
            Err(error) => return Err(error),
        }
    }
    Ok(loaded)
}

fn read_agent(
    row: &SqliteRow,
    shard: ShardIndex,
    id: &str,
    tail: &Tail,
) -> Result<StoredAgent, StoreError> {
    let record = read_record(id, row.try_get(2)?)?;
    let state_row = || RowName::State(id.to_owned());
    let stored = match row.try_get::<Option<i64>, _>(3)? {
        Some(seq) => Some(StateRow {
            seq: natural(seq).map_err(|f| StoreError::unreadable(state_row(), f))?,
            suspect_seq: natural(row.try_get(4)?)
                .map_err(|f| StoreError::unreadable(state_row(), f))?,
            packed: row.try_get(5)?,
        }),
        None => None,
    };
    let state = stored
        .ok_or(Fault::Short)
        .and_then(|stored| tail.state_of(shard, &record.id, &stored))
        .map_err(|fault| StoreError::unreadable(state_row(), fault))?;
    Ok(StoredAgent { record, state })
}

/// The record of the agent whose row this is: a record that names another agent is damaged.
pub(crate) fn read_record(id: &str, bytes: &[u8]) -> Result<AgentRecord, StoreError> {
    packed::unpack::<AgentRecord>(bytes)
        .and_then(|record| match record.id.as_str() == id {
            true => Ok(record),
            false => Err(Fault::Content),
        })
        .map_err(|fault| StoreError::unreadable(RowName::Agent(id.to_owned()), fault))
}

/// A row of agent_state.
pub(crate) struct StateRow<'a> {
    pub(crate) seq: u64,
    pub(crate) suspect_seq: u64,
    pub(crate) packed: &'a [u8],
}

/// A tick as it is stored.
pub(crate) struct TickRow {
    pub(crate) shard: ShardIndex,
    pub(crate) seq: u64,
    pub(crate) epoch: i64,
    pub(crate) before: ChainHash,
    pub(crate) after: ChainHash,
    pub(crate) packed: Vec<u8>,
}

impl TickRow {
    /// Columns shard, seq, epoch, before, after, packed.
    pub(crate) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let shard = shard_index(row.try_get(0)?)?;
        let seq = natural(row.try_get(1)?)
            .map_err(|f| StoreError::unreadable(RowName::Shard(shard.get().into()), f))?;
        let unreadable = |fault| StoreError::unreadable(RowName::Tick { shard, seq }, fault);
        Ok(Self {
            shard,
            seq,
            epoch: row.try_get(2)?,
            before: chain_hash(row.try_get(3)?).map_err(unreadable)?,
            after: chain_hash(row.try_get(4)?).map_err(unreadable)?,
            packed: row.try_get(5)?,
        })
    }
}

/// What a run of ticks says of agents: of each the newest outcome that can be read.
#[derive(Default)]
pub(crate) struct Tail {
    newest: HashMap<AgentId, (u64, Vec<u8>)>,
    /// The newest tick of a shard that could not be read to its end.
    broken: HashMap<ShardIndex, u64>,
}

/// An agent's newest packed state, and the tick that it is of.
pub(crate) type NewestState = (ShardIndex, AgentId, u64, Vec<u8>);

impl Tail {
    async fn read(connection: &mut Connection, from: u16, to: u16) -> Result<Self, StoreError> {
        let rows = sqlx::query(
            "SELECT shard, seq, epoch, before, after, packed FROM tick
             WHERE shard BETWEEN $1 AND $2 ORDER BY shard, seq",
        )
        .bind(i64::from(from))
        .bind(i64::from(to))
        .fetch_all(connection)
        .await?;
        let mut tail = Self::default();
        for row in rows {
            let tick = TickRow::read(&row)?;
            let (outcomes, fault) = packed::unpack_outcomes(&tick.packed);
            for outcome in outcomes {
                tail.outcome(tick.seq, outcome.facts.agent, outcome.state);
            }
            if fault.is_some() {
                tail.broken(tick.shard, tick.seq);
            }
        }
        Ok(tail)
    }

    /// Adds the outcome of a tick that is newer than all before it.
    pub(crate) fn outcome(&mut self, seq: u64, agent: AgentId, state: Vec<u8>) {
        self.newest.insert(agent, (seq, state));
    }

    /// Notes that a tick could not be read to its end.
    pub(crate) fn broken(&mut self, shard: ShardIndex, seq: u64) {
        self.broken.insert(shard, seq);
    }

    /// The newest states in key order, and the broken ticks.
    pub(crate) fn into_parts(self) -> (Vec<NewestState>, HashMap<ShardIndex, u64>) {
        let mut newest: Vec<_> = self
            .newest
            .into_iter()
            .map(|(agent, (seq, state))| (agent.shard(), agent, seq, state))
            .collect();
        newest.sort_unstable();
        (newest, self.broken)
    }

    /// The newest state of an agent, whose row this is.
    fn state_of(
        &self,
        shard: ShardIndex,
        agent: &AgentId,
        row: &StateRow<'_>,
    ) -> Result<AgentState, Fault> {
        let (seq, bytes) = match self.newest.get(agent) {
            Some((seq, state)) if *seq > row.seq => (*seq, state.as_slice()),
            _ => (row.seq, row.packed),
        };
        let broken = self.broken.get(&shard).copied().unwrap_or(0);
        let suspect_seq = row.suspect_seq.max(broken);
        if suspect_seq > seq {
            return Err(Fault::NewerTick { seq: suspect_seq });
        }
        packed::unpack(bytes)
    }
}

/// The state in a row, of an agent whose shard has no tail of ticks.
pub(crate) fn folded_state(row: &StateRow<'_>) -> Result<AgentState, Fault> {
    if row.suspect_seq > row.seq {
        return Err(Fault::NewerTick {
            seq: row.suspect_seq,
        });
    }
    packed::unpack(row.packed)
}
