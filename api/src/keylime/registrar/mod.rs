//! Keylime's registrar: agents show which TPM they have, and tenants read it.
//!
//! An agent registers its keys (`register`), gets a secret that only its TPM releases, and answers
//! with what follows from it (`activate`). What it may change later is said in `rules`.
//!
//! # Security
//! Agents speak over plain HTTP and have no credential. So nothing that they say counts before their
//! TPM has answered, and whoever changes what they say on its way can make them fail, but not be
//! somebody else. What remains: the answer covers the id alone, so that somebody between agent and
//! server can change address, port and certificate that come with a registration. (N10)
//!
//! Source: Keylime 7.14 `keylime/web/registrar`, `keylime/models/registrar`.

mod activate;
pub(super) mod asked;
mod records;
pub(super) mod register;
mod rules;

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use rat_identity::ek::EkTrust;
use rat_identity::keylime::{Claims, Policy, check};
use rat_store::Store;
use serde::Deserialize;

use super::envelope;
use super::params::{Given, Params};
use super::version::Major;
use crate::auth::Permission;
use crate::limits;
use crate::surface::{Aliases, AtOnceMax, BodyLimit, Route, Shared, Surface};
use asked::Asked;

/// What the routes of Keylime's registrar work with.
pub struct Registrar {
    /// The records.
    pub store: Store,
    /// Which TPMs are known.
    pub trust: Arc<EkTrust>,
    /// What is demanded of registrations.
    pub policy: Policy,
    /// Whether one machine may have several ids.
    pub shares_ek: bool,
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar")
            .field("policy", &self.policy)
            .field("shares_ek", &self.shares_ek)
            .finish_non_exhaustive()
    }
}

type State = axum::extract::State<Arc<Registrar>>;

/// What a path names.
#[derive(Debug, Deserialize)]
struct Named {
    version: String,
    #[serde(default)]
    agent_id: Option<String>,
}

const VERSIONS: &str = "/version";
const ROOT: &str = "/{version}";
const AGENTS: &str = "/{version}/agents";
const AGENT: &str = "/{version}/agents/{agent_id}";
const ACTIVATE: &str = "/{version}/agents/{agent_id}/activate";

/// Paths have the same meaning with a slash at the end.
const ALIASES: Aliases = &[
    (VERSIONS, &["/version/"]),
    (ROOT, &["/{version}/"]),
    (AGENTS, &["/{version}/agents/"]),
    (AGENT, &["/{version}/agents/{agent_id}/"]),
    (ACTIVATE, &["/{version}/agents/{agent_id}/activate/"]),
];

/// The routes of Keylime's registrar.
pub fn surface(shared: Arc<Shared>) -> Surface<Arc<Registrar>> {
    let public = Permission::KeylimePublic;
    let body = BodyLimit::Bytes(
        "REGISTRATION_BODY_BYTES_MAX",
        limits::REGISTRATION_BODY_BYTES_MAX,
    );
    let list = Route {
        at_once: Some(AtOnceMax {
            name: "REGISTRATION_LISTS_AT_ONCE_MAX",
            max: limits::REGISTRATION_LISTS_AT_ONCE_MAX,
            of_address: limits::REGISTRATION_LISTS_AT_ONCE_MAX,
            bytes_each: 0,
        }),
        ..Route::get(AGENTS, Permission::KeylimeAdmin("list_registrations"))
    };
    let read = Permission::KeylimeAdmin("read_registration");
    let delete = Permission::KeylimeAdmin("delete_registration");
    Surface::with_aliases(shared, ALIASES)
        .route(Route::get(VERSIONS, public), records::versions)
        .route(Route::get(ROOT, public), records::root)
        .route(list, records::list)
        .route(Route::get(AGENT, read), records::show)
        .route(Route::delete(AGENT, delete), records::remove)
        .route(Route::post(AGENTS, public, body), register::register)
        .route(Route::post(AGENT, public, body), register::register)
        .route(Route::put(AGENT, public, body), activate::activate)
        .route(Route::post(ACTIVATE, public, body), activate::activate)
        .route(Route::put(ACTIVATE, public, body), activate::activate)
}

/// The version that a path names, or the answer to one that has no such route.
fn version(named: &Named) -> Result<Major, Response> {
    let version = Major::parse(&named.version);
    version.ok_or_else(|| envelope::without_body(StatusCode::NOT_FOUND))
}

/// An id as texts show it: what is no id may be anything. (X07)
fn shown(agent: &str) -> &str {
    match AgentId::parse(agent) {
        Ok(_) => agent,
        Err(_) => "(no agent id)",
    }
}

fn not_found(agent: &str) -> Response {
    let text = format!("Agent with ID '{}' not found", shown(agent));
    envelope::bare(StatusCode::NOT_FOUND, &text)
}

fn malformed() -> Response {
    envelope::without_body(StatusCode::BAD_REQUEST)
}

/// Reads a body in JSON as a registration, and checks its keys as far as one can without trusting
/// anybody: for fuzzing. True when they fit together.
pub fn check_body(body: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let Ok(params) = Params::read(&Uri::from_static("/v2.6/agents/a"), &headers, body) else {
        return false;
    };
    let Ok(asked) = Asked::read(&params) else {
        return false;
    };
    let Ok(wanted) = rules::merge(None, &asked) else {
        return false;
    };
    let agent = match params.text("agent_id", rat_engine::limits::AGENT_ID_BYTES_MAX) {
        Ok(Given::Value(agent)) => agent,
        _ => "a",
    };
    let claims = Claims {
        ek_public: &wanted.ek_public,
        ek_certificate: wanted.details.ek_certificate.as_deref(),
        ak_public: &wanted.ak_public,
        device: register::device_claims(&wanted, &asked),
    };
    let policy = Policy {
        ek_check: rat_identity::keylime::EkCheck::Off,
        ..Policy::default()
    };
    check(&EkTrust::default(), policy, agent, &claims, 0).is_ok()
}
