//! `PUT /v2.6/agents/{agent_id}`: an agent answers what its TPM was asked.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use rat_identity::keylime::is_answer;
use rat_store::{
    KeylimeActivated, KeylimeConflict, KeylimeRegistration, KeylimeStanding, Revision, StoreError,
};

use super::register::ATTEMPTS_MAX;
use super::{Named, Registrar, State, malformed, not_found, shown, version};
use crate::clock::unix_ms;
use crate::error::ApiError;
use crate::keylime::envelope;
use crate::keylime::params::{Given, Params};
use crate::keylime::version::Major;
use crate::metrics;

/// Characters of an answer: hexadecimal digits of an HMAC-SHA-384, and room for what is none.
const TAG_CHARACTERS_MAX: usize = 256;
/// Of a wrong answer, so many are repeated to whoever sent it.
const TAG_CHARACTERS_SHOWN: usize = 96;

/// Activates a registration.
pub(super) async fn activate(
    axum::extract::State(registrar): State,
    method: Method,
    named: Result<Path<Named>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Ok(Path(named)) = named else {
        return malformed();
    };
    match version(&named) {
        Ok(Major::V3) if method == Method::PUT => {
            return envelope::without_body(StatusCode::METHOD_NOT_ALLOWED);
        }
        Ok(_) => {}
        Err(refusal) => return refusal,
    }
    let params = Params::read(&uri, &headers, &body);
    let tag = match params
        .as_ref()
        .map(|it| it.text("auth_tag", TAG_CHARACTERS_MAX))
    {
        Ok(Ok(Given::Value(tag))) => tag,
        _ => {
            count("request");
            return malformed();
        }
    };
    let text = named.agent_id.unwrap_or_default();
    let Ok(id) = AgentId::parse(&text) else {
        count("unknown");
        return not_found(&text);
    };
    for _ in 0..ATTEMPTS_MAX {
        match attempt(&registrar, &id, tag).await {
            Ok(Some(outcome)) => return answer(&outcome, &text, tag),
            // Another request came in between.
            Ok(None) => {}
            Err(error) => return super::records::failed(error),
        }
    }
    let text = "the registration is being changed";
    envelope::refuse(&ApiError::Unavailable(text))
}

/// What came of an answer.
enum Outcome {
    Activated(KeylimeActivated),
    Refused(KeylimeConflict),
    Wrong(KeylimeStanding),
    Unknown,
}

/// Holds the answer against the question that is open now. `None` when it is not open any more.
async fn attempt(
    registrar: &Arc<Registrar>,
    id: &AgentId,
    tag: &str,
) -> Result<Option<Outcome>, StoreError> {
    let (store, now) = (&registrar.store, unix_ms());
    let Some((present, revision)) = store.keylime_registration(id, now).await? else {
        return Ok(Some(Outcome::Unknown));
    };
    if is_right(&present, tag, now) {
        let shares_ek = registrar.shares_ek;
        let activated = store.activate_keylime_registration(id, revision, shares_ek, now);
        return Ok(match activated.await? {
            Ok(activated) => Some(Outcome::Activated(activated)),
            Err(KeylimeConflict::Changed) => None,
            Err(conflict) => Some(Outcome::Refused(conflict)),
        });
    }
    wrong(registrar, &present, revision, now).await
}

fn is_right(present: &KeylimeRegistration, tag: &str, now_unix_ms: u64) -> bool {
    present.challenge.as_ref().is_some_and(|challenge| {
        // Compared first, so that time tells nothing of the question.
        is_answer(&challenge.answer_sha256, tag) && now_unix_ms < challenge.expires_unix_ms
    })
}

/// A wrong answer uses up its question. Where there was none, nothing changes.
async fn wrong(
    registrar: &Registrar,
    present: &KeylimeRegistration,
    revision: Revision,
    now_unix_ms: u64,
) -> Result<Option<Outcome>, StoreError> {
    if present.challenge.is_none() {
        return Ok(Some(Outcome::Wrong(present.standing)));
    }
    let store = &registrar.store;
    let refused = store.refuse_keylime_answer(&present.id, revision, now_unix_ms);
    Ok(refused.await?.ok().map(Outcome::Wrong))
}

fn count(result: &'static str) {
    metrics::counter_of(metrics::KEYLIME_ACTIVATIONS, "result", result);
}

fn answer(outcome: &Outcome, text: &str, tag: &str) -> Response {
    match outcome {
        Outcome::Activated(activated) => {
            count(match activated {
                KeylimeActivated::New => "new",
                KeylimeActivated::SameAgain => "same",
                KeylimeActivated::Changed => "changed",
                KeylimeActivated::Proposed => "proposed",
            });
            envelope::bare(StatusCode::OK, "Success")
        }
        Outcome::Refused(conflict) => {
            count("conflict");
            tracing::warn!(agent = shown(text), %conflict, "an activation is refused");
            let text = "This TPM, or this agent id, is in use otherwise";
            envelope::bare(StatusCode::FORBIDDEN, text)
        }
        Outcome::Unknown => {
            count("unknown");
            not_found(text)
        }
        Outcome::Wrong(standing) => {
            count("wrong");
            tracing::warn!(
                agent = shown(text),
                "a registrar's challenge was answered wrongly"
            );
            envelope::bare(StatusCode::BAD_REQUEST, &refusal(*standing, text, tag))
        }
    }
}

/// What a wrong answer is told: nothing of the right one. (CVE-2023-38201)
fn refusal(standing: KeylimeStanding, text: &str, tag: &str) -> String {
    let is_shown =
        tag.len() <= TAG_CHARACTERS_SHOWN && tag.bytes().all(|it| it.is_ascii_hexdigit());
    let tag = if is_shown { tag } else { "(not shown)" };
    let what = match standing {
        KeylimeStanding::Pending { .. } => {
            "The agent has been deleted from the database and will need to be restarted to reattempt \
             registration"
        }
        KeylimeStanding::Active => {
            "The registration stays as it was and the agent will need to be restarted to reattempt \
             registration"
        }
    };
    let agent = shown(text);
    format!("Auth tag '{tag}' for agent '{agent}' does not match expected value. {what}")
}
