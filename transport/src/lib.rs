//! How evidence arrives other than at our HTTP listeners: the QUIC protocol, server and client, and
//! the polling of Keylime's agents.
//!
//! Transports read what a peer sends under named [`limits`], turn it into the engine's evidence
//! types and hand these to an [`Intake`](rat_engine::evidence::Intake). They decide nothing.

pub mod limits;
pub mod measures;
mod memory;
pub mod pull;
pub mod quic;
