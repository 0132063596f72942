//! The shard itself: who is in it, and what is waiting to be done.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::agent::{Agent, Phase, StoredList};
use super::commit::{InFlight, Provisional};
use super::input::{Abandon, Action, AgentView, Event, Glance, Input, Operation};
use super::pacing::{Pacer, Share, Slot};
use super::record::{AgentRecord, Group};
use super::rejudge::Unusable;
use super::resting::AgentRef;
use super::roster::Roster;
use super::settings::Settings;
use super::state::{AgentState, EffectiveStatus};
use super::tick::{ChainHash, Epoch};
use super::wheel::{Timer, Wheel};
use crate::agent_id::{AgentId, ShardIndex};
use crate::evidence::{ChallengeId, NonceSource, Refusal, SessionId, ToAgent};
use crate::ima::judge::Judge;
use crate::time::Now;

/// What a shard needs while it is polled, and shares with others of its worker.
pub struct Driver<'d> {
    /// How much is asked of the fleet at once.
    pub pacer: &'d mut Pacer,
    /// Where nonces and jitter come from.
    pub nonces: &'d mut dyn NonceSource,
}

/// One partition of the fleet.
///
/// There are four kinds of methods. [`handle`](Self::handle) takes what happened.
/// [`poll`](Self::poll) gives what is to be done, and is called until it gives `None`.
/// [`next_deadline_ms`](Self::next_deadline_ms) says when to poll again if nothing happens. The
/// others look. `now` must not go back from call to call on its monotonic clock.
///
/// # Security
/// An agent's trust, position and failure change by one way only: evidence that was judged, made
/// an [`Outcome`](super::Outcome), and reported as committed. (S17)
#[derive(Debug)]
pub struct Shard {
    pub(super) index: ShardIndex,
    pub(super) epoch: Epoch,
    pub(super) settings: Settings,
    pub(super) groups: HashMap<String, Arc<Group>>,
    /// What is demanded of each of Keylime's agents.
    pub(super) terms: HashMap<String, Arc<Group>>,
    pub(super) roster: Roster,
    /// The status that was told last of each agent that is set aside, until it is back.
    pub(super) aside: HashMap<AgentId, EffectiveStatus>,
    /// Whose open challenge is which.
    pub(super) open: HashMap<ChallengeId, u32>,
    pub(super) wheel: Wheel,
    pub(super) actions: VecDeque<Action>,
    /// Connections that wait to be admitted.
    pub(super) greetings: VecDeque<(SessionId, u32)>,
    /// Agents that are due, in the order in which they became so.
    pub(super) ready: VecDeque<u32>,
    /// Those of them that relays speak for, likewise.
    pub(super) ready_relayed: VecDeque<u32>,
    pub(super) relays_are_next: bool,
    /// Agents whose stored lists are to be judged again. (L07)
    pub(super) rejudges: VecDeque<u32>,
    /// How many attempts to do so were begun.
    pub(super) rejudged: u64,
    /// Challenges that ended since the last poll, with the time their evidence took.
    pub(super) closed: Vec<(Share, Option<u64>)>,
    /// Agents whose logs began to arrive since the last poll.
    pub(super) arriving: Vec<u32>,
    pub(super) provisional: Vec<Provisional>,
    pub(super) in_flight: Option<InFlight>,
    pub(super) seq: u64,
    pub(super) head: ChainHash,
    pub(super) is_draining: bool,
    fired: Vec<Timer>,
}

impl Shard {
    /// A shard without agents, whose newest tick in the store is `seq` with this chain head.
    pub fn new(
        index: ShardIndex,
        epoch: Epoch,
        seq: u64,
        head: ChainHash,
        settings: Settings,
    ) -> Self {
        Self {
            index,
            epoch,
            settings,
            groups: HashMap::new(),
            terms: HashMap::new(),
            roster: Roster::default(),
            aside: HashMap::new(),
            open: HashMap::new(),
            wheel: Wheel::new(),
            actions: VecDeque::new(),
            greetings: VecDeque::new(),
            ready: VecDeque::new(),
            ready_relayed: VecDeque::new(),
            relays_are_next: false,
            rejudges: VecDeque::new(),
            rejudged: 0,
            closed: Vec::new(),
            arriving: Vec::new(),
            provisional: Vec::new(),
            in_flight: None,
            seq,
            head,
            is_draining: false,
            fired: Vec::new(),
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Agent {
                record,
                state,
                candidate,
            } => self.put(*record, *state, candidate, now),
            Input::Remove(agent) => {
                self.terms.remove(agent.as_str());
                self.remove(&agent, Refusal::UnknownAgent);
            }
            Input::SetAside(agent) => self.set_aside(&agent),
            Input::Group(group) => self.put_group(group, now),
            Input::Terms { agent, terms } => self.put_terms(&agent, terms, now),
            Input::Connected { session, hello } => self.connected(session, &hello, now),
            Input::Disconnected { session, agent } => self.disconnected(session, &agent, now),
            Input::Evidence {
                session,
                agent,
                submission,
            } => self.evidence(session, &agent, *submission, now),
            Input::Arriving {
                session,
                agent,
                challenge,
                bytes,
            } => self.logs_arrive(session, &agent, challenge, bytes, now),
            Input::Judged(judged) => self.judged(*judged, now),
            Input::Abandoned {
                agent,
                challenge,
                why,
            } => self.abandoned(&agent, challenge, why, now),
            Input::Rejudging { agent, id } => self.rejudging_goes_on(&agent, id, now),
            Input::Rejudged(rejudged) => self.rejudged(*rejudged, now),
            Input::Committed { seq } => self.committed(seq, now),
            Input::CommitFailed { seq } => self.commit_failed(seq, now),
            Input::Operate { agent, operation } => self.operate(&agent, operation, now),
            Input::Drain => self.drain(now),
        }
        self.roster.rest(now.mono_ms);
    }

