//! Webhooks, with a runtime, a store and receivers as they are: what arrives, and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

#[path = "attacks_webhooks/addresses.rs"]
mod addresses;
#[path = "attacks_webhooks/answers.rs"]
mod answers;
#[path = "attacks_webhooks/order.rs"]
mod order;
#[path = "attacks_webhooks/storm.rs"]
mod storm;
#[path = "attacks_webhooks/world.rs"]
mod world;
