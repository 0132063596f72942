//! Keylime's verifier, as tenants know it: agents, and the policies that judge them.
//!
//! An agent that is added here is one of the fleet's: the same shards ask, judge and record it. What
//! its tenant says of it beside is kept for the tenant ([`rat_store::KeylimeFacts`]).
//!
//! Source: Keylime 7.14 `keylime/cloud_verifier_tornado.py`.

pub(super) mod add;
mod agents;
pub(super) mod asked;
mod identity;
pub(super) mod policies;
mod status;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::State as Extract;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use rat_engine::uefi::policy::PolicyName;
use rat_engine::verdict::severity::SeverityPolicy;
use rat_store::Store;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Mutex, MutexGuard};

use super::envelope;
use super::version::{CURRENT, Major, SUPPORTED};
use crate::auth::Permission;
use crate::core::fleet::Fleet;
use crate::error::ApiError;
use crate::limits;
use crate::surface::{Aliases, AtOnceMax, BodyLimit, Route, Shared, Surface};

/// By which way evidence of an agent comes that a tenant adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As the tenant says: an agent with an address and a certificate is polled, another one pushes.
    #[default]
    Auto,
    /// Every agent pushes, as where Keylime's `mode` is `push`.
    Push,
}

/// Whoever polls agents that have an address.
pub trait Polls: Send + Sync {
    /// Polls this agent from now on, as it is stored; nothing for one that pushes. The shards know
    /// it already.
    fn put(
        &self,
        agent: AgentId,
    ) -> Pin<Box<dyn Future<Output = Result<(), NotPolled>> + Send + '_>>;

    /// Polls it no more.
    fn remove(&self, agent: &AgentId);
}

/// An agent cannot be polled as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the agent cannot be polled: {0}")]
pub struct NotPolled(pub String);

