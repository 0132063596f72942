//! One shard with everything around it, under a clock that a test moves.
//!
//! Appraisals run and commits succeed as soon as the shard asks for them, unless a test holds
//! them back.

use std::sync::Arc;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::evidence::{
    Answer, Binding, Challenge, Hello, ImaUpload, Instance, NonceSource, Refusal, SessionId,
    Submission, ToAgent, qualifying_data,
};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::ima::judge::Judge;
use rat_engine::policy::RuntimePolicy;
use rat_engine::shard::{
    Action, AgentPath, AgentRecord, AgentState, AgentView, Assignment, BootEpoch, ChainHash,
    Driver, Epoch, Event, Group, Input, Pacer, PacerSettings, PolicyRef, Rejudge, Settings, Shard,
    Task, Tick,
};
use rat_engine::time::Now;
use rat_engine::tpm::Public;

use crate::evidence::Machine;
use crate::lists::Lists;
use crate::measured;
use crate::recording::Recording;
use crate::software_tpm::Attest;

/// Nonces that count up, so that a failing test reads the same each time.
#[derive(Debug, Default)]
pub struct Counting {
    count: u64,
    /// Whether jitter varies too; there is none otherwise.
    pub jitters: bool,
}

impl NonceSource for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        self.count += 1;
        bytes.fill(0);
        if self.jitters && bytes.len() == 8 {
            // Any odd factor that spreads small numbers will do.
            let spread = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bytes.copy_from_slice(&spread.to_le_bytes());
            return Some(());
        }
        let count = self.count.to_be_bytes();
        let tail = bytes.len() - count.len();
        // Jitter is read from the first bytes, ids and nonces differ in the last.
        if bytes.len() > count.len() {
            bytes[tail..].copy_from_slice(&count);
        }
        Some(())
    }
}

/// A machine that is enrolled, with what a test may change about its TPM.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Its id.
    pub id: AgentId,
    /// The machine.
    pub machine: Machine,
    /// The TPM's counters.
    pub boot: BootEpoch,
    /// The TPM's clock; `None` for one that keeps time with ours.
    pub clock_ms: Option<u64>,
    /// The life of its agent.
    pub instance: Instance,
}

/// The stage.
#[derive(Debug)]
pub struct Stage {
    /// The shard.
    pub shard: Shard,
    /// The time.
    pub now: Now,
    /// Its pacer.
    pub pacer: Pacer,
    /// Messages to agents, oldest first.
    pub sent: Vec<(SessionId, ToAgent)>,
    /// Events, oldest first.
    pub events: Vec<Event>,
    /// Ticks, oldest first.
    pub ticks: Vec<Arc<Tick>>,
    /// Whether ticks wait for the test to answer them.
    pub holds_commits: bool,
    /// Whether appraisals wait for the test to run them.
    pub holds_tasks: bool,
    /// Appraisals that wait.
    pub tasks: Vec<Task>,
    /// What a store keeps of lists.
    pub lists: Lists,
    /// Whether there is such a store; without one, stored lists are missing.
    pub keeps_lists: bool,
    /// Whether stored lists wait for the test to judge them.
    pub holds_rejudges: bool,
    /// Stored lists that wait.
    pub rejudges: Vec<Rejudge>,
    /// The tick that waits for its answer.
    in_flight: Option<Arc<Tick>>,
    /// Everything that happens to the shard, when that was asked for.
    recording: Option<Recorded>,
    /// Nonces and jitter.
    pub nonces: Counting,
    sessions: u64,
}

/// A recording, and what the appraisals are of that have not ended.
#[derive(Debug, Default)]
struct Recorded {
    recording: Recording,
    assignments: Vec<Assignment>,
}

/// The wall clock when a stage begins.
pub const UNIX_MS: u64 = 1_750_000_000_000;

/// A group that enforces exactly what this machine measured.
pub fn group_of(machine: &Machine) -> Group {
    Group {
        slug: "fleet".into(),
        row_version: 1,
        enforced: Some(policy(1, &machine.policy())),
        pcr_policy: None,
        measured_boot: None,
        bank: HashAlg::Sha256,
        protected: true,
        bypass: false,
        block: false,
        require_boot_log: true,
        accept_violations: false,
        auto_recover: false,
        interval_ms: None,
        allow_sha1: false,
        require_valid_ima_sig: false,
        keylime: None,
    }
}

