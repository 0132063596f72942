//! Queues of webhooks: what is due, what was taken, what is tried again, what was given up.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural, time};
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::noted::{ALL_NOTED, NewMessage, queue};

/// A message that its webhook has not taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedMessage {
    /// Its place in the order.
    pub seq: i64,
    /// Whom it is about.
    pub subject: String,
    /// Its id, as its receiver sees it.
    pub id: String,
    /// What is sent.
    pub body: String,
    /// When it was queued.
    pub queued_unix_ms: u64,
    /// How often it was tried.
    pub attempts: u64,
}

/// What becomes of a message after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The webhook took it.
    Taken,
    /// It is tried again.
    Again {
        /// When.
        due_unix_ms: u64,
        /// Why.
        error: String,
    },
    /// It is not: it becomes a dead letter.
    GivenUp {
        /// Why.
        error: String,
    },
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The message's place in the order.
    pub seq: i64,
    /// What becomes of it.
    pub fate: Fate,
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number among all dead letters.
    pub number: u64,
    /// Whom it is about.
    pub subject: String,
    /// Its id.
    pub id: String,
    /// What was sent.
    pub body: String,
    /// When it was queued.
    pub queued_unix_ms: u64,
    /// When it was given up.
    pub given_up_unix_ms: u64,
    /// How often it was tried.
    pub attempts: u64,
    /// What ended the last attempt.
    pub error: String,
}

/// How a webhook stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebhookStanding {
    /// Messages that it has not taken yet.
    pub queued: u64,
    /// When it took one last.
    pub delivered_unix_ms: Option<u64>,
    /// When an attempt failed last.
    pub failed_unix_ms: Option<u64>,
    /// Why that attempt failed.
    pub error: Option<String>,
    /// Messages that were given up, ever.
    pub dead_letters: u64,
}

fn unreadable(webhook: &str) -> impl Fn(crate::packed::Fault) -> StoreError {
    let webhook = webhook.to_owned();
    move |fault| StoreError::unreadable(RowName::Webhook(webhook.clone()), fault)
}

impl QueuedMessage {
    /// Columns id, subject, message, body, queued_unix_ms, attempts.
    fn read(row: &SqliteRow, webhook: &str) -> Result<Self, StoreError> {
        Ok(Self {
            seq: row.try_get(0)?,
            subject: row.try_get(1)?,
            id: row.try_get(2)?,
            body: row.try_get(3)?,
            queued_unix_ms: natural(row.try_get(4)?).map_err(unreadable(webhook))?,
            attempts: natural(row.try_get(5)?).map_err(unreadable(webhook))?,
        })
    }
}

