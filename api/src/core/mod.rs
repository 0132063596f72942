//! The Core REST API: enrolment, and the agents, read-only.
//!
//! R10 says what a token is for, R4 and R5 take a machine's claims and answer with a sealed
//! secret, `/agents/{id}/activate` takes the proof and answers with the agent's certificate. R1
//! and R2 show agents to operators.

mod activation;
mod agents;
pub mod baseline;
pub mod claims;
mod enrolment;
mod evidence;
pub mod fleet;
mod pending;
pub mod tokens;
mod wire;

use std::sync::Arc;

use rat_engine::evidence::NonceSource;
use rat_engine::hash::Digest;
use rat_identity::ca::Ca;
use rat_identity::ek::EkTrust;
use rat_store::{Store, StoreError};

use crate::auth::Permission;
use crate::error::ApiError;
use crate::limits;
use crate::surface::{BodyLimit, Route, Shared, Surface};

use fleet::Fleet;

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
    /// What clients are told.
    pub addresses: Addresses,
    /// How often agents attest.
    pub interval_ms: u64,
    /// How agents behave in between.
    pub mode: AgentMode,
    /// Limits and credentials.
    pub shared: Arc<Shared>,
    /// The policy whose paths were counted last, and how many they are.
    pub counted: tokio::sync::Mutex<Option<(Digest, usize)>>,
}

type State = axum::extract::State<Arc<Core>>;

/// The routes of the Core API.
pub fn surface(shared: Arc<Shared>) -> Surface<Arc<Core>> {
    let token = Permission::EnrolmentToken;
    let body = BodyLimit::Bytes;
    let tokens = body("TOKEN_BODY_BYTES_MAX", limits::TOKEN_BODY_BYTES_MAX);
    let enrol = body("ENROL_BODY_BYTES_MAX", limits::ENROL_BODY_BYTES_MAX);
    let list = body("BASELINE_BODY_BYTES_MAX", limits::BASELINE_BODY_BYTES_MAX);
    let activate = body("ACTIVATE_BODY_BYTES_MAX", limits::ACTIVATE_BODY_BYTES_MAX);
    let baseline = Route {
        at_once: Some(("BASELINES_AT_ONCE_MAX", limits::BASELINES_AT_ONCE_MAX)),
        ..Route::post("/agents/enroll-baseline", token, list)
    };
    let activation = Route::post(
        "/agents/{agent_id}/activate",
        Permission::PendingActivation,
        activate,
    );
    let view = Permission::Operator("agents:view");
    let evidence = Permission::Operator("evidence:view");
    Surface::new(shared)
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
        .route(Route::get("/agents/", view), agents::list)
        .route(Route::get("/agents", view), agents::list)
        .route(
            Route::get("/agents/{agent_id}/evidence", evidence),
            evidence::show,
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
