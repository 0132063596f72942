//! `POST /v2.6/agents/{agent_id}`: an agent says which TPM it has, and is asked to prove it.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::agent_id::AgentId;
use rat_identity::keylime::{
    Certified, Challenge, Checked, Claims, Device, RegistrationError, Vouch, challenge, check,
};
use rat_identity::limits::ACTIVATION_TTL_MS;
use rat_store::{
    KeylimeConflict, KeylimeRegistration, KeylimeStanding, KeylimeVouch, NewKeylimeRegistration,
    Revision,
};
use serde::Serialize;

use super::asked::{Asked, Fault};
use super::rules::{Question, Refused, Wanted, merge, registered};
use super::{Named, Registrar, State, malformed, shown, version};
use crate::address::client_of;
use crate::auth::Peer;
use crate::clock::unix_ms;
use crate::core::SystemRandom;
use crate::error::ApiError;
use crate::keylime::envelope;
use crate::keylime::params::{Given, Params};
use crate::keylime::version::Major;
use crate::metrics;

/// How often a decision is made again because another request came in between.
pub(super) const ATTEMPTS_MAX: usize = 4;

const IDENTITY: &str =
    "Agent re-registration with different TPM identity is forbidden for security reasons";

#[derive(Serialize)]
struct Blob {
    blob: String,
}

/// Registers an agent, or registers it again.
pub(super) async fn register(
    axum::extract::State(registrar): State,
    Extension(peer): Extension<Peer>,
    named: Result<Path<Named>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Ok(Path(named)) = named else {
        return malformed();
    };
    match version(&named) {
        Ok(Major::V2) => {}
        // Version 3 has the id in the body alone.
        Ok(Major::V3) if named.agent_id.is_none() => {}
        Ok(Major::V3) => return envelope::without_body(StatusCode::METHOD_NOT_ALLOWED),
        Err(refusal) => return refusal,
    }
    let Ok(params) = Params::read(&uri, &headers, &body) else {
        count("request");
        return malformed();
    };
    let in_body = params.text("agent_id", rat_engine::limits::AGENT_ID_BYTES_MAX);
    let id = match (named.agent_id, in_body) {
        (Some(id), _) => id,
        (None, Ok(Given::Value(id))) => id.to_owned(),
        (None, _) => {
            count("request");
            return malformed();
        }
    };
    let asked = AgentId::parse(&id)
        .map_err(|error| Fault::new("request", error.to_string()))
        .and_then(|agent| Ok((agent, Asked::read(&params)?)));
    let (agent, asked) = match asked {
        Ok(asked) => asked,
        Err(fault) => return invalid(&id, &fault),
    };
    let request = Arc::new(Request {
        registrar,
        text: id,
        agent,
        asked,
    });
    let source = client_of(peer.address.ip()).to_string();
    request.run(&source).await
}

/// What came with a request.
struct Request {
    registrar: Arc<Registrar>,
    /// The id as the agent writes it: what its answer covers.
    text: String,
    agent: AgentId,
    asked: Asked,
}

/// A registration to be written, and what its agent is told.
struct Prepared {
    registration: KeylimeRegistration,
    blob: Vec<u8>,
    is_warned: bool,
}

impl Request {
    async fn run(self: Arc<Self>, source: &str) -> Response {
        for _ in 0..ATTEMPTS_MAX {
            let now = unix_ms();
            let store = &self.registrar.store;
            let present = match store.keylime_registration(&self.agent, now).await {
                Ok(present) => present,
                Err(error) => return super::records::failed(error),
            };
            let over = present.as_ref().map(|(_, revision)| *revision);
            let here = Arc::clone(&self);
            let prepared = tokio::task::spawn_blocking(move || {
                here.prepare(present.map(|(registration, _)| registration), now)
            });
            let prepared = match prepared.await {
                Ok(Ok(prepared)) => prepared,
                Ok(Err(refused)) => return self.refused(&refused),
                Err(error) => {
                    tracing::error!(%error, "a registration could not be checked");
                    let text = "the registration could not be checked";
                    return envelope::refuse(&ApiError::Unavailable(text));
                }
            };
            if let Some(response) = self.put(prepared, over, source, now).await {
                return response;
            }
        }
        count("concurrent");
        let text = format!(
            "Agent with UUID '{}' cannot be registered. This UUID is already in use or a concurrent \
             registration is in progress.",
            shown(&self.text)
        );
        envelope::bare(StatusCode::FORBIDDEN, &text)
    }

    /// Writes what was prepared; `None` when it must be prepared again.
    async fn put(
        &self,
        prepared: Prepared,
        over: Option<Revision>,
        source: &str,
        now_unix_ms: u64,
    ) -> Option<Response> {
        let new = NewKeylimeRegistration {
            registration: &prepared.registration,
            over,
            source,
            shares_ek: self.registrar.shares_ek,
        };
        let store = &self.registrar.store;
        match store.put_keylime_registration(new, now_unix_ms).await {
            Ok(Ok(())) => {
                count(if prepared.is_warned { "warned" } else { "done" });
                let blob = BASE64.encode(prepared.blob);
                Some(envelope::answer(StatusCode::OK, "Success", &Blob { blob }))
            }
            Ok(Err(KeylimeConflict::Changed)) => None,
            Ok(Err(conflict)) => Some(conflicting(&self.text, &conflict)),
            Err(error) => Some(super::records::failed(error)),
        }
    }

