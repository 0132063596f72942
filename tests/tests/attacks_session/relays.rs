//! Agents that speak through relays, and relays that do as they like: Q16, T03, T08.

use rat_engine::evidence::{Answer, Binding, Challenge, Instance, Refusal, SessionId, Submission};
use rat_engine::shard::{AgentState, EffectiveStatus, Event, Input};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::measured::{self, Measured};
use rat_tests::stage::{Enrolled, Stage, group_of};

const RELAY: [u8; 32] = [9; 32];
/// A settled agent is asked this long after what its relay brought did not fit.
const DIRECTLY_MS: u64 = 600_000;

/// A machine whose record names a relay, and which is connected through it.
fn relayed() -> (Stage, Enrolled, SessionId) {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    let state = AgentState::default();
    let agent = stage.enrol_with("machine-1", machine, state, |record| {
        record.relay_key_sha256 = Some(RELAY);
    });
    let session = connect(&mut stage, &agent);
    (stage, agent, session)
}

fn connect(stage: &mut Stage, agent: &Enrolled) -> SessionId {
    stage.connect_with(agent, |hello| hello.relay_key_sha256 = Some(RELAY))
}

fn answer(stage: &Stage, agent: &Enrolled, challenge: &Challenge) -> Submission {
    stage.answer_bound(agent, Binding::Relay(RELAY), challenge, |_| {})
}

fn attest(stage: &mut Stage, agent: &Enrolled, session: SessionId) -> Answer {
    let challenge = stage.challenge(session);
    let submission = answer(stage, agent, &challenge);
    stage.submit(agent, session, submission).unwrap()
}

