//! rat-load: fleets of software keys and of simulated TPMs, for tests and demos.
//!
//! Its machines are agents like any other: they enrol with a token, under a CA that an operator
//! named, and a server cannot tell them from real ones. Nothing of a server is made weaker for
//! them.
#![cfg_attr(
    test,
    allow(
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing
    )
)]

pub mod arguments;
pub mod fleet;
pub mod host;
pub mod keys;
pub mod latency;
pub mod measured;
pub mod misdeeds;
pub mod output;
pub mod progress;
pub mod replay;
pub mod report;
pub mod requests;
pub mod schedule;
pub mod software_tpm;
pub mod swtpm;
