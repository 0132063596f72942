//! Any sequence of messages, delays, failures and operators against one shard.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{ChallengeId, SessionId, Submission, ToAgent};
use rat_engine::hash::HashAlg;
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::shard::{
    Abandon, AgentState, AgentView, BootEpoch, EffectiveStatus, Failure, Group, Input, Operation,
    VerdictKind,
};
use rat_engine::verdict::Code;

use crate::evidence::{Machine, boot_value};
use crate::measured::Measured;
use crate::oracle;
use crate::stage::{Enrolled, Stage, group_of, policy};

/// The longest sequence that is run; what follows is left out.
pub const STEPS_MAX: usize = 300;

/// Runs the sequence that these bytes spell, one byte a step, and checks after each that
///
/// - nobody is trusted longer than three of its group's present intervals after a challenge that a
///   clean machine answered since it was enrolled,
/// - nobody is trusted while a policy forbids what everybody runs or booted, while the policy is
///   skipped, or while it is not enforced,
/// - nobody is trusted in a boot that no boot log explained, or whose whole list was not judged,
/// - a failure goes away only when an operator clears it after it was there, or by passing under
///   another policy than the one that it was a failure of,
/// - positions do not go back within a boot,
/// - each nonce is judged at most once,
///
/// whatever becomes of lists in the store.
pub fn shard_messages(steps: &[u8]) {
    let [group, _] = groups();
    play(Stage::new(Group::clone(group)), steps);
}

/// Runs the same sequence, and then gives everything that happened to a second shard, which must
/// ask for the same at each moment: nothing but inputs and the time decides.
pub fn shard_messages_replayed(steps: &[u8]) {
    let [group, _] = groups();
    play(Stage::recorded(Group::clone(group)), steps).replay();
}

fn play(stage: Stage, steps: &[u8]) -> Stage {
    let mut play = Play::new(stage);
    for step in steps.iter().take(STEPS_MAX) {
        play.step(*step);
        play.check();
    }
    play.stage
}

struct Actor {
    agent: Enrolled,
    session: Option<SessionId>,
    /// Answers that were given, to be given again.
    given: Vec<Submission>,
    /// When it answered last while it was clean, by the clock of its challenge.
    clean_ms: Option<u64>,
    is_clean: bool,
    /// `None` while it is removed.
    seen: Option<AgentState>,
    /// What the store keeps of a removed agent. (S16)
    failure: Option<Failure>,
    was_cleared: bool,
}

struct Play {
    stage: Stage,
    actors: Vec<Actor>,
    /// When challenges went out.
    issued: HashMap<ChallengeId, u64>,
    judged: HashSet<[u8; 32]>,
    /// Boots whose lists were sent from their beginning, and proven.
    whole_lists: HashSet<(AgentId, Option<BootEpoch>)>,
    ticks_checked: usize,
    demands: Demanded,
}

/// What the group demands.
#[derive(Debug, Clone, Copy)]
struct Demanded {
    /// The policy forbids one file of what everybody runs.
    is_strict: bool,
    pcrs: Pcrs,
    bypass: bool,
    protected: bool,
    /// `None` for the server's.
    interval_ms: Option<u64>,
    /// Whether signatures of files must be valid; nobody has any.
    signatures: bool,
}

/// The PCR policy: none, one that lists what machines booted, one that does not.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pcrs {
    Free,
    Listed,
    NotListed,
}

impl Demanded {
    const USUAL: Self = Self {
        is_strict: false,
        pcrs: Pcrs::Free,
        bypass: false,
        protected: true,
        interval_ms: None,
        signatures: false,
    };

    /// Whether a clean machine can be trusted.
    fn can_be_met(&self) -> bool {
        !self.is_strict && self.pcrs != Pcrs::NotListed && !self.bypass && self.protected
    }

    fn group(&self) -> Group {
        let [usual, strict] = groups();
        let group = if self.is_strict { strict } else { usual };
        let [listed, not_listed] = pcr_policies();
        Group {
            pcr_policy: match self.pcrs {
                Pcrs::Free => None,
                Pcrs::Listed => Some(Arc::clone(listed)),
                Pcrs::NotListed => Some(Arc::clone(not_listed)),
            },
            bypass: self.bypass,
            protected: self.protected,
            interval_ms: self.interval_ms,
            require_valid_ima_sig: self.signatures,
            ..Group::clone(group)
        }
    }
}

fn machine() -> Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(Machine::valid).clone()
}

/// The group that enforces what the machine runs, and the same with a policy that forbids one
/// file of it.
fn groups() -> &'static [Arc<Group>; 2] {
    static GROUPS: OnceLock<[Arc<Group>; 2]> = OnceLock::new();
    GROUPS.get_or_init(|| {
        let group = group_of(&machine());
        let listed = hex::encode(oracle::digest(group.bank, b"ls"));
        let without = machine().policy().replace(&listed, &"00".repeat(32));
        let strict = Group {
            enforced: Some(policy(2, &without)),
            ..group.clone()
        };
        [Arc::new(group), Arc::new(strict)]
    })
}

