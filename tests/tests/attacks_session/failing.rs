//! Failures that meet: none hides another from the operator whose change would end only one of them.
//! S09, S16, L07.

use rat_engine::evidence::SessionId;
use rat_engine::shard::{EffectiveStatus, Failure, Group, Input, Operation};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::measured::Measured;
use rat_tests::stage::{Enrolled, Stage, group_of};

use super::rejudge::{activate, kept, stricter, wider};
use super::rules::{of_pcr_4, with_pcr_policy};

/// A way to fail that a change of its group ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    BootLog,
    List,
    Pcrs,
}

impl Fault {
    fn code(self) -> Code {
        match self {
            Self::BootLog => Code::UefiLogMissing,
            Self::List => Code::ImaDigestNotListed,
            Self::Pcrs => Code::PcrValueNotAllowed,
        }
    }

    /// The group by which a machine fails in this way.
    fn demanded(self, machine: &Machine) -> Group {
        match self {
            Self::BootLog => group_of(machine),
            Self::List => stricter(machine),
            Self::Pcrs => with_pcr_policy(group_of(machine), &of_pcr_4(machine, false)),
        }
    }

    /// The change that ends this failure, when there is no other.
    fn ended(self, machine: &Machine) -> Group {
        match self {
            Self::BootLog => Group {
                require_boot_log: false,
                ..group_of(machine)
            },
            Self::List => wider(machine),
            Self::Pcrs => with_pcr_policy(group_of(machine), &of_pcr_4(machine, true)),
        }
    }

    /// Fails in this way, in a new boot.
    fn happens(self, stage: &mut Stage, agent: &mut Enrolled, session: SessionId) -> SessionId {
        activate(stage, self.demanded(&agent.machine));
        stage.disconnect(agent, session);
        stage.pass_ms(60_000);
        agent.boot.reset_count += 1;
        let session = stage.connect(agent);
        let challenge = stage.challenge(session);
        let mut submission = stage.answer(agent, session, &challenge);
        if self == Self::BootLog {
            submission.boot_log = None;
        }
        let answer = stage.submit(agent, session, submission).unwrap();
        assert_eq!(answer.code, Some(self.code()));
        assert_eq!(answer.status, EffectiveStatus::Untrusted);
        session
    }
}

fn failure(stage: &Stage, agent: &Enrolled) -> Failure {
    *stage.view(agent).state.failure.unwrap()
}

/// Passes, and is failed all the same.
#[track_caller]
fn stays_failed(stage: &mut Stage, agent: &Enrolled, session: SessionId) {
    let answer = stage.attest(agent, session);
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Untrusted)
    );
}

