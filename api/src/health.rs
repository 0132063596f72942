//! `/livez` and `/readyz`: whether the process answers, and whether it can do its work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use crate::auth::Permission;
use crate::error::json_response;
use crate::metrics;
use crate::surface::{Route, Shared, Surface};

/// What one part of the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    /// The part: a fixed word, which is a metric's label.
    pub name: &'static str,
    /// Whether it can work.
    pub ok: bool,
    /// Why not, or what is remarkable; fixed texts and numbers, nothing secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Check {
    /// The part works.
    pub const fn ok(name: &'static str) -> Self {
        Self {
            name,
            ok: true,
            reason: None,
        }
    }

    /// The part does not work.
    pub const fn failed(name: &'static str, reason: String) -> Self {
        Self {
            name,
            ok: false,
            reason: Some(reason),
        }
    }
}

/// Asks a part of the server how it is. It must answer at once, from memory.
pub type Probe = Box<dyn Fn() -> Check + Send + Sync>;

/// All parts that must work before the server is ready.
pub struct Readiness {
    draining: AtomicBool,
    probes: Vec<Probe>,
}

impl Readiness {
    /// Ready when each of these is.
    pub fn new(probes: Vec<Probe>) -> Arc<Self> {
        Arc::new(Self {
            draining: AtomicBool::new(false),
            probes,
        })
    }

    /// From now on not ready: the server is stopping.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// What every part says. Also sets the gauge of each.
    pub fn checks(&self) -> Vec<Check> {
        let draining = if self.draining.load(Ordering::Relaxed) {
            Check::failed("draining", "the server is stopping".to_owned())
        } else {
            Check::ok("draining")
        };
        let mut checks = vec![draining];
        checks.extend(self.probes.iter().map(|probe| probe()));
        for check in &checks {
            let value = if check.ok { 1.0 } else { 0.0 };
            ::metrics::gauge!(metrics::READY, "check" => check.name).set(value);
        }
        checks
    }
}

#[derive(Serialize, ToSchema)]
struct Alive {
    status: &'static str,
}

#[derive(Serialize, ToSchema)]
struct Ready {
    ready: bool,
    checks: Vec<Check>,
}

/// `/livez` and `/readyz`.
pub fn surface(shared: Arc<Shared>) -> Surface<Arc<Readiness>> {
    Surface::new(shared)
        .route(Route::get("/livez", Permission::Public), livez)
        .route(Route::get("/readyz", Permission::Public), readyz)
}

#[derive(OpenApi)]
#[openapi(paths(livez, readyz))]
struct Described;

/// What this surface's routes answer.
pub fn described() -> utoipa::openapi::OpenApi {
    Described::openapi()
}

/// Says that the process answers.
#[utoipa::path(
    get, path = "/livez", tag = "server",
    responses((status = 200, body = Alive)),
)]
async fn livez() -> Response {
    json_response(StatusCode::OK, &Alive { status: "alive" })
}

/// Says whether every part of the server can do its work.
#[utoipa::path(
    get, path = "/readyz", tag = "server",
    responses(
        (status = 200, body = Ready),
        (status = 503, body = Ready, description = "A part cannot work."),
    ),
)]
async fn readyz(State(readiness): State<Arc<Readiness>>) -> Response {
    let checks = readiness.checks();
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_response(status, &Ready { ready, checks })
}
