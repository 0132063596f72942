//! The slots of a group, and what was in them before.

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural, number};
use crate::error::{RowName, StoreError};
use crate::groups;
use crate::policies::{Precondition, Slot};

/// What a return to an earlier version led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolledBack {
    /// This version is enforced again.
    To(u64),
    /// No other version was enforced before. Nothing changed.
    NothingBefore,
}

const fn text(slot: Slot) -> &'static str {
    match slot {
        Slot::Enforced => "enforced",
        Slot::Shadow => "shadow",
    }
}

/// How the audit log names it when a slot is filled.
pub(crate) const fn action(slot: Slot) -> &'static str {
    match slot {
        Slot::Enforced => "policy.enforce",
        Slot::Shadow => "policy.shadow",
    }
}

/// Puts a version into a slot; false when the precondition does not hold.
pub(crate) async fn fill(
    tx: &mut Connection,
    group: &str,
    version: u64,
    slot: Slot,
    precondition: Precondition,
) -> Result<bool, StoreError> {
    let sql = match (slot, precondition) {
        (Slot::Enforced, Precondition::Always) => {
            "UPDATE policy_group SET enforced_version = $2, row_version = row_version + 1
             WHERE slug = $1"
        }
        (Slot::Enforced, Precondition::OnlyIfNone) => {
            "UPDATE policy_group SET enforced_version = $2, row_version = row_version + 1
             WHERE slug = $1 AND enforced_version IS NULL"
        }
        (Slot::Shadow, Precondition::Always) => {
            "UPDATE policy_group SET shadow_version = $2, row_version = row_version + 1
             WHERE slug = $1"
        }
        (Slot::Shadow, Precondition::OnlyIfNone) => {
            "UPDATE policy_group SET shadow_version = $2, row_version = row_version + 1
             WHERE slug = $1 AND shadow_version IS NULL"
        }
    };
    let filled = sqlx::query(sql)
        .bind(group)
        .bind(number(version)?)
        .execute(tx)
        .await?;
    Ok(filled.rows_affected() > 0)
}

/// Remembers what is in a slot from now on.
pub(crate) async fn record(
    tx: &mut Connection,
    group: &str,
    slot: Slot,
    version: Option<u64>,
    actor: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO policy_activation (slug, slot, version, actor, at_unix_ms)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(group)
    .bind(text(slot))
    .bind(version.map(number).transpose()?)
    .bind(actor)
    .bind(number(now_unix_ms)?)
    .execute(tx)
    .await?;
    Ok(())
}

impl Store {
    /// Enforces the version that was enforced before the present one. Twice in a row leads back to
    /// where it began: the version before is then the one that was left.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without such a group.
    pub async fn roll_back_policy(
        &self,
        group: &str,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<RolledBack, StoreError> {
        let mut tx = self.pools().write().await?;
        groups::require(&mut tx, group).await?;
        // Whatever is enforced now, or nothing: the newest activation of another version.
        let before: Option<i64> = sqlx::query_scalar(
            "SELECT a.version FROM policy_activation a JOIN policy_group g ON g.slug = a.slug
             WHERE a.slug = $1 AND a.slot = 'enforced' AND a.version IS NOT NULL
               AND a.version IS NOT g.enforced_version
             ORDER BY a.id DESC LIMIT 1",
        )
        .bind(group)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(before) = before else {
            return Ok(RolledBack::NothingBefore);
        };
        let unreadable = |fault| StoreError::unreadable(RowName::Group(group.to_owned()), fault);
        let version = natural(before).map_err(unreadable)?;
        let slot = Slot::Enforced;
        fill(&mut tx, group, version, slot, Precondition::Always).await?;
        record(&mut tx, group, slot, Some(version), actor, now_unix_ms).await?;
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "policy.rollback",
            target: group,
            detail: &format!("version {version}"),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(RolledBack::To(version))
    }
}
