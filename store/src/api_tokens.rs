//! Tokens of programs that call the HTTP surfaces: only a hash of each is kept.

use rat_engine::crypto;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{array, natural, number};
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::tokens::TokenRefusal;
use crate::users::{Standing, StoredUser, user_columns};

/// An API token to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiToken {
    /// The part of it that finds it; no secret.
    pub id: String,
    /// SHA-256 of the whole token.
    pub sha256: [u8; 32],
    /// What it is for, in its maker's words.
    pub name: String,
    /// The id of the user whose it is; `None` when it was made on the data directory.
    pub owner: Option<String>,
    /// The id of the role that it gives, as far as its owner has it.
    pub role: String,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_unix_ms: u64,
    /// When it ends by itself.
    pub expires_unix_ms: u64,
}

/// An API token that is kept, and its owner as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredApiToken {
    /// What was kept.
    pub token: NewApiToken,
    /// Whose it is.
    pub owner: Option<StoredUser>,
    /// When it was revoked.
    pub revoked_unix_ms: Option<u64>,
    /// When it was last used, to the minute.
    pub last_used_unix_ms: Option<u64>,
}

macro_rules! select_token {
    ($rest:literal) => {
        concat!(
            "SELECT api_token.id, api_token.sha256, api_token.name, api_token.owner,
                    api_token.role, api_token.created_by, api_token.created_unix_ms,
                    api_token.expires_unix_ms, api_token.revoked_unix_ms,
                    api_token.last_used_unix_ms, ",
            user_columns!(),
            " FROM api_token LEFT JOIN account ON account.id = api_token.owner ",
            $rest
        )
    };
}

impl StoredApiToken {
    /// Whether somebody who presents a token with this hash may use it now.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    ///
    /// # Security
    /// The hash is compared in constant time, and before anything else is said of the token.
    pub fn admits(&self, sha256: &[u8; 32], now_unix_ms: u64) -> Result<(), TokenRefusal> {
        if !crypto::constant_time_eq(&self.token.sha256, sha256) {
            return Err(TokenRefusal::Unknown);
        }
        if self.revoked_unix_ms.is_some() {
            return Err(TokenRefusal::Revoked);
        }
        if now_unix_ms >= self.token.expires_unix_ms {
            return Err(TokenRefusal::Expired);
        }
        let standing = self.owner.as_ref().map(|owner| owner.standing);
        match (standing, &self.token.owner) {
            (Some(Standing::Disabled), _) | (None, Some(_)) => Err(TokenRefusal::Revoked),
            (Some(Standing::Active | Standing::MustChangePassword), _) | (None, None) => Ok(()),
        }
    }

    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let id: String = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::ApiToken(id.clone()), fault);
        let optional = |value: Option<i64>| value.map(natural).transpose().map_err(unreadable);
        Ok(Self {
            token: NewApiToken {
                id: id.clone(),
                sha256: array(row.try_get(1)?).map_err(unreadable)?,
                name: row.try_get(2)?,
                owner: row.try_get(3)?,
                role: row.try_get(4)?,
                created_by: row.try_get(5)?,
                created_unix_ms: natural(row.try_get(6)?).map_err(unreadable)?,
                expires_unix_ms: natural(row.try_get(7)?).map_err(unreadable)?,
            },
            revoked_unix_ms: optional(row.try_get(8)?)?,
            last_used_unix_ms: optional(row.try_get(9)?)?,
            owner: StoredUser::read(row, 10)?,
        })
    }
}

