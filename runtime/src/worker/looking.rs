//! What operators and surfaces see of a worker's shards. Nothing changes by it.

use std::ops::Range;

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{Shard, StatusCounts};
use rat_engine::time::Now;

use super::Worker;
use crate::mailbox::Look;

impl Worker {
    /// Answers. Whoever asked may have gone away.
    pub(super) fn look(&self, look: Look, now: Now) {
        match look {
            Look::View { agent, found } => {
                let shard = self.shards.get(self.place_of(agent.shard()));
                let _ = found.send(shard.and_then(|shard| shard.view(&agent, now)));
            }
            Look::Glances { agents, found } => {
                let glance = |agent: &AgentId| {
                    let shard = self.shards.get(self.place_of(agent.shard()))?;
                    shard.glance(agent, now)
                };
                let _ = found.send(agents.iter().map(glance).collect());
            }
            Look::Views { shard, found } => {
                let shard = self.shards.get(self.place_of(shard));
                let views = shard.map(|shard| shard.views(now).collect());
                let _ = found.send(views.unwrap_or_default());
            }
            Look::Coverage {
                group,
                places,
                found,
            } => {
                let shards = self.shards_at(places);
                let _ = found.send(shards.map(|shard| shard.coverage(&group)).collect());
            }
            Look::StatusCounts { places, found } => {
                let mut counts = StatusCounts::default();
                for shard in self.shards_at(places) {
                    counts.add_all(&shard.status_counts(now));
                }
                let _ = found.send(counts);
            }
        }
    }

    fn shards_at(&self, places: Range<usize>) -> impl Iterator<Item = &Shard> {
        self.shards.iter().skip(places.start).take(places.len())
    }
}
