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
use rat_store::Store;
use rat_transport::quic::RenewRefused;
use rat_transport::quic::server::{Client, Server, ServerLimits, ServerOptions, Tls};
use tokio::runtime::Handle;

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
    intake: Arc<dyn Intake>,
) -> Result<Server, Failure> {
    let renewal = Renewal {
        ca: Arc::clone(ca),
        store: store.clone(),
        handle: Handle::current(),
    };
    let set = Arc::clone(ca);
    let options = ServerOptions {
        tls: tls(ca, issued),
        identify: Arc::new(|certificate: &[u8]| {
            let peer = agent_certificate::read(certificate).ok()?;
            let left_ms = peer.not_after_unix_ms.saturating_sub(unix_ms());
            Some(Client {
                agent: peer.agent,
                key_sha256: peer.key_sha256,
                valid_for: Duration::from_millis(left_ms),
            })
        }),
        renew: Arc::new(move |agent: &AgentId, key_sha256, csr: &[u8]| {
            renewal.renew(agent, &key_sha256, csr)
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
        issued
            .map(|issued| issued.chain_der)
            .map_err(|error| match error {
                IssueError::Request(CsrError::OtherKey) => RenewRefused::KeyNotEnrolled,
                IssueError::Request(_) => RenewRefused::Malformed,
                error => {
                    tracing::error!(%agent, %error, "the CA cannot issue");
                    RenewRefused::Unavailable
                }
            })
    }
}
