//! Whose stored list is judged by other rules than before, when, and what follows.

use super::agent::{Agent, Phase, StoredList, list_rules};
use super::commit::{Cause, Provisional};
use super::conclude::Said;
use super::input::{Action, Coverage, Event};
use super::intake::options;
use super::machine::{Driver, Shard};
use super::pacing::Slot;
use super::record::Group;
use super::rejudge::{Rejudge, RejudgeId, Rejudged, Rejudgement, Unusable};
use super::settle;
use super::state::{AgentState, Denied, LastVerdict, ListRules, VerdictKind};
use super::tick::{KeptEvidence, Outcome};
use crate::time::Now;

/// Attempts in a row that may fail before the agent is asked for its list instead.
const REJUDGE_TRIES_MAX: u32 = 3;

impl Shard {
    /// How many agents of a group were judged by what it enforces now, however that ended. (L07)
    ///
    /// # Cost
    /// A look at each agent of the shard.
    pub fn coverage(&self, slug: &str) -> Coverage {
        let mut coverage = Coverage::default();
        let rules = self.groups.get(slug).and_then(|group| list_rules(group));
        for agent in self.agents().filter(|agent| agent.record.group == slug) {
            coverage.agents = coverage.agents.saturating_add(1);
            if rules.is_some_and(|rules| agent.state.is_judged_under(&rules)) {
                coverage.judged = coverage.judged.saturating_add(1);
            }
        }
        coverage
    }

    /// Sees to it that an agent's stored list is judged if it was not judged by what its group
    /// demands now; says whether that is to come.
    pub(super) fn consider_rejudging(&mut self, place: u32) -> bool {
        let Some(agent) = self.agent(place) else {
            return false;
        };
        let is_wanted = self
            .group_of(agent)
            .is_some_and(|group| wants_rejudging(agent, group));
        let Some(agent) = self.agent_mut(place) else {
            return false;
        };
        match agent.stored_list {
            StoredList::Unusable => return false,
            // One that is in the queue is passed over when its turn comes.
            _ if !is_wanted => agent.stored_list = StoredList::Settled,
            StoredList::Queued => {}
            StoredList::Settled | StoredList::Wanted => {
                agent.stored_list = StoredList::Wanted;
                self.queue_rejudging(place);
            }
        }
        is_wanted
    }

    /// Queues an agent that is to be judged again and has nothing else under way.
    pub(super) fn queue_rejudging(&mut self, place: u32) {
        let is_draining = self.is_draining;
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let is_idle = matches!(agent.phase, Phase::Idle);
        if is_idle && !is_draining && agent.stored_list == StoredList::Wanted {
            agent.stored_list = StoredList::Queued;
            self.rejudges.push_back(place);
        }
    }

    /// Has the next stored list judged, while the pacer allows it.
    pub(super) fn next_rejudge(&mut self, now: Now, driver: &mut Driver<'_>) -> Option<Action> {
        while driver.pacer.rejudging_room() > 0 {
            let place = self.rejudges.pop_front()?;
            if let Some(rejudge) = self.begin_rejudging(place, now) {
                driver.pacer.rejudges();
                self.arm(place);
                return Some(Action::Rejudge(Box::new(rejudge)));
            }
        }
        None
    }

    fn begin_rejudging(&mut self, place: u32, now: Now) -> Option<Rejudge> {
        let agent = self.agent(place)?;
        if agent.stored_list != StoredList::Queued {
            return None;
        }
        let group = self.groups.get(&agent.record.group)?;
        let is_wanted = wants_rejudging(agent, group);
        let is_idle = matches!(agent.phase, Phase::Idle);
        let id = RejudgeId(self.rejudged);
        let begun = rejudge(agent, group, id).filter(|_| is_wanted && is_idle);
        let ends_ms = now.mono_ms.saturating_add(self.settings.rejudge_ms_max);
        let agent = self.agent_mut(place)?;
        agent.stored_list = match (is_wanted, is_idle) {
            (true, false) => StoredList::Wanted,
            _ => StoredList::Settled,
        };
        let begun = begun?;
        agent.phase = Phase::Rejudging { id, ends_ms };
        self.rejudged = self.rejudged.saturating_add(1);
        Some(begun)
    }

    /// Takes the end of an attempt: an outcome to be committed, or nothing.
    pub(super) fn rejudged(&mut self, rejudged: Rejudged, now: Now) {
        let Some(place) = self.place(&rejudged.agent) else {
            return;
        };
        let Some(agent) = self.agent(place) else {
            return;
        };
        // It took too long, or belongs to an earlier enrolment.
        if !matches!(agent.phase, Phase::Rejudging { id, .. } if id == rejudged.id) {
            return;
        }
        if let Rejudgement::Unusable(why) = rejudged.result {
            return self.cannot_rejudge(place, why, now);
        }
        let group = self.group_of_place(place);
        match group.filter(|group| list_rules(group) == Some(rejudged.rules)) {
            Some(group) => {
                self.end_rejudging(place, Phase::Committing);
                self.record_rejudged(place, &group, rejudged, now);
            }
            // Nobody is failed by a policy that does not count any more.
            None => {
                self.end_rejudging(place, Phase::Idle);
                self.consider_rejudging(place);
                self.arm(place);
            }
        }
    }

