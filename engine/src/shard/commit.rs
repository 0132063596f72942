//! From provisional outcomes to durable ones.

use std::sync::Arc;

use super::agent::Phase;
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
    pub(super) outcome: Outcome,
    pub(super) session: Option<SessionId>,
    pub(super) challenge: Option<ChallengeId>,
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
        if let Some(live) = &mut agent.session
            && Some(live.id) == provisional.session
        {
            live.proved = provisional.proved.or(live.proved);
        }
        if provisional.challenge.is_none() && had_failed && agent.state.failure.is_none() {
            let agent = provisional.outcome.agent.clone();
            self.actions
                .push_back(Action::Event(Event::Cleared { agent }));
        }
        self.answer(&provisional, last_passed_unix_ms, now);
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
        self.arm(place);
        self.clear_if_asked(place, now);
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
    fn answer(&mut self, provisional: &Provisional, last_passed_unix_ms: u64, now: Now) {
        let (Some(session), Some(challenge)) = (provisional.session, provisional.challenge) else {
            return;
        };
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
            if provisional.challenge.is_some() {
                self.clear_if_asked(provisional.place, now);
            } else if let Some(agent) = self.agent_mut(provisional.place) {
                // It was the clearing itself that is lost.
                agent.is_to_be_cleared = true;
            }
            self.arm(provisional.place);
        }
    }
}
