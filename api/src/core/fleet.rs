//! The agents as they are served now, in memory, by whoever drives the shards.

use std::future::Future;
use std::pin::Pin;

use rat_engine::agent_id::AgentId;
use rat_engine::hash::Digest;
use rat_engine::shard::{AgentState, EffectiveStatus};
use rat_store::StoredAgent;
use thiserror::Error;

/// What the shards know of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What relying parties see.
    pub status: EffectiveStatus,
    /// The committed state.
    pub state: AgentState,
}

/// How far a policy has been held against the agents of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Agents that were judged in full under it: they passed, or they failed under it.
    pub judged: u64,
    /// The group's agents.
    pub agents: u64,
}

impl Coverage {
    /// Counts one more agent of the group, in this state.
    pub fn count(&mut self, state: &AgentState, policy: Option<&Digest>) {
        self.agents = self.agents.saturating_add(1);
        let failed_under = state.failure.as_ref().map(|failure| &failure.under_policy);
        let under = [
            state.passed_under.as_ref(),
            failed_under.and_then(Option::as_ref),
        ];
        if policy.is_some() && under.contains(&policy) {
            self.judged = self.judged.saturating_add(1);
        }
    }
}

/// The shards do not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the agents' shards do not answer")]
pub struct FleetUnavailable;

/// An answer that comes later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, FleetUnavailable>> + Send + 'a>>;

/// The driven shards.
pub trait Fleet: Send + Sync {
    /// Serves this agent from now on, as it was stored; an older record of it is replaced.
    fn enrolled(&self, agent: StoredAgent) -> Answer<'_, ()>;

    /// What is known of each of these agents; `None` for one that no shard serves.
    fn seen(&self, agents: Vec<AgentId>) -> Answer<'_, Vec<Option<Seen>>>;

    /// Reads a group from the store again: its settings, or what is in its slots, changed.
    fn group_changed(&self, slug: String) -> Answer<'_, ()>;

    /// Has an agent's failure taken back, as soon as nothing of it is being judged. It must pass
    /// from the first entry before it is trusted. (S09)
    fn clear(&self, agent: AgentId) -> Answer<'_, ()>;

    /// Serves an agent no longer. When this is answered, what was on its way to the store about it
    /// is there. (S16)
    fn remove(&self, agent: AgentId) -> Answer<'_, ()>;

    /// The same for a moment, in which the agent's record is changed; [`enrolled`](Self::enrolled)
    /// ends it.
    fn set_aside(&self, agent: AgentId) -> Answer<'_, ()>;

    /// How far this policy has been held against a group's agents.
    fn coverage(&self, slug: String, policy: Option<Digest>) -> Answer<'_, Coverage>;
}

#[cfg(test)]
mod tests {
    use rat_engine::hash::HashAlg;
    use rat_engine::shard::Failure;
    use rat_engine::verdict::Code;

    use super::*;

    #[test]
    fn l07_an_agent_is_judged_when_it_passed_or_failed_under_this_policy() {
        let (policy, other) = (digest(b"policy"), digest(b"other"));
        let passed = |under| AgentState {
            passed_under: under,
            ..AgentState::default()
        };
        let failed = |under| AgentState {
            failure: Some(Failure {
                code: Code::ImaPathNotListed,
                detail: String::new(),
                entry: None,
                path: None,
                digest: None,
                at_unix_ms: 1,
                under_policy: under,
            }),
            ..AgentState::default()
        };
        for (state, judged) in [
            (passed(Some(policy)), 1),
            (passed(Some(other)), 0),
            (passed(None), 0),
            (failed(Some(policy)), 1),
            (failed(Some(other)), 0),
            (failed(None), 0),
        ] {
            let mut coverage = Coverage::default();
            coverage.count(&state, Some(&policy));
            assert_eq!(coverage, Coverage { judged, agents: 1 }, "{state:?}");
            // Nothing is judged where nothing is enforced.
            let mut coverage = Coverage::default();
            coverage.count(&state, None);
            assert_eq!(
                coverage,
                Coverage {
                    judged: 0,
                    agents: 1
                }
            );
        }
    }

    fn digest(text: &[u8]) -> Digest {
        rat_engine::crypto::digest(HashAlg::Sha256, text)
    }
}
