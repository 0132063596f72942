//! The target of what agents answer that are polled.

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Binding, Challenge, ChallengeId, Nonce};
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;
use rat_engine::tpm::PcrSelection;
use rat_transport::limits;
use rat_transport::pull::{AgentVersion, Answer, Contact, common_version, data_pcr};

/// The entry from which lists are asked for.
const ASKED: u64 = 20;

fn contact() -> Contact {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Contact {
        agent: AgentId::parse("polled").unwrap(),
        ak_public: Vec::new(),
        host: "127.0.0.1".to_owned(),
        port: 9002,
        certificate: None,
        attested_by: None,
        accept_hash_algs: names(&["sha384", "sha256"]),
        accept_encryption_algs: names(&["rsa", "ecc256"]),
        accept_signing_algs: names(&["rsassa", "ecdsa"]),
        v_key: None,
    }
}

/// An answer to a request for evidence. The first byte says what was asked for: bit 0 the boot log,
/// bit 1 the list. What is handed over is what was asked for, and no more.
pub fn pull_answer(data: &[u8]) {
    let Some((asked, body)) = data.split_first() else {
        return;
    };
    for least in [None, Some(AgentVersion::V2_3)] {
        if let Ok(version) = common_version(body, least) {
            assert!(least.is_none_or(|least| version >= least));
        }
    }
    let challenge = Challenge {
        id: ChallengeId([1; 16]),
        nonce: Nonce([2; 32]),
        selection: PcrSelection::new([(HashAlg::Sha256, PcrSet::BOOT)]).unwrap(),
        ima_from_entry: (asked & 2 != 0).then_some(ASKED),
        boot_log: asked & 1 != 0,
        deadline_ms: 5_000,
    };
    let binding = Binding::KeylimePull([3; 32]);
    let Ok(answer) = Answer::read(body, &contact(), &challenge, binding) else {
        return;
    };
    let submission = &answer.submission;
    assert_eq!(
        (submission.challenge, submission.binding),
        (challenge.id, binding)
    );
    assert!(submission.boot_log.is_none() || challenge.boot_log);
    match &submission.ima {
        None => assert!(answer.long_list.is_none() && answer.entries.is_none()),
        Some(ima) => {
            assert!(challenge.ima_from_entry.is_some());
            assert!([0, ASKED].contains(&ima.from_entry));
            let is_long = ima.length > limits::WHOLE_LIST_BYTES_MAX;
            assert_eq!(answer.long_list.is_some(), is_long);
            let list = answer.long_list.as_ref().or(ima.whole.as_ref()).unwrap();
            assert_eq!(list.len() as u64, ima.length);
            assert!(answer.entries.unwrap() >= ima.from_entry);
        }
    }
    if let Some((key, held)) = answer.bound_key() {
        assert_eq!(data_pcr(HashAlg::Sha256, key.as_bytes()), held);
    }
}
