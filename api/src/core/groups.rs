//! Policy groups: made, shown and changed.

use axum::Extension;
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri, header};
use rat_engine::evidence::NonceSource;
use rat_engine::hash::HashAlg;
use rat_engine::pcr_policy::PcrPolicy;
use rat_store::limits::{INTERVAL_MS_MAX, INTERVAL_MS_MIN};
use rat_store::{Approval, GroupFault, GroupSettings, NewGroup, StoreError, StoredGroup};
use serde_json::value::RawValue;

use super::coverage::coverage;
use super::request::{
    Answered, GroupInPath, Parameters, Reply, etag, last_of_full, next_page, policy_id,
};
use super::wire::group as wire;
use super::wire::request as asked;
use super::{Core, State, SystemRandom};
use crate::auth::Caller;
use crate::clock::{rfc3339, unix_ms};
use crate::error::{ApiError, Conflict, MemberFault};
use crate::json::{Form, Object};
use crate::limits::{GROUP_CHARACTERS_MAX, POLICY_NAME_CHARACTERS_MAX};

const NEW: Form = Form {
    members: &[
        "policy_group_id",
        "interval_ms",
        "name",
        "protected",
        "bypass",
        "block",
        "bank",
        "require_boot_log",
        "accept_violations",
        "auto_recover",
        "allow_sha1",
        "require_valid_ima_sig",
        "approval",
    ],
    document: Some("pcr_policy"),
};

const CHANGE: Form = Form {
    members: match NEW.members {
        [_, settings @ ..] => settings,
        [] => &[],
    },
    document: NEW.document,
};

/// Settings that are there always, so that null would say nothing.
const NEVER_NULL: &[&str] = match CHANGE.members {
    [_interval_ms, settings @ ..] => settings,
    [] => &[],
};

const UNKNOWN: ApiError = ApiError::NotFound("group");

/// Whether a group may be called this: it stands in addresses, file names and ids of policies.
pub fn is_slug(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=GROUP_CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// A group that is to be made. Its name in the rulesets API is drawn now, and stays.
///
/// # Errors
/// `None` when the operating system gives no random numbers.
pub fn new_group(slug: &str, settings: GroupSettings) -> Option<NewGroup> {
    let mut hex_id = [0; 16];
    SystemRandom.fill(&mut hex_id)?;
    Some(NewGroup {
        slug: slug.to_owned(),
        hex_id: hex::encode(hex_id),
        settings,
    })
}

/// The group that a request's body names.
pub(super) fn slug_of(request: &Object<'_>) -> Result<String, ApiError> {
    let slug = request.text("policy_group_id", GROUP_CHARACTERS_MAX)?;
    if is_slug(slug) {
        return Ok(slug.to_owned());
    }
    let form = "1 to 63 of a-z, 0-9, `-` and `_`";
    Err(ApiError::member(
        "policy_group_id",
        MemberFault::Encoding(form),
    ))
}

/// Makes a group with a random name in the rulesets API.
pub(super) async fn make(
    core: &Core,
    slug: &str,
    settings: GroupSettings,
    caller: &Caller,
) -> Result<(), ApiError> {
    let settings = GroupSettings {
        name: if settings.name.is_empty() {
            slug.to_owned()
        } else {
            settings.name
        },
        ..settings
    };
    let no_random = ApiError::Unavailable("the operating system gives no random numbers");
    let group = new_group(slug, settings).ok_or(no_random)?;
    match core
        .store
        .create_group(&group, caller.actor(), unix_ms())
        .await
    {
        Ok(()) => {}
        Err(StoreError::Exists(_)) => return Err(ApiError::Conflict(Conflict::GroupExists)),
        Err(error) => return Err(error.into()),
    }
    tell_shards(core, slug).await;
    Ok(())
}

/// The shards learn at once what a group demands. Where they do not answer, whoever follows the
/// store tells them.
pub(super) async fn tell_shards(core: &Core, slug: &str) {
    if let Err(error) = core.fleet.group_changed(slug.to_owned()).await {
        tracing::warn!(group = slug, %error, "the shards learn of a group's change later");
    }
}

/// Lists groups, by name.
#[utoipa::path(
    get, path = "/groups/", tag = "groups",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("after" = Option<String>, Query, description = "Groups after this one."),
    ),
    responses((status = 200, body = Vec<wire::Group>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn list(
    state: State,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::Group>> {
    parameters.only(&["limit", "after"])?;
    let (after, limit) = (parameters.text("after").unwrap_or(""), parameters.limit()?);
    let groups = state.0.store.groups_after(after, limit).await?;
    let last = last_of_full(&groups, limit);
    let next = last.map(|last| next_page(uri.path(), &parameters, &last.slug));
    let shown: Result<_, _> = groups.iter().map(shown).collect();
    shown.map(|shown| Reply::ok(shown).with_next(next))
}

/// Makes a group, without a policy.
#[utoipa::path(
    post, path = "/groups/", tag = "groups",
    request_body = asked::NewGroup,
    responses((status = 201, body = wire::GroupDetail)),
)]
pub(super) async fn create(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::GroupDetail> {
    let request = Object::of_form(&body, &NEW)?;
    let slug = slug_of(&request)?;
    let mut settings = GroupSettings::default();
    let core = &state.0;
    merge(&mut settings, &request, core.interval_ms_min)?;
    make(core, &slug, settings, &caller).await?;
    let group = core.store.group(&slug).await?.ok_or(UNKNOWN)?;
    let (version, detail) = (group.row_version, detail(core, &group).await?);
    Ok(Reply::created(detail).of_version(version))
}

/// Shows a group.
#[utoipa::path(
    get, path = "/groups/{group_id}", tag = "groups",
    params(("group_id" = String, Path)),
    responses((status = 200, body = wire::GroupDetail, headers(("etag" = String, description = "The version of its settings and slots; `coverage` is no part of it.")))),
)]
pub(super) async fn show(
    state: State,
    GroupInPath(slug): GroupInPath,
) -> Answered<wire::GroupDetail> {
    let core = &state.0;
    let group = core.store.group(&slug).await?.ok_or(UNKNOWN)?;
    let (version, detail) = (group.row_version, detail(core, &group).await?);
    Ok(Reply::ok(detail).of_version(version))
}

