//! `rat agents` and `rat evidence`.

use clap::{Args, Subcommand};

use super::remote::RemoteArguments;
use super::values::Fingerprint;

const LIST_HELP: &str = "\
Example:
  rat agents list --status failed
  rat agents list --group prod-fleet --since 2026-01-31T00:00:00Z --output json";

const SHOW_HELP: &str = "\
The exit code does not depend on how the agent stands: `rat evidence` says that by its own.

Example:
  rat agents show d432fbb3-d2f1-4a97-9ef7-75bd81c00000";

const WATCH_HELP: &str = "\
A line for each agent whose status changes, until the program is stopped, or until every agent that
is watched has the status that --until names.

Trust also ends by itself, with no word from the agent, so each look reads every agent that is
watched, in pages of 1,000. After a look that took longer than --interval it waits as long as that
took: it asks for half of the time at most. Name an agent or a group in a large fleet; `rat status`
has the numbers at once.

Exit codes:
  0  the agents have the status that --until names
  1  they had not when the time of --timeout was over

Example:
  rat agents watch --group prod-fleet
  rat agents watch d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --until trusted --timeout 60";

const APPROVE_HELP: &str = "\
Approves a machine that waits to enrol, or the new attestation key of one that is enrolled. It is
shown first, on standard error, and what was shown is approved, nothing that came in its place. The
id, the host name and the rest are what the machine calls itself: compare the SHA-256 with what
`rat-agent doctor` shows on the machine. Where nobody can be asked, --ek-sha256 or --yes is needed;
--yes trusts whoever waits under the id.

Example:
  rat agents pending
  rat agents approve d432fbb3-d2f1-4a97-9ef7-75bd81c00000
  rat agents approve d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --ek-sha256 3f2a...c901";

const CLEAR_HELP: &str = "\
The agent is trusted again when it passes from the first entry of its list.

Example:
  rat agents clear d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --reason 'reinstalled, ticket 4711'";

const REMOVE_HELP: &str = "\
A failure stays with the machine: enrolled again, it is failed.

Example:
  rat agents remove d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --yes";

const MOVE_HELP: &str = "\
Example:
  rat agents move d432fbb3-d2f1-4a97-9ef7-75bd81c00000 staging";

const RELAY_HELP: &str = "\
What comes by another way than this is refused.

Example:
  rat agents relay d432fbb3-d2f1-4a97-9ef7-75bd81c00000 site-1
  rat agents relay d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --direct";

const SYNC_STATUS_HELP: &str = "\
For those who know agents by Keylime's operational states: 1 pending, 3 active, 4 stale, 7 failed.

Example:
  rat agents sync-status d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --output json";

const PENDING_HELP: &str = "\
That their TPMs are genuine was checked; what they say of themselves was not.

Example:
  rat agents pending";

pub(super) const EVIDENCE_HELP: &str = "\
Exit codes:
  0  the agent is trusted, or authentic
  1  it has another status, or the server refused

Example:
  rat evidence d432fbb3-d2f1-4a97-9ef7-75bd81c00000
  rat evidence d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --output json | jq .first_offence";

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List agents by id
    #[command(after_help = LIST_HELP)]
    List {
        #[command(flatten)]
        filter: Filter,
        /// The first N of them
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show an agent
    #[command(after_help = SHOW_HELP)]
    Show {
        /// The agent's id
        agent: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show how an agent stands, with Keylime's number
    #[command(after_help = SYNC_STATUS_HELP)]
    SyncStatus {
        /// The agent's id
        agent: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show how agents' statuses change
    #[command(after_help = WATCH_HELP)]
    Watch(Watch),
    /// List machines that wait for an approval
    #[command(after_help = PENDING_HELP)]
    Pending {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Approve what waits under an id
    #[command(after_help = APPROVE_HELP)]
    Approve(Approve),
    /// Take an agent's failure back
    #[command(after_help = CLEAR_HELP)]
    Clear {
        /// The agent's id
        agent: String,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Remove an agent
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// The agent's id
        agent: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Move an agent to another group
    #[command(after_help = MOVE_HELP)]
    Move {
        /// The agent's id
        agent: String,
        /// The group
        group: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Say through which relay an agent speaks, or that it comes directly
    #[command(after_help = RELAY_HELP)]
    Relay {
        /// The agent's id
        agent: String,
        /// The relay's name
        #[arg(required_unless_present = "direct", conflicts_with = "direct")]
        relay: Option<String>,
        /// It comes directly
        #[arg(long)]
        direct: bool,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// The agent's id
    pub(crate) agent: String,
    /// This machine and no other, without a question: SHA-256 of its endorsement key
    #[arg(long, visible_alias = "ek", value_name = "HEX")]
    pub(crate) ek_sha256: Option<Fingerprint>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArguments,
}

/// Which agents.
#[derive(Debug, Clone, Args)]
pub(crate) struct Filter {
    /// Agents of this group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Agents of this status, such as failed, or effective status, such as overdue
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<String>,
    /// Agents with this host name
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Agents that registered or attested at this time or later, such as 2026-01-31T23:59:59Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// This agent alone
    #[arg(value_name = "AGENT")]
    pub(crate) agent: Option<String>,
    /// Agents of this group
    #[arg(long, value_name = "GROUP", conflicts_with = "agent")]
    pub(crate) group: Option<String>,
    /// End when each of them, and one at least, has this status or effective status
    #[arg(long, value_name = "STATUS")]
    pub(crate) until: Option<String>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Look every so many seconds, or more seldom
    #[arg(long, value_name = "SECONDS", default_value_t = 2,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
    #[command(flatten)]
    pub(crate) remote: RemoteArguments,
}
