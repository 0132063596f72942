//! The bodies of requests, as the document shows them. Handlers read them member by member, with
//! the limits and texts that each member has.

use utoipa::ToSchema;

/// Somebody who logs in.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(super) struct LogIn {
    #[schema(max_length = 64)]
    username: String,
    #[schema(max_length = 256)]
    password: String,
}

/// A change of one's own account; what is missing stays as it is.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(super) struct AccountChange {
    #[schema(max_length = 254, nullable = false)]
    email: Option<String>,
}

/// A change of one's own password.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(super) struct PasswordChange {
    #[schema(max_length = 256)]
    current_password: String,
    #[schema(min_length = 8, max_length = 256)]
    new_password: String,
}

/// A new API token of one's own.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(super) struct NewApiToken {
    /// What it is for: a line without control characters.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    role: RoleId,
    /// 8760 when missing.
    #[schema(minimum = 1, maximum = 8760, nullable = false)]
    ttl_hours: Option<u64>,
}

/// A new account.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(super) struct NewUser {
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.@-]+$")]
    username: String,
    /// Not the username.
    #[schema(min_length = 8, max_length = 256)]
    password: String,
    #[schema(max_length = 254, nullable = false)]
    email: Option<String>,
    #[schema(max_items = 16)]
    roles: Vec<RoleId>,
    /// `false` when missing.
    #[schema(nullable = false)]
    must_change_password: Option<bool>,
}

/// A change of an account; what is missing stays as it is.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(super) struct UserChange {
    #[schema(max_length = 254, nullable = false)]
    email: Option<String>,
    #[schema(max_items = 16, nullable = false)]
    roles: Option<Vec<RoleId>>,
    #[schema(nullable = false)]
    disabled: Option<bool>,
}

/// A password that somebody else gives.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(super) struct NewPassword {
    #[schema(min_length = 8, max_length = 256)]
    new_password: String,
    /// `false` when missing.
    #[schema(nullable = false)]
    must_change_password: Option<bool>,
}

/// The id of a role; `GET /api/v1/roles` says what each may do.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)]
pub(super) enum RoleId {
    Admin,
    Operator,
    Viewer,
}
