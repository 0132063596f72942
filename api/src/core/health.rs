//! R11: whether this is a server, and which.

use super::request::Reply;
use super::{State, wire};

/// Says that the server is there, to whoever asks.
#[utoipa::path(
    get, path = "/health", tag = "server",
    responses((status = 200, body = wire::Health)),
)]
pub(super) async fn show(state: State) -> Reply<wire::Health> {
    Reply::ok(wire::Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        uptime: state.0.started.elapsed().as_secs(),
    })
}
