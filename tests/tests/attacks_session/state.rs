//! What is remembered, and what is not: S01, S03, S07-S09, S14, S17.

use rat_engine::evidence::{Challenge, Refusal};
use rat_engine::hash::HashAlg;
use rat_engine::shard::{Abandon, EffectiveStatus, Event, Input, Operation, Retention};
use rat_engine::verdict::Code;
use rat_tests::evidence::{Machine, boot_log};
use rat_tests::measured::Measured;
use rat_tests::stage::{Stage, group_of};

use super::{trusted, unchanged};

#[test]
fn s01_an_appraisal_that_panics_leaves_trust_to_run_out() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    let before = stage.view(&agent).state;
    stage.holds_tasks = true;
    stage.submit(&agent, session, submission);
    stage.tasks.clear();
    stage.handle(Input::Abandoned {
        agent: agent.id.clone(),
        challenge: challenge.id,
        why: Abandon::Panicked,
    });
    unchanged(&before, &stage.view(&agent).state);
    let event = Event::Abandoned {
        agent: agent.id.clone(),
        why: Abandon::Panicked,
    };
    assert!(stage.events.contains(&event));
    stage.pass_ms(30_000);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Overdue);
}

#[test]
fn s01_an_appraisal_that_never_ends_is_given_up() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    stage.holds_tasks = true;
    stage.submit(&agent, session, submission);
    stage.pass_ms(600_001);
    let is_it = |event: &&Event| {
        matches!(
            event,
            Event::Abandoned {
                why: Abandon::Timeout,
                ..
            }
        )
    };
    assert_eq!(stage.events.iter().filter(is_it).count(), 1);
    // What comes after that changes nothing.
    let before = stage.view(&agent).state;
    stage.run_tasks();
    unchanged(&before, &stage.view(&agent).state);
    stage.holds_tasks = false;
    stage.sent.clear();
    assert_eq!(
        stage.attest(&agent, session).status,
        EffectiveStatus::Trusted
    );
}

#[test]
fn s03_s17_nothing_is_answered_or_shown_before_it_is_durable() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    stage.holds_commits = true;
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    assert_eq!(stage.submit(&agent, session, submission), None);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    let seq = stage.ticks.last().unwrap().seq;
    stage.handle(Input::Committed { seq });
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
    assert_eq!(stage.answer_to(challenge.id).unwrap().code, None);
}

#[test]
fn s17_a_commit_that_fails_did_not_happen() {
    let (mut stage, mut agent, session) = trusted();
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/ls", b"ls"));
    let before = stage.view(&agent).state;
    let head = stage.shard.head();
    stage.holds_commits = true;
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    stage.submit(&agent, session, submission);
    let seq = stage.ticks.last().unwrap().seq;
    stage.holds_commits = false;
    stage.handle(Input::CommitFailed { seq });
    unchanged(&before, &stage.view(&agent).state);
    assert_eq!(stage.shard.head(), head);
    // It is asked again from where it was, after a pause: the store may refuse it each time.
    let failed_ms = stage.now.mono_ms;
    let again = stage.challenge(session);
    assert_eq!(stage.now.mono_ms - failed_ms, 5_000);
    assert_eq!(again.ima_from_entry, challenge.ima_from_entry);
    let submission = stage.answer(&agent, session, &again);
    assert_eq!(
        stage.submit(&agent, session, submission).unwrap().code,
        None
    );
    assert_eq!(stage.view(&agent).state.ima.unwrap().position(), 5);
}

#[test]
fn s09_a_failed_agent_that_passes_again_stays_failed_until_an_operator_acts() {
    let (mut stage, mut agent, session) = trusted();
    agent.machine.list.push(Measured::file("/tmp/x", b"x"));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::ImaPathNotListed));
    let failure = stage.view(&agent).state.failure.unwrap();
    assert_eq!(failure.entry, Some(4));
    assert_eq!(failure.path.as_deref(), Some(&b"/tmp/x"[..]));
    let digest = hex::encode(rat_tests::oracle::digest(HashAlg::Sha256, b"x"));
    assert_eq!(failure.digest, Some(format!("sha256:{digest}")));
    // It reboots, and what it ran is gone from its list.
    stage.disconnect(&agent, session);
    stage.pass_ms(5_000);
    agent.machine.list.pop();
    agent.boot.reset_count += 1;
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Untrusted)
    );
    assert_eq!(
        stage.view(&agent).state.failure.unwrap().code,
        Code::ImaPathNotListed
    );
    let (agent_id, operation) = (agent.id.clone(), Operation::Clear);
    stage.handle(Input::Operate {
        agent: agent_id,
        operation,
    });
    assert_ne!(stage.view(&agent).status, EffectiveStatus::Trusted);
    assert_eq!(
        stage.attest(&agent, session).status,
        EffectiveStatus::Trusted
    );
}

