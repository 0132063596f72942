//! Operations: what other systems are told of the fleet.
//!
//! [`webhook`] posts each change of an agent's status to receivers that the operator names.

#![cfg_attr(test, allow(clippy::as_conversions, clippy::arithmetic_side_effects))]

pub mod limits;
pub mod webhook;
