//! The evidence listener: who connects, and how agents' certificates are renewed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rat_api::clock::unix_ms;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::Intake;
use rat_identity::CsrError;
use rat_identity::agent_certificate;
use rat_identity::ca::{Ca, IssueError, Issued};
use rat_identity::relay_certificate::{self, RelayName};
use rat_store::Store;
use rat_transport::quic::RenewRefused;
use rat_transport::quic::server::{
    Certified, Client, RelayClient, Server, ServerLimits, ServerOptions, Tls,
};
use tokio::runtime::Handle;

use super::relays::NamedRelays;
use crate::config::Config;
use crate::data_dir;
use crate::failure::{Exit, Failure, Means};

// What the CA refuses to import or issue is what frames cannot carry.
const _: () = assert!(
    rat_identity::limits::CARRIED_CERTIFICATE_BYTES_MAX
        == rat_transport::limits::CERTIFICATE_BYTES_MAX
);

/// What the listener shows and whom it takes, with this certificate.
pub(super) fn tls(ca: &Ca, issued: &Issued) -> Tls {
    Tls {
        certificate_chain: issued.chain_der.clone(),
        key_pkcs8: issued.key_pkcs8_der.clone(),
        client_ca: ca.certificates(),
    }
}

/// Listens for agents.
pub(super) fn bind(
    config: &Config,
    ca: &Arc<Ca>,
    issued: &Issued,
    store: &Store,
    relays: &Arc<NamedRelays>,
    intake: Arc<dyn Intake>,
) -> Result<Server, Failure> {
    let renewal = Arc::new(Renewal {
        ca: Arc::clone(ca),
        store: store.clone(),
        handle: Handle::current(),
    });
    let (known, of_relays) = (Arc::clone(relays), Arc::clone(&renewal));
    let set = Arc::clone(ca);
    let options = ServerOptions {
        tls: tls(ca, issued),
        identify: Arc::new(move |certificate: &[u8]| identify(certificate, &known)),
        renew: Arc::new(move |agent: &AgentId, key_sha256, csr: &[u8]| {
            renewal.renew(agent, &key_sha256, csr)
        }),
        renew_relay: Arc::new(move |name: &str, key_sha256, csr: &[u8]| {
            of_relays.renew_relay(name, &key_sha256, csr)
        }),
        ca_set: Arc::new(move || set.certificates()),
        limits: ServerLimits {
            connections_max: config.evidence.connections,
            connections_per_address_max: config.evidence.connections_per_address,
            handshakes_per_address_max: config.evidence.handshakes_per_address,
            ..ServerLimits::default()
        },
        reset_secret: data_dir::reset_secret(&config.data_dir).means(Exit::Unusable)?,
    };
    Server::bind(config.evidence.listen, options, intake)
        .context("the evidence listener")
        .means(Exit::Unusable)
}

/// Whom a certificate names: an agent, or a relay that an operator has named.
fn identify(certificate: &[u8], relays: &NamedRelays) -> Option<Certified> {
    let left =
        |not_after_unix_ms: u64| Duration::from_millis(not_after_unix_ms.saturating_sub(unix_ms()));
    if let Ok(peer) = agent_certificate::read(certificate) {
        return Some(Certified::Agent(Client {
            agent: peer.agent,
            key_sha256: peer.key_sha256,
            valid_for: left(peer.not_after_unix_ms),
        }));
    }
    let relay = relay_certificate::read(certificate).ok()?;
    relays.has(&relay.name, &relay.key_sha256).then(|| {
        Certified::Relay(RelayClient {
            name: relay.name.as_str().to_owned(),
            key_sha256: relay.key_sha256,
            valid_for: left(relay.not_after_unix_ms),
        })
    })
}

/// Renews certificates of agents that are enrolled.
struct Renewal {
    ca: Arc<Ca>,
    store: Store,
    handle: Handle,
}

impl Renewal {
    /// The next certificate of this agent, for the key that its record names.
    ///
    /// A certificate that is still valid is not enough: the agent may have been removed, or have
    /// enrolled again with another key. (N08)
    fn renew(
        &self,
        agent: &AgentId,
        key_sha256: &[u8; 32],
        csr: &[u8],
    ) -> Result<Vec<Vec<u8>>, RenewRefused> {
        let record = self.handle.block_on(self.store.agent(agent));
        let record = record.map_err(|error| {
            tracing::error!(%agent, %error, "a certificate cannot be renewed");
            RenewRefused::Unavailable
        })?;
        let enrolled = record.is_some_and(|stored| stored.record.client_key_sha256 == *key_sha256);
        if !enrolled {
            return Err(RenewRefused::NotEnrolled);
        }
        let issued = self.ca.renew_agent(csr, agent, key_sha256, unix_ms());
        issued.map(|issued| issued.chain_der).map_err(not_issued)
    }

    /// The next certificate of a relay that is named still, for its key.
    fn renew_relay(
        &self,
        name: &str,
        key_sha256: &[u8; 32],
        csr: &[u8],
    ) -> Result<Vec<Vec<u8>>, RenewRefused> {
        let stored = self.handle.block_on(self.store.relay(name));
        let stored = stored.map_err(|error| {
            tracing::error!(name, %error, "a relay's certificate cannot be renewed");
            RenewRefused::Unavailable
        })?;
        let is_named = stored.is_some_and(|relay| relay.key_sha256 == *key_sha256);
        let name = RelayName::parse(name).ok().filter(|_| is_named);
        let name = name.ok_or(RenewRefused::NotEnrolled)?;
        let issued = self.ca.renew_relay(csr, &name, key_sha256, unix_ms());
        issued.map(|issued| issued.chain_der).map_err(not_issued)
    }
}

fn not_issued(error: IssueError) -> RenewRefused {
    match error {
        IssueError::Request(CsrError::OtherKey) => RenewRefused::KeyNotEnrolled,
        IssueError::Request(_) => RenewRefused::Malformed,
        error => {
            tracing::error!(%error, "the CA cannot issue");
            RenewRefused::Unavailable
        }
    }
}
