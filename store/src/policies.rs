//! Policies: immutable texts by digest, and the numbered versions that groups have of them.

use rat_engine::crypto;
use rat_engine::hash::{Digest, HashAlg};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, count, natural, number};
use crate::error::{RowName, StoreError};
use crate::groups::{self, VersionRef};
use crate::limits;
use crate::packed::{self, Fault};

/// A policy to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPolicy<'a> {
    /// The group.
    pub group: &'a str,
    /// Its text, byte for byte.
    pub text: &'a [u8],
    /// What people call it.
    pub name: &'a str,
    /// Where it came from.
    pub origin: &'a str,
    /// Who brought it.
    pub actor: &'a str,
    /// When.
    pub now_unix_ms: u64,
}

/// A version of a group's policy, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    /// The group.
    pub group: String,
    /// Its number within the group; the first is 1.
    pub version: u64,
    /// SHA-256 of its text.
    pub digest: Digest,
    /// What people call it.
    pub name: String,
    /// Where it came from.
    pub origin: String,
    /// Who brought it.
    pub created_by: String,
    /// When.
    pub created_unix_ms: u64,
    /// How long its text is.
    pub text_bytes: u64,
}

impl StoredPolicy {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let group: String = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::Group(group.clone()), fault);
        let digest: &[u8] = row.try_get(2)?;
        Ok(Self {
            version: natural(row.try_get(1)?).map_err(unreadable)?,
            digest: Digest::new(HashAlg::Sha256, digest).map_err(|_| unreadable(Fault::Content))?,
            name: row.try_get(3)?,
            origin: row.try_get(4)?,
            created_by: row.try_get(5)?,
            created_unix_ms: natural(row.try_get(6)?).map_err(unreadable)?,
            text_bytes: natural(row.try_get(7)?).map_err(unreadable)?,
            group: group.clone(),
        })
    }
}

/// Which of a group's two policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The one that verdicts are made with.
    Enforced,
    /// The one that is judged beside it and decides nothing.
    Shadow,
}

/// When a version is put into its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// Whatever was there.
    Always,
    /// Only into an empty slot: a baseline never replaces what an operator chose. (L08)
    OnlyIfNone,
}

impl Store {
    /// Keeps a policy as the group's next version. The same text is kept once.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without such a group, [`StoreError::TooLarge`].
    pub async fn put_policy(&self, policy: NewPolicy<'_>) -> Result<VersionRef, StoreError> {
        limits::check(
            "bytes of a policy",
            policy.text.len(),
            limits::POLICY_BYTES_MAX,
        )?;
        limits::check_name("a policy's name", policy.name)?;
        limits::check_name("a policy's origin", policy.origin)?;
        let digest = crypto::digest(HashAlg::Sha256, policy.text);
        let packed = packed::pack_bytes(policy.text);
        let mut tx = self.pools().write().await?;
        groups::require(&mut tx, policy.group).await?;
        sqlx::query(
            "INSERT INTO policy_blob (digest, text_bytes, packed) VALUES ($1, $2, $3)
             ON CONFLICT (digest) DO NOTHING",
        )
        .bind(digest.as_bytes())
        .bind(count(policy.text.len())?)
        .bind(packed)
        .execute(&mut *tx)
        .await?;
        let version: i64 = sqlx::query_scalar(
            "INSERT INTO policy_version
                 (slug, version, digest, name, origin, created_by, created_unix_ms)
             SELECT $1, coalesce(max(version), 0) + 1, $2, $3, $4, $5, $6
             FROM policy_version WHERE slug = $1
             RETURNING version",
        )
        .bind(policy.group)
        .bind(digest.as_bytes())
        .bind(policy.name)
        .bind(policy.origin)
        .bind(policy.actor)
        .bind(number(policy.now_unix_ms)?)
        .fetch_one(&mut *tx)
        .await?;
        let entry = AuditEntry {
            at_unix_ms: policy.now_unix_ms,
            actor: policy.actor,
            action: "policy.create",
            target: policy.group,
            detail: &format!("version {version}, {digest}"),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        let unreadable =
            |fault| StoreError::unreadable(RowName::Group(policy.group.to_owned()), fault);
        Ok(VersionRef {
            version: natural(version).map_err(unreadable)?,
            digest,
        })
    }

    /// Puts a version of a group's policy into one of its slots; false when the precondition
    /// does not hold, and nothing changed.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without such a version.
    pub async fn activate_policy(
        &self,
        group: &str,
        version: u64,
        slot: Slot,
        precondition: Precondition,
        actor: &str,
        now_unix_ms: u64,
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
        let mut tx = self.pools().write().await?;
        require_version(&mut tx, group, version).await?;
        let changed = sqlx::query(sql)
            .bind(group)
            .bind(number(version)?)
            .execute(&mut *tx)
            .await?;
        if changed.rows_affected() == 0 {
            return Ok(false);
        }
        let action = match slot {
            Slot::Enforced => "policy.enforce",
            Slot::Shadow => "policy.shadow",
        };
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action,
            target: group,
            detail: &format!("version {version}"),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Empties a slot; false when it was empty, or there is no such group.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deactivate_policy(
        &self,
        group: &str,
        slot: Slot,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let (sql, action) = match slot {
            Slot::Enforced => (
                "UPDATE policy_group SET enforced_version = NULL, row_version = row_version + 1
                 WHERE slug = $1 AND enforced_version IS NOT NULL",
                "policy.unenforce",
            ),
            Slot::Shadow => (
                "UPDATE policy_group SET shadow_version = NULL, row_version = row_version + 1
                 WHERE slug = $1 AND shadow_version IS NOT NULL",
                "policy.unshadow",
            ),
        };
        let mut tx = self.pools().write().await?;
        let changed = sqlx::query(sql).bind(group).execute(&mut *tx).await?;
        if changed.rows_affected() == 0 {
            return Ok(false);
        }
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action,
            target: group,
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The text with this digest, checked against it.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when what is stored is another text.
    pub async fn policy_text(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let stored: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT packed FROM policy_blob WHERE digest = $1")
                .bind(digest.as_bytes())
                .fetch_optional(self.pools().read())
                .await?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let unreadable = |fault| StoreError::unreadable(RowName::PolicyText, fault);
        let text = packed::unpack_bytes(&stored, limits::POLICY_BYTES_MAX).map_err(unreadable)?;
        if crypto::digest(HashAlg::Sha256, &text) != *digest {
            return Err(unreadable(Fault::Checksum));
        }
        Ok(Some(text))
    }

    /// The versions of a group's policy after this one, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn policies(
        &self,
        group: &str,
        after_version: u64,
        policies_max: u32,
    ) -> Result<Vec<StoredPolicy>, StoreError> {
        sqlx::query(
            "SELECT v.slug, v.version, v.digest, v.name, v.origin, v.created_by,
                    v.created_unix_ms, b.text_bytes
             FROM policy_version v JOIN policy_blob b ON b.digest = v.digest
             WHERE v.slug = $1 AND v.version > $2 ORDER BY v.version LIMIT $3",
        )
        .bind(group)
        .bind(number(after_version)?)
        .bind(policies_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(StoredPolicy::read)
        .collect()
    }
}

async fn require_version(tx: &mut Connection, group: &str, version: u64) -> Result<(), StoreError> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM policy_version WHERE slug = $1 AND version = $2")
            .bind(group)
            .bind(number(version)?)
            .fetch_optional(tx)
            .await?;
    match found {
        Some(_) => Ok(()),
        None => Err(StoreError::Missing(RowName::PolicyVersion {
            group: group.to_owned(),
            version,
        })),
    }
}
