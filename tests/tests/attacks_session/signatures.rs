//! Signatures of files, which a group can demand to be valid: L07, I15.

use rat_engine::evidence::SessionId;
use rat_engine::shard::{AgentState, EffectiveStatus, Group, Operation};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::measured_keys::{SigningKey, policy_with_verification_keys};
use rat_tests::stage::{Enrolled, Stage, group_of, policy};

use super::rejudge::activate;

/// Which key made the signature of a file whose digest is listed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum SignedBy {
    Approved,
    Nobody,
    Another,
}

struct Signed {
    machine: Machine,
    /// Lists what the machine measured, and approves one key.
    lax: Group,
    /// The same, and demands valid signatures.
    demanding: Group,
}

impl Signed {
    fn by(by: SignedBy) -> Self {
        let (approved, other) = (SigningKey::p256(), SigningKey::p256());
        let file = match by {
            SignedBy::Approved => approved.signed_file("/usr/bin/signed", b"signed"),
            SignedBy::Another => other.signed_file("/usr/bin/signed", b"signed"),
            SignedBy::Nobody => rat_tests::measured::Measured::file("/usr/bin/signed", b"signed"),
        };
        let machine = Machine::valid().with(|machine| machine.list.push(file));
        let text = policy_with_verification_keys(&machine.policy(), &[&approved]);
        let lax = Group {
            enforced: Some(policy(1, &text)),
            ..group_of(&machine)
        };
        let demanding = Group {
            require_valid_ima_sig: true,
            ..lax.clone()
        };
        Self {
            machine,
            lax,
            demanding,
        }
    }

    fn start(&self, group: &Group) -> (Stage, Enrolled, SessionId) {
        let mut stage = Stage::new(group.clone());
        stage.keeps_lists = true;
        let agent = stage.enrol("machine-1", self.machine.clone());
        let session = stage.connect(&agent);
        (stage, agent, session)
    }

    fn trusted(&self, group: &Group) -> (Stage, Enrolled, SessionId) {
        let (mut stage, agent, session) = self.start(group);
        let answer = stage.attest(&agent, session);
        assert_eq!(
            (answer.status, answer.code),
            (EffectiveStatus::Trusted, None)
        );
        (stage, agent, session)
    }
}

#[test]
fn i15_a_listed_digest_rescues_no_signature_that_has_to_be_valid() {
    for (by, code) in [
        (SignedBy::Approved, None),
        (SignedBy::Nobody, None),
        (SignedBy::Another, Some(Code::ImaSigInvalid)),
    ] {
        let signed = Signed::by(by);
        signed.trusted(&signed.lax);
        let (mut stage, agent, session) = signed.start(&signed.demanding);
        let answer = stage.attest(&agent, session);
        assert_eq!(answer.code, code, "{by:?}");
        let list = stage.view(&agent).state.list;
        assert!(list.require_valid_ima_sig);
        assert_eq!(list.denied.is_some(), code.is_some());
    }
}

#[test]
fn l07_i15_stored_lists_are_judged_again_when_signatures_have_to_be_valid() {
    let signed = Signed::by(SignedBy::Approved);
    let (mut stage, agent, _) = signed.trusted(&signed.lax);
    let before = stage.view(&agent).state;
    assert!(!before.list.require_valid_ima_sig);
    stage.holds_rejudges = true;
    activate(&mut stage, signed.demanding.clone());
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    assert_eq!(stage.shard.coverage("fleet").judged, 0);
    stage.run_rejudges();
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Trusted);
    let mut expected: AgentState = before;
    expected.list.require_valid_ima_sig = true;
    // What an approved key signed passes by its signature now.
    assert_eq!(view.state, expected, "and trusted no longer than before");
    assert_eq!(stage.shard.coverage("fleet").judged, 1);
    // What passed by the stricter rule passes by the laxer one; and by both again.
    let ticks = stage.ticks.len();
    for group in [&signed.lax, &signed.demanding] {
        activate(&mut stage, group.clone());
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
    }
    assert_eq!((stage.ticks.len(), stage.rejudges.len()), (ticks, 0));
}

#[test]
fn l07_i15_a_signature_that_was_rescued_fails_when_it_has_to_be_valid_and_the_group_can_take_it_back()
 {
    let signed = Signed::by(SignedBy::Another);
    let (mut stage, agent, session) = signed.trusted(&signed.lax);
    activate(&mut stage, signed.demanding.clone());
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    let failure = view.state.failure.unwrap();
    assert_eq!(
        (failure.code, failure.entry),
        (Code::ImaSigInvalid, Some(4))
    );
    assert_eq!(view.state.trusted_until_unix_ms, 0);
    // Without the demand its list passes; its failure ends with the next quote.
    activate(&mut stage, signed.lax.clone());
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    assert_eq!(stage.view(&agent).state.failure, None);
}

#[test]
fn l07_i15_without_a_stored_list_nobody_is_trusted_before_all_of_it_was_sent_again() {
    let signed = Signed::by(SignedBy::Approved);
    let (mut stage, agent, session) = signed.trusted(&signed.lax);
    stage.keeps_lists = false;
    stage.lists = Default::default();
    activate(&mut stage, signed.demanding.clone());
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(0));
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}

#[test]
fn l05_i15_a_signature_that_was_rescued_by_the_rules_of_its_challenge_does_not_pass_for_trust() {
    let signed = Signed::by(SignedBy::Another);
    let (mut stage, mut agent, session) = signed.start(&signed.lax);
    let unsigned = agent.machine.list.pop().unwrap();
    stage.attest(&agent, session);
    agent.machine.list.push(unsigned);
    let challenge = stage.challenge(session);
    stage.keeps_lists = false;
    activate(&mut stage, signed.demanding.clone());
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Pending, None)
    );
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::ImaSigInvalid));
}

#[test]
fn s09_a_failure_by_a_signature_stays_while_valid_ones_are_demanded() {
    let signed = Signed::by(SignedBy::Another);
    let (mut stage, mut agent, session) = signed.start(&signed.demanding);
    assert_eq!(
        stage.attest(&agent, session).code,
        Some(Code::ImaSigInvalid)
    );
    // The file is gone with the next boot: what failed stays failed until an operator has looked.
    stage.disconnect(&agent, session);
    stage.pass_ms(60_000);
    agent.boot.reset_count += 1;
    agent.machine.list.pop();
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Untrusted, None)
    );
    stage.handle(rat_engine::shard::Input::Operate {
        agent: agent.id.clone(),
        operation: Operation::Clear,
    });
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}
