//! Sessions as resources: a challenge for the attestation key, and the token that its proof earns.
//!
//! Whether an agent is enrolled is told to nobody who has not proved its key: before, the answers
//! are the same.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rat_engine::agent_id::AgentId;
use rat_engine::limits::{ATTEST_BYTES_MAX, SIGNATURE_BYTES_MAX};
use rat_engine::tpm::Public;
use serde::{Deserialize, Serialize};

use super::super::envelope;
use super::attestations::keylime_time;
use super::capabilities::Document;
use super::errors::malformed;
use super::possession;
use super::sessions::{Granted, Pending, Proven, draw_name, sha256};
use super::{Known, Push, is_version_3};
use crate::auth::Peer;
use crate::clock::unix_ms;
use crate::error::{ApiError, json_response};
use crate::metrics;

const CLASS: &str = "pop";
const TYPE: &str = "tpm_pop";

#[derive(Debug, Deserialize)]
struct Asks {
    agent_id: String,
    #[serde(default)]
    authentication_supported: Vec<Method>,
}

#[derive(Debug, Deserialize)]
struct Method {
    authentication_class: Option<String>,
    authentication_type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Proves {
    agent_id: String,
    #[serde(default)]
    authentication_provided: Vec<Provided>,
}

#[derive(Debug, Deserialize)]
struct Provided {
    authentication_class: String,
    authentication_type: String,
    data: Proof,
}

/// What the TPM gave, as it was sent; it is told back.
#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    message: String,
    signature: String,
}

#[derive(Serialize)]
struct Session<'s, A> {
    data: Resource<'s, A>,
}

#[derive(Serialize)]
struct Resource<'s, A> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'s str,
    attributes: A,
}

#[derive(Serialize)]
struct Parameters {
    challenge: String,
}

#[derive(Serialize)]
struct Requested {
    authentication_class: &'static str,
    authentication_type: &'static str,
    chosen_parameters: Parameters,
}

#[derive(Serialize)]
struct Challenged<'s> {
    agent_id: &'s str,
    authentication_requested: [Requested; 1],
    created_at: String,
    challenges_expire_at: String,
}

#[derive(Serialize)]
struct Given<'p> {
    authentication_class: &'static str,
    authentication_type: &'static str,
    chosen_parameters: Parameters,
    data: &'p Proof,
}

#[derive(Serialize)]
struct Evaluated<'s> {
    agent_id: &'s str,
    evaluation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    authentication: Vec<Given<'s>>,
    created_at: String,
    challenges_expire_at: String,
    response_received_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_expires_at: Option<String>,
}

fn bad_request(detail: &str) -> Response {
    envelope::titled(StatusCode::BAD_REQUEST, "Bad Request", detail.to_owned())
}

fn unavailable() -> Response {
    envelope::refuse(&ApiError::Unavailable("sessions cannot be opened now"))
}

/// `POST /v3.0/sessions`.
pub(super) async fn ask(
    State(push): State<Push>,
    Extension(peer): Extension<Peer>,
    Path(version): Path<String>,
    body: Bytes,
) -> Response {
    if !is_version_3(&version) {
        return envelope::without_body(StatusCode::NOT_FOUND);
    }
    let Some(document) = Document::<Asks>::read(&body) else {
        return malformed();
    };
    let Asks {
        agent_id,
        authentication_supported,
    } = document.data.attributes;
    if let Err(limited) = push.rate.take(peer.address.ip(), &agent_id) {
        push.count("session", "limited");
        let detail = "Too many sessions were asked for.";
        let status = StatusCode::TOO_MANY_REQUESTS;
        let mut response = envelope::titled(status, "Too Many Requests", detail.to_owned());
        limited.add_headers(&mut response);
        return response;
    }
    let Ok(agent) = AgentId::parse(&agent_id) else {
        return bad_request("agent_id is required");
    };
    let proves = |method: &Method| {
        method.authentication_type.as_deref() == Some(TYPE)
            && method
                .authentication_class
                .as_deref()
                .is_none_or(|class| class == CLASS)
    };
    if !authentication_supported.iter().any(proves) {
        return bad_request("authentication_supported must include tpm_pop authentication type");
    }
    let mut challenge = [0; 16];
    let (Some(name), Ok(())) = (draw_name(), getrandom::fill(&mut challenge)) else {
        return unavailable();
    };
    let kept = push
        .sessions
        .challenge(name.clone(), agent, challenge, unix_ms());
    let pending = match kept {
        Ok(pending) => pending,
        Err(full) => {
            metrics::limit_rejected(full.limit);
            return envelope::refuse(&ApiError::limited(full.limit, 1));
        }
    };
    json_response(
        StatusCode::OK,
        &Session {
            data: Resource {
                kind: "session",
                id: &name,
                attributes: Challenged {
                    agent_id: &agent_id,
                    authentication_requested: [Requested {
                        authentication_class: CLASS,
                        authentication_type: TYPE,
                        chosen_parameters: Parameters {
                            challenge: STANDARD.encode(challenge),
                        },
                    }],
                    created_at: keylime_time(pending.created_unix_ms),
                    challenges_expire_at: keylime_time(pending.expires_unix_ms),
                },
            },
        },
    )
}

