//! rat-agent: enrols a machine, quotes its TPM, answers challenges.
#![cfg_attr(
    test,
    allow(
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing
    )
)]

pub mod access;
pub mod arguments;
pub mod device;
pub mod doctor;
pub mod enrol;
pub mod https;
pub mod keys;
pub mod logs;
pub mod machine;
pub mod run;
pub mod service;
pub mod settings;
pub mod state;
pub mod status;
pub mod token;

/// An error and what led to it, in one line. Errors of this crate name their cause themselves where
/// it belongs into the sentence; it is not said twice.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

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
