//! What a pass or a failure depends on beside the runtime policy: L07, L12, I30.

use std::sync::Arc;

use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrIndex;
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::shard::{EffectiveStatus, Group, Retention};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::measured::Measured;
use rat_tests::stage::{Stage, group_of};

use super::rejudge::{activate, kept, stricter, wider};

pub(super) fn with_pcr_policy(group: Group, text: &str) -> Group {
    let policy = PcrPolicy::parse(text.as_bytes()).unwrap();
    Group {
        pcr_policy: Some(Arc::new(policy)),
        ..group
    }
}

/// A PCR policy that allows what PCR 4 holds, or something else.
pub(super) fn of_pcr_4(machine: &Machine, is_met: bool) -> String {
    let pcr = PcrIndex::new(4).unwrap();
    let held = machine
        .values()
        .get(HashAlg::Sha256, pcr)
        .unwrap()
        .to_owned();
    let value = match is_met {
        true => hex::encode(held.as_bytes()),
        false => "ab".repeat(32),
    };
    serde_json::json!({ "4": [value] }).to_string()
}

#[test]
fn l07_a_pcr_failure_is_cleared_by_a_change_of_the_pcr_policy_and_of_no_other() {
    let (mut stage, agent, session) = kept();
    let machine = &agent.machine;
    let refusing = of_pcr_4(machine, false);
    activate(&mut stage, with_pcr_policy(group_of(machine), &refusing));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::PcrValueNotAllowed));
    assert_eq!(answer.status, EffectiveStatus::Untrusted);
    let failure = stage.view(&agent).state.failure.unwrap();
    let digest = PcrPolicy::parse(refusing.as_bytes()).unwrap().digest();
    assert_eq!(failure.under_policy, Some(digest));
    // Its list passed: it is not asked for it again.
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(4));
    let submission = stage.answer(&agent, session, &challenge);
    stage.submit(&agent, session, submission);
    // Another runtime policy changes nothing about it, and neither does another spelling.
    let spelled = refusing.replace("ab", "AB").replace(':', " : ");
    for group in [
        with_pcr_policy(wider(machine), &refusing),
        with_pcr_policy(wider(machine), &spelled),
    ] {
        activate(&mut stage, group);
        let answer = stage.attest(&agent, session);
        assert_eq!(answer.code, Some(Code::PcrValueNotAllowed));
    }
    assert_eq!(stage.view(&agent).state.failure.unwrap(), failure);
    // One that allows what the PCR holds does.
    let allowing = of_pcr_4(machine, true);
    activate(&mut stage, with_pcr_policy(wider(machine), &allowing));
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
}

#[test]
fn l07_a_machine_that_meets_the_same_pcr_policy_later_stays_failed() {
    let (mut stage, mut agent, session) = kept();
    let again = Measured::file("/usr/bin/ls", b"ls");
    let after = agent
        .machine
        .clone()
        .with(|machine| machine.list.push(again.clone()));
    let values = after.values();
    let allowed = values.get(HashAlg::Sha256, PcrIndex::IMA).unwrap();
    let allowed = serde_json::json!({ "10": [hex::encode(allowed.as_bytes())] }).to_string();
    let with_it = |group| with_pcr_policy(group, &allowed);
    activate(&mut stage, with_it(group_of(&agent.machine)));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::PcrValueNotAllowed));
    // The value is reached, and the runtime policy changes: neither is a reason.
    agent.machine.list.push(again);
    for group in [group_of(&agent.machine), wider(&agent.machine)] {
        activate(&mut stage, with_it(group));
        let answer = stage.attest(&agent, session);
        assert_eq!(
            (answer.status, answer.code),
            (EffectiveStatus::Untrusted, None)
        );
    }
    // Without a PCR policy nothing is demanded of PCRs any more.
    activate(&mut stage, wider(&agent.machine));
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
}

#[test]
fn l07_s16_a_pcr_failure_does_not_hide_behind_a_failure_that_a_policy_change_ends() {
    let (mut stage, agent, session) = kept();
    let machine = &agent.machine;
    activate(&mut stage, stricter(machine));
    let first = stage.view(&agent).state.failure.unwrap();
    assert_eq!(first.code, Code::ImaDigestNotListed);
    let refusing = of_pcr_4(machine, false);
    activate(&mut stage, with_pcr_policy(group_of(machine), &refusing));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::PcrValueNotAllowed));
    // Neither a change of the one policy nor of the other ends both: an operator has to.
    let second = stage.view(&agent).state.failure.unwrap();
    assert_eq!((second.code, second.group), (first.code, None));
    let allowing = of_pcr_4(&agent.machine, true);
    activate(
        &mut stage,
        with_pcr_policy(wider(&agent.machine), &allowing),
    );
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Untrusted)
    );
}

fn violation() -> Measured {
    Measured {
        violation: true,
        ..Measured::file("/usr/bin/ls", b"ls")
    }
}

fn accepting(machine: &Machine) -> Group {
    Group {
        accept_violations: true,
        ..group_of(machine)
    }
}