/// An operator's decision is not lost, whatever the agent is doing at that moment.
#[test]
fn s09_a_failure_is_taken_back_while_evidence_is_judged_or_committed() {
    for (holds_tasks, holds_commits) in [(false, false), (true, false), (false, true)] {
        let (mut stage, mut agent, session) = trusted();
        agent.clock_ms = Some(999_999);
        stage.attest(&agent, session);
        agent.clock_ms = None;
        let challenge = stage.challenge(session);
        (stage.holds_tasks, stage.holds_commits) = (holds_tasks, holds_commits);
        if holds_tasks || holds_commits {
            let submission = stage.answer(&agent, session, &challenge);
            stage.submit(&agent, session, submission);
        }
        let (agent_id, operation) = (agent.id.clone(), Operation::Clear);
        stage.handle(Input::Operate {
            agent: agent_id,
            operation,
        });
        (stage.holds_tasks, stage.holds_commits) = (false, false);
        if holds_commits {
            // The first answer of the store is that the outcome is lost.
            let seq = stage.ticks.last().unwrap().seq;
            stage.handle(Input::CommitFailed { seq });
        }
        stage.run_tasks();
        assert_eq!(stage.view(&agent).state.failure, None);
        assert_ne!(stage.view(&agent).status, EffectiveStatus::Trusted);
        stage.sent.clear();
        assert_eq!(
            stage.attest(&agent, session).status,
            EffectiveStatus::Trusted
        );
    }
}

#[test]
fn s17_enrolling_again_does_not_take_back_what_is_on_its_way_to_the_store() {
    let (mut stage, mut agent, session) = trusted();
    let old = stage.view(&agent);
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/ls", b"ls"));
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    stage.holds_commits = true;
    stage.submit(&agent, session, submission);
    stage.holds_commits = false;
    stage.handle(Input::Agent {
        record: Box::new((*old.record).clone()),
        state: Box::new(old.state),
        candidate: None,
    });
    let seq = stage.ticks.last().unwrap().seq;
    stage.handle(Input::Committed { seq });
    assert_eq!(stage.view(&agent).state.ima.unwrap().position(), 5);
}

#[test]
fn s09_the_first_failure_is_the_one_that_is_kept() {
    let (mut stage, mut agent, session) = trusted();
    agent.clock_ms = Some(999_999);
    stage.attest(&agent, session);
    agent.clock_ms = None;
    agent.machine.list.push(Measured::file("/tmp/x", b"x"));
    stage.attest(&agent, session);
    assert_eq!(
        stage.view(&agent).state.failure.unwrap().code,
        Code::TimeRollback
    );
}

#[test]
fn s07_a_failure_is_kept_once_however_often_it_is_shown() {
    let (mut stage, mut agent, session) = trusted();
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/implant", b"implant"));
    for _ in 0..4 {
        let code = stage.attest(&agent, session).code;
        assert_eq!(code, Some(Code::ImaPathNotListed));
    }
    let kept = |stage: &Stage| {
        let outcomes = stage.ticks.iter().flat_map(|tick| &tick.outcomes);
        outcomes.map(|outcome| outcome.kept.len()).sum::<usize>()
    };
    // The first pass of the boot; then the failure, and the pass before it.
    assert_eq!(kept(&stage), 3);
    // A boot log that nobody asked for is not kept either.
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/other", b"other"));
    let challenge = stage.challenge(session);
    assert!(!challenge.boot_log);
    let mut submission = stage.answer(&agent, session, &challenge);
    submission.boot_log = Some(vec![7; 4096]);
    stage.submit(&agent, session, submission);
    let last = stage.ticks.last().unwrap();
    let logs = last.outcomes.iter().flat_map(|outcome| &outcome.kept);
    assert!(logs.clone().all(|kept| kept.boot_log.is_none()));
}

/// What is kept of an agent by its newest tick.
fn newest_kept(stage: &Stage) -> Vec<&rat_engine::shard::KeptEvidence> {
    let outcomes = stage.ticks.last().unwrap().outcomes.iter();
    outcomes.flat_map(|outcome| &outcome.kept).collect()
}

#[test]
fn s09_a_failure_that_comes_back_after_it_was_taken_back_is_kept_again() {
    let (mut stage, mut agent, session) = trusted();
    agent.machine.list.push(Measured::file("/tmp/x", b"x"));
    stage.attest(&agent, session);
    stage.handle(Input::Operate {
        agent: agent.id.clone(),
        operation: Operation::Clear,
    });
    let code = stage.attest(&agent, session).code;
    assert_eq!(code, Some(Code::ImaPathNotListed));
    let failed_ms = stage.view(&agent).state.failure.unwrap().at_unix_ms;
    let kept = newest_kept(&stage);
    let reasons: Vec<_> = kept.iter().map(|it| (it.reason, it.at_unix_ms)).collect();
    assert_eq!(reasons, [(Retention::Failure, failed_ms)]);
}

