//! Whether a quote is of an agent that is known here, for whoever asks.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use serde::{Deserialize, Serialize};

use super::agents::not_found;
use super::asked::Refused;
use super::{Named, State, check, failed, success};
use crate::keylime::evidence;

/// All of them must be there.
#[derive(Debug, Deserialize)]
pub(super) struct Given {
    agent_uuid: Option<String>,
    quote: Option<String>,
    nonce: Option<String>,
    hash_alg: Option<String>,
}

#[derive(Serialize)]
struct Verdict {
    valid: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn needed(value: Option<String>, name: &str) -> Result<String, Refused> {
    let value = value.filter(|it| !it.is_empty());
    value.ok_or_else(|| Refused::request(format!("missing query parameter '{name}'")))
}

/// Tells whether the agent's attestation key signed this quote over this nonce.
///
/// # Security
/// A nonce counts as often as somebody sends it, and nothing is said of what the PCRs hold. No
/// agent's state is read or written beside its key. (S15)
pub(super) async fn verify(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    given: Result<Query<Given>, QueryRejection>,
) -> Response {
    if let Err(refusal) = check(&named) {
        return refusal;
    }
    let Ok(Query(given)) = given else {
        return Refused::request("the query cannot be read").answer();
    };
    let read = || {
        Ok((
            needed(given.agent_uuid, "agent_uuid")?,
            needed(given.quote, "quote")?,
            needed(given.nonce, "nonce")?,
            needed(given.hash_alg, "hash_alg")?,
        ))
    };
    let (id, quote, nonce, hash_alg) = match read() {
        Ok(read) => read,
        Err(refused) => return Refused::answer(&refused),
    };
    let Ok(id) = AgentId::parse(&id) else {
        return not_found();
    };
    let found = match verifier.found(&id).await {
        Ok(Some(found)) => found,
        Ok(None) => return not_found(),
        Err(error) => return failed(error),
    };
    let reason = evidence::identity(&found.record.ak_public, &quote, &nonce, &hash_alg);
    success(&Verdict {
        valid: u8::from(reason.is_none()),
        reason,
    })
}
