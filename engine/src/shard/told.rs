//! What listeners are told of an agent's status.

use super::input::{Action, Event};
use super::machine::Shard;
use super::state::EffectiveStatus;
use crate::agent_id::AgentId;
use crate::evidence::Refusal;
use crate::time::Now;
use crate::verdict::Code;

impl Shard {
    /// Tells listeners when an agent's status is another than the one last told.
    pub(super) fn announce(&mut self, place: u32, now: Now, code: Option<Code>, detail: &str) {
        let Some(agent) = self.agent(place) else {
            return;
        };
        let to = agent.status(self.group_of(&agent), now.mono_ms);
        if to == agent.shown {
            return;
        }
        let event = Event::Status {
            agent: agent.record.id.clone(),
            group: agent.record.group.clone(),
            from: agent.shown,
            to,
            code,
            detail: detail.to_owned(),
        };
        self.actions.push_back(Action::Event(event));
        if let Some(agent) = self.agent_mut(place) {
            agent.shown = to;
        }
    }

    /// The status of an agent that listeners were told last.
    pub fn shown(&self, agent: &AgentId) -> Option<EffectiveStatus> {
        let agent = self.agent(self.place(agent)?)?;
        Some(agent.shown)
    }

    /// The same of an agent that is set aside.
    pub fn shown_aside(&self, agent: &AgentId) -> Option<EffectiveStatus> {
        self.aside.get(agent).copied()
    }

    /// Takes an agent out until it is put again. What was told of it is remembered, so that its
    /// status after that is told when it is another.
    pub(super) fn set_aside(&mut self, agent: &AgentId) {
        let shown = self.shown(agent);
        self.remove(agent, Refusal::Busy);
        self.aside.extend(shown.map(|shown| (agent.clone(), shown)));
    }
}
