//! Whose doing a fault is, and what follows from that: S13.

use rat_engine::evidence::{Refusal, Submission};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::PcrValues;
use rat_engine::shard::{EffectiveStatus, Event};
use rat_engine::verdict::Code;

use super::{trusted, turned_away, unchanged};

/// Another value of PCR 3 than the TPM quoted.
fn alter(submission: &mut Submission) {
    let mut altered = PcrValues::new();
    for (bank, pcr, value) in submission.pcr_values.iter() {
        let value = match pcr.get() {
            3 => Digest::ones(HashAlg::Sha256),
            _ => value,
        };
        assert!(altered.insert(pcr, value), "{bank}");
    }
    submission.pcr_values = altered;
}

/// The key signed for our challenge, and the channel is the agent's own: nobody else can have sent
/// other values.
#[test]
fn s13_values_that_were_not_quoted_are_looked_at_twice_and_fail_the_agent() {
    let (mut stage, agent, session) = trusted();
    let before = stage.view(&agent).state;
    let mut rounds = Vec::new();
    for _ in 0..2 {
        let challenge = stage.challenge(session);
        let mut submission = stage.answer(&agent, session, &challenge);
        alter(&mut submission);
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(answer.code, Some(Code::PcrDigestMismatch));
        rounds.push((answer.status, challenge.ima_from_entry));
        if rounds.len() == 1 {
            unchanged(&before, &stage.view(&agent).state);
        }
    }
    let expected = [
        (EffectiveStatus::Trusted, Some(4)),
        (EffectiveStatus::Untrusted, Some(0)),
    ];
    assert_eq!(rounds, expected);
    let event = Event::SecondLook {
        agent: agent.id.clone(),
        code: Code::PcrDigestMismatch,
    };
    assert_eq!(stage.events.iter().filter(|it| **it == event).count(), 1);
    assert_eq!(turned_away(&stage, Code::PcrDigestMismatch), 0);
    let after = stage.view(&agent).state;
    assert_eq!(after.failure.unwrap().code, Code::PcrDigestMismatch);
    assert_eq!((after.boot, after.ima), (before.boot, before.ima));
}

#[test]
fn s13_other_pcrs_than_were_asked_for_change_nothing_and_are_counted() {
    let (mut stage, agent, session) = trusted();
    let before = stage.view(&agent).state;
    let mut rounds = 0;
    while stage.refusal(session).is_none() {
        let challenge = stage.challenge(session);
        let submission = stage.answer_with(&agent, session, &challenge, |attest| {
            attest.selection[0].2[0] ^= 1;
        });
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(answer.code, Some(Code::PcrSelectionMismatch));
        rounds += 1;
        assert!(rounds < 20);
    }
    assert_eq!(stage.refusal(session), Some(Refusal::Protocol));
    assert_eq!(turned_away(&stage, Code::PcrSelectionMismatch), rounds);
    unchanged(&before, &stage.view(&agent).state);
}
