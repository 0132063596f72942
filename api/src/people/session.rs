//! T2 and T3: logging in, and out.

use std::net::IpAddr;

use axum::Extension;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use rat_store::{NewSession, Standing, StoredUser};

use super::{NOTHING, People, State, answer, asked, done, no_random, wire};
use crate::auth::credential::{Credential, CredentialKind};
use crate::auth::{Caller, CallerCredential, Peer};
use crate::clock::{rfc3339, unix_ms};
use crate::error::ApiError;
use crate::json::Object;
use crate::limits::{PASSWORD_CHARACTERS_MAX, USERNAME_CHARACTERS_MAX};
use crate::metrics;

/// How long a session lives, whatever is done in it.
const SESSION_MS: u64 = 24 * 60 * 60 * 1000;

/// Opens a new session, whoever holds one already.
#[utoipa::path(
    post, path = "/api/v1/auth/login", tag = "accounts",
    request_body = asked::LogIn,
    responses((status = 200, body = wire::LoggedIn)),
)]
pub(super) async fn log_in(
    state: State,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    answer(
        StatusCode::OK,
        open(&state.0, peer.address.ip(), &body).await,
    )
}

/// What else the body holds is passed over: people's clients of all versions log in here, and nothing
/// that they could add would change what a login is.
///
/// # Security
/// Whether the name is unknown, the password wrong or the user disabled cannot be told from the
/// answer nor from its time: each reads the same row and verifies one hash. (A03, X08)
async fn open(people: &People, address: IpAddr, body: &[u8]) -> Result<wire::LoggedIn, ApiError> {
    let request = Object::parse(body)?;
    let username = request.text("username", USERNAME_CHARACTERS_MAX)?;
    let password = request.text("password", PASSWORD_CHARACTERS_MAX)?;
    people.gate().count_login(address, username)?;
    let user = people.store.user_named(username).await?;
    let hash = user.as_ref().map(|user| &user.password);
    let is_right = people.gate().passwords().verify(password, hash).await?;
    let admitted = user.filter(|user| is_right && user.standing != Standing::Disabled);
    let opened = match admitted {
        Some(user) => begin(people, user).await?,
        None => None,
    };
    let result = if opened.is_some() { "done" } else { "refused" };
    metrics::counter_of(metrics::LOGINS, "result", result);
    opened.ok_or(ApiError::WrongPassword)
}

/// A session of this user; `None` when the password was changed, or the user disabled, while it was
/// verified.
async fn begin(people: &People, user: StoredUser) -> Result<Option<wire::LoggedIn>, ApiError> {
    let credential = Credential::generate(CredentialKind::Session).map_err(no_random)?;
    let now = unix_ms();
    let session = NewSession {
        id: credential.id().to_owned(),
        sha256: credential.sha256(),
        user: user.id.clone(),
        created_unix_ms: now,
        expires_unix_ms: now.saturating_add(SESSION_MS),
    };
    if !people.store.open_session(&session, &user.password).await? {
        return Ok(None);
    }
    let user = StoredUser {
        last_login_unix_ms: Some(now),
        ..user
    };
    Ok(Some(wire::LoggedIn {
        token: credential.as_str().to_owned(),
        user: user.into(),
        expires_at: rfc3339(session.expires_unix_ms),
    }))
}

/// Ends the session that asks.
#[utoipa::path(
    post, path = "/api/v1/auth/logout", tag = "accounts",
    responses((status = 204)),
)]
pub(super) async fn log_out(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    done(end(&state.0, &caller, &body).await)
}

async fn end(people: &People, caller: &Caller, body: &[u8]) -> Result<(), ApiError> {
    let (session, _) = of_session(caller)?;
    Object::of_form(body, &NOTHING)?;
    let store = &people.store;
    store
        .end_session(session, caller.actor(), unix_ms())
        .await?;
    Ok(())
}

/// The ids of a caller's session and user.
///
/// # Errors
/// [`ApiError::NeedsLogin`] for a program.
pub(super) const fn of_session(caller: &Caller) -> Result<(&str, &str), ApiError> {
    match caller.credential() {
        CallerCredential::Session { id, user } => Ok((id.as_str(), user.as_str())),
        CallerCredential::ApiToken { .. } => Err(ApiError::NeedsLogin),
    }
}
