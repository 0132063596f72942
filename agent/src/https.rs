//! The server's enrolment interface: JSON over HTTPS.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use rat_client::https::{Asked, Client, HttpsError, Reply};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::sleep;

pub use rat_client::https::{ServerUrl, ServerUrlError, Trust};

/// A baseline of tens of MiB, over a slow line, and the server's work on it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How often a request is made that the server puts off.
const TRIES: u32 = 5;
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
    },
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
                return Err(HttpError::Refused {
                    server: self.0.server().to_string(),
                    path: path.to_owned(),
                    status: answer.status.as_u16(),
                    detail: detail(&answer.body),
                });
            }
            tries = tries.saturating_add(1);
            sleep(retry_after(&answer.headers)).await;
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

/// What a refusal says, in a form that is safe to print. (X07)
fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Detail {
        detail: serde_json::Value,
    }
    let text = match serde_json::from_slice::<Detail>(body) {
        Ok(Detail {
            detail: serde_json::Value::String(text),
        }) => text,
        Ok(Detail { detail }) => detail.to_string(),
        Err(_) => "it says no more".to_owned(),
    };
    printable(&text)
}

/// A server's text, bounded and without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(DETAIL_CHARACTERS_MAX)
        .collect()
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1)).clamp(Duration::from_secs(1), LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x07_what_a_server_says_is_printed_without_control_characters() {
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
        assert_eq!(retry_after(&headers), Duration::from_secs(1));
        for (value, seconds) in [("5", 5), ("0", 1), ("99999999", 60), ("never", 1)] {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            assert_eq!(
                retry_after(&headers),
                Duration::from_secs(seconds),
                "{value}"
            );
        }
    }
}
