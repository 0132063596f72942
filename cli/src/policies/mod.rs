//! Runtime policies: reading, `rat policies lint` and `rat policies create`.

mod create;
mod lint;

use std::path::Path;

use anyhow::Result;
use rat_engine::ima::judge::Judge;
use rat_engine::policy::RuntimePolicy;
use rat_engine::verdict::Code;

use crate::Outcome;
use crate::arguments::{CreateCommand, PolicyArguments, PolicyCommand};
use crate::input::{self, InputError};
use crate::output::Terminal;

pub(crate) use lint::summary as lint_summary;

/// Reads a runtime policy that can be judged by: its verification keys are usable too.
pub(crate) fn read(option: &'static str, path: &Path) -> Result<RuntimePolicy, InputError> {
    let fault = |reason: &dyn std::fmt::Display| {
        InputError::new(option, path, reason).with_code(Code::PolicyMalformed)
    };
    let text = input::read(option, path, "POLICY_BYTES_MAX")?;
    let policy = RuntimePolicy::parse(&text).map_err(|error| fault(&error))?;
    Judge::new(policy.clone().into(), false).map_err(|error| fault(&error))?;
    Ok(policy)
}

/// Runs one of the commands on policies.
pub(crate) fn run(options: &PolicyArguments, terminal: &mut Terminal) -> Result<Outcome> {
    match &options.command {
        PolicyCommand::Lint { file, output } => lint::run(file, *output, terminal),
        PolicyCommand::Create {
            policy: CreateCommand::Runtime(options),
        } => create::run(options, terminal),
    }
}
