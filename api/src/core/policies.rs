//! R6 and R7: versions of policies, and which of them is enforced.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::http::Uri;
use rat_engine::ima::judge::Judge;
use rat_engine::policy::{self, Lint, RuntimePolicy};
use rat_store::{
    NewPolicy, PolicyStanding, Precondition, RolledBack, Slot, StoreError, StoredPolicy,
};
use serde_json::value::RawValue;

use super::coverage::coverage;
use super::groups::{name_of, slug_of, tell_shards};
use super::request::{
    Answered, GroupInPath, Parameters, PolicyId, PolicyInPath, Reply, last_of_full, next_page,
    policy_id, wrong,
};
use super::wire::policy as wire;
use super::wire::request as asked;
use super::{Core, State, comparison, compute};
use crate::auth::Caller;
use crate::clock::{rfc3339, unix_ms};
use crate::error::{ApiError, Conflict, MemberFault};
use crate::json::{Form, Object};
use crate::limits::LINTS_SHOWN_MAX;

const UNKNOWN: ApiError = ApiError::NotFound("policy");
const UNKNOWN_GROUP: ApiError = ApiError::NotFound("group");

/// Where versions that come by this API are said to come from.
const ORIGIN: &str = "api";

/// Lists versions of one group's policy, or of all groups', the newest first.
#[utoipa::path(
    get, path = "/policies/", tag = "policies",
    params(
        ("group" = Option<String>, Query, description = "Versions of this group."),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("after" = Option<String>, Query, description = "Versions that come after this one."),
    ),
    responses((status = 200, body = Vec<wire::Policy>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn list(
    state: State,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::Policy>> {
    parameters.only(&["group", "limit", "after"])?;
    let core = &state.0;
    let after = match parameters.text("after") {
        None => None,
        Some(id) => {
            let no_version = || wrong("after", "is no version of a policy".to_owned());
            let id = PolicyId::parse(id).ok_or_else(no_version)?;
            Some(stored(core, &id).await?.ok_or_else(no_version)?)
        }
    };
    let (group, limit) = (parameters.text("group"), parameters.limit()?);
    let found = core
        .store
        .newest_policies(group, after.as_ref(), limit)
        .await?;
    let last = last_of_full(&found, limit);
    let last = last.map(|last| policy_id(&last.group, last.version));
    let next = last.map(|last| next_page(uri.path(), &parameters, &last));
    Ok(Reply::ok(found.into_iter().map(shown).collect()).with_next(next))
}

/// Adds a version to a group's policy. Nothing is judged by it until it is activated.
#[utoipa::path(
    post, path = "/policies/", tag = "policies",
    request_body = asked::NewPolicy,
    responses((status = 201, body = wire::PolicyCreated)),
)]
pub(super) async fn add(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::PolicyCreated> {
    let form = Form {
        members: &["policy_group_id", "name"],
        document: Some("content"),
    };
    let request = Object::of_form(&body, &form)?;
    let group = slug_of(&request)?;
    let missing = |member| ApiError::member(member, MemberFault::Missing);
    let name = name_of(&request)?.ok_or_else(|| missing("name"))?;
    let content = request.optional_document("content").flatten();
    let content = content.ok_or_else(|| missing("content"))?;
    let core = &state.0;
    core.store.group(&group).await?.ok_or(UNKNOWN_GROUP)?;
    // The text byte for byte: its digest is its name in verdicts.
    let text = body.slice_ref(content.as_bytes());
    let read = text.clone();
    let lints = compute(move || doubts(&read)).await?;
    let new = NewPolicy {
        group: &group,
        text: &text,
        name: &name,
        origin: ORIGIN,
        actor: caller.actor(),
        now_unix_ms: unix_ms(),
    };
    let version = match core.store.put_policy(new).await {
        Ok(version) => version.version,
        Err(StoreError::Missing(_)) => return Err(UNKNOWN_GROUP),
        Err(error) => return Err(error.into()),
    };
    let created = core.store.policy(&group, version).await?.ok_or(UNKNOWN)?;
    let findings = lints.iter().take(LINTS_SHOWN_MAX);
    Ok(Reply::created(wire::PolicyCreated {
        policy: shown(created),
        warnings: findings.map(finding).collect(),
        warning_count: lints.len(),
    }))
}

/// What is doubtful about a policy that can be used.
fn doubts(text: &[u8]) -> Result<Vec<Lint>, ApiError> {
    let malformed = |detail| ApiError::Refused {
        code: "policy.malformed",
        detail,
    };
    let parsed = RuntimePolicy::parse(text).map_err(|error| malformed(error.to_string()))?;
    let parsed = Arc::new(parsed);
    Judge::new(Arc::clone(&parsed)).map_err(|error| malformed(error.to_string()))?;
    Ok(policy::lint(&parsed))
}

fn finding(lint: &Lint) -> wire::LintFinding {
    wire::LintFinding {
        id: lint.id(),
        severity: match lint.severity() {
            policy::Severity::Danger => wire::Severity::Danger,
            policy::Severity::Warning => wire::Severity::Warning,
            policy::Severity::Note => wire::Severity::Note,
        },
        text: lint.to_string(),
    }
}

/// Shows a version with its text.
#[utoipa::path(
    get, path = "/policies/{policy_id}", tag = "policies",
    params(("policy_id" = String, Path)),
    responses((status = 200, body = wire::PolicyWithContent)),
)]
pub(super) async fn show(
    state: State,
    PolicyInPath(id): PolicyInPath,
) -> Answered<wire::PolicyWithContent> {
    let core = &state.0;
    let policy = stored(core, &id).await?.ok_or(UNKNOWN)?;
    with_content(core, policy).await.map(Reply::ok)
}

