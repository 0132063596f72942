//! The agents as they are served now, in memory, by whoever drives the shards.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{
    AgentRecord, AgentState, AgentView, Coverage, EffectiveStatus, Glance, KeylimeTerms,
    StatusCounts,
};
use rat_store::{KeylimeKind, StoredAgent};
use thiserror::Error;

/// What the shards know of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What was enrolled.
    pub record: Arc<AgentRecord>,
    /// How it is asked, where it is one of Keylime's agents and that is known.
    pub terms: Option<Arc<KeylimeTerms>>,
    /// What relying parties see.
    pub status: EffectiveStatus,
    /// The committed state.
    pub state: AgentState,
    /// When trust ends; earlier than committed when the group's interval became shorter since.
    pub trusted_until_unix_ms: u64,
}

impl From<AgentView> for Seen {
    fn from(view: AgentView) -> Self {
        Self {
            record: view.record,
            terms: view.terms,
            status: view.status,
            state: view.state,
            trusted_until_unix_ms: view.trusted_until_unix_ms,
        }
    }
}

impl Seen {
    /// The least of it.
    pub fn glance(&self) -> Glance {
        Glance::new(self.status, &self.state)
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

    /// What is known of an agent; `None` when no shard serves it.
    fn seen(&self, agent: AgentId) -> Answer<'_, Option<Seen>>;

    /// How each of these agents stands, in their order; `None` for one that no shard serves.
    fn glances(&self, agents: Vec<AgentId>) -> Answer<'_, Vec<Option<Glance>>>;

    /// Reads a group from the store again: its settings, or what is in its slots, changed.
    fn group_changed(&self, slug: String) -> Answer<'_, ()>;

    /// Reads one of Keylime's agents from the store again: what is demanded of it changed, or will
    /// be when it is [`enrolled`](Self::enrolled).
    fn keylime_changed(&self, agent: AgentId) -> Answer<'_, ()>;

    /// The same for every agent that a policy of Keylime's clients judges.
    fn keylime_policy_changed(&self, kind: KeylimeKind, name: String) -> Answer<'_, ()>;

    /// Has an agent's failure taken back, as soon as nothing of it is being judged. It must pass
    /// from the first entry before it is trusted. (S09)
    fn clear(&self, agent: AgentId) -> Answer<'_, ()>;

    /// Serves an agent no longer. When this is answered, what was on its way to the store about it
    /// is there. (S16)
    fn remove(&self, agent: AgentId) -> Answer<'_, ()>;

    /// The same for a moment, in which the agent's record is changed; [`enrolled`](Self::enrolled)
    /// ends it.
    fn set_aside(&self, agent: AgentId) -> Answer<'_, ()>;

    /// How many of a group's agents were judged by what it demands, however that ended; `None` while
    /// that is changing. (L07)
    fn coverage(&self, slug: String) -> Answer<'_, Option<Coverage>>;

    /// How many agents of each group stand how.
    fn status_counts(&self) -> Answer<'_, StatusCounts>;
}
