//! HTTP surfaces.
//!
//! A [`surface::Surface`] is a list of routes, each with the permission and the limits that it
//! declares; [`listen::Listener`] serves one or more of them on a socket, with TLS from [`tls`].
//! [`core`] is the Core REST API: enrolment, agents, policies, groups and tokens. [`people`] is how
//! people log in, and how their accounts and tokens are managed; [`keylime`] is what Keylime's clients
//! ask a verifier. [`openapi`] describes the first two, and [`docs`] shows the description.

#![cfg_attr(test, allow(clippy::as_conversions, clippy::arithmetic_side_effects))]

mod address;
pub mod auth;
pub mod clock;
pub mod core;
pub mod docs;
pub mod error;
pub mod exposition;
pub mod health;
pub mod json;
pub mod keylime;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod openapi;
pub mod people;
pub mod surface;
pub mod tls;
