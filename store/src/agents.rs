//! Agents' records: listing, changing and removing them.

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentPath, AgentRecord, BaselineCandidate, Failure};
use rat_engine::verdict::Code;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural, number, shard_index};
use crate::enrolment::{self, FailedMachine};
use crate::error::{RowName, StoreError};
use crate::groups;
use crate::keylime_agents;
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

/// The query of agents after an id, with a condition.
macro_rules! listing {
    ($condition:literal) => {
        concat!(
            "SELECT shard, id, packed, hostname, ip, registered_unix_ms FROM agent
             WHERE id > $1",
            $condition,
            " ORDER BY id LIMIT $2"
        )
    };
}

impl AgentFilter<'_> {
    /// A query for each kind of filter, so that the database knows by which index to go: what is
    /// left out is never looked at.
    const fn sql(&self) -> &'static str {
        match (self.group, self.hostname) {
            (None, None) => listing!(""),
            (Some(_), None) => listing!(" AND slug = $3"),
            (None, Some(_)) => listing!(" AND hostname = $4 COLLATE NOCASE"),
            // Few machines share a name; the index of names is the better one.
            (Some(_), Some(_)) => listing!(" AND hostname = $4 COLLATE NOCASE AND +slug = $3"),
        }
    }
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
        let rows = sqlx::query(filter.sql())
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
                    group: row.try_get(6)?,
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
    /// A machine whose state cannot be read may have failed. It is taken for failed, by
    /// [`Code::IdentityHistoryLost`], until somebody has looked at it.
    ///
    /// # Errors
    /// [`StoreError`].
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
            (OnRemoval::KeepFailure, Some(state)) => state.failure.map(|failure| *failure),
            (OnRemoval::KeepFailure, None) => Some(history_lost(&group, now_unix_ms)),
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

fn history_lost(group: &str, now_unix_ms: u64) -> Failure {
    let code = Code::IdentityHistoryLost;
    Failure {
        code,
        detail: code.cause().to_owned(),
        entry: None,
        path: None,
        digest: None,
        at_unix_ms: now_unix_ms,
        under_policy: None,
        group: Some(group.to_owned()),
    }
}

async fn delete(
    tx: &mut Connection,
    machine: &FailedMachine<'_>,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    let id = machine.agent;
    let shard = i64::from(id.shard().get());
    let is_keylimes: i64 =
        sqlx::query_scalar("SELECT count(*) FROM keylime_agent WHERE shard = $1 AND id = $2")
            .bind(shard)
            .bind(id.as_str())
            .fetch_one(&mut *tx)
            .await?;
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
    if is_keylimes > 0 {
        keylime_agents::remove_own_policies(tx, id).await?;
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

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;

    /// How the database goes about a query, in one line.
    async fn plan(store: &Store, filter: AgentFilter<'_>) -> String {
        let sql = format!("EXPLAIN QUERY PLAN {}", filter.sql());
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind("")
            .bind(10)
            .bind(filter.group)
            .bind(filter.hostname)
            .fetch_all(store.pools().read())
            .await;
        let steps = rows.unwrap();
        let steps = steps.iter().map(|row| row.get::<String, _>("detail"));
        steps.collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn every_listing_goes_by_an_index_in_the_order_of_ids() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let (group, hostname) = (Some("g"), Some("h"));
        for (group, hostname, index) in [
            (None, None, "agent_by_id (id>?)"),
            (group, None, "agent_by_group (slug=? AND id>?)"),
            (None, hostname, "agent_by_hostname (hostname=? AND id>?)"),
            (group, hostname, "agent_by_hostname (hostname=? AND id>?)"),
        ] {
            let plan = plan(&store, AgentFilter { group, hostname }).await;
            assert!(plan.contains(index), "{plan}");
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP"), "{plan}");
        }
    }
}
