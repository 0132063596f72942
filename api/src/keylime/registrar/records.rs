//! What is read and removed: versions for everybody, registrations for administrators.

use axum::Extension;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::agent_id::AgentId;
use rat_identity::pem;
use rat_store::{KeylimeMtlsCertificate, KeylimeRegistration, KeylimeStanding, StoreError};
use serde::Serialize;

use super::{Named, State, not_found, version};
use crate::auth::Peer;
use crate::clock::unix_ms;
use crate::error::ApiError;
use crate::keylime::version::{CURRENT, Major, SUPPORTED};
use crate::keylime::{Identity, envelope};

#[derive(Serialize)]
struct Versions {
    current_version: &'static str,
    supported_versions: [&'static str; 9],
}

/// Tells which versions are spoken.
pub(super) async fn versions() -> Response {
    let versions = Versions {
        current_version: CURRENT,
        supported_versions: SUPPORTED,
    };
    envelope::answer(StatusCode::OK, "Success", &versions)
}

/// Tells that version 3 is spoken; version 2 has no such path.
pub(super) async fn root(named: Result<Path<Named>, PathRejection>) -> Response {
    match named.map(|Path(named)| Major::parse(&named.version)) {
        Ok(Some(Major::V3)) => envelope::bare(StatusCode::OK, "Success"),
        _ => envelope::without_body(StatusCode::NOT_FOUND),
    }
}

#[derive(Serialize)]
struct Ids {
    uuids: Vec<String>,
}

/// Lists the ids of all registrations, proven or not.
pub(super) async fn list(
    axum::extract::State(registrar): State,
    named: Result<Path<Named>, PathRejection>,
) -> Response {
    if let Err(refusal) = read_path(named) {
        return refusal;
    }
    match registrar.store.keylime_registration_ids(unix_ms()).await {
        Ok(uuids) => envelope::answer(StatusCode::OK, "Success", &Ids { uuids }),
        Err(error) => failed(error),
    }
}

/// A registration, as tenants read it.
#[derive(Serialize)]
struct Shown<'a> {
    agent_id: &'a str,
    ek_tpm: String,
    ekcert: Option<String>,
    aik_tpm: String,
    ip: Option<&'a str>,
    port: Option<u16>,
    mtls_cert: Option<String>,
    regcount: u64,
}

impl<'a> Shown<'a> {
    fn of(registration: &'a KeylimeRegistration) -> Self {
        let details = &registration.details;
        Self {
            agent_id: registration.id.as_str(),
            ek_tpm: BASE64.encode(&registration.ek_public),
            ekcert: details
                .ek_certificate
                .as_ref()
                .map(|der| BASE64.encode(der)),
            aik_tpm: BASE64.encode(&registration.ak_public),
            ip: details.ip.as_deref(),
            port: details.port,
            mtls_cert: match &details.mtls_cert {
                KeylimeMtlsCertificate::Absent => None,
                KeylimeMtlsCertificate::Disabled => Some("disabled".to_owned()),
                KeylimeMtlsCertificate::Certificate(der) => Some(pem::encode("CERTIFICATE", der)),
            },
            regcount: registration.regcount,
        }
    }
}

/// Shows a registration that its TPM has proven.
pub(super) async fn show(
    axum::extract::State(registrar): State,
    named: Result<Path<Named>, PathRejection>,
) -> Response {
    let text = match read_path(named) {
        Ok(named) => named.agent_id.unwrap_or_default(),
        Err(refusal) => return refusal,
    };
    let Ok(id) = AgentId::parse(&text) else {
        return not_found(&text);
    };
    match registrar.store.keylime_registration(&id, unix_ms()).await {
        Ok(None) => not_found(&text),
        Ok(Some((found, _))) => match found.standing {
            KeylimeStanding::Active => {
                envelope::answer(StatusCode::OK, "Success", &Shown::of(&found))
            }
            KeylimeStanding::Pending { .. } => {
                let text = format!("Agent with ID '{text}' has not been activated");
                envelope::bare(StatusCode::NOT_FOUND, &text)
            }
        },
        Err(error) => failed(error),
    }
}

/// Removes a registration: its id and its machine are free.
pub(super) async fn remove(
    axum::extract::State(registrar): State,
    Extension(peer): Extension<Peer>,
    named: Result<Path<Named>, PathRejection>,
) -> Response {
    let text = match read_path(named) {
        Ok(named) => named.agent_id.unwrap_or_default(),
        Err(refusal) => return refusal,
    };
    let Ok(id) = AgentId::parse(&text) else {
        return not_found(&text);
    };
    let actor = Identity::of(&peer).actor();
    let store = &registrar.store;
    match store
        .remove_keylime_registration(&id, &actor, unix_ms())
        .await
    {
        Ok(true) => envelope::bare(StatusCode::OK, "Success"),
        Ok(false) => not_found(&text),
        Err(error) => failed(error),
    }
}

fn read_path(named: Result<Path<Named>, PathRejection>) -> Result<Named, Response> {
    let Path(named) = named.map_err(|_| envelope::without_body(StatusCode::NOT_FOUND))?;
    version(&named).map(|_| named)
}

/// The answer when the store fails: asking again may help.
pub(super) fn failed(error: StoreError) -> Response {
    envelope::refuse(&ApiError::from(error))
}
