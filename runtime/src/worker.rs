//! One worker: a thread that drives many shards.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::evidence::{Peer, SessionId, ToAgent};
use rat_engine::ima::ImaCaches;
use rat_engine::shard::{Action, Driver, EffectiveStatus, Event, Input, Pacer, Shard, Task, Tick};
use rat_engine::time::Now;

use crate::clock::{Clock, OsNonces};
use crate::events::Events;
use crate::health::Pulse;
use crate::lanes::{self, Lanes, Work};
use crate::limits::{
    ACTIONS_PER_TURN_MAX, BATCH_MAX, HEARTBEAT_MS, INLINE_LIST_BYTES_MAX, INLINE_TASKS_MAX,
};
use crate::list_reader::{ReadJob, ReaderDoor, Reread};
use crate::mailbox::{Mailbox, Notice, Request};
use crate::measures;
use crate::settings::Settings;
use crate::store_thread::{Job, StoreDoor};
use crate::upload::Upload;

mod looking;
mod places;
mod turned_away;
mod uploading;

use places::Places;
use turned_away::TurnedAway;

/// Everything that one worker's thread has.
pub(crate) struct Worker {
    pub(crate) shards: Vec<Shard>,
    /// How many workers there are: shard `s` is at place `s / workers`.
    pub(crate) workers: usize,
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) lanes: Lanes,
    pub(crate) caches: Arc<ImaCaches>,
    pub(crate) store: StoreDoor,
    pub(crate) reader: ReaderDoor,
    pub(crate) events: Events,
    pub(crate) is_draining: Arc<AtomicBool>,
    pub(crate) turn: Turn,
}

/// What a worker remembers between two turns, beside its shards.
pub(crate) struct Turn {
    pacer: Pacer,
    nonces: OsNonces,
    peers: HashMap<SessionId, Box<dyn Peer>>,
    uploads: HashMap<AgentId, Upload>,
    /// Tasks whose lists wait for their turn, and since when.
    queued: VecDeque<(u64, Box<Task>)>,
    /// Tasks that were asked for in this turn.
    tasks: Vec<Task>,
    /// Ticks that are to be committed, of this turn.
    ticks: Vec<Tick>,
    /// Shards to be polled.
    touched: Places,
    /// Shards whose agents wait for the pacer.
    held: Places,
    /// Shards whose agents' relays had no share of the challenges left.
    held_relayed: Places,
    /// The pacer's count of ended challenges when these shards were last all to be asked again.
    relayed_at: u64,
    /// How many of them are still to be asked.
    relayed_left: usize,
    /// Shards whose stored lists wait for the pacer.
    held_lists: Places,
    deadlines: BinaryHeap<Reverse<(u64, usize)>>,
    next_deadline: Vec<Option<u64>>,
    counted: Counted,
    turned_away: TurnedAway,
    /// When metrics are told of the caches again.
    figures_due_ms: u64,
    stops: bool,
}

impl Turn {
    pub(crate) fn new(settings: &Settings, shards: usize) -> Self {
        Self {
            pacer: Pacer::new(settings.pacer),
            nonces: OsNonces,
            peers: HashMap::new(),
            uploads: HashMap::new(),
            queued: VecDeque::new(),
            tasks: Vec::new(),
            ticks: Vec::new(),
            touched: Places::all(shards),
            held: Places::none(shards),
            held_relayed: Places::none(shards),
            relayed_at: 0,
            relayed_left: 0,
            held_lists: Places::none(shards),
            deadlines: BinaryHeap::new(),
            next_deadline: vec![None; shards],
            counted: Counted::default(),
            turned_away: TurnedAway::default(),
            figures_due_ms: 0,
            stops: false,
        }
    }

    /// Whether shards whose agents wait for their relays are to be asked again: once for each time
    /// that something ended.
    fn may_relay(&self) -> bool {
        let is_due = self.relayed_left > 0 || self.pacer.ended() != self.relayed_at;
        is_due && self.pacer.relay_room() > 0
    }

