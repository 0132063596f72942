//! `rat relays`.

use std::path::PathBuf;

use clap::Subcommand;

use super::remote::RemoteArguments;

const LIST_HELP: &str = "\
Example:
  rat relays list";

const ADD_HELP: &str = "\
The request comes from `rat-agent relay request`, and what this prints goes back to the relay, to
`rat-agent relay install`. The same name with the same key is given another certificate.

Example:
  rat relays add site-1 --csr site-1.csr --output json > site-1.json";

const REMOVE_HELP: &str = "\
It is connected no more when this ends. Its agents' records still name it: tell them to come
directly, or through another.

Example:
  rat relays remove site-1 --yes";

#[derive(Debug, Subcommand)]
pub(crate) enum RelayCommand {
    /// List relays, and their keys
    #[command(after_help = LIST_HELP)]
    List {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Name a relay, and issue its certificate
    #[command(after_help = ADD_HELP)]
    Add {
        /// What to call it: a-z, 0-9, dot and hyphen
        relay: String,
        /// File with its request, in PEM
        #[arg(long, value_name = "FILE")]
        csr: PathBuf,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Take a relay back
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// Its name
        relay: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}