/// Why a session is not opened, and how that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotOpened {
    /// The challenge is over, or nobody of this name is enrolled: it may be another time.
    NotNow(&'static str),
    /// The proof is none.
    NoProof,
}

/// `PATCH /v3.0/sessions/{session_id}`.
pub(super) async fn prove(
    State(push): State<Push>,
    Path((version, name)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    if !is_version_3(&version) {
        return envelope::without_body(StatusCode::NOT_FOUND);
    }
    let Some(document) = Document::<Proves>::read(&body) else {
        return malformed();
    };
    let not_found = || {
        let detail = "Session not found".to_owned();
        envelope::titled(StatusCode::NOT_FOUND, "Not Found", detail)
    };
    if document.data.id.as_ref().is_some_and(|id| *id != name) {
        return not_found();
    }
    let Proves {
        agent_id,
        authentication_provided,
    } = document.data.attributes;
    let Some(pending) = push.sessions.answered(&name) else {
        return not_found();
    };
    if pending.agent.as_str() != agent_id {
        return bad_request("Agent ID mismatch");
    }
    let is_ours =
        |it: &&Provided| it.authentication_class == CLASS && it.authentication_type == TYPE;
    let provided = authentication_provided.iter().find(is_ours);
    let proof = provided.map(|provided| &provided.data);
    let opened = match proof {
        Some(proof) => push.open(&name, &pending, proof).await,
        None => Err(Some(NotOpened::NoProof)),
    };
    let (status, result, granted) = match opened {
        Ok(granted) => (StatusCode::OK, "pass", Some(granted)),
        Err(Some(NotOpened::NotNow(result))) => (StatusCode::OK, result, None),
        Err(Some(NotOpened::NoProof)) => (StatusCode::UNAUTHORIZED, "no_proof", None),
        Err(None) => return unavailable(),
    };
    push.count("session", result);
    evaluated(status, &name, &pending, proof, granted)
}

fn evaluated(
    status: StatusCode,
    name: &str,
    pending: &Pending,
    proof: Option<&Proof>,
    granted: Option<Granted>,
) -> Response {
    let evaluation = if granted.is_some() { "pass" } else { "fail" };
    let given = proof.map(|data| Given {
        authentication_class: CLASS,
        authentication_type: TYPE,
        chosen_parameters: Parameters {
            challenge: STANDARD.encode(pending.challenge),
        },
        data,
    });
    let (token, expires) = granted.map_or((None, None), |granted| {
        (Some(granted.token), Some(granted.expires_unix_ms))
    });
    json_response(
        status,
        &Session {
            data: Resource {
                kind: "session",
                id: name,
                attributes: Evaluated {
                    agent_id: pending.agent.as_str(),
                    evaluation,
                    token,
                    authentication: given.into_iter().collect(),
                    created_at: keylime_time(pending.created_unix_ms),
                    challenges_expire_at: keylime_time(pending.expires_unix_ms),
                    response_received_at: keylime_time(unix_ms()),
                    token_expires_at: expires.map(keylime_time),
                },
            },
        },
    )
}

impl super::Inner {
    /// Opens the session of an agent that has the key which is enrolled; `None` as an error when
    /// that cannot be found out.
    async fn open(
        &self,
        name: &str,
        pending: &Pending,
        proof: &Proof,
    ) -> Result<Granted, Option<NotOpened>> {
        if pending.is_over() {
            return Err(Some(NotOpened::NotNow("expired")));
        }
        let known = self.known(&pending.agent).await.map_err(|_| None)?;
        // As Keylime: who is not enrolled yet is told nothing, and asks again.
        let Some(known) = known else {
            return Err(Some(NotOpened::NotNow("not_enrolled")));
        };
        let ak_name = proven_name(&known, pending, proof).ok_or(Some(NotOpened::NoProof))?;
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|_| None)?;
        let proven = Proven {
            agent: pending.agent.clone(),
            session_sha256: sha256(name.as_bytes()),
            ak_name: ak_name.into(),
            ak_sha256: sha256(&known.record.ak_public),
        };
        let opened = self
            .sessions
            .open(name.to_owned(), proven, &secret, unix_ms());
        opened.map_err(|full| {
            metrics::limit_rejected(full.limit);
            None
        })
    }
}

/// The Name of the enrolled key, when the proof is its.
fn proven_name(known: &Known, pending: &Pending, proof: &Proof) -> Option<Vec<u8>> {
    let ak = Public::parse(&known.record.ak_public).ok()?;
    let message = decode(&proof.message, ATTEST_BYTES_MAX)?;
    let signature = decode(&proof.signature, SIGNATURE_BYTES_MAX)?;
    match possession::check(&ak, &pending.challenge, &message, &signature) {
        Ok(()) => Some(ak.name().to_bytes()),
        Err(error) => {
            tracing::info!(agent = %pending.agent, %error, "a session is not opened");
            None
        }
    }
}

/// Two bytes of length may stand before it.
fn decode(text: &str, max: usize) -> Option<Vec<u8>> {
    let characters = max.saturating_add(2).div_ceil(3).saturating_mul(4);
    (text.len() <= characters).then(|| STANDARD.decode(text).ok())?
}
