//! `rat policies`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::policy_files::{
    CONVERT_HELP, ConvertArguments, CreateCommand, MERGE_HELP, MergeArguments, SIGN_HELP,
    SignArguments, VERIFY_SIGNATURE_HELP, VerifySignatureArguments,
};
use super::remote::RemoteArguments;
use crate::output::Format;

const LINT_HELP: &str = "\
Exit codes:
  0  nothing, or nothing but warnings
  1  errors
  2  wrong usage, or a policy that cannot be read

Example:
  rat policies lint policy.json";

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
  rat policies diff p-prod-fleet-003 p-prod-fleet-004
  rat policies diff --files old.json new.json";

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
        /// The runtime policy, in Keylime's JSON, or with --key a signed one
        file: PathBuf,
        /// Public key or certificate that must have signed it, in PEM
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
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
        /// OLD and NEW are files, and no server is asked
        #[arg(long)]
        files: bool,
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
    /// Make one policy of several, without a server
    #[command(after_help = MERGE_HELP)]
    Merge(MergeArguments),
    /// Make a policy of an older list, without a server
    #[command(after_help = CONVERT_HELP)]
    Convert(ConvertArguments),
    /// Sign a policy, without a server
    #[command(after_help = SIGN_HELP)]
    Sign(SignArguments),
    /// Verify a policy's signature, without a server
    #[command(after_help = VERIFY_SIGNATURE_HELP)]
    VerifySignature(VerifySignatureArguments),
}