#[test]
fn l07_i30_violations_that_were_accepted_count_when_they_are_accepted_no_more() {
    let machine = Machine::valid();
    let mut stage = Stage::new(accepting(&machine));
    stage.keeps_lists = true;
    let mut violating = machine.clone();
    violating.list.push(violation());
    let agents = [
        stage.enrol("clean", machine.clone()),
        stage.enrol("violating", violating),
    ];
    let sessions = [0, 1].map(|nth| {
        let session = stage.connect(&agents[nth]);
        let answer = stage.attest(&agents[nth], session);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
        session
    });
    let committed = stage.ticks.len();
    activate(&mut stage, group_of(&machine));
    let [clean, violating] = [&agents[0], &agents[1]].map(|agent| stage.view(agent));
    // A list without violations passes by either rule: it is not even judged again.
    assert_eq!(clean.status, EffectiveStatus::Trusted);
    assert_eq!(stage.ticks.len(), committed + 1);
    assert_eq!(violating.status, EffectiveStatus::Untrusted);
    assert_eq!(violating.state.failure.unwrap().code, Code::ImaViolation);
    // Accepting them again is a change of what it failed by, and clears it with the next quote.
    activate(&mut stage, accepting(&machine));
    let view = stage.view(&agents[1]);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    assert!(view.state.passed_under.is_some());
    let answer = stage.attest(&agents[1], sessions[1]);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}

#[test]
fn l07_a_violation_that_was_passed_under_the_rules_of_its_challenge_does_not_pass_for_trust() {
    let machine = Machine::valid();
    let mut stage = Stage::new(accepting(&machine));
    let mut agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    stage.attest(&agent, session);
    agent.machine.list.push(violation());
    let challenge = stage.challenge(session);
    activate(&mut stage, group_of(&agent.machine));
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Pending, None)
    );
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::ImaViolation));
}

#[test]
fn l07_a_list_of_which_nobody_counted_the_violations_is_judged_again() {
    let (mut stage, agent, session) = kept();
    stage.disconnect(&agent, session);
    let view = stage.view(&agent);
    let mut state = view.state.clone();
    // As the store reads it that was written before violations were counted.
    state.list = Default::default();
    stage.handle(rat_engine::shard::Input::Remove(agent.id.clone()));
    let committed = stage.ticks.len();
    stage.enrol_with("machine-1", agent.machine.clone(), state, |_| {});
    assert_eq!(stage.ticks.len(), committed + 1);
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Trusted);
    assert_eq!(view.state.list.violations, Some(0));
}

#[test]
fn l12_a_list_that_is_denied_is_not_asked_for_in_every_round() {
    let machine = Machine::valid();
    for is_protected in [true, false] {
        let group = Group {
            protected: is_protected,
            ..stricter(&machine)
        };
        let mut stage = Stage::new(group);
        let mut agent = stage.enrol("machine-1", machine.clone());
        let session = stage.connect(&agent);
        let expected = match is_protected {
            true => EffectiveStatus::Untrusted,
            false => EffectiveStatus::TrustedUnenforced,
        };
        let policy = stricter(&machine).enforced.unwrap();
        let digest = policy.judge.policy().compiled().digest();
        for round in 0..4u64 {
            let challenge = stage.challenge(session);
            let from = if round == 0 { 0 } else { 3 + round };
            assert_eq!(challenge.ima_from_entry, Some(from), "round {round}");
            let submission = stage.answer(&agent, session, &challenge);
            let answer = stage.submit(&agent, session, submission).unwrap();
            // The same offence each time, whatever else ran meanwhile.
            assert_eq!(answer.code, Some(Code::ImaDigestNotListed));
            assert_eq!(answer.status, expected);
            let verdict = stage.view(&agent).state.verdict.unwrap();
            assert_eq!(verdict.policy, Some(digest));
            assert!(verdict.detail.contains("/usr/bin/ls"), "{}", verdict.detail);
            let next = Measured::file("/tmp/implant", round.to_string().as_bytes());
            agent.machine.list.push(next);
        }
        // It is news once.
        let kept = stage.ticks.iter().flat_map(|tick| &tick.outcomes);
        let failures = kept
            .flat_map(|outcome| &outcome.kept)
            .filter(|kept| kept.reason == Retention::Failure);
        assert_eq!(failures.count(), 1);
        // Nobody passes by this: a quote whose list does not fit is found as ever.
        let challenge = stage.challenge(session);
        agent.machine.list.pop();
        agent.machine.list.remove(1);
        let submission = stage.answer(&agent, session, &challenge);
        stage.submit(&agent, session, submission);
        let answer = stage.attest(&agent, session);
        assert_ne!(answer.code, Some(Code::ImaDigestNotListed));
        assert_eq!(answer.status, EffectiveStatus::Untrusted);
    }
}

#[test]
fn l12_a_reboot_ends_what_was_denied_of_the_list_before() {
    let machine = Machine::valid();
    let group = Group {
        protected: false,
        ..stricter(&machine)
    };
    let mut stage = Stage::new(group);
    let mut agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::ImaDigestNotListed));
    stage.disconnect(&agent, session);
    stage.pass_ms(60_000);
    agent.boot.reset_count += 1;
    // What the policy does not list does not run in this boot.
    agent.machine.list.remove(2);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::TrustedUnenforced, None)
    );
    assert_eq!(stage.view(&agent).state.list.denied, None);
}
