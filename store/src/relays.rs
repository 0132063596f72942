//! Relays: which an operator has named. One that is removed is gone.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{array, natural, number};
use crate::error::{RowName, StoreError};
use crate::limits;

/// A relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRelay {
    /// Its name.
    pub name: String,
    /// SHA-256 of its public key: what its agents' quotes are bound to.
    pub key_sha256: [u8; 32],
    /// Who named it.
    pub created_by: String,
    /// When.
    pub created_unix_ms: u64,
}

/// The query of relays with what follows.
macro_rules! relays {
    ($rest:literal) => {
        concat!(
            "SELECT name, key_sha256, created_by, created_unix_ms FROM relay ",
            $rest
        )
    };
}

impl StoredRelay {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let name: String = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::Relay(name.clone()), fault);
        Ok(Self {
            name: name.clone(),
            key_sha256: array(row.try_get(1)?).map_err(unreadable)?,
            created_by: row.try_get(2)?,
            created_unix_ms: natural(row.try_get(3)?).map_err(unreadable)?,
        })
    }
}

impl Store {
    /// Keeps a relay. One that is kept already, with the same key, stays as it is: it is given
    /// another certificate, and the audit log says so.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when another relay has its name or its key;
    /// [`StoreError::TooLarge`] when there are as many as there may be.
    pub async fn put_relay(&self, relay: &StoredRelay) -> Result<(), StoreError> {
        limits::check_name("a relay's name", &relay.name)?;
        limits::check_name("a relay's maker", &relay.created_by)?;
        let mut tx = self.pools().write().await?;
        let taken = sqlx::query(relays!("WHERE name = $1 OR key_sha256 = $2"))
            .bind(&relay.name)
            .bind(&relay.key_sha256[..])
            .fetch_all(&mut *tx)
            .await?;
        let taken = taken
            .iter()
            .map(StoredRelay::read)
            .collect::<Result<Vec<_>, _>>()?;
        let is_same = |it: &StoredRelay| it.name == relay.name && it.key_sha256 == relay.key_sha256;
        if let Some(other) = taken.iter().find(|it| !is_same(it)) {
            return Err(StoreError::Exists(RowName::Relay(other.name.clone())));
        }
        if taken.is_empty() {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM relay")
                .fetch_one(&mut *tx)
                .await?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            limits::check("relays", count.saturating_add(1), limits::RELAYS_MAX)?;
            sqlx::query(
                "INSERT INTO relay (name, key_sha256, created_by, created_unix_ms)
                 VALUES ($1, $2, $3, $4)",
            )
            .bind(&relay.name)
            .bind(&relay.key_sha256[..])
            .bind(&relay.created_by)
            .bind(number(relay.created_unix_ms)?)
            .execute(&mut *tx)
            .await?;
        }
        let entry = AuditEntry {
            at_unix_ms: relay.created_unix_ms,
            actor: &relay.created_by,
            action: match taken.is_empty() {
                true => "relay.add",
                false => "relay.certify",
            },
            target: &relay.name,
            detail: &hex::encode(relay.key_sha256),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// All relays, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn relays(&self) -> Result<Vec<StoredRelay>, StoreError> {
        let rows = sqlx::query(relays!("ORDER BY name"))
            .fetch_all(self.pools().read())
            .await?;
        rows.iter().map(StoredRelay::read).collect()
    }

    /// The relay of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn relay(&self, name: &str) -> Result<Option<StoredRelay>, StoreError> {
        let row = sqlx::query(relays!("WHERE name = $1"))
            .bind(name)
            .fetch_optional(self.pools().read())
            .await?;
        row.as_ref().map(StoredRelay::read).transpose()
    }

    /// Removes a relay; `None` when there is none. Agents whose records name it are not changed:
    /// nobody speaks for them until an operator moves them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_relay(
        &self,
        name: &str,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<Option<StoredRelay>, StoreError> {
        let mut tx = self.pools().write().await?;
        let row = sqlx::query(
            "DELETE FROM relay WHERE name = $1
             RETURNING name, key_sha256, created_by, created_unix_ms",
        )
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(removed) = row.as_ref().map(StoredRelay::read).transpose()? else {
            return Ok(None);
        };
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "relay.remove",
            target: name,
            detail: &hex::encode(removed.key_sha256),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Some(removed))
    }
}
