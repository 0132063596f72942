//! `rat tokens`: what machines enrol with.

use anyhow::Result;
use serde::Serialize;

use super::{done, list, show};
use crate::Outcome;
use crate::arguments::TokenCommand;
use crate::client::Address;
use crate::output::{Column, Item, Record, Terminal};

const COLUMNS: [Column; 8] = [
    Column("ID", "id"),
    Column("KIND", "kind"),
    Column("GROUP", "policy_group_id"),
    Column("STATUS", "status"),
    Column("USES", "uses"),
    Column("MAX", "max_uses"),
    Column("CREATED BY", "created_by"),
    Column("EXPIRES", "expires_at"),
];

#[derive(Serialize)]
struct NewToken<'a> {
    policy_group_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_hours: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_uses: Option<u64>,
}

/// Runs one of the commands on enrolment tokens.
pub(crate) fn run(command: &TokenCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        TokenCommand::List { remote } => {
            list(remote, Address::new("/tokens/"), None, &COLUMNS, terminal)
        }
        TokenCommand::Create {
            group,
            baseline,
            ttl_hours,
            max_uses,
            remote,
        } => {
            let at = Address::new(if *baseline {
                "/tokens/generate-baseline"
            } else {
                "/tokens/generate"
            });
            let new = NewToken {
                policy_group_id: group,
                ttl_hours: *ttl_hours,
                max_uses: *max_uses,
            };
            let made: Item = remote.client()?.post(&at, &new)?.read()?;
            show(terminal, remote.output, &made)
        }
        TokenCommand::Revoke { id, remote } => {
            let at = Address::new("/tokens").child(id)?;
            remote.client()?.delete(&at)?;
            let revoked = Record::new().with("revoked", id.as_str());
            done(terminal, remote.output, revoked)
        }
    }
}