/// A policy version with this text.
pub fn policy(version: u64, text: &str) -> PolicyRef {
    let policy = RuntimePolicy::parse(text.as_bytes()).unwrap();
    let judge = Arc::new(Judge::new(Arc::new(policy)).unwrap());
    PolicyRef { version, judge }
}

impl Stage {
    /// A shard with this group and no agents.
    pub fn new(group: Group) -> Self {
        Self::with_settings(group, Settings::default())
    }

    /// The same, with everything recorded that happens to the shard.
    pub fn recorded(group: Group) -> Self {
        Self::set(group, Settings::default(), Some(Recorded::default()))
    }

    /// The same with other settings.
    pub fn with_settings(group: Group, settings: Settings) -> Self {
        Self::set(group, settings, None)
    }

    fn set(group: Group, settings: Settings, recording: Option<Recorded>) -> Self {
        let mut stage = Self {
            shard: first_state(settings),
            now: Now {
                mono_ms: 1_000_000,
                unix_ms: UNIX_MS,
            },
            pacer: Pacer::new(PacerSettings::default()),
            sent: Vec::new(),
            events: Vec::new(),
            ticks: Vec::new(),
            holds_commits: false,
            holds_tasks: false,
            tasks: Vec::new(),
            lists: Lists::default(),
            keeps_lists: false,
            holds_rejudges: false,
            rejudges: Vec::new(),
            in_flight: None,
            recording,
            nonces: Counting::default(),
            sessions: 0,
        };
        stage.handle(Input::Group(Arc::new(group)));
        stage
    }

    /// Enrols a machine, of which nothing is known.
    pub fn enrol(&mut self, name: &str, machine: Machine) -> Enrolled {
        self.enrol_with(name, machine, AgentState::default(), |_| {})
    }

    /// Enrols a machine with this state, and a change to its record.
    pub fn enrol_with(
        &mut self,
        name: &str,
        machine: Machine,
        state: AgentState,
        change: impl FnOnce(&mut AgentRecord),
    ) -> Enrolled {
        let id = AgentId::parse(name).unwrap();
        let mut record = AgentRecord {
            id: id.clone(),
            group: "fleet".into(),
            path: AgentPath::Native,
            ak_public: machine.ak.public(),
            ak_epoch: 1,
            ek_sha256: [2; 32],
            client_key_sha256: [1; 32],
            relay_key_sha256: None,
            baseline: None,
            enrolled_unix_ms: UNIX_MS,
        };
        change(&mut record);
        self.handle(Input::Agent {
            record: Box::new(record),
            state: Box::new(state),
            candidate: None,
        });
        Enrolled {
            id,
            machine,
            boot: BootEpoch {
                reset_count: 7,
                restart_count: 0,
            },
            clock_ms: None,
            instance: Instance([1; 16]),
        }
    }

    /// Gives the shard an input, and carries out what it asks for.
    pub fn handle(&mut self, input: Input) {
        self.give(input);
        self.settle();
    }

    fn give(&mut self, input: Input) {
        if let Some(recorded) = &mut self.recording {
            recorded.recording.input(&input, self.now);
        }
        self.shard.handle(input, self.now);
    }

    /// Gives what was recorded to a second shard, which must ask for the same.
    pub fn replay(self) {
        let recorded = self.recording.expect("nothing was recorded");
        recorded.recording.replay(first_state(Settings::default()));
    }

    /// Lets time pass, and carries out what becomes due.
    pub fn pass_ms(&mut self, ms: u64) {
        let end_ms = self.now.mono_ms + ms;
        while let Some(at) = self.shard.next_deadline_ms().filter(|at| *at < end_ms) {
            let step = at.saturating_sub(self.now.mono_ms);
            self.now.mono_ms += step;
            self.now.unix_ms += step;
            self.settle();
        }
        let rest = end_ms - self.now.mono_ms;
        self.now.mono_ms += rest;
        self.now.unix_ms += rest;
        self.settle();
    }

