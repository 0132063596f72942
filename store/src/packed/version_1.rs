//! Records whose fields were others in version 1.

use rat_engine::hash::Digest;
use rat_engine::ima::boot_aggregate::Form;
use rat_engine::ima::{BankScheme, Committed};
use rat_engine::pcr::PcrValues;
use rat_engine::shard::{
    AgentState, BootEpoch, Failure, KeptLearnedKey, LastVerdict, ListFacts, TpmClock,
};
use rat_engine::verdict::Code;
use serde::Deserialize;

/// A failure that does not say in which group it was. No pass ends it: only an operator does.
///
/// One of PCR values noted the runtime policy. Under which PCR policy it failed is not known.
#[derive(Deserialize)]
pub(super) struct FailureBefore {
    code: Code,
    detail: String,
    entry: Option<u64>,
    path: Option<Vec<u8>>,
    digest: Option<String>,
    at_unix_ms: u64,
    under_policy: Option<Digest>,
}

impl From<FailureBefore> for Failure {
    fn from(before: FailureBefore) -> Self {
        let is_of_pcrs = before.code == Code::PcrValueNotAllowed;
        Self {
            code: before.code,
            detail: before.detail,
            entry: before.entry,
            path: before.path,
            digest: before.digest,
            at_unix_ms: before.at_unix_ms,
            under_policy: before.under_policy.filter(|_| !is_of_pcrs),
            group: None,
        }
    }
}

/// A state with such a failure, which says nothing of its list but under which policy it passed.
#[derive(Deserialize)]
pub(super) struct StateBefore {
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
    verdict: Option<LastVerdict>,
    failure: Option<FailureBefore>,
    attestations: u64,
    passed: u64,
    last_passed_unix_ms: u64,
}

impl From<StateBefore> for AgentState {
    fn from(before: StateBefore) -> Self {
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
            verdict: before.verdict,
            failure: before.failure.map(Failure::from),
            attestations: before.attestations,
            passed: before.passed,
            last_passed_unix_ms: before.last_passed_unix_ms,
            list: ListFacts::default(),
        }
    }
}
