//! What groups say of their agents, and what follows when that changes.

use std::sync::Arc;

use super::agent::Agent;
use super::machine::Shard;
use super::record::Group;
use super::settings::Settings;
use crate::time::Now;

impl Shard {
    pub(super) fn group_of(&self, agent: &Agent) -> Option<&Group> {
        self.groups.get(&agent.record.group).map(AsRef::as_ref)
    }

    pub(super) fn group_of_place(&self, place: u32) -> Option<Arc<Group>> {
        let agent = self.agent(place)?;
        self.groups.get(&agent.record.group).map(Arc::clone)
    }

    /// The settings for an agent: its group may have an interval of its own.
    pub(super) fn settings_of(&self, place: u32) -> Settings {
        let agent = self.agent(place);
        agent.map_or(self.settings, |agent| self.settings_in(&agent.record.group))
    }

    /// The settings for agents of a group.
    pub(super) fn settings_in(&self, slug: &str) -> Settings {
        let group = self.groups.get(slug);
        group.map_or(self.settings, |group| self.settings.of_group(group))
    }

    pub(super) fn put_group(&mut self, group: Arc<Group>, now: Now) {
        let slug = group.slug.clone();
        let known = self.groups.get(&slug);
        // Who read and compiled it for longer may tell of it later. (L05)
        if known.is_some_and(|known| known.row_version > group.row_version) {
            return;
        }
        let (new, before) = (group.demands(), self.settings_in(&slug));
        let old = self.groups.insert(slug.clone(), group);
        let after = self.settings_in(&slug);
        let is_changed = old.is_none_or(|old| old.demands() != new);
        for place in self.every_place() {
            let is_of_it = |agent: &Agent| agent.record.group == slug;
            if !self.agent(place).is_some_and(is_of_it) {
                continue;
            }
            if let Some(agent) = self.agent_mut(place) {
                keep_pace(agent, &before, &after, now);
            }
            // Whose list is stored needs not send it: it is asked when that was judged.
            let waits = self.consider_rejudging(place, now);
            if is_changed
                && !waits
                && let Some(agent) = self.agent_mut(place)
            {
                agent.due_ms = agent.due_ms.min(now.mono_ms);
            }
            self.announce(place, now, None, "");
            self.arm(place);
        }
    }
}

/// What a change of its group's interval means for an agent: it waits for the new interval at most,
/// and is not trusted for longer than before. A longer one counts from its next evidence on.
fn keep_pace(agent: &mut Agent, before: &Settings, after: &Settings, now: Now) {
    if after.interval_ms < before.interval_ms {
        agent.hasten(before.interval_ms, after.interval_ms, now);
    }
    if after.max_age_ms < before.max_age_ms {
        agent.limit_trust(after.max_age_ms, now);
    }
}
