//! Made-up agents and outcomes with the shape and size of real ones, for the store's tests.
//!
//! Everything follows from an agent's number and an attestation's number, so that whoever reads a
//! record back can say what it must be.

use rat_engine::agent_id::AgentId;
use rat_engine::crypto;
use rat_engine::evidence::ChallengeId;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::Form;
use rat_engine::ima::{Committed, LogFormat};
use rat_engine::pcr::{PcrIndex, PcrValues};
use rat_engine::shard::{
    AgentPath, AgentRecord, AgentState, BootEpoch, Failure, KeptLog, LastVerdict, Outcome,
    QuoteRules, TpmClock, VerdictKind,
};
use rat_engine::verdict::Code;

/// The group of all agents here.
pub const GROUP: &str = "fleet";
/// When the first attestation was.
pub const START_UNIX_MS: u64 = 1_760_000_000_000;

/// SHA-256 over a word and a number.
#[must_use]
pub fn hash(word: &str, number: u64) -> [u8; 32] {
    digest(word, number).as_bytes().try_into().unwrap()
}

fn digest(word: &str, number: u64) -> Digest {
    crypto::digest(HashAlg::Sha256, format!("{word} {number}").as_bytes())
}

/// The id of an agent: a UUID, as machines have.
#[must_use]
pub fn agent(number: u64) -> AgentId {
    let h = hex::encode(hash("agent", number));
    let uuid = [&h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..32]].join("-");
    AgentId::parse(&uuid).unwrap()
}

/// What enrolment binds to it.
#[must_use]
pub fn record(number: u64) -> AgentRecord {
    AgentRecord {
        id: agent(number),
        group: GROUP.to_owned(),
        path: AgentPath::Native,
        ak_public: hash("ak", number).repeat(3),
        ak_epoch: 1,
        ek_sha256: hash("ek", number),
        client_key_sha256: hash("client", number),
        relay_key_sha256: None,
        baseline: None,
        enrolled_unix_ms: START_UNIX_MS,
    }
}

/// Its state after so many attestations that passed.
#[must_use]
pub fn state(number: u64, attestations: u64) -> AgentState {
    let at_unix_ms = START_UNIX_MS + attestations * 10_000;
    let mut boot_pcrs = PcrValues::new();
    for pcr in 0..10 {
        // Machines of one image share most of them; PCR 1 has what firmware was told.
        let differs = if pcr == 1 { number } else { 0 };
        boot_pcrs.insert(
            PcrIndex::new(pcr).unwrap(),
            digest("boot pcr", pcr * 1000 + differs),
        );
    }
    let running = [HashAlg::Sha256, HashAlg::Sha1].map(|alg| {
        let value = crypto::digest(alg, format!("{number} {attestations}").as_bytes());
        (PcrIndex::IMA, value)
    });
    AgentState {
        boot: Some(BootEpoch {
            reset_count: 7,
            restart_count: 0,
        }),
        clock: Some(TpmClock {
            clock_ms: 1_000 * attestations,
            safe: true,
            firmware_version: 0x0001_0002_0003_0004,
            seen_unix_ms: at_unix_ms,
        }),
        ima: Some(Committed::new(1_500 + attestations, running.to_vec())),
        passed_under: Some(digest("policy", 1)),
        boot_aggregate: Some(Form::Pcr0To9),
        boot_pcrs,
        boot_log_seen: true,
        trusted_until_unix_ms: at_unix_ms + 30_000,
        verdict: Some(LastVerdict {
            kind: VerdictKind::Trusted,
            code: None,
            detail: String::new(),
            policy: Some(digest("policy", 1)),
            challenged_unix_ms: at_unix_ms - 100,
            at_unix_ms,
            held: Some(QuoteRules {
                pcr_policy: None,
                bank: HashAlg::Sha256,
                boot_log: true,
                allow_sha1: false,
                measured_boot: None,
            }),
        }),
        attestations,
        passed: attestations,
        last_passed_unix_ms: at_unix_ms,
        ..AgentState::default()
    }
}

/// Why an agent failed.
#[must_use]
pub fn failure() -> Failure {
    Failure {
        code: Code::ALL[5],
        detail: "not as the policy has it".to_owned(),
        entry: Some(12),
        path: Some(b"/usr/bin/changed".to_vec()),
        digest: Some("sha256:00".to_owned()),
        at_unix_ms: START_UNIX_MS,
        under_policy: None,
        group: Some(GROUP.to_owned()),
    }
}

/// The outcome that leads to this state.
#[must_use]
pub fn outcome(number: u64, attestations: u64) -> Outcome {
    Outcome {
        agent: agent(number),
        at_unix_ms: START_UNIX_MS + attestations * 10_000,
        verdict: VerdictKind::Trusted,
        code: None,
        policy: Some(digest("policy", 1)),
        evidence_sha256: hash("evidence", number * 1_000_000 + attestations),
        state: state(number, attestations),
        kept: Vec::new(),
        log: None,
    }
}

/// The same, of an agent that failed.
#[must_use]
pub fn failed_outcome(number: u64, attestations: u64) -> Outcome {
    let mut outcome = outcome(number, attestations);
    outcome.verdict = VerdictKind::Untrusted;
    outcome.code = Some(failure().code);
    outcome.state.failure = Some(failure().into());
    outcome.state.trusted_until_unix_ms = 0;
    outcome
}

/// The challenge of this number.
#[must_use]
pub fn challenge(number: u64) -> ChallengeId {
    ChallengeId(hash("challenge", number)[..16].try_into().unwrap())
}

/// Entries of a list that came with the evidence.
#[must_use]
pub fn whole_log(from_entry: u64, to_entry: u64, bytes: &[u8]) -> KeptLog {
    KeptLog {
        from_entry,
        to_entry,
        format: LogFormat::Binary,
        length: bytes.len() as u64,
        upload: challenge(0),
        whole: Some(bytes.to_vec()),
    }
}

/// Entries of a list whose pieces are staged under this challenge.
#[must_use]
pub fn staged_log(from_entry: u64, to_entry: u64, length: u64, upload: ChallengeId) -> KeptLog {
    KeptLog {
        from_entry,
        to_entry,
        format: LogFormat::Binary,
        length,
        upload,
        whole: None,
    }
}

/// Bytes that compress about as well as a measurement list does.
#[must_use]
pub fn list_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 100);
    for entry in 0.. {
        if bytes.len() >= length {
            break;
        }
        bytes.extend(hash("file", seed * 1_000_000 + entry));
        bytes.extend(format!("sha256:/usr/lib/x86_64-linux-gnu/lib{entry:020}.so").bytes());
    }
    bytes.truncate(length);
    bytes
}
