//! API tokens: one's own with a login, those of others with `tokens:view` and `tokens:manage`.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::Response;
use rat_store::{NewApiToken, StoreError, StoredApiToken, StoredUser};

use super::session::of_session;
use super::{
    NOTHING, PathText, People, State, answer, asked, done, form, named, no_random, not_taken, wire,
};
use crate::auth::Caller;
use crate::auth::account::check_roles;
use crate::auth::credential::{Credential, CredentialKind};
use crate::clock::unix_ms;
use crate::error::{ApiError, Conflict, MemberFault};
use crate::json::Object;
use crate::limits::{
    API_TOKEN_NAME_CHARACTERS_MAX, API_TOKEN_TTL_HOURS_MAX, USERNAME_CHARACTERS_MAX,
};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// Lists one's own API tokens; everybody's with `owner=all`, for whoever may see them.
#[utoipa::path(
    get, path = "/api/v1/auth/tokens", tag = "accounts",
    params(("owner" = Option<String>, Query, description = "`all`, or left out.")),
    responses((status = 200, body = wire::Tokens)),
)]
pub(super) async fn list(
    state: State,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Response {
    let tokens = listed(&state.0, &caller, query.as_deref()).await;
    let shown = tokens.map(|tokens| wire::Tokens {
        tokens: tokens.into_iter().map(wire::ShownToken::from).collect(),
    });
    answer(StatusCode::OK, shown)
}

async fn listed(
    people: &People,
    caller: &Caller,
    query: Option<&str>,
) -> Result<Vec<StoredApiToken>, ApiError> {
    let (_, user) = of_session(caller)?;
    let owner = match query {
        None | Some("") => Some(user),
        Some("owner=all") if caller.may("tokens:view") => None,
        Some("owner=all") => return Err(ApiError::NotPermitted("tokens:view")),
        Some(_) => {
            let other = MemberFault::Value("can be `all`, or left out".to_owned());
            return Err(ApiError::member("owner", other));
        }
    };
    let mut tokens: Vec<StoredApiToken> = Vec::new();
    loop {
        let after = tokens.last().map_or("", |last| last.token.id.as_str());
        let most = rat_store::limits::PAGE_MAX;
        let page = people.store.api_tokens(owner, after, most).await?;
        if page.is_empty() {
            return Ok(tokens);
        }
        tokens.extend(page);
    }
}

/// Makes an API token of one's own, that may do no more than oneself.
#[utoipa::path(
    post, path = "/api/v1/auth/tokens", tag = "accounts",
    request_body = asked::NewApiToken,
    responses((status = 201, body = wire::MadeToken)),
)]
pub(super) async fn create(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    answer(StatusCode::CREATED, make(&state.0, &caller, &body).await)
}

async fn make(people: &People, caller: &Caller, body: &[u8]) -> Result<wire::MadeToken, ApiError> {
    let (_, user) = of_session(caller)?;
    let form = form(&["name", "role", "ttl_hours"]);
    let request = Object::of_whole_form(body, &form)?;
    request.refuse_null(&["ttl_hours"])?;
    let name = request.text("name", API_TOKEN_NAME_CHARACTERS_MAX)?;
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        let plain = MemberFault::Value("must be readable".to_owned());
        return Err(ApiError::member("name", plain));
    }
    let role = request.text("role", USERNAME_CHARACTERS_MAX)?;
    let roles = check_roles([role]).map_err(not_taken("role"))?;
    if !roles.iter().all(|role| caller.granted().covers(role)) {
        return Err(ApiError::BeyondCaller);
    }
    let hours = ttl_hours(&request)?;
    let credential = Credential::generate(CredentialKind::ApiToken).map_err(no_random)?;
    let now = unix_ms();
    let token = NewApiToken {
        id: credential.id().to_owned(),
        sha256: credential.sha256(),
        name: name.to_owned(),
        owner: Some(user.to_owned()),
        role: role.to_owned(),
        created_by: caller.actor().to_owned(),
        created_unix_ms: now,
        expires_unix_ms: now.saturating_add(hours.saturating_mul(HOUR_MS)),
    };
    match people.store.put_api_token(&token).await {
        Ok(()) => {}
        Err(StoreError::TooLarge { .. }) => return Err(ApiError::Conflict(Conflict::Full)),
        Err(error) => return Err(error.into()),
    }
    let stored = people.store.api_token(credential.id()).await?;
    let stored = stored.ok_or(ApiError::NotFound("token"))?;
    Ok(wire::MadeToken {
        token: credential.as_str().to_owned(),
        shown: stored.into(),
    })
}

fn ttl_hours(request: &Object<'_>) -> Result<u64, ApiError> {
    let most = u64::try_from(API_TOKEN_TTL_HOURS_MAX).unwrap_or(u64::MAX);
    let hours = request.optional_number("ttl_hours", 1..=most)?;
    Ok(hours.unwrap_or(most))
}

/// Ends an API token. Somebody else's is not there for whoever may not manage it.
#[utoipa::path(
    delete, path = "/api/v1/auth/tokens/{token_id}", tag = "accounts",
    params(("token_id" = String, Path)),
    responses((status = 204)),
)]
pub(super) async fn revoke(
    state: State,
    Extension(caller): Extension<Caller>,
    id: PathText,
    body: Bytes,
) -> Response {
    done(end(&state.0, &caller, &named(id), &body).await)
}

async fn end(people: &People, caller: &Caller, id: &str, body: &[u8]) -> Result<(), ApiError> {
    let (_, user) = of_session(caller)?;
    Object::of_form(body, &NOTHING)?;
    let is_mine = |owner: &StoredUser| owner.id == user;
    let stored = people.store.api_token(id).await?;
    let mine_or_managed = |stored: &StoredApiToken| {
        stored.owner.as_ref().is_some_and(is_mine) || caller.may("tokens:manage")
    };
    if !stored.as_ref().is_some_and(mine_or_managed) {
        return Err(ApiError::NotFound("token"));
    }
    // What was revoked before stays so.
    people
        .store
        .revoke_api_token(id, caller.actor(), unix_ms())
        .await?;
    Ok(())
}
