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
mod agents;
mod aliases;
mod attested;
mod audited;
mod configuration;
mod connections;
mod contract;
mod described;
mod doubled;
mod enrolment;
mod evidence;
mod group_rules;
mod groups;
mod hostile;
mod imported_configuration;
mod lifecycle;
mod load;
mod machine;
mod migrated;
mod operating;
mod operators;
mod policies;
mod polled;
mod postgres;
mod process;
mod registrar;
mod relayed;
mod requests;
mod revocations;
mod revoked;
mod road;
mod tenant;
mod tokens;
mod transcripts;
mod webhooks;
