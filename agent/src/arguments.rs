//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rat_engine::agent_id::AgentId;

use crate::device::KeyKind;
use crate::https::ServerUrl;
use crate::settings::Settings;
use crate::token::Token;

/// Proves to a ratd server what this machine booted and runs.
#[derive(Debug, Parser)]
#[command(name = "rat-agent", version, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Settings that every command takes.
    #[command(flatten)]
    pub flags: Flags,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enrol this machine with a token that an operator made
    Enroll(Enroll),
    /// Answer the server's challenges until stopped
    Run,
    /// Show what the running agent last knew
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Check TPM, logs, server and certificate, and say what to do; exit code 1 when one fails
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `enroll`.
#[derive(Debug, Args)]
pub struct Enroll {
    /// The token; it says whether this machine's list becomes its group's baseline
    pub token: Token,
    /// The server, as https://host:port
    #[arg(long, value_name = "URL")]
    pub server: ServerUrl,
    /// The id to enrol under; without it one that follows from the TPM
    #[arg(long, value_name = "ID", value_parser = AgentId::parse)]
    pub agent_id: Option<AgentId>,
    /// The machine's name, for people; without it the kernel's
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
}

/// Settings that every command takes.
#[derive(Debug, Args)]
pub struct Flags {
    /// Settings file (default: /etc/rat-agent.toml, if it is there)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the agent keeps its key (default: $STATE_DIRECTORY, or /var/lib/rat-agent)
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The way to the TPM (default: $TCTI, or device:/dev/tpmrm0)
    #[arg(long, global = true, value_name = "TCTI")]
    tcti: Option<String>,
    /// The type of the TPM's keys (default: rsa)
    #[arg(long, global = true, value_enum)]
    key: Option<KeyKind>,
    /// Persistent handle of the endorsement key
    #[arg(long, global = true, value_name = "HANDLE", value_parser = handle)]
    ek_handle: Option<u32>,
    /// Persistent handle of the attestation key
    #[arg(long, global = true, value_name = "HANDLE", value_parser = handle)]
    ak_handle: Option<u32>,
}

impl Flags {
    /// The flags as settings.
    pub fn settings(&self) -> Settings {
        Settings {
            state_dir: self.state_dir.clone(),
            tcti: self.tcti.clone(),
            key: self.key,
            ek_handle: self.ek_handle,
            ak_handle: self.ak_handle,
            ..Settings::default()
        }
    }
}

/// `0x81010001`, or the same in decimal.
fn handle(text: &str) -> Result<u32, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
}
