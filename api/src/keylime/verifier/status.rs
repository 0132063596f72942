//! How an agent stands, as Keylime's clients read it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rat_engine::shard::{AgentPath, EffectiveStatus, VerdictKind};
use rat_store::{StoredKeylimeAgent, StoredRecord};
use serde::Serialize;

use super::Verifier;
use super::event::event_id;
use crate::core::fleet::Seen;

/// Keylime's `operational_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub(super) enum State {
    Start,
    GetQuote,
    GetQuoteRetry,
    InvalidQuote,
}

impl From<State> for u8 {
    fn from(state: State) -> Self {
        match state {
            State::Start => 1,
            State::GetQuote => 3,
            State::GetQuoteRetry => 4,
            State::InvalidQuote => 9,
        }
    }
}

/// All that a tenant is told of an agent.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    operational_state: Option<State>,
    v: Option<String>,
    ip: Option<String>,
    port: Option<u16>,
    tpm_policy: String,
    meta_data: String,
    has_mb_refstate: u8,
    has_runtime_policy: u8,
    accept_tpm_hash_algs: Vec<String>,
    accept_tpm_encryption_algs: Vec<String>,
    accept_tpm_signing_algs: Vec<String>,
    hash_alg: String,
    enc_alg: String,
    sign_alg: String,
    verifier_id: String,
    verifier_ip: String,
    verifier_port: u16,
    severity_level: Option<u8>,
    last_event_id: Option<String>,
    attestation_count: u64,
    last_received_quote: u64,
    last_successful_attestation: u64,
    attestation_status: &'static str,
    attestation_period: String,
    maximum_attestation_interval: String,
    /// What relying parties see; Keylime's three words do not tell an agent that is judged by
    /// nothing from one that its policies allow.
    effective_status: &'static str,
    /// What failed, by the engine's own name.
    failure_code: Option<&'static str>,
}

/// The index of Keylime's gravest label, `emergency`, which every event has by default.
const SEVERITY_MAX: u8 = 6;

impl Shown {
    pub(super) fn of(
        verifier: &Verifier,
        record: &StoredRecord,
        agent: StoredKeylimeAgent,
        seen: Option<&Seen>,
    ) -> Self {
        let pushes = record.record.path == AgentPath::KeylimePush;
        let state = seen.map(|seen| &seen.state);
        let verdict = state.and_then(|state| state.verdict.as_ref());
        let failure = state.and_then(|state| state.failure.as_deref());
        let seconds = |unix_ms: u64| unix_ms / 1_000;
        let facts = agent.facts;
        let attested = verdict.is_some();
        let interval = verifier.interval_seconds;
        Self {
            operational_state: operational_state(pushes, seen),
            v: facts.v.as_ref().map(|v| STANDARD.encode(v)),
            ip: facts.ip,
            port: facts.port,
            tpm_policy: facts.tpm_policy,
            meta_data: facts.metadata,
            has_mb_refstate: u8::from(agent.mb_policy.digest.is_some()),
            has_runtime_policy: u8::from(agent.runtime_policy.digest.is_some()),
            hash_alg: match attested {
                true => facts.bank.name().to_owned(),
                false => String::new(),
            },
            enc_alg: String::new(),
            sign_alg: String::new(),
            accept_tpm_hash_algs: facts.accept_tpm_hash_algs,
            accept_tpm_encryption_algs: facts.accept_tpm_encryption_algs,
            accept_tpm_signing_algs: facts.accept_tpm_signing_algs,
            verifier_id: verifier.id.clone(),
            verifier_ip: facts.verifier_ip,
            verifier_port: facts.verifier_port,
            severity_level: failure.map(|_| SEVERITY_MAX),
            last_event_id: failure.map(|failure| event_id(failure.code)),
            attestation_count: state.map_or(0, |state| state.passed),
            last_received_quote: verdict.map_or(0, |verdict| seconds(verdict.at_unix_ms)),
            last_successful_attestation: state
                .map_or(0, |state| seconds(state.last_passed_unix_ms)),
            attestation_status: attestation_status(pushes, seen),
            attestation_period: format!("{interval}s"),
            maximum_attestation_interval: format!("{}s", interval.saturating_mul(5)),
            effective_status: seen.map_or("unverified", |seen| seen.status.as_str()),
            failure_code: failure.map(|failure| failure.code.as_str()),
        }
    }
}

/// Null is of an agent that pushes and did not attest yet.
fn operational_state(pushes: bool, seen: Option<&Seen>) -> Option<State> {
    let state = seen.map(|seen| &seen.state);
    let has_attested = state.is_some_and(|state| state.verdict.is_some());
    let failure = state.and_then(|state| state.failure.as_deref());
    Some(match (failure, pushes) {
        // Whatever failed of its evidence: Keylime's `Failed` is an agent that was given up.
        (Some(_), false) => State::InvalidQuote,
        (_, true) if !has_attested => return None,
        (_, true) => State::GetQuote,
        (None, false) if !has_attested => State::Start,
        (None, false) => match seen.map(|seen| seen.status) {
            // Nothing was heard of it: it is asked again, and not accused. (keylime#481, #996)
            Some(EffectiveStatus::Overdue) => State::GetQuoteRetry,
            _ => State::GetQuote,
        },
    })
}

/// Keylime's four words.
fn attestation_status(pushes: bool, seen: Option<&Seen>) -> &'static str {
    let Some(seen) = seen else {
        return "PENDING";
    };
    let failed_last = |seen: &Seen| {
        let verdict = seen.state.verdict.as_ref();
        verdict.is_some_and(|verdict| verdict.kind == VerdictKind::Untrusted)
    };
    match seen.status {
        EffectiveStatus::Trusted
        | EffectiveStatus::TrustedUnenforced
        | EffectiveStatus::Authentic => "PASS",
        EffectiveStatus::Untrusted | EffectiveStatus::Blocked => "FAIL",
        EffectiveStatus::Overdue if pushes => "TIMEOUT",
        _ if failed_last(seen) => "FAIL",
        EffectiveStatus::Pending | EffectiveStatus::Unverified | EffectiveStatus::Overdue => {
            "PENDING"
        }
    }
}
