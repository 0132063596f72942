//! rat-agent: enrols a machine, quotes its TPM, answers challenges.
#![cfg_attr(
    test,
    allow(clippy::as_conversions, clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]

pub mod device;
pub mod enrol;
pub mod https;
pub mod keys;
pub mod logs;
pub mod machine;
pub mod run;
pub mod state;
pub mod token;
