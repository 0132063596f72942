//! R2: what is known of one agent, for whoever must decide about it.

use std::collections::BTreeSet;

use rat_engine::hash::Digest;
use rat_engine::policy::RuntimePolicy;
use rat_engine::shard::{AgentState, EffectiveStatus, Failure};
use rat_engine::tpm::Public;
use rat_engine::verdict::Code;
use rat_store::{StoredGroup, StoredRecord};

use super::agents::{Shown, identity};
use super::fleet::Seen;
use super::request::{AgentInPath, Answered, Reply};
use super::wire::agent as wire;
use super::{Core, State, compute};
use crate::clock::rfc3339;
use crate::error::ApiError;

/// Shows what is known of one agent.
#[utoipa::path(
    get, path = "/agents/{agent_id}/evidence", tag = "agents",
    params(("agent_id" = String, Path)),
    responses((status = 200, body = wire::Evidence)),
)]
pub(super) async fn show(state: State, AgentInPath(id): AgentInPath) -> Answered<wire::Evidence> {
    let core = &state.0;
    let stored = core.store.agent(&id).await?;
    let stored = stored.ok_or(ApiError::NotFound("agent"))?;
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
        (Some(seen), Some(group)) => Some(attestation(core, &stored, seen, group).await?),
        _ => None,
    };
    let failure = attestation.as_ref().and_then(|seen| seen.failure.clone());
    Ok(Reply::ok(wire::Evidence {
        agent: wire::EvidenceAgent {
            identity: identity(&stored, seen.as_ref()),
            effective_status: shown.effective,
        },
        attestation,
        policy,
        first_offence: failure,
        what_to_do: seen.as_ref().and_then(what_to_do),
        warning: if shards_answer {
            shown.warning
        } else {
            Some("the agents' shards do not answer")
        },
    }))
}

/// What to do about a status that is not as it should be: the remedy of what failed first, of what
/// the newest verdict says, or of the status itself.
fn what_to_do(seen: &Seen) -> Option<&'static str> {
    let state = &seen.state;
    let failed = state.failure.as_ref().map(|failure| failure.code);
    let said = || state.verdict.as_ref().and_then(|verdict| verdict.code);
    match seen.status {
        EffectiveStatus::Trusted
        | EffectiveStatus::TrustedUnenforced
        | EffectiveStatus::Authentic => None,
        EffectiveStatus::Untrusted => failed.or_else(said).map(Code::remedy),
        EffectiveStatus::Unverified => Some(said().unwrap_or(Code::PolicyMissing).remedy()),
        EffectiveStatus::Pending => {
            Some("Start rat-agent on the machine; if it runs, look into its log.")
        }
        EffectiveStatus::Overdue => Some(
            "Check that the machine is on, that rat-agent runs, and that it reaches the server.",
        ),
        EffectiveStatus::Blocked => {
            Some("Nothing is wrong with the machine: its group is blocked until `block` is false.")
        }
    }
}

async fn attestation(
    core: &Core,
    stored: &StoredRecord,
    seen: &Seen,
    group: &StoredGroup,
) -> Result<wire::Attestation, ApiError> {
    let state = &seen.state;
    let policy_judged = match &state.passed_under {
        None => None,
        Some(digest) => {
            let version = core.store.policy_of_digest(&group.slug, digest).await?;
            Some(wire::PolicyJudged {
                digest: hex::encode(digest.as_bytes()),
                version: version.map(|policy| policy.version.to_string()),
            })
        }
    };
    Ok(wire::Attestation {
        count: state.passed,
        last_successful: rfc3339(state.last_passed_unix_ms),
        hash_alg: group.settings.bank.name(),
        sign_alg: sign_alg(&stored.record.ak_public),
        active_pcrs: quoted_pcrs(state, group),
        failure: state.failure.as_ref().map(failure),
        boot_epoch: state.boot.map(|boot| wire::BootEpoch {
            reset_count: boot.reset_count,
            restart_count: boot.restart_count,
        }),
        policy_judged,
        passed_by_exclude: state.list.excluded,
        trusted_until: rfc3339(state.trusted_until_unix_ms),
    })
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

async fn policy(
    core: &Core,
    group: &StoredGroup,
) -> Result<Option<wire::EvidencePolicy>, ApiError> {
    let Some(enforced) = group.enforced else {
        return Ok(None);
    };
    let Some(version) = core.store.policy(&group.slug, enforced.version).await? else {
        return Ok(None);
    };
    Ok(Some(wire::EvidencePolicy {
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
