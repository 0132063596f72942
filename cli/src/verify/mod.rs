//! `rat verify`: one submission from files to a verdict.

mod files;
mod judge;
mod progress;
mod report;
mod table;

use std::io::{self, Write};

use anyhow::Result;

use crate::Outcome;
use crate::arguments::VerifyArguments;
use crate::output::{Format, Terminal};

use files::Files;

/// Judges what the options name, and prints the verdict.
pub(crate) fn run(options: &VerifyArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let mut files = Files::read(options)?;
    if let Some(policy) = &files.policy
        && !policy.warnings().is_empty()
    {
        writeln!(
            io::stderr(),
            "rat: parts of the policy have no effect; `rat policies lint` says which"
        )?;
    }
    let report = judge::judge(&mut files, options)?;
    match options.output {
        Format::Table => table::write(&report, terminal)?,
        format => terminal.document(format, &report.to_record())?,
    }
    Ok(report.outcome())
}
