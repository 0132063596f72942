//! An agent's record in the store and in its shard: changed in turns, so that both stay the same.
//! (S16, N08)
//!
//! A change is two steps: the store has it, then the shard is told. Two changes of one agent side by
//! side could tell the shard in the other order, and the shard would go on with a record that the
//! store has no more, or serve an agent that was removed. So whoever changes an agent has its
//! [`Turn`] for both steps, and what the shard is told was read within it.

use std::sync::Arc;
use std::time::Duration;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_store::StoredAgent;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Core;
use super::fleet::FleetUnavailable;
use crate::error::ApiError;

/// Turns at changing agents: one for each shard, whose agents wait for each other.
#[derive(Clone)]
pub(super) struct Turns(Vec<Arc<Mutex<()>>>);

impl Default for Turns {
    fn default() -> Self {
        let shards = usize::from(ShardIndex::COUNT);
        Self((0..shards).map(|_| Arc::default()).collect())
    }
}

/// The turn at changing one agent, until it is dropped.
pub(super) struct Turn<'a> {
    core: &'a Arc<Core>,
    agent: &'a AgentId,
    _held: Option<OwnedMutexGuard<()>>,
}

impl Core {
    /// Waits for the turn at changing this agent.
    pub(super) async fn turn<'a>(self: &'a Arc<Self>, agent: &'a AgentId) -> Turn<'a> {
        // There is one for every shard.
        let turn = self.in_memory.turns.0.get(usize::from(agent.shard().get()));
        let held = match turn {
            Some(turn) => Some(Arc::clone(turn).lock_owned().await),
            None => None,
        };
        Turn {
            core: self,
            agent,
            _held: held,
        }
    }
}

impl Turn<'_> {
    /// Has the shard serve the agent as it was stored in this turn. Where it does not answer, it is
    /// told later: the agent is durable, whatever the shards say.
    pub(super) async fn serve(&self, stored: StoredAgent) {
        if let Err(error) = self.core.fleet.enrolled(stored).await {
            tracing::warn!(agent = %self.agent, %error, "an agent is not served yet");
            self.serve_later(RETRY);
        }
    }

    /// Changes the agent's record while no shard has the agent, and has it served again as it is
    /// then.
    ///
    /// What is on its way to the store about an agent says what it was before the change; it must be
    /// there first, or it would undo the change.
    pub(super) async fn apart(
        &self,
        change: impl Future<Output = Result<StoredAgent, ApiError>>,
    ) -> Result<StoredAgent, ApiError> {
        let changed = match self.core.fleet.set_aside(self.agent.clone()).await {
            Ok(()) => change.await,
            Err(error) => Err(error.into()),
        };
        match changed {
            Ok(stored) => {
                self.serve(stored.clone()).await;
                Ok(stored)
            }
            Err(error) => {
                self.serve_later(Duration::ZERO);
                Err(error)
            }
        }
    }

    /// Takes the agent from its shard, and then from the store. If one of them does not do it, the
    /// agent is served on.
    pub(super) async fn remove<T, E>(
        &self,
        removal: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, FleetUnavailable> {
        // Before anything else: a shard that does not answer might serve it on.
        let forgotten = self.core.fleet.remove(self.agent.clone()).await;
        let removed = match forgotten {
            Ok(()) => Ok(removal.await),
            Err(error) => Err(error),
        };
        if !matches!(removed, Ok(Ok(_))) {
            self.serve_later(Duration::ZERO);
        }
        removed
    }

    fn serve_later(&self, wait: Duration) {
        let (core, agent) = (Arc::clone(self.core), self.agent.clone());
        tokio::spawn(async move { serve_later(&core, &agent, wait).await });
    }
}

/// How long to wait before the shards are asked again to serve an agent: at first, and at most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Has an agent served as soon as the shards can: as it is by then, because it may be changed, enrol
/// again or be removed meanwhile.
async fn serve_later(core: &Arc<Core>, agent: &AgentId, mut wait: Duration) {
    loop {
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).clamp(RETRY, RETRY_MAX);
        let _turn = core.turn(agent).await;
        match core.store.enrolled_agent(agent).await {
            Ok(Some(stored)) => match core.fleet.enrolled(stored).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%agent, %error, "an agent is still not served"),
            },
            Ok(None) => return,
            Err(error) if error.is_lasting() => {
                tracing::error!(%agent, %error, "an enrolled agent cannot be read");
                return;
            }
            Err(error) => tracing::warn!(%agent, %error, "an enrolled agent cannot be read yet"),
        }
    }
}
