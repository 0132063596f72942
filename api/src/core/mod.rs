//! The Core REST API: enrolment, agents, policies, groups and tokens.
//!
//! R10 says what a token is for, R4 and R5 take a machine's claims and answer with a sealed
//! secret, `/agents/{id}/activate` takes the proof and answers with the agent's certificate. All
//! else is for operators: `request` reads what they name, the store makes the change together
//! with its entry in the audit log, and [`fleet::Fleet`] tells the shards.

mod activation;
mod agents;
mod audit;
pub mod baseline;
pub mod claims;
mod comparison;
mod coverage;
mod described;
mod enrolment;
mod evidence;
pub mod fleet;
pub mod groups;
mod health;
mod issue;
mod machines;
mod newest;
mod operate;
mod pending;
mod policies;
pub mod relays;
mod request;
mod serving;
mod status;
mod sync;
pub mod tokens;
pub mod webhooks;
mod wire;

pub use described::described;

use std::sync::Arc;

use rat_engine::evidence::NonceSource;
use rat_identity::ca::Ca;
use rat_identity::ek::EkTrust;
use rat_store::{Store, StoreError};

use crate::auth::Permission;
use crate::error::ApiError;
use crate::limits;
use crate::surface::{Aliases, AtOnceMax, BodyLimit, Route, Shared, Surface};

use fleet::{Fleet, FleetUnavailable};
use relays::Relays;
use webhooks::Webhooks;

/// What clients are told of where things are.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Where the verifier and the registrar are, as an IP address or a name.
    pub host: String,
    /// The verifier's port.
    pub verifier_port: u16,
    /// This API, as others reach it.
    pub core_url: String,
    /// `host:port` of the evidence listener, in order of preference.
    pub evidence: Vec<String>,
    /// The name in the server's certificate.
    pub server_name: String,
}

/// How an agent behaves between challenges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentMode {
    /// It stays connected.
    Stay,
    /// It leaves, and comes back when it is due.
    Leave,
}

impl AgentMode {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Leave => "leave",
        }
    }
}

/// What the Core API works with.
pub struct Core {
    /// The records.
    pub store: Store,
    /// Who issues certificates.
    pub ca: Arc<Ca>,
    /// Which TPMs are known.
    pub trust: Arc<EkTrust>,
    /// The agents, as they are served now.
    pub fleet: Arc<dyn Fleet>,
    /// Who lets relays connect.
    pub relays: Arc<dyn Relays>,
    /// Who is told of changes.
    pub webhooks: Arc<dyn Webhooks>,
    /// What clients are told.
    pub addresses: Addresses,
    /// How often agents attest whose group does not say otherwise.
    pub interval_ms: u64,
    /// The least that a group may say.
    pub interval_ms_min: u64,
    /// How agents behave in between.
    pub mode: AgentMode,
    /// Limits and credentials.
    pub shared: Arc<Shared>,
    /// When the server started.
    pub started: tokio::time::Instant,
    /// What requests leave for others.
    pub in_memory: InMemory,
}

/// What requests leave for others, in memory and bounded; a server starts with none of it.
#[derive(Default)]
pub struct InMemory {
    turns: serving::Turns,
    counted: evidence::Counted,
    coverage: coverage::Counts,
    counts: newest::Newest<status::Counted>,
}

type State = axum::extract::State<Arc<Core>>;

/// Other spellings of paths, whatever the method: names that clients and documents know a route by,
/// and collections without their slash or with one.
pub const ALIASES: Aliases = &[
    ("/agents/", &["/agents"]),
    (
        "/agents/enroll-baseline",
        &["/agents/baseline", "/agents/establish-baseline"],
    ),
    ("/agents/pending", &["/agents/pending/"]),
    ("/audit", &["/audit/"]),
    ("/groups/", &["/groups"]),
    ("/groups/{group_id}/ek", &["/groups/{group_id}/ek/"]),
    ("/policies/", &["/policies"]),
    ("/relays/", &["/relays"]),
    ("/tokens/", &["/tokens"]),
    (
        "/tokens/generate",
        &["/tokens/generate-standard", "/enrollment/generate"],
    ),
    (
        "/tokens/generate-baseline",
        &["/enrollment/generate-baseline"],
    ),
    ("/tokens/validate", &["/enrollment/validate"]),
    ("/webhooks/", &["/webhooks"]),
];

