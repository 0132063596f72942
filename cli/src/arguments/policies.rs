//! `rat policies`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use rat_engine::hash::HashAlg;

use super::remote::RemoteArguments;
use super::values::hash_alg;
use crate::output::Format;

const LINT_HELP: &str = "\
Exit codes:
  0  nothing, or nothing but warnings
  1  errors
  2  wrong usage, or a policy that cannot be read

Example:
  rat policies lint policy.json";

const CREATE_HELP: &str = "\
Everything that the log measured becomes allowed: verify the log first.

Exit codes:
  0  the policy was written
  1  the log has violations, and --allow-violations was not given
  2  wrong usage, or a log that cannot be read

Example:
  rat policies create runtime --from-ima-log ascii_runtime_measurements \\
      --exclude '/usr/share/man/.*[.]gz$' --out policy.json";

const CREATE_BOOT_HELP: &str = "\
The log's digests become what `example` allows: make it on a machine that is known to be good.

Exit codes:
  0  the reference state was written, and the log passes by it
  1  the log lacks something, or fails by its own reference state
  2  wrong usage, a log that cannot be read, or one that says that Secure Boot is off

Example:
  rat policies create measured-boot -o mb_refstate.json \\
      --eventlog /sys/kernel/security/tpm0/binary_bios_measurements";

const LIST_HELP: &str = "\
Status: active is enforced, shadow is kept beside it, superseded was enforced once, inactive never.

Example:
  rat policies list --group prod-fleet";

const SHOW_HELP: &str = "\
Example:
  rat policies show p-prod-fleet-003
  rat policies show --active prod-fleet --out policy.json";

const ADD_HELP: &str = "\
Nothing is judged by a new version until it is activated.

Exit codes:
  0  the version was added
  1  the server refused it: it says where the policy is malformed

Example:
  rat policies add policy.json --group prod-fleet --name 'after the May updates'
  rat policies diff p-prod-fleet-003 p-prod-fleet-004
  rat policies activate p-prod-fleet-004";

const DIFF_HELP: &str = "\
Lines begin with + where NEW has more, - where it has less, ~ where digests differ.

Example:
  rat policies diff p-prod-fleet-003 p-prod-fleet-004";

const ACTIVATE_HELP: &str = "\
Agents are trusted again once their whole list was judged under the new version; how many were is
the coverage, which `rat groups show` shows too.

Example:
  rat policies activate p-prod-fleet-004
  rat policies activate p-prod-fleet-005 --shadow";

const ROLLBACK_HELP: &str = "\
Example:
  rat policies rollback prod-fleet";

#[derive(Debug, Args)]
pub(crate) struct PolicyArguments {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// List versions of policies, the newest first
    #[command(after_help = LIST_HELP)]
    List {
        /// Versions of this group alone
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// The first N of them
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show a version, or write its text to a file
    #[command(after_help = SHOW_HELP)]
    Show {
        /// The version, such as p-prod-fleet-003
        #[arg(value_name = "POLICY", required_unless_present = "active")]
        policy: Option<String>,
        /// The version that this group enforces
        #[arg(long, value_name = "GROUP", conflicts_with = "policy")]
        active: Option<String>,
        /// Print the policy's own text
        #[arg(long)]
        content: bool,
        /// Write the policy's own text into this file, byte for byte
        #[arg(long, value_name = "FILE", conflicts_with = "content")]
        out: Option<PathBuf>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Add a version to a group's policy
    #[command(after_help = ADD_HELP)]
    Add {
        /// The runtime policy, in Keylime's JSON
        file: PathBuf,
        /// The group
        #[arg(long, value_name = "GROUP")]
        group: String,
        /// What people call it [default: the file's name]
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show what one version has that another has not
    #[command(after_help = DIFF_HELP)]
    Diff {
        /// The version to compare with
        old: String,
        /// The version that is looked at
        new: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Enforce a version
    #[command(after_help = ACTIVATE_HELP)]
    Activate {
        /// The version, such as p-prod-fleet-003
        policy: String,
        /// Keep it beside the enforced version instead
        #[arg(long)]
        shadow: bool,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Enforce the version that was enforced before the present one
    #[command(after_help = ROLLBACK_HELP)]
    Rollback {
        /// The group
        group: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Look for mistakes in a runtime policy or measured boot reference state, without a server
    #[command(after_help = LINT_HELP)]
    Lint {
        /// The policy, in Keylime's JSON
        file: PathBuf,
        /// How to print what was found
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Make a policy, without a server
    Create {
        #[command(subcommand)]
        policy: CreateCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CreateCommand {
    /// Make a runtime policy that allows what a measurement list holds
    #[command(after_help = CREATE_HELP)]
    Runtime(CreateArguments),
    /// Make a measured boot reference state of the event log of a machine that is as it should be
    #[command(after_help = CREATE_BOOT_HELP)]
    MeasuredBoot(CreateBootArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CreateBootArguments {
    /// UEFI event log (/sys/kernel/security/tpm0/binary_bios_measurements)
    #[arg(short = 'e', long, value_name = "FILE", alias = "eventlog-file")]
    pub(crate) eventlog: PathBuf,
    /// Accept a log that says that Secure Boot is off
    #[arg(short = 'i', long)]
    pub(crate) without_secureboot: bool,
    /// Write the reference state though the log lacks something that the policy `example` needs
    #[arg(long)]
    pub(crate) allow_incomplete: bool,
    /// Where to write the reference state [default: standard output]
    #[arg(short = 'o', long, value_name = "FILE", alias = "output")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// IMA measurement list, ascii or binary
    #[arg(long, value_name = "FILE")]
    pub(crate) from_ima_log: PathBuf,
    /// Python pattern of paths that the policy leaves alone; may be repeated
    #[arg(long, value_name = "REGEX")]
    pub(crate) exclude: Vec<String>,
    /// Where to write the policy [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Leave violations out, rather than refuse the list
    #[arg(long)]
    pub(crate) allow_violations: bool,
    /// Algorithm of the template hashes in the list
    #[arg(long, value_name = "ALG", default_value = "sha1", value_parser = hash_alg())]
    pub(crate) ima_log_hash: HashAlg,
}
