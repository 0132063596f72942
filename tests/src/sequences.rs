//! Any sequence of messages, delays, failures and operators against one shard.

use std::sync::OnceLock;

use rat_engine::evidence::{Challenge, SessionId, Submission, ToAgent};
use rat_engine::shard::{Abandon, AgentState, EffectiveStatus, Input, Operation};

use crate::evidence::Machine;
use crate::measured::Measured;
use crate::stage::{Enrolled, Stage, group_of};

/// Runs the sequence that these bytes spell, one byte a step, and checks after each that
///
/// - nobody is trusted longer than the longest age after a challenge that a clean machine answered,
/// - nobody is trusted in a boot that no boot log explained,
/// - a failure goes away only when an operator clears it,
/// - positions do not go back within a boot,
/// - each nonce is judged at most once.
pub fn shard_messages(steps: &[u8]) {
    let mut play = Play::new();
    for step in steps.iter().take(300) {
        play.step(*step);
        play.check();
    }
}

struct Actor {
    agent: Enrolled,
    session: Option<SessionId>,
    /// Answers that were given, to be given again.
    given: Vec<Submission>,
    /// When it answered last while it was clean, by the clock of its challenge.
    clean_ms: Option<u64>,
    is_clean: bool,
    seen: AgentState,
    was_cleared: bool,
}

struct Play {
    stage: Stage,
    actors: Vec<Actor>,
    issued: Vec<(Challenge, u64)>,
    held: Option<u64>,
}

fn machine() -> Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(Machine::valid).clone()
}

impl Play {
    fn new() -> Self {
        let mut stage = Stage::new(group_of(&machine()));
        let actors = ["one", "two"].map(|name| Actor {
            agent: stage.enrol(name, machine()),
            session: None,
            given: Vec::new(),
            clean_ms: None,
            is_clean: true,
            seen: AgentState::default(),
            was_cleared: false,
        });
        Self {
            stage,
            actors: actors.into(),
            issued: Vec::new(),
            held: None,
        }
    }

    /// The low bit says whose turn it is, the rest what happens.
    fn step(&mut self, step: u8) {
        let who = usize::from(step & 1);
        match step >> 1 {
            0..=15 => self.connect(who),
            16..=23 => self.disconnect(who),
            24..=55 => self.answer(who, |_| {}),
            56..=63 => self.answer(who, |submission| submission.quote.truncate(30)),
            64..=67 => self.answer(who, |submission| submission.claimed_binding = None),
            68..=69 => self.answer(who, |submission| submission.ima = None),
            70..=71 => self.answer(who, |submission| submission.boot_log = None),
            72..=79 => self.again(who),
            80..=95 => self.stage.pass_ms(u64::from(step) * 97),
            96..=101 => self.run(who, "/usr/bin/ls", b"ls"),
            102..=104 => {
                self.actors[who].is_clean = false;
                self.run(who, "/tmp/implant", b"implant");
            }
            105..=107 => self.reboot(who),
            108..=110 => self.clear(who),
            111..=113 => self.hold(),
            114..=116 => self.release(true),
            117..=119 => self.release(false),
            120 => self.stage.holds_tasks = true,
            121..=123 => {
                self.stage.holds_tasks = false;
                self.stage.run_tasks();
            }
            124 => self.abandon(),
            _ => self.enrol_again(who),
        }
        self.collect();
    }

    /// Takes note of challenges that went out.
    fn collect(&mut self) {
        let now_ms = self.stage.now.mono_ms;
        for (_, message) in &self.stage.sent {
            if let ToAgent::Challenge(challenge) = message
                && !self.issued.iter().any(|(known, _)| known == challenge)
            {
                self.issued.push((*challenge, now_ms));
            }
        }
    }

    fn connect(&mut self, who: usize) {
        let agent = self.actors[who].agent.clone();
        self.actors[who].session = Some(self.stage.connect(&agent));
    }

    fn disconnect(&mut self, who: usize) {
        if let Some(session) = self.actors[who].session.take() {
            let agent = self.actors[who].agent.clone();
            self.stage.disconnect(&agent, session);
        }
    }