/// The routes of the Core API.
pub fn surface(shared: Arc<Shared>) -> Surface<Arc<Core>> {
    let surface = enrolment_routes(Surface::with_aliases(shared, ALIASES));
    let surface = agent_routes(surface);
    let surface = policy_routes(surface);
    let surface = webhook_routes(surface);
    let surface = relay_routes(surface);
    group_routes(surface)
        .route(Route::get("/health", Permission::Public), health::show)
        .route(Route::get("/audit", operator("audit:view")), audit::list)
        .route(Route::get("/status", operator("agents:view")), status::show)
}

const fn operator(action: &'static str) -> Permission {
    Permission::Operator(action)
}

/// The body of an operator's request that is neither a policy nor a group.
const SMALL: BodyLimit =
    BodyLimit::Bytes("OPERATOR_BODY_BYTES_MAX", limits::OPERATOR_BODY_BYTES_MAX);

fn enrolment_routes(surface: Surface<Arc<Core>>) -> Surface<Arc<Core>> {
    let token = Permission::EnrolmentToken;
    let body = BodyLimit::Bytes;
    let tokens = body("TOKEN_BODY_BYTES_MAX", limits::TOKEN_BODY_BYTES_MAX);
    let enrol = body("ENROL_BODY_BYTES_MAX", limits::ENROL_BODY_BYTES_MAX);
    let list = body("BASELINE_BODY_BYTES_MAX", limits::BASELINE_BODY_BYTES_MAX);
    let activate = body("ACTIVATE_BODY_BYTES_MAX", limits::ACTIVATE_BODY_BYTES_MAX);
    let baseline = Route {
        at_once: Some(AtOnceMax {
            name: "BASELINES_AT_ONCE_MAX",
            max: limits::BASELINES_AT_ONCE_MAX,
            of_address: 1,
        }),
        ..Route::post("/agents/enroll-baseline", token, list)
    };
    let activation = Route::post(
        "/agents/{agent_id}/activate",
        Permission::PendingActivation,
        activate,
    );
    let issue = operator("enroll:issue");
    surface
        .route(
            Route::post("/tokens/validate", token, tokens),
            tokens::validate,
        )
        .route(
            Route::post("/agents/enroll", token, enrol),
            enrolment::enrol,
        )
        .route(baseline, enrolment::enrol_baseline)
        .route(activation, activation::activate)
        .route(
            Route::post("/tokens/generate-baseline", issue, SMALL),
            issue::baseline,
        )
        .route(
            Route::post("/tokens/generate", issue, SMALL),
            issue::standard,
        )
        .route(Route::get("/tokens/", operator("enroll:view")), issue::list)
        .route(Route::delete("/tokens/{token_id}", issue), issue::revoke)
}

fn agent_routes(surface: Surface<Arc<Core>>) -> Surface<Arc<Core>> {
    let view = operator("agents:view");
    let manage = operator("agents:manage");
    let of_agent = |path, permission| Route::post(path, permission, SMALL);
    surface
        .route(Route::get("/agents/", view), agents::list)
        .route(Route::get("/agents/pending", view), machines::waiting)
        .route(Route::get("/agents/{agent_id}", view), agents::show)
        .route(
            Route::get("/agents/{agent_id}/evidence", operator("evidence:view")),
            evidence::show,
        )
        .route(
            of_agent("/agents/{agent_id}/sync-status", view),
            sync::sync_status,
        )
        .route(
            of_agent("/agents/{agent_id}/approve", operator("agents:approve")),
            operate::approve,
        )
        .route(of_agent("/agents/{agent_id}/clear", manage), operate::clear)
        .route(
            of_agent("/agents/{agent_id}/move", manage),
            operate::change_group,
        )
        .route(
            of_agent("/agents/{agent_id}/relay", manage),
            relays::of_agent,
        )
        .route(Route::delete("/agents/{agent_id}", manage), operate::remove)
}