    /// The next thing to be done, if there is one now.
    pub fn poll(&mut self, now: Now, driver: &mut Driver<'_>) -> Option<Action> {
        for (share, service_ms) in self.closed.drain(..) {
            driver.pacer.closed(share, service_ms, now.mono_ms);
        }
        for place in std::mem::take(&mut self.arriving) {
            let share = self.agent_mut(place);
            if let Some(share) = share.and_then(|agent| agent.share.as_mut()) {
                *share = driver.pacer.receive(*share);
            }
        }
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        self.sweep(now);
        self.greet(now, driver);
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some(action) = self.next_challenge(now, driver) {
            return Some(action);
        }
        if let Some(action) = self.next_rejudge(now, driver) {
            return Some(action);
        }
        let action = self.next_commit();
        if action.is_none() {
            self.roster.rest(now.mono_ms);
        }
        action
    }

    /// When something becomes due by itself, on the monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.wheel.next_ms()
    }

    /// Whether agents are due that the pacer has not let through yet: poll again when a challenge
    /// of the same worker ends.
    pub fn is_waiting(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether agents are due that relays speak for, and whose relays had no share left: poll again
    /// when [`Pacer::ended`] changed.
    pub fn has_relayed_waiting(&self) -> bool {
        !self.ready_relayed.is_empty()
    }

    /// Whether stored lists wait that the pacer has not let through yet: poll again when another
    /// list of the same worker was judged.
    pub fn has_lists_waiting(&self) -> bool {
        !self.rejudges.is_empty()
    }

    /// Whether any evidence is being judged, or anything committed.
    pub fn is_busy(&self) -> bool {
        let judging = |agent: &Agent| matches!(agent.phase, Phase::Judging(_));
        let has_outcomes = self.in_flight.is_some() || !self.provisional.is_empty();
        has_outcomes || self.roster.awake().any(judging)
    }

    /// One agent.
    pub fn view(&self, agent: &AgentId, now: Now) -> Option<AgentView> {
        let agent = self.agent(self.place(agent)?)?;
        Some(self.view_of(&agent, now))
    }

    /// The least of it.
    pub fn glance(&self, agent: &AgentId, now: Now) -> Option<Glance> {
        let agent = self.agent(self.place(agent)?)?;
        let status = agent.status(self.group_of(&agent), now.mono_ms);
        Some(Glance::new(status, &agent.state))
    }

    /// Every agent, in the order in which they came.
    pub fn views(&self, now: Now) -> impl Iterator<Item = AgentView> {
        self.agents().map(move |agent| self.view_of(&agent, now))
    }

    /// How many agents there are.
    pub fn len(&self) -> usize {
        self.roster.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.roster.len() == 0
    }

    /// The number of the newest tick that was begun and the chain's head after it.
    pub const fn head(&self) -> (u64, ChainHash) {
        (self.seq, self.head)
    }

    fn view_of(&self, agent: &Agent, now: Now) -> AgentView {
        AgentView {
            record: Arc::clone(&agent.record),
            terms: self.group_of(agent).and_then(|it| it.keylime.clone()),
            state: agent.state.clone(),
            trusted_until_unix_ms: agent.trusted_until_unix_ms,
            status: agent.status(self.group_of(agent), now.mono_ms),
            is_connected: agent.session.is_some(),
        }
    }

    pub(super) fn agents(&self) -> impl Iterator<Item = AgentRef<'_>> {
        self.roster.agents()
    }

    pub(super) fn place(&self, agent: &AgentId) -> Option<u32> {
        self.roster.place(agent)
    }

    pub(super) fn agent(&self, place: u32) -> Option<AgentRef<'_>> {
        self.roster.agent(place)
    }

    pub(super) fn agent_mut(&mut self, place: u32) -> Option<&mut Agent> {
        self.roster.agent_mut(place)
    }

    fn put(
        &mut self,
        record: AgentRecord,
        state: AgentState,
        candidate: Option<Arc<Judge>>,
        now: Now,
    ) {
        let id = record.id.clone();
        let told = self.aside.remove(&id).or_else(|| self.shown(&id));
        let max_age_ms = self.settings_for(&record.id, &record.group).max_age_ms;
        if let Some(place) = self.place(&id) {
            let retry = self.settings.retry_after_ms;
            self.refuse_session(place, Refusal::CertificateNotCurrent, retry);
            self.withdraw(place, now);
            let Some(known) = self.agent_mut(place) else {
                return;
            };
            if known.record.has_same_keys(&record) {
                // The same machine with another certificate. What is here is newer than what the
                // store said: an outcome may be on its way there.
                if known.record.group != record.group {
                    // What the other group demands is asked for at once.
                    known.due_ms = now.mono_ms;
                    known.limit_trust(max_age_ms, now);
                }
                known.record = Arc::new(record);
                known.directly_until_ms = 0;
                known.candidate = candidate;
                self.consider_rejudging(place, now);
                self.announce(place, now, None, "");
                return self.arm(place);
            }
            self.forget(place);
        }
        let mut agent = Agent::new(record, state, candidate, now, max_age_ms);
        let status = agent.status(self.group_of(&agent), now.mono_ms);
        agent.shown = told.unwrap_or(status);
        let Some(place) = self.roster.put(agent) else {
            return;
        };
        self.consider_rejudging(place, now);
        self.announce(place, now, None, "");
        self.arm(place);
    }

    /// The challenge of an agent is over; `service_ms` when its evidence was judged and committed.
    pub(super) fn end_challenge(&mut self, place: u32, service_ms: Option<u64>) {
        let share = self.agent_mut(place).and_then(|agent| agent.share.take());
        self.closed.extend(share.map(|share| (share, service_ms)));
    }

    pub(super) fn remove(&mut self, agent: &AgentId, code: Refusal) {
        self.aside.remove(agent);
        if let Some(place) = self.place(agent) {
            self.refuse_session(place, code, self.settings.retry_after_ms);
            self.forget(place);
        }
    }

    /// Takes an agent out, with everything that is open for it. What is being judged or committed
    /// finds nobody when it ends.
    fn forget(&mut self, place: u32) {
        let Some(agent) = self.roster.take(place) else {
            return;
        };
        self.closed.extend(agent.share.map(|share| (share, None)));
        match &agent.phase {
            Phase::Challenged(outstanding) => {
                self.open.remove(&outstanding.challenge.id);
            }
            Phase::Rejudging { .. } => {
                self.closed.push((Share::direct(Slot::Rejudging), None));
            }
            _ => {}
        }
        self.greetings.retain(|(_, waiting)| *waiting != place);
        self.not_ready(place);
        self.rejudges.retain(|waiting| *waiting != place);
        self.provisional.retain(|waiting| waiting.place != place);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.outcomes.retain(|waiting| waiting.place != place);
        }
    }

    pub(super) fn refuse_session(&mut self, place: u32, code: Refusal, retry_after_ms: u32) {
        let session = self.agent_mut(place).and_then(|agent| agent.session.take());
        if let Some(live) = session {
            self.refuse(live.id, code, retry_after_ms);
        }
    }

    pub(super) fn refuse(&mut self, session: SessionId, code: Refusal, retry_after_ms: u32) {
        let message = ToAgent::Refused {
            code,
            retry_after_ms,
        };
        self.actions.push_back(Action::Send { session, message });
    }

    fn operate(&mut self, agent: &AgentId, operation: Operation, now: Now) {
        let Some(place) = self.place(agent) else {
            return;
        };
        match operation {
            Operation::Recheck => {
                if let Some(agent) = self.agent_mut(place) {
                    agent.due_ms = now.mono_ms;
                }
                self.arm(place);
            }
            Operation::Clear => self.clear(place, now),
        }
    }

    fn drain(&mut self, now: Now) {
        self.is_draining = true;
        self.ready.clear();
        self.ready_relayed.clear();
        self.rejudges.clear();
        while let Some((session, _)) = self.greetings.pop_front() {
            self.refuse(session, Refusal::Draining, self.settings.retry_after_ms);
        }
        for place in self.roster.every_place() {
            // Most agents have nothing to end, and go on resting.
            let has_ended = |agent: &Agent| {
                let is_idle = matches!(agent.phase, Phase::Idle);
                is_idle && agent.session.is_none() && !agent.is_to_be_cleared
            };
            if self.agent(place).is_none_or(|agent| has_ended(&agent)) {
                continue;
            }
            self.roster.rest(now.mono_ms);
            self.end_rejudging(place, Phase::Idle);
            let Some(agent) = self.agent_mut(place) else {
                continue;
            };
            // What was asked for may still come; the driver decides how long it waits.
            if matches!(agent.phase, Phase::Ready) {
                agent.phase = Phase::Idle;
            }
            self.arm(place);
        }
    }

    fn abandoned(&mut self, agent: &AgentId, challenge: ChallengeId, why: Abandon, now: Now) {
        let Some(place) = self.place(agent) else {
            return;
        };
        let settings = self.settings_of(place);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        match &agent.phase {
            Phase::Judging(judging) if judging.challenge == challenge => {}
            _ => return,
        }
        agent.phase = Phase::Idle;
        agent.due_ms = now.mono_ms.saturating_add(settings.interval_ms);
        let id = agent.record.id.clone();
        self.end_challenge(place, None);
        let event = Event::Abandoned { agent: id, why };
        self.actions.push_back(Action::Event(event));
        self.arm(place);
    }

    /// Fires what is due.
    fn sweep(&mut self, now: Now) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.sweep(now.mono_ms, &mut fired);
        for timer in fired.drain(..) {
            let counts = self
                .agent_mut(timer.owner)
                .is_some_and(|agent| agent.timer_ms == Some(timer.deadline_ms));
            if counts {
                self.fire(timer.owner, now);
            }
        }
        self.fired = fired;
    }

    fn fire(&mut self, place: u32, now: Now) {
        let settings = self.settings_of(place);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        agent.timer_ms = None;
        let now_ms = now.mono_ms;
        match &agent.phase {
            Phase::Idle if agent.is_to_be_cleared && agent.due_ms <= now_ms => {
                self.clear_if_asked(place, now);
            }
            Phase::Idle if agent.due_ms <= now_ms => {
                if agent.stored_list == StoredList::Delayed {
                    agent.stored_list = StoredList::Wanted;
                }
                if agent.session.is_some() {
                    agent.phase = Phase::Ready;
                    self.is_ready(place);
                }
            }
            Phase::Challenged(outstanding) if outstanding.deadline_ms() <= now_ms => {
                let issued_ms = outstanding.issued.mono_ms;
                let id = outstanding.challenge.id;
                agent.due_ms = issued_ms.saturating_add(settings.interval_ms);
                agent.phase = Phase::Idle;
                self.open.remove(&id);
                self.end_challenge(place, None);
            }
            Phase::Judging(judging) if judging.ends_ms <= now_ms => {
                let (agent, challenge) = (agent.record.id.clone(), judging.challenge);
                self.abandoned(&agent, challenge, Abandon::Timeout, now);
            }
            Phase::Rejudging { ends_ms, .. } if *ends_ms <= now_ms => {
                self.cannot_rejudge(place, Unusable::Timeout, now);
            }
            _ => {}
        }
        self.announce(place, now, None, "");
        self.arm(place);
    }

    /// Sees to it that an agent's timer fires when something becomes due for it, or before: then it
    /// is set again. While the shard drains nothing becomes due any more: an agent that is done is
    /// let go.
    pub(super) fn arm(&mut self, place: u32) {
        let is_done = self
            .agent(place)
            .is_some_and(|agent| matches!(agent.phase, Phase::Idle));
        if self.is_draining && is_done {
            self.refuse_session(place, Refusal::Draining, self.settings.retry_after_ms);
        }
        self.queue_rejudging(place);
        self.roster.is_idle(place);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let step = match &agent.phase {
            Phase::Idle => {
                let has_work = agent.session.is_some()
                    || agent.is_to_be_cleared
                    || agent.stored_list == StoredList::Delayed;
                has_work.then_some(agent.due_ms)
            }
            Phase::Challenged(outstanding) => Some(outstanding.deadline_ms()),
            Phase::Judging(judging) => Some(judging.ends_ms),
            Phase::Rejudging { ends_ms, .. } => Some(*ends_ms),
            Phase::Ready | Phase::Committing | Phase::Clearing => None,
        };
        let ends = match agent.shown {
            EffectiveStatus::Trusted
            | EffectiveStatus::TrustedUnenforced
            | EffectiveStatus::Authentic => Some(agent.trusted_until_ms),
            _ => None,
        };
        let deadline_ms = match (step, ends) {
            (Some(step), Some(ends)) => step.min(ends),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return,
        };
        // No other one for each that comes and goes: with a day's interval they would wait in the
        // wheel for days.
        if agent.timer_ms.is_none_or(|set_ms| deadline_ms < set_ms) {
            agent.timer_ms = Some(deadline_ms);
            self.wheel.set(Timer {
                deadline_ms,
                owner: place,
            });
        }
    }
}
