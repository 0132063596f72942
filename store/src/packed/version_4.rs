//! Records whose fields were others in version 4, in which nothing was demanded of what a boot log
//! holds.

use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::Form;
use rat_engine::ima::{BankScheme, Committed};
use rat_engine::pcr::PcrValues;
use rat_engine::shard::{
    self, BootEpoch, Failure, KeptLearnedKey, ListFacts, TpmClock, VerdictKind,
};
use rat_engine::verdict::Code;
use serde::Deserialize;

#[derive(Deserialize)]
struct QuoteRules {
    pcr_policy: Option<Digest>,
    bank: HashAlg,
    boot_log: bool,
    allow_sha1: bool,
}

impl From<QuoteRules> for shard::QuoteRules {
    fn from(before: QuoteRules) -> Self {
        Self {
            pcr_policy: before.pcr_policy,
            bank: before.bank,
            boot_log: before.boot_log,
            allow_sha1: before.allow_sha1,
            measured_boot: None,
        }
    }
}

#[derive(Deserialize)]
struct Verdict {
    kind: VerdictKind,
    code: Option<Code>,
    detail: String,
    policy: Option<Digest>,
    challenged_unix_ms: u64,
    at_unix_ms: u64,
    held: Option<QuoteRules>,
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
            held: before.held.map(shard::QuoteRules::from),
        }
    }
}

/// A state whose boot log was not judged by what it holds.
#[derive(Deserialize)]
pub(super) struct State {
    boot: Option<BootEpoch>,
    clock: Option<TpmClock>,
    ima: Option<Committed>,
    learned: Vec<KeptLearnedKey>,
    passed_under: Option<Digest>,
    scheme: BankScheme,
    boot_aggregate: Option<Form>,
    boot_pcrs: PcrValues,
    boot_log_seen: bool,
    trusted_until_unix_ms: u64,
    verdict: Option<Verdict>,
    failure: Option<Box<Failure>>,
    attestations: u64,
    passed: u64,
    last_passed_unix_ms: u64,
    list: ListFacts,
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
            failure: before.failure,
            attestations: before.attestations,
            passed: before.passed,
            last_passed_unix_ms: before.last_passed_unix_ms,
            list: before.list,
            measured_boot: None,
        }
    }
}
