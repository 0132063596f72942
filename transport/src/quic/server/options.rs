//! What a server is made of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rat_engine::agent_id::AgentId;

use crate::limits;
use crate::quic::RenewRefused;

/// The agent that a client certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub agent: AgentId,
    /// SHA-256 of the certificate's SubjectPublicKeyInfo.
    pub key_sha256: [u8; 32],
    /// How long the certificate is valid from now on; then the connection ends.
    pub valid_for: Duration,
}

/// The relay that a client certificate names, and that an operator has named to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayClient {
    /// Its name.
    pub name: String,
    /// SHA-256 of the certificate's SubjectPublicKeyInfo: what its agents' quotes are bound to.
    pub key_sha256: [u8; 32],
    /// How long the certificate is valid from now on; then the connection ends.
    pub valid_for: Duration,
}

/// Whom a client certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certified {
    /// An agent.
    Agent(Client),
    /// A relay.
    Relay(RelayClient),
}

/// Reads from a certificate in DER that TLS has verified whose it is; `None` when it names nobody
/// who may connect. Asked once more when a relay has connected, so that one which is taken back at
/// that moment does not stay.
pub type Identify = dyn Fn(&[u8]) -> Option<Certified> + Send + Sync;

/// Issues a new certificate to this agent, whose connection has a certificate of this key, on
/// this PKCS#10 request. May block.
pub type Renew =
    dyn Fn(&AgentId, [u8; 32], &[u8]) -> Result<Vec<Vec<u8>>, RenewRefused> + Send + Sync;

/// Issues a new certificate to the relay of this name, likewise. May block.
pub type RenewRelay =
    dyn Fn(&str, [u8; 32], &[u8]) -> Result<Vec<Vec<u8>>, RenewRefused> + Send + Sync;

/// The certificates of the CAs that agents are to pin, in DER.
pub type CaSet = dyn Fn() -> Vec<Vec<u8>> + Send + Sync;

/// Certificates, in DER. The key is PKCS#8.
#[derive(Clone)]
pub struct Tls {
    /// The server's certificate and those above it.
    pub certificate_chain: Vec<Vec<u8>>,
    /// Its private key.
    pub key_pkcs8: Vec<u8>,
    /// The CAs whose certificates agents may show.
    pub client_ca: Vec<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificates", &self.certificate_chain.len())
            .field("client_ca", &self.client_ca.len())
            .finish_non_exhaustive()
    }
}

/// The limits that an operator may set. Defaults and reasons are in [`crate::limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Open connections.
    pub connections_max: usize,
    /// Open connections from one IPv4 address or IPv6 /64 network.
    pub connections_per_address_max: usize,
    /// Open handshakes.
    pub handshakes_max: usize,
    /// Open handshakes from which on addresses are validated first.
    pub handshakes_unvalidated_max: usize,
    /// Open handshakes from one IPv4 address or IPv6 /64 network. From
    /// [`limits::HANDSHAKES_UNVALIDATED_PER_ADDRESS_MAX`] on, or half of this if that is less,
    /// its addresses are validated first.
    pub handshakes_per_address_max: usize,
    /// Milliseconds for a handshake.
    pub handshake_ms_max: u64,
    /// Milliseconds for a Hello.
    pub hello_ms_max: u64,
    /// Milliseconds without any packet.
    pub idle_ms_max: u64,
    /// Bytes of logs held for all connections.
    pub buffered_bytes_max: usize,
    /// Bytes of a boot log.
    pub boot_log_bytes_max: usize,
    /// Bytes of a measurement list.
    pub list_bytes_max: u64,
    /// The least rate of uploads, in bytes per second.
    pub upload_bytes_per_second_min: u64,
    /// Milliseconds that each piece of an upload may take beyond its size.
    pub upload_grace_ms: u64,
    /// Agents that one relay may speak for.
    pub relay_agents_max: usize,
    /// Hellos of a relay's agents each second.
    pub relay_hellos_per_second_max: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: limits::CONNECTIONS_MAX,
            connections_per_address_max: limits::CONNECTIONS_PER_ADDRESS_MAX,
            handshakes_max: limits::HANDSHAKES_MAX,
            handshakes_unvalidated_max: limits::HANDSHAKES_UNVALIDATED_MAX,
            handshakes_per_address_max: limits::HANDSHAKES_PER_ADDRESS_MAX,
            handshake_ms_max: limits::HANDSHAKE_MS_MAX,
            hello_ms_max: limits::HELLO_MS_MAX,
            idle_ms_max: limits::IDLE_MS_MAX,
            buffered_bytes_max: limits::BUFFERED_BYTES_MAX,
            boot_log_bytes_max: limits::BOOT_LOG_BYTES_MAX,
            list_bytes_max: limits::LIST_BYTES_MAX,
            upload_bytes_per_second_min: limits::UPLOAD_BYTES_PER_SECOND_MIN,
            upload_grace_ms: limits::UPLOAD_GRACE_MS,
            relay_agents_max: limits::RELAY_AGENTS_MAX,
            relay_hellos_per_second_max: limits::RELAY_HELLOS_PER_SECOND_MAX,
        }
    }
}

/// Everything a server needs beside an address and an intake.
#[derive(Clone)]
pub struct ServerOptions {
    /// Certificates at the start; [`Server::set_tls`](super::Server::set_tls) replaces them.
    pub tls: Tls,
    /// Reads from a certificate whose it is.
    pub identify: Arc<Identify>,
    /// Issues new certificates to agents.
    pub renew: Arc<Renew>,
    /// Issues new certificates to relays.
    pub renew_relay: Arc<RenewRelay>,
    /// The CAs that each Welcome tells.
    pub ca_set: Arc<CaSet>,
    /// Limits.
    pub limits: ServerLimits,
    /// With the same secret as before, a server that was killed and started again tells agents
    /// that their connections are gone; with another one they find out when they time out.
    pub reset_secret: [u8; 32],
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("tls", &self.tls)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
