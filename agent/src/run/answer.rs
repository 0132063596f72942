//! From a challenge to evidence.

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Binding, Challenge, qualifying_data};
use rat_engine::tpm::ClockInfo;
use rat_transport::quic::client::{EvidenceParts, ListParts, ListSource};
use thiserror::Error;

use crate::device::DeviceError;
use crate::logs::{LogError, Measurements, Source};
use crate::machine::Parts;

/// The counters that change with each boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootEpoch {
    /// `resetCount`.
    pub reset_count: u32,
    /// `restartCount`.
    pub restart_count: u32,
}

impl From<ClockInfo> for BootEpoch {
    fn from(clock: ClockInfo) -> Self {
        Self {
            reset_count: clock.reset_count,
            restart_count: clock.restart_count,
        }
    }
}

/// Who answers, and what the server was told of it.
#[derive(Debug, Clone)]
pub struct Answering {
    /// The machine.
    pub agent: AgentId,
    /// The Name of its attestation key.
    pub ak_name: Vec<u8>,
    /// The boot epoch that its Hello gave.
    pub told: BootEpoch,
}

/// Why there is no evidence.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Evidence, and what the quote said about the boot.
pub struct Evidence {
    /// What is sent.
    pub parts: EvidenceParts,
    /// The boot epoch of the quote.
    pub epoch: BootEpoch,
    /// Entries of the list after what is sent.
    pub entries: Option<u64>,
}

/// Quotes, then reads the logs. Blocks.
///
/// The list holds at least what was measured when the quote was made, because it is read after
/// it. (I20) When the machine booted since its Hello, the server's idea of what it has seen is
/// about an earlier boot: then everything is sent.
///
/// # Errors
/// [`AnswerError`].
pub fn evidence(
    parts: &mut Parts,
    challenge: &Challenge,
    binding: &Binding,
    answering: &Answering,
) -> Result<Evidence, AnswerError> {
    let data = qualifying_data(challenge, binding, &answering.ak_name, &answering.agent);
    let quoted = parts.device.quote(&data, &challenge.selection)?;
    let epoch = BootEpoch::from(quoted.clock);
    let rebooted = epoch != answering.told;
    let list = match challenge.ima_from_entry {
        Some(from) => Some(parts.logs.measurements(if rebooted { 0 } else { from })?),
        None => None,
    };
    let boot_log = if challenge.boot_log || rebooted {
        parts.logs.boot_log()?
    } else {
        None
    };
    let entries = list
        .as_ref()
        .map(|list| list.from_entry.saturating_add(list.count));
    Ok(Evidence {
        parts: EvidenceParts {
            quote: quoted.attest,
            signature: quoted.signature,
            pcr_values: quoted.pcr_values,
            reset_count: epoch.reset_count,
            restart_count: epoch.restart_count,
            ima: list.map(list_parts),
            boot_log,
        },
        epoch,
        entries,
    })
}

fn list_parts(list: Measurements) -> ListParts {
    ListParts {
        from_entry: list.from_entry,
        count: list.count,
        format: list.format,
        length: list.length,
        source: match list.source {
            Source::Bytes(bytes) => ListSource::Bytes(bytes),
            Source::File(file) => ListSource::Reader(Box::new(tokio::fs::File::from_std(file))),
        },
    }
}
