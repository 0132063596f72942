//! rat-load: fleets of software keys and of simulated TPMs, for tests and demos.
#![cfg_attr(
    test,
    allow(clippy::as_conversions, clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]

pub mod keys;
pub mod measured;
pub mod software_tpm;
