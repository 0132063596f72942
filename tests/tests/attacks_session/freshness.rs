//! Nonces, channels and senders: Q01-Q05, Q13, Q14, Q16, S13.

use std::collections::BTreeMap;

use rat_engine::evidence::{Binding, ChallengeId, Refusal};
use rat_engine::shard::{AgentPath, AgentState, EffectiveStatus, Event, Input, StatusCounts};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::stage::Stage;

use super::{trusted, turned_away, unchanged};

#[test]
fn s14_agents_are_counted_by_what_they_amount_to_now() {
    let (mut stage, agent, session) = trusted();
    let state = AgentState::default();
    stage.enrol_with("elsewhere", Machine::valid(), state, |record| {
        record.group = "other".into();
    });
    let counted = |stage: &Stage| {
        let mut expected = StatusCounts::default();
        for view in stage.shard.views(stage.now) {
            expected.add(&view.record.group, view.status);
        }
        let counts = stage.shard.status_counts(stage.now);
        assert_eq!(counts, expected, "as every other surface shows them");
        let mut groups = counts.groups();
        groups
            .find(|(group, _)| *group == "fleet")
            .unwrap()
            .1
            .clone()
    };
    let one = |status| BTreeMap::from([(status, 1)]);
    assert_eq!(counted(&stage), one(EffectiveStatus::Trusted));
    stage.disconnect(&agent, session);
    stage.pass_ms(60_000);
    assert_eq!(counted(&stage), one(EffectiveStatus::Overdue));
}

#[test]
fn q01_evidence_for_another_nonce_changes_nothing() {
    let (mut stage, agent, session) = trusted();
    let old = stage.challenge(session);
    stage.pass_ms(20_000);
    stage.sent.clear();
    let challenge = stage.challenge(session);
    let before = stage.view(&agent).state;
    let mut submission = stage.answer(&agent, session, &old);
    submission.challenge = challenge.id;
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteNonceMismatch));
    unchanged(&before, &stage.view(&agent).state);
    assert_eq!(turned_away(&stage, Code::QuoteNonceMismatch), 1);
}

#[test]
fn q02_the_same_evidence_twice_counts_once() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    let first = stage.submit(&agent, session, submission.clone()).unwrap();
    assert_eq!(first.code, None);
    let before = stage.view(&agent).state;
    let second = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(second.code, Some(Code::QuoteNonceConsumed));
    unchanged(&before, &stage.view(&agent).state);
}

#[test]
fn q02_evidence_counts_once_while_the_first_is_being_judged() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    stage.holds_tasks = true;
    assert_eq!(stage.submit(&agent, session, submission.clone()), None);
    let second = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(second.code, Some(Code::QuoteNonceConsumed));
    assert_eq!(stage.tasks.len(), 1);
    stage.run_tasks();
    assert_eq!(stage.answer_to(challenge.id).unwrap().code, None);
}

#[test]
fn q03_evidence_after_its_deadline_is_stale() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    let before = stage.view(&agent).state;
    stage.pass_ms(5_001);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteStale));
    unchanged(&before, &stage.view(&agent).state);
    // A new challenge comes.
    assert_eq!(stage.attest(&agent, session).code, None);
}

#[test]
fn q03_evidence_for_a_challenge_of_an_earlier_life_is_stale() {
    let (mut stage, agent, session) = trusted();
    let mut challenge = stage.challenge(session);
    challenge.id = ChallengeId([0xee; 16]);
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteStale));
}

#[test]
fn q05_evidence_for_another_agents_challenge_is_refused_and_names_both() {
    let (mut stage, agent, session) = trusted();
    let machine = Machine::valid();
    let other = stage.enrol("machine-2", machine.clone());
    let other_session = stage.connect(&other);
    let theirs = stage.challenge(other_session);
    let submission = stage.answer(&agent, session, &theirs);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteSignerMismatch));
    let expected = Event::TurnedAway {
        agent: agent.id.clone(),
        code: Code::QuoteSignerMismatch,
        other: Some(other.id.clone()),
    };
    assert!(stage.events.contains(&expected));
    // The other's challenge is still open.
    let truthful = stage.answer(&other, other_session, &theirs);
    let answer = stage.submit(&other, other_session, truthful).unwrap();
    assert_ne!(answer.code, Some(Code::QuoteNonceConsumed));
}

#[test]
fn q13_evidence_relayed_over_another_connection_is_refused() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let mut submission = stage.answer(&agent, session, &challenge);
    // The attacker's own connection has another exporter value.
    submission.binding = Binding::Channel([0x66; 32]);
    let before = stage.view(&agent).state;
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteChannelMismatch));
    unchanged(&before, &stage.view(&agent).state);
}

