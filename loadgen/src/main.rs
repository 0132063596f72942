//! rat-load: fleets of software keys and of simulated TPMs, for tests and demos.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use rat_agent::explain;
use rat_load::arguments::{Arguments, Command};
use rat_load::keys::EkCa;
use rat_load::output::{Output, Tabled};
use rat_load::{fleet, replay, requests, swtpm};
use tracing_subscriber::EnvFilter;

/// The exit code when evidence of agents that misbehave was taken for genuine.
const ACCEPTED: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{}", explain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { command, output }: Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut code = ExitCode::SUCCESS;
    match command {
        Command::EkCa { dir } => {
            EkCa::open(&dir)?;
            let (certificate, _) = EkCa::paths(&dir);
            writeln!(std::io::stdout(), "{}", certificate.display())?;
        }
        Command::Fleet(options) => {
            let report = runtime.block_on(fleet::run(&options))?;
            write(output, &report)?;
            let accepted = report.accepted();
            if accepted > 0 {
                tracing::error!(
                    accepted,
                    "the server took evidence for genuine that was not"
                );
                code = ExitCode::from(ACCEPTED);
            }
        }
        Command::Requests(options) => {
            write(output, &runtime.block_on(requests::run(&options))?)?;
        }
        Command::Replay(options) => write(output, &runtime.block_on(replay::run(&options))?)?,
        Command::Manufacture(machines) => {
            let made = machines.manufacture()?;
            for path in std::iter::once(&made.ek_ca).chain(&made.ek_list) {
                writeln!(std::io::stdout(), "{}", path.display())?;
            }
        }
        Command::Swtpm(options) => runtime.block_on(swtpm::run(options))?,
    }
    // A thread that waits for commands does not keep the process.
    runtime.shutdown_background();
    Ok(code)
}

fn write(output: Option<Output>, result: &(impl serde::Serialize + Tabled)) -> Result<()> {
    Ok(Output::or_by_reader(output).write(result)?)
}