    /// As many shards whose stored lists waited are polled again as the pacer lets lists through.
    fn release_lists(&mut self) {
        for _ in 0..self.pacer.rejudging_room() {
            let Some(place) = self.held_lists.take() else {
                return;
            };
            self.touched.put(place);
        }
    }

    /// Shards whose agents waited are polled again when the pacer has room, in turn, and no more of
    /// them than it has room for.
    fn release(&mut self) {
        for _ in 0..self.pacer.room() {
            let Some(place) = self.held.take() else { break };
            self.touched.put(place);
        }
        if !self.may_relay() {
            return;
        }
        if self.pacer.ended() != self.relayed_at {
            self.relayed_at = self.pacer.ended();
            self.relayed_left = self.held_relayed.len();
        }
        for _ in 0..self.pacer.relay_room() {
            if self.relayed_left == 0 {
                return;
            }
            self.relayed_left = self.relayed_left.saturating_sub(1);
            if let Some(place) = self.held_relayed.take() {
                self.touched.put(place);
            }
        }
    }

    fn due(&mut self, now_ms: u64) {
        while let Some(Reverse((deadline_ms, place))) = self.deadlines.peek().copied() {
            if deadline_ms > now_ms {
                return;
            }
            self.deadlines.pop();
            if self.next_deadline.get(place).copied().flatten() == Some(deadline_ms) {
                self.set_deadline(place, None);
                self.touched.put(place);
            }
        }
    }

    fn set_deadline(&mut self, place: usize, deadline_ms: Option<u64>) {
        let Some(known) = self.next_deadline.get_mut(place) else {
            return;
        };
        if *known != deadline_ms {
            *known = deadline_ms;
            if let Some(deadline_ms) = deadline_ms {
                self.deadlines.push(Reverse((deadline_ms, place)));
            }
        }
    }

    /// How long there is nothing to do unless something arrives.
    fn rest_ms(&self, now_ms: u64) -> u64 {
        let may_go_on = (self.pacer.may_open() && !self.held.is_empty())
            || (self.may_relay() && !self.held_relayed.is_empty())
            || (self.pacer.rejudging_room() > 0 && !self.held_lists.is_empty());
        if !self.touched.is_empty() || may_go_on {
            return 0;
        }
        let next = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let uploads = self.uploads.values().map(Upload::deadline_ms).min();
        let soonest = next.into_iter().chain(uploads).min().unwrap_or(u64::MAX);
        soonest.saturating_sub(now_ms).min(HEARTBEAT_MS)
    }
}

/// How many agents of this worker metrics count with each status. Agents of a worker that is gone,
/// however it went, are counted no more: nobody knows what they are. (S14)
#[derive(Default)]
struct Counted(BTreeMap<EffectiveStatus, i64>);

impl Counted {
    /// One agent is counted otherwise than before; `None` when it came or went.
    ///
    /// An agent that goes may be taken off before the event arrives by which it came to its last
    /// status. Then a count is less than it should be, until it does.
    fn change(&mut self, from: Option<EffectiveStatus>, to: Option<EffectiveStatus>) {
        for (status, by) in [(from, -1), (to, 1)] {
            if let Some(status) = status {
                let count = self.0.entry(status).or_default();
                *count = count.saturating_add(by);
                measures::agents(status, by);
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for (status, count) in &self.0 {
            measures::agents(*status, count.saturating_neg());
        }
    }
}

/// Tells everybody that the worker is gone when its thread ends, however it ends. (S01)
struct Closing(Arc<Mailbox>);

impl Drop for Closing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            measures::worker_died();
            tracing::error!("a worker panicked; its agents are not served until a restart");
        }
        self.0.close();
    }
}