#[test]
fn t02_a_boot_log_that_nobody_asked_for_is_kept_when_it_explains_a_new_boot() {
    let (mut stage, mut agent, session) = trusted();
    stage.disconnect(&agent, session);
    stage.pass_ms(5_000);
    // It says hello with the counters of before, boots, and sends everything unasked.
    let session = stage.connect(&agent);
    let challenge = stage.challenge(session);
    assert!(!challenge.boot_log);
    agent.boot.reset_count += 1;
    let asked = Challenge {
        ima_from_entry: Some(0),
        ..challenge
    };
    let whole = stage.answer(&agent, session, &asked).ima;
    let mut submission = stage.answer(&agent, session, &challenge);
    submission.ima = whole;
    submission.boot_log = Some(boot_log());
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Trusted)
    );
    let kept = newest_kept(&stage);
    let logs: Vec<_> = kept.iter().map(|it| (it.reason, &it.boot_log)).collect();
    assert_eq!(logs, [(Retention::FirstPass, &Some(boot_log()))]);
}

#[test]
fn s14_a_silent_agent_becomes_overdue_and_is_reported_once() {
    let (mut stage, agent, session) = trusted();
    stage.disconnect(&agent, session);
    stage.pass_ms(120_000);
    let is_it = |event: &&Event| {
        matches!(
            event,
            Event::Status {
                to: EffectiveStatus::Overdue,
                ..
            }
        )
    };
    assert_eq!(stage.events.iter().filter(is_it).count(), 1);
}

#[test]
fn s14_trust_does_not_outlive_a_restart_with_another_clock() {
    let (stage, agent, _) = trusted();
    let state = stage.view(&agent).state;
    let judged_ms = state.verdict.as_ref().unwrap().at_unix_ms;
    let status_at = |unix_ms| {
        let mut later = Stage::new(group_of(&agent.machine));
        later.now.unix_ms = unix_ms;
        let agent = later.enrol_with("machine-1", agent.machine.clone(), state.clone(), |_| {});
        let status = later.view(&agent).status;
        later.pass_ms(30_000);
        assert_eq!(later.view(&agent).status, EffectiveStatus::Overdue);
        status
    };
    assert_eq!(status_at(judged_ms), EffectiveStatus::Trusted);
    // The wall clock was set back while the server was down: nobody knows for how long.
    for back_ms in [1, 86_400_000] {
        assert_eq!(status_at(judged_ms - back_ms), EffectiveStatus::Overdue);
    }
}

#[test]
fn q14_nothing_is_handed_out_before_it_is_due() {
    let (mut stage, agent, session) = trusted();
    stage.sent.clear();
    stage.pass_ms(9_000);
    assert!(stage.sent.is_empty());
    stage.disconnect(&agent, session);
    let again = stage.connect(&agent);
    let is_welcome = |(to, message): &(_, _)| {
        use rat_engine::evidence::ToAgent;
        *to == again
            && matches!(message, ToAgent::Welcome { next_after_ms } if *next_after_ms <= 1_000)
    };
    assert!(stage.sent.iter().any(is_welcome));
    assert_eq!(stage.sent.len(), 1);
}

#[test]
fn s07_no_more_is_asked_than_the_pacer_allows_and_the_longest_due_come_first() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    let limit = stage.pacer.limit();
    let agents: Vec<_> = (0..limit + 10)
        .map(|nth| stage.enrol(&format!("machine-{nth}"), machine.clone()))
        .collect();
    let sessions: Vec<_> = agents.iter().map(|agent| stage.connect(agent)).collect();
    stage.pass_ms(1);
    assert_eq!(stage.pacer.open(), limit);
    let last = *sessions.last().unwrap();
    let is_asked = |stage: &Stage, session| {
        use rat_engine::evidence::ToAgent;
        stage
            .sent
            .iter()
            .any(|(to, message)| *to == session && matches!(message, ToAgent::Challenge(_)))
    };
    assert!(!is_asked(&stage, last));
    // One that never answers gives its place back at its deadline.
    stage.pass_ms(5_001);
    assert!(is_asked(&stage, last));
}

#[test]
fn s04_a_shard_that_drains_lets_agents_go_when_nothing_of_them_is_open() {
    // Its outcome cannot be committed; or its challenge is not answered.
    for is_answered in [true, false] {
        let (mut stage, agent, session) = trusted();
        stage.holds_commits = true;
        let challenge = stage.challenge(session);
        if is_answered {
            let submission = stage.answer(&agent, session, &challenge);
            stage.submit(&agent, session, submission);
        }
        let before = stage.view(&agent).state;
        stage.handle(Input::Drain);
        assert_eq!(stage.refusal(session), None);
        if is_answered {
            let seq = stage.ticks.last().unwrap().seq;
            stage.handle(Input::CommitFailed { seq });
        } else {
            let ends_ms = stage.shard.next_deadline_ms().unwrap();
            stage.pass_ms(ends_ms - stage.now.mono_ms);
        }
        assert_eq!(stage.refusal(session), Some(Refusal::Draining));
        assert_eq!(stage.answer_to(challenge.id), None);
        unchanged(&before, &stage.view(&agent).state);
        // Only trust is left to end: a driver may sleep until then.
        let next_ms = stage.shard.next_deadline_ms();
        assert!(next_ms.is_some_and(|at_ms| at_ms > stage.now.mono_ms));
    }
}
