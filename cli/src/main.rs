//! `rat`: runs a fleet of attested machines through its server, and judges evidence in files.

mod arguments;
mod client;
mod evidence;
mod input;
mod inspect;
mod measurements;
mod output;
mod policies;
mod remote;
mod shell;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use arguments::{Arguments, Command};
use client::ClientError;
use input::InputError;
use output::{Format, Record, Terminal};

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
    let matches = Arguments::command().get_matches();
    let format = format_of(&matches);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            // When stderr or stdout is gone too, the exit code still tells.
            let _ = report(&error, format);
            let asked = error.downcast_ref::<ClientError>();
            ExitCode::from(asked.map_or(2, ClientError::exit_code))
        }
    }
}

/// The format that the innermost command was given, for errors too.
fn format_of(matches: &ArgMatches) -> Format {
    match matches.subcommand() {
        Some((_, matches)) => format_of(matches),
        None => {
            let given = matches.try_get_one::<Format>("output");
            given.ok().flatten().copied().unwrap_or_default()
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut terminal = Terminal::stdout();
    let outcome = match arguments.command {
        Command::Connect(options) => remote::connect::run(&options, &mut terminal),
        Command::Login(options) => remote::login::log_in(&options, &mut terminal),
        Command::Logout { remote } => remote::login::log_out(&remote, &mut terminal),
        Command::Whoami { remote } => remote::login::who_am_i(&remote, &mut terminal),
        Command::Status { remote } => remote::status::run(&remote, &mut terminal),
        Command::Doctor { remote } => remote::doctor::run(&remote, &mut terminal),
        Command::Agents { command } => remote::agents::run(&command, &mut terminal),
        Command::Evidence { agent, remote } => {
            remote::evidence::run(&agent, &remote, &mut terminal)
        }
        Command::Groups { command } => remote::groups::run(&command, &mut terminal),
        Command::Ek { command } => remote::ek::run(&command, &mut terminal),
        Command::Policies(options) => policies::run(&options, &mut terminal),
        Command::Tokens { command } => remote::tokens::run(&command, &mut terminal),
        Command::Enroll(options) => return remote::enroll::run(&options),
        Command::Users { command } => remote::users::run(&command, &mut terminal),
        Command::Account { command } => remote::account::run(&command, &mut terminal),
        Command::Relays { command } => remote::relays::run(&command, &mut terminal),
        Command::Webhooks { command } => remote::webhooks::run(&command, &mut terminal),
        Command::ApiTokens { command } => remote::api_tokens::run(&command, &mut terminal),
        Command::Audit {
            after,
            limit,
            remote,
        } => remote::audit::run(after, limit, &remote, &mut terminal),
        Command::Verify(options) => verify::run(&options, &mut terminal),
        Command::Inspect(options) => inspect::run(&options, &mut terminal),
        Command::Completions { shell } => shell::completions(shell, &mut terminal),
        Command::Man { dir } => shell::man(dir.as_deref(), &mut terminal),
    }?;
    terminal.flush()?;
    Ok(match outcome {
        Outcome::Passed => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::from(1),
    })
}

/// Says on stderr what went wrong, and on stdout too where programs read.
fn report(error: &anyhow::Error, format: Format) -> io::Result<()> {
    let message = output::printable(&rat_client::explain(error.as_ref()));
    writeln!(io::stderr(), "rat: {message}")?;
    if format != Format::Table {
        let input = error.downcast_ref::<InputError>();
        let asked = error.downcast_ref::<ClientError>();
        let code = input.and_then(|input| input.code).map(|code| code.as_str());
        let fault = Record::new()
            .with("message", message)
            .with("option", input.map(|input| input.option.to_owned()))
            .with(
                "file",
                input.map(|input| input.file.to_string_lossy().into_owned()),
            )
            .with(
                "code",
                code.or_else(|| asked.and_then(ClientError::code))
                    .map(str::to_owned),
            )
            .with("status", asked.and_then(ClientError::status).map(u32::from));
        let mut terminal = Terminal::stdout();
        terminal.document(format, &Record::new().with("error", fault))?;
        terminal.flush()?;
    }
    Ok(())
}
