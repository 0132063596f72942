//! Agents that do not as they should: how many, which, and what the server says to them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use rat_agent::run::RunError;
use rat_engine::crypto::digest;
use rat_engine::evidence::Answer;
use rat_engine::hash::HashAlg;
use rat_engine::shard::EffectiveStatus;
use rat_engine::verdict::Code;
use rat_transport::quic::client::ClientError;
use serde::Serialize;
use thiserror::Error;

use crate::output::Rows;
use crate::report::{Troubles, count_answer};

/// A share of a fleet, to a hundredth of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percent(u32);

/// Why a text is no percentage.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a percentage is a number from 0 to 100, with two digits after the point at most")]
pub struct PercentError;

const HUNDREDTHS: u32 = 100;

impl Percent {
    /// So many of these agents: the nearest number, and at least one for more than nothing.
    pub fn of(self, agents: usize) -> usize {
        let whole = usize::try_from(HUNDREDTHS.saturating_mul(100)).unwrap_or(usize::MAX);
        let share = usize::try_from(self.0).unwrap_or(usize::MAX);
        let half = whole.div_ceil(2);
        let rounded = agents.saturating_mul(share).saturating_add(half);
        let least = usize::from(share > 0);
        rounded.checked_div(whole).unwrap_or(0).max(least)
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || part.len() > 2 {
            return Err(PercentError);
        }
        let number = |text: &str| text.parse::<u32>().map_err(|_| PercentError);
        let part = number(&format!("{part:0<2}"))?;
        let hundredths = number(whole)?
            .checked_mul(HUNDREDTHS)
            .and_then(|whole| whole.checked_add(part));
        hundredths
            .filter(|share| *share <= HUNDREDTHS.saturating_mul(100))
            .map(Self)
            .ok_or(PercentError)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.checked_div(HUNDREDTHS).unwrap_or(0);
        match self.0.checked_rem(HUNDREDTHS).unwrap_or(0) {
            0 => write!(f, "{whole}"),
            part => write!(f, "{whole}.{part:02}"),
        }
    }
}

/// How an agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conduct {
    /// As it should.
    Honest,
    /// Its quotes were tampered with: in turn the signature, or a PCR value.
    Tampered,
    /// It answers after the challenge's deadline.
    Late,
    /// It answers once as it should, and to every later challenge with that quote again.
    Replaying,
    /// It sends what nobody asked for, or the same again and again, as fast as it may.
    Flooding,
}

impl Conduct {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Tampered => "tampered",
            Self::Late => "late",
            Self::Replaying => "replaying",
            Self::Flooding => "flooding",
        }
    }
}

/// How many agents misbehave, and how.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Agents that misbehave")]
pub struct MisbehaviourOptions {
    /// Of the agents, so many send quotes whose signature or PCR values were changed
    #[arg(long, value_name = "PERCENT", default_value_t)]
    pub tampered: Percent,
    /// So many answer after the deadline
    #[arg(long, value_name = "PERCENT", default_value_t)]
    pub late: Percent,
    /// So many answer once, and then send that quote again
    #[arg(long, value_name = "PERCENT", default_value_t)]
    pub replaying: Percent,
    /// So many send unasked or repeated evidence as fast as they may
    #[arg(long, value_name = "PERCENT", default_value_t)]
    pub flooding: Percent,
    /// Which agents these are follows from this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
    /// Misbehave also towards a server that is not on a loopback address: it is yours, and nobody
    /// else is on the way to it
    #[arg(long)]
    pub beyond_loopback: bool,
}

impl MisbehaviourOptions {
    /// Whether any agent misbehaves.
    pub fn is_some(&self) -> bool {
        self.shares().iter().any(|(_, share)| share.of(1) > 0)
    }

    const fn shares(&self) -> [(Conduct, Percent); 4] {
        [
            (Conduct::Tampered, self.tampered),
            (Conduct::Late, self.late),
            (Conduct::Replaying, self.replaying),
            (Conduct::Flooding, self.flooding),
        ]
    }