fn trusted() -> (Stage, Enrolled, SessionId) {
    let (mut stage, agent, session) = relayed();
    let answer = attest(&mut stage, &agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    stage.events.clear();
    (stage, agent, session)
}

fn mismatches(stage: &Stage) -> Vec<Code> {
    let of_relay = |event: &Event| match event {
        Event::RelayMismatch { relay, code, .. } if *relay == RELAY => Some(*code),
        _ => None,
    };
    stage.events.iter().filter_map(of_relay).collect()
}

/// What the relay brought is counted against it, and the agent is asked directly.
fn is_held_against_the_relay(stage: &mut Stage, agent: &Enrolled, session: SessionId, code: Code) {
    assert_eq!(mismatches(stage), [code]);
    let view = stage.view(agent);
    assert_eq!(view.status, EffectiveStatus::Unverified);
    assert_eq!(view.state.failure, None, "never the agent's failure");
    assert_eq!(stage.refusal(session), Some(Refusal::PathNotEnrolled));
    // The relay is not asked again, however it tries.
    let again = connect(stage, agent);
    assert_eq!(stage.refusal(again), Some(Refusal::PathNotEnrolled));
    // The agent comes itself, and is trusted by what it brings.
    let direct = stage.connect(agent);
    let answer = stage.attest(agent, direct);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    // From then on its record counts again.
    let back = connect(stage, agent);
    assert_eq!(stage.refusal(back), None);
    assert_eq!(attest(stage, agent, back).code, None);
}

#[test]
fn q16_an_agent_is_trusted_through_the_relay_of_its_record() {
    let (mut stage, agent, session) = trusted();
    let answer = attest(&mut stage, &agent, session);
    assert_eq!(answer.code, None);
    assert!(mismatches(&stage).is_empty());
}

#[test]
fn q16_another_relay_and_the_direct_way_are_refused() {
    let (mut stage, agent, session) = trusted();
    let before = stage.view(&agent).state;
    let other = stage.connect_with(&agent, |hello| hello.relay_key_sha256 = Some([8; 32]));
    assert_eq!(stage.refusal(other), Some(Refusal::PathNotEnrolled));
    let direct = stage.connect(&agent);
    assert_eq!(stage.refusal(direct), Some(Refusal::PathNotEnrolled));
    // Evidence that is bound otherwise, over the connection of the relay itself.
    let challenge = stage.challenge(session);
    for binding in [Binding::Relay([8; 32]), Binding::Channel(RELAY)] {
        let submission = stage.answer_bound(&agent, binding, &challenge, |_| {});
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(answer.code, Some(Code::PathNotEnrolled));
    }
    assert_eq!(
        before,
        stage.view(&agent).state,
        "the agent's state changed"
    );
    // The challenge is still open, and the relay's own connection served.
    let submission = answer(&stage, &agent, &challenge);
    assert_eq!(
        stage.submit(&agent, session, submission).unwrap().code,
        None
    );
}

#[test]
fn q16_an_altered_quote_is_the_relays_doing() {
    for (change, code) in [
        (0, Code::QuoteMalformed),
        (1, Code::QuoteSignature),
        (2, Code::QuoteNonceMismatch),
    ] {
        let (mut stage, agent, session) = trusted();
        let challenge = stage.challenge(session);
        let mut submission = answer(&stage, &agent, &challenge);
        match change {
            0 => submission.quote.truncate(20),
            1 => *submission.quote.last_mut().unwrap() ^= 1,
            _ => {
                // A quote that the machine made for somebody else's connection.
                let bound = Binding::Channel([7; 32]);
                let other = stage.answer_bound(&agent, bound, &challenge, |_| {});
                (submission.quote, submission.signature) = (other.quote, other.signature);
            }
        }
        stage.submit(&agent, session, submission).unwrap();
        is_held_against_the_relay(&mut stage, &agent, session, code);
    }
}

#[test]
fn q16_an_altered_list_is_looked_at_twice_and_then_is_the_relays_doing() {
    let (mut stage, agent, session) = relayed();
    let mut forged = agent.machine.list.clone();
    forged.insert(1, Measured::file("/usr/bin/forged", b"forged"));
    for nth in 0..2 {
        assert!(mismatches(&stage).is_empty(), "before round {nth}");
        let challenge = stage.challenge(session);
        assert_eq!(challenge.ima_from_entry, Some(0));
        let mut submission = answer(&stage, &agent, &challenge);
        let bytes = measured::ascii(&forged);
        let upload = submission.ima.as_mut().unwrap();
        (upload.length, upload.whole) = (bytes.len() as u64, Some(bytes));
        let verdict = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(verdict.code, Some(Code::ImaPcrMismatch));
    }
    is_held_against_the_relay(&mut stage, &agent, session, Code::ImaPcrMismatch);
}

#[test]
fn q16_a_boot_log_that_is_withheld_is_the_relays_doing() {
    let (mut stage, agent, session) = relayed();
    let challenge = stage.challenge(session);
    let mut submission = answer(&stage, &agent, &challenge);
    assert!(submission.boot_log.take().is_some());
    stage.submit(&agent, session, submission).unwrap();
    is_held_against_the_relay(&mut stage, &agent, session, Code::UefiLogMissing);
}

#[test]
fn q16_what_the_agents_key_signed_for_fails_it_through_a_relay_too() {
    let (mut stage, mut agent, session) = trusted();
    agent.machine = agent.machine.with(|machine| {
        machine
            .list
            .push(Measured::file("/tmp/implant", b"implant"));
    });
    let answer = attest(&mut stage, &agent, session);
    assert_eq!(answer.code, Some(Code::ImaPathNotListed));
    assert_eq!(answer.status, EffectiveStatus::Untrusted);
    assert!(stage.view(&agent).state.failure.is_some());
    assert!(mismatches(&stage).is_empty());
}

#[test]
fn q16_a_doubted_relay_is_tried_again_after_a_while() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let mut submission = answer(&stage, &agent, &challenge);
    *submission.signature.last_mut().unwrap() ^= 1;
    stage.submit(&agent, session, submission).unwrap();
    stage.pass_ms(DIRECTLY_MS - 1);
    let early = connect(&mut stage, &agent);
    assert_eq!(stage.refusal(early), Some(Refusal::PathNotEnrolled));
    stage.pass_ms(1);
    // It is trusted by what it proves, and by nothing else.
    assert_ne!(stage.view(&agent).status, EffectiveStatus::Trusted);
    let session = connect(&mut stage, &agent);
    assert_eq!(stage.refusal(session), None);
    let answer = attest(&mut stage, &agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}

#[test]
fn q16_an_operator_ends_the_doubt() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let mut submission = answer(&stage, &agent, &challenge);
    *submission.signature.last_mut().unwrap() ^= 1;
    stage.submit(&agent, session, submission).unwrap();
    let view = stage.view(&agent);
    let mut record = (*view.record).clone();
    record.relay_key_sha256 = Some([8; 32]);
    let (record, state) = (Box::new(record), Box::new(view.state));
    let candidate = None;
    stage.handle(Input::Agent {
        record,
        state,
        candidate,
    });
    let old = connect(&mut stage, &agent);
    assert_eq!(stage.refusal(old), Some(Refusal::PathNotEnrolled));
    let new = stage.connect_with(&agent, |hello| hello.relay_key_sha256 = Some([8; 32]));
    assert_eq!(stage.refusal(new), None);
}

#[test]
fn q16_t03_a_relay_that_makes_up_instances_shows_no_clone() {
    let (mut stage, agent, _) = trusted();
    for nth in 0..12 {
        let session = stage.connect_with(&agent, |hello| {
            hello.relay_key_sha256 = Some(RELAY);
            hello.instance = Instance([nth % 2; 16]);
        });
        assert_eq!(attest(&mut stage, &agent, session).code, None);
    }
}

#[test]
fn q16_t08_a_relay_that_hides_a_reboot_shows_no_reset() {
    let (mut stage, mut agent, session) = trusted();
    // The relay keeps the session while the machine boots.
    agent.boot.reset_count += 1;
    let mut rounds = 0;
    loop {
        let challenge = stage.challenge(session);
        let mut submission = answer(&stage, &agent, &challenge);
        if challenge.ima_from_entry != Some(0) || !challenge.boot_log {
            submission.boot_log = None;
        }
        let verdict = stage.submit(&agent, session, submission);
        if let Some(verdict) = verdict {
            assert_ne!(verdict.code, Some(Code::TimeResetWithoutReboot));
            if verdict.code.is_none() {
                break;
            }
        }
        rounds += 1;
        assert!(rounds < 5);
    }
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
    // Coming directly afterwards is no reset either.
    assert!(stage.view(&agent).state.failure.is_none());
}
