//! Enrolment tokens: only a hash of each is kept.

use rat_engine::crypto;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use thiserror::Error;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{array, natural, number};
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::packed::Fault;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Enrols machines into a group.
    Enrol,
    /// Enrols one machine and proposes its measurement list as the group's policy. Used once.
    Baseline,
}

impl TokenKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Enrol => "enrol",
            Self::Baseline => "baseline",
        }
    }

    fn from_text(text: &str) -> Result<Self, Fault> {
        [Self::Enrol, Self::Baseline]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(Fault::Content)
    }
}

/// A token to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The part of it that finds it; no secret.
    pub id: String,
    /// SHA-256 of the whole token.
    pub sha256: [u8; 32],
    /// What it is for.
    pub kind: TokenKind,
    /// The group that it enrols into.
    pub group: String,
    /// How often it can be used; `None` for any number. A baseline token is used once.
    pub uses_max: Option<u64>,
    /// When it ends by itself.
    pub expires_unix_ms: Option<u64>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_unix_ms: u64,
}

/// A token that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// What was kept.
    pub token: NewToken,
    /// How often it was used.
    pub uses: u64,
    /// When it was revoked.
    pub revoked_unix_ms: Option<u64>,
}

/// Why a token is not taken. Callers answer all of them with one text. (N03)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenRefusal {
    /// There is no token with this id, or its hash is another.
    #[error("no such token")]
    Unknown,
    /// It was revoked.
    #[error("the token is revoked")]
    Revoked,
    /// It has expired.
    #[error("the token has expired")]
    Expired,
    /// It was used as often as it can be.
    #[error("the token is used up")]
    Used,
}

impl StoredToken {
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
        if self
            .token
            .expires_unix_ms
            .is_some_and(|end| now_unix_ms >= end)
        {
            return Err(TokenRefusal::Expired);
        }
        if self.token.uses_max.is_some_and(|max| self.uses >= max) {
            return Err(TokenRefusal::Used);
        }
        Ok(())
    }

    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let id: String = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::Token(id.clone()), fault);
        let optional = |value: Option<i64>| value.map(natural).transpose().map_err(unreadable);
        Ok(Self {
            token: NewToken {
                id: id.clone(),
                sha256: array(row.try_get(1)?).map_err(unreadable)?,
                kind: TokenKind::from_text(row.try_get(2)?).map_err(unreadable)?,
                group: row.try_get(3)?,
                uses_max: optional(row.try_get(5)?)?,
                created_by: row.try_get(6)?,
                created_unix_ms: natural(row.try_get(7)?).map_err(unreadable)?,
                expires_unix_ms: optional(row.try_get(8)?)?,
            },
            uses: natural(row.try_get(4)?).map_err(unreadable)?,
            revoked_unix_ms: optional(row.try_get(9)?)?,
        })
    }
}

impl Store {
    /// Keeps a new token.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when its id is taken, [`StoreError::Missing`] without its group.
    pub async fn put_token(&self, token: &NewToken) -> Result<(), StoreError> {
        limits::check_name("a token's id", &token.id)?;
        limits::check_name("a token's maker", &token.created_by)?;
        let uses_max = match token.kind {
            TokenKind::Baseline => Some(1),
            TokenKind::Enrol => token.uses_max,
        };
        let mut tx = self.pools().write().await?;
        crate::groups::require(&mut tx, &token.group).await?;
        let made = sqlx::query(
            "INSERT INTO token (id, sha256, kind, slug, uses, max_uses, created_by,
                                created_unix_ms, expires_unix_ms)
             VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
        )
        .bind(&token.id)
        .bind(&token.sha256[..])
        .bind(token.kind.as_str())
        .bind(&token.group)
        .bind(uses_max.map(number).transpose()?)
        .bind(&token.created_by)
        .bind(number(token.created_unix_ms)?)
        .bind(token.expires_unix_ms.map(number).transpose()?)
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Exists(RowName::Token(token.id.clone())));
        }
        let entry = AuditEntry {
            at_unix_ms: token.created_unix_ms,
            actor: &token.created_by,
            action: "token.create",
            target: &token.id,
            detail: &token.group,
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The token with this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn token(&self, id: &str) -> Result<Option<StoredToken>, StoreError> {
        let row = sqlx::query(
            "SELECT id, sha256, kind, slug, uses, max_uses, created_by, created_unix_ms,
                    expires_unix_ms, revoked_unix_ms FROM token WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(self.pools().read())
        .await?;
        row.as_ref().map(StoredToken::read).transpose()
    }

    /// Tokens after this id, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tokens(
        &self,
        after_id: &str,
        tokens_max: u32,
    ) -> Result<Vec<StoredToken>, StoreError> {
        sqlx::query(
            "SELECT id, sha256, kind, slug, uses, max_uses, created_by, created_unix_ms,
                    expires_unix_ms, revoked_unix_ms FROM token
             WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(after_id)
        .bind(tokens_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?
        .iter()
        .map(StoredToken::read)
        .collect()
    }

    /// Uses a token once, if it admits now; of two that use the last one, one succeeds.
    ///
    /// # Errors
    /// The outer for the database, the inner when the token is not taken.
    pub async fn use_token(
        &self,
        id: &str,
        sha256: &[u8; 32],
        now_unix_ms: u64,
    ) -> Result<Result<StoredToken, TokenRefusal>, StoreError> {
        let mut tx = self.pools().write().await?;
        let row = sqlx::query(
            "SELECT id, sha256, kind, slug, uses, max_uses, created_by, created_unix_ms,
                    expires_unix_ms, revoked_unix_ms FROM token WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            return Ok(Err(TokenRefusal::Unknown));
        };
        let mut token = StoredToken::read(&row)?;
        if let Err(refusal) = token.admits(sha256, now_unix_ms) {
            return Ok(Err(refusal));
        }
        sqlx::query("UPDATE token SET uses = uses + 1 WHERE id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        token.uses = token.uses.saturating_add(1);
        Ok(Ok(token))
    }

    /// Ends a token: true when there is one, and it was not revoked before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_token(
        &self,
        id: &str,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let revoked = sqlx::query(
            "UPDATE token SET revoked_unix_ms = $2 WHERE id = $1 AND revoked_unix_ms IS NULL",
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
            action: "token.revoke",
            target: id,
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }
}