fn operator_clears(stage: &mut Stage, agent: &Enrolled, session: SessionId) {
    let (id, operation) = (agent.id.clone(), Operation::Clear);
    stage.handle(Input::Operate {
        agent: id,
        operation,
    });
    let answer = stage.attest(agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}

#[test]
fn s09_l07_of_two_kinds_of_failures_neither_is_ended_by_what_ends_the_other() {
    let all = [Fault::BootLog, Fault::List, Fault::Pcrs];
    for first in all {
        for second in all.into_iter().filter(|second| *second != first) {
            let (mut stage, mut agent, session) = kept();
            let session = first.happens(&mut stage, &mut agent, session);
            let known = failure(&stage, &agent);
            assert_eq!(known.group.as_deref(), Some("fleet"));
            let session = second.happens(&mut stage, &mut agent, session);
            let expected = Failure {
                group: None,
                ..known
            };
            assert_eq!(failure(&stage, &agent), expected, "{first:?} {second:?}");
            for change in [first, second] {
                activate(&mut stage, change.ended(&agent.machine));
                stays_failed(&mut stage, &agent, session);
            }
            operator_clears(&mut stage, &agent, session);
        }
        // Alone, each ends by its own change.
        let (mut stage, mut agent, session) = kept();
        let session = first.happens(&mut stage, &mut agent, session);
        activate(&mut stage, first.ended(&agent.machine));
        let answer = stage.attest(&agent, session);
        assert_eq!(answer.status, EffectiveStatus::Trusted, "{first:?}");
    }
}

#[test]
fn s09_what_nothing_ends_takes_the_place_of_what_something_would() {
    for first in [Fault::BootLog, Fault::List, Fault::Pcrs] {
        let (mut stage, mut agent, session) = kept();
        let session = first.happens(&mut stage, &mut agent, session);
        agent.clock_ms = Some(999_999);
        agent.boot.reset_count -= 1;
        stage.attest(&agent, session);
        let graver = failure(&stage, &agent);
        assert_eq!(graver.code, Code::TimeRollback, "{first:?}");
        agent.clock_ms = None;
        agent.boot.reset_count += 1;
        first.happens(&mut stage, &mut agent, session);
        assert_eq!(failure(&stage, &agent), graver, "{first:?}");
    }
}

#[test]
fn l07_s09_a_failure_under_the_newest_policy_takes_yet_another_one() {
    let (mut stage, agent, session) = kept();
    activate(&mut stage, stricter(&agent.machine));
    let first = failure(&stage, &agent);
    // Another policy that does not allow it either.
    let other = Machine::valid().with(|machine| {
        machine.list[2] = Measured::file("/usr/bin/ls", b"another ls");
    });
    activate(&mut stage, group_of(&other));
    let second = failure(&stage, &agent);
    assert_ne!(second.under_policy, first.under_policy);
    assert_eq!(second.group, first.group);
    stage.disconnect(&agent, session);
    // It boots without what it ran, and passes under the policy that it failed under.
    stage.pass_ms(60_000);
    let mut agent = agent;
    agent.boot.reset_count += 1;
    agent.machine.list.remove(2);
    let session = stage.connect(&agent);
    stays_failed(&mut stage, &agent, session);
    activate(&mut stage, group_of(&Machine::valid()));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}

/// Moves an agent to a group, and connects it there.
fn moved_to(stage: &mut Stage, agent: &Enrolled, group: Group) -> SessionId {
    let view = stage.view(agent);
    let mut record = (*view.record).clone();
    record.group = group.slug.clone();
    activate(stage, group);
    stage.handle(Input::Agent {
        record: Box::new(record),
        state: Box::new(view.state),
        candidate: None,
    });
    stage.connect(agent)
}

#[test]
fn s16_a_failure_of_another_group_does_not_take_the_place_of_the_first() {
    for is_graver in [false, true] {
        let (mut stage, mut agent, _) = kept();
        let machine = agent.machine.clone();
        activate(&mut stage, stricter(&machine));
        let known = failure(&stage, &agent);
        let of_other = |group: Group| Group {
            slug: "other".to_owned(),
            auto_recover: true,
            ..group
        };
        // In the other group it fails too, under a policy of its own or for good.
        let group = match is_graver {
            false => with_pcr_policy(group_of(&machine), &of_pcr_4(&machine, false)),
            true => group_of(&machine),
        };
        let session = moved_to(&mut stage, &agent, of_other(group));
        agent.clock_ms = is_graver.then_some(999_999);
        let answer = stage.attest(&agent, session);
        assert!(answer.code.is_some());
        agent.clock_ms = None;
        let expected = Failure {
            group: None,
            ..known
        };
        assert_eq!(failure(&stage, &agent), expected);
        // That group gives it up, and then the first one does.
        activate(&mut stage, of_other(wider(&machine)));
        stays_failed(&mut stage, &agent, session);
        let session = moved_to(&mut stage, &agent, wider(&machine));
        stays_failed(&mut stage, &agent, session);
        operator_clears(&mut stage, &agent, session);
    }
}

#[test]
fn s09_a_group_that_recovers_by_itself_does_so_from_failures_of_all_kinds() {
    let (mut stage, mut agent, session) = kept();
    let recovering = |group: Group| Group {
        auto_recover: true,
        ..group
    };
    let strict = recovering(stricter(&agent.machine));
    activate(&mut stage, strict.clone());
    assert!(stage.view(&agent).state.failure.is_some());
    stage.disconnect(&agent, session);
    stage.pass_ms(60_000);
    agent.boot.reset_count += 1;
    let session = stage.connect(&agent);
    let challenge = stage.challenge(session);
    let mut submission = stage.answer(&agent, session, &challenge);
    submission.boot_log = None;
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::UefiLogMissing));
    agent.machine.list.remove(2);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Trusted)
    );
}
