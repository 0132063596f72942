//! The agents that a relay speaks for, and what each was asked.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{ChallengeId, Intake, SessionId, ToAgent};

use crate::measures;

/// One agent behind the relay.
#[derive(Debug, Clone)]
pub(super) struct Relayed {
    pub(super) session: SessionId,
    pub(super) agent: AgentId,
    pub(super) client_key_sha256: [u8; 32],
    /// Whether its shard has welcomed it: its record names this relay.
    pub(super) is_welcome: bool,
    asked: Asked,
}

/// What the relay may send for an agent now, beside its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Nothing.
    Nothing,
    /// Evidence for this challenge, which may be announced once.
    Evidence {
        challenge: ChallengeId,
        is_announced: bool,
    },
    /// So many pieces of the list of this challenge, of which so many bytes are to come.
    Pieces {
        challenge: ChallengeId,
        pieces: u32,
        bytes: u64,
    },
}

impl Relayed {
    pub(super) const fn new(
        session: SessionId,
        agent: AgentId,
        client_key_sha256: [u8; 32],
    ) -> Self {
        Self {
            session,
            agent,
            client_key_sha256,
            is_welcome: false,
            asked: Asked::Nothing,
        }
    }
}

/// All of them. Dropping this tells the intake that they are gone.
pub(super) struct Agents {
    intake: Arc<dyn Intake>,
    by_number: Mutex<HashMap<u64, Relayed>>,
}

/// The relay gave a number that it has given to another agent.
pub(super) struct Taken;

