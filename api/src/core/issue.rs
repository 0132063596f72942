//! R8 and R9: enrolment tokens for operators to hand out, and what became of them.

use axum::Extension;
use axum::body::Bytes;
use axum::http::Uri;
use rat_store::{GroupSettings, StoreError, StoredToken, TokenKind};

use super::groups::{make, slug_of};
use super::request::{Answered, Done, Parameters, Reply, TokenInPath, last_of_full, next_page};
use super::tokens::Token;
use super::wire::enrolment as wire;
use super::wire::request as asked;
use super::{Core, State};
use crate::auth::Caller;
use crate::clock::{rfc3339, unix_ms};
use crate::error::{ApiError, Conflict};
use crate::json::{Form, Object};
use crate::limits::{TOKEN_TTL_HOURS_MAX, TOKEN_USES_MAX};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// How long a token lives unless the request says so, in hours.
const BASELINE_TTL_HOURS: u64 = 24;
const STANDARD_TTL_HOURS: u64 = 1;

/// Issues a token for one machine, whose measurement list becomes the group's policy. Makes the
/// group if there is none.
#[utoipa::path(
    post, path = "/tokens/generate-baseline", tag = "enrolment",
    request_body = asked::GenerateBaselineToken,
    responses((status = 200, body = wire::TokenIssue)),
)]
pub(super) async fn baseline(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::TokenIssue> {
    let form = Form {
        members: &["policy_group_id", "ttl_hours"],
        document: None,
    };
    let request = Object::of_form(&body, &form)?;
    let slug = slug_of(&request)?;
    let life_ms = life_ms(&request, BASELINE_TTL_HOURS)?;
    let core = &state.0;
    match core.store.group(&slug).await? {
        // It could not be used. (L08)
        Some(group) if group.enforced.is_some() => {
            return Err(ApiError::Conflict(Conflict::PolicyActive));
        }
        Some(_) => {}
        None => match make(core, &slug, GroupSettings::default(), &caller).await {
            // Somebody else was faster.
            Ok(()) | Err(ApiError::Conflict(Conflict::GroupExists)) => {}
            Err(error) => return Err(error),
        },
    }
    let kind = TokenKind::Baseline;
    issue(core, kind, &slug, Some(1), life_ms, &caller).await
}

/// Issues a token by which machines enrol into a group that is there.
#[utoipa::path(
    post, path = "/tokens/generate", tag = "enrolment",
    request_body = asked::GenerateToken,
    responses((status = 200, body = wire::TokenIssue)),
)]
pub(super) async fn standard(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::TokenIssue> {
    let form = Form {
        members: &["policy_group_id", "ttl_hours", "max_uses"],
        document: None,
    };
    let request = Object::of_form(&body, &form)?;
    let slug = slug_of(&request)?;
    let life_ms = life_ms(&request, STANDARD_TTL_HOURS)?;
    let most = u64::try_from(TOKEN_USES_MAX).unwrap_or(u64::MAX);
    let uses_max = request.optional_number("max_uses", 1..=most)?;
    let kind = TokenKind::Enrol;
    issue(&state.0, kind, &slug, uses_max, life_ms, &caller).await
}

fn life_ms(request: &Object<'_>, hours: u64) -> Result<u64, ApiError> {
    let most = u64::try_from(TOKEN_TTL_HOURS_MAX).unwrap_or(u64::MAX);
    let given = request.optional_number("ttl_hours", 1..=most)?;
    Ok(given.unwrap_or(hours).saturating_mul(HOUR_MS))
}

async fn issue(
    core: &Core,
    kind: TokenKind,
    group: &str,
    uses_max: Option<u64>,
    life_ms: u64,
    caller: &Caller,
) -> Answered<wire::TokenIssue> {
    let no_random = |_| ApiError::Unavailable("the operating system gives no random numbers");
    let token = Token::generate_now(kind, &core.ca.fingerprint()).map_err(no_random)?;
    let now = unix_ms();
    let expires = now.saturating_add(life_ms);
    let record = token.record(group, uses_max, expires, caller.actor(), now);
    match core.store.put_token(&record).await {
        Ok(()) => {}
        Err(StoreError::Missing(_)) => return Err(ApiError::NotFound("group")),
        Err(error) => return Err(error.into()),
    }
    let (text, url) = (token.as_str(), &core.addresses.core_url);
    Ok(Reply::ok(wire::TokenIssue {
        token: text.to_owned(),
        expires_at: rfc3339(expires),
        command: format!("rat enroll {text} --server {url}"),
    }))
}

/// Lists enrolment tokens by id, without their secrets.
#[utoipa::path(
    get, path = "/tokens/", tag = "enrolment",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("after" = Option<String>, Query, description = "Tokens after this id."),
    ),
    responses((status = 200, body = Vec<wire::Token>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn list(
    state: State,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::Token>> {
    parameters.only(&["limit", "after"])?;
    let (after, limit) = (parameters.text("after").unwrap_or(""), parameters.limit()?);
    let tokens = state.0.store.tokens(after, limit).await?;
    let last = last_of_full(&tokens, limit);
    let next = last.map(|last| next_page(uri.path(), &parameters, &last.token.id));
    let now = unix_ms();
    let shown = tokens.into_iter().map(|token| shown(token, now)).collect();
    Ok(Reply::ok(shown).with_next(next))
}

fn shown(stored: StoredToken, now_unix_ms: u64) -> wire::Token {
    let token = stored.token;
    let is_over = token.expires_unix_ms.is_some_and(|end| now_unix_ms >= end);
    let is_used = token.uses_max.is_some_and(|max| stored.uses >= max);
    wire::Token {
        kind: match token.kind {
            TokenKind::Enrol => wire::TokenKind::Standard,
            TokenKind::Baseline => wire::TokenKind::Baseline,
        },
        status: match (stored.revoked_unix_ms, is_used, is_over) {
            (Some(_), _, _) => wire::TokenStatus::Revoked,
            (None, true, _) => wire::TokenStatus::Consumed,
            (None, false, true) => wire::TokenStatus::Expired,
            (None, false, false) => wire::TokenStatus::Issued,
        },
        id: token.id,
        policy_group_id: token.group,
        uses: stored.uses,
        max_uses: token.uses_max,
        created_by: token.created_by,
        created_at: rfc3339(token.created_unix_ms),
        expires_at: token.expires_unix_ms.and_then(rfc3339),
        revoked_at: stored.revoked_unix_ms.and_then(rfc3339),
    }
}

/// Ends an enrolment token. Machines that enrolled with it stay.
#[utoipa::path(
    delete, path = "/tokens/{token_id}", tag = "enrolment",
    params(("token_id" = String, Path)),
    responses((status = 204, description = "It is revoked.")),
)]
pub(super) async fn revoke(
    state: State,
    TokenInPath(id): TokenInPath,
    Extension(caller): Extension<Caller>,
) -> Result<Done, ApiError> {
    let store = &state.0.store;
    let is_ended = store.revoke_token(&id, caller.actor(), unix_ms()).await?;
    // To end what was ended before is no mistake.
    if is_ended || store.token(&id).await?.is_some() {
        return Ok(Done);
    }
    Err(ApiError::NotFound("token"))
}