    /// How each of these agents behaves. The same seed gives the same; the first `honest` of them
    /// never misbehave.
    ///
    /// # Errors
    /// When there are not as many agents as are to misbehave.
    pub fn conducts(&self, agents: usize, honest: usize) -> Result<Vec<Conduct>> {
        let mut order: Vec<usize> = (honest..agents).collect();
        order.sort_by_cached_key(|nth| {
            let nth = u64::try_from(*nth).unwrap_or(u64::MAX);
            let drawn = [self.seed.to_be_bytes(), nth.to_be_bytes()].concat();
            digest(HashAlg::Sha256, &drawn).as_bytes().to_vec()
        });
        let mut conducts = vec![Conduct::Honest; agents];
        let mut order = order.into_iter();
        for (conduct, share) in self.shares() {
            for _ in 0..share.of(agents) {
                let chosen = order.next().and_then(|nth| conducts.get_mut(nth));
                ensure!(
                    chosen.is_some(),
                    "more agents are to misbehave than there are"
                );
                if let Some(chosen) = chosen {
                    *chosen = conduct;
                }
            }
        }
        Ok(conducts)
    }
}

/// What agents of one kind did, and what the server said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Misdeeds {
    /// Agents of this kind.
    pub agents: usize,
    /// Connections on which they were welcome.
    pub connections: u64,
    /// Quotes that they sent as they should, to have one to send again.
    pub honest: u64,
    /// Misdeeds: pieces of evidence that they sent and should not have.
    pub sent: u64,
    /// Verdicts on these, by the status they say.
    pub by_status: BTreeMap<String, u64>,
    /// Verdicts on these, by code; `-` where there is none.
    pub by_code: BTreeMap<String, u64>,
    /// Misdeeds that had no verdict, by what the server said instead.
    pub refused: BTreeMap<String, u64>,
    /// Connections that the server ended or did not take, by why.
    pub ended: BTreeMap<String, u64>,
    /// Misdeeds that were taken for genuine evidence. Anything but 0 is a fault of the server.
    pub accepted: u64,
}

impl Misdeeds {
    /// Its lines in a table.
    pub fn rows(&self, conduct: Conduct) -> Rows {
        let kind = conduct.as_str();
        let name = |what: &str| format!("{kind}: {what}");
        let mut rows = Rows::default()
            .row(&name("agents"), self.agents)
            .row(&name("connections"), self.connections);
        if self.honest > 0 {
            rows = rows.row(&name("honest"), self.honest);
        }
        rows.row(&name("sent"), self.sent)
            .counts(&name("code"), &self.by_code)
            .counts(&name("status"), &self.by_status)
            .counts(&name("refused"), &self.refused)
            .counts(&name("ended"), &self.ended)
            .row(&name("ACCEPTED"), self.accepted)
    }
}

/// Counts what agents that misbehave do and are told.
#[derive(Debug, Default)]
pub struct Told(Mutex<BTreeMap<Conduct, Kind>>);

#[derive(Debug, Default)]
struct Kind {
    misdeeds: Misdeeds,
    refused: Troubles,
    ended: Troubles,
}

impl Told {
    /// Nothing yet, of agents that behave like this.
    pub fn new(conducts: &[Conduct]) -> Self {
        let told = Self::default();
        for conduct in conducts.iter().filter(|it| **it != Conduct::Honest) {
            told.of(*conduct, |kind| {
                kind.misdeeds.agents = kind.misdeeds.agents.saturating_add(1);
            });
        }
        told
    }

    fn of(&self, conduct: Conduct, change: impl FnOnce(&mut Kind)) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(kinds.entry(conduct).or_default());
    }

    /// Counts a welcome.
    pub fn welcome(&self, conduct: Conduct) {
        self.of(conduct, |Kind { misdeeds, .. }| {
            misdeeds.connections = misdeeds.connections.saturating_add(1);
        });
    }

    /// Counts a quote that is as it should be.
    pub fn honest(&self, conduct: Conduct) {
        self.of(conduct, |Kind { misdeeds, .. }| {
            misdeeds.honest = misdeeds.honest.saturating_add(1);
        });
    }

    /// Counts a misdeed.
    pub fn sent(&self, conduct: Conduct) {
        self.of(conduct, |Kind { misdeeds, .. }| {
            misdeeds.sent = misdeeds.sent.saturating_add(1);
        });
    }

    /// Counts the verdict on a misdeed, of an agent that did or did not prove anything before.
    pub fn verdict(&self, conduct: Conduct, answer: &Answer, has_proved: bool) {
        self.of(conduct, |Kind { misdeeds, .. }| {
            count_answer(&mut misdeeds.by_status, &mut misdeeds.by_code, answer);
            let accepted = u64::from(is_accepted(answer, has_proved));
            misdeeds.accepted = misdeeds.accepted.saturating_add(accepted);
        });
    }

    /// Counts that the server said this to a misdeed, and no verdict.
    pub fn refused(&self, conduct: Conduct, error: &RunError) {
        self.of(conduct, |kind| kind.refused.count(&said(error)));
    }

    /// Counts the end of a connection, or one that was not to be had.
    pub fn ended(&self, conduct: Conduct, error: &RunError) {
        self.of(conduct, |kind| kind.ended.count(&said(error)));
    }

    /// What was counted.
    pub fn report(&self) -> BTreeMap<Conduct, Misdeeds> {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let report = kinds.iter().map(|(conduct, kind)| {
            let misdeeds = Misdeeds {
                refused: kind.refused.by_text().clone(),
                ended: kind.ended.by_text().clone(),
                ..kind.misdeeds.clone()
            };
            (*conduct, misdeeds)
        });
        report.collect()
    }
}

