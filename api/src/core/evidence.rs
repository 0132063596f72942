//! R2: what is known of one agent, for whoever must decide about it.

use std::collections::BTreeSet;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rat_engine::agent_id::AgentId;
use rat_engine::hash::Digest;
use rat_engine::policy::RuntimePolicy;
use rat_engine::shard::{AgentState, Failure};
use rat_engine::tpm::Public;
use rat_store::{StoredGroup, StoredRecord};

use super::agents::{Shown, identity};
use super::fleet::Seen;
use super::{Core, State, compute, wire};
use crate::clock::rfc3339;
use crate::error::{ApiError, json_response};

/// Shows one agent.
pub(super) async fn show(state: State, agent: Result<Path<String>, PathRejection>) -> Response {
    // What is not UTF-8 names no agent, as an empty text does not.
    let agent = agent.map_or_else(|_| String::new(), |Path(agent)| agent);
    match evidence(&state.0, &agent).await {
        Ok(evidence) => json_response(StatusCode::OK, &evidence),
        Err(error) => error.into_response(),
    }
}

async fn evidence(core: &Core, agent: &str) -> Result<wire::Evidence, ApiError> {
    let unknown = ApiError::NotFound("agent");
    let id = AgentId::parse(agent).map_err(|_| unknown.clone())?;
    let stored = core.store.agent(&id).await?.ok_or(unknown)?;
    let seen = core.fleet.seen(vec![id]).await;
    // Without an answer of the shards nothing is shown as live.
    let (seen, shards_answer) = match seen {
        Ok(seen) => (seen.into_iter().next().flatten(), true),
        Err(_) => (None, false),
    };
    let group = core.store.group(&stored.record.group).await?;
    let shown = Shown::of(seen.as_ref());
    let policy = match &group {
        Some(group) => policy(core, group).await?,
        None => None,
    };
    let attestation = match (&seen, &group) {
        (Some(seen), Some(group)) => Some(attestation(&stored, seen, group)),
        _ => None,
    };
    Ok(wire::Evidence {
        agent: wire::EvidenceAgent {
            identity: identity(&stored, seen.as_ref()),
            effective_status: shown.effective,
        },
        attestation,
        policy,
        warning: if shards_answer {
            shown.warning
        } else {
            Some("the agents' shards do not answer")
        },
    })
}

fn attestation(stored: &StoredRecord, seen: &Seen, group: &StoredGroup) -> wire::Attestation {
    let state = &seen.state;
    wire::Attestation {
        count: state.passed,
        last_successful: rfc3339(state.last_passed_unix_ms),
        hash_alg: group.settings.bank.name(),
        sign_alg: sign_alg(&stored.record.ak_public),
        active_pcrs: quoted_pcrs(state, group),
        failure: state.failure.as_ref().map(failure),
    }
}

/// Paths come from the machine: what is not printable is escaped. (X07)
fn failure(failure: &Failure) -> wire::Failure {
    wire::Failure {
        code: failure.code.as_str(),
        detail: failure.detail.clone(),
        entry: failure.entry,
        path: failure
            .path
            .as_ref()
            .map(|path| path.escape_ascii().to_string()),
        digest: failure.digest.clone(),
        at: rfc3339(failure.at_unix_ms),
    }
}

/// The PCRs of the group's bank that the last accepted evidence covered.
fn quoted_pcrs(state: &AgentState, group: &StoredGroup) -> Vec<u8> {
    let boot = state.boot_pcrs.pcrs(group.settings.bank);
    let mut pcrs: BTreeSet<u8> = boot.iter().map(rat_engine::pcr::PcrIndex::get).collect();
    if let Some(committed) = &state.ima {
        pcrs.extend(committed.running().iter().map(|(pcr, _)| pcr.get()));
    }
    pcrs.into_iter().collect()
}

/// The AK's scheme, in Keylime's words.
fn sign_alg(ak_public: &[u8]) -> &'static str {
    let scheme = Public::parse(ak_public).ok().and_then(|ak| ak.scheme);
    // TPM_ALG_ID (TCG Algorithm Registry)
    match scheme.map(|scheme| scheme.algorithm) {
        Some(0x0014) => "rsassa",
        Some(0x0016) => "rsapss",
        Some(0x0018) => "ecdsa",
        _ => "unknown",
    }
}

async fn policy(core: &Core, group: &StoredGroup) -> Result<Option<wire::Policy>, ApiError> {
    let Some(enforced) = group.enforced else {
        return Ok(None);
    };
    let before = enforced.version.saturating_sub(1);
    let versions = core.store.policies(&group.slug, before, 1).await?;
    let Some(version) = versions.into_iter().next() else {
        return Ok(None);
    };
    Ok(Some(wire::Policy {
        name: version.name,
        version: version.version.to_string(),
        // Known once policies come from a repository.
        commit_sha: None,
        source_repo: None,
        signed_by: None,
        rekor_log_id: None,
        created_at: rfc3339(version.created_unix_ms),
        measurement_count: measurement_count(core, version.digest).await?,
    }))
}

/// How many paths a policy lists. Policies are immutable, so that the last one asked for is
/// remembered.
async fn measurement_count(core: &Core, digest: Digest) -> Result<usize, ApiError> {
    if let Some((known, count)) = *core.counted.lock().await
        && known == digest
    {
        return Ok(count);
    }
    let text = core.store.policy_text(&digest).await?;
    let unreadable = ApiError::Unavailable("the policy cannot be read");
    let text = text.ok_or_else(|| unreadable.clone())?;
    let count = compute(move || {
        let policy = RuntimePolicy::parse(&text).map_err(|_| unreadable)?;
        Ok(policy.compiled().path_count())
    })
    .await?;
    *core.counted.lock().await = Some((digest, count));
    Ok(count)
}
