//! `rat inspect`: files of evidence and policies in readable form, nothing of it verified.

mod ak;
mod event_log;
mod ima_log;
mod pcrs;
mod policy;
mod quote;

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;

use crate::Outcome;
use crate::arguments::{InspectArguments, Kind};
use crate::input::InputError;
use crate::output::{Format, Look, Record, Terminal};

/// The argument that names the file.
const FILE: &str = "FILE";

/// Shows a file.
pub(crate) fn run(options: &InspectArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let (path, format) = (options.file.as_path(), options.output);
    let (record, outcome) = match options.kind {
        Kind::Quote => (quote::read(path)?, Outcome::Passed),
        Kind::Ak => ak::read(path)?,
        Kind::Pcrs => (pcrs::read(path)?, Outcome::Passed),
        Kind::ImaLog => return ima_log::run(options, terminal),
        Kind::EventLog => return event_log::run(path, format, terminal),
        Kind::Policy => (policy::read(path)?, Outcome::Passed),
    };
    show(record, format, terminal)?;
    Ok(outcome)
}

/// Writes a record, with the warning that nothing in it was verified.
fn show(record: Record, format: Format, terminal: &mut Terminal) -> io::Result<()> {
    match format {
        Format::Table => {
            headline(terminal)?;
            write!(terminal, "{record}")
        }
        format => terminal.document(format, &unverified(record)),
    }
}

/// The record, marked for programs.
fn unverified(record: Record) -> Record {
    Record::new().with("verified", false).followed_by(record)
}

/// The same mark for people.
fn headline(terminal: &mut Terminal) -> io::Result<()> {
    let word = terminal.styled(Look::Yellow, "UNVERIFIED");
    writeln!(
        terminal,
        "{word}: this is what the file says, whoever wrote it"
    )
}

/// An error about the file.
fn fault(path: &Path, reason: &dyn std::fmt::Display) -> InputError {
    InputError::new(FILE, path, reason)
}
