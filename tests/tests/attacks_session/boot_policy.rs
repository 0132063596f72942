//! What a boot log must hold before its machine is trusted: L07, S09, T02.

use std::sync::Arc;

use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;
use rat_engine::shard::{EffectiveStatus, Group};
use rat_engine::uefi::policy::{MeasuredBootPolicy, PolicyName};
use rat_engine::verdict::Code;
use rat_tests::booted::{self, PCRS, refstate};
use rat_tests::evidence::BOOT_AND_IMA;
use rat_tests::stage::{Stage, group_of};
use serde_json::{Value, json};

use super::rejudge::activate;

fn judged_by(group: Group, row_version: u64, name: PolicyName, state: &Value) -> Group {
    let policy = MeasuredBootPolicy::parse(name, state.to_string().as_bytes()).unwrap();
    Group {
        measured_boot: policy.map(Arc::new),
        row_version,
        ..group
    }
}

/// What is asked of machines: `example` judges PCR 14, too.
fn quoted_under(name: PolicyName) -> Vec<(HashAlg, PcrSet)> {
    let pcrs = match name {
        PolicyName::Example => PCRS,
        PolicyName::AcceptAll | PolicyName::RejectAll => BOOT_AND_IMA,
    };
    vec![(HashAlg::Sha256, PcrSet::from_bits(pcrs).unwrap())]
}

/// The reference state of machines with other firmware.
fn other() -> Value {
    let mut state = refstate();
    state["scrtm_and_bios"][0]["scrtm"] = json!({"sha256": format!("0x{}", "ab".repeat(32))});
    state
}

#[test]
fn l07_what_a_boot_log_must_hold_is_demanded_of_a_boot_that_was_explained_before() {
    let machine = booted::machine(&booted::log(), PCRS);
    let without = Group {
        require_boot_log: true,
        ..group_of(&machine)
    };
    let example = |version| judged_by(without.clone(), version, PolicyName::Example, &refstate());
    let mut stage = Stage::new(example(1));
    let mut agent = stage.enrol("machine-1", machine.clone());
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    // Once in a boot is enough.
    let challenge = stage.challenge(session);
    assert!(!challenge.boot_log);
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    // The same reference state for another policy is another demand; so is another state.
    let accepting = judged_by(without.clone(), 2, PolicyName::AcceptAll, &refstate());
    activate(&mut stage, accepting);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    let challenge = stage.challenge(session);
    assert!(challenge.boot_log);
    agent.machine.banks = quoted_under(PolicyName::AcceptAll);
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    agent.machine.banks = quoted_under(PolicyName::Example);
    activate(&mut stage, example(3));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    assert_eq!(
        stage.attest(&agent, session).status,
        EffectiveStatus::Trusted
    );
}

#[test]
fn s09_a_boot_that_is_not_allowed_fails_until_another_policy_allows_it() {
    let machine = booted::machine(&booted::log(), PCRS);
    let of =
        |version, state: &Value| judged_by(group_of(&machine), version, PolicyName::Example, state);
    let mut stage = Stage::new(of(1, &other()));
    let agent = stage.enrol("machine-1", machine.clone());
    let session = stage.connect(&agent);
    for _ in 0..2 {
        let challenge = stage.challenge(session);
        assert!(challenge.boot_log);
        let submission = stage.answer(&agent, session, &challenge);
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(answer.code, Some(Code::UefiPolicyFirmware));
        assert_eq!(answer.status, EffectiveStatus::Untrusted);
    }
    let failure = stage.view(&agent).state.failure.unwrap();
    let policy = MeasuredBootPolicy::parse(PolicyName::Example, other().to_string().as_bytes());
    let policy = policy.unwrap().unwrap();
    assert_eq!(failure.under_policy.as_ref(), Some(policy.identity()));
    // Its list passed all the same: it is asked for what is new.
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(4));
    let submission = stage.answer(&agent, session, &challenge);
    stage.submit(&agent, session, submission).unwrap();
    activate(&mut stage, of(2, &refstate()));
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
}

#[test]
fn t02_a_boot_whose_log_does_not_come_is_never_trusted_under_a_boot_policy() {
    let machine = booted::machine(&booted::log(), PCRS);
    let of = |version, name| {
        let group = Group {
            require_boot_log: false,
            ..group_of(&machine)
        };
        judged_by(group, version, name, &refstate())
    };
    for name in PolicyName::ALL {
        let mut stage = Stage::new(of(1, name));
        let mut agent = stage.enrol("machine-1", machine.clone());
        agent.machine.banks = quoted_under(name);
        let session = stage.connect(&agent);
        let challenge = stage.challenge(session);
        assert!(challenge.boot_log);
        let mut submission = stage.answer(&agent, session, &challenge);
        submission.boot_log = None;
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(answer.code, Some(Code::UefiLogMissing), "{name}");
        assert_eq!(answer.status, EffectiveStatus::Untrusted, "{name}");
    }
}
