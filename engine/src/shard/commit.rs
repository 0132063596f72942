//! From provisional outcomes to durable ones.

use std::sync::Arc;

use super::agent::{Phase, StoredList, is_of_policy};
use super::input::{Action, Event};
use super::machine::Shard;
use super::state::BootEpoch;
use super::tick::{ChainHash, KeptEvidence, Outcome, Tick};
use crate::evidence::{Answer, ChallengeId, SessionId, ToAgent};
use crate::hash::Digest;
use crate::time::Now;

/// An outcome that is not durable yet, and what follows when it is.
#[derive(Debug)]
pub(super) struct Provisional {
    pub(super) place: u32,
    pub(super) cause: Cause,
    pub(super) outcome: Outcome,
    pub(super) detail: String,
    pub(super) proved: Option<BootEpoch>,
    pub(super) seen_ms: Option<u64>,
    pub(super) trusted_until_ms: Option<u64>,
    pub(super) due_ms: u64,
    pub(super) arrived_ms: u64,
    pub(super) entries: u64,
    pub(super) last_pass: Option<Box<KeptEvidence>>,
    pub(super) baseline: Option<Digest>,
}

/// What led to an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Evidence that came over this connection and answered this challenge.
    Evidence(SessionId, ChallengeId),
    /// An operator took back a failure.
    Clearing,
    /// A stored list was judged by other rules.
    Rejudging,
}

impl Provisional {
    /// An outcome that no evidence led to: it proves no boot, and earns no trust.
    pub(super) const fn without_evidence(
        place: u32,
        cause: Cause,
        outcome: Outcome,
        now: Now,
    ) -> Self {
        Self {
            place,
            cause,
            outcome,
            detail: String::new(),
            proved: None,
            seen_ms: None,
            trusted_until_ms: None,
            due_ms: now.mono_ms,
            arrived_ms: now.mono_ms,
            entries: 0,
            last_pass: None,
            baseline: None,
        }
    }
}

/// The tick that the store is asked to keep.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) seq: u64,
    pub(super) before: ChainHash,
    pub(super) outcomes: Vec<Provisional>,
}

impl Shard {
    /// The next tick, when there is something to commit and no tick on its way.
    pub(super) fn next_commit(&mut self) -> Option<Action> {
        if self.in_flight.is_some() || self.provisional.is_empty() {
            return None;
        }
        let count = self
            .provisional
            .len()
            .min(self.settings.outcomes_per_tick_max);
        let batch: Vec<Provisional> = self.provisional.drain(..count).collect();
        let outcomes = batch.iter().map(|it| it.outcome.clone()).collect();
        let seq = self.seq.saturating_add(1);
        let tick = Tick::new(self.index, self.epoch, seq, self.head, outcomes);
        self.in_flight = Some(InFlight {
            seq,
            before: self.head,
            outcomes: batch,
        });
        self.seq = seq;
        self.head = tick.after;
        Some(Action::Commit(Arc::new(tick)))
    }

    /// The tick is durable: states advance, verdicts are answered, listeners are told.
    pub(super) fn committed(&mut self, seq: u64, now: Now) {
        let Some(in_flight) = self.in_flight.take_if(|tick| tick.seq == seq) else {
            return;
        };
        for provisional in in_flight.outcomes {
            self.take_over(provisional, now);
        }
    }

    fn take_over(&mut self, provisional: Provisional, now: Now) {
        let place = provisional.place;
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let had_failed = agent.state.failure.is_some();
        let last_passed_unix_ms = agent.state.last_passed_unix_ms;
        agent.state = provisional.outcome.state.clone();
        agent.phase = Phase::Idle;
        agent.due_ms = provisional.due_ms.max(now.mono_ms);
        agent.seen_ms = provisional.seen_ms.or(agent.seen_ms);
        if let Some(until_ms) = provisional.trusted_until_ms {
            agent.trusted_until_ms = until_ms;
        }
        let is_list_sent = provisional.outcome.log.as_ref().map(|log| log.from_entry) == Some(0);
        if is_list_sent && agent.stored_list == StoredList::Unusable {
            agent.stored_list = StoredList::Settled;
        }
        let is_cleared = had_failed && agent.state.failure.is_none();
        match provisional.cause {
            Cause::Evidence(session, challenge) => {
                if let Some(live) = agent.session.as_mut().filter(|live| live.id == session) {
                    live.proved = provisional.proved.or(live.proved);
                }
                self.answer(&provisional, session, challenge, last_passed_unix_ms, now);
            }
            Cause::Clearing if is_cleared => {
                let agent = provisional.outcome.agent.clone();
                let event = Event::Cleared { agent };
                self.actions.push_back(Action::Event(event));
            }
            Cause::Clearing => {}
            Cause::Rejudging => self.tell_rejudged(&provisional),
        }
        self.announce(place, now, provisional.outcome.code, &provisional.detail);
        if let (Some(policy), Some(agent)) = (provisional.baseline, self.agent(place)) {
            let event = Event::BaselineProven {
                agent: provisional.outcome.agent,
                group: agent.record.group.clone(),
                policy,
            };
            self.actions.push_back(Action::Event(event));
        }
        if let (Some(last_pass), Some(agent)) = (provisional.last_pass, self.agent_mut(place)) {
            agent.last_pass = Some(last_pass);
        }
        self.end_faulty_session(place);
        // Whoever failed for other reasons than a policy shows its list from entry 0.
        if provisional.outcome.code.is_none_or(is_of_policy) {
            self.consider_rejudging(place);
        }
        self.arm(place);
        self.clear_if_asked(place, now);
    }

