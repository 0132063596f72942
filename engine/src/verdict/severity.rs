//! How grave a failure is, in Keylime's terms: event ids, labels, and the policy between them.
//!
//! Source: Keylime 7.14 `keylime/failure.py`, `keylime/ima/ima.py`, `keylime/tpm/tpm_main.py`.

use regex::{Regex, RegexBuilder};
use thiserror::Error;

use super::Code;
use crate::limits::{
    SEVERITY_LABELS_MAX, SEVERITY_PATTERN_BYTES_MAX, SEVERITY_PATTERN_COMPILED_BYTES_MAX,
    SEVERITY_RULES_MAX,
};

/// The labels of Keylime's default, the least grave first.
pub const SEVERITY_LABELS: [&str; 7] = [
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
];

/// What Keylime calls an agent that gives no evidence.
pub const NOT_REACHABLE: &str = "internal.verifier.not_reachable";

/// Keylime's `event_id` of a failure. Where it has none, the code's own text stands.
pub fn event_id(code: Code) -> &'static str {
    let text = code.as_str();
    match code {
        Code::PcrValueNotAllowed => "pcr_validation.invalid_pcr",
        Code::PcrNotAttested => "pcr_validation.missing_pcrs",
        Code::UefiPcrMismatch => "measured_boot.invalid_pcr",
        Code::ImaPcrMismatch => "ima.pcr_mismatch",
        Code::ImaTemplateHash => "ima.validation.ima_hash",
        Code::ImaWrongPcr => "ima.validation.ima_pcr",
        Code::ImaMalformed => "ima.parser.entry",
        Code::ImaViolation => "ima.validation.tomtou",
        Code::ImaPathNotListed => "ima.validation.ima-ng.not_in_allowlist",
        Code::ImaDigestNotListed => "ima.validation.ima-ng.runtime_policy_hash",
        Code::ImaSigInvalid => "ima.validator.ima-sig.invalid_signature",
        Code::UefiPolicyRejected => "measured_boot.policy_reject-all",
        _ if text.starts_with("uefi.policy_") => "measured_boot.policy_example",
        _ if text.starts_with("quote.") || text.starts_with("time.") => {
            "qoute_validation.quote_validation"
        }
        _ if text.starts_with("uefi.") => "measured_boot.parser.events",
        _ => text,
    }
}

/// Whether what comes after the failure was looked at all the same: Keylime's `recoverable`. What is
/// wrong with keys, quotes, clocks and identities ends an appraisal.
pub fn is_recoverable(code: Code) -> bool {
    let text = code.as_str();
    let policy_fails = ["ima.", "uefi."];
    matches!(
        code,
        Code::PcrValueNotAllowed | Code::PcrNotAttested | Code::PcrBootNotQuoted
    ) || policy_fails.iter().any(|stage| text.starts_with(stage))
}

/// How grave something is: the place of its label, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Severity(u8);

impl Severity {
    /// The number that Keylime's `severity_level` shows.
    pub const fn level(self) -> u8 {
        self.0
    }
}

/// A rule: what its pattern matches as a whole has this label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SeverityRule {
    /// A regular expression over event ids.
    pub event_id: String,
    /// One of the labels.
    pub severity_label: String,
}

