//! How an agent stands, as Keylime's clients read it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rat_engine::crypto::{Curve, KeyMaterial, VerifyingKey};
use rat_engine::shard::{AgentPath, AgentRecord, EffectiveStatus, Failure, VerdictKind};
use rat_engine::tpm::Public;
use rat_engine::verdict::severity::event_id;
use rat_store::{Halted, NotedStanding, StoredKeylimeAgent};
use serde::Serialize;

use super::Verifier;
use crate::core::fleet::Seen;

/// Keylime's `operational_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub(super) enum State {
    Start,
    GetQuote,
    GetQuoteRetry,
    InvalidQuote,
    TenantFailed,
}

impl From<State> for u8 {
    fn from(state: State) -> Self {
        match state {
            State::Start => 1,
            State::GetQuote => 3,
            State::GetQuoteRetry => 4,
            State::InvalidQuote => 9,
            State::TenantFailed => 10,
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

impl Shown {
    pub(super) fn of(
        verifier: &Verifier,
        record: &AgentRecord,
        agent: StoredKeylimeAgent,
        seen: Option<&Seen>,
    ) -> Self {
        let pushes = record.path == AgentPath::KeylimePush;
        let state = seen.map(|seen| &seen.state);
        let verdict = state.and_then(|state| state.verdict.as_ref());
        let failure = state.and_then(|state| state.failure.as_deref());
        let seconds = |unix_ms: u64| unix_ms / 1_000;
        let facts = agent.facts;
        let attested = verdict.is_some();
        let interval = verifier.interval_seconds;
        let noted = agent.standing;
        let is_stopped = noted.halted == Halted::ByTenant;
        let (enc_alg, sign_alg) = match attested {
            true => algorithms(&record.ak_public),
            false => Default::default(),
        };
        let (severity_level, last_event_id) = gravest(verifier, noted, failure);
        Self {
            operational_state: match is_stopped {
                true => Some(State::TenantFailed),
                false => operational_state(pushes, seen),
            },
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
            enc_alg,
            sign_alg,
            accept_tpm_hash_algs: facts.accept_tpm_hash_algs,
            accept_tpm_encryption_algs: facts.accept_tpm_encryption_algs,
            accept_tpm_signing_algs: facts.accept_tpm_signing_algs,
            verifier_id: verifier.id.clone(),
            verifier_ip: facts.verifier_ip,
            verifier_port: facts.verifier_port,
            severity_level,
            last_event_id,
            attestation_count: state.map_or(0, |state| state.passed),
            last_received_quote: verdict.map_or(0, |verdict| seconds(verdict.at_unix_ms)),
            last_successful_attestation: state
                .map_or(0, |state| seconds(state.last_passed_unix_ms)),
            attestation_status: match is_stopped {
                true => "FAIL",
                false => attestation_status(pushes, seen),
            },
            attestation_period: format!("{interval}s"),
            maximum_attestation_interval: format!("{}s", interval.saturating_mul(5)),
            effective_status: seen.map_or("unverified", |seen| seen.status.as_str()),
            failure_code: failure.map(|failure| failure.code.as_str()),
        }
    }
}

/// How grave a failure is at its gravest, and what that was: as it was told, or as it will be.
fn gravest(
    verifier: &Verifier,
    noted: NotedStanding,
    failure: Option<&Failure>,
) -> (Option<u8>, Option<String>) {
    let Some(failure) = failure else {
        return (None, None);
    };
    match noted.failure {
        Some(told) if told.failed_unix_ms == failure.at_unix_ms => {
            (Some(told.severity), Some(told.event_id))
        }
        _ => (
            Some(verifier.severities.of(failure.code).level()),
            Some(event_id(failure.code).to_owned()),
        ),
    }
}

/// `enc_alg` and `sign_alg`: an attestation key signs by one scheme, and what it signed was verified.
fn algorithms(ak_public: &[u8]) -> (String, String) {
    let Ok(public) = Public::parse(ak_public) else {
        return Default::default();
    };
    let Ok(key) = VerifyingKey::from_tpm(&public) else {
        return Default::default();
    };
    let key = match key.material() {
        KeyMaterial::Rsa { modulus, .. } => format!("rsa{}", modulus.len().saturating_mul(8)),
        KeyMaterial::Ecc { curve, .. } => match curve {
            Curve::P256 => "ecc256".to_owned(),
            Curve::P384 => "ecc384".to_owned(),
            Curve::P521 => "ecc521".to_owned(),
        },
    };
    let scheme = match public.scheme.map(|scheme| scheme.algorithm) {
        Some(0x0014) => "rsassa",
        Some(0x0016) => "rsapss",
        Some(0x0018) => "ecdsa",
        _ => "",
    };
    (key, scheme.to_owned())
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
