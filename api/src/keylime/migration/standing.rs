//! How an agent stood in Keylime, and what of that is known here.

use rat_engine::shard::Failure;
use rat_engine::verdict::severity::{NOT_REACHABLE, event_id};
use rat_engine::verdict::{Attribution, Code};
use rat_store::{SourceRow, ToldFailure};

use super::now;
use super::report::Found;
use crate::keylime::verifier::add::shown;

/// What the columns say.
pub(super) struct Standing {
    /// Whether it is being removed.
    pub(super) is_leaving: bool,
    /// That it had failed.
    pub(super) failure: Option<Failure>,
    /// What Keylime told of that.
    pub(super) told: Option<ToldFailure>,
    /// Whether a tenant had stopped it.
    pub(super) is_stopped: bool,
    /// All of it, for the audit log.
    pub(super) detail: String,
    pub(super) notes: Vec<String>,
}

/// Keylime's `operational_state`.
const TERMINATED: u64 = 8;
const STOPPED: u64 = 10;
const STATES: [&str; 11] = [
    "Registered",
    "Start",
    "Saved",
    "Get Quote",
    "Get Quote (retry)",
    "Provide V",
    "Provide V (retry)",
    "Failed",
    "Terminated",
    "Invalid Quote",
    "Tenant Quote Failed",
];

impl Standing {
    pub(super) fn read(row: &SourceRow) -> Result<Self, Found> {
        let big = u64::from(u32::MAX);
        let state = row.number("operational_state", 10)?;
        let count = row.number("attestation_count", big)?.unwrap_or(0);
        let severity = row.number("severity_level", 255)?;
        let event = row.text("last_event_id")?.filter(|text| !text.is_empty());
        let failures = row
            .number("consecutive_attestation_failures", big)?
            .unwrap_or(0);
        let accepts = row.flag("accept_attestations")?.unwrap_or(true);
        let detail = detail(row, (state, count, failures))?;
        let mut notes = Vec::new();
        let has_failed = match state {
            // No word about the machine.
            Some(7) if event == Some(NOT_REACHABLE) => {
                notes.push("Keylime did not reach it, which is no failure here".to_owned());
                false
            }
            Some(7 | 9) => true,
            _ if failures > 0 => true,
            _ if !accepts => {
                notes.push("it was silent for too long, which is no failure here".to_owned());
                false
            }
            // A failure of an earlier state may be what its last event tells.
            _ => severity.is_some(),
        };
        let code = event.and_then(code_of).unwrap_or(Code::IdentityHistoryLost);
        let failure = has_failed.then(|| failed(code, &detail));
        let told = failure.as_ref().and_then(|failure| {
            Some(ToldFailure {
                failed_unix_ms: failure.at_unix_ms,
                severity: u8::try_from(severity?).ok()?,
                event_id: shown(event?),
            })
        });
        if has_failed {
            notes.push(FAILED.to_owned());
        }
        let is_stopped = state == Some(STOPPED);
        if is_stopped {
            notes.push("stopped: nothing is asked of it before it is reactivated".to_owned());
        }
        if count > 0 {
            notes.push(format!(
                "its {count} attestations are not taken: it attests from entry 0"
            ));
        }
        Ok(Self {
            is_leaving: state == Some(TERMINATED),
            failure,
            told,
            is_stopped,
            detail,
            notes,
        })
    }

    /// Nobody asks those that push, so that they cannot be stopped: one that was is failed instead,
    /// because it would be trusted otherwise when it pushes on.
    pub(super) fn settle_of_push(&mut self) {
        if !std::mem::take(&mut self.is_stopped) || self.failure.is_some() {
            return;
        }
        self.failure = Some(failed(Code::IdentityHistoryLost, &self.detail));
        self.notes
            .push("it pushes, and cannot be stopped".to_owned());
        self.notes.push(FAILED.to_owned());
    }
}

const FAILED: &str = "failed, until an operator clears it";

fn failed(code: Code, detail: &str) -> Failure {
    Failure {
        code,
        detail: detail.to_owned(),
        entry: None,
        path: None,
        digest: None,
        at_unix_ms: now(),
        under_policy: None,
        group: None,
    }
}

/// How it stood, in a line.
fn detail(
    row: &SourceRow,
    (state, count, failures): (Option<u64>, u64, u64),
) -> Result<String, Found> {
    let name = state.and_then(|state| STATES.get(usize::try_from(state).ok()?));
    let name = name.copied().unwrap_or("none");
    let mut detail = format!("in Keylime: state {name}, {count} attestations");
    for (what, number) in [
        (
            "last quote at",
            row.number("last_received_quote", u64::MAX)?,
        ),
        (
            "last success at",
            row.number("last_successful_attestation", u64::MAX)?,
        ),
        ("severity", row.number("severity_level", 255)?),
    ] {
        if let Some(number) = number.filter(|number| *number > 0) {
            detail.push_str(&format!(", {what} {number}"));
        }
    }
    let event = row.text("last_event_id")?;
    if let Some(event) = event.filter(|event| !event.is_empty()) {
        detail.push_str(&format!(", event {}", shown(event)));
    }
    if failures > 0 {
        detail.push_str(&format!(", {failures} failures in a row"));
    }
    Ok(detail)
}

/// The one code of ours that an event of Keylime stands for, if there is one.
fn code_of(event: &str) -> Option<Code> {
    let mut codes = Code::ALL.iter().copied();
    let of_agent =
        |code: &Code| code.attribution() == Attribution::Agent && event_id(*code) == event;
    let first = codes.find(of_agent)?;
    codes.find(of_agent).is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_keylime_are_the_codes_that_they_stand_for_alone() {
        let known = "ima.validation.ima-ng.not_in_allowlist";
        assert_eq!(code_of(known), Some(Code::ImaPathNotListed));
        assert_eq!(
            code_of("pcr_validation.invalid_pcr"),
            Some(Code::PcrValueNotAllowed)
        );
        // More than one of ours are told as this one.
        assert_eq!(code_of("measured_boot.parser.events"), None);
        assert_eq!(code_of("default.uncategorized"), None);
        assert_eq!(code_of(""), None);
    }
}
