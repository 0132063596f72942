//! `rat users`: accounts of people.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::{done, password, show, show_list};
use crate::Outcome;
use crate::arguments::{PasswordArguments, RemoteArguments, UserChange, UserCommand};
use crate::client::{Address, AddressError, Client, ClientError};
use crate::output::{Column, Item, Record, Terminal};

const COLUMNS: [Column; 6] = [
    Column("USERNAME", "username"),
    Column("ROLES", "roles"),
    Column("EMAIL", "email"),
    Column("DISABLED", "disabled"),
    Column("MUST CHANGE", "must_change_password"),
    Column("LAST LOGIN", "last_login"),
];

const ROLES: [Column; 4] = [
    Column("ID", "id"),
    Column("NAME", "name"),
    Column("PERMISSIONS", "permissions"),
    Column("DESCRIPTION", "description"),
];

const PATH: &str = "/api/v1/users";

#[derive(Serialize)]
struct NewUser<'a> {
    username: &'a str,
    password: &'a str,
    roles: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    must_change_password: bool,
}

#[derive(Serialize)]
struct NewPassword<'a> {
    new_password: &'a str,
    must_change_password: bool,
}

#[derive(Deserialize)]
struct Users {
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    id: String,
    username: String,
}

/// Runs one of the commands on users.
pub(crate) fn run(command: &UserCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        UserCommand::List { remote } => {
            let answer: Item = remote.client()?.get(&Address::new(PATH))?.read()?;
            show_list(terminal, remote.output, &COLUMNS, answer.list("users"))?;
            Ok(Outcome::Passed)
        }
        UserCommand::Create {
            username,
            role,
            email,
            password,
            remote,
        } => {
            let client = remote.client()?;
            let password = match password::given(password)? {
                Some(password) => password,
                None => password::chosen("Password of the new user", password::OTHERWISE)?,
            };
            let new = NewUser {
                username,
                password: &password,
                roles: role,
                email: email.as_deref(),
                // Nobody else is to know it for long.
                must_change_password: true,
            };
            let made: Item = client.post(&Address::new(PATH), &new)?.read()?;
            show(terminal, remote.output, &made)
        }
        UserCommand::Disable { username, remote } => {
            let client = remote.client()?;
            let user = named(&client, username)?;
            client.delete(&user.address()?)?;
            let disabled = Record::new().with("disabled", user.username.as_str());
            done(terminal, remote.output, disabled)
        }
        UserCommand::Show { username, remote } => {
            let client = remote.client()?;
            let at = named(&client, username)?.address()?;
            let shown: Item = client.get(&at)?.read()?;
            show(terminal, remote.output, &shown)
        }
        UserCommand::Set {
            username,
            change,
            remote,
        } => {
            let changed = set(remote, username, change)?;
            show(terminal, remote.output, &changed)
        }
        UserCommand::Password {
            username,
            password,
            remote,
        } => {
            let username = set_password(remote, username, password)?;
            let changed = Record::new().with("password_of", username);
            done(terminal, remote.output, changed)
        }
        UserCommand::Roles { remote } => {
            let at = Address::new("/api/v1/roles");
            let answer: Item = remote.client()?.get(&at)?.read()?;
            show_list(terminal, remote.output, &ROLES, answer.list("roles"))?;
            Ok(Outcome::Passed)
        }
    }
}

fn set(remote: &RemoteArguments, username: &str, change: &UserChange) -> Result<Item> {
    if change.roles.is_empty() && change.email.is_none() && change.disabled.is_none() {
        bail!("give something to change; `rat users set --help` lists it");
    }
    let client = remote.client()?;
    let at = named(&client, username)?.address()?;
    Ok(client.put(&at, None, change)?.read()?)
}

/// Gives somebody another password; whose it was, as the server writes the name.
fn set_password(
    remote: &RemoteArguments,
    username: &str,
    password: &PasswordArguments,
) -> Result<String> {
    let client = remote.client()?;
    let user = named(&client, username)?;
    let password = match password::given(password)? {
        Some(password) => password,
        None => password::chosen("New password of the user", password::OTHERWISE)?,
    };
    let new = NewPassword {
        new_password: &password,
        // Nobody else is to know it for long.
        must_change_password: true,
    };
    client.put(&user.address()?.child("password")?, None, &new)?;
    Ok(user.username)
}

impl User {
    fn address(&self) -> Result<Address, AddressError> {
        Address::new(PATH).child(&self.id)
    }
}

/// The user of this name, in any case. The server's addresses have ids.
fn named(client: &Client, username: &str) -> Result<User, ClientError> {
    let Users { users } = client.get(&Address::new(PATH))?.read()?;
    let mut users = users.into_iter();
    let found = users.find(|user| user.username.eq_ignore_ascii_case(username));
    found.ok_or_else(|| ClientError::unknown(format!("there is no user `{username}`")))
}
