//! `rat ek`: machines that operators let in one by one.

use anyhow::Result;

use super::{done, groups, list};
use crate::Outcome;
use crate::arguments::{EkCommand, Fingerprint};
use crate::client::{Address, AddressError};
use crate::output::{Column, Record, Terminal};

const COLUMNS: [Column; 3] = [
    Column("EK SHA-256", "ek_sha256"),
    Column("APPROVED BY", "approved_by"),
    Column("APPROVED AT", "approved_at"),
];

/// Runs one of the commands on a group's list of machines.
pub(crate) fn run(command: &EkCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        EkCommand::List { group, remote } => {
            let machines = groups::address(group)?.child("ek")?;
            list(remote, machines, None, &COLUMNS, terminal)
        }
        EkCommand::Add {
            group,
            ek_sha256,
            remote,
        } => {
            remote.client()?.put_empty(&machine(group, *ek_sha256)?)?;
            let added = record("added", group, *ek_sha256);
            done(terminal, remote.output, added)
        }
        EkCommand::Remove {
            group,
            ek_sha256,
            remote,
        } => {
            remote.client()?.delete(&machine(group, *ek_sha256)?)?;
            let removed = record("removed", group, *ek_sha256);
            done(terminal, remote.output, removed)
        }
    }
}

fn machine(group: &str, ek: Fingerprint) -> Result<Address, AddressError> {
    groups::address(group)?.child("ek")?.child(&ek.to_hex())
}

fn record(what: &str, group: &str, ek: Fingerprint) -> Record {
    Record::new()
        .with(what, ek.to_hex())
        .with("policy_group_id", group)
}
