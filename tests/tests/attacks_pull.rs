//! Keylime's agents that are polled, by a poller over a runtime and a store as they are: what passes,
//! what fails, and what only means that an agent is silent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

#[path = "attacks_pull/evidence.rs"]
mod evidence;
#[path = "attacks_pull/hostile.rs"]
mod hostile;
#[path = "attacks_pull/lifecycle.rs"]
mod lifecycle;
#[path = "attacks_pull/v_key.rs"]
mod v_key;
#[path = "attacks_pull/world.rs"]
mod world;
