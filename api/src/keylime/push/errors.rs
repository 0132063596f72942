//! How requests of agents that push are refused.
//!
//! Attestations are resources of JSON:API: their refusals are `errors` with a machine's name for
//! what happened and a pointer to where. Sessions and everything about who asks have a shape of their
//! own.
//!
//! Source: JSON:API 1.1, "Error Objects"; Keylime 7.14 `keylime/web/base`.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use super::super::envelope;
use crate::error::json_response;

/// Why an attestation is not begun or its evidence not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    status: StatusCode,
    code: &'static str,
    detail: String,
    pointer: Option<Cow<'static, str>>,
    retry_after_seconds: Option<u64>,
}

/// The version of JSON:API that is spoken.
#[derive(Serialize)]
pub(super) struct JsonApi {
    version: &'static str,
}

pub(super) const JSON_API: JsonApi = JsonApi { version: "1.1" };

/// The links of a document: itself.
#[derive(Serialize)]
pub(super) struct Links<'a> {
    #[serde(rename = "self")]
    pub(super) itself: &'a str,
}

#[derive(Serialize)]
struct Source<'a> {
    pointer: &'a str,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    status: &'a str,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source<'a>>,
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: [ErrorObject<'a>; 1],
    links: Links<'a>,
    jsonapi: JsonApi,
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            pointer: None,
            retry_after_seconds: None,
        }
    }

    /// What the document says cannot be taken, at this place.
    pub(super) fn data(pointer: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self {
            pointer: Some(pointer.into()),
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_resource_data",
                detail,
            )
        }
    }

    pub(super) fn not_found(agent: &str) -> Self {
        let detail = format!("Agent '{agent}' is not enrolled.");
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after_seconds: Some(seconds),
            ..self
        }
    }

    /// The answer to a request for this path.
    pub(super) fn answer(&self, path: &str) -> Response {
        let pointer = self.pointer.as_deref();
        let mut response = json_response(
            self.status,
            &Errors {
                errors: [ErrorObject {
                    status: self.status.as_str(),
                    code: self.code,
                    detail: &self.detail,
                    source: pointer.map(|pointer| Source { pointer }),
                }],
                links: Links { itself: path },
                jsonapi: JSON_API,
            },
        );
        if let Some(seconds) = self.retry_after_seconds {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }

    pub(super) const fn code(&self) -> &'static str {
        self.code
    }
}

/// A request of Keylime's third version that is refused for its form, with nothing said about it.
pub(super) fn malformed() -> Response {
    envelope::without_body(StatusCode::BAD_REQUEST)
}
