//! Agents' records: listing, changing and removing them.

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentPath, AgentRecord, BaselineCandidate, Failure};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural, number, shard_index};
use crate::enrolment::{self, FailedMachine};
use crate::error::{RowName, StoreError};
use crate::groups;
use crate::limits;
use crate::load::{self, Unreadable};
use crate::packed;

/// What a machine said of itself when it enrolled; nothing relies on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its host name.
    pub hostname: String,
    /// The address that it enrolled from.
    pub ip: String,
    /// When.
    pub registered_unix_ms: u64,
}

/// An agent's record, and what it said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// What enrolment bound.
    pub record: AgentRecord,
    /// What it said.
    pub registration: Registration,
}

/// What becomes of a removed agent's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnRemoval {
    /// It stays with the machine: enrolled again, it is failed. (S16)
    KeepFailure,
    /// An operator clears it, as the audit log says.
    ClearFailure,
}

/// An agent that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its record, when that can be read.
    pub record: Option<AgentRecord>,
    /// The failure that was kept.
    pub failure: Option<Failure>,
}

/// What an operator, or the proof of a baseline, changes in a record. Identity, keys and path
/// are not among it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordChange {
    /// The agent moves to another group.
    Group(String),
    /// The relay that it speaks through.
    Relay(Option<[u8; 32]>),
    /// The policy that its first covering quote makes its group's.
    Baseline(Option<BaselineCandidate>),
}

/// Which agents a listing is about; a member that is `None` leaves none out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentFilter<'a> {
    /// Those of this group.
    pub group: Option<&'a str>,
    /// Those with this host name; host names have no case.
    pub hostname: Option<&'a str>,
}

const fn path_text(path: AgentPath) -> &'static str {
    match path {
        AgentPath::Native => "native",
        AgentPath::KeylimePull => "keylime_pull",
        AgentPath::KeylimePush => "keylime_push",
    }
}

