//! What was decided about Keylime's agents beside their verdicts: who is polled no more, and what
//! was told of whom.

use rat_engine::agent_id::AgentId;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural, time};
use crate::error::{RowName, StoreError};
use crate::keylime_policies::KeylimeKind;
use crate::limits;
use crate::noted::{NewMessage, queue};
use crate::packed::Fault;

/// Why an agent is not polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Halted {
    /// It is.
    #[default]
    Not,
    /// A tenant stopped it.
    ByTenant,
    /// It failed so gravely that it is not asked again.
    ByFailure,
}

impl Halted {
    const fn number(self) -> i64 {
        match self {
            Self::Not => 0,
            Self::ByTenant => 1,
            Self::ByFailure => 2,
        }
    }

    const fn of(number: i64) -> Result<Self, Fault> {
        match number {
            0 => Ok(Self::Not),
            1 => Ok(Self::ByTenant),
            2 => Ok(Self::ByFailure),
            _ => Err(Fault::Content),
        }
    }
}

/// What was told of a failure, at its gravest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldFailure {
    /// When the agent failed: another time is another failure.
    pub failed_unix_ms: u64,
    /// Its severity, as the policy had it then.
    pub severity: u8,
    /// Keylime's name of what failed.
    pub event_id: String,
}

/// How one of Keylime's agents stands, beside its verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotedStanding {
    /// Whether it is polled.
    pub halted: Halted,
    /// Verdicts up to this time stop it no more.
    pub resumed_unix_ms: u64,
    /// What was told of its failure; `None` when it is not failed, or nobody was told.
    pub failure: Option<ToldFailure>,
    /// Whether it was told that nothing is heard of it.
    pub is_silent: bool,
}

impl NotedStanding {
    /// Columns from this one on: halted, resumed_unix_ms, failed_unix_ms, severity, event_id,
    /// is_silent. All of them are null for an agent of which nothing is kept.
    pub(crate) fn beside(row: &SqliteRow, first: usize, id: &str) -> Result<Self, StoreError> {
        let unreadable = |fault| StoreError::unreadable(RowName::Agent(id.to_owned()), fault);
        let column = |number: usize| first.saturating_add(number);
        let halted: Option<i64> = row.try_get(column(0))?;
        let Some(halted) = halted else {
            return Ok(Self::default());
        };
        let failed: Option<i64> = row.try_get(column(2))?;
        let severity: Option<i64> = row.try_get(column(3))?;
        let event_id: Option<String> = row.try_get(column(4))?;
        let failure = match (failed, severity, event_id) {
            (Some(failed), Some(severity), Some(event_id)) => Some(ToldFailure {
                failed_unix_ms: natural(failed).map_err(unreadable)?,
                severity: u8::try_from(severity).map_err(|_| unreadable(Fault::Content))?,
                event_id,
            }),
            _ => None,
        };
        Ok(Self {
            halted: Halted::of(halted).map_err(unreadable)?,
            resumed_unix_ms: natural(row.try_get(column(1))?).map_err(unreadable)?,
            failure,
            is_silent: row.try_get(column(5))?,
        })
    }
}

