//! `GET /v2.6/verify/identity`: whether a quote is of an agent that is enrolled here.
//!
//! Source: Keylime 7.14 `keylime/cloud_verifier_tornado.py`.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use rat_engine::agent_id::AgentId;

use super::{Named, State, check, failed, success};
use crate::error::ApiError;
use crate::keylime::envelope;
use crate::keylime::evidence::identity;
use crate::keylime::params::{Given, Params};
use crate::limits::HEADER_BYTES_MAX;

/// Tells whether the attestation key of an agent signed this quote over this nonce.
pub(super) async fn verify(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    uri: Uri,
) -> Response {
    if let Err(refusal) = check(&named) {
        return refusal;
    }
    let headers = HeaderMap::new();
    let asked = Params::read(&uri, &headers, &[]);
    let asked = asked.and_then(|params| Asked::read(&params));
    let asked = match asked {
        Ok(Ok(asked)) => asked,
        Ok(Err(missing)) => {
            identity::refused("missing_param");
            let text = format!("missing query parameter '{missing}'");
            return envelope::bare(StatusCode::BAD_REQUEST, &text);
        }
        Err(error) => {
            identity::refused("request");
            return envelope::bare(StatusCode::BAD_REQUEST, &error.to_string());
        }
    };
    // A text that is no id names nobody.
    let found = match AgentId::parse(&asked.agent) {
        Ok(id) => verifier.found(&id).await,
        Err(_) => Ok(None),
    };
    match found {
        Ok(Some(agent)) => {
            let Asked {
                quote,
                nonce,
                hash_alg,
                ..
            } = &asked;
            let ak_public = &agent.record.ak_public;
            success(&identity::verify(ak_public, quote, nonce, hash_alg))
        }
        Ok(None) => {
            identity::refused("unknown_agent");
            envelope::bare(StatusCode::NOT_FOUND, "agent id not found")
        }
        Err(error) => failed(error),
    }
}

/// What is asked.
#[derive(Debug)]
struct Asked {
    agent: String,
    quote: String,
    nonce: String,
    hash_alg: String,
}

impl Asked {
    /// Reads the parameters; the inner error names the first that is not there.
    fn read(params: &Params<'_>) -> Result<Result<Self, &'static str>, ApiError> {
        // A request line is no longer than this.
        let text = |name| match params.text(name, HEADER_BYTES_MAX)? {
            Given::Value(text) if !text.is_empty() => Ok(Ok(text.to_owned())),
            Given::Value(_) | Given::Null | Given::Absent => Ok::<_, ApiError>(Err(name)),
        };
        let (agent, quote) = (text("agent_uuid")?, text("quote")?);
        let (nonce, hash_alg) = (text("nonce")?, text("hash_alg")?);
        Ok((|| {
            Ok(Self {
                agent: agent?,
                quote: quote?,
                nonce: nonce?,
                hash_alg: hash_alg?,
            })
        })())
    }
}
