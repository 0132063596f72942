//! `rat users`: accounts of people.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{done, password, show, show_list};
use crate::Outcome;
use crate::arguments::UserCommand;
use crate::client::{Address, ClientError};
use crate::output::{Column, Item, Record, Terminal};

const COLUMNS: [Column; 6] = [
    Column("USERNAME", "username"),
    Column("ROLES", "roles"),
    Column("EMAIL", "email"),
    Column("DISABLED", "disabled"),
    Column("MUST CHANGE", "must_change_password"),
    Column("LAST LOGIN", "last_login"),
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
                None => password::chosen("Password of the new user")?,
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
            let Users { users } = client.get(&Address::new(PATH))?.read()?;
            let is_named = |user: &&User| user.username.eq_ignore_ascii_case(username);
            let Some(user) = users.iter().find(is_named) else {
                return Err(ClientError::Refused {
                    status: 404,
                    detail: format!("there is no user `{username}`"),
                    code: None,
                }
                .into());
            };
            client.delete(&Address::new(PATH).child(&user.id)?)?;
            let disabled = Record::new().with("disabled", user.username.as_str());
            done(terminal, remote.output, disabled)
        }
    }
}
