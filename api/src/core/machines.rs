//! Machines that operators let in one by one, and those that wait for it. (N12)

use axum::Extension;
use axum::http::Uri;
use rat_store::StoreError;

use super::State;
use super::request::{
    Answered, Done, GroupInPath, MachineInPath, Parameters, Reply, last_of_full, next_page, sha256,
    wrong,
};
use super::wire::enrolment as wire;
use crate::auth::Caller;
use crate::clock::{rfc3339, unix_ms};
use crate::error::ApiError;

const UNKNOWN_GROUP: ApiError = ApiError::NotFound("group");

/// Lists machines that wait for an operator's approval.
///
/// That there is such a genuine TPM was checked; that it was the one that asked, and what was said of
/// the machine, was not. A machine stands here once for each id that was asked for in its name.
#[utoipa::path(
    get, path = "/agents/pending", tag = "enrolment",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("after" = Option<String>, Query, description = "Machines after this one: its group, `ek_sha256` and `agent_id`, with `:` in between."),
    ),
    responses((status = 200, body = Vec<wire::Waiting>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn waiting(
    state: State,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::Waiting>> {
    parameters.only(&["limit", "after"])?;
    let after = match parameters.text("after") {
        None => None,
        Some(text) => {
            let form = "must be a group, an ek_sha256 and an agent_id, with `:` in between";
            Some(place_of(text).ok_or_else(|| wrong("after", form.to_owned()))?)
        }
    };
    let limit = parameters.limit()?;
    let from = after
        .as_ref()
        .map(|(group, ek, agent)| (*group, ek, *agent));
    let machines = state.0.store.waiting(from, limit, unix_ms()).await?;
    let last = last_of_full(&machines, limit);
    let last = last.map(|last| {
        let ek = hex::encode(last.ek_sha256);
        format!("{}:{ek}:{}", last.group, last.agent)
    });
    let next = last.map(|last| next_page(uri.path(), &parameters, &last));
    let shown = machines.into_iter().map(|machine| wire::Waiting {
        agent_id: machine.agent,
        hostname: machine.hostname,
        ip_address: machine.ip,
        policy_group_id: machine.group,
        ek_sha256: hex::encode(machine.ek_sha256),
        first_seen: rfc3339(machine.first_seen_unix_ms),
        last_seen: rfc3339(machine.last_seen_unix_ms),
        tries: machine.tries,
    });
    Ok(Reply::ok(shown.collect()).with_next(next))
}

/// A machine's place among those that wait: its group, itself and the id that it asks for.
fn place_of(text: &str) -> Option<(&str, [u8; 32], &str)> {
    let (group, rest) = text.split_once(':')?;
    let (ek, agent) = rest.split_once(':')?;
    Some((group, sha256(ek)?, agent))
}

/// Lists machines that may enrol into a group.
#[utoipa::path(
    get, path = "/groups/{group_id}/ek", tag = "groups",
    params(
        ("group_id" = String, Path),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("after" = Option<String>, Query, description = "Machines after this `ek_sha256`."),
    ),
    responses((status = 200, body = Vec<wire::ApprovedEk>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn approved(
    state: State,
    GroupInPath(slug): GroupInPath,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::ApprovedEk>> {
    parameters.only(&["limit", "after"])?;
    let after = match parameters.text("after") {
        None => None,
        Some(text) => {
            let form = || wrong("after", "must be 64 hexadecimal digits".to_owned());
            Some(sha256(text).ok_or_else(form)?)
        }
    };
    let store = &state.0.store;
    store.group(&slug).await?.ok_or(UNKNOWN_GROUP)?;
    let limit = parameters.limit()?;
    let machines = store.approved_eks(&slug, after.as_ref(), limit).await?;
    let last = last_of_full(&machines, limit);
    let next = last.map(|last| {
        let last = hex::encode(last.ek_sha256);
        next_page(uri.path(), &parameters, &last)
    });
    let shown = machines.into_iter().map(|machine| wire::ApprovedEk {
        ek_sha256: hex::encode(machine.ek_sha256),
        approved_by: machine.approved_by,
        approved_at: rfc3339(machine.approved_unix_ms),
    });
    Ok(Reply::ok(shown.collect()).with_next(next))
}

/// Lets a machine into a group, whether it has asked yet or not.
#[utoipa::path(
    put, path = "/groups/{group_id}/ek/{ek_sha256}", tag = "groups",
    params(("group_id" = String, Path), ("ek_sha256" = String, Path)),
    responses((status = 204, description = "It may enrol.")),
)]
pub(super) async fn let_in(
    state: State,
    MachineInPath(slug, ek): MachineInPath,
    Extension(caller): Extension<Caller>,
) -> Result<Done, ApiError> {
    let let_in = state
        .0
        .store
        .approve_ek(&slug, &ek, caller.actor(), unix_ms());
    match let_in.await {
        Ok(_) => Ok(Done),
        Err(StoreError::Missing(_)) => Err(UNKNOWN_GROUP),
        Err(error) => Err(error.into()),
    }
}

/// Takes an approval back. An agent that enrolled by it stays enrolled.
#[utoipa::path(
    delete, path = "/groups/{group_id}/ek/{ek_sha256}", tag = "groups",
    params(("group_id" = String, Path), ("ek_sha256" = String, Path)),
    responses((status = 204, description = "It may not enrol.")),
)]
pub(super) async fn keep_out(
    state: State,
    MachineInPath(slug, ek): MachineInPath,
    Extension(caller): Extension<Caller>,
) -> Result<Done, ApiError> {
    let withdrawn = state
        .0
        .store
        .withdraw_ek(&slug, &ek, caller.actor(), unix_ms());
    match withdrawn.await {
        Ok(true) => Ok(Done),
        Ok(false) => Err(ApiError::NotFound("approval")),
        Err(StoreError::Missing(_)) => Err(UNKNOWN_GROUP),
        Err(error) => Err(error.into()),
    }
}
