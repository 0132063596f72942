//! Boots and the boot logs that explain them: T02, T05, P06, E02, E03, L07, L12, S09.

use std::sync::Arc;

use rat_engine::evidence::{SessionId, Submission};
use rat_engine::hash::HashAlg;
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::shard::{AgentState, EffectiveStatus, Event, Group, Input};
use rat_engine::verdict::Code;
use rat_tests::evidence::{Machine, boot_log, policy_json};
use rat_tests::stage::{Enrolled, Stage, group_of, policy};

use super::{trusted, unchanged};

/// A machine that booted again and is about to be asked.
fn rebooted() -> (Stage, Enrolled, SessionId) {
    let (mut stage, mut agent, session) = trusted();
    stage.disconnect(&agent, session);
    stage.pass_ms(5_000);
    agent.boot.reset_count += 1;
    let session = stage.connect(&agent);
    (stage, agent, session)
}

/// Answers the next challenge after a change to what is sent; the code of the verdict.
fn attest_with(
    stage: &mut Stage,
    agent: &Enrolled,
    session: SessionId,
    change: impl FnOnce(&mut Submission),
) -> Option<Code> {
    let challenge = stage.challenge(session);
    let mut submission = stage.answer(agent, session, &challenge);
    change(&mut submission);
    stage.submit(agent, session, submission).unwrap().code
}

#[test]
fn p07_another_bank_is_asked_for_from_the_start() {
    let (mut stage, mut agent, session) = trusted();
    let mut group = group_of(&agent.machine);
    group.bank = HashAlg::Sha384;
    stage.handle(Input::Group(Arc::new(group)));
    let pcrs = agent.machine.banks[0].1;
    agent.machine.banks = vec![(HashAlg::Sha384, pcrs)];
    let challenge = stage.challenge(session);
    assert_eq!(
        (challenge.ima_from_entry, challenge.boot_log),
        (Some(0), true)
    );
    let submission = stage.answer(&agent, session, &challenge);
    // Nothing is compared with values of the other bank. What is left to find is that this list
    // begins with a boot_aggregate of a bank that is not quoted any more.
    let code = stage.submit(&agent, session, submission).unwrap().code;
    assert_eq!(code, Some(Code::ImaBootAggregateUnverifiable));
}

fn without_boot_log(submission: &mut Submission) {
    submission.boot_log = None;
}

/// The log of a boot that measured no version of the firmware.
fn with_other_boot_log(submission: &mut Submission) {
    let log = boot_log();
    let header = 32 + u32::from_le_bytes(log[28..32].try_into().unwrap()) as usize;
    let version = b"firmware 0";
    let at = log.windows(version.len()).position(|data| data == version);
    let second = at.unwrap() + version.len();
    submission.boot_log = Some([&log[..header], &log[second..]].concat());
}

/// What a boot that was not proven must leave as it was.
fn nothing_proven(before: &AgentState, after: &AgentState) {
    let proven = |state: &AgentState| AgentState {
        verdict: None,
        failure: None,
        attestations: 0,
        trusted_until_unix_ms: 0,
        passed_under: None,
        ..state.clone()
    };
    unchanged(&proven(before), &proven(after));
    assert_eq!((after.trusted_until_unix_ms, after.passed_under), (0, None));
    assert_eq!(after.attestations, before.attestations + 1);
}

fn told(stage: &Stage, code: Code) -> bool {
    let is_it = |event: &Event| {
        matches!(event, Event::Status { to: EffectiveStatus::Untrusted, code: Some(of), .. }
            if *of == code)
    };
    stage.events.iter().any(is_it)
}

#[test]
fn t02_t05_a_new_boot_without_its_boot_log_fails_and_proves_nothing() {
    for restart_alone in [false, true] {
        let (mut stage, mut agent, session) = trusted();
        stage.disconnect(&agent, session);
        stage.pass_ms(5_000);
        match restart_alone {
            true => agent.boot.restart_count += 1,
            false => agent.boot.reset_count += 1,
        }
        let session = stage.connect(&agent);
        let before = stage.view(&agent).state;
        let code = attest_with(&mut stage, &agent, session, without_boot_log);
        assert_eq!(code, Some(Code::UefiLogMissing));
        let view = stage.view(&agent);
        assert_eq!(view.status, EffectiveStatus::Untrusted);
        nothing_proven(&before, &view.state);
        assert_eq!(view.state.failure.unwrap().code, Code::UefiLogMissing);
        assert!(told(&stage, Code::UefiLogMissing), "{:?}", stage.events);
        // The next challenge asks for everything again, and a failure outlives a pass. (S09)
        let challenge = stage.challenge(session);
        assert_eq!(
            (challenge.ima_from_entry, challenge.boot_log),
            (Some(0), true)
        );
        let submission = stage.answer(&agent, session, &challenge);
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(
            (answer.code, answer.status),
            (None, EffectiveStatus::Untrusted)
        );
    }
}