    fn tell_rejudged(&mut self, provisional: &Provisional) {
        let outcome = &provisional.outcome;
        let Some(policy) = outcome.policy else { return };
        let event = Event::Rejudged {
            agent: outcome.agent.clone(),
            policy,
            code: outcome.code,
            entries: provisional.entries,
        };
        self.actions.push_back(Action::Event(event));
    }

    /// Does what an operator asked for while an outcome was on its way.
    pub(super) fn clear_if_asked(&mut self, place: u32, now: Now) {
        let asked = self
            .agent_mut(place)
            .is_some_and(|agent| std::mem::take(&mut agent.is_to_be_cleared));
        if asked {
            self.clear(place, now);
        }
    }

    /// Answers the evidence that led to an outcome.
    fn answer(
        &mut self,
        provisional: &Provisional,
        session: SessionId,
        challenge: ChallengeId,
        last_passed_unix_ms: u64,
        now: Now,
    ) {
        let took_ms = now.mono_ms.saturating_sub(provisional.arrived_ms);
        self.end_challenge(provisional.place, Some(took_ms));
        let Some(agent) = self.agent(provisional.place) else {
            return;
        };
        let status = agent.status(self.group_of(agent), now.mono_ms);
        let wait = agent.due_ms.saturating_sub(now.mono_ms);
        let code = provisional.outcome.code;
        let answer = Answer {
            status,
            code,
            detail: provisional.detail.clone(),
            next_after_ms: u32::try_from(wait).unwrap_or(u32::MAX),
        };
        let passed_unix_ms = provisional.outcome.state.last_passed_unix_ms;
        let replaces = last_passed_unix_ms > 0 && passed_unix_ms > last_passed_unix_ms;
        let age_ms = replaces.then(|| passed_unix_ms.saturating_sub(last_passed_unix_ms));
        let message = ToAgent::Verdict(challenge, answer);
        self.actions.push_back(Action::Send { session, message });
        self.actions.push_back(Action::Event(Event::Attested {
            agent: provisional.outcome.agent.clone(),
            status,
            code,
            took_ms,
            age_ms,
            entries: provisional.entries,
        }));
    }

    /// The tick is lost: nothing in it happened, and its agents are asked again after a pause.
    /// (S17)
    pub(super) fn commit_failed(&mut self, seq: u64, now: Now) {
        let Some(in_flight) = self.in_flight.take_if(|tick| tick.seq == seq) else {
            return;
        };
        self.seq = seq.saturating_sub(1);
        self.head = in_flight.before;
        let pause_ms = u64::from(self.settings.retry_after_ms).min(self.settings.interval_ms);
        for provisional in in_flight.outcomes {
            self.end_challenge(provisional.place, None);
            if let Some(agent) = self.agent_mut(provisional.place) {
                agent.phase = Phase::Idle;
                // Not at once: what the store refuses now it may refuse again.
                agent.due_ms = now.mono_ms.saturating_add(pause_ms);
            }
            if provisional.cause == Cause::Clearing
                && let Some(agent) = self.agent_mut(provisional.place)
            {
                // It was the clearing itself that is lost.
                agent.is_to_be_cleared = true;
            } else {
                self.clear_if_asked(provisional.place, now);
            }
            self.consider_rejudging(provisional.place);
            self.arm(provisional.place);
        }
    }
}
