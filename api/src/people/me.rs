//! T5, T6 and T7: one's own account.

use axum::Extension;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use rat_store::{PasswordChange, StoredUser, UserChange};

use super::session::of_session;
use super::users::{change_user, email_of};
use super::{People, State, answer, asked, done, form, not_taken, wire};
use crate::auth::Caller;
use crate::auth::account::check_password;
use crate::clock::unix_ms;
use crate::error::{ApiError, MemberFault};
use crate::json::Object;
use crate::limits::PASSWORD_CHARACTERS_MAX;

/// The user who calls, as it is now.
async fn myself(people: &People, caller: &Caller) -> Result<StoredUser, ApiError> {
    let (_, user) = of_session(caller)?;
    let user = people.store.user(user).await?;
    // Accounts are never removed, so that this is a session of somebody.
    user.ok_or(ApiError::NotAuthenticated)
}

/// Shows one's own account.
#[utoipa::path(
    get, path = "/api/v1/auth/me", tag = "accounts",
    responses((status = 200, body = wire::Me)),
)]
pub(super) async fn show(state: State, Extension(caller): Extension<Caller>) -> Response {
    let me = myself(&state.0, &caller).await;
    answer(StatusCode::OK, me.map(wire::Me::from))
}

/// Changes one's own address.
#[utoipa::path(
    put, path = "/api/v1/auth/me", tag = "accounts",
    request_body = asked::AccountChange,
    responses((status = 200, body = wire::Me)),
)]
pub(super) async fn change(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let changed = change_email(&state.0, &caller, &body).await;
    answer(StatusCode::OK, changed.map(wire::Me::from))
}

async fn change_email(
    people: &People,
    caller: &Caller,
    body: &[u8],
) -> Result<StoredUser, ApiError> {
    let (_, user) = of_session(caller)?;
    let form = form(&["email"]);
    let request = Object::of_whole_form(body, &form)?;
    request.refuse_null(form.members)?;
    let change = UserChange {
        email: email_of(&request)?,
        ..UserChange::default()
    };
    change_user(people, user, &change, caller).await
}

/// Changes one's own password, and ends every other session of the user.
#[utoipa::path(
    put, path = "/api/v1/auth/me/password", tag = "accounts",
    request_body = asked::PasswordChange,
    responses((status = 204)),
)]
pub(super) async fn change_password(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    done(replace(&state.0, &caller, &body).await)
}

/// # Security
/// Whoever found a session open must not be able to keep it: the present password is asked for, and
/// attempts at it are counted. (A03)
async fn replace(people: &People, caller: &Caller, body: &[u8]) -> Result<(), ApiError> {
    let (session, _) = of_session(caller)?;
    let form = form(&["current_password", "new_password"]);
    let request = Object::of_whole_form(body, &form)?;
    let current = request.text("current_password", PASSWORD_CHARACTERS_MAX)?;
    let new = request.text("new_password", PASSWORD_CHARACTERS_MAX)?;
    let me = myself(people, caller).await?;
    check_password(&me.username, new).map_err(not_taken("new_password"))?;
    if new == current {
        let same = MemberFault::Value("is the present one".to_owned());
        return Err(ApiError::member("new_password", same));
    }
    people.gate().count_password_check(&me.id)?;
    let wrong = || {
        let wrong = MemberFault::Value("is wrong".to_owned());
        ApiError::member("current_password", wrong)
    };
    let passwords = people.gate().passwords();
    if !passwords.verify(current, Some(&me.password)).await? {
        return Err(wrong());
    }
    let hash = passwords.hash(new).await?;
    let change = PasswordChange {
        hash: &hash,
        replacing: Some(&me.password),
        must_change: false,
        keep_session: Some(session),
    };
    let store = &people.store;
    let actor = caller.actor();
    if !store
        .set_password(&me.id, &change, actor, unix_ms())
        .await?
    {
        return Err(wrong());
    }
    people.forget_first_password(&me).await;
    Ok(())
}
