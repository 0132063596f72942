//! The server's enrolment interface: JSON over HTTPS.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use rat_client::https::{Asked, Client, HttpsError, Reply};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::sleep;

pub use rat_client::https::{ServerUrl, ServerUrlError, Trust};

/// A baseline of tens of MiB, over a slow line, and the server's work on it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How often a request is made that the server puts off.
const TRIES: u32 = 5;
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const DETAIL_CHARACTERS_MAX: usize = 300;

/// Why a request had no result.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The server's certificate is from another CA than the one that the token names.
    #[error(
        "{server} is not the server that this token was made for: none of its certificates is \
         the CA {wanted}. Nothing was sent. Check --server; if it is right, somebody else answers \
         there, or the server's CA was replaced after the token was made"
    )]
    ForeignCa {
        /// The server.
        server: String,
        /// SHA-256 of the CA's certificate, as the token has it.
        wanted: String,
    },
    /// There was no answer.
    #[error(transparent)]
    Https(HttpsError),
    /// The answer is not what it should be.
    #[error("{server} answered {path} with something else than was expected: {source}")]
    Content {
        /// The server.
        server: String,
        /// The path that was asked for.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The server says no.
    #[error("{server} refused {path} with status {status}: {detail}")]
    Refused {
        /// The server.
        server: String,
        /// The path that was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the server says, bounded and printable.
        detail: String,
        /// Its stable code.
        code: Option<String>,
        /// How long it wants to be left alone; bounded.
        retry_after: Option<Duration>,
    },
}

/// Codes of refusals that an operator ends by an approval.
const WAITS_FOR_AN_OPERATOR: [&str; 2] = ["agent.new_ak", "ek.not_approved"];

impl HttpError {
    /// How long to wait at least before the same request may be answered otherwise, with nothing
    /// changed on this machine; `None` when it will not be.
    pub fn passes_after(&self) -> Option<Duration> {
        match self {
            Self::Https(
                HttpsError::Connect { .. }
                | HttpsError::Timeout { .. }
                | HttpsError::Exchange { .. },
            ) => Some(Duration::ZERO),
            Self::Refused {
                status,
                code,
                retry_after,
                ..
            } => {
                let waits = |code: &str| WAITS_FOR_AN_OPERATOR.contains(&code);
                let passes =
                    matches!(status, 429 | 502..=504) || code.as_deref().is_some_and(waits);
                passes.then(|| retry_after.unwrap_or_default())
            }
            Self::Https(_) | Self::ForeignCa { .. } | Self::Content { .. } => None,
        }
    }
}

impl From<HttpsError> for HttpError {
    fn from(error: HttpsError) -> Self {
        match error {
            HttpsError::ForeignCa { server, wanted } => Self::ForeignCa { server, wanted },
            other => Self::Https(other),
        }
    }
}

/// A server, and what makes it believed.
#[derive(Debug, Clone)]
pub struct CoreClient(Client);

impl CoreClient {
    /// A client of this server. Nothing is opened yet.
    ///
    /// # Errors
    /// [`HttpError`], when the CAs cannot be used.
    pub fn new(server: ServerUrl, trust: Trust) -> Result<Self, HttpError> {
        Ok(Self(Client::new(server, trust)?))
    }

    /// Posts JSON and reads JSON; again, when the server asks for a moment.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn post<B: Serialize + Sync, R: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<R, HttpError> {
        let body = serde_json::to_vec(body).map_err(|source| self.content(path, source))?;
        let body = Bytes::from(body);
        let mut tries = 1;
        loop {
            let answer = self.exchange(Method::POST, path, body.clone()).await?;
            if answer.status.is_success() {
                return serde_json::from_slice(&answer.body)
                    .map_err(|source| self.content(path, source));
            }
            let puts_off = matches!(
                answer.status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            if !puts_off || tries >= TRIES {
                let said = Said::read(&answer.body);
                return Err(HttpError::Refused {
                    server: self.0.server().to_string(),
                    path: path.to_owned(),
                    status: answer.status.as_u16(),
                    detail: said.detail(),
                    code: said.code,
                    retry_after: retry_after(&answer.headers),
                });
            }
            tries = tries.saturating_add(1);
            let asked_for = retry_after(&answer.headers);
            sleep(asked_for.unwrap_or(SHORTEST_WAIT)).await;
        }
    }

