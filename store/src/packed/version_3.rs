//! Records whose fields were others in version 3, in which no group could accept SHA-1 or demand
//! valid signatures.

use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::Form;
use rat_engine::ima::{BankScheme, Committed};
use rat_engine::pcr::PcrValues;
use rat_engine::shard::{self, BootEpoch, Failure, KeptLearnedKey, TpmClock, VerdictKind};
use rat_engine::verdict::Code;
use serde::Deserialize;

#[derive(Deserialize)]
struct QuoteRules {
    pcr_policy: Option<Digest>,
    bank: HashAlg,
    boot_log: bool,
}

impl From<QuoteRules> for shard::QuoteRules {
    fn from(before: QuoteRules) -> Self {
        Self {
            pcr_policy: before.pcr_policy,
            bank: before.bank,
            boot_log: before.boot_log,
            allow_sha1: false,
            measured_boot: None,
        }
    }
}

#[derive(Deserialize)]
struct ListRules {
    policy: Digest,
    accept_violations: bool,
}

impl From<ListRules> for shard::ListRules {
    fn from(before: ListRules) -> Self {
        Self {
            policy: before.policy,
            accept_violations: before.accept_violations,
            require_valid_ima_sig: false,
        }
    }
}

#[derive(Deserialize)]
struct Denied {
    under: ListRules,
    first: Failure,
}

impl From<Denied> for shard::Denied {
    fn from(before: Denied) -> Self {
        Self {
            under: before.under.into(),
            first: before.first,
        }
    }
}

#[derive(Deserialize)]
struct ListFacts {
    violations: Option<u64>,
    excluded: Option<u64>,
    denied: Option<Denied>,
    is_dismissed: bool,
}

impl From<ListFacts> for shard::ListFacts {
    fn from(before: ListFacts) -> Self {
        Self {
            violations: before.violations,
            excluded: before.excluded,
            denied: before.denied.map(|denied| Box::new(denied.into())),
            is_dismissed: before.is_dismissed,
            require_valid_ima_sig: false,
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

/// A state whose verdict and list were held against fewer rules.
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
    failure: Option<Failure>,
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
            failure: before.failure.map(Box::new),
            attestations: before.attestations,
            passed: before.passed,
            last_passed_unix_ms: before.last_passed_unix_ms,
            list: before.list.into(),
            measured_boot: None,
        }
    }
}
