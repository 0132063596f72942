//! Whose stored list is judged by other rules than before, when, and what follows.

use std::sync::Arc;

use super::agent::{Agent, Phase, StoredList};
use super::commit::{Cause, LastPass, Provisional};
use super::conclude::Said;
use super::failing::fail;
use super::input::{Action, Coverage, Event};
use super::intake::options;
use super::kept::Passed;
use super::machine::{Driver, Shard};
use super::pacing::{Share, Slot};
use super::record::Group;
use super::rejudge::{Rejudge, RejudgeId, Rejudged, Rejudgement, Unusable};
use super::state::{AgentState, Denied, LastVerdict, ListRules, VerdictKind};
use super::tick::Outcome;
use crate::agent_id::AgentId;
use crate::time::Now;

/// Attempts in a row that may fail before the agent is asked for its list instead.
const REJUDGE_TRIES_MAX: u32 = 3;

impl Shard {
    /// How many agents of a group were judged by what it enforces now, however that ended. (L07)
    ///
    /// # Cost
    /// A look at each agent of the shard.
    pub fn coverage(&self, slug: &str) -> Coverage {
        let group = self.groups.get(slug);
        let mut coverage = Coverage {
            by: group.map(|group| group.demands()),
            ..Coverage::default()
        };
        for agent in self.agents().filter(|agent| agent.record.group == slug) {
            coverage.agents = coverage.agents.saturating_add(1);
            if group.is_some_and(|group| agent.is_judged_in(group)) {
                coverage.judged = coverage.judged.saturating_add(1);
            }
        }
        coverage
    }

    /// Whether what an attempt to judge a stored list ends with would still count.
    pub fn is_rejudging(&self, agent: &AgentId, id: RejudgeId) -> bool {
        let agent = self.place(agent).and_then(|place| self.agent(place));
        agent.is_some_and(|agent| agent.is_rejudging(id))
    }

    /// An attempt goes on: it has its time again.
    pub(super) fn rejudging_goes_on(&mut self, agent: &AgentId, id: RejudgeId, now: Now) {
        let Some(place) = self.place(agent) else {
            return;
        };
        let settings = self.settings_of(place);
        let until_ms = now.mono_ms.saturating_add(settings.rejudge_ms_max);
        if let Some(agent) = self.agent_mut(place)
            && let Phase::Rejudging { id: of, ends_ms } = &mut agent.phase
            && *of == id
        {
            *ends_ms = until_ms;
            self.arm(place);
        }
    }

    /// Sees to it that an agent's stored list is judged if it was not judged by what its group
    /// demands now; says whether that is to come.
    pub(super) fn consider_rejudging(&mut self, place: u32, now: Now) -> bool {
        let Some(agent) = self.agent(place) else {
            return false;
        };
        let is_wanted = self
            .group_of(&agent)
            .is_some_and(|group| wants_rejudging(&agent, group));
        let Some(agent) = self.agent_mut(place) else {
            return false;
        };
        match agent.stored_list {
            StoredList::Unusable => return false,
            // One that is in the queue is passed over when its turn comes.
            _ if !is_wanted => agent.stored_list = StoredList::Settled,
            StoredList::Queued | StoredList::Delayed => {}
            StoredList::Settled => {
                agent.stored_list = StoredList::Wanted;
                agent.list_waits_since_ms = now.mono_ms;
                self.queue_rejudging(place);
            }
            StoredList::Wanted => self.queue_rejudging(place),
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
            let place = self.next_in_queue()?;
            if let Some(rejudge) = self.begin_rejudging(place, now) {
                driver.pacer.rejudges();
                self.arm(place);
                return Some(Action::Rejudge(Box::new(rejudge)));
            }
        }
        None
    }

    /// Whoever fails already comes first, and whoever is connected: an absent machine is not
    /// trusted for long in any case.
    fn next_in_queue(&mut self) -> Option<u32> {
        let is_urgent = |place: &u32| {
            let agent = self.agent(*place);
            agent.is_some_and(|agent| {
                let group = self.group_of(&agent);
                agent.session.is_some() || group.and_then(|group| let_pass(&agent, group)).is_some()
            })
        };
        let first = self.rejudges.iter().position(is_urgent).unwrap_or(0);
        self.rejudges.remove(first)
    }

