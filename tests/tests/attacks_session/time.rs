//! Clocks, boots and clones: T01-T09, P06.

use rat_engine::shard::{BootEpoch, EffectiveStatus, Input, Operation};
use rat_engine::verdict::Code;
use rat_tests::measured::Measured;
use rat_tests::stage::{Stage, group_of};

use super::{trusted, unchanged};

#[test]
fn t01_a_tpm_clock_that_goes_back_fails_the_agent() {
    let (mut stage, mut agent, session) = trusted();
    agent.clock_ms = Some(999_999);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::TimeRollback));
    assert_eq!(answer.status, EffectiveStatus::Untrusted);
    let (before, failed) = (stage.view(&agent).state, stage.view(&agent));
    assert_eq!(failed.state.failure.unwrap().code, Code::TimeRollback);
    // Restored snapshots do not move the position or the boot.
    assert_eq!(before.boot, Some(agent.boot));
}

#[test]
fn t01_a_boot_counter_that_goes_back_fails_the_agent() {
    let (mut stage, mut agent, session) = trusted();
    agent.boot.reset_count -= 1;
    assert_eq!(stage.attest(&agent, session).code, Some(Code::TimeRollback));
}

#[test]
fn t02_after_a_reboot_everything_is_asked_for_again() {
    let (mut stage, mut agent, session) = trusted();
    stage.disconnect(&agent, session);
    stage.pass_ms(5_000);
    agent.boot.reset_count += 1;
    agent.machine.list.truncate(2);
    let session = stage.connect(&agent);
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(0));
    assert!(challenge.boot_log);
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    let state = stage.view(&agent).state;
    assert_eq!(state.boot, Some(agent.boot));
    assert_eq!(state.ima.unwrap().position(), 2);
}

#[test]
fn t02_a_reboot_that_was_not_announced_is_asked_about_again() {
    let (mut stage, mut agent, session) = trusted();
    stage.disconnect(&agent, session);
    stage.pass_ms(5_000);
    // The agent says hello with the counters of before, and is asked for what is new.
    let session = stage.connect(&agent);
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(4));
    let before = stage.view(&agent).state;
    agent.boot.reset_count += 1;
    let submission = stage.answer(&agent, session, &challenge);
    assert_eq!(stage.submit(&agent, session, submission), None);
    unchanged(&before, &stage.view(&agent).state);
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(0));
    let submission = stage.answer(&agent, session, &challenge);
    assert_eq!(
        stage.submit(&agent, session, submission).unwrap().code,
        None
    );
}

#[test]
fn t03_two_machines_that_take_turns_with_one_key_are_noticed() {
    let (mut stage, agent, _) = trusted();
    let mut code = None;
    for _ in 0..6 {
        // The other one connects while this one's connection lives, and proves itself too.
        let session = stage.connect(&agent);
        code = stage.attest(&agent, session).code;
        if code.is_some() {
            break;
        }
    }
    assert_eq!(code, Some(Code::IdentityCloneSuspected));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
    // An operator who found the clone is believed.
    let (id, operation) = (agent.id.clone(), Operation::Clear);
    stage.handle(Input::Operate {
        agent: id,
        operation,
    });
    stage.pass_ms(60_000);
    let session = stage.connect(&agent);
    assert_eq!(
        stage.attest(&agent, session).status,
        EffectiveStatus::Trusted
    );
}

#[test]
fn t04_our_own_wall_clock_may_jump() {
    let (mut stage, agent, session) = trusted();
    stage.now.unix_ms -= 3_600_000;
    assert_eq!(stage.attest(&agent, session).code, None);
    stage.now.unix_ms += 7_200_000;
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
    assert_eq!(stage.attest(&agent, session).code, None);
}

#[test]
fn t04_a_verifier_that_was_paused_accuses_nobody() {
    // Our machine stood still for ten minutes: its clocks know, except the monotonic one.
    let (mut stage, mut agent, session) = trusted();
    let challenge = stage.challenge(session);
    stage.now.unix_ms += 600_000;
    agent.clock_ms = Some(stage.now.mono_ms + 600_000);
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Trusted)
    );
}

#[test]
fn t04_a_verifier_that_starts_with_a_clock_that_is_behind_accuses_nobody() {
    let (stage, agent, _) = trusted();
    let state = stage.view(&agent).state;
    let mut later = Stage::new(group_of(&agent.machine));
    // An hour passed, of which our clock says a minute.
    later.now.unix_ms = stage.now.unix_ms + 60_000;
    let mut agent = later.enrol_with("machine-1", agent.machine, state, |_| {});
    agent.clock_ms = Some(stage.now.mono_ms + 3_600_000);
    let session = later.connect(&agent);
    assert_eq!(later.attest(&agent, session).code, None);
}

#[test]
fn t05_a_restart_alone_is_a_new_epoch() {
    let (mut stage, mut agent, session) = trusted();
    stage.disconnect(&agent, session);
    agent.boot.restart_count += 1;
    stage.pass_ms(2_000);
    let session = stage.connect(&agent);
    let challenge = stage.challenge(session);
    assert_eq!(
        (challenge.ima_from_entry, challenge.boot_log),
        (Some(0), true)
    );
}

#[test]
fn t06_an_unsafe_clock_is_recorded_and_not_judged() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer_with(&agent, session, &challenge, |attest| attest.safe = 0);
    assert_eq!(
        stage.submit(&agent, session, submission).unwrap().code,
        None
    );
    assert!(!stage.view(&agent).state.clock.unwrap().safe);
}

#[test]
fn t08_a_reset_while_the_connection_lives_fails_the_agent() {
    let (mut stage, mut agent, session) = trusted();
    agent.boot = BootEpoch {
        reset_count: 8,
        restart_count: 0,
    };
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::TimeResetWithoutReboot));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
}

#[test]
fn t09_a_tpm_clock_that_jumps_ahead_is_a_clones() {
    let (mut stage, mut agent, session) = trusted();
    stage.disconnect(&agent, session);
    stage.pass_ms(10_000);
    let session = stage.connect(&agent);
    agent.clock_ms = Some(stage.now.mono_ms + 600_000);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::IdentityCloneSuspected));
}

#[test]
fn i02_an_entry_at_the_known_position_that_is_hidden_is_looked_at_twice_and_fails() {
    let (mut stage, mut agent, session) = trusted();
    let hidden = Measured::file("/usr/bin/ls", b"ls");
    agent.machine.list.push(hidden);
    let mut codes = Vec::new();
    for _ in 0..2 {
        let challenge = stage.challenge(session);
        let mut submission = stage.answer(&agent, session, &challenge);
        // PCR 10 holds the entry, the list does not.
        let upload = submission.ima.as_mut().unwrap();
        let whole = upload.whole.as_mut().unwrap();
        let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        *whole = lines[..lines.len() - 1].concat();
        upload.length = whole.len() as u64;
        let answer = stage.submit(&agent, session, submission).unwrap();
        codes.push((answer.code, answer.status, challenge.ima_from_entry));
    }
    let mismatch = Some(Code::ImaPcrMismatch);
    assert_eq!(codes[0], (mismatch, EffectiveStatus::Trusted, Some(4)));
    assert_eq!(codes[1], (mismatch, EffectiveStatus::Untrusted, Some(0)));
    let failure = stage.view(&agent).state.failure.unwrap();
    assert_eq!(failure.code, Code::ImaPcrMismatch);
    assert!(failure.detail.contains('4'), "{}", failure.detail);
}