    /// Carries out what the shard asks for, until it asks for nothing.
    pub fn settle(&mut self) {
        loop {
            let mut driver = Driver {
                pacer: &mut self.pacer,
                nonces: &mut self.nonces,
            };
            let action = self.shard.poll(self.now, &mut driver);
            if let Some(recorded) = &mut self.recording {
                recorded.recording.polled(action.as_ref(), self.now);
                if let Some(Action::Appraise(assignment)) = &action {
                    recorded.assignments.push((**assignment).clone());
                }
            }
            let Some(action) = action else {
                return;
            };
            match action {
                Action::Send { session, message } => self.sent.push((session, message)),
                Action::Event(event) => self.events.push(event),
                Action::Appraise(assignment) => {
                    self.tasks.push(Task::new(*assignment));
                    if !self.holds_tasks {
                        self.run_tasks();
                    }
                }
                Action::Rejudge(rejudge) => {
                    self.rejudges.push(*rejudge);
                    if !self.holds_rejudges {
                        self.run_rejudges();
                    }
                }
                Action::Commit(tick) => {
                    self.ticks.push(Arc::clone(&tick));
                    self.in_flight = Some(tick);
                    if !self.holds_commits {
                        self.answer_commit(true);
                    }
                }
            }
        }
    }

    /// Answers the tick that waits, if one does: the store has it, or never will.
    pub fn answer_commit(&mut self, is_kept: bool) {
        let Some(tick) = self.in_flight.take() else {
            return;
        };
        if is_kept && self.keeps_lists {
            self.lists.commit(&tick);
        }
        let seq = tick.seq;
        let input = match is_kept {
            true => Input::Committed { seq },
            false => Input::CommitFailed { seq },
        };
        self.give(input);
    }

    /// Judges the stored lists that wait.
    pub fn run_rejudges(&mut self) {
        for rejudge in std::mem::take(&mut self.rejudges) {
            if let Some(recorded) = &mut self.recording {
                let list = self.lists.of(&rejudge.agent).cloned();
                recorded.recording.rejudged(rejudge.clone(), list, self.now);
            }
            let rejudged = self.lists.rejudge(rejudge);
            self.give(Input::Rejudged(rejudged));
        }
        self.settle();
    }

    /// Runs the appraisals that wait.
    pub fn run_tasks(&mut self) {
        for mut task in std::mem::take(&mut self.tasks) {
            task.begin();
            let judged = Box::new(task.finish());
            if let Some(recorded) = &mut self.recording {
                let id = judged.challenge.id;
                let mut assignments = recorded.assignments.iter();
                let at = assignments.position(|it| it.challenge.id == id).unwrap();
                let of = recorded.assignments.remove(at);
                recorded.recording.judged(of, self.now);
            }
            self.give(Input::Judged(judged));
        }
        self.settle();
    }

    /// Connects an agent.
    pub fn connect(&mut self, agent: &Enrolled) -> SessionId {
        self.connect_with(agent, |_| {})
    }

    /// Connects an agent that says something else of itself.
    pub fn connect_with(&mut self, agent: &Enrolled, change: impl FnOnce(&mut Hello)) -> SessionId {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let mut hello = Hello {
            path: AgentPath::Native,
            agent: agent.id.clone(),
            client_key_sha256: [1; 32],
            log_formats: vec![LogFormat::Ascii],
            banks: vec![HashAlg::Sha256],
            reset_count: agent.boot.reset_count,
            restart_count: agent.boot.restart_count,
            entry_count: agent.machine.list.len() as u64,
            instance: agent.instance,
            relay_key_sha256: None,
        };
        change(&mut hello);
        let hello = Box::new(hello);
        self.handle(Input::Connected { session, hello });
        session
    }

    /// Ends a connection.
    pub fn disconnect(&mut self, agent: &Enrolled, session: SessionId) {
        let agent = agent.id.clone();
        self.handle(Input::Disconnected { session, agent });
    }

    /// The newest challenge that went over this connection; waits for one if there is none that
    /// was not asked about before.
    pub fn challenge(&mut self, session: SessionId) -> Challenge {
        for _ in 0..100 {
            let found = self.sent.iter().position(|(to, message)| {
                *to == session && matches!(message, ToAgent::Challenge(_))
            });
            if let Some(at) = found
                && let (_, ToAgent::Challenge(challenge)) = self.sent.remove(at)
            {
                return challenge;
            }
            let next = self.shard.next_deadline_ms().expect("nothing is due");
            self.pass_ms(next.saturating_sub(self.now.mono_ms).max(1));
        }
        panic!("no challenge for {session:?}");
    }