/// Writes a new agent's row; its columns repeat parts of the record, for constraints and search.
pub(crate) async fn insert(
    tx: &mut Connection,
    record: &AgentRecord,
    registration: &Registration,
) -> Result<(), StoreError> {
    limits::check_name("a host name", &registration.hostname)?;
    limits::check_name("an address", &registration.ip)?;
    sqlx::query(
        "INSERT INTO agent (shard, id, slug, path, ek_sha256, ak_epoch, hostname, ip,
                            registered_unix_ms, packed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(i64::from(record.id.shard().get()))
    .bind(record.id.as_str())
    .bind(&record.group)
    .bind(path_text(record.path))
    .bind(&record.ek_sha256[..])
    .bind(record.ak_epoch)
    .bind(&registration.hostname)
    .bind(&registration.ip)
    .bind(number(registration.registered_unix_ms)?)
    .bind(packed::pack(record)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes a changed record over the old one of the same id.
pub(crate) async fn update(tx: &mut Connection, record: &AgentRecord) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE agent SET slug = $3, path = $4, ek_sha256 = $5, ak_epoch = $6, packed = $7
         WHERE shard = $1 AND id = $2",
    )
    .bind(i64::from(record.id.shard().get()))
    .bind(record.id.as_str())
    .bind(&record.group)
    .bind(path_text(record.path))
    .bind(&record.ek_sha256[..])
    .bind(record.ak_epoch)
    .bind(packed::pack(record)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what a machine said of itself when it enrolled again.
pub(crate) async fn update_registration(
    tx: &mut Connection,
    agent: &AgentId,
    registration: &Registration,
) -> Result<(), StoreError> {
    limits::check_name("a host name", &registration.hostname)?;
    limits::check_name("an address", &registration.ip)?;
    sqlx::query(
        "UPDATE agent SET hostname = $3, ip = $4, registered_unix_ms = $5
         WHERE shard = $1 AND id = $2",
    )
    .bind(i64::from(agent.shard().get()))
    .bind(agent.as_str())
    .bind(&registration.hostname)
    .bind(&registration.ip)
    .bind(number(registration.registered_unix_ms)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Columns shard, id, packed, hostname, ip, registered_unix_ms.
fn read(row: &SqliteRow) -> Result<StoredRecord, StoreError> {
    let id: &str = row.try_get(1)?;
    let unreadable = |fault| StoreError::unreadable(RowName::Agent(id.to_owned()), fault);
    Ok(StoredRecord {
        record: load::read_record(id, row.try_get(2)?)?,
        registration: Registration {
            hostname: row.try_get(3)?,
            ip: row.try_get(4)?,
            registered_unix_ms: natural(row.try_get(5)?).map_err(unreadable)?,
        },
    })
}

impl Store {
    /// Agents after this id, in order of ids. One whose record cannot be read stands in its
    /// place as [`Unreadable`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn agents(
        &self,
        after_id: &str,
        agents_max: u32,
    ) -> Result<Vec<Result<StoredRecord, Unreadable>>, StoreError> {
        self.agents_of(AgentFilter::default(), after_id, agents_max)
            .await
    }

    /// The same of those that a filter leaves.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn agents_of(
        &self,
        filter: AgentFilter<'_>,
        after_id: &str,
        agents_max: u32,
    ) -> Result<Vec<Result<StoredRecord, Unreadable>>, StoreError> {
        let rows = sqlx::query(
            "SELECT shard, id, packed, hostname, ip, registered_unix_ms FROM agent
             WHERE id > $1 AND ($3 IS NULL OR slug = $3)
               AND ($4 IS NULL OR hostname = $4 COLLATE NOCASE)
             ORDER BY id LIMIT $2",
        )
        .bind(after_id)
        .bind(agents_max.min(limits::PAGE_MAX))
        .bind(filter.group)
        .bind(filter.hostname)
        .fetch_all(self.pools().read())
        .await?;
        let mut agents = Vec::with_capacity(rows.len());
        for row in rows {
            agents.push(match read(&row) {
                Ok(agent) => Ok(agent),
                Err(StoreError::Unreadable { row: name, fault }) => Err(Unreadable {
                    agent: row.try_get(1)?,
                    shard: shard_index(row.try_get(0)?)?,
                    row: name,
                    fault,
                }),
                Err(error) => return Err(error),
            });
        }
        Ok(agents)
    }

    /// How many agents are enrolled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn agent_count(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM agent")
            .fetch_one(self.pools().read())
            .await?;
        Ok(natural(count).unwrap_or_default())
    }

    /// The agent with this id.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when its record cannot be read.
    pub async fn agent(&self, id: &AgentId) -> Result<Option<StoredRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT shard, id, packed, hostname, ip, registered_unix_ms FROM agent
             WHERE shard = $1 AND id = $2",
        )
        .bind(i64::from(id.shard().get()))
        .bind(id.as_str())
        .fetch_optional(self.pools().read())
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Changes one thing in an agent's record; its state, and so its failure, stays. `None` when
    /// there is no such agent.
    ///
    /// A failure says in which group it was, and what another one allows does not end it. (S16) Its
    /// shard must not have the agent meanwhile, or would go on by the old record.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without the new group.
    pub async fn change_agent(
        &self,
        id: &AgentId,
        change: RecordChange,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<Option<AgentRecord>, StoreError> {
        let mut tx = self.pools().write().await?;
        let Some(mut record) = enrolment::enrolled(&mut tx, id).await? else {
            return Ok(None);
        };
        let (action, detail) = match change {
            RecordChange::Group(group) => {
                groups::require(&mut tx, &group).await?;
                let detail = format!("from {} to {group}", record.group);
                record.group = group;
                ("agent.move", detail)
            }
            RecordChange::Relay(relay) => {
                record.relay_key_sha256 = relay;
                ("agent.relay", relay.map(hex::encode).unwrap_or_default())
            }
            RecordChange::Baseline(baseline) => {
                let policy = baseline
                    .as_ref()
                    .map(|baseline| baseline.policy.to_string());
                record.baseline = baseline;
                ("agent.baseline", policy.unwrap_or_default())
            }
        };
        update(&mut tx, &record).await?;
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action,
            target: id.as_str(),
            detail: &detail,
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Some(record))
    }

    /// Removes an agent; `None` when there is none. Its failure stays with its machine unless an
    /// operator clears it. (S16)
    ///
    /// Call it after the agent's shard has forgotten the agent and its tick in flight is
    /// answered: then nothing more is committed about it. A failure that is committed later all
    /// the same still sticks to the machine.
    ///
    /// # Errors
    /// [`StoreError::StateUnknown`] when its state cannot be read and its failure is to be kept.
    pub async fn remove_agent(
        &self,
        id: &AgentId,
        failure: OnRemoval,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<Option<Removed>, StoreError> {
        let mut tx = self.pools().write().await?;
        let shard = i64::from(id.shard().get());
        let bound: Option<(Vec<u8>, String)> =
            sqlx::query_as("SELECT ek_sha256, slug FROM agent WHERE shard = $1 AND id = $2")
                .bind(shard)
                .bind(id.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        let Some((ek_sha256, group)) = bound else {
            return Ok(None);
        };
        let machine = FailedMachine {
            ek_sha256: &ek_sha256,
            group: &group,
            agent: id,
        };
        let record = readable(enrolment::enrolled(&mut tx, id).await)?.flatten();
        let state = readable(enrolment::current_state(&mut tx, id).await)?;
        let kept = match (failure, state) {
            (OnRemoval::ClearFailure, _) => None,
            (OnRemoval::KeepFailure, Some(state)) => state.failure,
            (OnRemoval::KeepFailure, None) => {
                return Err(StoreError::StateUnknown {
                    agent: id.as_str().to_owned(),
                });
            }
        };
        if let Some(failure) = &kept {
            enrolment::keep_failure(&mut tx, &machine, failure).await?;
        }
        delete(&mut tx, &machine, now_unix_ms).await?;
        let detail = match (failure, &kept) {
            (OnRemoval::ClearFailure, _) => "failure cleared",
            (OnRemoval::KeepFailure, Some(_)) => "failure kept with the machine",
            (OnRemoval::KeepFailure, None) => "",
        };
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "agent.remove",
            target: id.as_str(),
            detail,
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Some(Removed {
            record,
            failure: kept,
        }))
    }
}

/// What was read, or `None` when the row is damaged; other errors stay errors.
fn readable<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Unreadable { .. } | StoreError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn delete(
    tx: &mut Connection,
    machine: &FailedMachine<'_>,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    let id = machine.agent;
    let shard = i64::from(id.shard().get());
    for sql in [
        "DELETE FROM agent WHERE shard = $1 AND id = $2",
        "UPDATE log SET is_newest = 0 WHERE shard = $1 AND agent = $2 AND is_newest = 1",
        "DELETE FROM removed_agent WHERE shard = $1 AND id = $2",
    ] {
        sqlx::query(sql)
            .bind(shard)
            .bind(id.as_str())
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(
        "INSERT INTO removed_agent (shard, id, ek_sha256, slug, removed_unix_ms, removed_seq)
         SELECT id, $2, $3, $4, $5, seq FROM shard WHERE id = $1",
    )
    .bind(shard)
    .bind(id.as_str())
    .bind(machine.ek_sha256)
    .bind(machine.group)
    .bind(number(now_unix_ms)?)
    .execute(&mut *tx)
    .await?;
    Ok(())
}
