//! The audit log: who changed what, append-only, each entry chained to the one before. (S12)

use rat_engine::crypto::Hasher;
use rat_engine::hash::HashAlg;
use rat_engine::shard::ChainHash;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::database::{Connection, chain_hash, natural, number};
use crate::error::{RowName, StoreError};
use crate::limits;

/// Somebody changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditEntry<'a> {
    /// When.
    pub at_unix_ms: u64,
    /// Who: a user, a token's id, a certificate's name, or a part of the server.
    pub actor: &'a str,
    /// What was done: `area.action`.
    pub action: &'a str,
    /// To what.
    pub target: &'a str,
    /// What it was before and is now, in a sentence or as JSON; no secrets.
    pub detail: &'a str,
}

/// An entry that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number; the first is 1.
    pub seq: u64,
    /// When.
    pub at_unix_ms: u64,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// More about it.
    pub detail: String,
    /// The head of the chain after it.
    pub head: ChainHash,
}

impl AuditRecord {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let seq: i64 = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::Audit(seq), fault);
        Ok(Self {
            seq: natural(seq).map_err(unreadable)?,
            at_unix_ms: natural(row.try_get(1)?).map_err(unreadable)?,
            actor: row.try_get(2)?,
            action: row.try_get(3)?,
            target: row.try_get(4)?,
            detail: row.try_get(5)?,
            head: chain_hash(row.try_get(6)?).map_err(unreadable)?,
        })
    }

    fn entry(&self) -> AuditEntry<'_> {
        AuditEntry {
            at_unix_ms: self.at_unix_ms,
            actor: &self.actor,
            action: &self.action,
            target: &self.target,
            detail: &self.detail,
        }
    }
}

/// The head after one more entry: SHA-256 over a label, the head before, the entry's number and
/// time, and each text preceded by its length.
fn head_after(before: &ChainHash, seq: u64, entry: &AuditEntry<'_>) -> ChainHash {
    let mut hasher = Hasher::new(HashAlg::Sha256);
    hasher.update(b"ratd audit v1\0");
    hasher.update(&before.0);
    hasher.update(&seq.to_be_bytes());
    hasher.update(&entry.at_unix_ms.to_be_bytes());
    for text in [entry.actor, entry.action, entry.target, entry.detail] {
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        hasher.update(&length.to_be_bytes());
        hasher.update(text.as_bytes());
    }
    // SHA-256 has 32 bytes; the zeros are never reached.
    ChainHash(hasher.finish().as_bytes().try_into().unwrap_or([0; 32]))
}

/// Appends an entry inside the transaction that makes the change.
pub(crate) async fn append(tx: &mut Connection, entry: AuditEntry<'_>) -> Result<u64, StoreError> {
    for text in [entry.actor, entry.action, entry.target] {
        limits::check_name("a text of an audit entry", text)?;
    }
    let detail = entry.detail.len();
    limits::check(
        "the detail of an audit entry",
        detail,
        limits::DETAIL_BYTES_MAX,
    )?;
    let last = sqlx::query("SELECT seq, head FROM audit ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut *tx)
        .await?;
    let (seq, before) = match last {
        None => (0, ChainHash::default()),
        Some(row) => {
            let seq: i64 = row.try_get(0)?;
            let unreadable = |fault| StoreError::unreadable(RowName::Audit(seq), fault);
            let head = chain_hash(row.try_get(1)?).map_err(unreadable)?;
            (natural(seq).map_err(unreadable)?, head)
        }
    };
    let seq = seq.checked_add(1).ok_or(StoreError::Number(seq))?;
    sqlx::query(
        "INSERT INTO audit (seq, at_unix_ms, actor, action, target, detail, head)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(number(seq)?)
    .bind(number(entry.at_unix_ms)?)
    .bind(entry.actor)
    .bind(entry.action)
    .bind(entry.target)
    .bind(entry.detail)
    .bind(&head_after(&before, seq, &entry).0[..])
    .execute(tx)
    .await?;
    Ok(seq)
}

impl Store {
    /// Appends an entry, for a change that the store does not make itself.
    ///
    /// # Errors
    /// [`StoreError`]; then the change must not be made either.
    pub async fn audit(&self, entry: AuditEntry<'_>) -> Result<u64, StoreError> {
        let mut tx = self.pools().write().await?;
        let seq = append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(seq)
    }

    /// Entries after this number, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit_entries(
        &self,
        after_seq: u64,
        entries_max: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        sqlx::query(
            "SELECT seq, at_unix_ms, actor, action, target, detail, head FROM audit
             WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(number(after_seq)?)
        .bind(entries_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(AuditRecord::read)
        .collect()
    }

    /// Entries before this number, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit_entries_before(
        &self,
        before_seq: u64,
        entries_max: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        sqlx::query(
            "SELECT seq, at_unix_ms, actor, action, target, detail, head FROM audit
             WHERE seq < $1 ORDER BY seq DESC LIMIT $2",
        )
        .bind(number(before_seq)?)
        .bind(entries_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(AuditRecord::read)
        .collect()
    }

    /// Hashes the whole audit log again: the number of its entries, and its head.
    ///
    /// # Errors
    /// The outer for the database; the inner is the number of the first entry that is missing,
    /// was edited or stands in another place. That the newest were cut off is seen only by
    /// comparing the head with one that was noted elsewhere.
    pub async fn verify_audit(&self) -> Result<Result<(u64, ChainHash), u64>, StoreError> {
        let mut newest = (0_u64, ChainHash::default());
        loop {
            let page = self.audit_entries(newest.0, limits::PAGE_MAX).await?;
            if page.is_empty() {
                return Ok(Ok(newest));
            }
            for record in page {
                let seq = newest.0.saturating_add(1);
                let head = head_after(&newest.1, seq, &record.entry());
                if record.seq != seq || record.head != head {
                    return Ok(Err(seq));
                }
                newest = (seq, head);
            }
        }
    }
}
