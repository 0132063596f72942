//! `rat groups` and `rat ek`.

use std::num::ParseIntError;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::remote::RemoteArguments;
use super::values::Fingerprint;

const LIST_HELP: &str = "\
Example:
  rat groups list";

const SHOW_HELP: &str = "\
Coverage says how many agents were judged in full under what the group enforces now.

Example:
  rat groups show prod-fleet";

const CREATE_HELP: &str = "\
Settings that are not given enforce, and waive nothing.

Who may enrol, beyond holding a token, says --approval:
  auto    whoever proves a TPM that the server knows, by identity.ek_ca or identity.ek_list
  list    TPMs of the files that identity.ek_list of the server's configuration names, and those
          that `rat ek add` lets into the group; while both are empty nobody can enrol
  manual  TPMs that `rat agents approve` or `rat ek add` lets into the group

Example:
  rat groups create prod-fleet --approval manual";

const SET_HELP: &str = "\
Settings that are not given stay as they are. `rat groups create --help` says what --approval means.

Example:
  rat groups set prod-fleet --approval list --auto-recover true
  rat groups set prod-fleet --pcr-policy @pcrs.json
  rat groups set prod-fleet --interval-ms 60000
  rat groups set prod-fleet --block true --if-version 7";

const EK_LIST_HELP: &str = "\
Example:
  rat ek list prod-fleet";

const EK_ADD_HELP: &str = "\
`rat-agent doctor` shows the SHA-256 on the machine.

Example:
  rat ek add prod-fleet 3f2a...c901";

const EK_REMOVE_HELP: &str = "\
An agent that has enrolled by it stays enrolled.

Example:
  rat ek remove prod-fleet 3f2a...c901";

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List groups
    #[command(after_help = LIST_HELP)]
    List {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show a group
    #[command(after_help = SHOW_HELP)]
    Show {
        /// The group
        group: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Make a group
    #[command(after_help = CREATE_HELP)]
    Create {
        /// Its name in addresses: 1 to 63 of a-z, 0-9, - and _
        group: String,
        #[command(flatten)]
        settings: Box<GroupSettings>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Change settings of a group
    #[command(after_help = SET_HELP)]
    Set {
        /// The group
        group: String,
        #[command(flatten)]
        settings: Box<GroupSettings>,
        /// Only if its row_version is still this
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}

/// What a group demands.
#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Settings")]
pub(crate) struct GroupSettings {
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Hold violations against agents; false only reports them
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    protected: Option<bool>,
    /// Skip the runtime policy
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    bypass: Option<bool>,
    /// Report every agent as blocked
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<bool>,
    /// The PCR bank that quotes must cover
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    bank: Option<Bank>,
    /// Demand that a boot log explains each boot
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    require_boot_log: Option<bool>,
    /// Accept violations of the measurement list
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_violations: Option<bool>,
    /// Trust a failed agent that passes again, without an operator
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    auto_recover: Option<bool>,
    /// Milliseconds from one challenge of its agents to the next; null for the server's interval
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_ms: Option<Interval>,
    /// Accept SHA-1: as the hash of attestation keys and quotes, and as the bank
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_sha1: Option<bool>,
    /// Fail files whose signature does not verify, also when their digest is listed
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    require_valid_ima_sig: Option<bool>,
    /// Who may enrol, beyond holding a token
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<Approval>,
    /// Values that PCRs must have: {"15":["hex"],"mask":"0x8000"}, @FILE, or null for none
    #[arg(long, value_name = "JSON")]
    #[serde(skip)]
    pub(crate) pcr_policy: Option<String>,
}

/// How often agents are challenged; without a number as often as the server's others.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(transparent)]
pub(crate) struct Interval(Option<u64>);

impl FromStr for Interval {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "null" => Ok(Self(None)),
            number => number.parse().map(|number| Self(Some(number))),
        }
    }
}

/// A PCR bank.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Bank {
    /// Only with --allow-sha1 true
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// Who may enrol.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Approval {
    /// Whoever proves a TPM that the server knows
    Auto,
    /// TPMs of identity.ek_list, and those of `rat ek`; nobody while both are empty
    List,
    /// Machines that an operator approves one by one
    Manual,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EkCommand {
    /// List machines that may enrol into a group
    #[command(after_help = EK_LIST_HELP)]
    List {
        /// The group
        group: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Let a machine into a group
    #[command(after_help = EK_ADD_HELP)]
    Add {
        /// The group
        group: String,
        /// SHA-256 of its endorsement key
        ek_sha256: Fingerprint,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Take that back
    #[command(after_help = EK_REMOVE_HELP)]
    Remove {
        /// The group
        group: String,
        /// SHA-256 of its endorsement key
        ek_sha256: Fingerprint,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}