    fn begin_rejudging(&mut self, place: u32, now: Now) -> Option<Rejudge> {
        let agent = self.agent(place)?;
        if agent.stored_list != StoredList::Queued {
            return None;
        }
        let group = self.group_of_place(place)?;
        let is_wanted = wants_rejudging(&agent, &group);
        let is_idle = matches!(agent.phase, Phase::Idle);
        let denied = let_pass(&agent, &group).cloned();
        let id = RejudgeId(self.rejudged);
        let begun = rejudge(&agent, &group, id).filter(|_| is_wanted && is_idle);
        let settings = self.settings_of(place);
        let ends_ms = now.mono_ms.saturating_add(settings.rejudge_ms_max);
        let agent = self.agent_mut(place)?;
        agent.stored_list = match (is_wanted, is_idle) {
            (true, false) => StoredList::Wanted,
            _ => StoredList::Settled,
        };
        let begun = begun?;
        if let Some(denied) = denied {
            agent.phase = Phase::Committing;
            self.record_denied(place, &group, denied, now);
            return None;
        }
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
        if !agent.is_rejudging(rejudged.id) {
            return;
        }
        if let Rejudgement::Unusable(why) = rejudged.result {
            return self.cannot_rejudge(place, why, now);
        }
        let group = self.group_of_place(place);
        match group.filter(|group| group.list_rules() == Some(rejudged.rules)) {
            Some(group) => {
                self.end_rejudging(place, Phase::Committing);
                self.record_rejudged(place, &group, rejudged, now);
            }
            // Nobody is failed by a policy that does not count any more.
            None => {
                self.end_rejudging(place, Phase::Idle);
                self.consider_rejudging(place, now);
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
            self.closed.push((Share::direct(Slot::Rejudging), None));
        }
    }

    /// The stored list says nothing. It is tried again if that may help; otherwise the agent is
    /// asked for the whole list, now.
    pub(super) fn cannot_rejudge(&mut self, place: u32, why: Unusable, now: Now) {
        self.end_rejudging(place, Phase::Idle);
        if !self.is_given_up(place, why) {
            if let Some(agent) = self.agent_mut(place) {
                agent.stored_list = StoredList::Wanted;
            }
        } else if let Some(agent) = self.agent_mut(place) {
            agent.due_ms = agent.due_ms.min(now.mono_ms);
        }
        self.arm(place);
    }

    /// What was found could not be stored. It is judged again when the agent is due, and not at
    /// once: what the store refuses now it may refuse again.
    pub(super) fn rejudging_was_lost(&mut self, place: u32) {
        if !self.is_given_up(place, Unusable::StoreFailed)
            && let Some(agent) = self.agent_mut(place)
        {
            agent.stored_list = StoredList::Delayed;
        }
    }

    /// Counts an attempt that did not end, and tells listeners; says whether there is no other, so
    /// that the agent is asked for the whole list.
    fn is_given_up(&mut self, place: u32, why: Unusable) -> bool {
        let Some(agent) = self.agent_mut(place) else {
            return true;
        };
        agent.rejudge_tries = agent.rejudge_tries.saturating_add(1);
        let is_given_up = why.is_lasting() || agent.rejudge_tries >= REJUDGE_TRIES_MAX;
        if is_given_up {
            agent.stored_list = StoredList::Unusable;
        }
        let agent = agent.record.id.clone();
        let event = Event::ListUnusable { agent, why };
        self.actions.push_back(Action::Event(event));
        is_given_up
    }

    fn record_rejudged(&mut self, place: u32, group: &Group, rejudged: Rejudged, now: Now) {
        let Rejudged {
            rules,
            result,
            report,
            ..
        } = rejudged;
        let Some(mut provisional) = self.without_quote(place, rules, now) else {
            return;
        };
        provisional.entries = report.entries;
        let state = &mut provisional.outcome.state;
        state.list.violations = Some(report.violations);
        state.list.excluded = Some(report.excluded);
        match result {
            Rejudgement::Passed { proof, learned } => {
                state.passed_under = proof.passed_under().copied();
                state.keep_learned(&learned);
                state.list.require_valid_ima_sig = rules.require_valid_ima_sig;
                state.list.denied = None;
            }
            Rejudgement::Denied { first, learned } => {
                state.keep_learned(&learned);
                self.deny(&mut provisional, group, rules, Said::finding(&first), now);
            }
            Rejudgement::Unusable(_) => return,
        }
        self.provisional.push(provisional);
    }

    /// A list that was denied in a group that did not enforce its policy is held against its agent,
    /// now that the group does. (L12)
    fn record_denied(&mut self, place: u32, group: &Group, denied: Denied, now: Now) {
        let rules = denied.under;
        if let Some(mut provisional) = self.without_quote(place, rules, now) {
            let said = Said::again(&denied.first);
            self.deny(&mut provisional, group, rules, said, now);
            self.provisional.push(provisional);
        }
    }

    /// An outcome of judging a stored list, which changes nothing yet.
    fn without_quote(&self, place: u32, rules: ListRules, now: Now) -> Option<Provisional> {
        let agent = self.agent(place)?;
        let outcome = Outcome {
            agent: agent.record.id.clone(),
            at_unix_ms: now.unix_ms,
            // That the list passes is one proof of many: trust takes a quote.
            verdict: VerdictKind::Authentic,
            code: None,
            policy: Some(rules.policy),
            evidence_sha256: [0; 32],
            state: agent.state.clone(),
            kept: Vec::new(),
            log: None,
        };
        let cause = Cause::Rejudging;
        Some(Provisional::without_evidence(place, cause, outcome, now))
    }

    /// The outcome is that the list is denied.
    fn deny(
        &self,
        provisional: &mut Provisional,
        group: &Group,
        rules: ListRules,
        said: Said,
        now: Now,
    ) {
        let Some(agent) = self.agent(provisional.place) else {
            return;
        };
        let outcome = &mut provisional.outcome;
        let mut is_news = denied(&mut outcome.state, &said, group, rules, now);
        if group.protected {
            fail(&mut outcome.state, &said, group, now);
            is_news |= outcome.state.failure != agent.state.failure;
            provisional.trusted_until_ms = Some(0);
        }
        if is_news {
            // There is no new evidence; what passed before shows the list.
            outcome
                .kept
                .extend(agent.last_pass.as_deref().map(Passed::kept));
            provisional.last_pass = LastPass::Gone;
        }
        outcome.verdict = VerdictKind::Untrusted;
        outcome.code = Some(said.code);
        provisional.detail = said.detail;
        provisional.due_ms = agent.due_ms;
    }
}

/// Notes that the list is denied; says whether that is news. When the machine was last heard of
/// stays as it was: nothing came from it.
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
        challenged_unix_ms: last.as_ref().map_or(0, |last| last.challenged_unix_ms),
        at_unix_ms: last.as_ref().map_or(0, |last| last.at_unix_ms),
        held: last.and_then(|last| last.held),
    });
    state.passed_under = None;
    let first = said.failure(group, Some(rules.policy), now);
    state.list.denied = Some(
        Denied {
            under: rules,
            first,
        }
        .into(),
    );
    is_news
}

