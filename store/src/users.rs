//! People's accounts.

use std::fmt;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use thiserror::Error;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural, number};
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::packed::Fault;

/// A password as it is kept: a string in PHC form, with algorithm, parameters and salt.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// The hash that this PHC string is.
    pub const fn new(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string, for whoever verifies a password.
    pub fn as_phc(&self) -> &str {
        &self.0
    }
}

/// Nothing of it: a log with hashes is a list to guess from.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// What a user may do with the right password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// All that the roles say.
    Active,
    /// Change the password; after that, all that the roles say.
    MustChangePassword,
    /// Nothing.
    Disabled,
}

/// A user to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// A random UUID.
    pub id: String,
    /// The name at a login; no other user has it in any case.
    pub username: String,
    /// May be empty.
    pub email: String,
    /// The password's hash.
    pub password: PasswordHash,
    /// Ids of roles.
    pub roles: Vec<String>,
    /// Whether the first login is only good for changing the password.
    pub must_change: bool,
    /// When it is made.
    pub created_unix_ms: u64,
}

/// A user that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUser {
    /// Its UUID.
    pub id: String,
    /// The name at a login.
    pub username: String,
    /// May be empty.
    pub email: String,
    /// The password's hash.
    pub password: PasswordHash,
    /// Ids of roles.
    pub roles: Vec<String>,
    /// What it may do.
    pub standing: Standing,
    /// Where its password is verified.
    pub auth_provider: String,
    /// When it was made.
    pub created_unix_ms: u64,
    /// When it last logged in.
    pub last_login_unix_ms: Option<u64>,
}

/// What is to be changed of a user; `None` leaves a member as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserChange {
    /// The new address.
    pub email: Option<String>,
    /// The new ids of roles.
    pub roles: Option<Vec<String>>,
    /// Whether logins and tokens of the user are refused from now on.
    pub disabled: Option<bool>,
}

/// Why a user is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UserRefusal {
    /// There is none with this id.
    #[error("no such user")]
    Unknown,
    /// Nobody who can log in would have the role that must not die out.
    #[error("nobody else who can log in has this role")]
    LastOfRole,
}

/// The columns that [`StoredUser::read`] reads, in its order.
macro_rules! user_columns {
    () => {
        "account.id, account.username, account.email, account.password_hash, account.roles,
         account.disabled, account.must_change, account.auth_provider, account.created_unix_ms,
         account.last_login_unix_ms"
    };
}
pub(crate) use user_columns;

/// Where a user's password is verified, so far.
const LOCAL: &str = "local";

impl StoredUser {
    /// Reads the columns that begin at `first`; `None` where an outer join found no user.
    pub(crate) fn read(row: &SqliteRow, first: usize) -> Result<Option<Self>, StoreError> {
        let column = |offset: usize| first.saturating_add(offset);
        let Some(id) = row.try_get::<Option<String>, _>(first)? else {
            return Ok(None);
        };
        let unreadable = |fault| StoreError::unreadable(RowName::User(id.clone()), fault);
        let roles: &str = row.try_get(column(4))?;
        let roles = serde_json::from_str(roles).map_err(|_| unreadable(Fault::Content))?;
        let (disabled, must_change) = (row.try_get(column(5))?, row.try_get(column(6))?);
        let last_login: Option<i64> = row.try_get(column(9))?;
        let last_login = last_login.map(natural).transpose().map_err(unreadable)?;
        let created = natural(row.try_get(column(8))?).map_err(unreadable)?;
        Ok(Some(Self {
            username: row.try_get(column(1))?,
            email: row.try_get(column(2))?,
            password: PasswordHash(row.try_get(column(3))?),
            roles,
            standing: match (disabled, must_change) {
                (true, _) => Standing::Disabled,
                (false, true) => Standing::MustChangePassword,
                (false, false) => Standing::Active,
            },
            auth_provider: row.try_get(column(7))?,
            created_unix_ms: created,
            last_login_unix_ms: last_login,
            id,
        }))
    }

    /// Whether the user could log in with the right password, and has this role.
    fn can_log_in_as(&self, role: &str) -> bool {
        self.standing != Standing::Disabled && self.roles.iter().any(|held| held == role)
    }
}

