//! What an operator says of a webhook, checked.

use std::collections::BTreeSet;
use std::time::Duration;

use rat_engine::shard::EffectiveStatus;
use thiserror::Error;

use super::address::Network;
use super::endpoint::{Endpoint, Scheme};
use super::signature::Secret;
use super::trust::Roots;
use crate::limits::{WEBHOOK_NAME_CHARACTERS_MAX, WEBHOOK_NETWORKS_MAX};

/// What a webhook is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Content {
    /// Changes of agents' statuses.
    #[default]
    Status,
    /// Revocations of Keylime's agents, in Keylime's own form.
    Revocation,
}

/// A webhook as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where messages are posted.
    pub url: &'a str,
    /// What it is told.
    pub content: Content,
    /// Groups whose agents it is told of; empty for all.
    pub groups: &'a [String],
    /// Statuses that it is told of when an agent gets them; empty for all.
    pub statuses: &'a [String],
    /// Networks that it may be at although they are not the public Internet.
    pub allow: &'a [String],
    /// Whether it may do without TLS, on a loopback address.
    pub plain_http: bool,
    /// How long one attempt may take, in milliseconds.
    pub timeout_ms: u64,
    /// How often a message is tried.
    pub attempts_max: u64,
    /// How many hours a message is tried for.
    pub give_up_after_hours: u64,
}

/// What is wrong with one member.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{member}: {text}")]
pub struct Fault {
    /// The member.
    pub member: &'static str,
    /// What is wrong with it.
    pub text: String,
}

/// Where a webhook is, what it is told, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    pub(super) content: Content,
    groups: BTreeSet<String>,
    statuses: Vec<EffectiveStatus>,
    pub(super) allowed: Vec<Network>,
    pub(super) timeout: Duration,
    pub(super) attempts_max: u64,
    pub(super) give_up_after_ms: u64,
}

/// A webhook with all that is needed to deliver to it.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub(super) target: Target,
    pub(super) secret: Secret,
    pub(super) roots: Roots,
}

/// From the least to the most that a number may be, with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The least.
    pub min: u64,
    /// What holds when nobody says anything.
    pub default: u64,
    /// The most.
    pub max: u64,
}

/// How long one attempt may take, in milliseconds. A test message must be answered within the time
/// that a request to the server has.
pub const TIMEOUT_MS: Span = Span {
    min: 100,
    default: 10_000,
    max: 20_000,
};
/// How often a message is tried.
pub const ATTEMPTS: Span = Span {
    min: 1,
    default: 100,
    max: 10_000,
};
/// How many hours a message is tried for.
pub const GIVE_UP_AFTER_HOURS: Span = Span {
    min: 1,
    default: 24,
    max: 720,
};
pub(super) const HOUR_MS: u64 = 60 * 60 * 1000;

const ALL_REVOCATIONS: &str = "revocations are told of all of Keylime's agents";

impl Given<'_> {
    /// Whether it leaves out what it is not told of anyway.
    const fn is_filtered_for_nothing(&self) -> bool {
        let has_filters = !self.groups.is_empty() || !self.statuses.is_empty();
        has_filters && matches!(self.content, Content::Revocation)
    }
}

impl Target {
    /// The webhook that this describes.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(given: &Given<'_>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |member, text: String| faults.push(Fault { member, text });
        if !is_name(given.name) {
            let text = format!(
                "must be 1 to {WEBHOOK_NAME_CHARACTERS_MAX} of a-z, 0-9 and -, and begin with none"
            );
            fault("name", text);
        }
        let endpoint = match Endpoint::parse(given.url, given.plain_http) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                fault("url", error.to_string());
                None
            }
        };
        let is_https = |endpoint: &Endpoint| endpoint.scheme == Scheme::Https;
        if given.plain_http && endpoint.as_ref().is_some_and(is_https) {
            fault("plain_http", "stands beside an https:// URL".to_owned());
        }
        if given.is_filtered_for_nothing() {
            fault("content", ALL_REVOCATIONS.to_owned());
        }
        let mut statuses = Vec::new();
        for text in given.statuses {
            let mut all = EffectiveStatus::ALL.into_iter();
            match all.find(|status| status.as_str() == text) {
                Some(status) => statuses.push(status),
                None => fault("statuses", format!("{text:?} is no status")),
            }
        }
        let mut allowed = Vec::new();
        for text in given.allow {
            match text.parse() {
                Ok(network) => allowed.push(network),
                Err(error) => fault("allow", format!("{text:?} {error}")),
            }
        }
        if allowed.len() > WEBHOOK_NETWORKS_MAX {
            fault(
                "allow",
                format!("more than {WEBHOOK_NETWORKS_MAX} networks"),
            );
        }
        for (member, value, span) in [
            ("timeout_ms", given.timeout_ms, TIMEOUT_MS),
            ("attempts_max", given.attempts_max, ATTEMPTS),
            (
                "give_up_after_hours",
                given.give_up_after_hours,
                GIVE_UP_AFTER_HOURS,
            ),
        ] {
            if !(span.min..=span.max).contains(&value) {
                fault(member, format!("must be {} to {}", span.min, span.max));
            }
        }
        match endpoint {
            Some(endpoint) if faults.is_empty() => Ok(Self {
                name: given.name.to_owned(),
                endpoint,
                content: given.content,
                groups: given.groups.iter().cloned().collect(),
                statuses,
                allowed,
                timeout: Duration::from_millis(given.timeout_ms),
                attempts_max: given.attempts_max,
                give_up_after_ms: given.give_up_after_hours.saturating_mul(HOUR_MS),
            }),
            _ => Err(faults),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is told of an agent of this group that gets this status.
    pub(super) fn wants(&self, group: &str, to: EffectiveStatus) -> bool {
        self.content == Content::Status
            && (self.groups.is_empty() || self.groups.contains(group))
            && (self.statuses.is_empty() || self.statuses.contains(&to))
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=WEBHOOK_NAME_CHARACTERS_MAX).contains(&text.len())
        && text.bytes().all(is_plain)
        && !text.starts_with('-')
}