/// Whether the stored list of an agent is to be judged by what its group demands: a list was
/// proven in this boot and bank, and not judged by that yet, or not held against the agent.
fn wants_rejudging(agent: &Agent, group: &Group) -> bool {
    let Some(rules) = group.list_rules() else {
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
        && (!state.is_judged_under(&rules) || let_pass(agent, group).is_some())
        // Nothing passes an empty policy, which is no fault of the list. (L01)
        && !is_empty
}

/// How the list of an agent failed by what its group demands, when that was not held against it:
/// its group did not enforce anything then, and does now. (L12)
fn let_pass<'a>(agent: &'a Agent, group: &Group) -> Option<&'a Denied> {
    let rules = group.list_rules().filter(|_| group.protected)?;
    let state = &agent.state;
    state
        .denied_under(&rules)
        .filter(|_| state.failure.is_none())
}

fn rejudge(agent: &Agent, group: &Group, id: RejudgeId) -> Option<Rejudge> {
    let state = &agent.state;
    let judge = &group.enforced.as_ref()?.judge;
    Some(Rejudge {
        agent: agent.record.id.clone(),
        id,
        rules: group.list_rules()?,
        judge: Arc::clone(judge),
        committed: state.ima.clone()?,
        boot: state.boot?,
        boot_pcrs: state.boot_pcrs.clone(),
        ima: options(state, group, Some(judge.as_ref()), None),
    })
}
