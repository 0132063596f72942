//! Where shards are joined to the server: agents that are served, and what they send.
//!
//! Shards are not driven yet. Until they are, the server enrols machines and keeps their records,
//! says of every agent that no shard serves it, tells agents that connect to come back later, and
//! is not ready.

use std::sync::Arc;

use rat_api::core::fleet::{Answer, Fleet, Seen};
use rat_api::health::{Check, Probe};
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Busy, ChallengeId, Hello, Intake, Peer, SessionId, Submission};
use rat_store::StoredAgent;

/// How long agents stay away.
const RETRY: Busy = Busy {
    retry_after_ms: 60_000,
};

/// What the rest of the server needs of the shards.
pub(super) struct Shards {
    pub(super) fleet: Arc<dyn Fleet>,
    pub(super) intake: Arc<dyn Intake>,
    pub(super) probe: Probe,
}

impl Shards {
    pub(super) fn none() -> Self {
        Self {
            fleet: Arc::new(Undriven),
            intake: Arc::new(Undriven),
            probe: Box::new(|| {
                Check::failed("workers", "no shard is driven by this build".to_owned())
            }),
        }
    }
}

struct Undriven;

impl Fleet for Undriven {
    fn enrolled(&self, _: StoredAgent) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn seen(&self, agents: Vec<AgentId>) -> Answer<'_, Vec<Option<Seen>>> {
        Box::pin(async move { Ok(agents.iter().map(|_| None).collect()) })
    }
}

impl Intake for Undriven {
    fn connected(&self, _: SessionId, _: Hello, _: Box<dyn Peer>) -> Result<(), Busy> {
        Err(RETRY)
    }

    fn evidence(&self, _: SessionId, _: &AgentId, _: Submission) -> Result<(), Busy> {
        Err(RETRY)
    }

    fn log_piece(&self, _: SessionId, _: &AgentId, _: ChallengeId, _: Vec<u8>) -> Result<(), Busy> {
        Err(RETRY)
    }

    fn disconnected(&self, _: SessionId, _: &AgentId) {}
}
