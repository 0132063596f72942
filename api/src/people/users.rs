//! T24-T30: the accounts of others, and roles.

use axum::Extension;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use rat_store::{PasswordChange, StoreError, StoredUser, UserChange, UserRefusal};

use super::{
    NOTHING, PathText, People, State, answer, asked, done, form, named, no_random, not_taken, wire,
};
use crate::auth::Caller;
use crate::auth::account::{self, check_email, check_password, check_roles, check_username};
use crate::auth::roles::{self, Role};
use crate::clock::unix_ms;
use crate::error::{ApiError, Conflict, MemberFault};
use crate::json::Object;
use crate::limits::{
    EMAIL_CHARACTERS_MAX, PASSWORD_CHARACTERS_MAX, ROLES_MAX, USERNAME_CHARACTERS_MAX,
};

/// Lists everybody who has an account.
#[utoipa::path(
    get, path = "/api/v1/users", tag = "accounts",
    responses((status = 200, body = wire::Users)),
)]
pub(super) async fn list(state: State) -> Response {
    let users = state.0.store.users().await.map_err(ApiError::from);
    let shown = users.map(|users| wire::Users {
        users: users.into_iter().map(wire::User::from).collect(),
    });
    answer(StatusCode::OK, shown)
}

/// Shows one account.
#[utoipa::path(
    get, path = "/api/v1/users/{user_id}", tag = "accounts",
    params(("user_id" = String, Path)),
    responses((status = 200, body = wire::User)),
)]
pub(super) async fn show(state: State, id: PathText) -> Response {
    let user = existing(&state.0, &named(id)).await;
    answer(StatusCode::OK, user.map(wire::User::from))
}

async fn existing(people: &People, id: &str) -> Result<StoredUser, ApiError> {
    let user = people.store.user(id).await?;
    user.ok_or(ApiError::NotFound("user"))
}

/// Makes an account.
#[utoipa::path(
    post, path = "/api/v1/users", tag = "accounts",
    request_body = asked::NewUser,
    responses((status = 201, body = wire::User)),
)]
pub(super) async fn create(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let made = make(&state.0, &caller, &body).await;
    answer(StatusCode::CREATED, made.map(wire::User::from))
}

async fn make(people: &People, caller: &Caller, body: &[u8]) -> Result<StoredUser, ApiError> {
    let form = form(&[
        "username",
        "password",
        "email",
        "roles",
        "must_change_password",
    ]);
    let request = Object::of_whole_form(body, &form)?;
    request.refuse_null(&["email", "must_change_password"])?;
    let username = request.text("username", USERNAME_CHARACTERS_MAX)?;
    check_username(username).map_err(not_taken("username"))?;
    let password = request.text("password", PASSWORD_CHARACTERS_MAX)?;
    check_password(username, password).map_err(not_taken("password"))?;
    let email = email_of(&request)?.unwrap_or_default();
    let missing = || ApiError::member("roles", MemberFault::Missing);
    let roles = roles_of(&request, caller)?.ok_or_else(missing)?;
    let must_change = request.optional_flag("must_change_password")?;
    let hash = people.gate().passwords().hash(password).await?;
    let mut user =
        account::new_user(username, &email, &roles, hash, unix_ms()).map_err(no_random)?;
    user.must_change = must_change.unwrap_or(false);
    match people.store.put_user(&user, caller.actor()).await {
        Ok(()) => existing(people, &user.id).await,
        Err(StoreError::Exists(_)) => Err(ApiError::Conflict(Conflict::UsernameTaken)),
        Err(StoreError::TooLarge { .. }) => Err(ApiError::Conflict(Conflict::Full)),
        Err(error) => Err(error.into()),
    }
}

/// The address that a request names.
pub(super) fn email_of(request: &Object<'_>) -> Result<Option<String>, ApiError> {
    let Some(email) = request.optional_text("email", EMAIL_CHARACTERS_MAX)? else {
        return Ok(None);
    };
    check_email(email).map_err(not_taken("email"))?;
    Ok(Some(email.to_owned()))
}

