//! How an agent stood in Keylime, and what of that is known here.

use rat_engine::shard::Failure;
use rat_engine::verdict::{Attribution, Code};
use rat_store::SourceRow;

use super::now;
use super::report::Found;
use crate::keylime::verifier::add::shown;
use crate::keylime::verifier::event::event_id;

/// What the columns say.
pub(super) struct Standing {
    /// Whether it is being removed.
    pub(super) is_leaving: bool,
    /// That it had failed, or was stopped.
    pub(super) failure: Option<Failure>,
    /// All of it, for the audit log.
    pub(super) detail: String,
    pub(super) notes: Vec<String>,
}

/// Keylime's `operational_state`.
const TERMINATED: u64 = 8;
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
/// The verifier could not reach it: no word about the machine.
const UNREACHABLE: &str = "internal.verifier.not_reachable";

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
            Some(7) if event == Some(UNREACHABLE) => {
                notes.push("Keylime did not reach it, which is no failure here".to_owned());
                false
            }
            Some(7 | 9) => true,
            Some(10) => {
                notes.push("it was stopped: not trusted here before it is reactivated".to_owned());
                true
            }
            _ if failures > 0 => true,
            _ if !accepts => {
                notes.push("it was silent for too long, which is no failure here".to_owned());
                false
            }
            // A failure of an earlier state may be what its last event tells.
            _ => severity.is_some(),
        };
        let failure = has_failed.then(|| Failure {
            code: event.and_then(code_of).unwrap_or(Code::IdentityHistoryLost),
            detail: detail.clone(),
            entry: None,
            path: None,
            digest: None,
            at_unix_ms: now(),
            under_policy: None,
            group: None,
        });
        if has_failed {
            notes.push("failed, until an operator clears it".to_owned());
        }
        if count > 0 {
            notes.push(format!(
                "its {count} attestations are not taken: it attests from entry 0"
            ));
        }
        Ok(Self {
            is_leaving: state == Some(TERMINATED),
            failure,
            detail,
            notes,
        })
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
