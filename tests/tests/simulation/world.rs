//! A fleet, its shards and its store, step by step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::crypto::Hasher;
use rat_engine::evidence::{ChallengeId, SessionId, Submission, ToAgent};
use rat_engine::hash::HashAlg;
use rat_engine::shard::{
    Action, AgentView, Driver, EffectiveStatus, Event, Group, Input, Pacer, PacerSettings, Rejudge,
    Rejudged, Settings, Shard, Task, Tick,
};
use rat_engine::time::Now;

use crate::durable::Durable;
use crate::faults::Faults;
use crate::fleet::{Allows, Body, Demanded, GROUPS, group_of, groups, record};
use crate::ledger::Ledger;
use crate::machine::SimMachine;
use crate::random::Random;

const AGENTS: u64 = 6;
/// Wall clock of the virtual epoch.
pub(crate) const UNIX_MS: u64 = 1_750_000_000_000;

/// What the yard begins with.
const YARD_INTERVAL_MS: Option<u64> = Some(25_000);

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Connect {
        body: Body,
    },
    /// An agent that was removed comes back.
    Enrol {
        agent: AgentId,
    },
    Deliver {
        body: Body,
        session: SessionId,
        message: ToAgent,
    },
    Evidence {
        agent: AgentId,
        session: SessionId,
        submission: Box<Submission>,
        life: u64,
    },
    Judged {
        task: Box<Task>,
        life: u64,
    },
    Reread {
        rejudge: Box<Rejudge>,
        life: u64,
    },
    Rejudged {
        rejudged: Box<Rejudged>,
        life: u64,
    },
    Committed {
        tick: Arc<Tick>,
        life: u64,
        fails: bool,
    },
    Answered {
        shard: ShardIndex,
        seq: u64,
        kept: bool,
        life: u64,
    },
    Second,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Happened {
    pub(crate) commits: u64,
    pub(crate) crashes: u64,
    pub(crate) restarts: u64,
    pub(crate) hidden: u64,
    pub(crate) kills: u64,
    pub(crate) copies: u64,
    pub(crate) repairs: u64,
    pub(crate) removals: u64,
    pub(crate) intervals: u64,
}

impl Happened {
    pub(crate) fn add(&mut self, other: Self) {
        self.commits += other.commits;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.hidden += other.hidden;
        self.kills += other.kills;
        self.copies += other.copies;
        self.repairs += other.repairs;
        self.removals += other.removals;
        self.intervals += other.intervals;
    }
}

pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) settings: Settings,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub(crate) happenings: HashMap<u64, Happening>,
    scheduled: u64,
    /// Machines, and copies of them.
    pub(crate) bodies: BTreeMap<Body, SimMachine>,
    /// The connections that they believe to have.
    pub(crate) sessions: HashMap<Body, SessionId>,
    pub(crate) next_session: u64,
    pub(crate) shards: BTreeMap<ShardIndex, Shard>,
    pacer: Pacer,
    pub(crate) ledger: Ledger,
    pub(crate) durable: Option<Durable>,
    pub(crate) was_removed: HashSet<AgentId>,
    /// Counts lives of the server; what an earlier life began means nothing to a later one.
    pub(crate) life: u64,
    times_untrusted: u64,
    pub(crate) happened: Happened,
    /// The groups as they are now; a server that starts is told so.
    pub(crate) groups: [Arc<Group>; 2],
    pub(crate) demanded: Demanded,
    /// The interval of the second one; `None` for the server's.
    pub(crate) yard_interval_ms: Option<u64>,
    rejudged: BTreeMap<String, u64>,
    appraised: HashSet<ChallengeId>,
    pub(crate) challenged: HashMap<ChallengeId, (AgentId, u64)>,
    trace: Hasher,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self::with_store(seed, faults, None)
    }

    /// The same, with a real store that must say what the model says.
    pub(crate) fn durable(seed: u64, faults: Faults) -> Self {
        Self::with_store(seed, faults, Some(Durable::new()))
    }

    fn with_store(seed: u64, faults: Faults, durable: Option<Durable>) -> Self {
        let machines = (0..AGENTS).map(|nth| {
            let id = AgentId::parse(&format!("machine-{nth}")).unwrap();
            (Body::original(&id), SimMachine::new(id))
        });
        let mut world = Self {
            now_ms: 5_000,
            random: Random::new(seed),
            faults,
            settings: Settings::default(),
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            scheduled: 0,
            bodies: machines.collect(),
            sessions: HashMap::new(),
            next_session: 0,
            shards: BTreeMap::new(),
            pacer: Pacer::new(PacerSettings::default()),
            ledger: Ledger::default(),
            durable,
            was_removed: HashSet::new(),
            life: 0,
            times_untrusted: 0,
            happened: Happened::default(),
            groups: groups(Demanded::usual(Allows::Usual), YARD_INTERVAL_MS),
            demanded: Demanded::usual(Allows::Usual),
            yard_interval_ms: YARD_INTERVAL_MS,
            rejudged: BTreeMap::new(),
            appraised: HashSet::new(),
            challenged: HashMap::new(),
            trace: Hasher::new(HashAlg::Sha256),
        };
        if let Some(durable) = &world.durable {
            world
                .bodies
                .values()
                .for_each(|machine| durable.enrol(&record(machine)));
        }
        world.start();
        world.schedule(1_000, Happening::Second);
        world
    }

    /// Machines, without copies of them.
    pub(crate) fn machines(&self) -> impl Iterator<Item = (&AgentId, &SimMachine)> {
        let originals = self.bodies.iter().filter(|(body, _)| !body.is_copy);
        originals.map(|(body, machine)| (&body.agent, machine))
    }

    pub(crate) fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.machines().map(|(agent, _)| agent)
    }

    /// An agent as it is shown; `None` while it is removed.
    pub(crate) fn view(&self, agent: &AgentId) -> Option<AgentView> {
        self.shards[&agent.shard()].view(agent, self.now())
    }

    pub(crate) fn status(&self, agent: &AgentId) -> EffectiveStatus {
        self.view(agent).unwrap().status
    }

    /// What the group of a machine demands.
    pub(crate) fn group_of(&self, agent: &AgentId) -> &Group {
        let nth = GROUPS.iter().position(|slug| *slug == group_of(agent));
        &self.groups[nth.unwrap()]
    }

    /// How long trust lasts in the group of a machine.
    pub(crate) fn max_age_ms(&self, agent: &AgentId) -> u64 {
        let own = self.group_of(agent).interval_ms;
        own.map_or(self.settings.max_age_ms, |interval_ms| 3 * interval_ms)
    }

    pub(crate) const fn happened(&self) -> Happened {
        self.happened
    }

    pub(crate) const fn times_untrusted(&self) -> u64 {
        self.times_untrusted
    }

    /// How often stored lists were judged again, by how that ended.
    pub(crate) const fn rejudged(&self) -> &BTreeMap<String, u64> {
        &self.rejudged
    }

    /// How many lists were sent from entry 0, of those that were proven.
    pub(crate) const fn whole_lists(&self) -> u64 {
        self.ledger.whole_lists
    }

    pub(crate) fn trace(&self) -> Vec<u8> {
        self.trace.clone().finish().as_bytes().to_vec()
    }

    pub(crate) fn verify_chains(&self) {
        let durable = self.durable.as_ref().unwrap();
        self.shards
            .keys()
            .for_each(|shard| durable.verify_chain(*shard));
    }

    /// Ends all faults. Operators set right what was copied or hid its list, and enforce the usual
    /// policy.
    pub(crate) fn heal(&mut self) {
        self.faults = Faults::none();
        self.yard_interval_ms = Some(4_000);
        self.activate(Allows::Usual);
        let is_odd = |it: &SimMachine| it.copied_at_ms.is_some() || it.has_hidden;
        let copied = self.machines().filter(|(_, it)| is_odd(it));
        let copied: Vec<AgentId> = copied.map(|(agent, _)| agent.clone()).collect();
        copied.iter().for_each(|agent| self.repair(agent));
    }

    pub(crate) fn run_ms(&mut self, duration_ms: u64) {
        let end_ms = self.now_ms + duration_ms;
        while let Some(at_ms) = self.next_ms().filter(|at| *at <= end_ms) {
            self.now_ms = self.now_ms.max(at_ms);
            if self.random.permille(self.faults.crash) {
                self.crash();
            }
            if let Some(Reverse((at, key))) = self.queue.peek().copied()
                && at <= self.now_ms
            {
                self.queue.pop();
                let happening = self.happenings.remove(&key).unwrap();
                self.happen(happening);
            }
            self.poll();
            self.check();
        }
        self.now_ms = end_ms;
        self.check();
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono_ms: self.now_ms,
            unix_ms: UNIX_MS + self.now_ms,
        }
    }

    fn next_ms(&self) -> Option<u64> {
        let queued = self.queue.peek().map(|Reverse((at, _))| *at);
        let timers = self
            .shards
            .values()
            .filter_map(Shard::next_deadline_ms)
            .min();
        queued.into_iter().chain(timers).min()
    }

    pub(crate) fn schedule(&mut self, after_ms: u64, happening: Happening) {
        self.scheduled += 1;
        self.happenings.insert(self.scheduled, happening);
        self.queue
            .push(Reverse((self.now_ms + after_ms, self.scheduled)));
    }

    pub(crate) fn delay_ms(&mut self) -> u64 {
        1 + self.random.below(self.faults.delay_ms_max + 1)
    }

    /// A server begins: it takes the shards over and loads what was committed.
    fn start(&mut self) {
        self.life += 1;
        let epoch = self.ledger.take_ownership();
        if let Some(durable) = &mut self.durable {
            assert_eq!(durable.reopen(), epoch);
            for agent in self.bodies.keys().map(|body| &body.agent) {
                if !self.ledger.is_removed(agent) {
                    assert_eq!(durable.state(agent), self.ledger.state(agent), "{agent}");
                }
                assert_eq!(durable.head(agent.shard()), self.ledger.head(agent.shard()));
            }
        }
        let now = self.now();
        self.shards.clear();
        self.sessions.clear();
        self.pacer = Pacer::new(PacerSettings::default());
        for (body, machine) in &self.bodies {
            let index = machine.id.shard();
            let (seq, head) = self.ledger.head(index);
            let settings = self.settings;
            let shard = self
                .shards
                .entry(index)
                .or_insert_with(|| Shard::new(index, epoch, seq, head, settings));
            for group in &self.groups {
                shard.handle(Input::Group(Arc::clone(group)), now);
            }
            if body.is_copy || self.ledger.is_removed(&machine.id) {
                continue;
            }
            let input = Input::Agent {
                record: Box::new(record(machine)),
                state: Box::new(self.ledger.state(&machine.id)),
                candidate: None,
            };
            shard.handle(input, now);
        }
        let bodies: Vec<Body> = self.bodies.keys().cloned().collect();
        for body in &bodies {
            let after = self.random.below(2_000);
            self.connect_after(after, body);
        }
    }

    fn crash(&mut self) {
        self.happened.crashes += 1;
        self.start();
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now();
        match happening {
            Happening::Second => self.second(),
            Happening::Connect { body } => self.connect(&body),
            Happening::Enrol { agent } => self.enrol(&agent),
            Happening::Deliver {
                body,
                session,
                message,
            } => self.deliver(&body, session, message),
            Happening::Evidence {
                agent,
                session,
                submission,
                life,
            } => {
                if life == self.life {
                    let input = Input::Evidence {
                        session,
                        agent: agent.clone(),
                        submission,
                    };
                    self.handle(&agent, input);
                }
            }
            Happening::Judged { mut task, life } => {
                if life == self.life {
                    let agent = task.agent().clone();
                    task.begin();
                    let judged = Box::new(task.finish());
                    self.handle(&agent, Input::Judged(judged));
                }
            }
            Happening::Reread { rejudge, life } => self.reread(*rejudge, life),
            Happening::Rejudged { rejudged, life } => {
                if life == self.life {
                    let agent = rejudged.agent.clone();
                    self.handle(&agent, Input::Rejudged(rejudged));
                }
            }
            Happening::Committed { tick, life, fails } => self.commit(&tick, life, fails),
            Happening::Answered {
                shard,
                seq,
                kept,
                life,
            } => {
                if life == self.life
                    && let Some(shard) = self.shards.get_mut(&shard)
                {
                    let input = match kept {
                        true => Input::Committed { seq },
                        false => Input::CommitFailed { seq },
                    };
                    shard.handle(input, now);
                }
            }
        }
    }

    fn commit(&mut self, tick: &Tick, life: u64, fails: bool) {
        // The store outlives the server: what was on its way may still arrive there.
        let kept = !fails && self.ledger.commit(tick);
        if let Some(durable) = self.durable.as_ref().filter(|_| !fails) {
            assert_eq!(durable.commit(tick), kept);
            durable.fold();
        }
        self.happened.commits += u64::from(kept);
        let (shard, seq) = (tick.shard, tick.seq);
        let after = self.delay_ms();
        let answered = Happening::Answered {
            shard,
            seq,
            kept,
            life,
        };
        self.schedule(after, answered);
    }

    pub(crate) fn handle(&mut self, agent: &AgentId, input: Input) {
        let now = self.now();
        self.shards
            .get_mut(&agent.shard())
            .unwrap()
            .handle(input, now);
    }

    fn poll(&mut self) {
        let now = self.now();
        let indices: Vec<ShardIndex> = self.shards.keys().copied().collect();
        for index in indices {
            loop {
                let mut driver = Driver {
                    pacer: &mut self.pacer,
                    nonces: &mut self.random,
                };
                let shard = self.shards.get_mut(&index).unwrap();
                let Some(action) = shard.poll(now, &mut driver) else {
                    break;
                };
                self.trace.update(self.line(&action).as_bytes());
                self.act(action);
            }
        }
    }

    /// An action without what keys and signatures make different in each run.
    fn line(&self, action: &Action) -> String {
        let what = match action {
            Action::Appraise(assignment) => {
                format!("appraise {} {:?}", assignment.agent, assignment.challenge)
            }
            // Compiled policies are other ones in each run.
            Action::Rejudge(rejudge) => {
                format!(
                    "rejudge {} {:?} {:?}",
                    rejudge.agent, rejudge.id, rejudge.rules
                )
            }
            Action::Commit(tick) => {
                let outcomes = tick.outcomes.iter();
                let outcomes: Vec<_> = outcomes
                    .map(|it| (&it.agent, it.verdict, it.code, it.state.attestations))
                    .collect();
                format!("commit {:?} {} {outcomes:?}", tick.shard, tick.seq)
            }
            other => format!("{other:?}"),
        };
        format!("{} {what}\n", self.now_ms)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { session, message } => self.send(session, message),
            Action::Appraise(assignment) => {
                let id = assignment.challenge.id;
                assert!(self.appraised.insert(id), "a nonce was taken twice (Q02)");
                let task = Box::new(Task::new(*assignment));
                let after = self.delay_ms();
                self.schedule(
                    after,
                    Happening::Judged {
                        task,
                        life: self.life,
                    },
                );
            }
            Action::Rejudge(rejudge) => {
                let after = self.delay_ms();
                let life = self.life;
                self.schedule(after, Happening::Reread { rejudge, life });
            }
            Action::Commit(tick) => {
                let fails = self.random.permille(self.faults.commit_fails);
                let after = self.delay_ms();
                self.schedule(
                    after,
                    Happening::Committed {
                        tick,
                        life: self.life,
                        fails,
                    },
                );
            }
            Action::Event(Event::Status { to, .. }) => {
                self.times_untrusted += u64::from(to == EffectiveStatus::Untrusted);
            }
            Action::Event(Event::Rejudged { code, .. }) => {
                let how = if code.is_some() { "denied" } else { "passed" };
                *self.rejudged.entry(how.to_owned()).or_default() += 1;
            }
            Action::Event(Event::ListUnusable { why, .. }) => {
                *self.rejudged.entry(why.as_str().to_owned()).or_default() += 1;
            }
            Action::Event(_) => {}
        }
    }
}
