//! What can be said on the command line, a file for each family of commands.

mod agents;
mod files;
mod groups;
mod people;
mod policies;
mod policy_files;
mod relays;
mod remote;
mod values;
mod webhooks;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use agents::{AgentCommand, Approve, Filter, Watch};
pub(crate) use files::{InspectArguments, Kind, TemplateHash, VerifyArguments};
pub(crate) use groups::{EkCommand, GroupCommand, GroupSettings};
pub(crate) use people::{
    AccountCommand, ApiTokenCommand, PasswordArguments, TokenCommand, UserChange, UserCommand,
};
pub(crate) use policies::{PolicyArguments, PolicyCommand};
pub(crate) use policy_files::{
    Backend, ConvertArguments, CreateArguments, CreateBootArguments, CreateCommand, MergeArguments,
    SignArguments, VerifySignatureArguments,
};
pub(crate) use relays::RelayCommand;
pub(crate) use remote::{Connect, Enroll, Login, RemoteArguments};
pub(crate) use values::Fingerprint;
pub(crate) use webhooks::WebhookCommand;

/// Run a fleet of attested machines, and judge evidence in files
#[derive(Debug, Parser)]
#[command(name = "rat", version, max_term_width = 100, after_help = HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const HELP: &str = "\
Exit codes:
  0  done; every check passed
  1  a check failed, or the server refused
  2  wrong usage, or a file that cannot be used; the server was not asked
  3  no answer that counts: the server cannot be reached, is not the pinned one, or says not now

Environment:
  RAT_SERVER, RAT_CA_SHA256   the server and its CA, instead of what `rat connect` saved
  RAT_TOKEN, RAT_TOKEN_FILE   an API token, instead of what `rat login` saved
  NO_COLOR                    no colours

Files:
  $XDG_CONFIG_HOME/rat or ~/.config/rat: the server and the session, for their owner's eyes only

Example:
  rat connect https://ratd.example:8001 --ca-sha256 \"$(ssh ratd.example ratd ca fingerprint)\"
  rat login --username admin
  rat agents list --status failed";

const COMPLETIONS_HELP: &str = "\
Example:
  rat completions bash > /etc/bash_completion.d/rat";

const MAN_HELP: &str = "\
Example:
  rat man | man -l -
  rat man --dir /usr/local/share/man/man1";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Remember a server, after it has proven itself
    #[command(after_help = remote::CONNECT_HELP)]
    Connect(Connect),
    /// Open a session at the server
    #[command(after_help = remote::LOGIN_HELP)]
    Login(Login),
    /// End the session
    #[command(after_help = remote::LOGOUT_HELP)]
    Logout {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show as whom the server is asked
    #[command(after_help = remote::WHOAMI_HELP)]
    Whoami {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Count the fleet
    #[command(after_help = remote::STATUS_HELP)]
    Status {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Check connection, CA, clock and login, and say what to do
    #[command(after_help = remote::DOCTOR_HELP)]
    Doctor {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Look at agents, and act on them
    Agents {
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Show why an agent is trusted or not
    #[command(after_help = agents::EVIDENCE_HELP)]
    Evidence {
        /// The agent's id
        agent: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Look at policy groups, and change what they demand
    Groups {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Let machines into a group by their endorsement keys
    Ek {
        #[command(subcommand)]
        command: EkCommand,
    },
    /// Look at policies, add and enforce them; check and make them in files
    Policies(PolicyArguments),
    /// Make and end the tokens by which machines enrol
    Tokens {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Enrol this machine: runs `rat-agent enroll`
    #[command(after_help = remote::ENROLL_HELP)]
    Enroll(Enroll),
    /// Look at accounts, and change them
    Users {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Change one's own account
    Account {
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// Make and end the tokens of programs
    ApiTokens {
        #[command(subcommand)]
        command: ApiTokenCommand,
    },
    /// Name relays, which carry the evidence of other machines, and take them back
    Relays {
        #[command(subcommand)]
        command: RelayCommand,
    },
    /// Look at webhooks, and try them
    Webhooks {
        #[command(subcommand)]
        command: WebhookCommand,
    },
    /// Show who changed what
    #[command(after_help = people::AUDIT_HELP)]
    Audit {
        /// Entries after this number
        #[arg(long, value_name = "SEQ")]
        after: Option<u64>,
        /// The newest N, or the first N after SEQ
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Judge a quote, with its PCR values, logs and policies, without a server
    #[command(after_help = files::VERIFY_HELP)]
    Verify(Box<VerifyArguments>),
    /// Show what a file of evidence or a policy holds, unverified
    #[command(after_help = files::INSPECT_HELP)]
    Inspect(InspectArguments),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands
    #[command(after_help = MAN_HELP)]
    Man {
        /// Write a page for each command into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