    /// The server's own clock, from the `Date` of an answer.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn date(&self) -> Result<Option<String>, HttpError> {
        let answer = self.exchange(Method::GET, "/livez", Bytes::new()).await?;
        let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
        Ok(date.map(str::to_owned))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Reply, HttpError> {
        let asked = Asked {
            method,
            path,
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
            body,
            patience: ANSWER_TIMEOUT,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        Ok(self.0.exchange(asked).await?)
    }

    fn content(&self, path: &str, source: serde_json::Error) -> HttpError {
        HttpError::Content {
            server: self.0.server().to_string(),
            path: path.to_owned(),
            source,
        }
    }
}

/// What a refusal says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    detail: Option<serde_json::Value>,
    code: Option<String>,
}

impl Said {
    fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// In a form that is safe to print. (X07)
    fn detail(&self) -> String {
        match &self.detail {
            Some(serde_json::Value::String(text)) => printable(text),
            Some(other) => printable(&other.to_string()),
            None => "it says no more".to_owned(),
        }
    }
}

/// A server's text, bounded and without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(DETAIL_CHARACTERS_MAX)
        .collect()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?;
    let seconds = value.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).clamp(SHORTEST_WAIT, LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x07_what_a_server_says_is_printed_without_control_characters() {
        let detail = |body: &[u8]| Said::read(body).detail();
        assert_eq!(
            detail(br#"{"detail":"no\u001b[31m\nmore"}"#),
            "no [31m more"
        );
        assert_eq!(detail(b"<html>"), "it says no more");
        let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(9_999));
        assert_eq!(detail(long.as_bytes()).len(), DETAIL_CHARACTERS_MAX);
    }

    #[test]
    fn waits_that_a_server_asks_for_are_bounded() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        for (value, seconds) in [
            ("5", Some(5)),
            ("0", Some(1)),
            ("99999999", Some(60)),
            ("never", None),
        ] {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(&headers), expected, "{value}");
        }
    }

    #[test]
    fn what_an_operator_or_time_ends_is_told_from_what_stays() {
        let refused = |status: u16, code: Option<&str>, retry_after: Option<Duration>| {
            let refused = HttpError::Refused {
                server: String::new(),
                path: String::new(),
                status,
                detail: String::new(),
                code: code.map(str::to_owned),
                retry_after,
            };
            refused.passes_after()
        };
        let asked_for = Some(Duration::from_secs(7));
        for (status, code) in [
            (403, Some("ek.not_approved")),
            (409, Some("agent.new_ak")),
            (429, Some("request.limited")),
            (502, None),
            (503, Some("server.unavailable")),
            (504, None),
        ] {
            assert_eq!(
                refused(status, code, None),
                Some(Duration::ZERO),
                "{status}"
            );
            assert_eq!(refused(status, code, asked_for), asked_for, "{status}");
        }
        for (status, code) in [
            (401, Some("auth.not_authenticated")),
            (403, Some("ek.not_listed")),
            (403, Some("ek.chain_invalid")),
            (403, None),
            (404, None),
            (409, Some("agent.id_taken")),
            (422, Some("request.member")),
            (500, None),
            (501, Some("request.not_supported")),
        ] {
            assert_eq!(refused(status, code, asked_for), None, "{status} {code:?}");
        }
        let foreign = HttpError::ForeignCa {
            server: String::new(),
            wanted: String::new(),
        };
        assert_eq!(foreign.passes_after(), None);
    }
}
