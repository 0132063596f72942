//! `rat audit`.

use anyhow::Result;

use super::{pages, show_list};
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

/// Shows entries of the audit log, the oldest first: all, those after a number, or the newest.
pub(crate) fn run(
    after: Option<u64>,
    limit: Option<usize>,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let are_newest = after.is_none() && limit.is_some();
    let after = after.map(|after| after.to_string());
    let entries = Address::new("/audit")
        .with("after", after.as_deref())
        .with("order", are_newest.then_some("newest"));
    let mut entries = pages(&remote.client()?, entries, limit)?;
    if are_newest {
        entries.reverse();
    }
    show_list(terminal, remote.output, &COLUMNS, &entries)?;
    Ok(Outcome::Passed)
}
