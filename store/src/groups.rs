//! Policy groups: what is demanded of their agents.

use rat_engine::hash::{Digest, HashAlg};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural, number};
use crate::error::{GroupFault, RowName, StoreError};
use crate::limits;
use crate::packed::Fault;

/// Who may enrol into a group, beyond holding a token of it. (N12)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Approval {
    /// Whoever proves a genuine TPM.
    Auto,
    /// Machines on the operator's list.
    List,
    /// Machines that an operator approves one by one.
    Manual,
}

impl Approval {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::List => "list",
            Self::Manual => "manual",
        }
    }

    fn from_text(text: &str) -> Result<Self, Fault> {
        [Self::Auto, Self::List, Self::Manual]
            .into_iter()
            .find(|approval| approval.as_str() == text)
            .ok_or(Fault::Content)
    }
}

/// What an operator sets for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// What people call it.
    pub name: String,
    /// False: detection mode, in which violations are reported and not held against the agent.
    pub protected: bool,
    /// True: the runtime policy is skipped.
    pub bypass: bool,
    /// True: every agent is reported as blocked.
    pub block: bool,
    /// The bank that quotes must cover. (P07)
    pub bank: HashAlg,
    /// Whether a boot must be explained by a boot log. False is for machines whose firmware writes
    /// none.
    pub require_boot_log: bool,
    /// Whether violations of the measurement list are accepted.
    pub accept_violations: bool,
    /// Whether a failed agent that passes again is trusted again without an operator. (S09)
    pub auto_recover: bool,
    /// Who may enrol.
    pub approval: Approval,
    /// The PCR policy's text.
    pub pcr_policy: Option<String>,
    /// From one challenge of its agents to the next; `None` for the server's own interval.
    pub interval_ms: Option<u64>,
    /// Whether SHA-1 is accepted: as the hash of attestation keys and quotes, and as the bank.
    pub allow_sha1: bool,
    /// Whether a file whose signature does not verify fails, also when its digest is listed.
    pub require_valid_ima_sig: bool,
}

/// The settings of a new group: it enforces, and nothing is waived.
impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            protected: true,
            bypass: false,
            block: false,
            bank: HashAlg::Sha256,
            require_boot_log: true,
            accept_violations: false,
            auto_recover: false,
            approval: Approval::Auto,
            pcr_policy: None,
            interval_ms: None,
            allow_sha1: false,
            require_valid_ima_sig: false,
        }
    }
}

impl GroupSettings {
    fn check(&self) -> Result<(), StoreError> {
        limits::check_name("a group's name", &self.name)?;
        let bytes = self.pcr_policy.as_ref().map_or(0, String::len);
        let max = rat_engine::limits::TPM_POLICY_BYTES_MAX;
        limits::check("bytes of a PCR policy", bytes, max)?;
        Ok(self.fit_together()?)
    }

    /// Whether a group can have these settings.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn fit_together(&self) -> Result<(), GroupFault> {
        let range = limits::INTERVAL_MS_MIN..=limits::INTERVAL_MS_MAX;
        if let Some(interval_ms) = self.interval_ms.filter(|it| !range.contains(it)) {
            return Err(GroupFault::Interval { interval_ms });
        }
        if self.bank == HashAlg::Sha1 && !self.allow_sha1 {
            return Err(GroupFault::Sha1Bank);
        }
        Ok(())
    }

    fn audited(&self) -> String {
        serde_json::json!({
            "name": self.name,
            "protected": self.protected,
            "bypass": self.bypass,
            "block": self.block,
            "bank": self.bank.name(),
            "require_boot_log": self.require_boot_log,
            "accept_violations": self.accept_violations,
            "auto_recover": self.auto_recover,
            "approval": self.approval.as_str(),
            "pcr_policy_bytes": self.pcr_policy.as_ref().map(String::len),
            "interval_ms": self.interval_ms,
            "allow_sha1": self.allow_sha1,
            "require_valid_ima_sig": self.require_valid_ima_sig,
        })
        .to_string()
    }
}

/// A group to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// Its name in routes and records.
    pub slug: String,
    /// Its name in the rulesets API.
    pub hex_id: String,
    /// Its settings.
    pub settings: GroupSettings,
}

/// A version of a group's policy, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VersionRef {
    /// Its number within the group.
    pub version: u64,
    /// SHA-256 of its text.
    pub digest: Digest,
}