impl Store {
    /// Messages of a webhook that are due, at most one about each subject, the longest due first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn due_messages(
        &self,
        webhook: &str,
        now_unix_ms: u64,
        messages_max: u32,
    ) -> Result<Vec<QueuedMessage>, StoreError> {
        sqlx::query(
            "SELECT id, subject, message, body, queued_unix_ms, attempts FROM webhook_message
             WHERE webhook = $1 AND due_unix_ms <= $2 ORDER BY due_unix_ms, id LIMIT $3",
        )
        .bind(webhook)
        .bind(time(now_unix_ms))
        .bind(messages_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(|row| QueuedMessage::read(row, webhook))
        .collect()
    }

    /// When the next message of a webhook after this time is due.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_due_unix_ms(
        &self,
        webhook: &str,
        after_unix_ms: u64,
    ) -> Result<Option<u64>, StoreError> {
        let next: Option<i64> = sqlx::query_scalar(
            "SELECT min(due_unix_ms) FROM webhook_message WHERE webhook = $1 AND due_unix_ms > $2",
        )
        .bind(webhook)
        .bind(time(after_unix_ms))
        .fetch_one(self.pools().read())
        .await?;
        next.map(natural).transpose().map_err(unreadable(webhook))
    }

    /// Notes how attempts ended, in one transaction. Messages that are not there any more are
    /// passed over.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was noted.
    pub async fn settle_messages(
        &self,
        webhook: &str,
        settled: &[Settled],
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let mut tx = self.pools().write().await?;
        for Settled { seq, fate } in settled {
            match fate {
                Fate::Taken => {
                    take(&mut tx, webhook, *seq, now_unix_ms).await?;
                    delivered(&mut tx, webhook, now_unix_ms).await?;
                }
                Fate::Again { due_unix_ms, error } => {
                    put_off(&mut tx, webhook, *seq, *due_unix_ms).await?;
                    failed(&mut tx, webhook, error, now_unix_ms).await?;
                }
                Fate::GivenUp { error } => {
                    give_up(&mut tx, webhook, *seq, 1, error, now_unix_ms).await?;
                    failed(&mut tx, webhook, error, now_unix_ms).await?;
                }
            }
        }
        trim_dead_letters(&mut tx, webhook).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives up the oldest messages of a webhook that were queued before this time, at most
    /// `messages_max` and [`limits::GIVEN_UP_MAX`], except those under way; how many it gave up.
    ///
    /// # Errors
    /// [`StoreError`]; then none was given up.
    pub async fn give_up_messages(
        &self,
        webhook: &str,
        queued_before_unix_ms: u64,
        messages_max: u32,
        under_way: &[i64],
        error: &str,
        now_unix_ms: u64,
    ) -> Result<u64, StoreError> {
        let mut tx = self.pools().write().await?;
        let more = u32::try_from(under_way.len()).unwrap_or(u32::MAX);
        let max = messages_max.min(limits::GIVEN_UP_MAX);
        let oldest: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT id, queued_unix_ms FROM webhook_message WHERE webhook = $1
             ORDER BY id LIMIT $2",
        )
        .bind(webhook)
        .bind(max.saturating_add(more))
        .fetch_all(&mut *tx)
        .await?;
        let before = time(queued_before_unix_ms);
        let due = oldest
            .into_iter()
            .filter(|(seq, queued)| *queued < before && !under_way.contains(seq))
            .take(usize::try_from(max).unwrap_or(usize::MAX));
        let mut given_up = 0_u64;
        for (seq, _) in due {
            give_up(&mut tx, webhook, seq, 0, error, now_unix_ms).await?;
            given_up = given_up.saturating_add(1);
        }
        if given_up > 0 {
            trim_dead_letters(&mut tx, webhook).await?;
        }
        tx.commit().await?;
        Ok(given_up)
    }

    /// How a webhook stands.
    ///
    /// # Errors
    /// [`StoreError`].
    ///
    /// # Cost
    /// Counts the queue.
    pub async fn webhook_standing(&self, webhook: &str) -> Result<WebhookStanding, StoreError> {
        let queued: i64 =
            sqlx::query_scalar("SELECT count(*) FROM webhook_message WHERE webhook = $1")
                .bind(webhook)
                .fetch_one(self.pools().read())
                .await?;
        let row = sqlx::query(
            "SELECT delivered_unix_ms, failed_unix_ms, error, dead_letters
             FROM webhook_standing WHERE webhook = $1",
        )
        .bind(webhook)
        .fetch_optional(self.pools().read())
        .await?;
        let queued = natural(queued).map_err(unreadable(webhook))?;
        let Some(row) = row else {
            return Ok(WebhookStanding {
                queued,
                ..WebhookStanding::default()
            });
        };
        let when = |column: Option<i64>| column.map(natural).transpose();
        Ok(WebhookStanding {
            queued,
            delivered_unix_ms: when(row.try_get(0)?).map_err(unreadable(webhook))?,
            failed_unix_ms: when(row.try_get(1)?).map_err(unreadable(webhook))?,
            error: row.try_get(2)?,
            dead_letters: natural(row.try_get(3)?).map_err(unreadable(webhook))?,
        })
    }

    /// Dead letters of a webhook, the newest first; those before this number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn dead_letters(
        &self,
        webhook: &str,
        before_number: u64,
        letters_max: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, subject, message, body, queued_unix_ms, given_up_unix_ms, attempts, error
             FROM dead_letter WHERE webhook = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        )
        .bind(webhook)
        .bind(time(before_number))
        .bind(letters_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?;
        let read = |row: &SqliteRow| {
            let count = |column: i64| natural(column).map_err(unreadable(webhook));
            Ok(DeadLetter {
                number: count(row.try_get(0)?)?,
                subject: row.try_get(1)?,
                id: row.try_get(2)?,
                body: row.try_get(3)?,
                queued_unix_ms: count(row.try_get(4)?)?,
                given_up_unix_ms: count(row.try_get(5)?)?,
                attempts: count(row.try_get(6)?)?,
                error: row.try_get(7)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Takes a dead letter of a webhook back into its queue, in one transaction with an entry of the
    /// audit log; whom it is about, or `None` when there is no dead letter of this id. It is the same
    /// message, with its attempts and its age counted anew, behind those that wait about its subject.
    ///
    /// # Errors
    /// [`StoreError`]; then it is a dead letter still.
    ///
    /// # Cost
    /// A look at the webhook's dead letters.
    pub async fn redeliver(
        &self,
        webhook: &str,
        id: &str,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<Option<String>, StoreError> {
        let mut tx = self.pools().write().await?;
        let letter: Option<(String, String)> = sqlx::query_as(
            "DELETE FROM dead_letter WHERE id = (
                 SELECT max(id) FROM dead_letter WHERE webhook = $1 AND message = $2)
             RETURNING subject, body",
        )
        .bind(webhook)
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((subject, body)) = letter else {
            return Ok(None);
        };
        let message = NewMessage {
            webhook: webhook.to_owned(),
            id: id.to_owned(),
            body,
        };
        queue(&mut tx, &subject, &message, now_unix_ms).await?;
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "webhook.redeliver",
            target: webhook,
            detail: &format!("message {id} about {subject}"),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Some(subject))
    }

    /// Forgets every webhook but these: its queue, its dead letters, how it stands; each in an entry
    /// of the audit log; where nobody is told of statuses, also which were noted. How many queued
    /// messages were dropped.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was forgotten.
    pub async fn keep_webhooks(
        &self,
        names: &[&str],
        are_told_statuses: bool,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<u64, StoreError> {
        let mut tx = self.pools().write().await?;
        let known: Vec<String> = sqlx::query_scalar(
            "SELECT webhook FROM webhook_standing UNION SELECT webhook FROM webhook_message",
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut dropped = 0_u64;
        for name in known.iter().filter(|name| !names.contains(&name.as_str())) {
            let messages = forget(&mut tx, name).await?;
            dropped = dropped.saturating_add(messages);
            let entry = AuditEntry {
                at_unix_ms: now_unix_ms,
                actor,
                action: "webhook.remove",
                target: name,
                detail: &format!("{messages} messages were not delivered"),
            };
            audit::append(&mut tx, entry).await?;
        }
        if !are_told_statuses {
            sqlx::query("DELETE FROM noted_status")
                .execute(&mut *tx)
                .await?;
            sqlx::query("DELETE FROM meta WHERE name = $1")
                .bind(ALL_NOTED)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(dropped)
    }
}

/// Removes all that is kept of a webhook; how many messages it had not taken.
async fn forget(tx: &mut Connection, webhook: &str) -> Result<u64, StoreError> {
    let mut messages = 0;
    for sql in [
        "DELETE FROM dead_letter WHERE webhook = $1",
        "DELETE FROM webhook_standing WHERE webhook = $1",
        "DELETE FROM webhook_message WHERE webhook = $1",
    ] {
        let gone = sqlx::query(sql).bind(webhook).execute(&mut *tx).await?;
        messages = gone.rows_affected();
    }
    Ok(messages)
}

/// Removes a message, and lets the next one about its subject go.
async fn take(
    tx: &mut Connection,
    webhook: &str,
    seq: i64,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    let subject: Option<String> = sqlx::query_scalar(
        "DELETE FROM webhook_message WHERE id = $1 AND webhook = $2 RETURNING subject",
    )
    .bind(seq)
    .bind(webhook)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(subject) = subject else {
        return Ok(());
    };
    sqlx::query(
        "UPDATE webhook_message SET due_unix_ms = $3 WHERE due_unix_ms IS NULL AND id = (
             SELECT min(id) FROM webhook_message WHERE webhook = $1 AND subject = $2)",
    )
    .bind(webhook)
    .bind(subject)
    .bind(time(now_unix_ms))
    .execute(tx)
    .await?;
    Ok(())
}

async fn put_off(
    tx: &mut Connection,
    webhook: &str,
    seq: i64,
    due_unix_ms: u64,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE webhook_message SET attempts = attempts + 1, due_unix_ms = $3
         WHERE id = $1 AND webhook = $2",
    )
    .bind(seq)
    .bind(webhook)
    .bind(time(due_unix_ms))
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes a message a dead letter, after so many attempts that were not counted yet.
async fn give_up(
    tx: &mut Connection,
    webhook: &str,
    seq: i64,
    attempts: i64,
    error: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    limits::check_name("why a message was given up", error)?;
    let kept = sqlx::query(
        "INSERT INTO dead_letter (webhook, subject, message, body, queued_unix_ms,
                                  given_up_unix_ms, attempts, error)
         SELECT webhook, subject, message, body, queued_unix_ms, $3, attempts + $4, $5
         FROM webhook_message WHERE id = $1 AND webhook = $2",
    )
    .bind(seq)
    .bind(webhook)
    .bind(time(now_unix_ms))
    .bind(attempts)
    .bind(error)
    .execute(&mut *tx)
    .await?;
    if kept.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO webhook_standing (webhook, dead_letters) VALUES ($1, 1)
         ON CONFLICT (webhook) DO UPDATE SET dead_letters = dead_letters + 1",
    )
    .bind(webhook)
    .execute(&mut *tx)
    .await?;
    take(tx, webhook, seq, now_unix_ms).await
}

async fn trim_dead_letters(tx: &mut Connection, webhook: &str) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM dead_letter WHERE webhook = $1 AND id <= (
             SELECT id FROM dead_letter WHERE webhook = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)",
    )
    .bind(webhook)
    .bind(limits::DEAD_LETTERS_MAX)
    .execute(tx)
    .await?;
    Ok(())
}

async fn delivered(tx: &mut Connection, webhook: &str, now_unix_ms: u64) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO webhook_standing (webhook, delivered_unix_ms, dead_letters)
         VALUES ($1, $2, 0)
         ON CONFLICT (webhook) DO UPDATE SET delivered_unix_ms = excluded.delivered_unix_ms",
    )
    .bind(webhook)
    .bind(time(now_unix_ms))
    .execute(tx)
    .await?;
    Ok(())
}

async fn failed(
    tx: &mut Connection,
    webhook: &str,
    error: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    limits::check_name("why an attempt failed", error)?;
    sqlx::query(
        "INSERT INTO webhook_standing (webhook, failed_unix_ms, error, dead_letters)
         VALUES ($1, $2, $3, 0)
         ON CONFLICT (webhook) DO UPDATE
         SET failed_unix_ms = excluded.failed_unix_ms, error = excluded.error",
    )
    .bind(webhook)
    .bind(time(now_unix_ms))
    .bind(error)
    .execute(tx)
    .await?;
    Ok(())
}