/// Changes the settings that are given.
///
/// With `If-Match`, only if the group is still as its `ETag` said.
#[utoipa::path(
    put, path = "/groups/{group_id}", tag = "groups",
    params(
        ("group_id" = String, Path),
        ("if-match" = Option<String>, Header, description = "An `ETag` of this group, or `*`."),
    ),
    request_body = asked::GroupChange,
    responses((status = 200, body = wire::GroupDetail, headers(("etag" = String, description = "The version of its settings and slots; `coverage` is no part of it.")))),
)]
pub(super) async fn change(
    state: State,
    GroupInPath(slug): GroupInPath,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<wire::GroupDetail> {
    let request = Object::of_whole_form(&body, &CHANGE)?;
    let core = &state.0;
    // What the members are merged into must be what is written over: read again, when somebody
    // else was faster.
    for _ in 0..CHANGE_TRIES {
        let group = core.store.group(&slug).await?.ok_or(UNKNOWN)?;
        require_version(&headers, group.row_version)?;
        let mut settings = group.settings.clone();
        merge(&mut settings, &request, core.interval_ms_min)?;
        if settings == group.settings {
            let (version, detail) = (group.row_version, detail(core, &group).await?);
            return Ok(Reply::ok(detail).of_version(version));
        }
        let (version, actor, now) = (group.row_version, caller.actor(), unix_ms());
        let changed = core
            .store
            .update_group_at(&slug, version, &settings, actor, now)
            .await?;
        if changed {
            tell_shards(core, &slug).await;
            let group = core.store.group(&slug).await?.ok_or(UNKNOWN)?;
            let (version, detail) = (group.row_version, detail(core, &group).await?);
            return Ok(Reply::ok(detail).of_version(version));
        }
    }
    Err(ApiError::Unavailable(
        "others change this group all the time",
    ))
}

/// How often a change is made anew because another one came first.
const CHANGE_TRIES: u32 = 8;

/// RFC 9110, 13.1.1: one of the entity tags must be the group's, compared strongly.
fn require_version(headers: &HeaderMap, row_version: u64) -> Result<(), ApiError> {
    let mut conditions = headers.get_all(header::IF_MATCH).iter().peekable();
    if conditions.peek().is_none() {
        return Ok(());
    }
    let own = etag(row_version);
    let holds = conditions
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == own || tag.trim() == "*");
    if holds {
        Ok(())
    } else {
        Err(ApiError::Changed)
    }
}

