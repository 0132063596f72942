//! A fleet, its shards and its store, step by step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::crypto::Hasher;
use rat_engine::evidence::{
    Challenge, ChallengeId, Hello, Refusal, SessionId, Submission, ToAgent,
};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::shard::{
    Action, Driver, EffectiveStatus, Event, Group, Input, Pacer, PacerSettings, Rejudge, Rejudged,
    Settings, Shard, Task, Tick, Unusable,
};
use rat_engine::time::Now;

use crate::durable::Durable;
use crate::fleet::{Allows, Faults, UNIX_MS, group, record};
use crate::ledger::Ledger;
use crate::machine::SimMachine;
use crate::random::Random;

const AGENTS: u64 = 6;
/// Something that will happen.
#[derive(Debug)]
enum Happening {
    Connect {
        agent: AgentId,
    },
    Deliver {
        agent: AgentId,
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

pub(crate) struct World {
    now_ms: u64,
    random: Random,
    faults: Faults,
    settings: Settings,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: HashMap<u64, Happening>,
    scheduled: u64,
    machines: BTreeMap<AgentId, SimMachine>,
    sessions: HashMap<AgentId, SessionId>,
    next_session: u64,
    shards: BTreeMap<ShardIndex, Shard>,
    pacer: Pacer,
    ledger: Ledger,
    durable: Option<Durable>,
    /// Counts lives of the server; what an earlier life began means nothing to a later one.
    life: u64,
    crashes: u64,
    commits: u64,
    times_untrusted: u64,
    /// The group as it is now; a server that starts is told so.
    group: Arc<Group>,
    is_strict: bool,
    rejudged: BTreeMap<String, u64>,
    appraised: HashSet<ChallengeId>,
    challenged: HashMap<ChallengeId, (AgentId, u64)>,
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
            (id.clone(), SimMachine::new(id))
        });
        let mut world = Self {
            now_ms: 5_000,
            random: Random::new(seed),
            faults,
            settings: Settings::default(),
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            scheduled: 0,
            machines: machines.collect(),
            sessions: HashMap::new(),
            next_session: 0,
            shards: BTreeMap::new(),
            pacer: Pacer::new(PacerSettings::default()),
            ledger: Ledger::default(),
            durable,
            life: 0,
            crashes: 0,
            commits: 0,
            times_untrusted: 0,
            group: Arc::new(group(Allows::Usual)),
            is_strict: false,
            rejudged: BTreeMap::new(),
            appraised: HashSet::new(),
            challenged: HashMap::new(),
            trace: Hasher::new(HashAlg::Sha256),
        };
        if let Some(durable) = &world.durable {
            world
                .machines
                .values()
                .for_each(|machine| durable.enrol(&record(machine)));
        }
        world.start();
        world.schedule(1_000, Happening::Second);
        world
    }

    pub(crate) fn machines(&self) -> impl Iterator<Item = (&AgentId, &SimMachine)> {
        self.machines.iter()
    }

    pub(crate) fn status(&self, agent: &AgentId) -> EffectiveStatus {
        self.shards[&agent.shard()]
            .view(agent, self.now())
            .unwrap()
            .status
    }

    pub(crate) const fn commits(&self) -> u64 {
        self.commits
    }

    pub(crate) const fn crashes(&self) -> u64 {
        self.crashes
    }

    pub(crate) const fn times_untrusted(&self) -> u64 {
        self.times_untrusted
    }

    /// How often stored lists were judged again, by how that ended.
    pub(crate) const fn rejudged(&self) -> &BTreeMap<String, u64> {
        &self.rejudged
    }

    /// How many lists were sent from entry 0, of those that were proven.
    pub(crate) fn whole_lists(&self) -> u64 {
        let logs = self.ledger.outcomes.iter().flat_map(|it| &it.log);
        logs.filter(|log| log.from_entry == 0).count() as u64
    }

    /// Has the group enforce another policy.
    pub(crate) fn activate(&mut self, allows: Allows) {
        let now = self.now();
        self.is_strict = allows == Allows::Less;
        self.group = Arc::new(group(allows));
        for shard in self.shards.values_mut() {
            shard.handle(Input::Group(Arc::clone(&self.group)), now);
        }
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

    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        self.faults = Faults::none();
        self.activate(Allows::Usual);
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

    fn now(&self) -> Now {
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

    fn schedule(&mut self, after_ms: u64, happening: Happening) {
        self.scheduled += 1;
        self.happenings.insert(self.scheduled, happening);
        self.queue
            .push(Reverse((self.now_ms + after_ms, self.scheduled)));
    }

    fn delay_ms(&mut self) -> u64 {
        1 + self.random.below(self.faults.delay_ms_max + 1)
    }

    /// A server begins: it takes the shards over and loads what was committed.
    fn start(&mut self) {
        self.life += 1;
        let epoch = self.ledger.take_ownership();
        if let Some(durable) = &mut self.durable {
            assert_eq!(durable.reopen(), epoch);
            for agent in self.machines.keys() {
                assert_eq!(durable.state(agent), self.ledger.state(agent), "{agent}");
                assert_eq!(durable.head(agent.shard()), self.ledger.head(agent.shard()));
            }
        }
        let now = self.now();
        self.shards.clear();
        self.sessions.clear();
        self.pacer = Pacer::new(PacerSettings::default());
        for machine in self.machines.values() {
            let index = machine.id.shard();
            let (seq, head) = self.ledger.head(index);
            let settings = self.settings;
            let shard = self
                .shards
                .entry(index)
                .or_insert_with(|| Shard::new(index, epoch, seq, head, settings));
            shard.handle(Input::Group(Arc::clone(&self.group)), now);
            let input = Input::Agent {
                record: Box::new(record(machine)),
                state: Box::new(self.ledger.state(&machine.id)),
                candidate: None,
            };
            shard.handle(input, now);
        }
        let agents: Vec<AgentId> = self.machines.keys().cloned().collect();
        for agent in agents {
            let after = self.random.below(2_000);
            self.schedule(after, Happening::Connect { agent });
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.start();
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now();
        match happening {
            Happening::Second => self.second(),
            Happening::Connect { agent } => self.connect(&agent),
            Happening::Deliver {
                agent,
                session,
                message,
            } => self.deliver(&agent, session, message),
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
        self.commits += u64::from(kept);
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

    /// What happens to machines by themselves.
    fn second(&mut self) {
        let agents: Vec<AgentId> = self.machines.keys().cloned().collect();
        for agent in agents {
            let (random, now_ms) = (self.random.next(), self.now_ms);
            let machine = self.machines.get_mut(&agent).unwrap();
            if random.is_multiple_of(3) {
                machine.run_allowed(random / 3);
            }
            if self.random.permille(self.faults.compromise) {
                machine.run_unlisted(now_ms);
            }
            if self.random.permille(self.faults.reboot) && machine.is_clean() {
                machine.reboot(now_ms);
                self.disconnect(&agent);
                self.schedule(5_000, Happening::Connect { agent });
            }
        }
        if self.random.permille(self.faults.policy) {
            let next = [Allows::Usual, Allows::More, Allows::Less];
            let next = next[self.random.below(3) as usize];
            self.activate(next);
        }
        self.schedule(1_000, Happening::Second);
    }

    /// The store is asked for a list; what it gives may be wrong, and may never come.
    fn reread(&mut self, rejudge: Rejudge, life: u64) {
        let agent = rejudge.agent.clone();
        let mut list = self.ledger.lists.of(&agent).cloned();
        if let Some(durable) = &self.durable {
            assert_eq!(durable.list(&agent), list, "{agent}");
        }
        if self.random.permille(self.faults.list) {
            match self.random.below(4) {
                0 => return,
                1 => list = None,
                2 => {
                    let at = self.random.below(1_000) as usize;
                    if let Some(list) = &mut list {
                        let at = at % list.bytes.len();
                        list.bytes[at] ^= 1;
                    }
                }
                _ => {
                    if let Some(list) = &mut list {
                        list.bytes.truncate(list.bytes.len() / 2);
                    }
                }
            }
        }
        let pieces = 1 + self.random.below(300) as usize;
        let rejudged = match list {
            Some(list) => list.rejudge(rejudge, pieces),
            None => rejudge.unusable(Unusable::Missing),
        };
        let after = self.delay_ms();
        self.schedule(after, Happening::Rejudged { rejudged, life });
    }

    fn connect(&mut self, agent: &AgentId) {
        let is_down = self.now_ms < self.machines[agent].down_until_ms;
        if self.sessions.contains_key(agent) || is_down {
            return;
        }
        self.next_session += 1;
        let session = SessionId(self.next_session);
        self.sessions.insert(agent.clone(), session);
        let machine = &self.machines[agent];
        let hello = Hello {
            agent: agent.clone(),
            client_key_sha256: [1; 32],
            log_formats: vec![LogFormat::Ascii],
            banks: vec![HashAlg::Sha256],
            reset_count: machine.boot.reset_count,
            restart_count: machine.boot.restart_count,
            entry_count: machine.machine.list.len() as u64,
            relay_key_sha256: None,
        };
        let hello = Box::new(hello);
        self.handle(agent, Input::Connected { session, hello });
    }

    fn disconnect(&mut self, agent: &AgentId) {
        if let Some(session) = self.sessions.remove(agent) {
            let agent = agent.clone();
            self.handle(&agent.clone(), Input::Disconnected { session, agent });
        }
    }

    fn deliver(&mut self, agent: &AgentId, session: SessionId, message: ToAgent) {
        if self.sessions.get(agent) != Some(&session) {
            return;
        }
        if self.random.permille(self.faults.drop) {
            self.disconnect(agent);
            let after = self.delay_ms();
            self.schedule(
                after,
                Happening::Connect {
                    agent: agent.clone(),
                },
            );
            return;
        }
        match message {
            ToAgent::Challenge(challenge) => self.answer(agent, session, &challenge),
            ToAgent::Refused {
                code,
                retry_after_ms,
            } => {
                assert!(
                    matches!(code, Refusal::Busy | Refusal::Superseded),
                    "{agent} was refused: {code}"
                );
                self.sessions.remove(agent);
                let after = u64::from(retry_after_ms);
                self.schedule(
                    after,
                    Happening::Connect {
                        agent: agent.clone(),
                    },
                );
            }
            ToAgent::Welcome { .. } | ToAgent::More(_) | ToAgent::Verdict(..) => {}
        }
    }

    fn answer(&mut self, agent: &AgentId, session: SessionId, challenge: &Challenge) {
        let machine = &self.machines[agent];
        let binding = session_binding(session);
        let submission = Box::new(machine.answer(challenge, binding, self.now_ms));
        let copies = 1 + u64::from(self.random.permille(self.faults.duplicate));
        for _ in 0..copies {
            let after = self.delay_ms();
            self.schedule(
                after,
                Happening::Evidence {
                    agent: agent.clone(),
                    session,
                    submission: submission.clone(),
                    life: self.life,
                },
            );
        }
    }

    fn handle(&mut self, agent: &AgentId, input: Input) {
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

    fn send(&mut self, session: SessionId, message: ToAgent) {
        let Some((agent, _)) = self.sessions.iter().find(|(_, live)| **live == session) else {
            return;
        };
        let agent = agent.clone();
        if let ToAgent::Challenge(challenge) = &message {
            let issued = (agent.clone(), UNIX_MS + self.now_ms);
            let again = self.challenged.insert(challenge.id, issued);
            assert!(again.is_none(), "an id was used twice (Q04)");
        }
        if let ToAgent::Verdict(id, answer) = &message
            && answer.code.is_none()
        {
            // What is answered is durable. (S03, S05)
            let (_, issued_unix_ms) = self.challenged[id];
            let state = self.ledger.state(&agent);
            let verdict = state
                .verdict
                .expect("a verdict was answered, and none is committed");
            assert_eq!(verdict.challenged_unix_ms, issued_unix_ms, "{agent}");
        }
        let after = self.delay_ms();
        self.schedule(
            after,
            Happening::Deliver {
                agent,
                session,
                message,
            },
        );
    }

    /// The invariants of the design, at every moment.
    fn check(&self) {
        let now = self.now();
        for shard in self.shards.values() {
            for view in shard.views(now) {
                let agent = &view.record.id;
                let machine = &self.machines[agent];
                assert_eq!(
                    view.state,
                    self.ledger_or_newer(agent, &view.state),
                    "{agent} (S17)"
                );
                if view.status != EffectiveStatus::Trusted {
                    continue;
                }
                // Every machine runs what the strict policy does not allow. (L07)
                assert!(!self.is_strict, "{agent}: trusted against the policy");
                // Trust rests on a challenge that is not older than the longest age. (Q14, S14)
                let verdict = view.state.verdict.as_ref().unwrap();
                let age_ms = now.unix_ms - verdict.challenged_unix_ms;
                assert!(
                    age_ms < self.settings.max_age_ms,
                    "{agent}: trusted for {age_ms} ms"
                );
                if let Some(at_ms) = machine.compromised_at_ms {
                    let since_ms = self.now_ms - at_ms;
                    assert!(
                        since_ms < self.settings.max_age_ms,
                        "{agent}: {since_ms} ms unnoticed"
                    );
                }
            }
        }
    }

    /// What is shown was committed; the newest commit may not have been reported yet.
    fn ledger_or_newer(
        &self,
        agent: &AgentId,
        shown: &rat_engine::shard::AgentState,
    ) -> rat_engine::shard::AgentState {
        let committed = self.ledger.state(agent);
        let was_committed = committed == *shown
            || *shown == rat_engine::shard::AgentState::default()
            || self
                .ledger
                .outcomes
                .iter()
                .rev()
                .any(|outcome| outcome.agent == *agent && outcome.state == *shown);
        if was_committed {
            shown.clone()
        } else {
            committed
        }
    }
}

fn session_binding(session: SessionId) -> [u8; 32] {
    let mut binding = [0; 32];
    binding[..8].copy_from_slice(&session.0.to_le_bytes());
    binding
}
