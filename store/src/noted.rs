//! Which status of each agent was noted last, and the messages that a change of it leads to.

use std::collections::HashMap;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::EffectiveStatus;
use sqlx::Row;

use crate::Store;
use crate::database::{Connection, natural, time};
use crate::error::{RowName, StoreError};
use crate::limits;

/// An agent's status, to be noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusNote {
    /// The agent.
    pub agent: AgentId,
    /// What it was before, as whoever tells it says. When that is not what was noted last,
    /// something was missed. `None` when the status was looked up, and so is the newest.
    pub from: Option<EffectiveStatus>,
    /// What it is.
    pub to: EffectiveStatus,
}

/// A status that is another than the one noted last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange<'a> {
    /// Its place among the notes.
    pub note: usize,
    /// The agent.
    pub agent: &'a AgentId,
    /// What its machine calls itself; empty when it never said.
    pub hostname: String,
    /// Its group.
    pub group: String,
    /// The version that its group enforces.
    pub enforced_version: Option<u64>,
    /// What was noted last; `None` when nothing was.
    pub from: Option<EffectiveStatus>,
    /// What it is.
    pub to: EffectiveStatus,
}

/// A message for a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The webhook's name.
    pub webhook: String,
    /// The message's id, as its receiver sees it.
    pub id: String,
    /// What is sent.
    pub body: String,
}

/// What became of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Noted {
    /// It was noted, with so many messages.
    Changed {
        /// How many.
        messages: u64,
    },
    /// The same was noted before.
    Same,
    /// It does not follow what was noted last: it is old, or others before it were missed. It was
    /// not noted; whoever told it looks up how the agent stands.
    OutOfStep,
    /// There is no such agent.
    Unknown,
}

/// What is noted of an agent, and what messages say of it.
struct Known {
    hostname: String,
    group: String,
    enforced_version: Option<u64>,
    /// One that this program does not know counts as none.
    status: Option<EffectiveStatus>,
}

impl Store {
    /// Notes statuses, each together with the messages that `compose` makes of its change, in one
    /// transaction: whatever becomes of this process, an agent's newest status was either told to
    /// the webhooks' queues or differs from the one that is noted.
    ///
    /// `compose` is called for changes only, in order. It may be called and the transaction fail.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was noted.
    pub async fn note_statuses(
        &self,
        notes: &[StatusNote],
        now_unix_ms: u64,
        mut compose: impl FnMut(&StatusChange<'_>) -> Vec<NewMessage> + Send,
    ) -> Result<Vec<Noted>, StoreError> {
        let mut tx = self.pools().write().await?;
        let mut noted = Vec::with_capacity(notes.len());
        for (place, note) in notes.iter().enumerate() {
            let Some(known) = known(&mut tx, &note.agent).await? else {
                noted.push(Noted::Unknown);
                continue;
            };
            if known.status == Some(note.to) {
                noted.push(Noted::Same);
                continue;
            }
            if known.status.is_some() && note.from.is_some() && known.status != note.from {
                noted.push(Noted::OutOfStep);
                continue;
            }
            put(&mut tx, note, now_unix_ms).await?;
            let change = StatusChange {
                note: place,
                agent: &note.agent,
                hostname: known.hostname,
                group: known.group,
                enforced_version: known.enforced_version,
                from: known.status.or(note.from),
                to: note.to,
            };
            let mut messages = 0_u64;
            for message in compose(&change) {
                queue(&mut tx, note.agent.as_str(), &message, now_unix_ms).await?;
                messages = messages.saturating_add(1);
            }
            noted.push(Noted::Changed { messages });
        }
        tx.commit().await?;
        Ok(noted)
    }

    /// The statuses noted of a shard's agents, by their ids.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn noted_statuses(
        &self,
        shard: ShardIndex,
    ) -> Result<HashMap<String, EffectiveStatus>, StoreError> {
        let rows = sqlx::query("SELECT agent, status FROM noted_status WHERE shard = $1")
            .bind(i64::from(shard.get()))
            .fetch_all(self.pools().read())
            .await?;
        let mut noted = HashMap::with_capacity(rows.len());
        for row in rows {
            if let Some(status) = status_of(row.try_get(1)?) {
                noted.insert(row.try_get(0)?, status);
            }
        }
        Ok(noted)
    }