#[test]
fn q13_evidence_over_a_connection_that_was_replaced_is_refused() {
    let (mut stage, agent, old) = trusted();
    let new = stage.connect(&agent);
    assert_eq!(stage.refusal(old), Some(Refusal::Superseded));
    let challenge = stage.challenge(new);
    let submission = stage.answer(&agent, old, &challenge);
    let answer = stage.submit(&agent, old, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteChannelMismatch));
}

#[test]
fn q14_trust_counts_from_the_challenge_not_from_the_answer() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let issued_ms = stage.now.mono_ms;
    // A clean quote is kept back until just before the deadline.
    let submission = stage.answer(&agent, session, &challenge);
    stage.pass_ms(4_900);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    stage.disconnect(&agent, session);
    stage.pass_ms(issued_ms + 29_999 - stage.now.mono_ms);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
    stage.pass_ms(1);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Overdue);
}

#[test]
fn q16_s15_a_relay_or_a_path_that_was_not_enrolled_is_refused() {
    let (mut stage, agent, session) = trusted();
    let relayed = stage.connect_with(&agent, |hello| hello.relay_key_sha256 = Some([9; 32]));
    assert_eq!(stage.refusal(relayed), Some(Refusal::PathNotEnrolled));
    // The agent's own connection is untouched by that.
    let challenge = stage.challenge(session);
    let mut submission = stage.answer(&agent, session, &challenge);
    submission.binding = Binding::Relay([9; 32]);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::PathNotEnrolled));
    let truthful = stage.answer(&agent, session, &challenge);
    assert_eq!(stage.submit(&agent, session, truthful).unwrap().code, None);

    let keylime = stage.enrol_with(
        "machine-k",
        Machine::valid(),
        AgentState::default(),
        |record| {
            record.path = AgentPath::KeylimePush;
        },
    );
    let session = stage.connect(&keylime);
    assert_eq!(stage.refusal(session), Some(Refusal::PathNotEnrolled));
}

#[test]
fn s13_another_client_key_or_an_unknown_id_is_refused() {
    let (mut stage, agent, session) = trusted();
    let stranger = stage.connect_with(&agent, |hello| hello.client_key_sha256 = [7; 32]);
    assert_eq!(
        stage.refusal(stranger),
        Some(Refusal::CertificateNotCurrent)
    );
    let unknown = stage.connect_with(&agent, |hello| {
        hello.agent = rat_engine::agent_id::AgentId::parse("nobody").unwrap();
    });
    assert_eq!(stage.refusal(unknown), Some(Refusal::UnknownAgent));
    // The agent keeps its connection, and is served.
    assert_eq!(stage.refusal(session), None);
    assert_eq!(stage.attest(&agent, session).code, None);
}

#[test]
fn s13_junk_does_not_fail_an_agent_and_ends_its_sender() {
    let (mut stage, agent, session) = trusted();
    let before = stage.view(&agent).state;
    let mut rounds = 0;
    while stage.refusal(session).is_none() {
        let challenge = stage.challenge(session);
        let mut junk = stage.answer(&agent, session, &challenge);
        junk.quote.truncate(20);
        let answer = stage.submit(&agent, session, junk).unwrap();
        assert_eq!(answer.code, Some(Code::QuoteMalformed));
        rounds += 1;
        assert!(rounds < 20);
    }
    assert_eq!(stage.refusal(session), Some(Refusal::Protocol));
    unchanged(&before, &stage.view(&agent).state);
    // It may come back and be trusted.
    let session = stage.connect(&agent);
    assert_eq!(
        stage.attest(&agent, session).status,
        EffectiveStatus::Trusted
    );
}

#[test]
fn s02_a_signature_that_does_not_verify_is_recorded() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let mut submission = stage.answer(&agent, session, &challenge);
    let last = submission.signature.len() - 1;
    submission.signature[last] ^= 1;
    let before = stage.view(&agent).state;
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteSignature));
    let tick = stage.ticks.last().unwrap();
    assert_eq!(tick.outcomes[0].code, Some(Code::QuoteSignature));
    unchanged(&before, &stage.view(&agent).state);
    // It earned no trust: what there is runs out.
    stage.disconnect(&agent, session);
    stage.pass_ms(30_000);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Overdue);
}

#[test]
fn n08_a_removed_agent_is_refused_and_its_evidence_too() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    stage.handle(Input::Remove(agent.id.clone()));
    assert_eq!(stage.refusal(session), Some(Refusal::UnknownAgent));
    assert_eq!(stage.submit(&agent, session, submission), None);
    let again = stage.connect(&agent);
    assert_eq!(stage.refusal(again), Some(Refusal::UnknownAgent));
    assert!(stage.shard.view(&agent.id, stage.now).is_none());
}
