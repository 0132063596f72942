//! Policies by the names that Keylime's clients give them.

use rat_engine::crypto;
use rat_engine::hash::{Digest, HashAlg};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, count, natural, number};
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::packed::{self, Fault};

/// What a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeylimeKind {
    /// What may run: Keylime's `allowlists`.
    Runtime,
    /// What may boot: Keylime's `mbpolicies`.
    MeasuredBoot,
}

impl KeylimeKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::MeasuredBoot => "measured_boot",
        }
    }

    const fn actions(self) -> [&'static str; 3] {
        match self {
            Self::Runtime => [
                "keylime.runtime_policy.create",
                "keylime.runtime_policy.replace",
                "keylime.runtime_policy.remove",
            ],
            Self::MeasuredBoot => [
                "keylime.mb_policy.create",
                "keylime.mb_policy.replace",
                "keylime.mb_policy.remove",
            ],
        }
    }
}

/// A policy to be kept under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewKeylimePolicy<'a> {
    /// What it is about.
    pub kind: KeylimeKind,
    /// Its name.
    pub name: &'a str,
    /// The text that was brought, byte for byte.
    pub text: &'a [u8],
    /// The policy in it that judges; `None` when it demands nothing.
    pub judges: Option<&'a [u8]>,
}

/// A policy, as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeylimePolicy {
    /// Its name.
    pub name: String,
    /// The text that was brought.
    pub text: Vec<u8>,
    /// SHA-256 of the policy that judges, whose text [`Store::policy_text`] has; `None` when it
    /// demands nothing.
    pub digest: Option<Digest>,
    /// Counts its changes.
    pub version: u64,
}

/// When a policy is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeylimePut {
    /// Only under a name that is free.
    Create,
    /// Only in place of the one that has the name.
    Replace,
}

/// What became of a policy that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeylimeRemoved {
    /// It is gone.
    Gone,
    /// There was none.
    Missing,
    /// This agent is judged by it, and perhaps others; it stays.
    InUse(String),
}

impl KeylimePolicy {
    pub(crate) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let name: String = row.try_get(0)?;
        let unreadable =
            |fault| StoreError::unreadable(RowName::KeylimePolicy(name.clone()), fault);
        let digest: Option<&[u8]> = row.try_get(1)?;
        let digest = digest
            .map(|bytes| {
                Digest::new(HashAlg::Sha256, bytes).map_err(|_| unreadable(Fault::Content))
            })
            .transpose()?;
        Ok(Self {
            digest,
            version: natural(row.try_get(2)?).map_err(unreadable)?,
            text: packed::unpack_bytes(row.try_get(3)?, limits::POLICY_BYTES_MAX)
                .map_err(unreadable)?,
            name: name.clone(),
        })
    }
}

impl Store {
    /// Keeps a policy under its name, and says so in the audit log.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken and a new one was to be made;
    /// [`StoreError::Missing`] when there is none to be replaced; [`StoreError::TooLarge`].
    pub async fn put_keylime_policy(
        &self,
        policy: NewKeylimePolicy<'_>,
        how: KeylimePut,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let mut tx = self.pools().write().await?;
        put(&mut tx, policy, how, actor, now_unix_ms).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The names of all policies of a kind, in order, after this one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keylime_policy_names(
        &self,
        kind: KeylimeKind,
        after: &str,
        names_max: u32,
    ) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT name FROM keylime_policy WHERE kind = $1 AND name > $2 ORDER BY name LIMIT $3",
        )
        .bind(kind.as_str())
        .bind(after)
        .bind(names_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?)
    }

    /// The policy of this name.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`].
    pub async fn keylime_policy(
        &self,
        kind: KeylimeKind,
        name: &str,
    ) -> Result<Option<KeylimePolicy>, StoreError> {
        let row = sqlx::query(
            "SELECT name, digest, version, packed FROM keylime_policy
             WHERE kind = $1 AND name = $2",
        )
        .bind(kind.as_str())
        .bind(name)
        .fetch_optional(self.pools().read())
        .await?;
        row.as_ref().map(KeylimePolicy::read).transpose()
    }

    /// Removes a policy that no agent is judged by.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_keylime_policy(
        &self,
        kind: KeylimeKind,
        name: &str,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<KeylimeRemoved, StoreError> {
        let mut tx = self.pools().write().await?;
        if let Some(agent) = used_by(&mut tx, kind, name).await? {
            return Ok(KeylimeRemoved::InUse(agent));
        }
        if !remove(&mut tx, kind, name).await? {
            return Ok(KeylimeRemoved::Missing);
        }
        let [_, _, action] = kind.actions();
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action,
            target: name,
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(KeylimeRemoved::Gone)
    }
}

