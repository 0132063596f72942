//! The built `rat`, from its command line to its exit code: on files, against a real server, and
//! against one that is hostile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod approval;
mod connect;
mod described;
mod fleet;
mod help;
mod hostile;
mod hostile_server;
mod inspect;
mod login;
mod measured_boot;
mod operator;
mod people;
mod policies;
mod policy_signatures;
mod policy_sources;
mod ratd;
mod run;
mod swtpm;
mod verify;
mod webhooks;
