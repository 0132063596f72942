//! Operations: what other systems are told of the fleet.
//!
//! [`webhook`] posts each change of an agent's status to receivers that the operator names.
//! [`revocation`] tells those who rely on Keylime's agents of failures, in Keylime's form; [`zeromq`]
//! is one of the ways.

#![cfg_attr(test, allow(clippy::as_conversions, clippy::arithmetic_side_effects))]

pub mod limits;
pub mod revocation;
pub mod webhook;
pub mod zeromq;
