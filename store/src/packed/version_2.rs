//! Records whose fields were others in version 2.

use rat_engine::hash::Digest;
use rat_engine::ima::boot_aggregate::Form;
use rat_engine::ima::{BankScheme, Committed};
use rat_engine::pcr::PcrValues;
use rat_engine::shard::{self, BootEpoch, KeptLearnedKey, ListFacts, TpmClock, VerdictKind};
use rat_engine::verdict::Code;
use serde::Deserialize;

/// A failure that noted the runtime policy, also when values of PCRs were why. Under which PCR
/// policy it failed is not known, and so no change of one ends it.
#[derive(Deserialize)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) detail: String,
    pub(super) entry: Option<u64>,
    pub(super) path: Option<Vec<u8>>,
    pub(super) digest: Option<String>,
    pub(super) at_unix_ms: u64,
    pub(super) under_policy: Option<Digest>,
    pub(super) group: Option<String>,
}

impl From<Failure> for shard::Failure {
    fn from(before: Failure) -> Self {
        let is_of_pcrs = before.code == Code::PcrValueNotAllowed;
        Self {
            code: before.code,
            detail: before.detail,
            entry: before.entry,
            path: before.path,
            digest: before.digest,
            at_unix_ms: before.at_unix_ms,
            under_policy: before.under_policy.filter(|_| !is_of_pcrs),
            group: before.group,
        }
    }
}

/// A verdict that does not say what its quote was held against.
#[derive(Deserialize)]
pub(super) struct Verdict {
    kind: VerdictKind,
    code: Option<Code>,
    detail: String,
    policy: Option<Digest>,
    challenged_unix_ms: u64,
    at_unix_ms: u64,
}

impl From<Verdict> for shard::LastVerdict {
    fn from(before: Verdict) -> Self {
        Self {
            kind: before.kind,
            code: before.code,
            detail: before.detail,
            policy: before.policy,
            challenged_unix_ms: before.challenged_unix_ms,
            at_unix_ms: before.at_unix_ms,
            held: None,
        }
    }
}

/// A state that says nothing of its list but under which policy it passed.
#[derive(Deserialize)]
pub(super) struct State {
    pub(super) boot: Option<BootEpoch>,
    pub(super) clock: Option<TpmClock>,
    pub(super) ima: Option<Committed>,
    pub(super) learned: Vec<KeptLearnedKey>,
    pub(super) passed_under: Option<Digest>,
    pub(super) scheme: BankScheme,
    pub(super) boot_aggregate: Option<Form>,
    pub(super) boot_pcrs: PcrValues,
    pub(super) boot_log_seen: bool,
    pub(super) trusted_until_unix_ms: u64,
    pub(super) verdict: Option<Verdict>,
    pub(super) failure: Option<Failure>,
    pub(super) attestations: u64,
    pub(super) passed: u64,
    pub(super) last_passed_unix_ms: u64,
}

impl From<State> for shard::AgentState {
    fn from(before: State) -> Self {
        Self {
            boot: before.boot,
            clock: before.clock,
            ima: before.ima,
            learned: before.learned,
            passed_under: before.passed_under,
            scheme: before.scheme,
            boot_aggregate: before.boot_aggregate,
            boot_pcrs: before.boot_pcrs,
            boot_log_seen: before.boot_log_seen,
            trusted_until_unix_ms: before.trusted_until_unix_ms,
            verdict: before.verdict.map(shard::LastVerdict::from),
            failure: before.failure.map(|failure| Box::new(failure.into())),
            attestations: before.attestations,
            passed: before.passed,
            last_passed_unix_ms: before.last_passed_unix_ms,
            list: ListFacts::default(),
            measured_boot: None,
        }
    }
}