/// Shows what a group enforces; 404 until it enforces anything.
#[utoipa::path(
    get, path = "/policies/groups/{group_id}/active-policy", tag = "policies",
    params(("group_id" = String, Path)),
    responses((status = 200, body = wire::PolicyWithContent)),
)]
pub(super) async fn active(
    state: State,
    GroupInPath(slug): GroupInPath,
) -> Answered<wire::PolicyWithContent> {
    let core = &state.0;
    let group = core.store.group(&slug).await?.ok_or(UNKNOWN_GROUP)?;
    let enforced = group.enforced.ok_or(ApiError::NotFound("active policy"))?;
    let policy = core.store.policy(&slug, enforced.version).await?;
    with_content(core, policy.ok_or(UNKNOWN)?)
        .await
        .map(Reply::ok)
}

/// Puts a version into a slot of its group. Agents are trusted again when they were judged in
/// full under it.
#[utoipa::path(
    post, path = "/policies/{policy_id}/activate", tag = "policies",
    params(("policy_id" = String, Path)),
    request_body = asked::ActivatePolicy,
    responses((status = 200, body = wire::Activated)),
)]
pub(super) async fn activate(
    state: State,
    PolicyInPath(id): PolicyInPath,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::Activated> {
    let form = Form {
        members: &["slot"],
        document: None,
    };
    let request = Object::of_form(&body, &form)?;
    let (slot, shown) = match request.optional_text("slot", 16)? {
        None | Some("enforced") => (Slot::Enforced, wire::Slot::Enforced),
        Some("shadow") => (Slot::Shadow, wire::Slot::Shadow),
        Some(_) => {
            let slots = "enforced or shadow";
            return Err(ApiError::member("slot", MemberFault::Encoding(slots)));
        }
    };
    let core = &state.0;
    let (group, version) = (&id.group, id.version);
    let (always, now) = (Precondition::Always, unix_ms());
    let activating = core
        .store
        .activate_policy(group, version, slot, always, caller.actor(), now);
    match activating.await {
        Ok(true) => {}
        Ok(false) | Err(StoreError::Missing(_)) => return Err(UNKNOWN),
        Err(error) => return Err(error.into()),
    }
    activated(core, &id, shown).await.map(Reply::ok)
}

/// Enforces the version that the group enforced before the present one.
#[utoipa::path(
    post, path = "/policies/groups/{group_id}/rollback", tag = "policies",
    params(("group_id" = String, Path)),
    responses((status = 200, body = wire::Activated)),
)]
pub(super) async fn roll_back(
    state: State,
    GroupInPath(group): GroupInPath,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::Activated> {
    let form = Form {
        members: &[],
        document: None,
    };
    Object::of_form(&body, &form)?;
    let core = &state.0;
    let rolled_back = core
        .store
        .roll_back_policy(&group, caller.actor(), unix_ms());
    let version = match rolled_back.await {
        Ok(RolledBack::To(version)) => version,
        Ok(RolledBack::NothingBefore) => {
            return Err(ApiError::Conflict(Conflict::NothingBefore));
        }
        Err(StoreError::Missing(_)) => return Err(UNKNOWN_GROUP),
        Err(error) => return Err(error.into()),
    };
    let id = PolicyId { group, version };
    activated(core, &id, wire::Slot::Enforced)
        .await
        .map(Reply::ok)
}

async fn activated(
    core: &Core,
    id: &PolicyId,
    slot: wire::Slot,
) -> Result<wire::Activated, ApiError> {
    tell_shards(core, &id.group).await;
    let group = core.store.group(&id.group).await?.ok_or(UNKNOWN_GROUP)?;
    Ok(wire::Activated {
        policy_id: id.text(),
        policy_group_id: id.group.clone(),
        version: id.version.to_string(),
        slot,
        coverage: coverage(core, &group).await,
    })
}

/// Shows what a version has that another has not, and the other way round.
#[utoipa::path(
    get, path = "/policies/{policy_id}/diff", tag = "policies",
    params(
        ("policy_id" = String, Path),
        ("against" = String, Query, description = "The version to compare with."),
    ),
    responses((status = 200, body = wire::PolicyDiff)),
)]
pub(super) async fn diff(
    state: State,
    PolicyInPath(id): PolicyInPath,
    parameters: Parameters,
) -> Answered<wire::PolicyDiff> {
    parameters.only(&["against"])?;
    let against = parameters.text("against").and_then(PolicyId::parse);
    let no_version = || wrong("against", "must be the id of a policy".to_owned());
    let against = against.ok_or_else(no_version)?;
    let core = &state.0;
    let to = stored(core, &id).await?.ok_or(UNKNOWN)?;
    let from = stored(core, &against).await?.ok_or(UNKNOWN)?;
    let (from_text, to_text) = (text_of(core, &from).await?, text_of(core, &to).await?);
    let (from, to) = (shown(from), shown(to));
    compute(move || comparison::compare((from, &from_text), (to, &to_text)))
        .await
        .map(Reply::ok)
}

