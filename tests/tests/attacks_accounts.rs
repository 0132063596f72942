//! Attacks A01-A04, A07, X04 and X08: who may call what, and what is left of a credential that was ended.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

#[path = "attacks_accounts/bodies.rs"]
mod bodies;
#[path = "attacks_accounts/browsers.rs"]
mod browsers;
#[path = "attacks_accounts/credentials.rs"]
mod credentials;
#[path = "attacks_accounts/gate.rs"]
mod gate;
#[path = "attacks_accounts/logins.rs"]
mod logins;
#[path = "attacks_accounts/matrix.rs"]
mod matrix;
#[path = "attacks_accounts/users.rs"]
mod users;
#[path = "attacks_accounts/world.rs"]
mod world;
