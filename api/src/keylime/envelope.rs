//! How answers of this API look.
//!
//! Answers of version 2 are `{"code", "status", "results"}`. What is refused for who asks is told in
//! another shape, also here. What no handler decided has no body: only its status and, where asking
//! again may help, when. Every answer has an `X-Request-ID`, the client's own if it is one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;

use crate::error::{ApiError, json_body, json_response};
use crate::metrics;

/// The body of every answer of version 2.
#[derive(Serialize)]
struct Envelope<'a, R> {
    code: u16,
    status: &'a str,
    results: R,
}

/// An object without members.
#[derive(Serialize)]
struct Nothing {}

/// An answer with these results.
pub(super) fn answer(status: StatusCode, text: &str, results: &impl Serialize) -> Response {
    let envelope = Envelope {
        code: status.as_u16(),
        status: text,
        results,
    };
    json_response(status, &envelope)
}

/// An answer without results.
pub(super) fn bare(status: StatusCode, text: &str) -> Response {
    answer(status, text, &Nothing {})
}

/// An answer whose results are JSON already, in pieces that are sent as they are.
pub(super) fn of_pieces(pieces: impl IntoIterator<Item = Bytes>) -> Response {
    let pieces = pieces.into_iter().collect();
    json_body(StatusCode::OK, Body::new(Pieces(pieces)))
}

/// A body in pieces, of a length that is known.
struct Pieces(VecDeque<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let add = |sum: u64, piece: &Bytes| {
            sum.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX))
        };
        SizeHint::with_exact(self.0.iter().fold(0, add))
    }
}

/// What is refused for who asks, in Keylime's likeness of JSON:API.
#[derive(Serialize)]
struct Errors {
    errors: [Refusal; 1],
}

#[derive(Serialize)]
struct Refusal {
    status: String,
    title: &'static str,
    detail: String,
}

/// A refusal in the shape that sessions, and everything about who asks, have.
pub(super) fn titled(status: StatusCode, title: &'static str, detail: String) -> Response {
    let status_text = status.as_str().to_owned();
    let refusal = Refusal {
        status: status_text,
        title,
        detail,
    };
    json_response(status, &Errors { errors: [refusal] })
}

/// The refusal of a request that reached no handler.
pub(crate) fn refuse(error: &ApiError) -> Response {
    let status = error.status();
    let mut response = match error {
        ApiError::NotAuthenticated => titled(
            status,
            "Unauthorized",
            "Invalid authentication token".to_owned(),
        ),
        ApiError::NotKeylimeAdmin(_) | ApiError::NotKeylimeAgent(_) => {
            titled(status, "Forbidden", error.to_string())
        }
        // Its clients show the status of the envelope to people.
        ApiError::Limited { .. }
        | ApiError::Unavailable(_)
        | ApiError::Unfinished
        | ApiError::BodyTooLong { .. } => bare(status, &error.to_string()),
        _ => without_body(status),
    };
    error.add_headers(&mut response);
    response
}

/// An answer that says nothing more.
pub(super) fn without_body(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a request id that a client may choose.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Adds the request id to an answer.
///
/// # Security
/// A client's own id is repeated if it is short and of letters, digits, `-`, `_` and `.`. (X07)
pub(super) async fn with_request_id(request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(is_plain)
    });
    let id = given.cloned().or_else(drawn);
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Refuses methods that nobody knows.
pub(super) async fn known_method(request: Request, next: Next) -> Response {
    match metrics::known_method(request.method()) {
        "other" => without_body(StatusCode::NOT_IMPLEMENTED),
        _ => next.run(request).await,
    }
}

/// An id that nobody has given; none when the system has no random numbers.
fn drawn() -> Option<HeaderValue> {
    let mut drawn = [0_u8; 8];
    getrandom::fill(&mut drawn).ok()?;
    HeaderValue::from_str(&hex::encode(drawn)).ok()
}