impl Agents {
    pub(super) fn new(intake: Arc<dyn Intake>) -> Self {
        Self {
            intake,
            by_number: Mutex::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all().len()
    }

    pub(super) fn add(&self, number: u64, relayed: Relayed) -> Result<(), Taken> {
        match self.all().entry(number) {
            Entry::Occupied(_) => Err(Taken),
            Entry::Vacant(vacant) => {
                vacant.insert(relayed);
                measures::relayed_agents(1.0);
                Ok(())
            }
        }
    }

    /// Who has this number.
    pub(super) fn get(&self, number: u64) -> Option<Relayed> {
        self.all().get(&number).cloned()
    }

    /// Lets go of an agent that the intake knows to be gone, or never knew.
    pub(super) fn forget(&self, number: u64) -> Option<Relayed> {
        let gone = self.all().remove(&number);
        if gone.is_some() {
            measures::relayed_agents(-1.0);
        }
        gone
    }

    /// Lets go of an agent, and tells the intake.
    pub(super) fn disconnect(&self, number: u64) {
        if let Some(gone) = self.forget(number) {
            self.intake.disconnected(gone.session, &gone.agent);
        }
    }

    /// Notes what an agent is told; false when there is no such agent any more.
    pub(super) fn told(&self, number: u64, message: &ToAgent) -> bool {
        let mut all = self.all();
        let Some(relayed) = all.get_mut(&number) else {
            return false;
        };
        match message {
            ToAgent::Challenge(challenge) => {
                relayed.asked = Asked::Evidence {
                    challenge: challenge.id,
                    is_announced: false,
                };
            }
            ToAgent::More(id) => {
                if let Asked::Pieces {
                    challenge, pieces, ..
                } = &mut relayed.asked
                    && challenge == id
                {
                    *pieces = pieces.saturating_add(1);
                }
            }
            ToAgent::Welcome { .. } => relayed.is_welcome = true,
            ToAgent::Refused { .. } => {
                drop(all);
                self.disconnect(number);
            }
            ToAgent::Verdict(..) => {}
        }
        true
    }

    /// Who answers, if the evidence of this challenge is what was asked for. Of its list, so many
    /// bytes follow in pieces.
    pub(super) fn answers(
        &self,
        number: u64,
        answered: ChallengeId,
        bytes: u64,
    ) -> Option<(SessionId, AgentId)> {
        let mut all = self.all();
        let relayed = all.get_mut(&number)?;
        match relayed.asked {
            Asked::Evidence { challenge, .. } if challenge == answered => {}
            _ => return None,
        }
        relayed.asked = match bytes {
            0 => Asked::Nothing,
            bytes => Asked::Pieces {
                challenge: answered,
                pieces: 0,
                bytes,
            },
        };
        Some((relayed.session, relayed.agent.clone()))
    }

    /// Whose evidence is announced, if it was asked for and not announced before.
    pub(super) fn announces(
        &self,
        number: u64,
        announced: ChallengeId,
    ) -> Option<(SessionId, AgentId)> {
        let mut all = self.all();
        let relayed = all.get_mut(&number)?;
        match &mut relayed.asked {
            Asked::Evidence {
                challenge,
                is_announced,
            } if *challenge == announced && !*is_announced => *is_announced = true,
            _ => return None,
        }
        Some((relayed.session, relayed.agent.clone()))
    }

    /// Whose piece this is, if it was asked for and is no longer than what is to come.
    pub(super) fn sends_piece(
        &self,
        number: u64,
        of: ChallengeId,
        length: usize,
    ) -> Option<(SessionId, AgentId)> {
        let mut all = self.all();
        let relayed = all.get_mut(&number)?;
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        match &mut relayed.asked {
            Asked::Pieces {
                challenge,
                pieces,
                bytes,
            } if *challenge == of && *pieces > 0 && length <= *bytes => {
                *pieces = pieces.saturating_sub(1);
                *bytes = bytes.saturating_sub(length);
            }
            _ => return None,
        }
        Some((relayed.session, relayed.agent.clone()))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Relayed>> {
        self.by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        let all = std::mem::take(&mut *self.all());
        for relayed in all.values() {
            measures::relayed_agents(-1.0);
            self.intake.disconnected(relayed.session, &relayed.agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use rat_engine::evidence::{Busy, Challenge, Hello, Nonce, Peer, Submission};
    use rat_engine::hash::HashAlg;
    use rat_engine::pcr::PcrSet;
    use rat_engine::tpm::PcrSelection;

    use super::*;

    struct Deaf;

    impl Intake for Deaf {
        fn connected(&self, _: SessionId, _: Hello, _: Box<dyn Peer>) -> Result<(), Busy> {
            Ok(())
        }
        fn logs_arrive(
            &self,
            _: SessionId,
            _: &AgentId,
            _: ChallengeId,
            _: u64,
        ) -> Result<(), Busy> {
            Ok(())
        }
        fn evidence(&self, _: SessionId, _: &AgentId, _: Submission) -> Result<(), Busy> {
            Ok(())
        }
        fn log_piece(
            &self,
            _: SessionId,
            _: &AgentId,
            _: ChallengeId,
            _: Vec<u8>,
        ) -> Result<(), Busy> {
            Ok(())
        }
        fn disconnected(&self, _: SessionId, _: &AgentId) {}
    }

    fn challenge(id: u8) -> ToAgent {
        ToAgent::Challenge(Challenge {
            id: ChallengeId([id; 16]),
            nonce: Nonce([0; 32]),
            selection: PcrSelection::new([(HashAlg::Sha256, PcrSet::BOOT)]).unwrap(),
            ima_from_entry: None,
            boot_log: false,
            deadline_ms: 1,
        })
    }

    #[test]
    fn q16_a_relay_sends_only_what_was_asked_for() {
        let agents = Agents::new(Arc::new(Deaf));
        let agent = AgentId::parse("machine-1").unwrap();
        let add = |number| {
            let relayed = Relayed::new(SessionId(number), agent.clone(), [0; 32]);
            agents.add(number, relayed).is_ok()
        };
        assert!(add(1) && !add(1) && add(2));
        let [first, second] = [ChallengeId([1; 16]), ChallengeId([2; 16])];
        assert!(agents.answers(1, first, 0).is_none(), "nothing was asked");
        assert!(agents.told(1, &challenge(1)));
        assert!(agents.answers(2, first, 0).is_none(), "of another");
        assert!(agents.answers(1, second, 0).is_none(), "about another");
        assert!(agents.announces(1, first).is_some());
        assert!(agents.announces(1, first).is_none(), "once");
        assert!(agents.sends_piece(1, first, 1).is_none(), "before evidence");
        assert!(agents.answers(1, first, 10).is_some());
        assert!(agents.answers(1, first, 10).is_none(), "once");
        assert!(agents.sends_piece(1, first, 1).is_none(), "not asked for");
        agents.told(1, &ToAgent::More(first));
        assert!(agents.sends_piece(1, first, 11).is_none(), "too long");
        assert!(agents.sends_piece(1, first, 6).is_some());
        assert!(agents.sends_piece(1, first, 1).is_none(), "one for each");
        agents.told(1, &ToAgent::More(first));
        assert!(
            agents.sends_piece(1, first, 5).is_none(),
            "more than was announced"
        );
        assert!(agents.sends_piece(1, first, 4).is_some());
        agents.disconnect(1);
        assert!(!agents.told(1, &challenge(2)));
        assert_eq!(agents.len(), 1);
    }
}
