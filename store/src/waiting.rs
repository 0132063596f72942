//! Machines whose enrolment was complete but for an operator's approval. (N12)

use rat_engine::agent_id::AgentId;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::database::{Connection, array, natural, number};
use crate::error::{RowName, StoreError};
use crate::groups;
use crate::limits;

/// A machine that asks to be let in. Its EK is a genuine TPM's; that the machine has it is not
/// proven yet, and what it says of itself never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewWaiting<'a> {
    /// The group.
    pub group: &'a str,
    /// The machine.
    pub ek_sha256: &'a [u8; 32],
    /// The id that it asks for.
    pub agent: &'a AgentId,
    /// Its host name.
    pub hostname: &'a str,
    /// Where it asked from.
    pub ip: &'a str,
}

/// A machine that waits under one id. What is known of it was said by whoever asked: that is not
/// proven to be the machine, and so nobody's asking changes what another id was asked for with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The group.
    pub group: String,
    /// The machine.
    pub ek_sha256: [u8; 32],
    /// The id that it asks for.
    pub agent: String,
    /// Its host name, as it said last.
    pub hostname: String,
    /// Where it asked from last.
    pub ip: String,
    /// When it asked first.
    pub first_seen_unix_ms: u64,
    /// When it asked last.
    pub last_seen_unix_ms: u64,
    /// How often it asked.
    pub tries: u64,
}

impl Waiting {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let group: String = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::Group(group.clone()), fault);
        Ok(Self {
            ek_sha256: array(row.try_get(1)?).map_err(unreadable)?,
            agent: row.try_get(2)?,
            hostname: row.try_get(3)?,
            ip: row.try_get(4)?,
            first_seen_unix_ms: natural(row.try_get(5)?).map_err(unreadable)?,
            last_seen_unix_ms: natural(row.try_get(6)?).map_err(unreadable)?,
            tries: natural(row.try_get(7)?).map_err(unreadable)?,
            group: group.clone(),
        })
    }
}

impl Store {
    /// Remembers that a machine asks to be let in. Those that have not asked for
    /// [`limits::WAITING_TTL_MS`] are forgotten.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] when as many as may be are waiting, [`StoreError::Missing`]
    /// without such a group.
    ///
    /// # Security
    /// Whoever knows a machine's endorsement key, which is public, can ask in its name. So each id
    /// that was asked for stands on its own: nobody takes a machine's entry away, or renames it.
    /// (N12)
    pub async fn put_waiting(
        &self,
        waiting: NewWaiting<'_>,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        limits::check_name("a host name", waiting.hostname)?;
        limits::check_name("an address", waiting.ip)?;
        let mut tx = self.pools().write().await?;
        groups::require(&mut tx, waiting.group).await?;
        sqlx::query("DELETE FROM waiting WHERE last_seen_unix_ms <= $1")
            .bind(number(oldest(now_unix_ms))?)
            .execute(&mut *tx)
            .await?;
        let again = sqlx::query(
            "UPDATE waiting SET hostname = $4, ip = $5, last_seen_unix_ms = $6, tries = tries + 1
             WHERE slug = $1 AND ek_sha256 = $2 AND agent = $3",
        )
        .bind(waiting.group)
        .bind(&waiting.ek_sha256[..])
        .bind(waiting.agent.as_str())
        .bind(waiting.hostname)
        .bind(waiting.ip)
        .bind(number(now_unix_ms)?)
        .execute(&mut *tx)
        .await?;
        if again.rows_affected() == 0 {
            insert(&mut tx, waiting, now_unix_ms).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Machines that wait, by group, machine and id; those after `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting(
        &self,
        after: Option<(&str, &[u8; 32], &str)>,
        machines_max: u32,
        now_unix_ms: u64,
    ) -> Result<Vec<Waiting>, StoreError> {
        let (group, ek_sha256, agent) = match after {
            None => ("", &[][..], ""),
            Some((group, ek_sha256, agent)) => (group, &ek_sha256[..], agent),
        };
        sqlx::query(
            "SELECT slug, ek_sha256, agent, hostname, ip, first_seen_unix_ms, last_seen_unix_ms,
                    tries
             FROM waiting
             WHERE (slug, ek_sha256, agent) > ($1, $2, $3) AND last_seen_unix_ms > $4
             ORDER BY slug, ek_sha256, agent LIMIT $5",
        )
        .bind(group)
        .bind(ek_sha256)
        .bind(agent)
        .bind(number(oldest(now_unix_ms))?)
        .bind(machines_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(Waiting::read)
        .collect()
    }

    /// Machines that wait and asked for this id: more than one when several claim it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting_as(
        &self,
        agent: &AgentId,
        now_unix_ms: u64,
    ) -> Result<Vec<Waiting>, StoreError> {
        sqlx::query(
            "SELECT slug, ek_sha256, agent, hostname, ip, first_seen_unix_ms, last_seen_unix_ms,
                    tries
             FROM waiting WHERE agent = $1 AND last_seen_unix_ms > $2
             ORDER BY slug, ek_sha256 LIMIT $3",
        )
        .bind(agent.as_str())
        .bind(number(oldest(now_unix_ms))?)
        .bind(limits::PAGE_MAX)
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(Waiting::read)
        .collect()
    }
}

/// Whoever asked last at this time or before is forgotten.
const fn oldest(now_unix_ms: u64) -> u64 {
    now_unix_ms.saturating_sub(limits::WAITING_TTL_MS)
}

async fn insert(
    tx: &mut Connection,
    waiting: NewWaiting<'_>,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    let (of_machine, of_group, of_all): (i64, i64, i64) = sqlx::query_as(
        "SELECT coalesce(sum(slug = $1 AND ek_sha256 = $2), 0), coalesce(sum(slug = $1), 0),
                count(*) FROM waiting",
    )
    .bind(waiting.group)
    .bind(&waiting.ek_sha256[..])
    .fetch_one(&mut *tx)
    .await?;
    let with_this = |count: i64| {
        usize::try_from(count)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    };
    let (of_group, of_all) = (with_this(of_group), with_this(of_all));
    limits::check(
        "ids that one machine waits under",
        with_this(of_machine),
        limits::WAITING_PER_MACHINE_MAX,
    )?;
    limits::check(
        "machines that wait for one group",
        of_group,
        limits::WAITING_PER_GROUP_MAX,
    )?;
    limits::check("machines that wait", of_all, limits::WAITING_MAX)?;
    sqlx::query(
        "INSERT INTO waiting (slug, ek_sha256, agent, hostname, ip, first_seen_unix_ms,
                              last_seen_unix_ms, tries)
         VALUES ($1, $2, $3, $4, $5, $6, $6, 1)",
    )
    .bind(waiting.group)
    .bind(&waiting.ek_sha256[..])
    .bind(waiting.agent.as_str())
    .bind(waiting.hostname)
    .bind(waiting.ip)
    .bind(number(now_unix_ms)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets a machine that waits no longer: it was let in.
pub(crate) async fn forget(
    tx: &mut Connection,
    group: &str,
    ek_sha256: &[u8; 32],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM waiting WHERE slug = $1 AND ek_sha256 = $2")
        .bind(group)
        .bind(&ek_sha256[..])
        .execute(tx)
        .await?;
    Ok(())
}
