//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::fleet::FleetOptions;
use crate::output::Output;
use crate::requests::RequestOptions;
use crate::swtpm::{Machines, SwtpmOptions};

/// Simulated machines that enrol with and attest to a ratd server, for tests and demos.
#[derive(Debug, Parser)]
#[command(name = "rat-load", version, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How the result of fleet, requests or replay is written [default: a table on a terminal,
    /// JSON elsewhere]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the CA that signs software endorsement keys, to name it to a server beforehand
    EkCa {
        /// Its directory
        dir: PathBuf,
    },
    /// Run many software agents, and print what came of it as JSON
    Fleet(FleetOptions),
    /// Ask a server's API the same again and again, and print how it answered as JSON
    Requests(RequestOptions),
    /// Make the TPMs of simulated machines, and print the files to name to a server beforehand:
    /// ek-ca.pem (identity.ek_ca), and with --ecc ek-list (identity.ek_list)
    Manufacture(Machines),
    /// Run machines with real TPMs (swtpm), which take commands and print events as JSON lines
    Swtpm(SwtpmOptions),
}