impl Worker {
    /// Drives the shards until told to stop.
    pub(crate) fn run(mut self) {
        let _closing = Closing(Arc::clone(&self.mailbox));
        let mut rest_ms = 0;
        while !self.turn.stops {
            let batch = self.mailbox.take(BATCH_MAX, Duration::from_millis(rest_ms));
            let now = self.clock.now();
            measures::queue_depth(batch.requests.len());
            if let Some(waited) = batch.waited {
                measures::queue_wait(waited);
            }
            for notice in batch.notices {
                self.notice(notice, now);
            }
            for request in batch.requests {
                self.request(request, now);
            }
            self.end_stale_uploads(now);
            self.end_slow_uploads(now);
            self.turn.due(now.mono_ms);
            self.turn.release();
            self.turn.release_lists();
            self.poll(now);
            self.commit();
            self.judge();
            self.tell_figures(now.mono_ms);
            let is_draining = self.is_draining.load(Ordering::Acquire);
            let is_busy = is_draining
                && (!self.turn.touched.is_empty() || self.shards.iter().any(Shard::is_busy));
            self.pulse.turned(now.mono_ms, is_busy);
            let waiting = self.mailbox.waiting();
            rest_ms = if waiting > 0 {
                0
            } else {
                self.turn.rest_ms(now.mono_ms)
            };
        }
    }

    /// All workers tell the same figures: the caches are one for all of them.
    fn tell_figures(&mut self, now_ms: u64) {
        if now_ms >= self.turn.figures_due_ms {
            self.turn.figures_due_ms = now_ms.saturating_add(HEARTBEAT_MS);
            measures::ima_caches(&self.caches.figures());
        }
    }

    fn place_of(&self, shard: ShardIndex) -> usize {
        usize::from(shard.get())
            .checked_div(self.workers)
            .unwrap_or(0)
    }

    fn give(&mut self, shard: ShardIndex, input: Input, now: Now) {
        let place = self.place_of(shard);
        if let Some(shard) = self.shards.get_mut(place) {
            shard.handle(input, now);
            self.turn.touched.put(place);
        }
    }

    fn request(&mut self, request: Request, now: Now) {
        match request {
            Request::Connected {
                session,
                hello,
                peer,
            } => self.connected(session, hello, peer, now),
            Request::Disconnected { session, agent } => {
                self.turn.peers.remove(&session);
                self.upload_lost_session(session, &agent, now);
                self.give(agent.shard(), Input::Disconnected { session, agent }, now);
            }
            Request::Evidence {
                session,
                agent,
                submission,
            } => {
                let shard = agent.shard();
                let input = Input::Evidence {
                    session,
                    agent,
                    submission,
                };
                self.give(shard, input, now);
            }
            Request::Arriving {
                session,
                agent,
                challenge,
                bytes,
            } => {
                let shard = agent.shard();
                let input = Input::Arriving {
                    session,
                    agent,
                    challenge,
                    bytes,
                };
                self.give(shard, input, now);
            }
            Request::Piece {
                session,
                agent,
                challenge,
                piece,
            } => self.piece(session, &agent, challenge, piece, now),
            Request::Input {
                shard,
                input,
                taken,
            } => {
                self.enrolment(shard, *input, now);
                // Whoever asked may have gone away.
                let _ = taken.send(());
            }
            Request::Look(look) => self.look(look, now),
        }
    }

    /// An operator's input, and how it changes what metrics count.
    pub(crate) fn enrolment(&mut self, shard: ShardIndex, input: Input, now: Now) {
        let agent = match &input {
            Input::Agent { record, .. } => Some(record.id.clone()),
            Input::Remove(agent) | Input::SetAside(agent) => Some(agent.clone()),
            _ => None,
        };
        let Some(agent) = agent else {
            return self.give(shard, input, now);
        };
        let place = self.place_of(shard);
        let holder = self.shards.get(place);
        let before = holder.and_then(|shard| shard.shown(&agent));
        let aside = holder.and_then(|shard| shard.shown_aside(&agent));
        self.give(shard, input, now);
        let after = self.shards.get(place);
        let after = after.and_then(|shard| shard.shown(&agent));
        // Whoever was here and stays, or comes back, changes from what was told of it by an event.
        match (before, after) {
            (None, Some(after)) => self.turn.counted.change(None, aside.or(Some(after))),
            (Some(before), None) => self.turn.counted.change(Some(before), None),
            _ => {}
        }
    }

