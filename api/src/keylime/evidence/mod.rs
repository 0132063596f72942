//! `POST /v2.6/verify/evidence`: a quote, and the logs that came with it, judged for somebody who
//! has the machine's key and a nonce of their own. Nobody is enrolled, and nothing is kept.
//!
//! The request names everything that the evidence is held against: nonce, attestation key, hash
//! algorithm and policies. The same engine judges it that judges agents (`judge`); what it finds is
//! told by Keylime's names (`failure`).
//!
//! # Security
//! The key is the caller's word. So nothing here is authenticated as far as this server is
//! concerned: it writes no agent's state, and neither reads nor fills what the lists of the fleet
//! have in common, because whoever could time that would learn what the fleet runs. (S15)

mod failure;
pub(super) mod identity;
mod judge;
mod policies;
mod request;
mod verifications;

pub use policies::Policies;
pub use verifications::Verifications;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::time::Instant;

use super::version::VersionFault;
use super::{ApiVersion, Keylime, State, envelope};
use crate::limits::{VERIFICATION_MS_MAX, duration};
use crate::metrics;
use failure::Failure;
use request::{Asked, Fault};

/// What came of a request.
enum Outcome {
    /// Everything that was asked of the evidence holds; the text of what was sent, in pieces.
    Valid(Vec<Bytes>),
    /// Something does not.
    Invalid(Vec<Failure>),
    /// A parameter or policy is missing, in the shape of a failure.
    Incomplete(Failure),
    /// There is nothing to judge, or nothing to judge it by.
    Refused(Refused),
}

/// Why evidence was not judged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    fn request(text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text: text.into(),
        }
    }

    fn not_supported(text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_IMPLEMENTED,
            text: text.into(),
        }
    }
}

/// Judges evidence.
pub(super) async fn verify(
    axum::extract::State(keylime): State,
    version: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Response {
    let version = version.map_err(|_| VersionFault::NotFound);
    let version = match version.and_then(|Path(version)| ApiVersion::parse(&version)) {
        Ok(version) => version,
        Err(VersionFault::NotSupported) => {
            let text = "API Version not supported";
            return envelope::bare(StatusCode::BAD_REQUEST, text);
        }
        Err(VersionFault::NotFound) => return envelope::without_body(StatusCode::NOT_FOUND),
    };
    let work = Work {
        keylime: Arc::clone(&keylime),
        version,
        body,
        until: deadline(),
    };
    if let Some(outcome) = work.at_once() {
        return answer(version, outcome);
    }
    match keylime.verifications.run(move || work.outcome()).await {
        Some(outcome) => answer(version, outcome),
        None => {
            // The program is at fault; what it could not judge is not valid. (S01)
            count("refused", "panicked");
            let text = "Internal Server Error: Failed to process attestation data";
            envelope::bare(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

impl Keylime {
    /// What the route answers to this body, computed here and now.
    pub fn answer(self: &Arc<Self>, version: ApiVersion, body: Bytes) -> Response {
        let work = Work {
            keylime: Arc::clone(self),
            version,
            body,
            until: deadline(),
        };
        answer(version, work.outcome())
    }
}

/// Until when a request that came in now may take.
fn deadline() -> Instant {
    let now = Instant::now();
    let until = now.checked_add(duration(VERIFICATION_MS_MAX));
    until.unwrap_or(now)
}

/// One request in work.
struct Work {
    keylime: Arc<Keylime>,
    version: ApiVersion,
    body: Bytes,
    until: Instant,
}

/// Bodies up to this length are read where they arrived, to see whether there is more to do than
/// verifying one signature: that takes less than a TLS handshake, and less than handing it over.
const SHORT_BYTES: usize = 32 * 1024;

impl Work {
    /// The outcome of a request with a quote and nothing that takes time; `None` of any other.
    fn at_once(&self) -> Option<Outcome> {
        if self.body.len() > SHORT_BYTES {
            return None;
        }
        match Asked::read(&self.body, self.version) {
            Ok(asked) if asked.takes_time() => None,
            asked => Some(self.conclude(asked)),
        }
    }

    fn outcome(&self) -> Outcome {
        self.conclude(Asked::read(&self.body, self.version))
    }

    fn conclude(&self, asked: Result<Asked<'_>, Fault>) -> Outcome {
        let asked = match asked {
            Ok(asked) => asked,
            Err(Fault::Incomplete(failure)) => return Outcome::Incomplete(failure),
            Err(Fault::Refused(refused)) => return Outcome::Refused(refused),
        };
        match judge::judge(&asked, &self.keylime, self.until) {
            Ok(failures) if failures.is_empty() => Outcome::Valid(asked.claims(&self.body)),
            Ok(failures) => Outcome::Invalid(failures),
            Err(refused) => Outcome::Refused(refused),
        }
    }
}

fn count(result: &'static str, code: &'static str) {
    let labels = [("result", result), ("code", code)];
    ::metrics::counter!(metrics::EVIDENCE_VERIFICATIONS, &labels).increment(1);
}

/// `results`, as each version has them.
#[derive(Serialize)]
#[serde(untagged)]
enum Results<'f> {
    V2_4 {
        valid: u8,
        failures: &'f [Failure],
    },
    V2_5 {
        valid: bool,
        claims: Claims,
        failures: &'f [Failure],
    },
}

/// No claims.
#[derive(Serialize)]
struct Claims {}

impl<'f> Results<'f> {
    const fn invalid(version: ApiVersion, failures: &'f [Failure]) -> Self {
        match version {
            ApiVersion::V2_4 => Self::V2_4 { valid: 0, failures },
            ApiVersion::V2_5 | ApiVersion::V2_6 => Self::V2_5 {
                valid: false,
                claims: Claims {},
                failures,
            },
        }
    }
}

const SUCCESS: &str = "Success";

fn answer(version: ApiVersion, outcome: Outcome) -> Response {
    match outcome {
        Outcome::Valid(claims) => {
            count("valid", "");
            valid(version, claims)
        }
        Outcome::Invalid(failures) => {
            count("invalid", failures.first().map_or("", Failure::code));
            let results = Results::invalid(version, &failures);
            envelope::answer(StatusCode::OK, SUCCESS, &results)
        }
        Outcome::Incomplete(failure) => {
            count("refused", failure.code());
            let results = Results::invalid(version, std::slice::from_ref(&failure));
            envelope::answer(StatusCode::BAD_REQUEST, "Bad Request", &results)
        }
        Outcome::Refused(Refused { status, text }) => {
            let code = match status {
                StatusCode::NOT_IMPLEMENTED => "not_supported",
                StatusCode::GATEWAY_TIMEOUT => "unfinished",
                _ => "request",
            };
            count("refused", code);
            envelope::bare(status, &text)
        }
    }
}

/// The answer for evidence that is valid. What was sent is given back as it came: it is JSON, and
/// may be long.
fn valid(version: ApiVersion, claims: Vec<Bytes>) -> Response {
    let head = br#"{"code":200,"status":"Success","results":{"valid":"#;
    let mut pieces = vec![Bytes::from_static(head)];
    match version {
        ApiVersion::V2_4 => pieces.push(Bytes::from_static(b"1")),
        ApiVersion::V2_5 | ApiVersion::V2_6 => {
            pieces.push(Bytes::from_static(br#"true,"claims":"#));
            pieces.extend(claims);
        }
    }
    pieces.push(Bytes::from_static(br#","failures":[]}}"#));
    envelope::of_pieces(pieces)
}