/// The roles that a request names, none of which may do more than who gives them.
fn roles_of(request: &Object<'_>, caller: &Caller) -> Result<Option<Vec<&'static Role>>, ApiError> {
    let Some(ids) = request.optional_texts("roles", ROLES_MAX)? else {
        return Ok(None);
    };
    let roles = check_roles(ids.iter().map(AsRef::as_ref)).map_err(not_taken("roles"))?;
    if roles.iter().all(|role| caller.granted().covers(role)) {
        return Ok(Some(roles));
    }
    Err(ApiError::BeyondCaller)
}

/// Changes an account.
#[utoipa::path(
    put, path = "/api/v1/users/{user_id}", tag = "accounts",
    params(("user_id" = String, Path)),
    request_body = asked::UserChange,
    responses((status = 200, body = wire::User)),
)]
pub(super) async fn change(
    state: State,
    Extension(caller): Extension<Caller>,
    id: PathText,
    body: Bytes,
) -> Response {
    let changed = update(&state.0, &caller, &named(id), &body).await;
    answer(StatusCode::OK, changed.map(wire::User::from))
}

async fn update(
    people: &People,
    caller: &Caller,
    id: &str,
    body: &[u8],
) -> Result<StoredUser, ApiError> {
    let form = form(&["email", "roles", "disabled"]);
    let request = Object::of_whole_form(body, &form)?;
    request.refuse_null(form.members)?;
    let change = UserChange {
        email: email_of(&request)?,
        roles: roles_of(&request, caller)?.map(|roles| account::ids(&roles)),
        disabled: request.optional_flag("disabled")?,
    };
    change_user(people, id, &change, caller).await
}

/// Changes a user, but never so that no administrator is left.
pub(super) async fn change_user(
    people: &People,
    id: &str,
    change: &UserChange,
    caller: &Caller,
) -> Result<StoredUser, ApiError> {
    let (keep, actor) = (roles::ADMIN.id, caller.actor());
    let changed = people.store.change_user(id, change, keep, actor, unix_ms());
    changed.await?.map_err(|refusal| match refusal {
        UserRefusal::Unknown => ApiError::NotFound("user"),
        UserRefusal::LastOfRole => ApiError::Conflict(Conflict::LastAdministrator),
    })
}

/// Disables an account. It is not removed, so that audit entries keep their meaning.
#[utoipa::path(
    delete, path = "/api/v1/users/{user_id}", tag = "accounts",
    params(("user_id" = String, Path)),
    responses((status = 204)),
)]
pub(super) async fn disable(
    state: State,
    Extension(caller): Extension<Caller>,
    id: PathText,
    body: Bytes,
) -> Response {
    let change = UserChange {
        disabled: Some(true),
        ..UserChange::default()
    };
    let disabled = match Object::of_form(&body, &NOTHING) {
        Ok(_) => change_user(&state.0, &named(id), &change, &caller).await,
        Err(error) => Err(error),
    };
    done(disabled.map(drop))
}

/// Gives somebody another password, and ends every session of that user.
#[utoipa::path(
    put, path = "/api/v1/users/{user_id}/password", tag = "accounts",
    params(("user_id" = String, Path)),
    request_body = asked::NewPassword,
    responses((status = 204)),
)]
pub(super) async fn set_password(
    state: State,
    Extension(caller): Extension<Caller>,
    id: PathText,
    body: Bytes,
) -> Response {
    done(replace(&state.0, &caller, &named(id), &body).await)
}

async fn replace(people: &People, caller: &Caller, id: &str, body: &[u8]) -> Result<(), ApiError> {
    let form = form(&["new_password", "must_change_password"]);
    let request = Object::of_whole_form(body, &form)?;
    request.refuse_null(form.members)?;
    let new = request.text("new_password", PASSWORD_CHARACTERS_MAX)?;
    let must_change = request.optional_flag("must_change_password")?;
    let user = existing(people, id).await?;
    check_password(&user.username, new).map_err(not_taken("new_password"))?;
    let hash = people.gate().passwords().hash(new).await?;
    let change = PasswordChange {
        hash: &hash,
        replacing: None,
        must_change: must_change.unwrap_or(false),
        keep_session: None,
    };
    let (store, actor) = (&people.store, caller.actor());
    if !store.set_password(id, &change, actor, unix_ms()).await? {
        return Err(ApiError::NotFound("user"));
    }
    people.forget_first_password(&user).await;
    Ok(())
}

/// Lists the roles that there are.
#[utoipa::path(
    get, path = "/api/v1/roles", tag = "accounts",
    responses((status = 200, body = wire::Roles)),
)]
pub(super) async fn roles() -> Response {
    let roles = roles::ALL.into_iter().map(wire::ShownRole::from).collect();
    answer(StatusCode::OK, Ok(wire::Roles { roles }))
}
