//! Where revocations of Keylime's agents are joined to the server: who is told, who signs, who stops
//! polling.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rat_api::keylime::verifier::Polls;
use rat_engine::agent_id::AgentId;
use rat_identity::revocation_key::sign_revocation;
use rat_ops::revocation::{Parts, Polling, Revocations, Sign};
use rat_ops::webhook::{Carried, Channel, Unavailable, Webhooks};
use rat_ops::zeromq::Publisher;
use rat_runtime::SystemClock;
use rat_store::Store;
use tokio::runtime::Handle;

use super::polled::Polled;
use super::shards::Shards;
use crate::config::revocation::Channel as Way;
use crate::config::{AGENTS_CHANNEL, Config, Listen};
use crate::failure::{Exit, Failure, Means};

/// Intervals after which an agent is silent, as Keylime counts them.
const SILENT_INTERVALS: u64 = 5;

/// Other agents that are polled, as a channel.
struct Agents(Polled);

impl Channel for Agents {
    fn name(&self) -> &str {
        AGENTS_CHANNEL
    }

    fn place(&self) -> String {
        "agents that are polled".to_owned()
    }

    fn carry<'a>(&'a self, subject: &'a str, body: &'a str) -> Carried<'a> {
        Box::pin(async move {
            let subject = AgentId::parse(subject).map_err(|_| Unavailable)?;
            match self.0.notify(subject, body.as_bytes().to_vec()).await {
                true => Ok(()),
                false => Err(Unavailable),
            }
        })
    }
}

/// The channels that the configuration names, beside webhooks. There are none where no verifier is
/// served: nobody adds agents there.
pub(super) async fn channels(
    config: &Config,
    polled: &Polled,
) -> Result<Vec<Arc<dyn Channel>>, Failure> {
    let mut channels: Vec<Arc<dyn Channel>> = Vec::new();
    if !is_served(config) {
        return Ok(channels);
    }
    let revocation = &config.keylime.revocation;
    if revocation.channels.contains(&Way::Agent) {
        channels.push(Arc::new(Agents(polled.clone())));
    }
    if revocation.channels.contains(&Way::Zeromq) {
        let publisher = Publisher::bind(revocation.zmq_listen).await;
        let publisher = publisher.context("keylime.revocation.zmq_listen");
        let publisher = publisher.means(Exit::Unusable)?;
        tracing::info!(address = %publisher.local_addr(), "revocations are published over ZeroMQ");
        channels.push(Arc::new(publisher));
    }
    Ok(channels)
}

const fn is_served(config: &Config) -> bool {
    matches!(config.keylime.verifier.listen, Listen::At(_))
}

/// Begins to tell.
pub(super) fn start(
    config: &Config,
    store: &Store,
    shards: &Shards,
    polled: &Polled,
    webhooks: Webhooks,
) -> Result<Option<Revocations>, Failure> {
    if !is_served(config) {
        return Ok(None);
    }
    let verifier = &config.keylime.verifier;
    let events = shards.events().context("the shards ended");
    let silent = verifier.quote_interval_seconds;
    let silent = silent.saturating_mul(SILENT_INTERVALS);
    let sign: Sign = Arc::new(|key, message| sign_revocation(key, message).ok());
    Ok(Some(Revocations::start(Parts {
        store: store.clone(),
        fleet: Arc::new(shards.clone()),
        events: events.means(Exit::Failed)?,
        clock: Arc::new(SystemClock::start()),
        webhooks,
        severities: Arc::new(verifier.severities().means(Exit::Configuration)?),
        sign,
        polling: Arc::new(Stops {
            polled: polled.clone(),
            runtime: Handle::current(),
        }),
        auto_recover: verifier.auto_recover_attestation_failures,
        silence_after: Duration::from_secs(silent),
    })))
}

/// Stops polling, and begins again.
struct Stops {
    polled: Polled,
    runtime: Handle,
}

impl Polling for Stops {
    fn stop(&self, agent: &AgentId) {
        self.polled.remove(agent);
    }

    fn go_on(&self, agent: AgentId) {
        let polled = self.polled.clone();
        self.runtime.spawn(async move {
            let put: Pin<Box<dyn Future<Output = _> + Send>> = Polls::put(&polled, agent.clone());
            if let Err(error) = put.await {
                tracing::error!(%agent, %error, "an agent is not polled again");
            }
        });
    }
}
