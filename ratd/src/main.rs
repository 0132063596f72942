//! `ratd`: configuration, wiring, signals.

#![cfg_attr(test, allow(clippy::as_conversions, clippy::arithmetic_side_effects))]

mod arguments;
mod commands;
mod config;
mod data_dir;
mod failure;
mod first_start;
mod health;
mod log;
mod serve;
mod signals;

use std::process::ExitCode;
use std::thread;

use clap::Parser;

use arguments::{Arguments, Command, ConfigCommand, KeylimeCommand};
use config::load::Loaded;
use config::{Config, check, load};
use failure::{Exit, Failure, Means};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("ratd: {failure}");
            failure.exit.into()
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let loaded = load::load(&arguments.configuration.flags()).means(Exit::Configuration)?;
    match &arguments.command {
        // Shown also when values do not fit together: to find out which.
        Some(Command::Config(ConfigCommand::Show { origin })) => {
            commands::configuration::show(&loaded, *origin)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Config(ConfigCommand::Reference)) => {
            commands::configuration::reference()?;
            return Ok(ExitCode::SUCCESS);
        }
        // Whatever is configured here: it is about what is configured elsewhere.
        Some(Command::Keylime(KeylimeCommand::ImportConfig(options))) => {
            commands::keylime_config::run(options)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    require_sound(&loaded)?;
    if let Some(Command::Config(ConfigCommand::Check)) = &arguments.command {
        check::ek_trust(&loaded.config)?;
        check::webhooks(&loaded.config)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = io_runtime(&loaded.config)?;
    let result = match &arguments.command {
        Some(command) => runtime
            .block_on(commands::run(&loaded.config, command))
            .map(|()| ExitCode::SUCCESS),
        None => {
            log::install(&loaded.config)?;
            runtime.block_on(serve::run(&loaded.config))
        }
    };
    // A computation that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    result
}

fn require_sound(loaded: &Loaded) -> Result<(), Failure> {
    let faults = check::check(&loaded.config);
    if faults.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!("{}", faults.join("\nratd: "))).means(Exit::Configuration)
}

fn io_runtime(config: &Config) -> Result<tokio::runtime::Runtime, Failure> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = match config.runtime.io_threads {
        0 => cores.min(4),
        given => given,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("io")
        .enable_all()
        .build()?;
    Ok(runtime)
}