fn policy_routes(surface: Surface<Arc<Core>>) -> Surface<Arc<Core>> {
    let view = operator("policies:view");
    let activate = operator("policies:activate");
    let policy = BodyLimit::Bytes("POLICY_BODY_BYTES_MAX", limits::POLICY_BODY_BYTES_MAX);
    let whole = |route: Route| Route {
        at_once: Some(AtOnceMax {
            name: "POLICIES_AT_ONCE_MAX",
            max: limits::POLICIES_AT_ONCE_MAX,
            of_address: 1,
        }),
        ..route
    };
    let text = |path| Route {
        at_once: Some(AtOnceMax {
            name: "POLICY_TEXTS_AT_ONCE_MAX",
            max: limits::POLICY_TEXTS_AT_ONCE_MAX,
            of_address: limits::POLICY_TEXTS_PER_ADDRESS_MAX,
        }),
        ..Route::get(path, view)
    };
    surface
        .route(Route::get("/policies/", view), policies::list)
        .route(
            whole(Route::post("/policies/", operator("policies:add"), policy)),
            policies::add,
        )
        .route(text("/policies/{policy_id}"), policies::show)
        .route(
            whole(Route::get("/policies/{policy_id}/diff", view)),
            policies::diff,
        )
        .route(
            whole(Route::post(
                "/policies/{policy_id}/activate",
                activate,
                SMALL,
            )),
            policies::activate,
        )
        .route(
            text("/policies/groups/{group_id}/active-policy"),
            policies::active,
        )
        .route(
            whole(Route::post(
                "/policies/groups/{group_id}/rollback",
                activate,
                SMALL,
            )),
            policies::roll_back,
        )
}

fn group_routes(surface: Surface<Arc<Core>>) -> Surface<Arc<Core>> {
    let view = operator("groups:view");
    let manage = operator("groups:manage");
    let group = BodyLimit::Bytes("GROUP_BODY_BYTES_MAX", limits::GROUP_BODY_BYTES_MAX);
    let machine = "/groups/{group_id}/ek/{ek_sha256}";
    surface
        .route(Route::get("/groups/", view), groups::list)
        .route(Route::post("/groups/", manage, group), groups::create)
        .route(Route::get("/groups/{group_id}", view), groups::show)
        .route(
            Route::put("/groups/{group_id}", manage, group),
            groups::change,
        )
        .route(
            Route::get("/groups/{group_id}/ek", operator("ek:view")),
            machines::approved,
        )
        .route(
            Route::put(machine, operator("ek:manage"), BodyLimit::None),
            machines::let_in,
        )
        .route(
            Route::delete(machine, operator("ek:manage")),
            machines::keep_out,
        )
}

fn webhook_routes(surface: Surface<Arc<Core>>) -> Surface<Arc<Core>> {
    let view = operator("webhooks:view");
    let test = Route {
        at_once: Some(AtOnceMax {
            name: "WEBHOOK_TESTS_AT_ONCE_MAX",
            max: limits::WEBHOOK_TESTS_AT_ONCE_MAX,
            of_address: limits::WEBHOOK_TESTS_AT_ONCE_MAX,
        }),
        ..Route::post(
            "/webhooks/{webhook_name}/test",
            operator("webhooks:manage"),
            BodyLimit::None,
        )
    };
    surface
        .route(Route::get("/webhooks/", view), webhooks::list)
        .route(
            Route::get("/webhooks/{webhook_name}/dead-letters", view),
            webhooks::dead_letters,
        )
        .route(
            Route::post(
                "/webhooks/{webhook_name}/dead-letters/{message_id}/redeliver",
                operator("webhooks:manage"),
                BodyLimit::None,
            ),
            webhooks::redeliver,
        )
        .route(test, webhooks::test)
}

fn relay_routes(surface: Surface<Arc<Core>>) -> Surface<Arc<Core>> {
    let manage = operator("relays:manage");
    surface
        .route(
            Route::get("/relays/", operator("relays:view")),
            relays::list,
        )
        .route(Route::post("/relays/", manage, SMALL), relays::add)
        .route(
            Route::delete("/relays/{relay_name}", manage),
            relays::remove,
        )
}

/// Random bytes of the operating system.
pub(crate) struct SystemRandom;

impl NonceSource for SystemRandom {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        getrandom::fill(bytes).ok()
    }
}

/// What a client is told when the store fails: nothing of why, which stands in the log.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::Unavailable("the records cannot be read or written now")
    }
}

/// What a client is told when nobody knows how the agents stand.
impl From<FleetUnavailable> for ApiError {
    fn from(_: FleetUnavailable) -> Self {
        Self::Unavailable("the agents' shards do not answer")
    }
}

/// Runs work that takes milliseconds or more where it holds up no other request.
async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a computation failed");
            Err(ApiError::Unavailable("the request could not be worked on"))
        }
    }
}