/// PCR policies that list what the machine booted, and something else.
fn pcr_policies() -> &'static [Arc<PcrPolicy>; 2] {
    static POLICIES: OnceLock<[Arc<PcrPolicy>; 2]> = OnceLock::new();
    POLICIES.get_or_init(|| {
        let booted = boot_value(HashAlg::Sha256, 4);
        [booted, vec![0xab; 32]].map(|value| {
            let text = format!("{{\"4\": [\"{}\"]}}", hex::encode(value));
            Arc::new(PcrPolicy::parse(text.as_bytes()).unwrap())
        })
    })
}

impl Play {
    fn new(mut stage: Stage) -> Self {
        stage.keeps_lists = true;
        let actors = ["one", "two"].map(|name| Actor {
            agent: stage.enrol(name, machine()),
            session: None,
            given: Vec::new(),
            clean_ms: None,
            is_clean: true,
            seen: Some(AgentState::default()),
            failure: None,
            was_cleared: false,
        });
        Self {
            stage,
            actors: actors.into(),
            issued: HashMap::new(),
            judged: HashSet::new(),
            whole_lists: HashSet::new(),
            ticks_checked: 0,
            demands: Demanded::USUAL,
        }
    }

    /// The low bit says whose turn it is, the rest what happens.
    fn step(&mut self, step: u8) {
        let who = usize::from(step & 1);
        match step >> 1 {
            0..=6 => self.connect(who),
            7 => self.demand(|demands| {
                demands.pcrs = match demands.pcrs {
                    Pcrs::Free => Pcrs::NotListed,
                    Pcrs::NotListed => Pcrs::Listed,
                    Pcrs::Listed => Pcrs::Free,
                };
            }),
            8 => self.demand(|demands| demands.bypass = !demands.bypass),
            9 => self.demand(|demands| demands.protected = !demands.protected),
            10 => self.hold_or_run_rejudges(),
            11 => self.operate(who, Operation::Recheck),
            12 => self.answer_stray_ticks(),
            13 => self.answer_other(who),
            14 => self.damage_list(who),
            15 => self.demand(|demands| demands.is_strict = !demands.is_strict),
            16 => self.demand(|demands| {
                demands.interval_ms = match demands.interval_ms {
                    None => Some(1_000),
                    Some(1_000) => Some(3_600_000),
                    Some(_) => None,
                };
            }),
            17 => self.demand(|demands| demands.signatures = !demands.signatures),
            18..=23 => self.disconnect(who),
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
            108..=109 => self.clear(who),
            110 => self.remove_or_enrol(who),
            111..=113 => self.stage.holds_commits = true,
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
            if let ToAgent::Challenge(challenge) = message {
                self.issued.entry(challenge.id).or_insert(now_ms);
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
            self.actors[who].clean_ms = self.issued.get(&challenge.id).copied();
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

    /// Answers the other agent's challenge over this agent's connection.
    fn answer_other(&mut self, who: usize) {
        let (Some(session), Some(other)) = (self.actors[who].session, self.actors[1 - who].session)
        else {
            return;
        };
        let challenge = self
            .stage
            .sent
            .iter()
            .find_map(|(to, message)| match message {
                ToAgent::Challenge(challenge) if *to == other => Some(*challenge),
                _ => None,
            });
        if let Some(challenge) = challenge {
            let agent = self.actors[who].agent.clone();
            let submission = self.stage.answer(&agent, session, &challenge);
            self.stage.submit(&agent, session, submission);
        }
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

    fn operate(&mut self, who: usize, operation: Operation) {
        let agent = self.actors[who].agent.id.clone();
        self.stage.handle(Input::Operate { agent, operation });
    }

    fn clear(&mut self, who: usize) {
        // Whoever has not failed has nothing that could be taken back.
        let actor = &mut self.actors[who];
        let has_failed = |state: &AgentState| state.failure.is_some();
        actor.was_cleared |= actor.seen.as_ref().is_some_and(has_failed);
        self.operate(who, Operation::Clear);
    }

    fn demand(&mut self, change: impl FnOnce(&mut Demanded)) {
        change(&mut self.demands);
        let group = Arc::new(self.demands.group());
        self.stage.handle(Input::Group(group));
    }

    /// Answers ticks that nobody asked to commit.
    fn answer_stray_ticks(&mut self) {
        let newest = self.stage.ticks.last().map_or(0, |tick| tick.seq);
        for seq in [0, newest + 1, u64::MAX] {
            self.stage.handle(Input::Committed { seq });
            self.stage.handle(Input::CommitFailed { seq });
        }
    }

    /// Answers the ticks that wait.
    fn release(&mut self, is_kept: bool) {
        self.stage.holds_commits = false;
        self.stage.answer_commit(is_kept);
        self.stage.settle();
    }

    /// Stored lists wait from now on, or are judged at last.
    fn hold_or_run_rejudges(&mut self) {
        self.stage.holds_rejudges = !self.stage.holds_rejudges;
        if !self.stage.holds_rejudges {
            self.stage.run_rejudges();
        }
    }

    /// The store loses a list, or keeps other bytes than it was given.
    fn damage_list(&mut self, who: usize) {
        let agent = self.actors[who].agent.id.clone();
        if self.stage.now.mono_ms.is_multiple_of(2) {
            self.stage.lists.lose(&agent);
        } else {
            self.stage.lists.damage(&agent, |list| {
                let at = list.bytes.len() / 2;
                if let Some(byte) = list.bytes.get_mut(at) {
                    *byte ^= 1;
                }
            });
        }
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
        let Some(view) = self.view(who) else { return };
        self.actors[who].session = None;
        self.stage.handle(Input::Agent {
            record: Box::new((*view.record).clone()),
            state: Box::new(view.state),
            candidate: None,
        });
    }

    /// An operator removes the agent; or it enrols anew, and of what was known its failure stays.
    fn remove_or_enrol(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        actor.clean_ms = None;
        actor.was_cleared = false;
        match actor.seen.take() {
            Some(state) => {
                actor.failure = state.failure.map(|failure| *failure);
                let agent = actor.agent.id.clone();
                self.stage.lists.lose(&agent);
                self.stage.handle(Input::Remove(agent));
            }
            None => {
                let state = AgentState {
                    failure: actor.failure.take().map(Box::new),
                    ..AgentState::default()
                };
                actor.seen = Some(state.clone());
                let id = actor.agent.id.clone();
                self.stage.enrol_with(id.as_str(), machine(), state, |_| {});
            }
        }
    }

    fn view(&self, who: usize) -> Option<AgentView> {
        let agent = &self.actors[who].agent.id;
        self.stage.shard.view(agent, self.stage.now)
    }

    fn check_ticks(&mut self) {
        for tick in &self.stage.ticks[self.ticks_checked..] {
            for outcome in &tick.outcomes {
                let evidence = outcome.evidence_sha256;
                let is_first = evidence == [0; 32] || self.judged.insert(evidence);
                assert!(is_first, "evidence was judged twice");
                if outcome.log.as_ref().is_some_and(|log| log.from_entry == 0) {
                    let boot = (outcome.agent.clone(), outcome.state.boot);
                    self.whole_lists.insert(boot);
                }
            }
        }
        self.ticks_checked = self.stage.ticks.len();
    }

    fn check(&mut self) {
        self.check_ticks();
        let now_ms = self.stage.now.mono_ms;
        for who in 0..self.actors.len() {
            let view = self.view(who);
            let actor = &mut self.actors[who];
            let (Some(old), Some(view)) = (&actor.seen, &view) else {
                assert!(actor.seen.is_none() && view.is_none(), "served, or lost");
                continue;
            };
            if view.status == EffectiveStatus::Trusted {
                // Not by what the store says alone, and not for longer than a quote earned.
                let verdict = view.state.verdict.as_ref().unwrap();
                assert_eq!(verdict.kind, VerdictKind::Trusted);
                let demands = self.demands;
                assert!(demands.can_be_met(), "trusted against {demands:?}");
                let boot = (view.record.id.clone(), view.state.boot);
                assert!(self.whole_lists.contains(&boot), "trusted without a list");
                let clean_ms = actor.clean_ms.expect("trusted, and never answered");
                let max_age_ms = 3 * demands.interval_ms.unwrap_or(10_000);
                assert!(now_ms < clean_ms + max_age_ms, "trusted too long");
                let rules = demands.group().list_rules().unwrap();
                assert!(view.state.has_passed(&rules), "trusted by other rules");
                assert!(view.state.boot_log_seen, "trusted without a boot log");
            }
            let new = &view.state;
            if let (Some(failure), None) = (&old.failure, &new.failure) {
                let by_policy = passed_by_another_policy(failure, new);
                assert!(
                    by_policy || actor.was_cleared,
                    "a failure went away by itself"
                );
                actor.was_cleared = false;
            }
            if old.boot == new.boot
                && let (Some(old), Some(new)) = (&old.ima, &new.ima)
            {
                assert!(new.position() >= old.position(), "the position went back");
            }
            actor.seen = Some(view.state.clone());
        }
    }
}

/// Whether a failure was one of a policy, and its agent passed under another one.
pub fn passed_by_another_policy(failure: &Failure, new: &AgentState) -> bool {
    let verdict = new
        .verdict
        .as_ref()
        .filter(|verdict| verdict.code.is_none());
    let held = verdict.and_then(|verdict| match failure.code {
        Code::PcrValueNotAllowed => verdict.held.map(|held| held.pcr_policy),
        _ => verdict.policy.map(Some),
    });
    let is_other = held.is_some_and(|held| held != failure.under_policy);
    failure.under_policy.is_some() && failure.group.is_some() && is_other
}