    fn connected(
        &mut self,
        session: SessionId,
        hello: Box<rat_engine::evidence::Hello>,
        peer: Box<dyn Peer>,
        now: Now,
    ) {
        if self.turn.peers.len() >= self.settings.sessions_per_worker_max {
            measures::limit_rejection("sessions_per_worker_max");
            peer.send(ToAgent::Refused {
                code: rat_engine::evidence::Refusal::Busy,
                retry_after_ms: self.settings.retry_after_ms,
            });
            return;
        }
        self.turn.peers.insert(session, peer);
        let shard = hello.agent.shard();
        self.give(shard, Input::Connected { session, hello }, now);
    }

    fn notice(&mut self, notice: Notice, now: Now) {
        match notice {
            Notice::Group(group) => self.every_group(&group, now),
            Notice::Drain => self.every_shard(now, || Input::Drain),
            Notice::Look => {}
            Notice::Stop => self.turn.stops = true,
            Notice::Begun(task) => self.begun(task, now),
            Notice::Fed {
                task,
                piece,
                overran,
            } => self.fed(task, piece, overran, now),
            Notice::Staged { agent, challenge } => self.staged(&agent, challenge, now),
            Notice::Finished(judged) => {
                let shard = judged.agent.shard();
                self.give(shard, Input::Judged(judged), now);
            }
            Notice::Panicked { agent, challenge } => {
                self.forget_upload(&agent, challenge, now);
                let why = rat_engine::shard::Abandon::Panicked;
                self.abandon(agent, challenge, why, now);
            }
            Notice::Committed { shard, seq } => self.give(shard, Input::Committed { seq }, now),
            Notice::CommitFailed { shard, seq } => {
                self.give(shard, Input::CommitFailed { seq }, now);
            }
            Notice::Read { reread, piece } => {
                if self.goes_on(&reread, now) {
                    self.lanes.give(Work::Rejudge(reread, piece), &self.mailbox);
                }
            }
            Notice::ReadOn(reread) => {
                if self.goes_on(&reread, now) {
                    let job = ReadJob::Next(reread, Arc::clone(&self.mailbox));
                    self.reader.give(job);
                }
            }
            Notice::Rejudged(rejudged) => {
                let shard = rejudged.agent.shard();
                self.give(shard, Input::Rejudged(rejudged), now);
            }
        }
    }

    /// Whether an attempt to judge a stored list still counts; then it has its time again. What was
    /// given up reads no further: its place is another list's by now. (S01)
    fn goes_on(&mut self, reread: &Reread, now: Now) -> bool {
        let rejudge = reread.task.rejudge();
        let (agent, id) = (rejudge.agent.clone(), rejudge.id);
        let index = agent.shard();
        let shard = self.shards.get(self.place_of(index));
        let counts = shard.is_some_and(|shard| shard.is_rejudging(&agent, id));
        if counts {
            self.give(index, Input::Rejudging { agent, id }, now);
        }
        counts
    }

    /// What a group demands, for every shard.
    pub(crate) fn every_group(&mut self, group: &Arc<rat_engine::shard::Group>, now: Now) {
        self.every_shard(now, || Input::Group(Arc::clone(group)));
    }

    fn every_shard(&mut self, now: Now, input: impl Fn() -> Input) {
        for (place, shard) in self.shards.iter_mut().enumerate() {
            shard.handle(input(), now);
            self.turn.touched.put(place);
        }
    }

    /// Polls every shard that something happened to, each at most so often before the next.
    fn poll(&mut self, now: Now) {
        for _ in 0..self.turn.touched.len() {
            let Some(place) = self.turn.touched.take() else {
                return;
            };
            for turn in 0..=ACTIONS_PER_TURN_MAX {
                if turn == ACTIONS_PER_TURN_MAX {
                    self.turn.touched.put(place);
                    break;
                }
                let Some(shard) = self.shards.get_mut(place) else {
                    break;
                };
                let mut driver = Driver {
                    pacer: &mut self.turn.pacer,
                    nonces: &mut self.turn.nonces,
                };
                let Some(action) = shard.poll(now, &mut driver) else {
                    break;
                };
                self.act(action, now);
            }
            let shard = self.shards.get(place);
            if shard.is_some_and(Shard::is_waiting) {
                self.turn.held.put(place);
            }
            if shard.is_some_and(Shard::has_relayed_waiting) {
                self.turn.held_relayed.put(place);
            }
            if shard.is_some_and(Shard::has_lists_waiting) {
                self.turn.held_lists.put(place);
            }
            let deadline_ms = shard.and_then(Shard::next_deadline_ms);
            self.turn.set_deadline(place, deadline_ms);
        }
    }

