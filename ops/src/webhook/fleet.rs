//! How agents stand now, asked of whoever drives the shards.

use std::future::Future;
use std::pin::Pin;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::AgentView;
use rat_runtime::Runtime;
use thiserror::Error;

/// The shards do not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the agents' shards do not answer")]
pub struct FleetUnavailable;

/// An answer that comes later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, FleetUnavailable>> + Send + 'a>>;

/// The driven shards.
pub trait Fleet: Send + Sync {
    /// One agent as it is committed; `None` when no shard serves it.
    fn view(&self, agent: AgentId) -> Answer<'_, Option<AgentView>>;

    /// Every agent of a shard.
    fn views(&self, shard: ShardIndex) -> Answer<'_, Vec<AgentView>>;
}

impl Fleet for Runtime {
    fn view(&self, agent: AgentId) -> Answer<'_, Option<AgentView>> {
        Box::pin(async move {
            let view = Self::view(self, agent).await;
            view.map_err(|_| FleetUnavailable)
        })
    }

    fn views(&self, shard: ShardIndex) -> Answer<'_, Vec<AgentView>> {
        Box::pin(async move {
            let views = Self::views(self, shard).await;
            views.map_err(|_| FleetUnavailable)
        })
    }
}
