//! SHA-1, which a group has to accept before anything of its agents may rest on it: Q09.

use rat_engine::evidence::SessionId;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{EffectiveStatus, Group};
use rat_engine::verdict::Code;
use rat_tests::evidence::{Machine, boot_value};
use rat_tests::measured::Measured;
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use rat_tests::stage::{Enrolled, Stage, group_of};

use super::rejudge::activate;
use super::{turned_away, unchanged};

/// A machine whose quotes are signed over SHA-1.
fn signs_sha1() -> Machine {
    Machine::valid().with(|machine| {
        machine.ak = SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha1);
    })
}

/// A machine that has SHA-1 banks alone, as its kernel's boot_aggregate shows.
fn has_sha1_bank() -> Machine {
    Machine::valid().with(|machine| {
        machine.banks[0].0 = HashAlg::Sha1;
        let boot: Vec<_> = (0..8).map(|pcr| boot_value(HashAlg::Sha1, pcr)).collect();
        machine.list[0] = Measured::boot_aggregate(HashAlg::Sha1, &boot);
    })
}

fn accepting(machine: &Machine) -> Group {
    Group {
        bank: machine.banks[0].0,
        allow_sha1: true,
        ..group_of(machine)
    }
}

fn trusted(machine: Machine) -> (Stage, Enrolled, SessionId) {
    let mut stage = Stage::new(accepting(&machine));
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    (stage, agent, session)
}

#[test]
fn q09_a_key_that_signs_sha1_is_refused_unless_its_group_accepts_it() {
    let machine = signs_sha1();
    let mut stage = Stage::new(group_of(&machine));
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let before = stage.view(&agent).state;
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::AkNotAllowed));
    assert_eq!(answer.status, EffectiveStatus::Pending);
    unchanged(&before, &stage.view(&agent).state);
    assert_eq!(turned_away(&stage, Code::AkNotAllowed), 1);
    // It is asked as soon as that changes.
    activate(&mut stage, accepting(&agent.machine));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    let verdict = stage.view(&agent).state.verdict.unwrap();
    assert!(verdict.held.unwrap().allow_sha1);
}

#[test]
fn q09_trust_that_was_earned_with_sha1_ends_when_its_group_accepts_it_no_more() {
    for machine in [signs_sha1(), has_sha1_bank()] {
        let (mut stage, agent, session) = trusted(machine);
        let before = stage.view(&agent).state;
        let withdrawn = Group {
            bank: HashAlg::Sha256,
            ..group_of(&agent.machine)
        };
        stage.pass_ms(1);
        activate(&mut stage, withdrawn);
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
        unchanged(&before, &stage.view(&agent).state);
        // The machine is not at fault; it is asked, and what it has is not enough.
        let challenge = stage.challenge(session);
        assert_eq!(stage.now.unix_ms, before.verdict.unwrap().at_unix_ms + 1);
        let submission = stage.answer(&agent, session, &challenge);
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert!(answer.code.is_some());
        assert_ne!(answer.status, EffectiveStatus::Trusted);
        stage.pass_ms(30_000);
        assert_ne!(stage.view(&agent).status, EffectiveStatus::Trusted);
    }
}

#[test]
fn q09_evidence_under_way_earns_nothing_once_sha1_is_accepted_no_more() {
    let (mut stage, agent, session) = trusted(signs_sha1());
    let challenge = stage.challenge(session);
    stage.holds_tasks = true;
    let submission = stage.answer(&agent, session, &challenge);
    assert_eq!(stage.submit(&agent, session, submission), None);
    activate(&mut stage, group_of(&agent.machine));
    stage.run_tasks();
    let answer = stage.answer_to(challenge.id).unwrap();
    assert_eq!(answer.status, EffectiveStatus::Pending);
    let state = stage.view(&agent).state;
    assert_eq!(state.failure, None);
    // What it was held against says that SHA-1 was used: accepting it again is no new trust.
    assert!(state.verdict.unwrap().held.unwrap().allow_sha1);
}

#[test]
fn q09_whoever_uses_no_sha1_stays_trusted_whether_or_not_it_is_accepted() {
    let (mut stage, agent, session) = trusted(Machine::valid());
    let held = |stage: &Stage| stage.view(&agent).state.verdict.unwrap().held.unwrap();
    assert!(!held(&stage).allow_sha1);
    for group in [group_of(&agent.machine), accepting(&agent.machine)] {
        activate(&mut stage, group);
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
        let answer = stage.attest(&agent, session);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
    }
}

#[test]
fn q09_a_group_that_demands_what_it_does_not_accept_asks_nobody_and_fails_nobody() {
    let (mut stage, agent, session) = trusted(has_sha1_bank());
    let group = Group {
        allow_sha1: false,
        ..accepting(&agent.machine)
    };
    stage.sent.clear();
    activate(&mut stage, group);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    stage.pass_ms(60_000);
    assert!(stage.sent.is_empty(), "{:?}", stage.sent);
    let view = stage.view(&agent);
    assert_eq!(
        (view.status, view.state.failure),
        (EffectiveStatus::Overdue, None)
    );
    activate(&mut stage, accepting(&agent.machine));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}