/// Puts the members that are there over the settings.
fn merge(
    settings: &mut GroupSettings,
    request: &Object<'_>,
    interval_ms_min: u64,
) -> Result<(), ApiError> {
    request.refuse_null(NEVER_NULL)?;
    if let Some(name) = name_of(request)? {
        settings.name = name;
    }
    for (member, value) in [
        ("protected", &mut settings.protected),
        ("bypass", &mut settings.bypass),
        ("block", &mut settings.block),
        ("require_boot_log", &mut settings.require_boot_log),
        ("accept_violations", &mut settings.accept_violations),
        ("auto_recover", &mut settings.auto_recover),
        ("allow_sha1", &mut settings.allow_sha1),
        ("require_valid_ima_sig", &mut settings.require_valid_ima_sig),
    ] {
        *value = request.optional_flag(member)?.unwrap_or(*value);
    }
    if let Some(bank) = request.optional_text("bank", 16)? {
        settings.bank = match HashAlg::from_name(bank.as_bytes()) {
            Some(bank) => bank,
            None => {
                let banks = "sha1, sha256, sha384 or sha512";
                return Err(ApiError::member("bank", MemberFault::Encoding(banks)));
            }
        };
    }
    let range = interval_ms_min.max(INTERVAL_MS_MIN)..=INTERVAL_MS_MAX;
    if let Some(interval_ms) = request.nullable_number("interval_ms", range)? {
        settings.interval_ms = interval_ms;
    }
    if let Some(approval) = request.optional_text("approval", 16)? {
        let known = [Approval::Auto, Approval::List, Approval::Manual];
        let found = known.into_iter().find(|known| known.as_str() == approval);
        settings.approval = found.ok_or_else(|| {
            let approvals = "auto, list or manual";
            ApiError::member("approval", MemberFault::Encoding(approvals))
        })?;
    }
    if let Some(policy) = request.optional_document("pcr_policy") {
        if let Some(text) = policy {
            PcrPolicy::parse(text.as_bytes()).map_err(|error| {
                ApiError::member("pcr_policy", MemberFault::Value(error.to_string()))
            })?;
        }
        settings.pcr_policy = policy.map(str::to_owned);
    }
    match settings.fit_together() {
        Ok(()) => Ok(()),
        Err(GroupFault::Sha1Bank) => Err(ApiError::member("bank", MemberFault::NeedsAllowSha1)),
        Err(error) => Err(ApiError::from(StoreError::from(error))),
    }
}

/// What people call something: a line without control characters. (X07)
pub(super) fn name_of(request: &Object<'_>) -> Result<Option<String>, ApiError> {
    let Some(name) = request.optional_text("name", POLICY_NAME_CHARACTERS_MAX)? else {
        return Ok(None);
    };
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        let fault = MemberFault::Encoding("a line of text without control characters");
        return Err(ApiError::member("name", fault));
    }
    Ok(Some(name.to_owned()))
}

async fn detail(core: &Core, group: &StoredGroup) -> Result<wire::GroupDetail, ApiError> {
    Ok(wire::GroupDetail {
        group: shown(group)?,
        coverage: coverage(core, group).await,
    })
}

fn shown(group: &StoredGroup) -> Result<wire::Group, ApiError> {
    let settings = &group.settings;
    let pcr_policy = settings.pcr_policy.clone().map(RawValue::from_string);
    let unreadable = |_| ApiError::Unavailable("the PCR policy cannot be read");
    let id = |version: rat_store::VersionRef| policy_id(&group.slug, version.version);
    Ok(wire::Group {
        policy_group_id: group.slug.clone(),
        hex_id: group.hex_id.clone(),
        name: settings.name.clone(),
        protected: settings.protected,
        bypass: settings.bypass,
        block: settings.block,
        bank: settings.bank.name(),
        require_boot_log: settings.require_boot_log,
        accept_violations: settings.accept_violations,
        auto_recover: settings.auto_recover,
        interval_ms: settings.interval_ms,
        allow_sha1: settings.allow_sha1,
        require_valid_ima_sig: settings.require_valid_ima_sig,
        approval: match settings.approval {
            Approval::Auto => wire::Approval::Auto,
            Approval::List => wire::Approval::List,
            Approval::Manual => wire::Approval::Manual,
        },
        pcr_policy: pcr_policy.transpose().map_err(unreadable)?,
        enforced_policy_id: group.enforced.map(id),
        shadow_policy_id: group.shadow.map(id),
        created_at: rfc3339(group.created_unix_ms),
        row_version: group.row_version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append(header::IF_MATCH, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_change_is_made_only_to_the_version_that_it_was_made_for() {
        assert_eq!(require_version(&HeaderMap::new(), 7), Ok(()));
        for right in ["\"7\"", "*", "\"6\", \"7\"", " \"7\" "] {
            assert_eq!(require_version(&with(right), 7), Ok(()), "{right}");
        }
        for wrong in ["\"6\"", "7", "W/\"7\"", "", "\"\""] {
            let refused = require_version(&with(wrong), 7);
            assert_eq!(refused, Err(ApiError::Changed), "{wrong}");
        }
    }

    #[test]
    fn a_slug_is_safe_in_addresses_and_files() {
        assert!(is_slug("prod-fleet_2") && is_slug(&"a".repeat(63)));
        for other in ["", "..", "a/b", "A", "a b", "a\n", "é", &"a".repeat(64)] {
            assert!(!is_slug(other), "{other:?}");
        }
    }
}