#[test]
fn t02_the_first_boot_of_a_machine_needs_its_boot_log_too() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let before = stage.view(&agent).state;
    let code = attest_with(&mut stage, &agent, session, without_boot_log);
    assert_eq!(code, Some(Code::UefiLogMissing));
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    assert_eq!((view.state.boot, view.state.passed), (None, 0));
    nothing_proven(&before, &view.state);
}

#[test]
fn t02_a_boot_log_counts_for_one_boot_and_is_sent_once_in_it() {
    let (mut stage, agent, session) = rebooted();
    let challenge = stage.challenge(session);
    assert!(challenge.boot_log);
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, None);
    assert!(stage.view(&agent).state.boot_log_seen);
    assert!(!stage.challenge(session).boot_log);
}

#[test]
fn t02_a_reboot_that_was_not_announced_needs_its_boot_log_where_the_list_starts_anew() {
    for has_log in [true, false] {
        let (mut stage, mut agent, session) = trusted();
        stage.disconnect(&agent, session);
        stage.pass_ms(5_000);
        // Another policy: the list is asked for from entry 0, and no boot log.
        let more = agent
            .machine
            .policy()
            .replace("\"release\":0", "\"release\":1");
        let mut group = group_of(&agent.machine);
        group.enforced = Some(policy(2, &more));
        stage.handle(Input::Group(Arc::new(group)));
        let session = stage.connect(&agent);
        let before = stage.view(&agent).state;
        agent.boot.reset_count += 1;
        let challenge = stage.challenge(session);
        assert_eq!(
            (challenge.ima_from_entry, challenge.boot_log),
            (Some(0), false)
        );
        let mut submission = stage.answer(&agent, session, &challenge);
        submission.boot_log = has_log.then(boot_log);
        let answer = stage.submit(&agent, session, submission).unwrap();
        let view = stage.view(&agent);
        if has_log {
            assert_eq!((answer.code, view.state.boot), (None, Some(agent.boot)));
            assert_eq!(view.status, EffectiveStatus::Trusted);
            assert!(view.state.boot_log_seen);
        } else {
            assert_eq!(answer.code, Some(Code::UefiLogMissing));
            assert_eq!(view.status, EffectiveStatus::Untrusted);
            nothing_proven(&before, &view.state);
        }
    }
}

#[test]
fn p06_e03_a_boot_log_of_another_boot_fails_and_proves_nothing() {
    let (mut stage, agent, session) = rebooted();
    let before = stage.view(&agent).state;
    let code = attest_with(&mut stage, &agent, session, with_other_boot_log);
    assert_eq!(code, Some(Code::UefiPcrMismatch));
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    nothing_proven(&before, &view.state);
    assert!(told(&stage, Code::UefiPcrMismatch));
    assert!(stage.challenge(session).boot_log);
}

#[test]
fn e02_a_boot_log_that_is_no_log_fails_and_proves_nothing() {
    let (mut stage, agent, session) = rebooted();
    let before = stage.view(&agent).state;
    let garbage = |submission: &mut Submission| submission.boot_log = Some(vec![0xa5; 100]);
    let code = attest_with(&mut stage, &agent, session, garbage);
    assert_eq!(code, Some(Code::UefiMalformed));
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    nothing_proven(&before, &view.state);
}

/// A group whose PCR policy does not allow what the machine booted.
fn group_against_pcr_0(machine: &Machine) -> Group {
    let text = format!("{{\"0\": [\"{}\"]}}", "00".repeat(32));
    let mut group = group_of(machine);
    group.pcr_policy = Some(Arc::new(PcrPolicy::parse(text.as_bytes()).unwrap()));
    group
}

#[test]
fn l07_l12_a_value_that_no_policy_allows_does_not_hide_a_boot_log_that_does_not_fit() {
    for protected in [true, false] {
        let machine = Machine::valid();
        let mut group = group_against_pcr_0(&machine);
        group.protected = protected;
        let mut stage = Stage::new(group);
        let agent = stage.enrol("machine-1", machine);
        let session = stage.connect(&agent);
        let code = attest_with(&mut stage, &agent, session, with_other_boot_log);
        assert_eq!(code, Some(Code::UefiPcrMismatch));
        let view = stage.view(&agent);
        // Detection mode waives policies, and a boot log is none.
        assert_eq!(view.status, EffectiveStatus::Untrusted, "{protected}");
        assert_eq!(view.state.boot, None);
        assert_eq!(view.state.failure.unwrap().under_policy, None);
        // Alone, the value is what fails.
        let mut stage = Stage::new(group_against_pcr_0(&agent.machine));
        let agent = stage.enrol("machine-1", agent.machine);
        let session = stage.connect(&agent);
        let code = stage.attest(&agent, session).code;
        assert_eq!(code, Some(Code::PcrValueNotAllowed));
    }
}

