//! Refusals in the fleet API's shape.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::{ApiError, Conflict};

/// The body of a refusal.
#[derive(Serialize, ToSchema)]
#[schema(as = AccountError)]
pub(super) struct Refusal {
    /// What is wrong, for people; the text may change.
    error: String,
    /// What is wrong, for programs; it does not change.
    #[schema(example = "VALIDATION_FAILED")]
    code: &'static str,
    /// Which member, permission or limit it is about, when it is about one.
    #[schema(value_type = Object)]
    details: Map<String, Value>,
}

/// What the OpenAPI document calls it.
pub(crate) const REFUSAL: &str = "AccountError";

/// How this API tells an error: its status and code. It has no 409 and no 422: what contradicts a
/// record, or cannot be a value, is 400.
pub(crate) fn told(error: &ApiError) -> (StatusCode, &'static str) {
    let status = match error.status() {
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT => StatusCode::BAD_REQUEST,
        other => other,
    };
    (status, code(error))
}

/// A refusal as `{"error", "code", "details"}`.
pub(crate) fn refuse(error: ApiError) -> Response {
    let (status, code) = told(&error);
    let mut details = Map::new();
    match &error {
        ApiError::Member { member, .. } => {
            details.insert("member".to_owned(), Value::from(*member));
        }
        ApiError::Parameter { parameter, .. } => {
            details.insert("parameter".to_owned(), Value::from(*parameter));
        }
        ApiError::NotPermitted(action) => {
            details.insert("permission".to_owned(), Value::from(*action));
        }
        ApiError::Limited { limit, .. } => {
            details.insert("limit".to_owned(), Value::from(*limit));
        }
        _ => {}
    }
    let body = Refusal {
        error: error.to_string(),
        code,
        details,
    };
    error.answer(status, &body)
}

const fn code(error: &ApiError) -> &'static str {
    match error {
        ApiError::Json(_) | ApiError::BodyBroken | ApiError::TooSlow => "BAD_REQUEST",
        ApiError::ContentEncoding | ApiError::BodyTooLong { .. } => "BAD_REQUEST",
        ApiError::Member { .. } | ApiError::NotAnObject => "VALIDATION_FAILED",
        ApiError::UnknownMember(_) | ApiError::MachineNotNamed => "VALIDATION_FAILED",
        ApiError::Parameter { .. } | ApiError::UnknownParameter(_) => "VALIDATION_FAILED",
        ApiError::Changed => "PRECONDITION_FAILED",
        ApiError::NotAuthenticated => "UNAUTHORIZED",
        ApiError::WrongPassword => "INVALID_CREDENTIALS",
        ApiError::PasswordChangeRequired => "PASSWORD_CHANGE_REQUIRED",
        ApiError::NotPermitted(_) | ApiError::NeedsLogin => "FORBIDDEN",
        ApiError::BeyondCaller => "FORBIDDEN",
        ApiError::TokenKind { .. } | ApiError::Refused { .. } => "FORBIDDEN",
        ApiError::NotFound(_) => "NOT_FOUND",
        ApiError::Method => "METHOD_NOT_ALLOWED",
        ApiError::Conflict(Conflict::LastAdministrator) => "LAST_ADMINISTRATOR",
        ApiError::Conflict(Conflict::Full) => "LIMIT_REACHED",
        ApiError::Conflict(_) => "ALREADY_EXISTS",
        ApiError::Limited { .. } => "TOO_MANY_REQUESTS",
        ApiError::NotSupported(_) => "NOT_SUPPORTED",
        ApiError::Unavailable(_) => "UNAVAILABLE",
        ApiError::Unfinished => "UNFINISHED",
        // No route of accounts is Keylime's.
        ApiError::NeedsTls | ApiError::NotKeylimeAdmin(_) | ApiError::NotKeylimeAgent(_) => {
            "FORBIDDEN"
        }
    }
}
