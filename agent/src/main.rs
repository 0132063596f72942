//! rat-agent: enrols a machine, quotes its TPM, answers challenges.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use rat_agent::arguments::{Arguments, Command, Enroll, RelayCommand};
use rat_agent::device::Tpm;
use rat_agent::enrol::{EnrolError, EnrolOptions, enrol};
use rat_agent::logs::KernelLogs;
use rat_agent::machine::Machine;
use rat_agent::patience::enrol_within;
use rat_agent::relay::{self, settings::RelaySettings};
use rat_agent::run::SystemDice;
use rat_agent::settings::Settings;
use rat_agent::state::StateDir;
use rat_agent::{doctor, explain, service, status};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{}", explain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let flags = &arguments.flags;
    if let Command::Relay { command } = &arguments.command {
        run_relay(flags.config.as_deref(), command)?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings::load(flags.config.as_deref(), &flags.settings())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    match &arguments.command {
        Command::Relay { .. } => {}
        Command::Enroll(enroll) => runtime.block_on(enroll_machine(&settings, enroll))?,
        Command::Run => runtime.block_on(service::run(&settings))?,
        Command::Status { json } => {
            let status = status::status(&settings)?;
            print(&status, *json)?;
        }
        Command::Doctor { json } => {
            let report = runtime.block_on(doctor::examine(&settings));
            print(&report, *json)?;
            if report.has_failures() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_relay(config: Option<&Path>, command: &RelayCommand) -> Result<()> {
    let load = |flags: &RelaySettings| RelaySettings::load(config, flags);
    match command {
        RelayCommand::Request(flags) => {
            relay::request(&load(flags)?, &mut std::io::stdout().lock())?;
        }
        RelayCommand::Install { file, settings } => {
            let name = relay::install(&load(settings)?, file)?;
            writeln!(std::io::stdout(), "this is relay {name}")?;
        }
        RelayCommand::Run(flags) => {
            let settings = load(flags)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            runtime.block_on(relay::run(&settings))?;
        }
    }
    Ok(())
}

async fn enroll_machine(settings: &Settings, enroll: &Enroll) -> Result<()> {
    let token = enroll.token(std::io::stdin())?;
    let state = StateDir::open(&settings.state_dir())?;
    let _running = state.lock()?;
    let before = state.enrolled()?;
    let kind = settings.kind(before.as_ref().map(|before| before.kind));
    let tpm = Tpm::new(settings.tpm(kind)?);
    let logs = KernelLogs::open(settings.logs(), state.path())?;
    let hostname = match &enroll.hostname {
        Some(name) => name.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")?
            .trim()
            .to_owned(),
    };
    let options = EnrolOptions {
        token,
        server: enroll.server.clone(),
        agent: enroll.agent_id.clone(),
        hostname,
        kind,
    };
    let machine = Machine::new(tpm, logs);
    let before = before.as_ref();
    let enrolled = match enroll.wait {
        None => enrol(&machine, &options, before).await?,
        Some(patience) => {
            let put_off = |error: &EnrolError, pause: Duration| {
                let seconds = pause.as_secs();
                tracing::warn!("{}; asks again in {seconds} s", explain(error));
            };
            let dice = &mut SystemDice;
            enrol_within(patience, &machine, &options, before, dice, put_off).await?
        }
    };
    state.save_enrolled(&enrolled)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "enrolled as {} in group {}",
        enrolled.agent, enrolled.group
    )?;
    writeln!(out, "now start the agent: systemctl enable --now rat-agent")?;
    Ok(())
}

fn print(value: &(impl Serialize + std::fmt::Display), json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{value}")?;
    }
    Ok(())
}
