//! What a log does that a policy does not allow.

use std::fmt;

use crate::limits::{MB_POLICY_FINDINGS_MAX, MB_POLICY_SHOWN_MAX};
use crate::pcr::{PcrIndex, PcrSet};
use crate::uefi::error::EventPlace;
use crate::uefi::event::EventType;

use super::seen::Seen;

/// The rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum BreachRule {
    /// PCRs of which the policy judges the events are not proven in any bank.
    NotProven,
    /// No log passes.
    Rejected,
    /// An event of this kind, in this PCR, under this name or so often, is not allowed.
    Event,
    /// The digest is not that of the content by which the event is judged.
    Unbound,
    /// The firmware's digests are not those of one allowed firmware.
    Firmware,
    /// Secure Boot is not as the policy wants it, or was not measured.
    SecureBoot,
    /// A key database holds what is not allowed there, or was not measured.
    Keys,
    /// dbx does not forbid what it must.
    Dbx,
    /// MokList or MokListX is none that is allowed.
    Mok,
    /// Shim, boot loader, kernel, initial RAM disk and command line are not those of one allowed
    /// kernel.
    Kernel,
}

/// One breach of a rule. Texts of the log are shortened, and hold no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// The rule.
    pub rule: BreachRule,
    /// The event, where one event breaks it.
    pub place: Option<EventPlace>,
    /// The type that the log gives to that event.
    pub event_type: Option<EventType>,
    /// The PCRs that are not proven, of [`BreachRule::NotProven`].
    pub pcrs: PcrSet,
    /// What was found.
    pub found: Box<str>,
    /// What the policy wants.
    pub expected: Box<str>,
}

impl Breach {
    fn new(rule: BreachRule, found: &str, expected: &str) -> Self {
        Self {
            rule,
            place: None,
            event_type: None,
            pcrs: PcrSet::EMPTY,
            found: shown(found),
            expected: shown(expected),
        }
    }

    /// A breach that no single event makes.
    pub(super) fn of_log(rule: BreachRule, found: &str, expected: &str) -> Self {
        Self::new(rule, found, expected)
    }

    /// A breach by this event.
    pub(super) fn of_event(rule: BreachRule, event: &Seen<'_>, found: &str, wanted: &str) -> Self {
        Self {
            place: Some(event.place),
            event_type: Some(event.event_type),
            ..Self::new(rule, found, wanted)
        }
    }

    pub(super) fn rejected() -> Self {
        Self::new(
            BreachRule::Rejected,
            "a log",
            "none: the policy is reject-all",
        )
    }

    pub(super) fn not_proven(pcrs: PcrSet) -> Self {
        let found = format!("PCR {pcrs} are not quoted");
        Self {
            pcrs,
            ..Self::new(
                BreachRule::NotProven,
                &found,
                "every PCR that the policy judges, in one bank",
            )
        }
    }

    /// The PCR concerned.
    pub fn pcr(&self) -> Option<PcrIndex> {
        let of_event = self.place.and_then(|place| place.pcr);
        of_event.or_else(|| self.pcrs.iter().next())
    }
}

/// Escaped and shortened: event content is the sender's. (X07)
fn shown(text: &str) -> Box<str> {
    let mut out = String::new();
    let mut left = MB_POLICY_SHOWN_MAX;
    for character in text.chars() {
        if left == 0 {
            out.push('…');
            break;
        }
        left = left.saturating_sub(1);
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out.into()
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}")?;
            if let Some(event_type) = self.event_type {
                write!(f, ", {event_type}")?;
            }
            f.write_str(": ")?;
        }
        write!(
            f,
            "found {}; the measured boot policy wants {}",
            self.found, self.expected
        )
    }
}

/// Breaches, as many as are told.
#[derive(Debug, Default)]
pub(super) struct Breaches(Vec<Breach>);

impl Breaches {
    pub(super) fn push(&mut self, breach: Breach) {
        if self.0.len() < MB_POLICY_FINDINGS_MAX {
            self.0.push(breach);
        }
    }

    /// Nothing was broken, or what was.
    pub(super) fn into_result(self) -> Result<(), Vec<Breach>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0)
        }
    }
}
