//! Policies that change, are missing, or are not enforced: L01, L05, L07, L08, L12, S16.

use std::sync::Arc;

use rat_engine::hash::HashAlg;
use rat_engine::ima::Committed;
use rat_engine::pcr::PcrIndex;
use rat_engine::shard::{BaselineCandidate, EffectiveStatus, Event, Group, Input};
use rat_engine::verdict::Code;
use rat_tests::evidence::{Machine, policy_json};
use rat_tests::measured::Measured;
use rat_tests::stage::{Enrolled, Stage, group_of, policy};

use super::trusted;

#[test]
fn l01_without_a_policy_nobody_is_trusted() {
    let machine = Machine::valid();
    let mut group = group_of(&machine);
    group.enforced = None;
    let mut stage = Stage::new(group);
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::PolicyMissing));
    assert_eq!(answer.status, EffectiveStatus::Unverified);
    assert_eq!(stage.view(&agent).state.trusted_until_unix_ms, 0);
}

#[test]
fn l01_an_agent_of_an_unknown_group_is_not_even_asked() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    let state = Default::default();
    let agent = stage.enrol_with("machine-1", machine, state, |record| {
        record.group = "nowhere".into();
    });
    stage.connect(&agent);
    stage.pass_ms(60_000);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Unverified);
    assert!(stage.ticks.is_empty());
}

#[test]
fn l05_evidence_is_judged_by_the_policy_of_its_challenge() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    let mut group = group_of(&agent.machine);
    let empty = policy_json(serde_json::json!({"/other": ["00".repeat(32)]}), &[]);
    group.enforced = Some(policy(2, &empty));
    let old = group_of(&agent.machine).enforced.unwrap();
    stage.handle(Input::Group(Arc::new(group)));
    stage.submit(&agent, session, submission);
    let outcome = &stage.ticks.last().unwrap().outcomes[0];
    assert_eq!(outcome.policy, Some(old.judge.policy().compiled().digest()));
    // It passed under a policy that does not count any more.
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
}

#[test]
fn l07_a_digest_taken_from_the_policy_is_found_in_what_ran_before() {
    let (mut stage, agent, session) = trusted();
    let ls = hex::encode(rat_tests::oracle::digest(HashAlg::Sha256, b"ls"));
    let without = agent.machine.policy().replace(&ls, &"00".repeat(32));
    let mut group = group_of(&agent.machine);
    group.enforced = Some(policy(2, &without));
    stage.handle(Input::Group(Arc::new(group)));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(0));
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::ImaDigestNotListed));
    assert_eq!(answer.status, EffectiveStatus::Untrusted);
    // And taking the change back clears it: the policy was why.
    stage.handle(Input::Group(Arc::new(group_of(&agent.machine))));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Trusted)
    );
}

#[test]
fn l07_a_policy_change_clears_no_other_failure() {
    let (mut stage, mut agent, session) = trusted();
    agent.clock_ms = Some(999_999);
    assert_eq!(stage.attest(&agent, session).code, Some(Code::TimeRollback));
    agent.clock_ms = None;
    let mut group = group_of(&agent.machine);
    let more = agent.machine.clone().with(|machine| {
        machine.list.push(Measured::file("/usr/bin/id", b"id"));
    });
    group.enforced = Some(policy(2, &more.policy()));
    stage.handle(Input::Group(Arc::new(group)));
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Untrusted)
    );
}

/// The agent is in this group from now on, and attests there.
fn moved_to(stage: &mut Stage, agent: &Enrolled, group: Group) -> (Option<Code>, EffectiveStatus) {
    let view = stage.view(agent);
    let mut record = (*view.record).clone();
    record.group = group.slug.clone();
    stage.handle(Input::Group(Arc::new(group)));
    stage.handle(Input::Agent {
        record: Box::new(record),
        state: Box::new(view.state),
        candidate: None,
    });
    let session = stage.connect(agent);
    let answer = stage.attest(agent, session);
    (answer.code, answer.status)
}

#[test]
fn s16_another_group_with_a_laxer_policy_ends_no_failure() {
    let passed_and_failed = (None, EffectiveStatus::Untrusted);
    for auto_recover in [false, true] {
        let (mut stage, mut agent, session) = trusted();
        let fleet = group_of(&agent.machine);
        agent.machine.list.push(Measured::file("/tmp/x", b"x"));
        let failed = stage.attest(&agent, session);
        assert_eq!(failed.code, Some(Code::ImaPathNotListed));
        let failure = stage.view(&agent).state.failure;
        let lax = Group {
            slug: "lax".to_owned(),
            auto_recover,
            ..group_of(&agent.machine)
        };
        assert_eq!(moved_to(&mut stage, &agent, lax.clone()), passed_and_failed);
        assert_eq!(stage.view(&agent).state.failure, failure);
        // Where it failed, another policy does end it.
        let changed = Group {
            enforced: lax.enforced,
            ..fleet
        };
        assert_eq!(
            moved_to(&mut stage, &agent, changed),
            (None, EffectiveStatus::Trusted)
        );
    }
}

#[test]
fn s16_another_group_that_does_without_boot_logs_ends_no_failure() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let challenge = stage.challenge(session);
    let mut submission = stage.answer(&agent, session, &challenge);
    submission.boot_log = None;
    let failed = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(failed.code, Some(Code::UefiLogMissing));
    let lax = Group {
        slug: "lax".to_owned(),
        require_boot_log: false,
        ..group_of(&agent.machine)
    };
    assert_eq!(
        moved_to(&mut stage, &agent, lax),
        (None, EffectiveStatus::Untrusted)
    );
}

