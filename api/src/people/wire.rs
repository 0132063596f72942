//! What is answered about accounts. Times are RFC 3339.

use rat_store::{Standing, StoredApiToken, StoredUser};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::roles::{Granted, Role};
use crate::clock::rfc3339;

/// A user, as administrators see it.
#[derive(Serialize, ToSchema)]
pub(super) struct User {
    id: String,
    username: String,
    email: String,
    roles: Vec<String>,
    /// `local`: there are no other accounts yet.
    auth_provider: String,
    disabled: bool,
    must_change_password: bool,
    #[schema(format = DateTime)]
    created_at: Option<String>,
    #[schema(format = DateTime)]
    last_login: Option<String>,
}

impl From<StoredUser> for User {
    fn from(user: StoredUser) -> Self {
        Self {
            disabled: user.standing == Standing::Disabled,
            must_change_password: user.standing == Standing::MustChangePassword,
            created_at: rfc3339(user.created_unix_ms),
            last_login: user.last_login_unix_ms.and_then(rfc3339),
            id: user.id,
            username: user.username,
            email: user.email,
            roles: user.roles,
            auth_provider: user.auth_provider,
        }
    }
}

/// Everybody who has an account.
#[derive(Serialize, ToSchema)]
pub(super) struct Users {
    pub(super) users: Vec<User>,
}

/// A user, as it sees itself.
#[derive(Serialize, ToSchema)]
#[schema(as = Account)]
pub(super) struct Me {
    #[serde(flatten)]
    user: User,
    /// What the roles give, each as `area:action`.
    permissions: Vec<&'static str>,
}

impl From<StoredUser> for Me {
    fn from(user: StoredUser) -> Self {
        Self {
            permissions: Granted::to_user(&user.roles).permissions(),
            user: user.into(),
        }
    }
}

/// A session of 24 hours.
#[derive(Serialize, ToSchema)]
pub(super) struct LoggedIn {
    /// The session's token; it is shown this once.
    pub(super) token: String,
    pub(super) user: Me,
    #[schema(format = DateTime)]
    pub(super) expires_at: Option<String>,
}

/// The roles that there are.
#[derive(Serialize, ToSchema)]
pub(super) struct Roles {
    pub(super) roles: Vec<ShownRole>,
}

/// A role.
#[derive(Serialize, ToSchema)]
#[schema(as = Role)]
pub(super) struct ShownRole {
    id: &'static str,
    name: &'static str,
    description: &'static str,
    /// What it gives: `area:action`, `area:*` or `*`.
    permissions: &'static [&'static str],
    /// Whether it is one of the server's own; all are today.
    is_system: bool,
}

impl From<&'static Role> for ShownRole {
    fn from(role: &'static Role) -> Self {
        Self {
            id: role.id,
            name: role.name,
            description: role.description,
            permissions: role.permissions,
            is_system: true,
        }
    }
}

/// An API token, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiToken)]
pub(super) struct ShownToken {
    id: String,
    name: String,
    role: String,
    /// Whose it is; null for one that was made on the data directory.
    owner: Option<String>,
    created_by: String,
    #[schema(format = DateTime)]
    created_at: Option<String>,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
    #[schema(format = DateTime)]
    last_used: Option<String>,
}

impl From<StoredApiToken> for ShownToken {
    fn from(stored: StoredApiToken) -> Self {
        let token = stored.token;
        Self {
            id: token.id,
            name: token.name,
            role: token.role,
            owner: stored.owner.map(|owner| owner.username),
            created_by: token.created_by,
            created_at: rfc3339(token.created_unix_ms),
            expires_at: rfc3339(token.expires_unix_ms),
            revoked_at: stored.revoked_unix_ms.and_then(rfc3339),
            last_used: stored.last_used_unix_ms.and_then(rfc3339),
        }
    }
}

/// API tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiTokens)]
pub(super) struct Tokens {
    pub(super) tokens: Vec<ShownToken>,
}

/// A new API token, with its text, this once.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiTokenMade)]
pub(super) struct MadeToken {
    pub(super) token: String,
    #[serde(flatten)]
    pub(super) shown: ShownToken,
}