    /// Whether every agent's status was noted once, so that one without a note is new.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn are_statuses_noted(&self) -> Result<bool, StoreError> {
        let marks: i64 = sqlx::query_scalar("SELECT count(*) FROM meta WHERE name = $1")
            .bind(ALL_NOTED)
            .fetch_one(self.pools().read())
            .await?;
        Ok(marks > 0)
    }

    /// Remembers that every agent's status was noted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn statuses_are_noted(&self) -> Result<(), StoreError> {
        let mut tx = self.pools().write().await?;
        sqlx::query("INSERT OR IGNORE INTO meta (name, value) VALUES ($1, '')")
            .bind(ALL_NOTED)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The mark, among the facts about the database.
pub(crate) const ALL_NOTED: &str = "statuses_noted";

async fn known(tx: &mut Connection, agent: &AgentId) -> Result<Option<Known>, StoreError> {
    let row = sqlx::query(
        "SELECT a.hostname, a.slug, g.enforced_version, n.status FROM agent a
         JOIN policy_group g ON g.slug = a.slug
         LEFT JOIN noted_status n ON n.shard = a.shard AND n.agent = a.id
         WHERE a.shard = $1 AND a.id = $2",
    )
    .bind(i64::from(agent.shard().get()))
    .bind(agent.as_str())
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let group: String = row.try_get(1)?;
    let version: Option<i64> = row.try_get(2)?;
    let unreadable = |fault| StoreError::unreadable(RowName::Group(group.clone()), fault);
    let enforced_version = version.map(natural).transpose().map_err(unreadable)?;
    let status: Option<&str> = row.try_get(3)?;
    let status = status.and_then(status_of);
    Ok(Some(Known {
        hostname: row.try_get(0)?,
        group,
        enforced_version,
        status,
    }))
}

fn status_of(text: &str) -> Option<EffectiveStatus> {
    let mut all = EffectiveStatus::ALL.into_iter();
    all.find(|status| status.as_str() == text)
}

async fn put(tx: &mut Connection, note: &StatusNote, now_unix_ms: u64) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO noted_status (shard, agent, status, noted_unix_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT (shard, agent)
         DO UPDATE SET status = excluded.status, noted_unix_ms = excluded.noted_unix_ms",
    )
    .bind(i64::from(note.agent.shard().get()))
    .bind(note.agent.as_str())
    .bind(note.to.as_str())
    .bind(time(now_unix_ms))
    .execute(tx)
    .await?;
    Ok(())
}

/// Puts a message behind the others about its subject; alone, it is due at once.
pub(crate) async fn queue(
    tx: &mut Connection,
    subject: &str,
    message: &NewMessage,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    limits::check_name("a webhook's name", &message.webhook)?;
    limits::check_name("a message's id", &message.id)?;
    limits::check("a message", message.body.len(), limits::MESSAGE_BYTES_MAX)?;
    sqlx::query(
        "INSERT INTO webhook_message
             (webhook, subject, message, body, queued_unix_ms, attempts, due_unix_ms)
         SELECT $1, $2, $3, $4, $5, 0, CASE WHEN EXISTS (
             SELECT 1 FROM webhook_message WHERE webhook = $1 AND subject = $2
         ) THEN NULL ELSE $5 END",
    )
    .bind(&message.webhook)
    .bind(subject)
    .bind(&message.id)
    .bind(&message.body)
    .bind(time(now_unix_ms))
    .execute(tx)
    .await?;
    Ok(())
}
