use rat_engine::hash::Digest;
use rat_engine::pcr::{PcrIndex, PcrValues};
use rat_engine::shard::{
    AgentPath, AgentRecord, AgentState, BootEpoch, Denied, Failure, KeptEvidence, LastVerdict,
    ListFacts, ListRules, QuoteRules, Retention, TpmClock,
};

use super::*;

fn agent() -> AgentId {
    AgentId::parse("web-1").unwrap()
}

fn state() -> AgentState {
    let mut boot_pcrs = PcrValues::new();
    boot_pcrs.insert(PcrIndex::IMA, Digest::ones(HashAlg::Sha256));
    AgentState {
        boot: Some(BootEpoch {
            reset_count: 3,
            restart_count: 1,
        }),
        clock: Some(TpmClock {
            clock_ms: 1 << 40,
            safe: true,
            firmware_version: 9,
            seen_unix_ms: 1 << 41,
        }),
        ima: Some(rat_engine::ima::Committed::new(
            77,
            vec![(PcrIndex::IMA, Digest::ones(HashAlg::Sha1))],
        )),
        boot_pcrs,
        trusted_until_unix_ms: 1 << 42,
        verdict: Some(LastVerdict {
            kind: VerdictKind::Untrusted,
            code: Some(Code::QuoteNonceMismatch),
            detail: "detail".to_owned(),
            policy: Some(Digest::zero(HashAlg::Sha256)),
            challenged_unix_ms: 5,
            at_unix_ms: 6,
            held: Some(QuoteRules {
                pcr_policy: Some(Digest::ones(HashAlg::Sha256)),
                bank: HashAlg::Sha384,
                boot_log: true,
                allow_sha1: true,
                measured_boot: Some(Digest::ones(HashAlg::Sha256)),
            }),
        }),
        failure: Some(Box::new(Failure {
            code: Code::QuoteNonceMismatch,
            detail: "detail".to_owned(),
            entry: Some(4),
            path: Some(b"/bin/x".to_vec()),
            digest: Some("sha1:00".to_owned()),
            at_unix_ms: 7,
            under_policy: None,
            group: Some("web".to_owned()),
        })),
        attestations: 300,
        list: ListFacts {
            violations: Some(1),
            excluded: Some(300),
            denied: Some(Box::new(denied())),
            is_dismissed: true,
            require_valid_ima_sig: true,
        },
        measured_boot: Some(Digest::zero(HashAlg::Sha256)),
        ..AgentState::default()
    }
}

fn denied() -> Denied {
    Denied {
        under: ListRules {
            policy: Digest::zero(HashAlg::Sha256),
            accept_violations: true,
            require_valid_ima_sig: true,
        },
        first: Failure {
            code: Code::ImaPathNotListed,
            detail: "detail".to_owned(),
            entry: Some(4),
            path: None,
            digest: None,
            at_unix_ms: 7,
            under_policy: None,
            group: Some("web".to_owned()),
        },
    }
}

fn record() -> AgentRecord {
    AgentRecord {
        id: agent(),
        group: "web".to_owned(),
        path: AgentPath::Native,
        ak_public: vec![1, 2, 3],
        ak_epoch: 2,
        ek_sha256: [4; 32],
        client_key_sha256: [5; 32],
        relay_key_sha256: None,
        baseline: None,
        enrolled_unix_ms: 8,
    }
}

fn evidence() -> KeptEvidence {
    KeptEvidence {
        reason: Retention::Failure,
        at_unix_ms: 9,
        quote: vec![1; 3],
        signature: vec![2; 3],
        pcr_values: vec![(11, 10, vec![3; 3])],
        preimage: vec![4; 3],
        boot_log: None,
        ima_entries: 10,
    }
}

fn outcome() -> Outcome {
    Outcome {
        agent: agent(),
        at_unix_ms: 6,
        verdict: VerdictKind::Untrusted,
        code: Some(Code::QuoteNonceMismatch),
        policy: Some(Digest::zero(HashAlg::Sha256)),
        evidence_sha256: [6; 32],
        state: state(),
        kept: vec![evidence()],
        log: None,
    }
}

