//! `rat audit`.

use anyhow::Result;

use super::list;
use crate::Outcome;
use crate::arguments::RemoteArguments;
use crate::client::Address;
use crate::output::{Column, Terminal};

const COLUMNS: [Column; 6] = [
    Column("SEQ", "seq"),
    Column("AT", "at"),
    Column("ACTOR", "actor"),
    Column("ACTION", "action"),
    Column("TARGET", "target"),
    Column("DETAIL", "detail"),
];

/// Shows entries of the audit log.
pub(crate) fn run(
    after: Option<u64>,
    limit: Option<usize>,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let after = after.map(|after| after.to_string());
    let entries = Address::new("/audit").with("after", after.as_deref());
    list(remote, entries, limit, &COLUMNS, terminal)
}
