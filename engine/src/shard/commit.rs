//! From provisional outcomes to durable ones.

use std::sync::Arc;

use super::agent::{Phase, StoredList, Via};
use super::conclude::Conclusion;
use super::failing::is_of_policy;
use super::input::{Action, Event};
use super::kept::Passed;
use super::machine::Shard;
use super::record::{AgentPath, Group};
use super::state::BootEpoch;
use super::tick::{ChainHash, Outcome, Tick};
use crate::evidence::{Answer, ChallengeId, Refusal, SessionId, ToAgent};
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
    /// What the evidence was judged by.
    pub(super) judged_by: Option<Arc<Group>>,
    pub(super) way: Way,
    pub(super) last_pass: LastPass,
    pub(super) baseline: Option<Digest>,
}

/// How long an agent is to come directly, when what its relay brought did not fit: then it may come
/// through the relay again, and is trusted when what it brings does fit.
const DIRECTLY_MS: u64 = 600_000;

/// By which way an agent is to come after an outcome. (Q16)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As before.
    Stays,
    /// By itself, past its relay.
    Directly,
    /// As its record says.
    AsUsual,
}

impl Way {
    pub(super) const fn of(conclusion: &Conclusion, via: Via) -> Self {
        match (conclusion, via) {
            (Conclusion::Mismatch(_), _) => Self::Directly,
            (Conclusion::NotTheAgents(_) | Conclusion::OnceMore(_), _) | (_, Via::Relay) => {
                Self::Stays
            }
            (_, Via::Itself) => Self::AsUsual,
        }
    }
}

/// How an agent stood before an outcome.
struct Before {
    had_failed: bool,
    last_passed_unix_ms: u64,
}

/// What becomes of the pass that is kept in case the next attestation fails.
#[derive(Debug)]
pub(super) enum LastPass {
    Stays,
    /// It is kept with the outcome.
    Gone,
    Is(Box<Passed>),
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
            judged_by: None,
            way: Way::Stays,
            last_pass: LastPass::Stays,
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
        // What is left is seldom: room for outcomes is not kept from one tick to the next.
        let rest = self.provisional.split_off(count);
        let batch = std::mem::replace(&mut self.provisional, rest);
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

    fn take_over(&mut self, mut provisional: Provisional, now: Now) {
        let place = provisional.place;
        let Some(before) = self.advance(&mut provisional, now) else {
            return;
        };
        self.consider_next(&provisional, now);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let is_cleared = before.had_failed && agent.state.failure.is_none();
        match provisional.cause {
            Cause::Evidence(session, challenge) => {
                let says_its_boot = agent.record.path == AgentPath::Native;
                if let Some(live) = agent.session.as_mut().filter(|live| live.id == session) {
                    live.proved = provisional.proved.or(live.proved);
                    // Keylime's agents do not say in which boot they are: their quotes do.
                    if let Some(boot) = provisional.proved.filter(|_| !says_its_boot) {
                        live.claimed = boot;
                    }
                }
                let last_passed_unix_ms = before.last_passed_unix_ms;
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
        let is_relayed = self
            .agent(place)
            .is_some_and(|agent| agent.relay().is_some());
        if provisional.way == Way::Directly && is_relayed {
            let retry = self.settings.retry_after_ms;
            self.refuse_session(place, Refusal::PathNotEnrolled, retry);
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
        self.end_faulty_session(place);
        self.arm(place);
        self.clear_if_asked(place, now);
    }

    /// The agent's state is that of the outcome from now on.
    fn advance(&mut self, provisional: &mut Provisional, now: Now) -> Option<Before> {
        let settings = self.settings_of(provisional.place);
        let agent = self.agent_mut(provisional.place)?;
        let before = Before {
            had_failed: agent.state.failure.is_some(),
            last_passed_unix_ms: agent.state.last_passed_unix_ms,
        };
        agent.state = provisional.outcome.state.clone();
        agent.phase = Phase::Idle;
        let longest_ms = settings.wait_ms_max(agent.state.failure.is_some());
        let due_ms_max = now.mono_ms.saturating_add(longest_ms);
        agent.due_ms = provisional.due_ms.clamp(now.mono_ms, due_ms_max);
        match provisional.way {
            Way::Stays => {}
            Way::AsUsual => agent.directly_until_ms = 0,
            Way::Directly => {
                agent.directly_until_ms = now.mono_ms.saturating_add(DIRECTLY_MS);
                agent.due_ms = now.mono_ms;
            }
        }
        agent.seen_ms = provisional.seen_ms.or(agent.seen_ms);
        if let Some(until_ms) = provisional.trusted_until_ms {
            agent.trusted_until_ms = until_ms;
            agent.trusted_until_unix_ms = agent.state.trusted_until_unix_ms;
            // The interval may have become shorter while the outcome was on its way.
            agent.limit_trust(settings.max_age_ms, now);
        }
        let is_list_sent = provisional.outcome.log.as_ref().map(|log| log.from_entry) == Some(0);
        if is_list_sent {
            agent.rejudge_tries = 0;
        }
        if is_list_sent && agent.stored_list == StoredList::Unusable {
            agent.stored_list = StoredList::Settled;
        }
        if provisional.cause == Cause::Rejudging {
            agent.rejudge_tries = 0;
        }
        match std::mem::replace(&mut provisional.last_pass, LastPass::Stays) {
            LastPass::Stays => {}
            LastPass::Gone => agent.last_pass = None,
            LastPass::Is(kept) => agent.last_pass = Some(kept),
        }
        Some(before)
    }

    /// Sees to what follows an outcome: its list is judged by what counts now, or it is asked at
    /// once for what its group demands by now. (L05, L07)
    fn consider_next(&mut self, provisional: &Provisional, now: Now) {
        let place = provisional.place;
        // Whoever failed for other reasons than a policy shows its list from entry 0.
        let is_considered = provisional.cause == Cause::Rejudging
            || provisional.outcome.code.is_none_or(is_of_policy);
        let waits = is_considered && self.consider_rejudging(place, now);
        let judged_by = provisional.judged_by.as_deref();
        let is_outdated = judged_by.is_some_and(|by| !self.is_as_demanded(place, by));
        if is_outdated
            && !waits
            && let Some(agent) = self.agent_mut(place)
        {
            agent.due_ms = now.mono_ms;
        }
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
        let status = agent.status(self.group_of(&agent), now.mono_ms);
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
        for provisional in in_flight.outcomes {
            let settings = self.settings_of(provisional.place);
            let pause_ms = u64::from(settings.retry_after_ms).min(settings.interval_ms);
            self.end_challenge(provisional.place, None);
            if let Some(agent) = self.agent_mut(provisional.place) {
                agent.phase = Phase::Idle;
                // Not at once: what the store refuses now it may refuse again.
                agent.due_ms = now.mono_ms.saturating_add(pause_ms);
            }
            match provisional.cause {
                // It was the clearing itself that is lost.
                Cause::Clearing => {
                    if let Some(agent) = self.agent_mut(provisional.place) {
                        agent.is_to_be_cleared = true;
                    }
                }
                Cause::Rejudging => {
                    self.rejudging_was_lost(provisional.place);
                }
                Cause::Evidence(..) => {}
            }
            if provisional.cause != Cause::Clearing {
                self.clear_if_asked(provisional.place, now);
            }
            self.consider_rejudging(provisional.place, now);
            self.arm(provisional.place);
        }
    }
}