/// Why labels and rules are none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SeverityError {
    /// No label, too many, or an empty one.
    #[error("there must be 1 to {SEVERITY_LABELS_MAX} labels, and none of them empty")]
    Labels,
    /// A label twice: its level would be two.
    #[error("label {0:?} is there twice")]
    Twice(String),
    /// Too many rules.
    #[error("there must be at most {SEVERITY_RULES_MAX} rules")]
    Rules,
    /// A rule names a label that is not among the labels.
    #[error("rule {rule} has label {label:?}, which is none of the labels")]
    Label {
        /// The rule, counted from 1.
        rule: usize,
        /// What it names.
        label: String,
    },
    /// A pattern is longer than any that is read.
    #[error("the pattern of rule {rule} is longer than {SEVERITY_PATTERN_BYTES_MAX} bytes")]
    TooLong {
        /// The rule, counted from 1.
        rule: usize,
    },
    /// A pattern is no regular expression that is matched in linear time.
    #[error("the pattern of rule {rule}: {why}")]
    Pattern {
        /// The rule, counted from 1.
        rule: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Labels, and which event has which.
#[derive(Debug, Clone)]
pub struct SeverityPolicy {
    labels: Vec<String>,
    rules: Vec<(Regex, Severity)>,
}

impl Default for SeverityPolicy {
    /// Keylime's: everything has the gravest of seven labels.
    fn default() -> Self {
        Self {
            labels: SEVERITY_LABELS.map(str::to_owned).to_vec(),
            rules: Vec::new(),
        }
    }
}

impl SeverityPolicy {
    /// Reads labels, the least grave first, and rules, of which the first that matches counts. What
    /// none matches has the gravest label.
    ///
    /// # Errors
    /// [`SeverityError`].
    pub fn new(labels: &[String], rules: &[SeverityRule]) -> Result<Self, SeverityError> {
        let is_counted = (1..=SEVERITY_LABELS_MAX).contains(&labels.len());
        if !is_counted || labels.iter().any(String::is_empty) {
            return Err(SeverityError::Labels);
        }
        for (place, label) in labels.iter().enumerate() {
            if labels
                .iter()
                .skip(place.saturating_add(1))
                .any(|it| it == label)
            {
                return Err(SeverityError::Twice(label.clone()));
            }
        }
        if rules.len() > SEVERITY_RULES_MAX {
            return Err(SeverityError::Rules);
        }
        let mut read = Vec::with_capacity(rules.len());
        for (rule, given) in (1_usize..).zip(rules) {
            let place = labels.iter().position(|it| *it == given.severity_label);
            let level = place.and_then(|place| u8::try_from(place).ok());
            let level = level.ok_or_else(|| SeverityError::Label {
                rule,
                label: given.severity_label.clone(),
            })?;
            read.push((pattern(&given.event_id, rule)?, Severity(level)));
        }
        Ok(Self {
            labels: labels.to_vec(),
            rules: read,
        })
    }

    /// The gravest that there is.
    pub fn top(&self) -> Severity {
        let last = self.labels.len().saturating_sub(1);
        Severity(u8::try_from(last).unwrap_or(u8::MAX))
    }

    /// How grave a failure is. One that ended its appraisal is always of the gravest.
    pub fn of(&self, code: Code) -> Severity {
        match is_recoverable(code) {
            true => self.of_event(event_id(code)),
            false => self.top(),
        }
    }

    /// How grave an event is that the rules name.
    pub fn of_event(&self, event_id: &str) -> Severity {
        let mut rules = self.rules.iter();
        let found = rules.find(|(pattern, _)| pattern.is_match(event_id));
        found.map_or_else(|| self.top(), |(_, severity)| *severity)
    }

    /// The label of a severity of this policy.
    pub fn label(&self, severity: Severity) -> &str {
        let label = self.labels.get(usize::from(severity.0));
        label.or(self.labels.last()).map_or("", String::as_str)
    }
}

fn pattern(text: &str, rule: usize) -> Result<Regex, SeverityError> {
    if text.len() > SEVERITY_PATTERN_BYTES_MAX {
        return Err(SeverityError::TooLong { rule });
    }
    let wrong = |error: regex::Error| SeverityError::Pattern {
        rule,
        why: error.to_string(),
    };
    // By itself first: what closes the group below is no expression.
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(SEVERITY_PATTERN_COMPILED_BYTES_MAX)
            .build()
            .map_err(wrong)
    };
    build(text)?;
    build(&format!(r"\A(?:{text})\z"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn policy(labels: &[&str], rules: &[[&str; 2]]) -> Result<SeverityPolicy, SeverityError> {
        let labels: Vec<String> = labels.iter().map(|&it| it.to_owned()).collect();
        let rules: Vec<SeverityRule> = rules
            .iter()
            .map(|[event_id, label]| SeverityRule {
                event_id: (*event_id).to_owned(),
                severity_label: (*label).to_owned(),
            })
            .collect();
        SeverityPolicy::new(&labels, &rules)
    }

    #[test]
    fn without_rules_everything_is_an_emergency() {
        let policy = SeverityPolicy::default();
        for code in Code::ALL {
            assert_eq!(policy.of(*code).level(), 6, "{code:?}");
            assert_eq!(policy.label(policy.of(*code)), "emergency");
        }
    }

    #[test]
    fn the_first_rule_that_matches_the_whole_id_counts() {
        let policy = policy(
            &["low", "mid", "high"],
            &[
                [r"ima\.validation\.ima-ng\..*", "low"],
                [r"ima\..*", "mid"],
                ["pcr_validation", "low"],
                ["pcr_validation.invalid_pcr|other", "mid"],
            ],
        )
        .unwrap();
        let label = |code| policy.label(policy.of(code));
        assert_eq!(label(Code::ImaPathNotListed), "low");
        assert_eq!(label(Code::ImaPcrMismatch), "mid");
        // A part of an id is not the id, and an alternative has both ends.
        assert_eq!(label(Code::PcrNotAttested), "high");
        assert_eq!(label(Code::PcrValueNotAllowed), "mid");
        assert_eq!(policy.label(policy.of_event("pcr_validation")), "low");
        assert_eq!(policy.label(policy.of_event("pcr_validation\n")), "high");
    }

    #[test]
    fn what_ended_its_appraisal_has_the_gravest_label_whatever_the_rules_say() {
        let policy = policy(&["low", "high"], &[[".*", "low"]]).unwrap();
        for code in [Code::QuoteSignature, Code::TimeRollback, Code::AkAttributes] {
            assert!(!is_recoverable(code));
            assert_eq!(policy.of(code), policy.top(), "{code:?}");
        }
        assert_eq!(policy.of(Code::ImaPathNotListed).level(), 0);
    }

    #[test]
    fn l09_what_is_no_policy_is_said() {
        assert_eq!(policy(&[], &[]).unwrap_err(), SeverityError::Labels);
        assert_eq!(policy(&["a", ""], &[]).unwrap_err(), SeverityError::Labels);
        let twice = policy(&["a", "b", "a"], &[]).unwrap_err();
        assert_eq!(twice, SeverityError::Twice("a".to_owned()));
        let unknown = policy(&["a"], &[["x", "a"], ["x", "b"]]).unwrap_err();
        assert!(matches!(unknown, SeverityError::Label { rule: 2, .. }));
        let long = "x".repeat(SEVERITY_PATTERN_BYTES_MAX + 1);
        let long = policy(&["a"], &[[&long, "a"]]).unwrap_err();
        assert_eq!(long, SeverityError::TooLong { rule: 1 });
        for broken in [
            "(",
            ")|(",
            "x)|(?:y",
            r"(?=ima)",
            r"(a)\1",
            "(?:.{1000}){1000}",
        ] {
            let error = policy(&["a"], &[[broken, "a"]]).unwrap_err();
            assert!(
                matches!(error, SeverityError::Pattern { rule: 1, .. }),
                "{broken}"
            );
        }
        let many = vec![["x", "a"]; SEVERITY_RULES_MAX + 1];
        assert_eq!(policy(&["a"], &many).unwrap_err(), SeverityError::Rules);
        let labels: Vec<String> = (0..=SEVERITY_LABELS_MAX).map(|it| it.to_string()).collect();
        let error = SeverityPolicy::new(&labels, &[]).unwrap_err();
        assert_eq!(error, SeverityError::Labels);
    }
}