fn golden(hex: &str) -> Vec<Vec<u8>> {
    hex.lines().map(|line| hex::decode(line).unwrap()).collect()
}

/// This state as version 4 knew it: no policy of then judged what a boot log holds.
fn as_version_4_knew(mut state: AgentState) -> AgentState {
    let verdict = state.verdict.as_mut().unwrap();
    verdict.held.as_mut().unwrap().measured_boot = None;
    state.measured_boot = None;
    state
}

/// The same as version 3 knew it: no rule of then accepted SHA-1, or demanded valid signatures.
fn as_version_3_knew(state: AgentState) -> AgentState {
    let mut state = as_version_4_knew(state);
    let verdict = state.verdict.as_mut().unwrap();
    verdict.held.as_mut().unwrap().allow_sha1 = false;
    let denied = state.list.denied.as_mut().unwrap();
    denied.under.require_valid_ima_sig = false;
    state.list.require_valid_ima_sig = false;
    state
}

/// This state as version 2 knew it: of its list it said nothing but under which policy it passed,
/// and of its verdict not what the quote was held against.
fn as_version_2_knew(state: AgentState) -> AgentState {
    AgentState {
        verdict: state.verdict.map(|verdict| LastVerdict {
            held: None,
            ..verdict
        }),
        list: ListFacts::default(),
        measured_boot: None,
        ..state
    }
}

/// The same as version 1 knew it: its failures did not say in which group they were either.
fn as_version_1_knew(state: AgentState) -> AgentState {
    AgentState {
        failure: state.failure.clone().map(|mut failure| {
            failure.group = None;
            failure
        }),
        ..as_version_2_knew(state)
    }
}

fn facts() -> Facts {
    let of = outcome();
    Facts {
        agent: of.agent,
        at_unix_ms: of.at_unix_ms,
        verdict: of.verdict,
        code: of.code,
        policy: of.policy,
        evidence_sha256: of.evidence_sha256,
    }
}

/// Reads what this version made of these records.
fn reads(golden: &[Vec<u8>], version: u8, state: &AgentState) {
    assert!(golden.iter().all(|packed| packed[0] == version));
    assert_eq!(unpack::<AgentRecord>(&golden[0]), Ok(record()));
    assert_eq!(unpack::<AgentState>(&golden[1]).as_ref(), Ok(state));
    assert_eq!(unpack::<KeptEvidence>(&golden[2]), Ok(evidence()));
    let (outcomes, fault) = unpack_outcomes(&golden[3]);
    assert_eq!((outcomes.len(), fault), (1, None));
    assert_eq!(outcomes[0].facts, facts());
    let of_outcome = unpack::<AgentState>(&outcomes[0].state);
    assert_eq!(of_outcome.as_ref(), Ok(state));
}

#[test]
fn s06_rows_of_version_1_stay_readable() {
    let golden = golden(include_str!("version_1.hex"));
    reads(&golden, 1, &as_version_1_knew(state()));
}

#[test]
fn s06_rows_of_version_2_stay_readable() {
    let golden = golden(include_str!("version_2.hex"));
    reads(&golden, 2, &as_version_2_knew(state()));
}

#[test]
fn s06_rows_of_version_3_stay_readable() {
    let golden = golden(include_str!("version_3.hex"));
    reads(&golden, 3, &as_version_3_knew(state()));
}

#[test]
fn s06_rows_of_version_4_stay_readable() {
    let golden = golden(include_str!("version_4.hex"));
    reads(&golden, 4, &as_version_4_knew(state()));
}

/// What this version makes of them. When this fails, rows that are stored can no longer be read:
/// raise the version and read the old one too, or leave the record as it was.
#[test]
fn s06_rows_of_version_5_stay_readable() {
    let golden = golden(include_str!("version_5.hex"));
    let now = [
        pack(&record()).unwrap(),
        pack(&state()).unwrap(),
        pack_compressed(&evidence()).unwrap(),
        pack_outcomes(&[outcome()]).unwrap(),
    ];
    let shown: Vec<String> = now.iter().map(hex::encode).collect();
    assert_eq!(golden, now, "now:\n{}", shown.join("\n"));
    reads(&golden, VERSION, &state());
}