/// Whether a verdict takes a misdeed for genuine: it has nothing to say against the quote, or it
/// trusts an agent that never proved anything. One that did is trusted until that is too old,
/// whatever else is sent in its name. (S13)
const fn is_accepted(answer: &Answer, has_proved: bool) -> bool {
    let trusts = matches!(
        answer.status,
        EffectiveStatus::Trusted | EffectiveStatus::TrustedUnenforced | EffectiveStatus::Authentic
    );
    matches!(answer.code, None | Some(Code::PolicyMissing)) || (trusts && !has_proved)
}

/// The server's stable word, or what happened.
fn said(error: &RunError) -> String {
    match error {
        RunError::Client(ClientError::Refused { reason, .. }) => reason.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> Percent {
        text.parse().unwrap()
    }

    #[test]
    fn shares_are_the_nearest_numbers_and_never_none() {
        for (share, agents, expected) in [
            ("0", 1000, 0),
            ("100", 7, 7),
            ("10", 100, 10),
            ("12.5", 8, 1),
            ("0.01", 100, 1),
            ("33.33", 10, 3),
            ("50", 3, 2),
        ] {
            assert_eq!(percent(share).of(agents), expected, "{share} of {agents}");
            assert_eq!(percent(share).to_string().parse(), Ok(percent(share)));
        }
        for text in ["", "-1", "100.01", "101", "1.234", ".", "1.", "ten", "1e1"] {
            assert_eq!(text.parse::<Percent>(), Err(PercentError), "{text}");
        }
    }

    #[test]
    fn who_misbehaves_follows_from_the_seed() {
        let options = MisbehaviourOptions {
            tampered: percent("10"),
            late: percent("20"),
            flooding: percent("0.5"),
            ..MisbehaviourOptions::default()
        };
        assert!(options.is_some());
        let conducts = options.conducts(100, 1).unwrap();
        assert_eq!(options.conducts(100, 1).unwrap(), conducts);
        let count = |of| conducts.iter().filter(|conduct| **conduct == of).count();
        assert_eq!(
            [Conduct::Tampered, Conduct::Late, Conduct::Flooding].map(count),
            [10, 20, 1]
        );
        assert_eq!(count(Conduct::Honest), 69);
        let others = MisbehaviourOptions { seed: 1, ..options };
        assert_ne!(others.conducts(100, 1).unwrap(), conducts);
    }

    #[test]
    fn the_first_agents_are_honest_and_nobody_is_chosen_twice() {
        let all = MisbehaviourOptions {
            tampered: percent("50"),
            replaying: percent("50"),
            ..MisbehaviourOptions::default()
        };
        for seed in 0..100 {
            let options = MisbehaviourOptions {
                seed,
                ..all.clone()
            };
            let conducts = options.conducts(4, 0).unwrap();
            assert!(!conducts.contains(&Conduct::Honest));
            // Two are to be tampered with and two to replay, of three.
            assert!(options.conducts(4, 1).is_err());
        }
        let none = MisbehaviourOptions::default();
        assert!(!none.is_some());
        assert_eq!(none.conducts(2, 1).unwrap(), [Conduct::Honest; 2]);
    }

    #[test]
    fn what_a_misdeed_must_not_be_told() {
        let accepted = |status, code, has_proved| {
            let answer = Answer {
                status,
                code,
                detail: String::new(),
                next_after_ms: 0,
            };
            is_accepted(&answer, has_proved)
        };
        let (trusted, pending) = (EffectiveStatus::Trusted, EffectiveStatus::Pending);
        assert!(accepted(trusted, None, true));
        assert!(accepted(pending, None, false));
        assert!(accepted(pending, Some(Code::PolicyMissing), false));
        assert!(accepted(trusted, Some(Code::QuoteSignature), false));
        assert!(!accepted(trusted, Some(Code::QuoteNonceMismatch), true));
        assert!(!accepted(pending, Some(Code::QuoteSignature), false));
    }
}
