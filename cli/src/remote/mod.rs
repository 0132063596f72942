//! Commands that ask a server, a file for each family.
//!
//! What the server answers is shown whole to programs, members included that we do not know; people
//! see the columns and lines that help them. All of it is escaped on its way out. (X07)

pub(crate) mod account;
pub(crate) mod agents;
pub(crate) mod api_tokens;
mod approval;
pub(crate) mod audit;
pub(crate) mod connect;
pub(crate) mod doctor;
pub(crate) mod ek;
pub(crate) mod enroll;
pub(crate) mod evidence;
pub(crate) mod groups;
pub(crate) mod login;
mod password;
pub(crate) mod policies;
mod prompt;
pub(crate) mod relays;
pub(crate) mod status;
pub(crate) mod tokens;
pub(crate) mod users;
mod watch;
pub(crate) mod webhooks;

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use indicatif::ProgressBar;

use crate::Outcome;
use crate::arguments::RemoteArguments;
use crate::client::{Address, Client, ClientError};
use crate::output::{Column, Format, Item, Record, Terminal, table};

/// Shows every item of a list that comes in pages.
fn list(
    remote: &RemoteArguments,
    address: Address,
    limit: Option<usize>,
    columns: &[Column],
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let items = pages(&remote.client()?, address, limit)?;
    show_list(terminal, remote.output, columns, &items)?;
    Ok(Outcome::Passed)
}

/// The items of a list. A person who waits for many sees how many have come.
fn pages<T: serde::de::DeserializeOwned>(
    client: &Client,
    address: Address,
    limit: Option<usize>,
) -> Result<Vec<T>, ClientError> {
    let progress = if io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    let seen = |items: usize| {
        progress.set_message(format!("{items} so far"));
        progress.tick();
    };
    let items = client.pages(address, limit, &seen);
    progress.finish_and_clear();
    items
}

fn show_list(
    terminal: &mut Terminal,
    format: Format,
    columns: &[Column],
    items: &[Item],
) -> io::Result<()> {
    match format {
        Format::Table if items.is_empty() => writeln!(terminal, "(none)"),
        Format::Table => table(terminal, columns, items),
        format => terminal.document(format, &items),
    }
}

/// Shows one thing that the server answered.
fn show(terminal: &mut Terminal, format: Format, item: &Item) -> Result<Outcome> {
    match (format, item) {
        (Format::Table, Item::Record(record)) => write!(terminal, "{record}")?,
        (Format::Table, other) => writeln!(terminal, "{other}")?,
        (format, item) => terminal.document(format, item)?,
    }
    Ok(Outcome::Passed)
}

/// Says what was done where the server answers nothing but that it was.
fn done(terminal: &mut Terminal, format: Format, what: Record) -> Result<Outcome> {
    show(terminal, format, &Item::Record(what))
}
