//! rat-agent: enrols a machine, quotes its TPM, answers challenges.
#![cfg_attr(
    test,
    allow(
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing
    )
)]

pub mod arguments;
pub mod device;
pub mod doctor;
pub mod enrol;
pub mod https;
pub mod keys;
pub mod logs;
pub mod machine;
pub mod patience;
pub mod relay;
pub mod run;
pub mod service;
pub mod settings;
pub mod state;
pub mod status;

pub use rat_client::{access, explain, token};

/// Milliseconds since 1970 by the machine's clock.
#[allow(
    clippy::disallowed_types,
    reason = "an agent has a clock; the rule is the engine's"
)]
pub fn unix_ms() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
