//! `rat-agent status`: who this machine is, and what its agent last knew.

use serde::Serialize;
use thiserror::Error;

use crate::device::{Device, DeviceError, Tpm};
use crate::settings::{Settings, SettingsError};
use crate::state::{Enrolled, LastKnown, StateDir, StateError};
use crate::unix_ms;

/// What is shown.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The id.
    pub agent: String,
    /// The group.
    pub group: String,
    /// The server.
    pub server: String,
    /// The type of the TPM's keys.
    pub key: String,
    /// The Name of the attestation key.
    pub ak_name: String,
    /// What the agent last knew; `None` when it has not run yet.
    pub last_known: Option<LastKnown>,
    /// How long ago that was, in milliseconds.
    pub age_ms: Option<u64>,
    /// The TPM now, or why it cannot be asked.
    pub tpm: Result<TpmFacts, String>,
}

/// What the TPM says of itself.
#[derive(Debug, Serialize)]
pub struct TpmFacts {
    /// Its PCR banks.
    pub banks: Vec<String>,
    /// Resets since it was cleared.
    pub reset_count: u32,
    /// Restarts since the last reset.
    pub restart_count: u32,
    /// Milliseconds that it was powered.
    pub clock_ms: u64,
}

/// Why there is no status.
#[derive(Debug, Error)]
pub enum StatusError {
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Collects it.
///
/// # Errors
/// [`StatusError`]; a TPM that cannot be asked is part of the status instead.
pub fn status(settings: &Settings) -> Result<Status, StatusError> {
    let state = StateDir::open(&settings.state_dir())?;
    let path = state.path().to_path_buf();
    let enrolled = state.enrolled()?.ok_or(StateError::NotEnrolled { path })?;
    let Enrolled {
        agent,
        group,
        server,
        kind,
        ak_name,
        ..
    } = enrolled;
    let last_known = state.last_known()?;
    let mut tpm = Tpm::new(settings.tpm(settings.kind(Some(kind)))?);
    Ok(Status {
        agent: agent.to_string(),
        group,
        server,
        key: kind.to_string(),
        ak_name,
        age_ms: last_known
            .as_ref()
            .map(|known| unix_ms().saturating_sub(known.at_unix_ms)),
        last_known,
        tpm: facts(&mut tpm).map_err(|error| error.to_string()),
    })
}

fn facts(tpm: &mut Tpm) -> Result<TpmFacts, DeviceError> {
    let clock = tpm.clock()?;
    Ok(TpmFacts {
        banks: tpm.banks()?.iter().map(ToString::to_string).collect(),
        reset_count: clock.reset_count,
        restart_count: clock.restart_count,
        clock_ms: clock.clock_ms,
    })
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "agent         {}", self.agent)?;
        writeln!(f, "group         {}", self.group)?;
        writeln!(f, "server        {}", self.server)?;
        writeln!(f, "key           {} {}", self.key, self.ak_name)?;
        match (&self.last_known, self.age_ms) {
            (Some(known), Some(age_ms)) => last_known(f, known, age_ms)?,
            _ => writeln!(f, "connection    the agent has not run yet")?,
        }
        match &self.tpm {
            Ok(tpm) => write!(
                f,
                "tpm           banks {}; {} resets, {} restarts",
                tpm.banks.join(" "),
                tpm.reset_count,
                tpm.restart_count
            ),
            Err(error) => write!(f, "tpm           {error}"),
        }
    }
}

fn last_known(f: &mut std::fmt::Formatter<'_>, known: &LastKnown, age_ms: u64) -> std::fmt::Result {
    let address = known.address.as_deref().unwrap_or("no server yet");
    let state = if known.connected {
        "connected to"
    } else {
        "away from"
    };
    let seconds = age_ms.checked_div(1000).unwrap_or(0);
    writeln!(f, "connection    {state} {address}, {seconds} s ago")?;
    if let Some(trouble) = &known.trouble {
        writeln!(f, "trouble       {trouble}")?;
    }
    match &known.verdict {
        Some(verdict) => {
            let code = verdict.code.as_deref().unwrap_or("");
            writeln!(
                f,
                "verdict       {} {code} {}",
                verdict.status, verdict.detail
            )?;
        }
        None => writeln!(f, "verdict       none yet")?,
    }
    writeln!(f, "attestations  {} since its start", known.attestations)?;
    writeln!(f, "list          {} entries", known.entries)
}
