//! Policies: immutable texts by digest, and the numbered versions that groups have of them.

use rat_engine::crypto;
use rat_engine::hash::{Digest, HashAlg};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::activations;
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
    /// How it stands in its group.
    pub standing: PolicyStanding,
}

/// How a version of a policy stands in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyStanding {
    /// It is enforced.
    Enforced,
    /// It is judged beside the enforced one.
    Shadow,
    /// It was enforced once.
    Superseded,
    /// It never was.
    Inactive,
}

/// The columns of a version `v`, its text `b` and its group `g`, as [`StoredPolicy::read`] wants
/// them, with conditions and an order.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT v.slug, v.version, v.digest, v.name, v.origin, v.created_by,
                    v.created_unix_ms, b.text_bytes,
                    g.enforced_version IS v.version, g.shadow_version IS v.version,
                    EXISTS (SELECT 1 FROM policy_activation a
                            WHERE a.slug = v.slug AND a.version = v.version
                              AND a.slot = 'enforced')
             FROM policy_version v
             JOIN policy_blob b ON b.digest = v.digest
             JOIN policy_group g ON g.slug = v.slug",
            $rest
        )
    };
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
            standing: match (row.try_get(8)?, row.try_get(9)?, row.try_get(10)?) {
                (true, _, _) => PolicyStanding::Enforced,
                (false, true, _) => PolicyStanding::Shadow,
                (false, false, true) => PolicyStanding::Superseded,
                (false, false, false) => PolicyStanding::Inactive,
            },
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
        let mut tx = self.pools().write().await?;
        require_version(&mut tx, group, version).await?;
        let now = now_unix_ms;
        if !activations::fill(&mut tx, group, version, slot, precondition).await? {
            return Ok(false);
        }
        activations::record(&mut tx, group, slot, Some(version), actor, now).await?;
        let entry = AuditEntry {
            at_unix_ms: now,
            actor,
            action: activations::action(slot),
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
        activations::record(&mut tx, group, slot, None, actor, now_unix_ms).await?;
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
        sqlx::query(select!(
            " WHERE v.slug = $1 AND v.version > $2 ORDER BY v.version LIMIT $3"
        ))
        .bind(group)
        .bind(number(after_version)?)
        .bind(policies_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(StoredPolicy::read)
        .collect()
    }

    /// One version of a group's policy.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn policy(
        &self,
        group: &str,
        version: u64,
    ) -> Result<Option<StoredPolicy>, StoreError> {
        let row = sqlx::query(select!(" WHERE v.slug = $1 AND v.version = $2"))
            .bind(group)
            .bind(number(version)?)
            .fetch_optional(self.pools().read())
            .await?;
        row.as_ref().map(StoredPolicy::read).transpose()
    }

    /// The newest version of a group's policy that has the text of this digest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn policy_of_digest(
        &self,
        group: &str,
        digest: &Digest,
    ) -> Result<Option<StoredPolicy>, StoreError> {
        let row = sqlx::query(select!(
            " WHERE v.slug = $1 AND v.digest = $2 ORDER BY v.version DESC LIMIT 1"
        ))
        .bind(group)
        .bind(digest.as_bytes())
        .fetch_optional(self.pools().read())
        .await?;
        row.as_ref().map(StoredPolicy::read).transpose()
    }

    /// Versions of one group's policy, or of all groups', the newest first; those that come after
    /// `after` in this order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_policies(
        &self,
        group: Option<&str>,
        after: Option<&StoredPolicy>,
        policies_max: u32,
    ) -> Result<Vec<StoredPolicy>, StoreError> {
        let created = after
            .map(|after| number(after.created_unix_ms))
            .transpose()?;
        let version = after.map(|after| number(after.version)).transpose()?;
        sqlx::query(select!(
            " WHERE ($1 IS NULL OR v.slug = $1)
                AND ($2 IS NULL OR (v.created_unix_ms, v.slug, v.version) < ($2, $3, $4))
              ORDER BY v.created_unix_ms DESC, v.slug DESC, v.version DESC LIMIT $5"
        ))
        .bind(group)
        .bind(created)
        .bind(after.map(|after| &after.group))
        .bind(version)
        .bind(policies_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(StoredPolicy::read)
        .collect()
    }
}

pub(crate) async fn require_version(
    tx: &mut Connection,
    group: &str,
    version: u64,
) -> Result<(), StoreError> {
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
