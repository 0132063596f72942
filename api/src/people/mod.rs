//! Accounts: logging in and out, one's own account and API tokens, and the accounts of others.
//!
//! Paths, members and errors are those of the fleet API that its users know
//! (`{"error", "code", "details"}`), under `/api/v1`. `auth/tokens` is ours.

mod asked;
mod described;
mod me;
mod refusal;
mod session;
mod tokens;
mod users;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use rat_store::{Store, StoredUser};
use serde::Serialize;

use crate::auth::account::{AccountFault, FIRST_USER};
use crate::auth::{Gate, Permission};
use crate::error::{ApiError, MemberFault, json_response};
use crate::json::Form;
use crate::limits;
use crate::surface::{BodyLimit, Route, Shared, Surface};

pub use described::described;
pub(crate) use refusal::{REFUSAL, refuse, told};

/// Where the paths of this API begin.
pub const PREFIX: &str = "/api/v1/";

/// What the routes of accounts work with.
pub struct People {
    /// The records.
    pub store: Store,
    /// Limits and credentials.
    pub shared: Arc<Shared>,
    /// The file with the first user's first password. It goes when that is changed.
    pub first_password: PathBuf,
}

type State = axum::extract::State<Arc<People>>;
type PathText = Result<Path<String>, PathRejection>;

/// The routes of accounts.
pub fn surface(shared: Arc<Shared>) -> Surface<Arc<People>> {
    let (session, any) = (Permission::Session, Permission::AnySession);
    let view = Permission::Operator("users:view");
    let manage = Permission::Operator("users:manage");
    let token = "/api/v1/auth/tokens/{token_id}";
    let (user, password) = (
        "/api/v1/users/{user_id}",
        "/api/v1/users/{user_id}/password",
    );
    Surface::new(shared)
        .route(
            sends(Method::POST, "/api/v1/auth/login", Permission::Password),
            session::log_in,
        )
        .route(
            sends(Method::POST, "/api/v1/auth/logout", any),
            session::log_out,
        )
        .route(Route::get("/api/v1/auth/me", any), me::show)
        .route(sends(Method::PUT, "/api/v1/auth/me", session), me::change)
        .route(
            sends(Method::PUT, "/api/v1/auth/me/password", any),
            me::change_password,
        )
        .route(Route::get("/api/v1/auth/tokens", session), tokens::list)
        .route(
            sends(Method::POST, "/api/v1/auth/tokens", session),
            tokens::create,
        )
        .route(sends(Method::DELETE, token, session), tokens::revoke)
        .route(Route::get("/api/v1/users", view), users::list)
        .route(sends(Method::POST, "/api/v1/users", manage), users::create)
        .route(Route::get(user, view), users::show)
        .route(sends(Method::PUT, user, manage), users::change)
        .route(sends(Method::DELETE, user, manage), users::disable)
        .route(sends(Method::PUT, password, manage), users::set_password)
        .route(Route::get("/api/v1/roles", view), users::roles)
}

/// A request that holds these members at most.
const fn form(members: &'static [&'static str]) -> Form {
    Form {
        members,
        document: None,
    }
}

/// A request that asks for nothing but what its path says.
const NOTHING: Form = form(&[]);

/// A route that takes a body of an account's size. Clients send one also where none is read.
fn sends(method: Method, path: &'static str, permission: Permission) -> Route {
    let body = BodyLimit::Bytes("ACCOUNT_BODY_BYTES_MAX", limits::ACCOUNT_BODY_BYTES_MAX);
    Route {
        method,
        ..Route::post(path, permission, body)
    }
}

impl People {
    fn gate(&self) -> &Gate {
        self.shared.gate()
    }

    /// Removes the file with the first password, once that is nobody's password any more.
    async fn forget_first_password(&self, changed: &StoredUser) {
        if !changed.username.eq_ignore_ascii_case(FIRST_USER) {
            return;
        }
        match tokio::fs::remove_file(&self.first_password).await {
            Ok(()) => tracing::info!("the first password was changed, and its file removed"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // It opens nothing any more; the next start tries again.
            Err(error) => tracing::warn!(%error, "the file of the first password was not removed"),
        }
    }
}

/// The id in a path; one that is no text names nothing.
fn named(path: PathText) -> String {
    path.map_or_else(|_| String::new(), |Path(id)| id)
}

/// An answer of what was asked for, or its refusal.
fn answer(status: StatusCode, result: Result<impl Serialize, ApiError>) -> Response {
    match result {
        Ok(body) => json_response(status, &body),
        Err(error) => refuse(error),
    }
}

/// An answer without a body, or a refusal.
fn done(result: Result<(), ApiError>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refuse(error),
    }
}

/// An account's member that is not taken.
fn not_taken(member: &'static str) -> impl Fn(AccountFault) -> ApiError {
    move |fault| ApiError::member(member, MemberFault::Value(fault.to_string()))
}

/// There are no random numbers to be had.
fn no_random<E>(_: E) -> ApiError {
    ApiError::Unavailable("there are no random numbers to be had")
}
