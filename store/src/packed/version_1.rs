//! Records whose fields were others in version 1.

use rat_engine::hash::Digest;
use rat_engine::ima::boot_aggregate::Form;
use rat_engine::ima::{BankScheme, Committed};
use rat_engine::pcr::PcrValues;
use rat_engine::shard::{BootEpoch, KeptLearnedKey, TpmClock};
use rat_engine::verdict::Code;
use serde::Deserialize;

use super::version_2;

/// A failure that does not say in which group it was. No pass ends it: only an operator does.
#[derive(Deserialize)]
pub(super) struct Failure {
    code: Code,
    detail: String,
    entry: Option<u64>,
    path: Option<Vec<u8>>,
    digest: Option<String>,
    at_unix_ms: u64,
    under_policy: Option<Digest>,
}

impl From<Failure> for version_2::Failure {
    fn from(before: Failure) -> Self {
        Self {
            code: before.code,
            detail: before.detail,
            entry: before.entry,
            path: before.path,
            digest: before.digest,
            at_unix_ms: before.at_unix_ms,
            under_policy: before.under_policy,
            group: None,
        }
    }
}

/// A state with such a failure.
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
    verdict: Option<version_2::Verdict>,
    failure: Option<Failure>,
    attestations: u64,
    passed: u64,
    last_passed_unix_ms: u64,
}

impl From<State> for version_2::State {
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
            verdict: before.verdict,
            failure: before.failure.map(version_2::Failure::from),
            attestations: before.attestations,
            passed: before.passed,
            last_passed_unix_ms: before.last_passed_unix_ms,
        }
    }
}