fn baseline_stage(submitted: &Machine) -> (Stage, BaselineCandidate, rat_engine::shard::PolicyRef) {
    let mut group = group_of(submitted);
    let candidate = group.enforced.take().unwrap();
    let values = submitted.values();
    let running = values.get(HashAlg::Sha256, PcrIndex::IMA).unwrap();
    let covers = Committed::new(submitted.list.len() as u64, vec![(PcrIndex::IMA, running)]);
    let baseline = BaselineCandidate {
        policy: candidate.judge.policy().compiled().digest(),
        covers,
    };
    (Stage::new(group), baseline, candidate)
}

#[test]
fn l08_a_baseline_counts_when_a_quote_covers_its_list() {
    let machine = Machine::valid();
    let (mut stage, baseline, candidate) = baseline_stage(&machine);
    let agent = stage.enrol("machine-1", machine.clone());
    let record = stage.view(&agent).record;
    let mut record = (*record).clone();
    record.baseline = Some(baseline.clone());
    stage.handle(Input::Agent {
        record: Box::new(record),
        state: Box::default(),
        candidate: Some(Arc::clone(&candidate.judge)),
    });
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Unverified)
    );
    let proven = Event::BaselineProven {
        agent: agent.id.clone(),
        group: "fleet".into(),
        policy: baseline.policy,
    };
    assert_eq!(
        stage
            .events
            .iter()
            .filter(|event| **event == proven)
            .count(),
        1
    );
    let mut group = group_of(&machine);
    group.enforced = Some(candidate);
    stage.handle(Input::Group(Arc::new(group)));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
}

#[test]
fn l08_a_list_that_is_not_the_submitted_one_proves_no_baseline() {
    // What was submitted names a file that the machine never ran.
    let submitted = Machine::valid().with(|machine| {
        machine
            .list
            .push(Measured::file("/usr/bin/implant", b"implant"));
    });
    let (mut stage, baseline, candidate) = baseline_stage(&submitted);
    let agent = stage.enrol("machine-1", Machine::valid());
    let record = stage.view(&agent).record;
    let mut record = (*record).clone();
    record.baseline = Some(baseline);
    stage.handle(Input::Agent {
        record: Box::new(record),
        state: Box::default(),
        candidate: Some(candidate.judge),
    });
    let session = stage.connect(&agent);
    for _ in 0..2 {
        assert_eq!(stage.attest(&agent, session).code, Some(Code::ImaTruncated));
    }
    let is_proven = |event: &Event| matches!(event, Event::BaselineProven { .. });
    assert!(!stage.events.iter().any(is_proven));
}

#[test]
fn l08_a_baseline_of_a_machine_that_is_known_already_needs_a_covering_quote_too() {
    let submitted = Machine::valid().with(|machine| {
        machine
            .list
            .push(Measured::file("/usr/bin/implant", b"implant"));
    });
    let (mut stage, baseline, candidate) = baseline_stage(&submitted);
    let agent = stage.enrol("machine-1", Machine::valid());
    let session = stage.connect(&agent);
    // Its list is proven, in a group that has no policy.
    assert_eq!(
        stage.attest(&agent, session).code,
        Some(Code::PolicyMissing)
    );
    stage.disconnect(&agent, session);
    let mut record = (*stage.view(&agent).record).clone();
    record.baseline = Some(baseline);
    stage.handle(Input::Agent {
        record: Box::new(record),
        state: Box::new(stage.view(&agent).state),
        candidate: Some(candidate.judge),
    });
    let session = stage.connect(&agent);
    for _ in 0..3 {
        let challenge = stage.challenge(session);
        assert_eq!(challenge.ima_from_entry, Some(0));
        let submission = stage.answer(&agent, session, &challenge);
        assert_ne!(
            stage.submit(&agent, session, submission).unwrap().code,
            None
        );
    }
    let is_proven = |event: &Event| matches!(event, Event::BaselineProven { .. });
    assert!(!stage.events.iter().any(is_proven));
}

#[test]
fn l12_detection_mode_reports_and_does_not_trust() {
    let machine = Machine::valid();
    let mut group = group_of(&machine);
    group.protected = false;
    let mut stage = Stage::new(group);
    let mut agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::TrustedUnenforced);
    agent.machine.list.push(Measured::file("/tmp/x", b"x"));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::ImaPathNotListed));
    assert_eq!(answer.status, EffectiveStatus::TrustedUnenforced);
    // But a forgery is a forgery in every mode.
    agent.clock_ms = Some(999_999);
    assert_eq!(
        stage.attest(&agent, session).status,
        EffectiveStatus::Untrusted
    );
}

#[test]
fn l12_bypass_and_block_have_statuses_of_their_own() {
    let (mut stage, agent, session) = trusted();
    let mut group = group_of(&agent.machine);
    group.bypass = true;
    stage.handle(Input::Group(Arc::new(group.clone())));
    assert_eq!(
        stage.attest(&agent, session).status,
        EffectiveStatus::TrustedUnenforced
    );
    group.block = true;
    stage.handle(Input::Group(Arc::new(group)));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Blocked);
}
