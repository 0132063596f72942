//! `ratd user`: accounts of people, on the data directory.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{anyhow, ensure};
use rat_api::auth::account::{
    FIRST_USER, check_email, check_password, check_roles, check_username, new_user,
};
use rat_api::auth::{Passwords, random_password, roles};
use rat_api::clock::{rfc3339, unix_ms};
use rat_store::{
    PasswordChange, PasswordHash, Standing, Store, StoreError, StoredUser, UserChange,
};
use serde::Serialize;

use super::ACTOR;
use crate::arguments::{PasswordOptions, UserCommand, UserOptions};
use crate::config::Config;
use crate::data_dir;
use crate::failure::Failure;
use crate::first_start;

pub(super) async fn run(config: &Config, command: &UserCommand) -> Result<(), Failure> {
    let store = match command {
        UserCommand::Create { .. } => data_dir::open_or_make(&config.data_dir).await?,
        UserCommand::Password { .. } | UserCommand::Disable { .. } | UserCommand::List => {
            data_dir::open(&config.data_dir).await?
        }
    };
    match command {
        UserCommand::Create { username, options } => create(&store, username, options).await?,
        UserCommand::Password { username, password } => {
            change_password(&store, &config.data_dir, username, password).await?;
        }
        UserCommand::Disable { username } => disable(&store, username).await?,
        UserCommand::List => {
            for user in store.users().await? {
                print(&user)?;
            }
        }
    }
    store.close().await;
    Ok(())
}

/// A password from a file, or a new one; that must be changed at the first login, because it was
/// printed.
enum Given {
    FromFile(String),
    Made(String),
}

impl Given {
    fn take(options: &PasswordOptions, username: &str) -> anyhow::Result<Self> {
        let Some(path) = &options.password_file else {
            return Ok(Self::Made(random_password()?));
        };
        let text = if path == Path::new("-") {
            io::read_to_string(io::stdin())?
        } else {
            data_dir::read_private(path)?
        };
        let password = text.strip_suffix('\n').unwrap_or(&text).to_owned();
        check_password(username, &password)?;
        Ok(Self::FromFile(password))
    }

    fn hash(&self) -> anyhow::Result<PasswordHash> {
        let (Self::FromFile(password) | Self::Made(password)) = self;
        Ok(Passwords::hash_now(password)?)
    }

    const fn must_change(&self) -> bool {
        matches!(self, Self::Made(_))
    }

    /// Prints a password that was made.
    fn tell(&self) -> io::Result<()> {
        if let Self::Made(password) = self {
            writeln!(io::stdout(), "{password}")?;
            writeln!(
                io::stderr(),
                "ratd: shown this once. It must be changed at the first login"
            )?;
        }
        Ok(())
    }
}

async fn create(store: &Store, username: &str, options: &UserOptions) -> anyhow::Result<()> {
    check_username(username)?;
    check_email(&options.email)?;
    let roles = check_roles(options.role.iter().map(String::as_str))?;
    ensure!(!roles.is_empty(), "a user has at least one role");
    let given = Given::take(&options.password, username)?;
    let mut user = new_user(username, &options.email, &roles, given.hash()?, unix_ms())?;
    user.must_change = given.must_change();
    match store.put_user(&user, ACTOR).await {
        Err(StoreError::Exists(_)) => return Err(anyhow!("the username {username:?} is taken")),
        other => other?,
    }
    Ok(given.tell()?)
}

async fn existing(store: &Store, username: &str) -> anyhow::Result<StoredUser> {
    let user = store.user_named(username).await?;
    user.ok_or_else(|| anyhow!("there is no user {username:?}"))
}

async fn change_password(
    store: &Store,
    directory: &Path,
    username: &str,
    options: &PasswordOptions,
) -> anyhow::Result<()> {
    let user = existing(store, username).await?;
    let given = Given::take(options, &user.username)?;
    let change = PasswordChange {
        hash: &given.hash()?,
        replacing: None,
        must_change: given.must_change(),
        keep_session: None,
    };
    store
        .set_password(&user.id, &change, ACTOR, unix_ms())
        .await?;
    if user.username.eq_ignore_ascii_case(FIRST_USER) {
        first_start::forget(directory)?;
    }
    Ok(given.tell()?)
}

async fn disable(store: &Store, username: &str) -> anyhow::Result<()> {
    let user = existing(store, username).await?;
    let change = UserChange {
        disabled: Some(true),
        ..UserChange::default()
    };
    let keep = roles::ADMIN.id;
    store
        .change_user(&user.id, &change, keep, ACTOR, unix_ms())
        .await??;
    Ok(())
}

/// A user, one line of JSON.
#[derive(Serialize)]
struct Shown<'a> {
    username: &'a str,
    email: &'a str,
    roles: &'a [String],
    standing: &'a str,
    created_at: Option<String>,
    last_login: Option<String>,
}

fn print(user: &StoredUser) -> anyhow::Result<()> {
    let shown = Shown {
        username: &user.username,
        email: &user.email,
        roles: &user.roles,
        standing: match user.standing {
            Standing::Active => "active",
            Standing::MustChangePassword => "must_change_password",
            Standing::Disabled => "disabled",
        },
        created_at: rfc3339(user.created_unix_ms),
        last_login: user.last_login_unix_ms.and_then(rfc3339),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&shown)?)?;
    Ok(())
}