    /// Ends the attempt that is under way.
    pub(super) fn end_rejudging(&mut self, place: u32, next: Phase) {
        if let Some(agent) = self.agent_mut(place)
            && matches!(agent.phase, Phase::Rejudging { .. })
        {
            agent.phase = next;
            self.closed.push((Slot::Rejudging, None));
        }
    }

    /// The stored list says nothing. It is tried again if that may help; otherwise the agent is
    /// asked for the whole list, now.
    pub(super) fn cannot_rejudge(&mut self, place: u32, why: Unusable, now: Now) {
        self.end_rejudging(place, Phase::Idle);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        agent.rejudge_tries = agent.rejudge_tries.saturating_add(1);
        if why.is_lasting() || agent.rejudge_tries >= REJUDGE_TRIES_MAX {
            agent.stored_list = StoredList::Unusable;
            agent.due_ms = agent.due_ms.min(now.mono_ms);
        } else {
            agent.stored_list = StoredList::Wanted;
        }
        let agent = agent.record.id.clone();
        let event = Event::ListUnusable { agent, why };
        self.actions.push_back(Action::Event(event));
        self.arm(place);
    }

    fn record_rejudged(&mut self, place: u32, group: &Group, rejudged: Rejudged, now: Now) {
        let Rejudged {
            agent: id,
            rules,
            result,
            report,
            ..
        } = rejudged;
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        agent.rejudge_tries = 0;
        let mut provisional = Provisional::without_evidence(
            place,
            Cause::Rejudging,
            Outcome {
                agent: id,
                at_unix_ms: now.unix_ms,
                // That the list passes is one proof of many: trust takes a quote.
                verdict: VerdictKind::Authentic,
                code: None,
                policy: Some(rules.policy),
                evidence_sha256: [0; 32],
                state: agent.state.clone(),
                kept: Vec::new(),
                log: None,
            },
            now,
        );
        provisional.entries = report.entries;
        let state = &mut provisional.outcome.state;
        state.list.violations = Some(report.violations);
        state.list.excluded = Some(report.excluded);
        match result {
            Rejudgement::Passed { proof, learned } => {
                state.passed_under = proof.passed_under().copied();
                state.keep_learned(&learned);
                state.list.denied = None;
            }
            Rejudgement::Denied { first, learned } => {
                state.keep_learned(&learned);
                let said = Said::finding(&first);
                let failure = state.failure.clone();
                let mut is_news = denied(state, &said, group, rules, now);
                if group.protected {
                    settle::fail(state, &said, group, now);
                    is_news |= state.failure != failure;
                    provisional.trusted_until_ms = Some(0);
                }
                if is_news && let Some(agent) = self.agent_mut(place) {
                    // There is no new evidence; what passed before shows the list.
                    let proved = agent.last_pass.take().map(|kept| KeptEvidence {
                        at_unix_ms: now.unix_ms,
                        ..*kept
                    });
                    provisional.outcome.kept.extend(proved);
                }
                provisional.outcome.verdict = VerdictKind::Untrusted;
                provisional.outcome.code = Some(said.code);
                provisional.detail = said.detail;
                provisional.due_ms = self.agent(place).map_or(0, |agent| agent.due_ms);
            }
            Rejudgement::Unusable(_) => return,
        }
        self.provisional.push(provisional);
    }
}

/// Notes that the list is denied; says whether that is news.
fn denied(state: &mut AgentState, said: &Said, group: &Group, rules: ListRules, now: Now) -> bool {
    let last = state.verdict.take();
    let is_news = last
        .as_ref()
        .is_none_or(|last| last.code != Some(said.code) || last.detail != said.detail);
    state.verdict = Some(LastVerdict {
        kind: VerdictKind::Untrusted,
        code: Some(said.code),
        detail: said.detail.clone(),
        policy: Some(rules.policy),
        challenged_unix_ms: last.map_or(0, |last| last.challenged_unix_ms),
        at_unix_ms: now.unix_ms,
    });
    state.passed_under = None;
    state.list.denied = Some(Denied {
        under: rules,
        first: said.failure(group, Some(rules.policy), now),
    });
    is_news
}

/// Whether the stored list of an agent is to be judged by what its group demands: a list was
/// proven in this boot and bank, and not judged by that yet.
fn wants_rejudging(agent: &Agent, group: &Group) -> bool {
    let Some(rules) = list_rules(group) else {
        return false;
    };
    let state = &agent.state;
    let enforced = group.enforced.as_ref();
    let is_empty = enforced.is_none_or(|policy| policy.judge.policy().is_empty());
    agent.stored_list != StoredList::Unusable
        && state.boot.is_some()
        && state.ima.is_some()
        && state.knows_bank(group.bank)
        && !state.list.is_dismissed
        && !state.is_judged_under(&rules)
        // Nothing passes an empty policy, which is no fault of the list. (L01)
        && !is_empty
}

fn rejudge(agent: &Agent, group: &Group, id: RejudgeId) -> Option<Rejudge> {
    let state = &agent.state;
    let judge = &group.enforced.as_ref()?.judge;
    Some(Rejudge {
        agent: agent.record.id.clone(),
        id,
        rules: list_rules(group)?,
        judge: std::sync::Arc::clone(judge),
        committed: state.ima.clone()?,
        boot: state.boot?,
        boot_pcrs: state.boot_pcrs.clone(),
        ima: options(state, group, Some(judge.as_ref()), None),
    })
}
