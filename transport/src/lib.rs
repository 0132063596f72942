//! How evidence arrives other than over HTTP: the QUIC protocol, server and client.
//!
//! Transports read what a peer sends under named [`limits`], turn it into the engine's evidence
//! types and hand these to an [`Intake`](rat_engine::evidence::Intake). They decide nothing.

pub mod limits;
pub mod measures;
pub mod quic;