impl Store {
    /// How an agent stands; as one of which nothing was decided, when nothing is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keylime_standing(&self, id: &AgentId) -> Result<NotedStanding, StoreError> {
        let row = sqlx::query(
            "SELECT halted, resumed_unix_ms, failed_unix_ms, severity, event_id, is_silent
             FROM keylime_standing WHERE shard = $1 AND id = $2",
        )
        .bind(i64::from(id.shard().get()))
        .bind(id.as_str())
        .fetch_optional(self.pools().read())
        .await?;
        let row = row.as_ref();
        let standing = row.map(|row| NotedStanding::beside(row, 0, id.as_str()));
        standing.transpose().map(Option::unwrap_or_default)
    }

    /// A tenant stops an agent, or takes it up again; with an entry in the audit log. False when
    /// there is no such agent.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing changed.
    pub async fn stop_keylime_agent(
        &self,
        id: &AgentId,
        is_stopped: bool,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let (halted, action) = match is_stopped {
            true => (Halted::ByTenant, "keylime.agent.stop"),
            false => (Halted::Not, "keylime.agent.reactivate"),
        };
        if !put_halted(&mut tx, id, halted, now_unix_ms).await? {
            return Ok(false);
        }
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action,
            target: id.as_str(),
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// An agent is polled no more because of a verdict of this time, unless it was taken up again
    /// since, or a tenant stopped it. Whether that is so now.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing changed.
    pub async fn halt_keylime_agent(
        &self,
        id: &AgentId,
        verdict_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let changed = sqlx::query(
            "INSERT INTO keylime_standing (shard, id, halted)
             SELECT shard, id, 2 FROM keylime_agent WHERE shard = $1 AND id = $2
             ON CONFLICT (shard, id) DO UPDATE SET halted = 2
                 WHERE halted = 0 AND resumed_unix_ms < $3",
        )
        .bind(i64::from(id.shard().get()))
        .bind(id.as_str())
        .bind(time(verdict_unix_ms))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(changed.rows_affected() > 0)
    }

    /// An agent that a failure stopped is polled again, because that failure is over or may be.
    /// Whether it was stopped by one.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing changed.
    pub async fn resume_keylime_agent(
        &self,
        id: &AgentId,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let changed = sqlx::query(
            "UPDATE keylime_standing SET halted = 0, resumed_unix_ms = $3
             WHERE shard = $1 AND id = $2 AND halted = 2",
        )
        .bind(i64::from(id.shard().get()))
        .bind(id.as_str())
        .bind(time(now_unix_ms))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(changed.rows_affected() > 0)
    }

    /// Agents that a failure stopped and that this policy judges, in order, after this one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keylime_agents_halted_under(
        &self,
        kind: KeylimeKind,
        policy: &str,
        after: &str,
        ids_max: u32,
    ) -> Result<Vec<String>, StoreError> {
        let sql = match kind {
            KeylimeKind::Runtime => {
                "SELECT s.id FROM keylime_standing s
                 JOIN keylime_agent k ON k.shard = s.shard AND k.id = s.id
                 WHERE s.halted = 2 AND k.runtime_policy = $1 AND s.id > $2 ORDER BY s.id LIMIT $3"
            }
            KeylimeKind::MeasuredBoot => {
                "SELECT s.id FROM keylime_standing s
                 JOIN keylime_agent k ON k.shard = s.shard AND k.id = s.id
                 WHERE s.halted = 2 AND k.mb_policy = $1 AND s.id > $2 ORDER BY s.id LIMIT $3"
            }
        };
        let ids = sqlx::query_scalar(sql)
            .bind(policy)
            .bind(after)
            .bind(ids_max.min(limits::PAGE_MAX));
        Ok(ids.fetch_all(self.pools().read()).await?)
    }

    /// Notes what is told of an agent, together with the messages that tell it, in one transaction:
    /// whatever becomes of this process, what was noted is in the queues. False when there is no such
    /// agent.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was noted.
    pub async fn note_keylime_told(
        &self,
        id: &AgentId,
        failure: Option<&ToldFailure>,
        is_silent: bool,
        messages: &[NewMessage],
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        if let Some(failure) = failure {
            limits::check_name("an event's id", &failure.event_id)?;
        }
        let mut tx = self.pools().write().await?;
        let noted = sqlx::query(
            "INSERT INTO keylime_standing
                 (shard, id, failed_unix_ms, severity, event_id, is_silent)
             SELECT shard, id, $3, $4, $5, $6 FROM keylime_agent WHERE shard = $1 AND id = $2
             ON CONFLICT (shard, id) DO UPDATE SET failed_unix_ms = excluded.failed_unix_ms,
                 severity = excluded.severity, event_id = excluded.event_id,
                 is_silent = excluded.is_silent",
        )
        .bind(i64::from(id.shard().get()))
        .bind(id.as_str())
        .bind(failure.map(|it| time(it.failed_unix_ms)))
        .bind(failure.map(|it| i64::from(it.severity)))
        .bind(failure.map(|it| it.event_id.as_str()))
        .bind(is_silent)
        .execute(&mut *tx)
        .await?;
        if noted.rows_affected() == 0 {
            return Ok(false);
        }
        for message in messages {
            queue(&mut tx, id.as_str(), message, now_unix_ms).await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// Notes what another verifier told of an agent that is added.
pub(crate) async fn put_told(
    tx: &mut Connection,
    id: &AgentId,
    told: &ToldFailure,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO keylime_standing (shard, id, failed_unix_ms, severity, event_id)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(i64::from(id.shard().get()))
    .bind(id.as_str())
    .bind(time(told.failed_unix_ms))
    .bind(i64::from(told.severity))
    .bind(&told.event_id)
    .execute(tx)
    .await?;
    Ok(())
}

pub(crate) async fn put_halted(
    tx: &mut Connection,
    id: &AgentId,
    halted: Halted,
    now_unix_ms: u64,
) -> Result<bool, StoreError> {
    let changed = sqlx::query(
        "INSERT INTO keylime_standing (shard, id, halted, resumed_unix_ms)
         SELECT shard, id, $3, $4 FROM keylime_agent WHERE shard = $1 AND id = $2
         ON CONFLICT (shard, id) DO UPDATE
         SET halted = excluded.halted, resumed_unix_ms = excluded.resumed_unix_ms",
    )
    .bind(i64::from(id.shard().get()))
    .bind(id.as_str())
    .bind(halted.number())
    .bind(time(now_unix_ms))
    .execute(tx)
    .await?;
    Ok(changed.rows_affected() > 0)
}
