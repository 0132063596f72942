//! rat-load: fleets of software keys and of simulated TPMs, for tests and demos.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use rat_agent::explain;
use rat_load::arguments::{Arguments, Command};
use rat_load::keys::EkCa;
use rat_load::{fleet, requests, swtpm};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", explain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match arguments.command {
        Command::EkCa { dir } => {
            EkCa::open(&dir)?;
            let (certificate, _) = EkCa::paths(&dir);
            writeln!(std::io::stdout(), "{}", certificate.display())?;
        }
        Command::Fleet(options) => print(&runtime.block_on(fleet::run(&options))?)?,
        Command::Requests(options) => print(&runtime.block_on(requests::run(&options))?)?,
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
    Ok(())
}

fn print(report: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report)?;
    writeln!(out)?;
    Ok(())
}
