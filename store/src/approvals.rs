//! Machines that an operator let into a group one by one. (N12)

use sqlx::Row;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, array, natural, number};
use crate::error::{RowName, StoreError};
use crate::groups;
use crate::limits;
use crate::waiting;

/// A machine that an operator let into a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedEk {
    /// The machine.
    pub ek_sha256: [u8; 32],
    /// Who let it in.
    pub approved_by: String,
    /// When.
    pub approved_unix_ms: u64,
}

impl Store {
    /// Lets the machine with this endorsement key into a group; false when it was let in before.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without such a group.
    ///
    /// # Security
    /// For this group alone: another one, whose token the machine may hold too, asks again.
    pub async fn approve_ek(
        &self,
        slug: &str,
        ek_sha256: &[u8; 32],
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        groups::require(&mut tx, slug).await?;
        waiting::forget(&mut tx, slug, ek_sha256).await?;
        let made = sqlx::query(
            "INSERT INTO approved_ek (slug, ek_sha256, approved_by, approved_unix_ms)
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(slug)
        .bind(&ek_sha256[..])
        .bind(actor)
        .bind(number(now_unix_ms)?)
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            tx.commit().await?;
            return Ok(false);
        }
        audit(&mut tx, "ek.approve", slug, ek_sha256, actor, now_unix_ms).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Takes an approval back; false when there was none. An agent that enrolled stays enrolled.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without such a group.
    pub async fn withdraw_ek(
        &self,
        slug: &str,
        ek_sha256: &[u8; 32],
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        groups::require(&mut tx, slug).await?;
        let gone = sqlx::query("DELETE FROM approved_ek WHERE slug = $1 AND ek_sha256 = $2")
            .bind(slug)
            .bind(&ek_sha256[..])
            .execute(&mut *tx)
            .await?;
        if gone.rows_affected() == 0 {
            return Ok(false);
        }
        audit(&mut tx, "ek.withdraw", slug, ek_sha256, actor, now_unix_ms).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Machines that were let into a group, those after this one in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn approved_eks(
        &self,
        slug: &str,
        after: Option<&[u8; 32]>,
        machines_max: u32,
    ) -> Result<Vec<ApprovedEk>, StoreError> {
        let after = after.map_or(&[][..], |after| &after[..]);
        let rows = sqlx::query(
            "SELECT ek_sha256, approved_by, approved_unix_ms FROM approved_ek
             WHERE slug = $1 AND ek_sha256 > $2 ORDER BY ek_sha256 LIMIT $3",
        )
        .bind(slug)
        .bind(after)
        .bind(machines_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?;
        let unreadable = |fault| StoreError::unreadable(RowName::Group(slug.to_owned()), fault);
        let mut approved = Vec::with_capacity(rows.len());
        for row in rows {
            approved.push(ApprovedEk {
                ek_sha256: array(row.try_get(0)?).map_err(unreadable)?,
                approved_by: row.try_get(1)?,
                approved_unix_ms: natural(row.try_get(2)?).map_err(unreadable)?,
            });
        }
        Ok(approved)
    }

    /// Whether an operator let this machine into this group.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_ek_approved(
        &self,
        slug: &str,
        ek_sha256: &[u8; 32],
    ) -> Result<bool, StoreError> {
        let mut connection = self.pools().read().acquire().await?;
        is_approved(&mut connection, slug, ek_sha256).await
    }
}

/// Whether an operator let this machine into this group, inside a transaction.
pub(crate) async fn is_approved(
    connection: &mut Connection,
    slug: &str,
    ek_sha256: &[u8; 32],
) -> Result<bool, StoreError> {
    let found: i64 =
        sqlx::query_scalar("SELECT count(*) FROM approved_ek WHERE slug = $1 AND ek_sha256 = $2")
            .bind(slug)
            .bind(&ek_sha256[..])
            .fetch_one(connection)
            .await?;
    Ok(found > 0)
}

async fn audit(
    tx: &mut Connection,
    action: &str,
    slug: &str,
    ek_sha256: &[u8; 32],
    actor: &str,
    at_unix_ms: u64,
) -> Result<(), StoreError> {
    let entry = AuditEntry {
        at_unix_ms,
        actor,
        action,
        target: slug,
        detail: &hex::encode(ek_sha256),
    };
    audit::append(tx, entry).await?;
    Ok(())
}
