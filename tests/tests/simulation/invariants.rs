//! The invariants of the design, at every moment.

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentState, EffectiveStatus};

use crate::fleet::Body;
use crate::world::{Happening, World};

impl World {
    pub(crate) fn check(&self) {
        let now = self.now();
        for shard in self.shards.values() {
            for view in shard.views(now) {
                let agent = &view.record.id;
                assert!(self.is_as_committed(agent, &view.state), "{agent} (S17)");
                if view.status != EffectiveStatus::Trusted {
                    continue;
                }
                let demanded = self.demanded;
                assert!(
                    demanded.can_be_met(),
                    "{agent}: trusted against {demanded:?}"
                );
                let rules = self.group_of(agent).list_rules().unwrap();
                assert!(view.state.has_passed(&rules), "{agent}: trusted by others");
                let max_age_ms = self.max_age_ms(agent);
                // The whole list of this boot was judged. (P06, L07)
                let boot = view.state.boot.unwrap();
                assert!(self.ledger.has_whole_list(agent, boot), "{agent}: {boot:?}");
                // Trust rests on a challenge that is not older than the longest age. (Q14, S14)
                let verdict = view.state.verdict.as_ref().unwrap();
                let age_ms = now.unix_ms - verdict.challenged_unix_ms;
                assert!(age_ms < max_age_ms, "{agent}: trusted for {age_ms} ms");
                let machine = &self.bodies[&Body::original(agent)];
                if let Some(at_ms) = machine.compromised_at_ms {
                    let since_ms = self.now_ms - at_ms;
                    assert!(since_ms < max_age_ms, "{agent}: {since_ms} ms unnoticed");
                }
            }
        }
    }

    /// What is shown is what is committed; or the state before that, while the store's answer is on
    /// its way.
    fn is_as_committed(&self, agent: &AgentId, shown: &AgentState) -> bool {
        if self.ledger.state(agent) == *shown {
            return true;
        }
        let is_answer = |happening: &Happening| {
            matches!(
                happening,
                Happening::Answered { shard, life, kept: true, .. }
                    if *shard == agent.shard() && *life == self.life
            )
        };
        self.happenings.values().any(is_answer) && self.ledger.state_before(agent) == *shown
    }
}