    fn answer(&mut self, who: usize, change: impl FnOnce(&mut Submission)) {
        let Some(session) = self.actors[who].session else {
            return;
        };
        let is_it = |(to, message): &(SessionId, ToAgent)| {
            *to == session && matches!(message, ToAgent::Challenge(_))
        };
        let Some(at) = self.stage.sent.iter().position(is_it) else {
            return;
        };
        let (_, ToAgent::Challenge(challenge)) = self.stage.sent.remove(at) else {
            return;
        };
        let agent = self.actors[who].agent.clone();
        let mut submission = self.stage.answer(&agent, session, &challenge);
        change(&mut submission);
        if self.actors[who].is_clean {
            let issued = self.issued.iter().find(|(known, _)| *known == challenge);
            self.actors[who].clean_ms = issued.map(|(_, at_ms)| *at_ms);
        }
        self.actors[who].given.push(submission.clone());
        self.stage.submit(&agent, session, submission);
    }

    /// Sends an old answer again, of either agent, over this agent's connection.
    fn again(&mut self, who: usize) {
        let given = self.actors.iter().flat_map(|actor| actor.given.last());
        let (Some(old), Some(session)) = (given.last().cloned(), self.actors[who].session) else {
            return;
        };
        let agent = self.actors[who].agent.clone();
        self.stage.submit(&agent, session, old);
    }

    fn run(&mut self, who: usize, path: &str, content: &[u8]) {
        let list = &mut self.actors[who].agent.machine.list;
        if list.len() < 30 {
            list.push(Measured::file(path, content));
        }
    }

    fn reboot(&mut self, who: usize) {
        self.disconnect(who);
        self.stage.pass_ms(2_000);
        let actor = &mut self.actors[who];
        actor.agent.boot.reset_count += 1;
        actor.agent.machine.list.truncate(4);
        // What ran before the boot is not seen any more; a failure that was seen stays.
        actor.is_clean = true;
    }

    fn clear(&mut self, who: usize) {
        let agent = self.actors[who].agent.id.clone();
        self.actors[who].was_cleared = true;
        let operation = Operation::Clear;
        self.stage.handle(Input::Operate { agent, operation });
    }

    fn hold(&mut self) {
        self.stage.holds_commits = true;
        self.held = self.stage.ticks.last().map(|tick| tick.seq);
    }

    /// Answers the ticks that wait.
    fn release(&mut self, is_kept: bool) {
        self.stage.holds_commits = false;
        let Some(seq) = self.stage.ticks.last().map(|tick| tick.seq) else {
            return;
        };
        self.stage.handle(match is_kept {
            true => Input::Committed { seq },
            false => Input::CommitFailed { seq },
        });
    }

    fn abandon(&mut self) {
        let ids: Vec<_> = self
            .stage
            .tasks
            .iter()
            .map(|task| task.challenge().id)
            .collect();
        for (actor, challenge) in self.actors.iter().zip(ids) {
            self.stage.handle(Input::Abandoned {
                agent: actor.agent.id.clone(),
                challenge,
                why: Abandon::Incomplete,
            });
        }
    }

    /// The agent enrols again: its state stays.
    fn enrol_again(&mut self, who: usize) {
        let view = self.stage.view(&self.actors[who].agent);
        self.actors[who].session = None;
        self.stage.handle(Input::Agent {
            record: Box::new((*view.record).clone()),
            state: Box::new(view.state),
            candidate: None,
        });
    }

    fn check(&mut self) {
        let now_ms = self.stage.now.mono_ms;
        for actor in &mut self.actors {
            let view = self
                .stage
                .shard
                .view(&actor.agent.id, self.stage.now)
                .unwrap();
            if view.status == EffectiveStatus::Trusted {
                let clean_ms = actor.clean_ms.expect("trusted, and never answered");
                assert!(now_ms < clean_ms + 30_000, "trusted too long");
                assert!(view.state.boot_log_seen, "trusted without a boot log");
            }
            let (old, new) = (&actor.seen, &view.state);
            if old.failure.is_some() && new.failure.is_none() {
                assert!(actor.was_cleared, "a failure went away by itself");
                actor.was_cleared = false;
            }
            if old.boot == new.boot
                && let (Some(old), Some(new)) = (&old.ima, &new.ima)
            {
                assert!(new.position() >= old.position(), "the position went back");
            }
            actor.seen = view.state;
        }
        let mut judged: Vec<_> = self
            .stage
            .ticks
            .iter()
            .flat_map(|tick| &tick.outcomes)
            .collect();
        judged.retain(|outcome| outcome.evidence_sha256 != [0; 32]);
        let count = judged.len();
        judged.sort_unstable_by_key(|outcome| outcome.evidence_sha256);
        judged.dedup_by_key(|outcome| outcome.evidence_sha256);
        assert_eq!(judged.len(), count, "evidence was judged twice");
    }
}
