//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::fleet::FleetOptions;
use crate::output::Output;
use crate::replay::ReplayOptions;
use crate::requests::RequestOptions;
use crate::swtpm::{Machines, SwtpmOptions};

/// Simulated machines that enrol with and attest to a ratd server, for tests and demos.
#[derive(Debug, Parser)]
#[command(name = "rat-load", version, max_term_width = 100, after_help = HELP)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How the result of fleet, requests or replay is written [default: a table on a terminal,
    /// JSON elsewhere]
    #[arg(long, global = true, value_name = "FORMAT", display_order = 500)]
    pub output: Option<Output>,
}

const HELP: &str = "\
Exit codes:
  0  done
  1  the run failed
  2  wrong usage
  3  fleet: the server took evidence for genuine of an agent that misbehaves";

const FLEET_HELP: &str = "\
What is measured:
  A server says when it challenges, so only connections can be begun at a rate. `challenge to
  verdict` is its service; `due to verdict` counts from when it had announced the challenge. With a
  rate, times count from when a visit was to begin, whether or not earlier ones were over; visits
  that never began are counted.

Example:
  rat-load fleet --server https://127.0.0.1:8001 --token TOKEN --baseline-token BASELINE \\
      --ek-ca ek-ca --agents 1000 --seconds 60
  rat-load fleet ... --agents 1000 --rate 50
  rat-load fleet ... --agents 100 --tampered 5 --late 5 --replaying 5 --flooding 1 --seed 7";

const REQUESTS_HELP: &str = "\
What is measured:
  Without a rate, from a request to its answer: a slow server is asked less, and what others would
  have waited does not show. With one, from when the request was to begin, whether or not a
  connection was free; requests that never began are counted.

Example:
  rat-load requests --server https://127.0.0.1:8001 --ca ca.pem --token-file token /agents/
  rat-load requests ... --rate 200 --seconds 30 /agents/ /groups/";

const REPLAY_HELP: &str = "\
Example:
  rat-load replay --key rsa --entries 2000 --threads 2
  rat-load replay evidence/m1 evidence/m2 --output json";

const SWTPM_HELP: &str = "\
Example:
  rat-load manufacture --dir machines --machines 200
  rat-load swtpm --dir machines --machines 200 --server https://127.0.0.1:8001 --token TOKEN";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the CA that signs software endorsement keys, to name it to a server beforehand
    EkCa {
        /// Its directory
        dir: PathBuf,
    },
    /// Run many software agents, and tell what came of it
    #[command(after_help = FLEET_HELP)]
    Fleet(FleetOptions),
    /// Ask a server's API again and again, and tell how it answered
    #[command(after_help = REQUESTS_HELP)]
    Requests(RequestOptions),
    /// Judge evidence again and again in this process, without a server
    #[command(after_help = REPLAY_HELP)]
    Replay(ReplayOptions),
    /// Make the TPMs of simulated machines, and print the files to name to a server beforehand:
    /// ek-ca.pem (identity.ek_ca), and with --ecc ek-list (identity.ek_list)
    Manufacture(Machines),
    /// Run machines with real TPMs (swtpm), which take commands and print events as JSON lines
    #[command(after_help = SWTPM_HELP)]
    Swtpm(SwtpmOptions),
}
