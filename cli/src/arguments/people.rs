//! `rat users`, `rat account`, `rat tokens`, `rat api-tokens` and `rat audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::remote::RemoteArguments;

const USERS_LIST_HELP: &str = "\
Example:
  rat users list";

const USERS_SHOW_HELP: &str = "\
Example:
  rat users show ada";

const USERS_SET_HELP: &str = "\
What is not given stays as it is. The roles that are given take the place of those before.

Example:
  rat users set ada --role operator --role viewer --email ada@example.com
  rat users set ada --disabled false";

const USERS_PASSWORD_HELP: &str = "\
Sessions of the user end. Whoever logs in with it is asked for another one.

Example:
  rat users password ada
  rat users password ada --password-file first";

const USERS_ROLES_HELP: &str = "\
Example:
  rat users roles";

const ACCOUNT_SET_HELP: &str = "\
`rat whoami` shows the account.

Example:
  rat account set --email ada@example.com";

const ACCOUNT_PASSWORD_HELP: &str = "\
Other sessions of the account end; this one stays.

Example:
  rat account password
  rat account password --password-file present --new-password-file new";

const USERS_CREATE_HELP: &str = "\
Roles: admin may do everything, operator runs a fleet, viewer looks on. Whoever logs in for the
first time is asked for a password of their own.

Example:
  rat users create ada --role operator
  rat users create ada --role viewer --password-stdin < password";

const USERS_DISABLE_HELP: &str = "\
Sessions end and API tokens stop working at once. Accounts are never removed, so that a name in the
audit log stays one person's; `rat users set NAME --disabled false` lets the user in again.

Example:
  rat users disable ada";

const TOKENS_LIST_HELP: &str = "\
Example:
  rat tokens list";

const TOKENS_CREATE_HELP: &str = "\
The token is shown this once.

Example:
  rat tokens create prod-fleet --baseline
  rat tokens create prod-fleet --max-uses 20 --ttl-hours 8";

const TOKENS_REVOKE_HELP: &str = "\
Machines that have enrolled with it stay.

Example:
  rat tokens revoke 0102030405060708";

const API_TOKENS_LIST_HELP: &str = "\
Example:
  rat api-tokens list --all";

const API_TOKENS_CREATE_HELP: &str = "\
The token is shown this once, and may never do more than whoever made it.

Example:
  rat api-tokens create ci --role viewer --ttl-hours 720";

const API_TOKENS_REVOKE_HELP: &str = "\
Example:
  rat api-tokens revoke 0102030405060708";

pub(super) const AUDIT_HELP: &str = "\
The oldest come first. Each entry's head is the end of a chain of hashes over all before it.

Example:
  rat audit --limit 20
  rat audit --after 1200 --output json";

/// Where a password comes from, unless a terminal is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct PasswordArguments {
    /// Read the password from the first line of standard input
    #[arg(long, conflicts_with = "password_file")]
    pub(crate) password_stdin: bool,
    /// File with the password that nobody else can read
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// List users
    #[command(after_help = USERS_LIST_HELP)]
    List {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Make a user
    #[command(after_help = USERS_CREATE_HELP)]
    Create {
        /// The name: 1 to 64 of letters, digits and _.@-
        username: String,
        /// A role; may be repeated
        #[arg(long, value_name = "ROLE", required = true)]
        role: Vec<String>,
        /// The address that mail goes to
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        #[command(flatten)]
        password: PasswordArguments,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show a user
    #[command(after_help = USERS_SHOW_HELP)]
    Show {
        /// The name
        username: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Change a user
    #[command(after_help = USERS_SET_HELP)]
    Set {
        /// The name
        username: String,
        #[command(flatten)]
        change: UserChange,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Give a user another password
    #[command(after_help = USERS_PASSWORD_HELP)]
    Password {
        /// The name
        username: String,
        #[command(flatten)]
        password: PasswordArguments,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// List roles, and what each may do
    #[command(after_help = USERS_ROLES_HELP)]
    Roles {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Keep a user out
    #[command(after_help = USERS_DISABLE_HELP)]
    Disable {
        /// The name
        username: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}

/// What is to be changed of a user.
#[derive(Debug, Args, Serialize)]
pub(crate) struct UserChange {
    /// A role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) roles: Vec<String>,
    /// The address that mail goes to
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<String>,
    /// Keep the user out, or let the user in again
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disabled: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Change one's own account
    #[command(after_help = ACCOUNT_SET_HELP)]
    Set {
        /// The address that mail goes to
        #[arg(long, value_name = "ADDRESS")]
        email: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Change one's own password
    #[command(after_help = ACCOUNT_PASSWORD_HELP)]
    Password {
        #[command(flatten)]
        present: PasswordArguments,
        /// File with the new password [default: the terminal is asked]
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List enrolment tokens, without their secrets
    #[command(after_help = TOKENS_LIST_HELP)]
    List {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Make an enrolment token
    #[command(after_help = TOKENS_CREATE_HELP)]
    Create {
        /// The group
        group: String,
        /// For one machine, whose measurement list becomes the group's policy
        #[arg(long)]
        baseline: bool,
        /// How long it lives [default: 24 with --baseline, else 1]
        #[arg(long, value_name = "HOURS")]
        ttl_hours: Option<u64>,
        /// How many machines may use it [default: any number]
        #[arg(long, value_name = "N", conflicts_with = "baseline")]
        max_uses: Option<u64>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// End an enrolment token
    #[command(after_help = TOKENS_REVOKE_HELP)]
    Revoke {
        /// Its id: the 16 digits after `esp_` or `esp_b_`
        id: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiTokenCommand {
    /// List one's own API tokens, without their secrets
    #[command(after_help = API_TOKENS_LIST_HELP)]
    List {
        /// Everybody's
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Make an API token
    #[command(after_help = API_TOKENS_CREATE_HELP)]
    Create {
        /// What it is for
        name: String,
        /// What it may do: admin, operator or viewer
        #[arg(long, value_name = "ROLE")]
        role: String,
        /// How long it lives [default: a year]
        #[arg(long, value_name = "HOURS")]
        ttl_hours: Option<u64>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// End an API token
    #[command(after_help = API_TOKENS_REVOKE_HELP)]
    Revoke {
        /// Its id: the 16 digits after `rat_`
        id: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}
