//! Commands other than serving: each ends by itself.

pub(crate) mod api_token;
pub(crate) mod backup;
pub(crate) mod ca;
pub(crate) mod configuration;
pub(crate) mod ek;
pub(crate) mod group;
pub(crate) mod keylime;
pub(crate) mod keylime_config;
mod keylime_migrate;
pub(crate) mod token;
pub(crate) mod user;

use crate::arguments::Command;
use crate::config::Config;
use crate::failure::Failure;

/// Who the audit log names for what is done here: whoever may write to the data directory.
const ACTOR: &str = "local operator";

/// Runs one command.
pub(crate) async fn run(config: &Config, command: &Command) -> Result<(), Failure> {
    match command {
        // Done before, because it must work without a sound configuration.
        Command::Config(_) => Ok(()),
        Command::Token(command) => token::run(config, command).await,
        Command::User(command) => user::run(config, command).await,
        Command::ApiToken(command) => api_token::run(config, command).await,
        Command::Group(command) => group::run(config, command).await,
        Command::Ca(command) => ca::run(config, command).await,
        Command::Keylime(command) => keylime::run(config, command).await,
        Command::Ek(command) => ek::run(config, command).await,
        Command::Backup { path } => backup::backup(config, path).await,
        Command::Restore { path } => backup::restore(config, path).await,
    }
}