impl Store {
    /// Keeps a new API token. Those that ended long since go.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when its id is taken, [`StoreError::TooLarge`] when its owner has as
    /// many as there may be.
    pub async fn put_api_token(&self, token: &NewApiToken) -> Result<(), StoreError> {
        limits::check_name("an API token's id", &token.id)?;
        limits::check_name("an API token's name", &token.name)?;
        limits::check_name("an API token's maker", &token.created_by)?;
        let now = number(token.created_unix_ms)?;
        let long_since = token
            .created_unix_ms
            .saturating_sub(limits::API_TOKEN_KEPT_MS);
        let mut tx = self.pools().write().await?;
        sqlx::query("DELETE FROM api_token WHERE expires_unix_ms < $1 OR revoked_unix_ms < $1")
            .bind(number(long_since)?)
            .execute(&mut *tx)
            .await?;
        let live: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM api_token
             WHERE owner IS NOT DISTINCT FROM $1 AND revoked_unix_ms IS NULL AND expires_unix_ms > $2",
        )
        .bind(&token.owner)
        .bind(now)
        .fetch_one(&mut *tx)
        .await?;
        if live >= limits::API_TOKENS_PER_OWNER_MAX {
            return Err(StoreError::TooLarge {
                name: "API tokens of one owner",
                found: u64::try_from(live.saturating_add(1)).unwrap_or(u64::MAX),
                max: u64::try_from(limits::API_TOKENS_PER_OWNER_MAX).unwrap_or(u64::MAX),
            });
        }
        let made = sqlx::query(
            "INSERT INTO api_token (id, sha256, name, owner, role, created_by, created_unix_ms,
                                    expires_unix_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
        )
        .bind(&token.id)
        .bind(&token.sha256[..])
        .bind(&token.name)
        .bind(&token.owner)
        .bind(&token.role)
        .bind(&token.created_by)
        .bind(now)
        .bind(number(token.expires_unix_ms)?)
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Exists(RowName::ApiToken(token.id.clone())));
        }
        let detail = serde_json::json!({
            "name": token.name,
            "role": token.role,
            "expires_unix_ms": token.expires_unix_ms,
        });
        let entry = AuditEntry {
            at_unix_ms: token.created_unix_ms,
            actor: &token.created_by,
            action: "api_token.create",
            target: &token.id,
            detail: &detail.to_string(),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The API token with this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn api_token(&self, id: &str) -> Result<Option<StoredApiToken>, StoreError> {
        let row = sqlx::query(select_token!("WHERE api_token.id = $1"))
            .bind(id)
            .fetch_optional(self.pools().read())
            .await?;
        row.as_ref().map(StoredApiToken::read).transpose()
    }

    /// API tokens after this id, in order; of one owner, or of all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn api_tokens(
        &self,
        owner: Option<&str>,
        after_id: &str,
        tokens_max: u32,
    ) -> Result<Vec<StoredApiToken>, StoreError> {
        sqlx::query(select_token!(
            "WHERE api_token.id > $1 AND ($2 IS NULL OR api_token.owner = $2)
             ORDER BY api_token.id LIMIT $3"
        ))
        .bind(after_id)
        .bind(owner)
        .bind(tokens_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(StoredApiToken::read)
        .collect()
    }

    /// Notes that an API token was used, unless that was noted within the last minute.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_api_token_use(
        &self,
        token: &StoredApiToken,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let noted = token.last_used_unix_ms.unwrap_or(0);
        if now_unix_ms.saturating_sub(noted) < limits::LAST_USED_EVERY_MS {
            return Ok(());
        }
        let mut tx = self.pools().write().await?;
        sqlx::query(
            "UPDATE api_token SET last_used_unix_ms = $2
             WHERE id = $1 AND coalesce(last_used_unix_ms, 0) < $2",
        )
        .bind(&token.token.id)
        .bind(number(now_unix_ms)?)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Ends an API token: true when there is one, and it was not revoked before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_api_token(
        &self,
        id: &str,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let revoked = sqlx::query(
            "UPDATE api_token SET revoked_unix_ms = $2 WHERE id = $1 AND revoked_unix_ms IS NULL",
        )
        .bind(id)
        .bind(number(now_unix_ms)?)
        .execute(&mut *tx)
        .await?;
        if revoked.rows_affected() == 0 {
            return Ok(false);
        }
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "api_token.revoke",
            target: id,
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }
}
