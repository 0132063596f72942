//! `rat`: judges evidence of TPM 2.0 machines offline, and shows what is in it.

mod arguments;
mod evidence;
mod input;
mod inspect;
mod measurements;
mod output;
mod policies;
mod shell;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use arguments::{Arguments, Command};
use input::InputError;
use output::{Format, Terminal};

/// What a command that ran to its end found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to object to.
    Passed,
    /// A check failed.
    Failed,
}

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let arguments = Arguments::parse();
    let format = arguments.command.format();
    match run(arguments) {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Err(error) => {
            // When stderr or stdout is gone too, the exit code still tells.
            let _ = report(&error, format);
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<Outcome> {
    let mut terminal = Terminal::stdout();
    let outcome = match arguments.command {
        Command::Verify(options) => verify::run(&options, &mut terminal),
        Command::Inspect(options) => inspect::run(&options, &mut terminal),
        Command::Policies(options) => policies::run(&options, &mut terminal),
        Command::Completions { shell } => shell::completions(shell, &mut terminal),
        Command::Man { dir } => shell::man(dir.as_deref(), &mut terminal),
    }?;
    terminal.flush()?;
    Ok(outcome)
}

/// Says on stderr what could not be used, and on stdout too where programs read.
fn report(error: &anyhow::Error, format: Format) -> io::Result<()> {
    let message = output::printable(&format!("{error:#}"));
    writeln!(io::stderr(), "rat: {message}")?;
    if format == Format::Json {
        let input = error.downcast_ref::<InputError>();
        let object = serde_json::json!({ "error": {
            "message": message,
            "option": input.map(|input| input.option),
            "file": input.map(|input| input.file.to_string_lossy()),
            "code": input.and_then(|input| input.code).map(|code| code.as_str()),
        }});
        let mut terminal = Terminal::stdout();
        terminal.json(&object)?;
        terminal.flush()?;
    }
    Ok(())
}
