//! What operators do to agents: approve, clear, move, remove.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use rat_engine::agent_id::AgentId;
use rat_engine::shard::Failure;
use rat_store::{AuditEntry, OnRemoval, RecordChange, Waiting};

use super::agents::detail;
use super::groups::slug_of;
use super::request::{AgentInPath, Answered, Reply, sha256};
use super::wire::agent as wire;
use super::wire::request as asked;
use super::{Core, State};
use crate::auth::Caller;
use crate::clock::unix_ms;
use crate::error::{ApiError, Conflict, MemberFault};
use crate::json::{Form, Object};
use crate::limits::{CLEAR_MS_MAX, REASON_CHARACTERS_MAX, duration};

const UNKNOWN: ApiError = ApiError::NotFound("agent");

/// Approves what waits under an agent's id: the attestation key that an enrolled agent changed to,
/// or a machine that wants to enrol, which the request names by its endorsement key.
#[utoipa::path(
    post, path = "/agents/{agent_id}/approve", tag = "agents",
    params(("agent_id" = String, Path)),
    request_body = asked::Approve,
    responses((status = 200, body = wire::Approved)),
)]
pub(super) async fn approve(
    state: State,
    AgentInPath(id): AgentInPath,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::Approved> {
    let form = Form {
        members: &["ek_sha256", "ak_proposed_sha256"],
        document: None,
    };
    let request = Object::of_form(&body, &form)?;
    let machine = digits_of(&request, "ek_sha256")?;
    let key = digits_of(&request, "ak_proposed_sha256")?;
    let core = &state.0;
    match core.store.proposed_ak(&id).await? {
        Some(proposed) if machine.is_none_or(|wanted| wanted == proposed.ek_sha256) => {
            approve_key(core, &id, key.as_ref(), &caller).await
        }
        _ if key.is_some() => Err(ApiError::Conflict(Conflict::NothingWaits)),
        _ => approve_machine(core, &id, machine, &caller).await,
    }
    .map(Reply::ok)
}

/// The SHA-256 that a member names, if it is there.
fn digits_of(request: &Object<'_>, member: &'static str) -> Result<Option<[u8; 32]>, ApiError> {
    let Some(text) = request.optional_text(member, 64)? else {
        return Ok(None);
    };
    let form = "64 lower-case hexadecimal digits";
    let wrong = || ApiError::member(member, MemberFault::Encoding(form));
    sha256(text).ok_or_else(wrong).map(Some)
}

/// The shard forgets the agent first, so that nothing which the old key signed is recorded after
/// its trust has ended.
async fn approve_key(
    core: &Arc<Core>,
    id: &AgentId,
    key: Option<&[u8; 32]>,
    caller: &Caller,
) -> Result<wire::Approved, ApiError> {
    let turn = core.turn(id).await;
    let approving = async {
        let (actor, now) = (caller.actor(), unix_ms());
        let approved = core.store.approve_ak(id, key, actor, now).await?;
        approved.ok_or(ApiError::Conflict(Conflict::NothingWaits))
    };
    let stored = turn.apart(approving).await?;
    let record = stored.record;
    Ok(wire::Approved {
        agent_id: id.as_str().to_owned(),
        approved: wire::ApprovedWhat::AttestationKey,
        ek_sha256: hex::encode(record.ek_sha256),
        policy_group_id: record.group,
        ak_epoch: Some(record.ak_epoch),
    })
}

/// An id is whatever a machine says, and an attacker's may be the only one that waits under it: the
/// operator names the machine. (N12)
async fn approve_machine(
    core: &Core,
    id: &AgentId,
    wanted: Option<[u8; 32]>,
    caller: &Caller,
) -> Result<wire::Approved, ApiError> {
    let mut waiting = core.store.waiting_as(id, unix_ms()).await?;
    match wanted {
        Some(wanted) => waiting.retain(|machine| machine.ek_sha256 == wanted),
        None if waiting.is_empty() => {}
        None => return Err(ApiError::MachineNotNamed),
    }
    let machine = match <[Waiting; 1]>::try_from(waiting) {
        Ok([machine]) => machine,
        Err(none) if none.is_empty() => {
            return Err(ApiError::Conflict(Conflict::NothingWaits));
        }
        Err(_) => return Err(ApiError::Conflict(Conflict::SeveralWait)),
    };
    let (group, ek, now) = (&machine.group, &machine.ek_sha256, unix_ms());
    core.store
        .approve_ek(group, ek, caller.actor(), now)
        .await?;
    Ok(wire::Approved {
        agent_id: id.as_str().to_owned(),
        approved: wire::ApprovedWhat::Enrolment,
        ek_sha256: hex::encode(machine.ek_sha256),
        policy_group_id: machine.group,
        ak_epoch: None,
    })
}

/// Takes an agent's failure back. It must pass from the first entry of its list before it is
/// trusted. The answer comes when this is durable. (S09)
#[utoipa::path(
    post, path = "/agents/{agent_id}/clear", tag = "agents",
    params(("agent_id" = String, Path)),
    request_body = asked::Clear,
    responses((status = 200, body = wire::AgentDetail)),
)]
pub(super) async fn clear(
    state: State,
    AgentInPath(id): AgentInPath,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::AgentDetail> {
    let form = Form {
        members: &["reason"],
        document: None,
    };
    let reason = Object::of_form(&body, &form)?;
    let reason = reason.text("reason", REASON_CHARACTERS_MAX)?;
    if reason.trim().is_empty() {
        let fault = MemberFault::Value("must say why".to_owned());
        return Err(ApiError::member("reason", fault));
    }
    let core = &state.0;
    core.store.agent(&id).await?.ok_or(UNKNOWN)?;
    // Until it is cleared: an agent that is changed meanwhile would be taken from its shard, and
    // what was asked of that would be forgotten.
    let turn = core.turn(&id).await;
    let failure = failure_of(core, &id).await?;
    let failure = failure.ok_or(ApiError::Conflict(Conflict::NotFailed))?;
    let entry = AuditEntry {
        at_unix_ms: unix_ms(),
        actor: caller.actor(),
        action: "agent.clear",
        target: id.as_str(),
        detail: &format!("{}: {}", failure.code, reason.escape_debug()),
    };
    // The shards make this change, so that what they know and what is recorded stay one: nothing
    // is asked of them unless it stands in the log who asked.
    core.store.audit(entry).await?;
    core.fleet.clear(id.clone()).await?;
    let cleared = async {
        while failure_of(core, &id).await?.as_ref() == Some(&failure) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok::<(), ApiError>(())
    };
    match tokio::time::timeout(duration(CLEAR_MS_MAX), cleared).await {
        Ok(cleared) => cleared?,
        // It will be when the store answers.
        Err(_) => return Err(ApiError::Unfinished),
    }
    drop(turn);
    detail(core, &id).await.map(Reply::ok)
}

/// From one look at whether a failure is cleared to the next.
const LOOK_EVERY: Duration = Duration::from_millis(20);

async fn failure_of(core: &Core, id: &AgentId) -> Result<Option<Failure>, ApiError> {
    let seen = core.fleet.seen(id.clone()).await?;
    let seen = seen.ok_or(ApiError::Unavailable("no shard serves this agent"))?;
    Ok(seen.state.failure.map(|failure| *failure))
}

/// Moves an agent to another group. Its failure goes with it, and the new group's policy does not
/// end it. (S16)
#[utoipa::path(
    post, path = "/agents/{agent_id}/move", tag = "agents",
    params(("agent_id" = String, Path)),
    request_body = asked::Move,
    responses((status = 200, body = wire::AgentDetail)),
)]
pub(super) async fn change_group(
    state: State,
    AgentInPath(id): AgentInPath,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::AgentDetail> {
    let form = Form {
        members: &["policy_group_id"],
        document: None,
    };
    let slug = slug_of(&Object::of_form(&body, &form)?)?;
    let core = &state.0;
    core.store.agent(&id).await?.ok_or(UNKNOWN)?;
    let group = core.store.group(&slug).await?;
    group.ok_or(ApiError::NotFound("group"))?;
    let turn = core.turn(&id).await;
    let moving = async {
        let (change, now) = (RecordChange::Group(slug), unix_ms());
        let changed = core
            .store
            .change_agent(&id, change, caller.actor(), now)
            .await?;
        changed.ok_or(UNKNOWN)?;
        core.store.enrolled_agent(&id).await?.ok_or(UNKNOWN)
    };
    turn.apart(moving).await?;
    drop(turn);
    detail(core, &id).await.map(Reply::ok)
}

/// Removes an agent. Its failure stays with its machine. (N08, S16)
#[utoipa::path(
    delete, path = "/agents/{agent_id}", tag = "agents",
    params(("agent_id" = String, Path)),
    responses((status = 200, body = wire::Removed)),
)]
pub(super) async fn remove(
    state: State,
    AgentInPath(id): AgentInPath,
    Extension(caller): Extension<Caller>,
) -> Answered<wire::Removed> {
    let core = &state.0;
    let turn = core.turn(&id).await;
    let (keep, now) = (OnRemoval::KeepFailure, unix_ms());
    let removal = core.store.remove_agent(&id, keep, caller.actor(), now);
    let removed = turn.remove(removal).await??.ok_or(UNKNOWN)?;
    Ok(Reply::ok(wire::Removed {
        agent_id: id.as_str().to_owned(),
        failure_kept: removed.failure.is_some(),
    }))
}