    /// Checks what is asked for over what is there, and makes the question.
    fn prepare(
        &self,
        present: Option<KeylimeRegistration>,
        now_unix_ms: u64,
    ) -> Result<Prepared, Refused> {
        let present = present.as_ref();
        let wanted = merge(present, &self.asked)?;
        let (checked, made) = self.check(&wanted, now_unix_ms)?;
        let is_warned = matches!(checked.vouch, Vouch::Unknown(_));
        if let Vouch::Unknown(error) = checked.vouch {
            let agent = self.agent.as_str();
            tracing::warn!(agent, %error, "nobody vouches for the TPM of a registration");
        }
        let expires_unix_ms = now_unix_ms.saturating_add(ttl_ms());
        let mut details = wanted.details;
        details.vouch = stored(checked.vouch);
        let new = KeylimeRegistration {
            id: self.agent.clone(),
            ek_sha256: checked.ek_sha256,
            ek_public: wanted.ek_public,
            ak_public: wanted.ak_public,
            details,
            regcount: 1,
            standing: KeylimeStanding::Pending { expires_unix_ms },
            challenge: None,
            proposed: None,
            registered_unix_ms: now_unix_ms,
        };
        let question = Question {
            answer_sha256: made.answer_sha256,
            expires_unix_ms,
        };
        Ok(Prepared {
            registration: registered(present, new, question),
            blob: made.blob,
            is_warned,
        })
    }

    fn check(&self, wanted: &Wanted, now_unix_ms: u64) -> Result<(Checked, Challenge), Fault> {
        let device = device_claims(wanted, &self.asked);
        let is_certified = device.is_none_or(|device| device.certified.is_some());
        if wanted.needs_certified && !is_certified {
            let detail = "iak_attest and iak_sign are missing";
            return Err(Fault::new("device.not_certified", detail));
        }
        let claims = Claims {
            ek_public: &wanted.ek_public,
            ek_certificate: wanted.details.ek_certificate.as_deref(),
            ak_public: &wanted.ak_public,
            device,
        };
        let Registrar { trust, policy, .. } = &*self.registrar;
        let checked = check(trust, *policy, &self.text, &claims, now_unix_ms)?;
        let made = challenge(
            &wanted.ek_public,
            &checked.ak_name,
            &self.text,
            &mut SystemRandom,
        );
        let made = made.map_err(|error| Fault::new("challenge", error.to_string()))?;
        Ok((checked, made))
    }

    fn refused(&self, refused: &Refused) -> Response {
        match refused {
            Refused::Identity(member) => {
                count("identity");
                let agent = self.agent.as_str();
                tracing::warn!(
                    agent,
                    member,
                    "a registration with another identity is refused"
                );
                envelope::bare(StatusCode::FORBIDDEN, IDENTITY)
            }
            Refused::Invalid(fault) => invalid(&self.text, fault),
        }
    }
}

/// What is claimed of IAK and IDevID, and the proof where one came along.
pub(super) fn device_claims<'a>(wanted: &'a Wanted, asked: &'a Asked) -> Option<Device<'a>> {
    let device = wanted.details.device.as_ref()?;
    let proof = asked.iak_attest.as_ref().zip(asked.iak_sign.as_ref());
    Some(Device {
        iak_public: &device.iak_public,
        iak_certificate: &device.iak_certificate,
        idevid_public: &device.idevid_public,
        idevid_certificate: &device.idevid_certificate,
        certified: proof
            .filter(|_| wanted.needs_certified)
            .map(|(attest, signature)| Certified { attest, signature }),
    })
}

pub(in crate::keylime) const fn stored(vouch: Vouch) -> KeylimeVouch {
    match vouch {
        Vouch::Unchecked => KeylimeVouch::Unchecked,
        Vouch::Unknown(_) => KeylimeVouch::Unknown,
        Vouch::Chain(root) => KeylimeVouch::Chain { root },
        Vouch::List => KeylimeVouch::List,
        Vouch::Device => KeylimeVouch::Device,
    }
}

fn ttl_ms() -> u64 {
    u64::try_from(ACTIVATION_TTL_MS).unwrap_or(u64::MAX)
}

fn count(result: &'static str) {
    metrics::counter_of(metrics::KEYLIME_REGISTRATIONS, "result", result);
}

/// The one answer to what cannot be registered. Why, stands in the log: Keylime's clients are told
/// no more.
fn invalid(id: &str, fault: &Fault) -> Response {
    count(fault.code);
    let Fault { code, detail } = fault;
    tracing::info!(agent = shown(id), code, detail, "a registration is refused");
    let text = "Could not register agent with invalid data";
    envelope::bare(StatusCode::BAD_REQUEST, text)
}

/// The answer to what contradicts a record.
fn conflicting(id: &str, conflict: &KeylimeConflict) -> Response {
    let (code, text) = match conflict {
        KeylimeConflict::TooMany { limit } => {
            count("full");
            return envelope::refuse(&ApiError::limited(limit, 60));
        }
        KeylimeConflict::EkTaken(_) => {
            ("ek_taken", "This TPM is registered under another agent id")
        }
        KeylimeConflict::OtherPath => ("other_path", "This agent is enrolled on another path"),
        KeylimeConflict::Changed => ("concurrent", "This agent is being registered"),
    };
    count(code);
    tracing::warn!(agent = shown(id), %conflict, "a registration is refused");
    envelope::bare(StatusCode::FORBIDDEN, text)
}

impl From<RegistrationError> for Refused {
    fn from(error: RegistrationError) -> Self {
        Self::Invalid(error.into())
    }
}