/// A group as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredGroup {
    /// Its name in routes and records.
    pub slug: String,
    /// Its name in the rulesets API.
    pub hex_id: String,
    /// Its settings.
    pub settings: GroupSettings,
    /// The version that is enforced; without one nobody is trusted. (L01)
    pub enforced: Option<VersionRef>,
    /// The version that is judged beside it and decides nothing.
    pub shadow: Option<VersionRef>,
    /// When it was made.
    pub created_unix_ms: u64,
    /// Grows with every change.
    pub row_version: u64,
}

/// The query of groups, with a condition or an order.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT g.slug, g.hex_id, g.name, g.protected, g.bypass, g.block, g.bank,
    g.require_boot_log, g.accept_violations, g.auto_recover, g.approval, g.pcr_policy,
    g.enforced_version, e.digest, g.shadow_version, s.digest, g.created_unix_ms, g.row_version,
    g.interval_ms, g.allow_sha1, g.require_valid_ima_sig
    FROM policy_group g
    LEFT JOIN policy_version e ON e.slug = g.slug AND e.version = g.enforced_version
    LEFT JOIN policy_version s ON s.slug = g.slug AND s.version = g.shadow_version",
            $rest
        )
    };
}

impl StoredGroup {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let slug: String = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::Group(slug.clone()), fault);
        let bank: &str = row.try_get(6)?;
        Ok(Self {
            settings: GroupSettings {
                name: row.try_get(2)?,
                protected: row.try_get(3)?,
                bypass: row.try_get(4)?,
                block: row.try_get(5)?,
                bank: HashAlg::from_name(bank.as_bytes())
                    .ok_or_else(|| unreadable(Fault::Content))?,
                require_boot_log: row.try_get(7)?,
                accept_violations: row.try_get(8)?,
                auto_recover: row.try_get(9)?,
                approval: Approval::from_text(row.try_get(10)?).map_err(unreadable)?,
                pcr_policy: row.try_get(11)?,
                interval_ms: interval(row, 18).map_err(unreadable)?,
                allow_sha1: row.try_get(19)?,
                require_valid_ima_sig: row.try_get(20)?,
            },
            enforced: version(row, 12).map_err(unreadable)?,
            shadow: version(row, 14).map_err(unreadable)?,
            hex_id: row.try_get(1)?,
            created_unix_ms: natural(row.try_get(16)?).map_err(unreadable)?,
            row_version: natural(row.try_get(17)?).map_err(unreadable)?,
            slug: slug.clone(),
        })
    }
}

fn interval(row: &SqliteRow, at: usize) -> Result<Option<u64>, Fault> {
    let interval_ms: Option<i64> = row.try_get(at).map_err(|_| Fault::Content)?;
    interval_ms.map(natural).transpose()
}

fn version(row: &SqliteRow, at: usize) -> Result<Option<VersionRef>, Fault> {
    let version: Option<i64> = row.try_get(at).map_err(|_| Fault::Content)?;
    let digest: Option<Vec<u8>> = row
        .try_get(at.saturating_add(1))
        .map_err(|_| Fault::Content)?;
    match (version, digest) {
        (None, None) => Ok(None),
        (Some(version), Some(digest)) => Ok(Some(VersionRef {
            version: natural(version)?,
            digest: Digest::new(HashAlg::Sha256, &digest).map_err(|_| Fault::Content)?,
        })),
        _ => Err(Fault::Content),
    }
}

/// Refuses a group that is not there.
pub(crate) async fn require(tx: &mut Connection, slug: &str) -> Result<(), StoreError> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM policy_group WHERE slug = $1")
        .bind(slug)
        .fetch_optional(tx)
        .await?;
    match found {
        Some(_) => Ok(()),
        None => Err(StoreError::Missing(RowName::Group(slug.to_owned()))),
    }
}

