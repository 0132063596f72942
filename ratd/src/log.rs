//! Log lines on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::failure::{Exit, Failure, Means};

/// Writes log lines from now on, as configured.
pub(crate) fn install(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log.level).means(Exit::Configuration)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let installed = match config.log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(())
}
