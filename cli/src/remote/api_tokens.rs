//! `rat api-tokens`: what programs ask with.

use anyhow::Result;
use serde::Serialize;

use super::{done, show, show_list};
use crate::Outcome;
use crate::arguments::ApiTokenCommand;
use crate::client::Address;
use crate::output::{Column, Item, Record, Terminal};

const COLUMNS: [Column; 7] = [
    Column("ID", "id"),
    Column("NAME", "name"),
    Column("ROLE", "role"),
    Column("OWNER", "owner"),
    Column("EXPIRES", "expires_at"),
    Column("REVOKED", "revoked_at"),
    Column("LAST USED", "last_used"),
];

const PATH: &str = "/api/v1/auth/tokens";

#[derive(Serialize)]
struct NewToken<'a> {
    name: &'a str,
    role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_hours: Option<u64>,
}

/// Runs one of the commands on API tokens.
pub(crate) fn run(command: &ApiTokenCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        ApiTokenCommand::List { all, remote } => {
            let at = Address::new(PATH).with("owner", all.then_some("all"));
            let answer: Item = remote.client()?.get(&at)?.read()?;
            show_list(terminal, remote.output, &COLUMNS, answer.list("tokens"))?;
            Ok(Outcome::Passed)
        }
        ApiTokenCommand::Create {
            name,
            role,
            ttl_hours,
            remote,
        } => {
            let new = NewToken {
                name,
                role,
                ttl_hours: *ttl_hours,
            };
            let made: Item = remote.client()?.post(&Address::new(PATH), &new)?.read()?;
            show(terminal, remote.output, &made)
        }
        ApiTokenCommand::Revoke { id, remote } => {
            remote.client()?.delete(&Address::new(PATH).child(id)?)?;
            let revoked = Record::new().with("revoked", id.as_str());
            done(terminal, remote.output, revoked)
        }
    }
}
