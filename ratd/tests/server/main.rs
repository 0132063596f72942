//! The program as it is run: a process, its files, its sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types
)]

mod accounts;
mod configuration;
mod connections;
mod enrolment;
mod lifecycle;
mod machine;
mod operators;
mod process;
mod requests;
mod road;