    /// Hands evidence in, and returns what was answered to it.
    pub fn submit(
        &mut self,
        agent: &Enrolled,
        session: SessionId,
        submission: Submission,
    ) -> Option<Answer> {
        let id = submission.challenge;
        self.handle(Input::Evidence {
            session,
            agent: agent.id.clone(),
            submission: Box::new(submission),
        });
        self.answer_to(id)
    }

    /// What was answered to this challenge's evidence.
    pub fn answer_to(&mut self, id: rat_engine::evidence::ChallengeId) -> Option<Answer> {
        let is_it = |message: &ToAgent| matches!(message, ToAgent::Verdict(of, _) if *of == id);
        let at = self.sent.iter().position(|(_, message)| is_it(message))?;
        match self.sent.remove(at) {
            (_, ToAgent::Verdict(_, answer)) => Some(answer),
            _ => None,
        }
    }

    /// Waits for a challenge, and answers it truthfully.
    pub fn attest(&mut self, agent: &Enrolled, session: SessionId) -> Answer {
        let challenge = self.challenge(session);
        let submission = self.answer(agent, session, &challenge);
        let answer = self.submit(agent, session, submission);
        answer.expect("evidence was not answered")
    }

    /// The truthful answer of a machine.
    pub fn answer(
        &self,
        agent: &Enrolled,
        session: SessionId,
        challenge: &Challenge,
    ) -> Submission {
        self.answer_with(agent, session, challenge, |_| {})
    }

    /// The answer of a machine whose TPM signs something else.
    pub fn answer_with(
        &self,
        agent: &Enrolled,
        session: SessionId,
        challenge: &Challenge,
        change: impl FnOnce(&mut Attest),
    ) -> Submission {
        self.answer_bound(agent, binding_of(session), challenge, change)
    }

    /// The answer of a machine that is bound to this.
    pub fn answer_bound(
        &self,
        agent: &Enrolled,
        binding: Binding,
        challenge: &Challenge,
        change: impl FnOnce(&mut Attest),
    ) -> Submission {
        let public = agent.machine.ak.public();
        let name = Public::parse(&public).unwrap().name().to_bytes();
        let nonce = qualifying_data(challenge, &binding, &name, &agent.id);
        let made = agent.machine.attest(&nonce).with_attest(|attest| {
            attest.clock = agent.clock_ms.unwrap_or(self.now.mono_ms);
            attest.reset_count = agent.boot.reset_count;
            attest.restart_count = agent.boot.restart_count;
            change(attest);
        });
        let from = challenge.ima_from_entry.unwrap();
        let first = usize::try_from(from).unwrap();
        let list = agent.machine.list.get(first..).unwrap_or_default();
        let bytes = measured::ascii(list);
        Submission {
            challenge: challenge.id,
            binding,
            claimed_binding: Some(*binding.bytes()),
            quote: made.quote,
            signature: made.signature,
            pcr_values: made.values,
            boot_log: challenge.boot_log.then(|| agent.machine.boot_log()),
            ima: Some(ImaUpload {
                from_entry: from,
                format: made.format,
                length: bytes.len() as u64,
                whole: Some(bytes),
            }),
        }
    }

    /// An agent as surfaces show it now.
    pub fn view(&self, agent: &Enrolled) -> AgentView {
        self.shard.view(&agent.id, self.now).unwrap()
    }

    /// Why a connection was refused; `None` when it was not.
    pub fn refusal(&self, session: SessionId) -> Option<Refusal> {
        self.sent.iter().find_map(|(to, message)| match message {
            ToAgent::Refused { code, .. } if *to == session => Some(*code),
            _ => None,
        })
    }
}

fn first_state(settings: Settings) -> Shard {
    let index = ShardIndex::new(0).unwrap();
    Shard::new(index, Epoch(1), 0, ChainHash::default(), settings)
}

/// What both ends of a connection export.
pub fn binding_of(session: SessionId) -> Binding {
    let mut bytes = [0xb1; 32];
    bytes[..8].copy_from_slice(&session.0.to_be_bytes());
    Binding::Channel(bytes)
}
