//! Why a command could not ask, or was not answered with what it asked for.

use std::io;

use hyper::header::RETRY_AFTER;
use rat_client::https::{HttpsError, Reply};
use serde::Deserialize;
use thiserror::Error;

use super::address::AddressError;
use super::credential::CredentialError;
use super::saved::SavedError;

const DETAIL_CHARACTERS_MAX: usize = 1000;
const CODE_CHARACTERS_MAX: usize = 100;

/// Why there is no result.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// Nobody said which server.
    #[error(
        "no server: run `rat connect https://HOST:8001 --ca-sha256 HEX` first \
         (`ratd ca fingerprint` prints HEX on the server)"
    )]
    NoServer,
    /// A server is named, and not how to know it.
    #[error(
        "how to know {server} is not said: give --ca-sha256 too (`ratd ca fingerprint` prints it \
         on the server), or run `rat connect`"
    )]
    NoPin {
        /// The server.
        server: String,
    },
    /// A setting has no usable value.
    #[error("{setting}: {reason}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Nobody said as whom.
    #[error("not logged in: run `rat login`, or set RAT_TOKEN or RAT_TOKEN_FILE")]
    NotLoggedIn,
    /// A credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// What was saved cannot be used, or nothing can be saved.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// A name cannot stand in an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The program cannot work at all.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// What is to be sent is no JSON.
    #[error("what is to be sent cannot be written as JSON: {0}")]
    Body(serde_json::Error),
    /// There was no answer of this server.
    #[error(transparent)]
    NoAnswer(#[from] HttpsError),
    /// The answer is not what it should be.
    #[error("{server} answered {path} with something else than was expected: {source}")]
    Content {
        /// The server.
        server: String,
        /// What was asked for.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The list does not end.
    #[error("{server} names more pages of {path} than a list can have")]
    Endless {
        /// The server.
        server: String,
        /// What was asked for.
        path: String,
    },
    /// The server gives no result now.
    #[error("{server} gives no result: {detail}{}", retry(.retry_after_seconds))]
    Later {
        /// The server.
        server: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        detail: String,
        /// Its stable code.
        code: Option<String>,
        /// How long it wants to be left alone.
        retry_after_seconds: Option<u64>,
    },
    /// The server says no.
    #[error("{detail}{}", hint(.status, .code))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it says.
        detail: String,
        /// Its stable code.
        code: Option<String>,
    },
}

impl ClientError {
    /// The error that this answer is.
    pub(super) fn refused(server: String, path: String, reply: &Reply) -> Self {
        let said = serde_json::from_slice::<Said>(&reply.body).unwrap_or_default();
        let status = reply.status.as_u16();
        let silent = || format!("{server} refused {path} with status {status}");
        let text = said.detail.or(said.error).and_then(text);
        let detail = text.map_or_else(silent, |text| bounded(&text, DETAIL_CHARACTERS_MAX));
        let code = said.code.and_then(text_of_code);
        if status == 429 || reply.status.is_server_error() {
            let after = reply.headers.get(RETRY_AFTER);
            let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
            return Self::Later {
                server,
                status,
                detail,
                code,
                retry_after_seconds: after,
            };
        }
        Self::Refused {
            status,
            detail,
            code,
        }
    }

    /// What the server would say of a name that it does not have.
    pub(crate) const fn unknown(detail: String) -> Self {
        Self::Refused {
            status: 404,
            detail,
            code: None,
        }
    }

    /// The code of the program when this ends it: 1 when the server refused, 3 when it gave no
    /// answer that counts, 2 when it was not asked.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 1,
            Self::NoAnswer(_)
            | Self::Later { .. }
            | Self::Content { .. }
            | Self::Endless { .. } => 3,
            Self::NoServer
            | Self::NoPin { .. }
            | Self::Setting { .. }
            | Self::NotLoggedIn
            | Self::Credential(_)
            | Self::Saved(_)
            | Self::Address(_)
            | Self::Runtime(_)
            | Self::Body(_) => 2,
        }
    }

    /// Whether the same request may be answered when it is made again.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Later { .. }
                | Self::NoAnswer(
                    HttpsError::Connect { .. }
                        | HttpsError::Timeout { .. }
                        | HttpsError::Exchange { .. }
                )
        )
    }

    /// The server's stable code.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } | Self::Later { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    /// The HTTP status of an answer that is no result.
    pub(crate) const fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } | Self::Later { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// A refusal's body, of the Core API or of the accounts'.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    detail: Option<serde_json::Value>,
    error: Option<serde_json::Value>,
    code: Option<serde_json::Value>,
}

fn text(value: serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn text_of_code(value: serde_json::Value) -> Option<String> {
    let code = text(value)?;
    Some(bounded(&code, CODE_CHARACTERS_MAX))
}

fn bounded(text: &str, characters_max: usize) -> String {
    text.chars().take(characters_max).collect()
}

fn retry(seconds: &Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!("; try again in {seconds} s"))
}

/// What to do about some refusals.
fn hint(status: &u16, code: &Option<String>) -> &'static str {
    match (*status, code.as_deref()) {
        (_, Some("INVALID_CREDENTIALS")) => "",
        (401, _) => ": log in again with `rat login`, or make another token",
        (_, Some("PASSWORD_CHANGE_REQUIRED")) => ": `rat login` asks for a new one",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use hyper::header::{HeaderMap, HeaderValue};

    use super::*;

    fn refused(status: u16, body: &str, retry_after: Option<&'static str>) -> ClientError {
        let mut headers = HeaderMap::new();
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        let reply = Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.to_owned().into(),
        };
        ClientError::refused("https://s:1".to_owned(), "/x".to_owned(), &reply)
    }

    #[test]
    fn both_shapes_of_refusals_are_read() {
        let core = refused(
            404,
            r#"{"detail":"no such agent","code":"agent.not_found"}"#,
            None,
        );
        assert_eq!(core.to_string(), "no such agent");
        assert_eq!(
            (core.code(), core.exit_code()),
            (Some("agent.not_found"), 1)
        );
        let people = refused(
            401,
            r#"{"error":"no","code":"UNAUTHORIZED","details":{}}"#,
            None,
        );
        assert!(
            people.to_string().starts_with("no: log in again"),
            "{people}"
        );
        for strange in ["", "<html>", "[]", r#"{"detail":{"a":1}}"#, "null"] {
            let error = refused(404, strange, None);
            assert_eq!(error.to_string(), "https://s:1 refused /x with status 404");
        }
        let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(9_999));
        assert_eq!(
            refused(409, &long, None).to_string().len(),
            DETAIL_CHARACTERS_MAX
        );
    }

    #[test]
    fn a_server_that_cannot_now_is_told_from_one_that_refuses() {
        for status in [429, 500, 502, 503] {
            let error = refused(status, r#"{"detail":"busy"}"#, Some("7"));
            assert_eq!(error.exit_code(), 3, "{status}");
            assert!(
                error.to_string().ends_with("busy; try again in 7 s"),
                "{error}"
            );
        }
        for status in [301, 400, 401, 403, 404, 409, 412, 413, 422] {
            assert_eq!(
                refused(status, "", Some("never")).exit_code(),
                1,
                "{status}"
            );
        }
    }
}
