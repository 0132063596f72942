//! Policies: reading, and what `rat policies` does without a server; the rest of it asks the server.

mod convert;
mod create;
mod create_boot;
mod diff;
mod lint;
mod merge;
mod progress;
mod sign;
mod verify_signature;
mod write;

use std::fmt::Display;
use std::path::Path;

use anyhow::{Result, bail};
use rat_engine::ima::judge::Judge;
use rat_engine::policy::RuntimePolicy;
use rat_engine::policy::dsse::{Admitted, PolicyRefusal, admit};
use rat_engine::uefi::policy::{MeasuredBootPolicy, PolicyName};
use rat_engine::verdict::Code;

use crate::Outcome;
use crate::arguments::{CreateCommand, PolicyArguments, PolicyCommand};
use crate::input::{self, InputError};
use crate::output::Terminal;
use crate::remote::policies as remote;
use crate::remote::policies::{New, Part, Wanted};

pub(crate) use lint::summary as lint_summary;

fn malformed(option: &'static str, path: &Path, reason: &dyn Display) -> InputError {
    InputError::new(option, path, reason).with_code(Code::PolicyMalformed)
}

/// Reads a runtime policy that can be judged by: its verification keys are usable too. With a key,
/// given with its option, the policy must be signed by it.
pub(crate) fn read(
    option: &'static str,
    path: &Path,
    key: Option<(&'static str, &Path)>,
) -> Result<RuntimePolicy, InputError> {
    let limit = key.map_or("POLICY_BYTES_MAX", |_| "DSSE_BYTES_MAX");
    let text = input::read(option, path, limit)?;
    let policy = match key {
        Some(_) => read_signed(option, path, &text, key)?.policy,
        // Whoever reads a signed policy has a key to name.
        None => RuntimePolicy::parse(&text).map_err(|error| malformed(option, path, &error))?,
    };
    check(&policy).map_err(|error| malformed(option, path, &error))?;
    Ok(policy)
}

/// A policy whose signature is good, or one without an envelope where no key is given.
pub(crate) fn read_signed<'t>(
    option: &'static str,
    path: &Path,
    text: &'t [u8],
    key: Option<(&'static str, &Path)>,
) -> Result<Admitted<'t>, InputError> {
    let Some((key_option, key_path)) = key else {
        if rat_engine::policy::dsse::is_envelope(text) {
            let reason = "a signed policy: name the public key that signed it with --key";
            return Err(InputError::new(option, path, &reason));
        }
        return admit(text, None, false).map_err(|refusal| malformed(option, path, &refusal));
    };
    let key = input::read(key_option, key_path, "KEY_FILE_BYTES_MAX")?;
    admit(text, Some(&key), true).map_err(|refusal| match refusal {
        PolicyRefusal::Key(error) => InputError::new(key_option, key_path, &error),
        PolicyRefusal::NotJson | PolicyRefusal::Policy(_) => malformed(option, path, &refusal),
        refusal => InputError::new(option, path, &refusal),
    })
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
            key,
            group,
            name,
            remote,
        } => {
            let new = New {
                file,
                key: key.as_deref(),
                group,
                name: name.as_deref(),
            };
            remote::run_add(&new, remote, terminal)
        }
        PolicyCommand::Diff {
            old,
            new,
            files: true,
            remote,
        } => diff::run(Path::new(old), Path::new(new), remote.output, terminal),
        PolicyCommand::Diff {
            old, new, remote, ..
        } => remote::run_diff(old, new, remote, terminal),
        PolicyCommand::Merge(options) => merge::run(options, terminal),
        PolicyCommand::Convert(options) => convert::run(options, terminal),
        PolicyCommand::Sign(options) => sign::run(options, terminal),
        PolicyCommand::VerifySignature(options) => verify_signature::run(options, terminal),
        PolicyCommand::Activate {
            policy,
            shadow,
            remote,
        } => remote::run_activate(policy, *shadow, remote, terminal),
        PolicyCommand::Rollback { group, remote } => remote::run_rollback(group, remote, terminal),
    }
}
