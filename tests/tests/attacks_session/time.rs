//! Clocks, boots and clones: T01-T09, P06.

use rat_engine::evidence::Instance;
use rat_engine::shard::{BootEpoch, EffectiveStatus, Input, Operation};
use rat_engine::verdict::Code;
use rat_tests::measured::Measured;
use rat_tests::stage::{Enrolled, Stage, group_of};

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

/// What comes of it when these instances connect one after the other, each while the connection of
/// the one before lives, and attest.
fn turns(stage: &mut Stage, agent: &mut Enrolled, instances: &[u8]) -> Vec<Option<Code>> {
    let mut codes = Vec::new();
    for instance in instances {
        agent.instance = Instance([*instance; 16]);
        let session = stage.connect(agent);
        codes.push(stage.attest(agent, session).code);
    }
    codes
}

#[test]
fn t03_an_agent_that_crashes_again_and_again_stays_trusted() {
    let (mut stage, mut agent, _) = trusted();
    let codes = turns(&mut stage, &mut agent, &[2, 3, 4, 5]);
    assert_eq!(codes, [None; 4]);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
}

#[test]
fn t03_a_running_machine_that_was_copied_is_noticed() {
    let (mut stage, mut agent, _) = trusted();
    let codes = turns(&mut stage, &mut agent, &[1, 1, 1]);
    assert_eq!(codes, [None, None, Some(Code::IdentityCloneSuspected)]);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
}

#[test]
fn t03_turns_of_long_ago_are_forgotten() {
    let (mut stage, mut agent, _) = trusted();
    // The third time it replaces itself, and does not attest.
    turns(&mut stage, &mut agent, &[1, 1]);
    let session = stage.connect(&agent);
    stage.disconnect(&agent, session);
    stage.pass_ms(30_001);
    let session = stage.connect(&agent);
    assert_eq!(stage.attest(&agent, session).code, None);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
}

#[test]
fn t03_two_machines_that_take_turns_with_one_key_are_noticed() {
    let (mut stage, mut agent, _) = trusted();
    // The other one connects while this one's connection lives, and proves itself too.
    let codes = turns(&mut stage, &mut agent, &[2, 1, 2]);
    assert_eq!(codes, [None, None, Some(Code::IdentityCloneSuspected)]);
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
fn t04_the_firmware_of_the_tpm_is_recorded_and_its_change_too() {
    let (mut stage, agent, session) = trusted();
    let recorded = |stage: &Stage| stage.view(&agent).state.clock.unwrap().firmware_version;
    assert_eq!(recorded(&stage), 0x0001_0002_0003_0004);
    let challenge = stage.challenge(session);
    let submission = stage.answer_with(&agent, session, &challenge, |attest| {
        attest.firmware_version += 1;
    });
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Trusted)
    );
    assert_eq!(recorded(&stage), 0x0001_0002_0003_0005);
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

/// What comes of a TPM that was reset, and of a machine that was gone for so long before it said so
/// over another connection.
fn reset_after_gap(gap_ms: u64) -> Option<Code> {
    let (mut stage, mut agent, session) = trusted();
    stage.disconnect(&agent, session);
    stage.pass_ms(gap_ms);
    agent.boot.reset_count += 1;
    let session = stage.connect(&agent);
    stage.attest(&agent, session).code
}

#[test]
fn t08_a_machine_that_is_back_sooner_than_it_can_boot_did_not_boot() {
    // However late the evidence: the challenge is due seconds after the Hello.
    assert_eq!(reset_after_gap(999), Some(Code::TimeResetWithoutReboot));
    assert_eq!(reset_after_gap(1_000), None);
}

#[test]
fn t08_a_connection_that_proved_nothing_does_not_shorten_the_time_of_a_boot() {
    let (mut stage, mut agent, session) = trusted();
    stage.disconnect(&agent, session);
    stage.pass_ms(20_000);
    agent.boot.reset_count += 1;
    // The network is not steady yet.
    let session = stage.connect(&agent);
    stage.disconnect(&agent, session);
    let session = stage.connect(&agent);
    assert_eq!(stage.attest(&agent, session).code, None);
}

#[test]
fn t08_a_machine_that_lost_power_is_not_blamed_for_what_its_server_noticed_late() {
    // It is back before its connection timed out, or just after.
    for (silent_ms, is_timed_out) in [(20_000, false), (60_000, true)] {
        let (mut stage, mut agent, session) = trusted();
        stage.pass_ms(silent_ms);
        if is_timed_out {
            stage.disconnect(&agent, session);
        }
        agent.boot.reset_count += 1;
        let session = stage.connect(&agent);
        assert_eq!(stage.attest(&agent, session).code, None, "{silent_ms}");
    }
}

#[test]
fn t08_another_connection_does_not_hide_what_came_over_the_one_before() {
    let (mut stage, mut agent, session) = trusted();
    let challenge = stage.challenge(session);
    agent.boot.reset_count += 1;
    let submission = stage.answer(&agent, session, &challenge);
    stage.holds_tasks = true;
    stage.submit(&agent, session, submission);
    // While it is judged, another connection of the same agent replaces this one.
    stage.connect(&agent);
    stage.holds_tasks = false;
    stage.run_tasks();
    let failure = stage.view(&agent).state.failure.unwrap();
    assert_eq!(failure.code, Code::TimeResetWithoutReboot);
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