/// A failure as these versions kept it: member by member.
fn packed_before(version: u8, failure: &Failure) -> Vec<u8> {
    let Failure {
        code,
        detail,
        entry,
        path,
        digest,
        at_unix_ms,
        under_policy,
        group,
    } = failure.clone();
    let of_version_1 = (code, detail, entry, path, digest, at_unix_ms, under_policy);
    let body = match version {
        1 => postcard::to_stdvec(&of_version_1).unwrap(),
        _ => postcard::to_stdvec(&(of_version_1, group)).unwrap(),
    };
    let mut packed = vec![version, PLAIN];
    packed.extend(checksum(version, PLAIN, &body));
    packed.extend(body);
    packed
}

/// A failure of PCR values as versions 1 and 2 kept it, with the runtime policy's digest.
#[test]
fn l07_a_pcr_failure_of_older_versions_is_cleared_by_no_policy() {
    for version in [1, 2] {
        for (code, is_kept) in [
            (Code::PcrValueNotAllowed, false),
            (Code::ImaPathNotListed, true),
        ] {
            let failure = Failure {
                code,
                under_policy: Some(Digest::ones(HashAlg::Sha256)),
                ..*state().failure.unwrap()
            };
            let read: Failure = unpack(&packed_before(version, &failure)).unwrap();
            let expected = Failure {
                under_policy: failure.under_policy.filter(|_| is_kept),
                group: failure.group.clone().filter(|_| version > 1),
                ..failure.clone()
            };
            assert_eq!(read, expected);
            assert_eq!(unpack(&pack(&failure).unwrap()), Ok(failure));
        }
    }
}

#[test]
fn every_changed_bit_of_a_record_is_found() {
    let packed = pack(&state()).unwrap();
    for byte in 0..packed.len() {
        for bit in 0..8 {
            let mut damaged = packed.clone();
            damaged[byte] ^= 1 << bit;
            assert!(unpack::<AgentState>(&damaged).is_err(), "{byte} {bit}");
        }
        assert!(unpack::<AgentState>(&packed[..byte]).is_err());
    }
}

#[test]
fn a_damaged_tick_gives_what_stands_before_the_damage() {
    for outcomes in [3, 40] {
        let packed = pack_outcomes(&vec![outcome(); outcomes]).unwrap();
        assert_eq!(packed[1], if outcomes == 3 { PLAIN } else { ZSTD });
        damaged_tick(&packed, outcomes);
    }
}

fn damaged_tick(packed: &[u8], outcomes: usize) {
    let (whole, fault) = unpack_outcomes(packed);
    assert_eq!((whole.len(), fault), (outcomes, None));
    for at in 0..packed.len() {
        let mut damaged = packed.to_vec();
        damaged[at] ^= 0x40;
        let (read, fault) = unpack_outcomes(&damaged);
        // Damage is found now, or when the state of that agent is read.
        let unreadable = |o: &PackedOutcome| unpack::<AgentState>(&o.state).is_err();
        assert!(fault.is_some() || read.iter().any(unreadable), "{at}");
        for (outcome, original) in read.iter().zip(&whole) {
            assert!(unreadable(outcome) || outcome == original, "{at}");
        }
    }
}

#[test]
fn bytes_are_compressed_only_when_that_pays() {
    let text = b"sha256:/usr/lib/".repeat(1000);
    let packed = pack_bytes(&text);
    assert!(packed.len() < text.len() / 10);
    assert_eq!(unpack_bytes(&packed, text.len()), Ok(text.clone()));
    assert_eq!(unpack_bytes(&packed, text.len() - 1), Err(Fault::Content));
    let short = pack_bytes(b"short");
    assert_eq!(short.len(), 5 + 2 + CHECK_BYTES);
    assert_eq!(unpack_bytes(&short, 4), Err(Fault::Content));
    assert_eq!(unpack_bytes(&short, 5), Ok(b"short".to_vec()));
}