/// A username as it is compared.
fn folded(username: &str) -> String {
    username.to_ascii_lowercase()
}

/// Ids of roles as they are kept.
fn packed(roles: &[String]) -> Result<String, StoreError> {
    let roles = serde_json::to_string(roles).map_err(|_| StoreError::Pack)?;
    limits::check_name("a user's roles", &roles)?;
    Ok(roles)
}

async fn insert(tx: &mut Connection, user: &NewUser) -> Result<(), StoreError> {
    limits::check_name("a username", &user.username)?;
    limits::check_name("a user's email", &user.email)?;
    let hash = user.password.as_phc();
    let max = limits::PASSWORD_HASH_BYTES_MAX;
    limits::check("a password's hash", hash.len(), max)?;
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM account")
        .fetch_one(&mut *tx)
        .await?;
    if users >= limits::USERS_MAX {
        return Err(StoreError::TooLarge {
            name: "users",
            found: u64::try_from(users.saturating_add(1)).unwrap_or(u64::MAX),
            max: u64::try_from(limits::USERS_MAX).unwrap_or(u64::MAX),
        });
    }
    let made = sqlx::query(
        "INSERT INTO account (id, username, username_folded, email, password_hash, roles,
                              auth_provider, disabled, must_change, created_unix_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9) ON CONFLICT DO NOTHING",
    )
    .bind(&user.id)
    .bind(&user.username)
    .bind(folded(&user.username))
    .bind(&user.email)
    .bind(hash)
    .bind(packed(&user.roles)?)
    .bind(LOCAL)
    .bind(user.must_change)
    .bind(number(user.created_unix_ms)?)
    .execute(&mut *tx)
    .await?;
    if made.rows_affected() == 0 {
        return Err(StoreError::Exists(RowName::User(user.username.clone())));
    }
    Ok(())
}

/// The user with this id, inside a transaction.
async fn by_id(tx: &mut Connection, id: &str) -> Result<Option<StoredUser>, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        user_columns!(),
        " FROM account WHERE id = $1"
    ))
    .bind(id)
    .fetch_optional(tx)
    .await?;
    Ok(row
        .as_ref()
        .map(|row| StoredUser::read(row, 0))
        .transpose()?
        .flatten())
}

/// Every user, by name.
async fn all(connection: &mut Connection) -> Result<Vec<StoredUser>, StoreError> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        user_columns!(),
        " FROM account ORDER BY username_folded LIMIT $1"
    ))
    .bind(limits::USERS_MAX)
    .fetch_all(connection)
    .await?;
    let read = rows.iter().map(|row| StoredUser::read(row, 0));
    Ok(read
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect())
}

impl Store {
    /// Keeps a new user.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when another has the name, in any case, or the id.
    pub async fn put_user(&self, user: &NewUser, actor: &str) -> Result<(), StoreError> {
        let mut tx = self.pools().write().await?;
        insert(&mut tx, user).await?;
        audit_creation(&mut tx, user, actor).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Keeps a user if there is none at all; false when there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_first_user(&self, user: &NewUser, actor: &str) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let users: i64 = sqlx::query_scalar("SELECT count(*) FROM account")
            .fetch_one(&mut *tx)
            .await?;
        if users > 0 {
            return Ok(false);
        }
        insert(&mut tx, user).await?;
        audit_creation(&mut tx, user, actor).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The user with this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn user(&self, id: &str) -> Result<Option<StoredUser>, StoreError> {
        let mut connection = self.pools().read().acquire().await?;
        by_id(&mut connection, id).await
    }

    /// The user with this name, in any case.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn user_named(&self, username: &str) -> Result<Option<StoredUser>, StoreError> {
        let row = sqlx::query(concat!(
            "SELECT ",
            user_columns!(),
            " FROM account WHERE username_folded = $1"
        ))
        .bind(folded(username))
        .fetch_optional(self.pools().read())
        .await?;
        Ok(row
            .as_ref()
            .map(|row| StoredUser::read(row, 0))
            .transpose()?
            .flatten())
    }

