//! The evidence protocol over QUIC, attacked and used: every refusal is typed, changes nothing
//! for other agents, and moves a metric.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

#[path = "attacks_transport/certificates.rs"]
mod certificates;
#[path = "attacks_transport/connections.rs"]
mod connections;
#[path = "attacks_transport/exchanges.rs"]
mod exchanges;
#[path = "attacks_transport/frames.rs"]
mod frames;
#[path = "attacks_transport/handshakes.rs"]
mod handshakes;
#[path = "attacks_transport/measured.rs"]
mod measured;
#[path = "attacks_transport/other_servers.rs"]
mod other_servers;
#[path = "attacks_transport/recorder.rs"]
mod recorder;
#[path = "attacks_transport/relays.rs"]
mod relays;
#[path = "attacks_transport/renewals.rs"]
mod renewals;
#[path = "attacks_transport/uploads.rs"]
mod uploads;
#[path = "attacks_transport/world.rs"]
mod world;