/// What the routes of the verifier work with.
pub struct Verifier {
    /// The records.
    pub store: Store,
    /// The shards.
    pub fleet: Arc<dyn Fleet>,
    /// Who polls; `None` where nobody does.
    pub polls: Option<Arc<dyn Polls>>,
    /// By which way evidence comes.
    pub mode: Mode,
    /// What `verifier_id` says.
    pub id: String,
    /// Whether runtime policies must be signed by the key that comes with them: Keylime's
    /// `require_allow_list_signatures`.
    pub require_policy_signatures: bool,
    /// What judges boot logs by a reference state.
    pub boot_policy: PolicyName,
    /// The address that agents' records name.
    pub ip: String,
    /// Its port.
    pub port: u16,
    /// From one attestation of an agent to its next, in seconds.
    pub interval_seconds: u64,
    /// How grave failures are.
    pub severities: Arc<SeverityPolicy>,
    /// Who adds or removes has a turn: the store and the shards are changed one after the other.
    pub turn: Mutex<()>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("mode", &self.mode)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

type State = Extract<Arc<Verifier>>;

/// What a path names.
#[derive(Debug, Deserialize)]
struct Named {
    version: String,
    #[serde(default)]
    name: Option<String>,
}

const BEGIN: &str = "/";
const IDENTITY: &str = "/{version}/verify/identity";
const VERSIONS: &str = "/version";
const ROOT: &str = "/{version}";
const AGENTS: &str = "/{version}/agents";
const AGENT: &str = "/{version}/agents/{name}";
const REACTIVATE: &str = "/{version}/agents/{name}/reactivate";
const STOP: &str = "/{version}/agents/{name}/stop";
const RUNTIME: &str = "/{version}/allowlists";
const RUNTIME_ONE: &str = "/{version}/allowlists/{name}";
const BOOT: &str = "/{version}/mbpolicies";
const BOOT_ONE: &str = "/{version}/mbpolicies/{name}";

/// Paths have the same meaning with a slash at the end.
const ALIASES: Aliases = &[
    (IDENTITY, &["/{version}/verify/identity/"]),
    (VERSIONS, &["/version/", "/versions"]),
    (ROOT, &["/{version}/"]),
    (AGENTS, &["/{version}/agents/"]),
    (AGENT, &["/{version}/agents/{name}/"]),
    (REACTIVATE, &["/{version}/agents/{name}/reactivate/"]),
    (STOP, &["/{version}/agents/{name}/stop/"]),
    (RUNTIME, &["/{version}/allowlists/"]),
    (RUNTIME_ONE, &["/{version}/allowlists/{name}/"]),
    (BOOT, &["/{version}/mbpolicies/"]),
    (BOOT_ONE, &["/{version}/mbpolicies/{name}/"]),
];

/// The routes of the verifier.
pub fn surface(shared: Arc<Shared>) -> Surface<Arc<Verifier>> {
    let public = Permission::KeylimePublic;
    let surface = Surface::with_aliases(shared, ALIASES)
        .route(Route::get(BEGIN, public), begin)
        .route(Route::get(IDENTITY, public), identity::verify)
        .route(Route::get(VERSIONS, public), versions)
        .route(Route::get(ROOT, public), root);
    of_policies(of_agents(surface))
}

/// Adds the routes of the agents.
fn of_agents(surface: Surface<Arc<Verifier>>) -> Surface<Arc<Verifier>> {
    let admin = Permission::KeylimeAdmin;
    surface
        .route(
            large(Route::get(AGENTS, admin("list_agents"))),
            agents::list,
        )
        .route(
            Route::get(AGENT, Permission::KeylimeAgentOrAdmin("read_agent")),
            agents::show,
        )
        .route(
            large(Route::post(AGENT, admin("create_agent"), BODY)),
            add::add,
        )
        .route(Route::delete(AGENT, admin("delete_agent")), agents::remove)
        .route(
            Route::put(REACTIVATE, admin("reactivate_agent"), BodyLimit::None),
            agents::reactivate,
        )
        .route(
            Route::put(STOP, admin("stop_agent"), BodyLimit::None),
            agents::stop,
        )
}

/// Adds the routes of the runtime and the measured boot policies.
fn of_policies(surface: Surface<Arc<Verifier>>) -> Surface<Arc<Verifier>> {
    let listing = |path, action| large(Route::get(path, Permission::KeylimeAdmin(action)));
    let creating = |path, action| large(Route::post(path, Permission::KeylimeAdmin(action), BODY));
    let replacing = |path, action| large(Route::put(path, Permission::KeylimeAdmin(action), BODY));
    let removing = |path, action| Route::delete(path, Permission::KeylimeAdmin(action));
    surface
        .route(
            listing(RUNTIME, "list_runtime_policies"),
            policies::list_runtime,
        )
        .route(
            listing(RUNTIME_ONE, "read_runtime_policy"),
            policies::show_runtime,
        )
        .route(
            creating(RUNTIME_ONE, "create_runtime_policy"),
            policies::create_runtime,
        )
        .route(
            replacing(RUNTIME_ONE, "update_runtime_policy"),
            policies::replace_runtime,
        )
        .route(
            removing(RUNTIME_ONE, "delete_runtime_policy"),
            policies::remove_runtime,
        )
        .route(listing(BOOT, "list_mb_policies"), policies::list_boot)
        .route(listing(BOOT_ONE, "read_mb_policy"), policies::show_boot)
        .route(
            creating(BOOT_ONE, "create_mb_policy"),
            policies::create_boot,
        )
        .route(
            replacing(BOOT_ONE, "update_mb_policy"),
            policies::replace_boot,
        )
        .route(
            removing(BOOT_ONE, "delete_mb_policy"),
            policies::remove_boot,
        )
}

/// The longest body of a request.
const BODY: BodyLimit = BodyLimit::Bytes("KEYLIME_BODY_BYTES_MAX", limits::KEYLIME_BODY_BYTES_MAX);

/// A route whose requests or answers are large, of which few are worked on at once.
fn large(route: Route) -> Route {
    Route {
        at_once: Some(AtOnceMax {
            name: "KEYLIME_BODIES_AT_ONCE_MAX",
            max: limits::KEYLIME_BODIES_AT_ONCE_MAX,
            of_address: limits::KEYLIME_BODIES_AT_ONCE_MAX,
            bytes_each: 0,
        }),
        ..route
    }
}

#[derive(Serialize)]
struct Versions {
    current_version: &'static str,
    supported_versions: [&'static str; 9],
}

/// Tells which versions are spoken.
async fn versions() -> Response {
    let versions = Versions {
        current_version: CURRENT,
        supported_versions: SUPPORTED,
    };
    success(&versions)
}

/// Points to the newest version's root.
async fn begin() -> Response {
    let mut response = envelope::without_body(StatusCode::TEMPORARY_REDIRECT);
    let location = HeaderValue::from_static("/v3.0/");
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Tells that version 3 is spoken; in version 2 the path is none of its interface.
async fn root(path: axum::extract::Path<Named>) -> Response {
    match Major::parse(&path.version) {
        Some(Major::V3) => envelope::bare(StatusCode::OK, "Success"),
        Some(Major::V2) => {
            let text = "Not Implemented: Use /agents/ interface instead";
            envelope::bare(StatusCode::METHOD_NOT_ALLOWED, text)
        }
        None => envelope::without_body(StatusCode::NOT_FOUND),
    }
}

fn success(results: &impl Serialize) -> Response {
    envelope::answer(StatusCode::OK, "Success", results)
}

/// The version that a path names, or the answer to one that has no such route: tenants look for the
/// text of it.
fn check(named: &Named) -> Result<(), Response> {
    match Major::parse(&named.version) {
        Some(Major::V2) => Ok(()),
        Some(Major::V3) => Err(envelope::without_body(StatusCode::NOT_FOUND)),
        None => {
            let number = named.version.strip_prefix('v').unwrap_or(&named.version);
            let is_second = number.starts_with("2.");
            Err(match is_second {
                true => envelope::bare(StatusCode::BAD_REQUEST, "API Version not supported"),
                false => envelope::without_body(StatusCode::NOT_FOUND),
            })
        }
    }
}

/// The agent that a path names.
fn agent(named: &Named) -> Result<AgentId, Response> {
    check(named)?;
    let text = named.name.as_deref().unwrap_or_default();
    AgentId::parse(text)
        .map_err(|_| envelope::bare(StatusCode::BAD_REQUEST, "agent_id not not valid"))
}

/// The answer when the records or the shards fail: asking again may help.
fn failed(error: impl Into<ApiError>) -> Response {
    envelope::refuse(&error.into())
}