    /// Every user, by name; at most [`limits::USERS_MAX`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn users(&self) -> Result<Vec<StoredUser>, StoreError> {
        let mut connection = self.pools().read().acquire().await?;
        all(&mut connection).await
    }

    /// Changes a user. Whoever is disabled has no session from then on.
    ///
    /// # Errors
    /// The outer for the database; the inner when there is no such user, or when nobody else who
    /// can log in has the role `keep`, which the change would take away.
    pub async fn change_user(
        &self,
        id: &str,
        change: &UserChange,
        keep: &str,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<Result<StoredUser, UserRefusal>, StoreError> {
        let mut tx = self.pools().write().await?;
        let Some(before) = by_id(&mut tx, id).await? else {
            return Ok(Err(UserRefusal::Unknown));
        };
        let email = change.email.as_ref().unwrap_or(&before.email);
        limits::check_name("a user's email", email)?;
        let roles = change.roles.as_ref().unwrap_or(&before.roles);
        sqlx::query(
            "UPDATE account SET email = $2, roles = $3, disabled = coalesce($4, disabled)
             WHERE id = $1",
        )
        .bind(id)
        .bind(email)
        .bind(packed(roles)?)
        .bind(change.disabled)
        .execute(&mut *tx)
        .await?;
        let Some(after) = by_id(&mut tx, id).await? else {
            return Ok(Err(UserRefusal::Unknown));
        };
        if before.can_log_in_as(keep) && !after.can_log_in_as(keep) {
            let users = all(&mut tx).await?;
            if !users.iter().any(|user| user.can_log_in_as(keep)) {
                return Ok(Err(UserRefusal::LastOfRole));
            }
        }
        if after.standing == Standing::Disabled {
            end_sessions(&mut tx, id, None).await?;
        }
        let detail = serde_json::json!({
            "username": after.username,
            "email": [before.email, after.email],
            "roles": [before.roles, after.roles],
            "disabled": [
                before.standing == Standing::Disabled,
                after.standing == Standing::Disabled,
            ],
        });
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "user.change",
            target: id,
            detail: &detail.to_string(),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Ok(after))
    }

    /// Gives a user another password, and ends the sessions of that user, except the one with the
    /// id `keep_session`. True when it was done.
    ///
    /// With `replacing` it is done only while that is still the password: of two changes that began
    /// with the same one, the first counts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_password(
        &self,
        id: &str,
        password: &PasswordChange<'_>,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let hash = password.hash.as_phc();
        let max = limits::PASSWORD_HASH_BYTES_MAX;
        limits::check("a password's hash", hash.len(), max)?;
        let mut tx = self.pools().write().await?;
        let done = sqlx::query(
            "UPDATE account SET password_hash = $2, must_change = $3
             WHERE id = $1 AND password_hash = coalesce($4, password_hash)",
        )
        .bind(id)
        .bind(hash)
        .bind(password.must_change)
        .bind(password.replacing.map(PasswordHash::as_phc))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        end_sessions(&mut tx, id, password.keep_session).await?;
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "user.password",
            target: id,
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// A user's new password, and what comes with it.
#[derive(Debug, Clone, Copy)]
pub struct PasswordChange<'a> {
    /// The hash of the new password.
    pub hash: &'a PasswordHash,
    /// The hash of the password that it replaces; `None` for any.
    pub replacing: Option<&'a PasswordHash>,
    /// Whether the next login is only good for changing it.
    pub must_change: bool,
    /// The session that goes on.
    pub keep_session: Option<&'a str>,
}

async fn end_sessions(
    tx: &mut Connection,
    user: &str,
    keep: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM session WHERE account = $1 AND ($2 IS NULL OR id <> $2)")
        .bind(user)
        .bind(keep)
        .execute(tx)
        .await?;
    Ok(())
}

async fn audit_creation(
    tx: &mut Connection,
    user: &NewUser,
    actor: &str,
) -> Result<(), StoreError> {
    let detail = serde_json::json!({ "username": user.username, "roles": user.roles });
    let entry = AuditEntry {
        at_unix_ms: user.created_unix_ms,
        actor,
        action: "user.create",
        target: &user.id,
        detail: &detail.to_string(),
    };
    audit::append(tx, entry).await?;
    Ok(())
}
