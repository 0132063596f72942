//! What groups say of their agents, and what follows when that changes.

use std::sync::Arc;

use super::agent::Agent;
use super::machine::Shard;
use super::record::{Group, KEYLIME_GROUP};
use super::settings::Settings;
use crate::agent_id::AgentId;
use crate::time::Now;

impl Shard {
    pub(super) fn group_of(&self, agent: &Agent) -> Option<&Group> {
        let record = &agent.record;
        self.group_for(record.id.as_str(), &record.group)
            .map(AsRef::as_ref)
    }

    pub(super) fn group_of_place(&self, place: u32) -> Option<Arc<Group>> {
        self.group_at(place).map(Arc::clone)
    }

    /// What is demanded of the agent at this place.
    pub(super) fn group_at(&self, place: u32) -> Option<&Arc<Group>> {
        let (id, slug) = self.roster.id_and_group(place)?;
        self.group_for(id, slug)
    }

    /// What is demanded of this agent in this group. One of Keylime's agents without terms of its
    /// own has none: nothing is demanded of it, and it is not trusted.
    fn group_for(&self, id: &str, slug: &str) -> Option<&Arc<Group>> {
        match slug {
            KEYLIME_GROUP => self.terms.get(id),
            slug => self.groups.get(slug),
        }
    }

    /// The settings for an agent: its group may have an interval of its own.
    pub(super) fn settings_of(&self, place: u32) -> Settings {
        self.settings_by(self.group_at(place))
    }

    /// The settings for an agent that may not be here yet.
    pub(super) fn settings_for(&self, id: &AgentId, slug: &str) -> Settings {
        self.settings_by(self.group_for(id.as_str(), slug))
    }

    fn settings_by(&self, group: Option<&Arc<Group>>) -> Settings {
        group.map_or(self.settings, |group| self.settings.of_group(group))
    }

    /// The settings for agents of a group.
    pub(super) fn settings_in(&self, slug: &str) -> Settings {
        self.settings_by(self.groups.get(slug))
    }

    /// What is demanded of one of Keylime's agents from now on, which may come later than this.
    pub(super) fn put_terms(&mut self, id: &AgentId, terms: Arc<Group>, now: Now) {
        let known = self.terms.get(id.as_str());
        if known.is_some_and(|known| known.row_version > terms.row_version) {
            return;
        }
        let (new, before) = (terms.demands(), self.settings_for(id, KEYLIME_GROUP));
        let old = self.terms.insert(id.as_str().to_owned(), terms);
        let after = self.settings_for(id, KEYLIME_GROUP);
        let is_changed = old.is_none_or(|old| old.demands() != new);
        if let Some(place) = self.place(id) {
            self.demands_changed(place, is_changed, (&before, &after), now);
        }
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
        for place in self.roster.every_place() {
            if self.roster.group(place) != Some(slug.as_str()) {
                continue;
            }
            self.roster.rest(now.mono_ms);
            self.demands_changed(place, is_changed, (&before, &after), now);
        }
    }

    fn demands_changed(
        &mut self,
        place: u32,
        is_changed: bool,
        (before, after): (&Settings, &Settings),
        now: Now,
    ) {
        if let Some(agent) = self.agent_mut(place) {
            keep_pace(agent, before, after, now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_id::{AgentId, ShardIndex};
    use crate::evidence::{Hello, Instance, NonceSource, SessionId};
    use crate::hash::HashAlg;
    use crate::shard::{
        AgentPath, AgentRecord, AgentState, ChainHash, Driver, Epoch, Input, Pacer, PacerSettings,
    };

    const DAY_MS: u64 = 86_400_000;

    struct NoNonces;

    impl NonceSource for NoNonces {
        fn fill(&mut self, _: &mut [u8]) -> Option<()> {
            None
        }
    }

    fn group(interval_ms: Option<u64>) -> Group {
        Group {
            slug: "fleet".into(),
            row_version: 1,
            enforced: None,
            pcr_policy: None,
            measured_boot: None,
            bank: HashAlg::Sha256,
            protected: true,
            bypass: false,
            block: false,
            require_boot_log: true,
            accept_violations: false,
            auto_recover: false,
            interval_ms,
            allow_sha1: false,
            require_valid_ima_sig: false,
            keylime: None,
        }
    }

    fn record(id: &AgentId) -> AgentRecord {
        AgentRecord {
            id: id.clone(),
            group: "fleet".into(),
            path: AgentPath::Native,
            ak_public: Vec::new(),
            ak_epoch: 1,
            ek_sha256: [2; 32],
            client_key_sha256: [1; 32],
            relay_key_sha256: None,
            baseline: None,
            enrolled_unix_ms: 0,
        }
    }

    fn hello(id: &AgentId) -> Hello {
        Hello {
            agent: id.clone(),
            path: AgentPath::Native,
            client_key_sha256: [1; 32],
            log_formats: Vec::new(),
            banks: Vec::new(),
            reset_count: 0,
            restart_count: 0,
            entry_count: 0,
            instance: Instance([1; 16]),
            relay_key_sha256: None,
        }
    }

    #[test]
    fn s08_connections_that_come_and_go_leave_no_timers_behind() {
        let index = ShardIndex::new(0).unwrap();
        let settings = Settings::default();
        let mut shard = Shard::new(index, Epoch(1), 0, ChainHash::default(), settings);
        let mut pacer = Pacer::new(PacerSettings::default());
        let agent = AgentId::parse("machine-1").unwrap();
        let at = |ms| Now {
            mono_ms: ms,
            unix_ms: ms,
        };
        shard.handle(Input::Group(Arc::new(group(Some(DAY_MS)))), at(0));
        let input = Input::Agent {
            record: Box::new(record(&agent)),
            state: Box::new(AgentState::default()),
            candidate: None,
        };
        shard.handle(input, at(0));
        let place = shard.place(&agent).unwrap();
        shard.agent_mut(place).unwrap().due_ms = DAY_MS;
        for ms in 1..500 {
            let session = SessionId(ms);
            let hello = Box::new(hello(&agent));
            shard.handle(Input::Connected { session, hello }, at(ms));
            let mut driver = Driver {
                pacer: &mut pacer,
                nonces: &mut NoNonces,
            };
            while shard.poll(at(ms), &mut driver).is_some() {}
            let agent = agent.clone();
            shard.handle(Input::Disconnected { session, agent }, at(ms));
        }
        assert_eq!(shard.wheel.len(), 1);
    }

    #[test]
    fn trust_outlasts_an_interval_and_the_answer_after_it_whatever_the_deadline_is() {
        for interval_ms in [1, 999, 1_000, 2_500, 10_000, DAY_MS] {
            for challenge_deadline_ms in [100, 5_000, u32::MAX] {
                let server = Settings {
                    challenge_deadline_ms,
                    ..Settings::default()
                };
                let own = server.of_group(&group(Some(interval_ms)));
                let needed = own.interval_ms + u64::from(own.challenge_deadline_ms);
                assert!(own.max_age_ms >= needed);
                let is_long_enough =
                    interval_ms >= Settings::interval_ms_min(challenge_deadline_ms);
                let is_whole = own.challenge_deadline_ms == challenge_deadline_ms;
                assert_eq!(
                    is_whole, is_long_enough,
                    "{interval_ms} {challenge_deadline_ms}"
                );
                assert_eq!(
                    own,
                    Settings {
                        challenge_deadline_ms: own.challenge_deadline_ms,
                        ..Settings::with_interval(interval_ms)
                    }
                );
                assert_eq!(server.of_group(&group(None)), server);
            }
        }
    }
}