/// Whether there is such a policy.
pub(crate) async fn exists(
    tx: &mut Connection,
    kind: KeylimeKind,
    name: &str,
) -> Result<bool, StoreError> {
    let found: i64 =
        sqlx::query_scalar("SELECT count(*) FROM keylime_policy WHERE kind = $1 AND name = $2")
            .bind(kind.as_str())
            .bind(name)
            .fetch_one(tx)
            .await?;
    Ok(found > 0)
}

/// Keeps a policy within a transaction.
pub(crate) async fn put(
    tx: &mut Connection,
    policy: NewKeylimePolicy<'_>,
    how: KeylimePut,
    actor: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    let NewKeylimePolicy {
        kind,
        name,
        text,
        judges,
    } = policy;
    limits::check_name("a policy's name", name)?;
    let bytes_max = limits::POLICY_BYTES_MAX;
    limits::check("bytes of a policy", text.len(), bytes_max)?;
    let digest = match judges {
        Some(judges) => Some(put_text(tx, judges).await?),
        None => None,
    };
    let [create, replace, _] = kind.actions();
    let row = || RowName::KeylimePolicy(name.to_owned());
    let exists = exists(tx, kind, name).await?;
    let action = match (how, exists) {
        (KeylimePut::Create, true) => return Err(StoreError::Exists(row())),
        (KeylimePut::Replace, false) => return Err(StoreError::Missing(row())),
        (KeylimePut::Create, false) => create,
        (KeylimePut::Replace, true) => replace,
    };
    sqlx::query(
        "INSERT INTO keylime_policy (kind, name, digest, version, changed_unix_ms, packed)
         VALUES ($1, $2, $3, 1, $4, $5)
         ON CONFLICT (kind, name) DO UPDATE SET digest = excluded.digest,
             version = keylime_policy.version + 1,
             changed_unix_ms = excluded.changed_unix_ms, packed = excluded.packed",
    )
    .bind(kind.as_str())
    .bind(name)
    .bind(digest.as_ref().map(Digest::as_bytes))
    .bind(number(now_unix_ms)?)
    .bind(packed::pack_bytes(text))
    .execute(&mut *tx)
    .await?;
    let detail = digest.map(|digest| digest.to_string());
    let entry = AuditEntry {
        at_unix_ms: now_unix_ms,
        actor,
        action,
        target: name,
        detail: detail.as_deref().unwrap_or("demands nothing"),
    };
    audit::append(tx, entry).await?;
    Ok(())
}

/// Removes a policy within a transaction; false when there is none.
pub(crate) async fn remove(
    tx: &mut Connection,
    kind: KeylimeKind,
    name: &str,
) -> Result<bool, StoreError> {
    let removed = sqlx::query("DELETE FROM keylime_policy WHERE kind = $1 AND name = $2")
        .bind(kind.as_str())
        .bind(name)
        .execute(tx)
        .await?;
    Ok(removed.rows_affected() > 0)
}

/// An agent that is judged by a policy.
pub(crate) async fn used_by(
    tx: &mut Connection,
    kind: KeylimeKind,
    name: &str,
) -> Result<Option<String>, StoreError> {
    let sql = match kind {
        KeylimeKind::Runtime => {
            "SELECT id FROM keylime_agent WHERE runtime_policy = $1 ORDER BY id LIMIT 1"
        }
        KeylimeKind::MeasuredBoot => {
            "SELECT id FROM keylime_agent WHERE mb_policy = $1 ORDER BY id LIMIT 1"
        }
    };
    Ok(sqlx::query_scalar(sql)
        .bind(name)
        .fetch_optional(tx)
        .await?)
}

/// Keeps the text of a policy, once.
async fn put_text(tx: &mut Connection, text: &[u8]) -> Result<Digest, StoreError> {
    let bytes_max = limits::POLICY_BYTES_MAX;
    limits::check("bytes of a policy", text.len(), bytes_max)?;
    let digest = crypto::digest(HashAlg::Sha256, text);
    sqlx::query(
        "INSERT INTO policy_blob (digest, text_bytes, packed) VALUES ($1, $2, $3)
         ON CONFLICT (digest) DO NOTHING",
    )
    .bind(digest.as_bytes())
    .bind(count(text.len())?)
    .bind(packed::pack_bytes(text))
    .execute(tx)
    .await?;
    Ok(digest)
}