impl Store {
    /// The group with this slug.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn group(&self, slug: &str) -> Result<Option<StoredGroup>, StoreError> {
        let row = sqlx::query(select!(" WHERE g.slug = $1"))
            .bind(slug)
            .fetch_optional(self.pools().read())
            .await?;
        row.as_ref().map(StoredGroup::read).transpose()
    }

    /// The group with this name in the rulesets API.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn group_by_hex_id(&self, hex_id: &str) -> Result<Option<StoredGroup>, StoreError> {
        let row = sqlx::query(select!(" WHERE g.hex_id = $1"))
            .bind(hex_id)
            .fetch_optional(self.pools().read())
            .await?;
        row.as_ref().map(StoredGroup::read).transpose()
    }

    /// Every group, by slug.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn groups(&self) -> Result<Vec<StoredGroup>, StoreError> {
        sqlx::query(select!(" ORDER BY g.slug"))
            .fetch_all(self.pools().read())
            .await?
            .iter()
            .map(StoredGroup::read)
            .collect()
    }

    /// Groups after this slug, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn groups_after(
        &self,
        after_slug: &str,
        groups_max: u32,
    ) -> Result<Vec<StoredGroup>, StoreError> {
        sqlx::query(select!(" WHERE g.slug > $1 ORDER BY g.slug LIMIT $2"))
            .bind(after_slug)
            .bind(groups_max.min(limits::PAGE_MAX))
            .fetch_all(self.pools().read())
            .await?
            .iter()
            .map(StoredGroup::read)
            .collect()
    }

    /// Makes a group, without a policy.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when its slug or hex id is taken.
    pub async fn create_group(
        &self,
        group: &NewGroup,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        limits::check_name("a group's slug", &group.slug)?;
        limits::check_name("a group's hex id", &group.hex_id)?;
        let settings = &group.settings;
        settings.check()?;
        let mut tx = self.pools().write().await?;
        let made = sqlx::query(
            "INSERT INTO policy_group (slug, hex_id, name, protected, bypass, block, bank,
                 require_boot_log, accept_violations, auto_recover, approval, pcr_policy,
                 created_unix_ms, interval_ms, allow_sha1, require_valid_ima_sig, row_version)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 1)
             ON CONFLICT DO NOTHING",
        )
        .bind(&group.slug)
        .bind(&group.hex_id)
        .bind(&settings.name)
        .bind(settings.protected)
        .bind(settings.bypass)
        .bind(settings.block)
        .bind(settings.bank.name())
        .bind(settings.require_boot_log)
        .bind(settings.accept_violations)
        .bind(settings.auto_recover)
        .bind(settings.approval.as_str())
        .bind(settings.pcr_policy.as_deref())
        .bind(number(now_unix_ms)?)
        .bind(settings.interval_ms.map(number).transpose()?)
        .bind(settings.allow_sha1)
        .bind(settings.require_valid_ima_sig)
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Exists(RowName::Group(group.slug.clone())));
        }
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "group.create",
            target: &group.slug,
            detail: &settings.audited(),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Changes a group's settings, and records what they are now.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without such a group.
    pub async fn update_group(
        &self,
        slug: &str,
        settings: &GroupSettings,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let mut tx = self.pools().write().await?;
        write_settings(&mut tx, slug, settings, actor, now_unix_ms).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The same, if the group's row is still this version: false when somebody else changed it
    /// meanwhile, and nothing changed.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without such a group.
    pub async fn update_group_at(
        &self,
        slug: &str,
        row_version: u64,
        settings: &GroupSettings,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        if row_version_of(&mut tx, slug).await? != row_version {
            return Ok(false);
        }
        write_settings(&mut tx, slug, settings, actor, now_unix_ms).await?;
        tx.commit().await?;
        Ok(true)
    }
}

async fn row_version_of(tx: &mut Connection, slug: &str) -> Result<u64, StoreError> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT row_version FROM policy_group WHERE slug = $1")
            .bind(slug)
            .fetch_optional(tx)
            .await?;
    let name = || RowName::Group(slug.to_owned());
    let found = found.ok_or_else(|| StoreError::Missing(name()))?;
    natural(found).map_err(|fault| StoreError::unreadable(name(), fault))
}

/// Writes a group's settings, and into the audit log what they are now.
async fn write_settings(
    tx: &mut Connection,
    slug: &str,
    settings: &GroupSettings,
    actor: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    settings.check()?;
    let changed = sqlx::query(
        "UPDATE policy_group SET name = $2, protected = $3, bypass = $4, block = $5, bank = $6,
             require_boot_log = $7, accept_violations = $8, auto_recover = $9, approval = $10,
             pcr_policy = $11, interval_ms = $12, allow_sha1 = $13, require_valid_ima_sig = $14,
             row_version = row_version + 1
         WHERE slug = $1",
    )
    .bind(slug)
    .bind(&settings.name)
    .bind(settings.protected)
    .bind(settings.bypass)
    .bind(settings.block)
    .bind(settings.bank.name())
    .bind(settings.require_boot_log)
    .bind(settings.accept_violations)
    .bind(settings.auto_recover)
    .bind(settings.approval.as_str())
    .bind(settings.pcr_policy.as_deref())
    .bind(settings.interval_ms.map(number).transpose()?)
    .bind(settings.allow_sha1)
    .bind(settings.require_valid_ima_sig)
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Err(StoreError::Missing(RowName::Group(slug.to_owned())));
    }
    let entry = AuditEntry {
        at_unix_ms: now_unix_ms,
        actor,
        action: "group.update",
        target: slug,
        detail: &settings.audited(),
    };
    audit::append(tx, entry).await?;
    Ok(())
}
