//! `/metrics`, in Prometheus' text format.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa::OpenApi;

use crate::auth::Permission;
use crate::health::Readiness;
use crate::surface::{Route, Shared, Surface};

/// What `/metrics` writes.
#[derive(Clone)]
pub struct Exposition {
    /// The recorder's contents.
    pub recorder: PrometheusHandle,
    /// Whose gauges are brought up to date first.
    pub readiness: Arc<Readiness>,
}

/// `/metrics`, for loopback addresses and for operators with `metrics:view`.
pub fn surface(shared: Arc<Shared>) -> Surface<Exposition> {
    let permission = Permission::LoopbackOrOperator("metrics:view");
    Surface::new(shared).route(Route::get("/metrics", permission), expose)
}

#[derive(OpenApi)]
#[openapi(paths(expose))]
struct Described;

/// What this surface's route answers.
pub fn described() -> utoipa::openapi::OpenApi {
    Described::openapi()
}

/// Shows every metric, in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "server",
    responses((status = 200, body = String, content_type = "text/plain")),
)]
async fn expose(State(exposition): State<Exposition>) -> Response {
    exposition.readiness.checks();
    let text = exposition.recorder.render();
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, format)], text).into_response()
}