fn group_without_demand(machine: &Machine) -> Group {
    let mut group = group_of(machine);
    group.require_boot_log = false;
    group
}

#[test]
fn t02_a_boot_that_no_log_explained_is_not_trusted_once_the_group_demands_it() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_without_demand(&machine));
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let code = attest_with(&mut stage, &agent, session, without_boot_log);
    let view = stage.view(&agent);
    assert_eq!((code, view.status), (None, EffectiveStatus::Trusted));
    assert!(!view.state.boot_log_seen);
    // The same boot goes on, and its machine is asked at once.
    stage.handle(Input::Group(Arc::new(group_of(&agent.machine))));
    let asked_ms = stage.now.mono_ms;
    let challenge = stage.challenge(session);
    assert_eq!((challenge.boot_log, stage.now.mono_ms), (true, asked_ms));
    let mut submission = stage.answer(&agent, session, &challenge);
    without_boot_log(&mut submission);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.code, answer.status),
        (Some(Code::UefiLogMissing), EffectiveStatus::Untrusted)
    );
}

#[test]
fn s09_a_missing_boot_log_is_forgiven_when_an_operator_demands_none() {
    let (mut stage, agent, session) = rebooted();
    let code = attest_with(&mut stage, &agent, session, without_boot_log);
    assert_eq!(code, Some(Code::UefiLogMissing));
    // Another policy is no reason, and the setting alone is no evidence.
    let mut group = group_of(&agent.machine);
    let more = agent
        .machine
        .policy()
        .replace("\"release\":0", "\"release\":1");
    group.enforced = Some(policy(2, &more));
    stage.handle(Input::Group(Arc::new(group.clone())));
    assert_eq!(
        stage.attest(&agent, session).status,
        EffectiveStatus::Untrusted
    );
    group.require_boot_log = false;
    stage.handle(Input::Group(Arc::new(group)));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
    let code = attest_with(&mut stage, &agent, session, without_boot_log);
    let view = stage.view(&agent);
    assert_eq!((code, view.status), (None, EffectiveStatus::Trusted));
    assert_eq!(view.state.failure, None);
}

#[test]
fn s09_what_weighs_more_than_a_missing_boot_log_is_not_forgiven_with_it() {
    let empty = policy_json(serde_json::json!({"/other": ["00".repeat(32)]}), &[]);
    for after_it in [Code::TimeRollback, Code::ImaPathNotListed] {
        let (mut stage, mut agent, session) = rebooted();
        let code = attest_with(&mut stage, &agent, session, without_boot_log);
        assert_eq!(code, Some(Code::UefiLogMissing));
        let mut group = group_of(&agent.machine);
        match after_it {
            Code::TimeRollback => agent.boot.reset_count -= 2,
            _ => group.enforced = Some(policy(2, &empty)),
        }
        stage.handle(Input::Group(Arc::new(group.clone())));
        assert_eq!(stage.attest(&agent, session).code, Some(after_it));
        let failure = stage.view(&agent).state.failure.unwrap();
        // What a policy ends does not hide a boot log that is demanded: only an operator ends both.
        let (code, slug) = match after_it {
            Code::TimeRollback => (after_it, Some("fleet".to_owned())),
            _ => (Code::UefiLogMissing, None),
        };
        assert_eq!((failure.code, failure.group.clone()), (code, slug));
        // Nor does a missing boot log take the place of what weighs more.
        agent.boot.reset_count += 3;
        stage.disconnect(&agent, session);
        stage.pass_ms(60_000);
        let session = stage.connect(&agent);
        let code = attest_with(&mut stage, &agent, session, without_boot_log);
        assert_eq!(code, Some(Code::UefiLogMissing));
        assert_eq!(stage.view(&agent).state.failure, Some(failure.clone()));
        group.require_boot_log = false;
        let denying = group.clone();
        group.enforced = group_of(&agent.machine).enforced;
        for group in [denying, group] {
            stage.handle(Input::Group(Arc::new(group)));
            stage.attest(&agent, session);
            let view = stage.view(&agent);
            assert_eq!(view.status, EffectiveStatus::Untrusted);
            assert_eq!(view.state.failure.as_ref(), Some(&failure));
        }
    }
}
