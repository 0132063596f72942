//! Agents that answer as they should not.

use std::sync::Arc;
use std::time::Duration;

use rat_agent::run::RunError;
use rat_engine::evidence::Answer;
use rat_engine::hash::Digest;
use rat_engine::pcr::PcrValues;
use rat_transport::quic::client::{ClientError, EvidenceParts, Incoming};
use tokio::time::sleep;

use super::flood;
use super::visitor::{Visit, Visitor};
use crate::misdeeds::{Conduct, Told};

/// How much later than its deadline late evidence is sent.
const TOO_LATE: Duration = Duration::from_millis(500);
/// How long one that was sent away stays away, whatever it was told.
const AWAY: Duration = Duration::from_secs(1);
/// The same for one that floods.
const HARDLY_AWAY: Duration = Duration::from_millis(10);

/// Connections of one that floods, after which it is silent.
const FLOODS_MAX: u64 = 10_000;

/// An agent that misbehaves.
pub(super) struct Misbehaving {
    visitor: Visitor,
    conduct: Conduct,
    told: Arc<Told>,
    /// Misdeeds so far.
    done: u64,
    earlier: Option<Earlier>,
    /// Whether the server took evidence of it that was as it should be.
    has_proved: bool,
}

/// A quote that was sent before.
#[derive(Clone)]
struct Earlier {
    quote: Vec<u8>,
    signature: Vec<u8>,
    pcr_values: PcrValues,
}

/// What was sent, and what came back.
enum Sent {
    AsItShould,
    Misdeed,
}

impl Misbehaving {
    pub(super) fn new(visitor: Visitor, conduct: Conduct, told: Arc<Told>) -> Self {
        Self {
            visitor,
            conduct,
            told,
            done: 0,
            earlier: None,
            has_proved: false,
        }
    }

    /// Misbehaves until this is dropped, and comes back whenever the connection ended.
    pub(super) async fn stay(&mut self) {
        while self.conduct != Conduct::Flooding || self.done < FLOODS_MAX {
            if let Err(error) = self.connection(u64::MAX).await {
                self.told.ended(self.conduct, &error);
            }
            sleep(match self.conduct {
                Conduct::Flooding => HARDLY_AWAY,
                _ => AWAY,
            })
            .await;
        }
    }

    /// Connects, misbehaves once, and leaves.
    pub(super) async fn visit(&mut self) {
        if let Err(error) = self.connection(1).await {
            self.told.ended(self.conduct, &error);
        }
    }

    /// One connection, of so many misdeeds at most.
    async fn connection(&mut self, most: u64) -> Result<(), RunError> {
        if self.conduct == Conduct::Flooding {
            self.done = self.done.wrapping_add(1);
            return flood::run(&self.visitor, &self.told, self.done).await;
        }
        let visit = self.visitor.connect().await?;
        self.told.welcome(self.conduct);
        let mut left = most;
        while left > 0 {
            let incoming = visit.challenged().await?;
            match self.answer(&visit, incoming).await {
                Ok(()) => {}
                // The server may have refused this answer alone; the next wait tells.
                Err(error @ RunError::Client(ClientError::Refused { .. } | ClientError::Lost)) => {
                    self.told.refused(self.conduct, &error);
                }
                Err(error) => return Err(error),
            }
            left = left.saturating_sub(1);
        }
        visit.connection.close();
        Ok(())
    }

    /// Answers a challenge.
    async fn answer(&mut self, visit: &Visit, incoming: Incoming) -> Result<(), RunError> {
        let deadline = Duration::from_millis(incoming.challenge.deadline_ms.into());
        let (challenge, binding) = (incoming.challenge, incoming.binding);
        let made = self.visitor.evidence(challenge, binding, &visit.answering);
        let mut parts = made.await?.parts;
        let sent = self.spoil(&mut parts);
        match sent {
            Sent::AsItShould => self.told.honest(self.conduct),
            Sent::Misdeed => {
                self.done = self.done.wrapping_add(1);
                self.told.sent(self.conduct);
            }
        }
        if self.conduct == Conduct::Late {
            sleep(deadline.saturating_add(TOO_LATE)).await;
        }
        let answer = incoming.answer(parts).await?;
        self.hear(&sent, &answer);
        Ok(())
    }

    fn hear(&mut self, sent: &Sent, answer: &Answer) {
        match sent {
            Sent::AsItShould => self.has_proved |= answer.code.is_none(),
            Sent::Misdeed => self.told.verdict(self.conduct, answer, self.has_proved),
        }
    }

    /// Makes of good evidence what this agent sends.
    fn spoil(&mut self, parts: &mut EvidenceParts) -> Sent {
        match self.conduct {
            Conduct::Tampered if self.done.is_multiple_of(2) => {
                // The last byte of a signature is one of its number, in either scheme.
                if let Some(last) = parts.signature.last_mut() {
                    *last ^= 1;
                }
            }
            Conduct::Tampered => parts.pcr_values = altered(&parts.pcr_values),
            Conduct::Replaying => match self.earlier.clone() {
                None => {
                    self.earlier = Some(Earlier {
                        quote: parts.quote.clone(),
                        signature: parts.signature.clone(),
                        pcr_values: parts.pcr_values.clone(),
                    });
                    return Sent::AsItShould;
                }
                Some(earlier) => {
                    parts.quote = earlier.quote;
                    parts.signature = earlier.signature;
                    parts.pcr_values = earlier.pcr_values;
                }
            },
            Conduct::Honest | Conduct::Late | Conduct::Flooding => {}
        }
        Sent::Misdeed
    }
}

/// The values with one bit of the first changed.
fn altered(values: &PcrValues) -> PcrValues {
    let mut altered = PcrValues::new();
    for (nth, (bank, pcr, value)) in values.iter().enumerate() {
        let mut bytes = value.as_bytes().to_vec();
        if let (0, Some(first)) = (nth, bytes.first_mut()) {
            *first ^= 1;
        }
        // A digest of the same length is one of the same bank.
        altered.insert(pcr, Digest::new(bank, &bytes).unwrap_or(value));
    }
    altered
}
