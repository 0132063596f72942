//! The evidence protocol over QUIC.
//!
//! | stream, opened by | agent sends | server sends |
//! |---|---|---|
//! | first, agent | [`Hello`](wire::Frame::Hello) | [`Welcome`](wire::Frame::Welcome) or [`Refused`](wire::Frame::Refused) |
//! | one per challenge, server | [`Evidence`](wire::Frame::Evidence), boot log, measurement list | [`Challenge`](wire::Frame::Challenge), [`Verdict`](wire::Frame::Verdict) or `Refused` |
//! | one per renewal, agent | [`Renew`](wire::Frame::Renew) | [`Renewed`](wire::Frame::Renewed) or `Refused` |
//!
//! A relay's connection has one stream, which the relay opens, for all agents that it speaks for:
//! [`RelayHello`](wire::Frame::RelayHello), [`RelayWelcome`](wire::Frame::RelayWelcome), and then
//! frames that each say which agent they are about (`parcels.rs`, ADR 006).
//!
//! Each end finishes its half of an agent's stream after what the table says; a byte more is an error. A
//! connection that ends for a [`Reason`] has its number as application code, and carries the same
//! frame that a stream would have.
//!
//! # Security
//! TLS 1.3 with certificates both ways, no early data and no resumption: each connection verifies
//! both certificates against the CA set of the moment. A quote is bound to its connection by 32
//! bytes of the TLS exporter, which each end computes itself. (Q13) A quote that comes through a
//! relay is bound to the public key of the relay that the agent's record names. (Q16)

use std::net::UdpSocket;

use quinn::udp::UdpSocketState;
use rat_engine::evidence::ChallengeId;

use crate::limits;

pub mod client;
pub(crate) mod parcels;
mod reason;
mod roots;
pub mod server;
mod streams;
pub mod wire;

pub use reason::{Advice, Reason, RenewRefused};
pub use roots::RootsError;
pub(crate) use roots::provider;

/// The ALPN protocol.
pub const ALPN: &[u8] = b"rat-evidence";

/// The label of the TLS exporter that quotes are bound to; the context is the challenge's id.
pub const BINDING_LABEL: &[u8] = b"EXPORTER-ratd-quote-v1";

/// The 32 bytes that both ends of this connection export for a challenge.
///
/// `None` when the TLS session gives none, which a finished handshake rules out.
fn binding(connection: &quinn::Connection, challenge: ChallengeId) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    connection
        .export_keying_material(&mut bytes, BINDING_LABEL, &challenge.0)
        .ok()?;
    Some(bytes)
}

/// Lets more packets wait to be read, for a socket that herds share: what finds no room is sent
/// again a second later. The system gives what it allows (Linux: `net.core.rmem_max`).
fn enlarge(socket: &UdpSocket) {
    if let Ok(state) = UdpSocketState::new(socket.into()) {
        let _ = state.set_recv_buffer_size(socket.into(), limits::SOCKET_BUFFER_BYTES);
    }
}