async fn stored(core: &Core, id: &PolicyId) -> Result<Option<StoredPolicy>, ApiError> {
    Ok(core.store.policy(&id.group, id.version).await?)
}

async fn text_of(core: &Core, policy: &StoredPolicy) -> Result<Vec<u8>, ApiError> {
    let text = core.store.policy_text(&policy.digest).await?;
    text.ok_or(ApiError::Unavailable("the policy's text is missing"))
}

async fn with_content(
    core: &Core,
    policy: StoredPolicy,
) -> Result<wire::PolicyWithContent, ApiError> {
    let text = text_of(core, &policy).await?;
    let content = compute(move || {
        let text = String::from_utf8(text).ok();
        let content = text.and_then(|text| RawValue::from_string(text).ok());
        content.ok_or(ApiError::Unavailable("the policy's text cannot be read"))
    })
    .await?;
    Ok(wire::PolicyWithContent {
        policy: shown(policy),
        content,
    })
}

fn shown(policy: StoredPolicy) -> wire::Policy {
    wire::Policy {
        id: policy_id(&policy.group, policy.version),
        name: policy.name,
        version: policy.version.to_string(),
        status: match policy.standing {
            PolicyStanding::Enforced => wire::PolicyStatus::Active,
            PolicyStanding::Shadow => wire::PolicyStatus::Shadow,
            PolicyStanding::Superseded => wire::PolicyStatus::Superseded,
            PolicyStanding::Inactive => wire::PolicyStatus::Inactive,
        },
        policy_group_id: policy.group,
        // Known once policies come from a repository.
        source_repo: None,
        commit_sha: None,
        signed_by: None,
        rekor_log_id: None,
        created_at: rfc3339(policy.created_unix_ms),
        created_by: policy.created_by,
        origin: policy.origin,
        digest: hex::encode(policy.digest.as_bytes()),
    }
}
