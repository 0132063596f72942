//! Completion scripts and manual pages, made from the command line's own description.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::Outcome;
use crate::arguments::Arguments;
use crate::input::InputError;
use crate::output::Terminal;

/// Prints the completion script for a shell.
pub(crate) fn completions(shell: Shell, terminal: &mut Terminal) -> Result<Outcome> {
    // The generator panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "rat", &mut script);
    terminal.write_all(&script)?;
    Ok(Outcome::Passed)
}

/// Prints the manual page of `rat`, or writes a page for it and for each of its commands.
pub(crate) fn man(dir: Option<&Path>, terminal: &mut Terminal) -> Result<Outcome> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
        terminal.write_all(&page)?;
        return Ok(Outcome::Passed);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), dir))
        .map_err(|error| InputError::new("--dir", dir, &error))?;
    Ok(Outcome::Passed)
}
