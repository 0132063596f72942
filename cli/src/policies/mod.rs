//! Policies: reading, `rat policies lint` and `rat policies create`; the rest of `rat policies` asks
//! the server.

mod create;
mod create_boot;
mod lint;

use std::path::Path;

use anyhow::{Result, bail};
use rat_engine::ima::judge::Judge;
use rat_engine::policy::RuntimePolicy;
use rat_engine::uefi::policy::{MeasuredBootPolicy, PolicyName};
use rat_engine::verdict::Code;

use crate::Outcome;
use crate::arguments::{CreateCommand, PolicyArguments, PolicyCommand};
use crate::input::{self, InputError};
use crate::output::Terminal;
use crate::remote::policies as remote;
use crate::remote::policies::{Part, Wanted};

pub(crate) use lint::summary as lint_summary;

/// Reads a runtime policy that can be judged by: its verification keys are usable too.
pub(crate) fn read(option: &'static str, path: &Path) -> Result<RuntimePolicy, InputError> {
    let fault = |reason: &dyn std::fmt::Display| {
        InputError::new(option, path, reason).with_code(Code::PolicyMalformed)
    };
    let text = input::read(option, path, "POLICY_BYTES_MAX")?;
    let policy = RuntimePolicy::parse(&text).map_err(|error| fault(&error))?;
    check(&policy).map_err(|error| fault(&error))?;
    Ok(policy)
}

/// Whether a policy can be judged by.
fn check(policy: &RuntimePolicy) -> Result<(), impl std::fmt::Display + use<>> {
    Judge::new(policy.clone().into()).map(drop)
}

/// Reads a measured boot reference state for this policy; `None` when it is empty.
pub(crate) fn read_boot(
    option: &'static str,
    path: &Path,
    name: PolicyName,
) -> Result<Option<MeasuredBootPolicy>, InputError> {
    let text = input::read(option, path, "MB_POLICY_BYTES_MAX")?;
    MeasuredBootPolicy::parse(name, &text)
        .map_err(|error| InputError::new(option, path, &error).with_code(Code::PolicyMalformed))
}

/// Runs one of the commands on policies.
pub(crate) fn run(options: &PolicyArguments, terminal: &mut Terminal) -> Result<Outcome> {
    match &options.command {
        PolicyCommand::Lint { file, output } => lint::run(file, *output, terminal),
        PolicyCommand::Create { policy } => match policy {
            CreateCommand::Runtime(options) => create::run(options, terminal),
            CreateCommand::MeasuredBoot(options) => create_boot::run(options, terminal),
        },
        PolicyCommand::List {
            group,
            limit,
            remote,
        } => remote::run_list(group.as_deref(), *limit, remote, terminal),
        PolicyCommand::Show {
            policy,
            active,
            content,
            out,
            remote,
        } => {
            let wanted = match (policy, active) {
                (Some(policy), _) => Wanted::Policy(policy),
                (None, Some(group)) => Wanted::ActiveOf(group),
                (None, None) => bail!("give a policy, or --active GROUP"),
            };
            let part = match out {
                Some(path) => Part::ContentInto(path),
                None if *content => Part::Content,
                None => Part::About,
            };
            remote::run_show(&wanted, &part, remote, terminal)
        }
        PolicyCommand::Add {
            file,
            group,
            name,
            remote,
        } => remote::run_add(file, group, name.as_deref(), remote, terminal),
        PolicyCommand::Diff { old, new, remote } => remote::run_diff(old, new, remote, terminal),
        PolicyCommand::Activate {
            policy,
            shadow,
            remote,
        } => remote::run_activate(policy, *shadow, remote, terminal),
        PolicyCommand::Rollback { group, remote } => remote::run_rollback(group, remote, terminal),
    }
}
