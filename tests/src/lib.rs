//! What the tests share: evidence made in software, slow and obvious oracles, and recorded
//! evidence. The tests themselves stand in `tests/`, a file for each family.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::path::{Path, PathBuf};

pub mod archives;
pub mod assignment;
pub mod booted;
pub mod crash;
pub mod described;
pub mod driven;
pub mod endorsement;
pub mod enrolment_server;
pub mod evidence;
pub mod fleet;
pub mod http_client;
pub mod keylime;
pub mod keylime_databases;
pub mod keylime_verifier;
pub mod lists;
pub mod measured;
pub mod measured_keys;
pub mod oracle;
pub mod pull_agent;
pub mod pull_tpm;
pub mod pulled;
pub mod push_tpm;
pub mod python;
pub mod receiver;
pub mod recording;
pub mod registrar;
pub mod sequences;
pub mod software_tpm;
pub mod stage;
pub mod swtpm;
pub mod targets;
pub mod tenant_asks;
pub mod transcripts;
pub mod vectors;
pub mod verifier;

/// The folder that holds the workspace.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}
