//! Logins: only a hash of each session's token is kept, and nothing once it has ended.

use rat_engine::crypto;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{array, natural, number};
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::packed::Fault;
use crate::tokens::TokenRefusal;
use crate::users::{PasswordHash, Standing, StoredUser, user_columns};

/// A session to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// The part of its token that finds it; no secret.
    pub id: String,
    /// SHA-256 of the whole token.
    pub sha256: [u8; 32],
    /// The id of the user who logged in.
    pub user: String,
    /// When that was.
    pub created_unix_ms: u64,
    /// When it ends by itself.
    pub expires_unix_ms: u64,
}

/// A session that has not been ended, and its user as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// What was kept.
    pub session: NewSession,
    /// Whose it is.
    pub user: StoredUser,
}

impl StoredSession {
    /// Whether somebody who presents a token with this hash has this session now.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    ///
    /// # Security
    /// The hash is compared in constant time, and before anything else is said of the session.
    pub fn admits(&self, sha256: &[u8; 32], now_unix_ms: u64) -> Result<(), TokenRefusal> {
        if !crypto::constant_time_eq(&self.session.sha256, sha256) {
            return Err(TokenRefusal::Unknown);
        }
        if now_unix_ms >= self.session.expires_unix_ms {
            return Err(TokenRefusal::Expired);
        }
        match self.user.standing {
            Standing::Active | Standing::MustChangePassword => Ok(()),
            Standing::Disabled => Err(TokenRefusal::Revoked),
        }
    }

    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let id: String = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::Session(id.clone()), fault);
        let user = StoredUser::read(row, 5)?.ok_or_else(|| unreadable(Fault::Content))?;
        Ok(Self {
            session: NewSession {
                id: id.clone(),
                sha256: array(row.try_get(1)?).map_err(unreadable)?,
                user: row.try_get(2)?,
                created_unix_ms: natural(row.try_get(3)?).map_err(unreadable)?,
                expires_unix_ms: natural(row.try_get(4)?).map_err(unreadable)?,
            },
            user,
        })
    }
}

impl Store {
    /// Keeps a new session, if the password that was verified is still the user's and the user is
    /// not disabled. Sessions that have expired go, and the oldest of a user who has too many.
    ///
    /// # Errors
    /// [`StoreError`].
    ///
    /// # Security
    /// Verifying a password takes long enough for it to be changed meanwhile; a session that began
    /// with the old one must not outlive it. (A03)
    pub async fn open_session(
        &self,
        session: &NewSession,
        verified: &PasswordHash,
    ) -> Result<bool, StoreError> {
        limits::check_name("a session's id", &session.id)?;
        let now = number(session.created_unix_ms)?;
        let mut tx = self.pools().write().await?;
        let username: Option<String> = sqlx::query_scalar(
            "UPDATE account SET last_login_unix_ms = $3
             WHERE id = $1 AND password_hash = $2 AND disabled = 0 RETURNING username",
        )
        .bind(&session.user)
        .bind(verified.as_phc())
        .bind(now)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(username) = username else {
            return Ok(false);
        };
        sqlx::query(
            "DELETE FROM session WHERE expires_unix_ms <= $2 OR account = $1 AND id NOT IN (
                 SELECT id FROM session WHERE account = $1
                 ORDER BY created_unix_ms DESC, id LIMIT $3)",
        )
        .bind(&session.user)
        .bind(now)
        .bind(limits::SESSIONS_PER_USER_MAX.saturating_sub(1))
        .execute(&mut *tx)
        .await?;
        let made = sqlx::query(
            "INSERT INTO session (id, sha256, account, created_unix_ms, expires_unix_ms)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING",
        )
        .bind(&session.id)
        .bind(&session.sha256[..])
        .bind(&session.user)
        .bind(now)
        .bind(number(session.expires_unix_ms)?)
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Exists(RowName::Session(session.id.clone())));
        }
        let entry = AuditEntry {
            at_unix_ms: session.created_unix_ms,
            actor: &username,
            action: "session.open",
            target: &session.id,
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The session with this id, unless it was ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn session(&self, id: &str) -> Result<Option<StoredSession>, StoreError> {
        let row = sqlx::query(concat!(
            "SELECT session.id, session.sha256, session.account, session.created_unix_ms,
                    session.expires_unix_ms, ",
            user_columns!(),
            " FROM session JOIN account ON account.id = session.account WHERE session.id = $1"
        ))
        .bind(id)
        .fetch_optional(self.pools().read())
        .await?;
        row.as_ref().map(StoredSession::read).transpose()
    }

    /// Ends a session, as its user wishes; true when there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_session(
        &self,
        id: &str,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let gone = sqlx::query("DELETE FROM session WHERE id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        if gone.rows_affected() == 0 {
            return Ok(false);
        }
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "session.end",
            target: id,
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }
}