    fn act(&mut self, action: Action, now: Now) {
        match action {
            Action::Send { session, message } => {
                let is_last = matches!(message, ToAgent::Refused { .. });
                if let Some(peer) = self.turn.peers.get(&session) {
                    peer.send(message);
                }
                if is_last {
                    self.turn.peers.remove(&session);
                }
            }
            Action::Appraise(assignment) => {
                let task = Task::new(*assignment).with_caches(Arc::clone(&self.caches));
                self.turn.tasks.push(task);
            }
            Action::Rejudge(rejudge) => {
                let job = ReadJob::Open(rejudge, Arc::clone(&self.mailbox));
                self.reader.give(job);
            }
            Action::Commit(tick) => self.turn.ticks.push(Arc::unwrap_or_clone(tick)),
            Action::Event(event) => self.tell(event, now),
        }
    }

    fn tell(&mut self, event: Event, now: Now) {
        measures::event(&event);
        match &event {
            Event::Status { from, to, .. } => self.turn.counted.change(Some(*from), Some(*to)),
            Event::Abandoned { agent, .. } => self.drop_upload_of(&agent.clone(), now),
            Event::BaselineProven { group, policy, .. } => self.store.give(Job::Baseline {
                group: group.clone(),
                policy: *policy,
            }),
            _ => {}
        }
        if let Some(fault) = self.turn.turned_away.fault(&event, now.mono_ms) {
            self.store.give(Job::Fault(fault));
        }
        self.events.tell(event);
    }

    /// Gives the store the ticks of this turn, all at once: given one by one, the first would be
    /// committed alone.
    fn commit(&mut self) {
        let ticks = std::mem::take(&mut self.turn.ticks);
        if !ticks.is_empty() {
            let mailbox = Arc::clone(&self.mailbox);
            self.store.give(Job::Commit { ticks, mailbox });
        }
    }

    /// Has this turn's evidence judged: a little by the worker itself, which is quicker than
    /// handing it over, and the rest in lanes.
    ///
    /// What came in one turn makes one batch. Nobody waits for others: a worker with little to do
    /// has turns of one message, and the more comes while it works, the more it finds the next time.
    fn judge(&mut self) {
        let tasks = std::mem::take(&mut self.turn.tasks);
        let is_short = |task: &Task| task.begin_bytes() <= INLINE_LIST_BYTES_MAX;
        let (short, long): (Vec<_>, Vec<_>) = tasks.into_iter().partition(is_short);
        if short.len() <= INLINE_TASKS_MAX || !self.lanes.are_there() {
            lanes::run(Work::Begin(short), &self.mailbox);
        } else {
            self.lanes.begin(short, &self.mailbox);
        }
        for task in long {
            self.lanes.give(Work::Begin(vec![task]), &self.mailbox);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn s14_agents_of_a_worker_that_dies_are_counted_no_more() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = recorder.handle();
        let trusted = format!(
            "attest_agents{{state=\"{}\"}}",
            EffectiveStatus::Trusted.as_str()
        );
        metrics::with_local_recorder(&recorder, || {
            let is_trusted = Some(EffectiveStatus::Trusted);
            let mut others = Counted::default();
            others.change(None, is_trusted);
            let dies = std::panic::AssertUnwindSafe(|| {
                let mut counted = Counted::default();
                for _ in 0..3 {
                    counted.change(None, is_trusted);
                }
                counted.change(is_trusted, None);
                assert!(shown.render().contains(&format!("{trusted} 3")));
                panic!("a worker that panics, in a test");
            });
            assert!(std::panic::catch_unwind(dies).is_err());
            assert!(shown.render().contains(&format!("{trusted} 1")));
        });
    }
}