impl Webhook {
    /// A webhook that knows the server by this secret, and that is known by these CAs.
    pub const fn new(target: Target, secret: Secret, roots: Roots) -> Self {
        Self {
            target,
            secret,
            roots,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: Given<'_> = Given {
        name: "ops",
        url: "https://hooks.example.com/ratd",
        content: Content::Status,
        groups: &[],
        statuses: &[],
        allow: &[],
        plain_http: false,
        timeout_ms: TIMEOUT_MS.default,
        attempts_max: ATTEMPTS.default,
        give_up_after_hours: GIVE_UP_AFTER_HOURS.default,
    };

    fn faults(given: &Given<'_>) -> Vec<&'static str> {
        let faults = Target::parse(given).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.member).collect()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn every_mistake_is_named() {
        assert_eq!(faults(&SOUND), [""; 0]);
        for name in ["", "Ops", "a b", "-a", "a/b", "a\n", &"a".repeat(64)] {
            assert_eq!(faults(&Given { name, ..SOUND }), ["name"], "{name:?}");
        }
        let all = Given {
            name: "",
            url: "x",
            content: Content::Status,
            groups: &[],
            statuses: &texts(&["trusted", "broken"]),
            allow: &texts(&["10.0.0.0/8", "10.0.0.1/8", "x"]),
            plain_http: false,
            timeout_ms: 0,
            attempts_max: 0,
            give_up_after_hours: 10_000,
        };
        let expected = [
            "name",
            "url",
            "statuses",
            "allow",
            "allow",
            "timeout_ms",
            "attempts_max",
            "give_up_after_hours",
        ];
        assert_eq!(faults(&all), expected);
        let plain = Given {
            plain_http: true,
            ..SOUND
        };
        assert_eq!(faults(&plain), ["plain_http"]);
        let filtered = Given {
            content: Content::Revocation,
            groups: &texts(&["web"]),
            ..SOUND
        };
        assert_eq!(faults(&filtered), ["content"]);
        let many = vec!["10.0.0.0/8".to_owned(); WEBHOOK_NETWORKS_MAX + 1];
        assert_eq!(
            faults(&Given {
                allow: &many,
                ..SOUND
            }),
            ["allow"]
        );
        for span in [TIMEOUT_MS, ATTEMPTS, GIVE_UP_AFTER_HOURS] {
            assert!(span.min <= span.default && span.default <= span.max);
        }
    }

    #[test]
    fn filters_leave_out_what_they_do_not_name() {
        let given = Given {
            groups: &texts(&["web", "db"]),
            statuses: &texts(&["untrusted", "overdue"]),
            ..SOUND
        };
        let target = Target::parse(&given).unwrap();
        assert!(target.wants("web", EffectiveStatus::Untrusted));
        assert!(target.wants("db", EffectiveStatus::Overdue));
        assert!(!target.wants("mail", EffectiveStatus::Untrusted));
        assert!(!target.wants("web", EffectiveStatus::Trusted));
        let revocations = Target::parse(&Given {
            content: Content::Revocation,
            ..SOUND
        });
        let revocations = revocations.unwrap();
        let all = Target::parse(&SOUND).unwrap();
        for status in EffectiveStatus::ALL {
            assert!(all.wants("mail", status));
            assert!(!revocations.wants("mail", status));
        }
    }
}
