//! Polling Keylime's agents: which, and what the poller's news mean for the store.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rat_api::keylime::verifier::{NotPolled, Polls};
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::Intake;
use rat_engine::hash::HashAlg;
use rat_engine::shard::AgentPath;
use rat_identity::v_key::seal_v_key;
use rat_ops::webhook::Fleet as _;
use rat_store::{Halted, KeylimeFacts, Store, StoredKeylimeAgent};
use rat_transport::pull::{
    AgentVersion, Contact, News, Options, Poller, VKey, Watcher, certificate_of_pem,
};
use tokio::runtime::Handle;

use super::shards::{self, Shards};
use crate::config::Config;
use crate::config::pull::Pull;
use crate::failure::{Exit, Failure, Means};

/// Agents that one query lists.
const AGENTS_PER_PAGE: u32 = 1_000;

/// The poller of this server.
#[derive(Clone)]
pub(super) struct Polled {
    poller: Arc<Poller>,
    store: Store,
    shards: Shards,
}

impl Polled {
    /// Polls every agent that the store has an address of, as before the last stop. (keylime#393)
    pub(super) async fn start(
        config: &Config,
        store: &Store,
        shards: &Shards,
        intake: Arc<dyn Intake>,
    ) -> Result<Self, Failure> {
        let pull = &config.keylime.pull;
        let keylime = shards::settings(config).keylime;
        let watcher = Banks {
            store: store.clone(),
            shards: shards.clone(),
            runtime: Handle::current(),
        };
        let options = Options {
            settings: pull.settings(keylime.interval_ms, keylime.answer_ms.into()),
            identity: pull.identity(&config.data_dir).means(Exit::Configuration)?,
            seal: Arc::new(|key, v_key| seal_v_key(key, v_key).ok()),
            watcher: Arc::new(watcher),
        };
        let poller = Poller::start(options, intake).means(Exit::Configuration)?;
        let polled = Self {
            poller: Arc::new(poller),
            store: store.clone(),
            shards: shards.clone(),
        };
        polled.put_all().await.means(Exit::Unusable)?;
        Ok(polled)
    }

    async fn put_all(&self) -> anyhow::Result<()> {
        let (mut after, mut count) = (None, 0_u32);
        loop {
            let page = self.store.keylime_agents(after, AGENTS_PER_PAGE).await?;
            for agent in page.agents.into_iter().flatten() {
                match self.put(&agent).await {
                    Ok(is_polled) => count = count.saturating_add(u32::from(is_polled)),
                    Err(error) => {
                        let agent = &agent.id;
                        tracing::error!(%agent, error = %format!("{error:#}"), "an agent is not polled");
                    }
                }
            }
            after = page.end;
            if after.is_none() {
                break;
            }
        }
        if count > 0 {
            tracing::info!(count, "agents are polled");
        }
        Ok(())
    }

    /// Polls an agent that the shards know, from now on; false for one that pushes. Call it when a
    /// tenant has added, changed or reactivated it.
    ///
    /// # Errors
    /// When it cannot be polled as it is stored; nothing changes then.
    pub(super) async fn put(&self, agent: &StoredKeylimeAgent) -> anyhow::Result<bool> {
        // Who was stopped stays so until it is taken up again, over any number of starts.
        if agent.standing.halted != Halted::Not {
            return Ok(false);
        }
        let view = self.shards.view(agent.id.clone()).await;
        let view = view.ok().flatten().context("its shard does not know it")?;
        if view.record.path != AgentPath::KeylimePull {
            return Ok(false);
        }
        let has_passed = view.state.passed > 0;
        let ak_public = view.record.ak_public.clone();
        let contact = contact(&agent.id, &agent.facts, ak_public, has_passed)?;
        self.poller.put(contact)?;
        Ok(true)
    }

    /// Tells every agent that is polled, but the one that it is about, of a revocation; false when
    /// polling ended before.
    pub(super) async fn notify(&self, subject: AgentId, body: Vec<u8>) -> bool {
        self.poller.notify(subject, body.into()).await
    }

    /// Shows agents the certificate that is there now.
    pub(super) fn show_anew(&self, config: &Pull, data_dir: &Path) -> anyhow::Result<()> {
        self.poller.set_identity(config.identity(data_dir)?)?;
        Ok(())
    }

    /// Ends: nobody is asked any more.
    pub(super) async fn shutdown(&self, deadline: Duration) {
        self.poller.shutdown(deadline).await;
    }
}

impl Polls for Polled {
    fn put(
        &self,
        agent: AgentId,
    ) -> Pin<Box<dyn Future<Output = Result<(), NotPolled>> + Send + '_>> {
        Box::pin(async move {
            let stored = self.store.keylime_agent(&agent).await;
            let stored = stored.map_err(|error| NotPolled(error.to_string()))?;
            let Some(stored) = stored else {
                return Ok(());
            };
            let put = Self::put(self, &stored).await;
            put.map(drop)
                .map_err(|error| NotPolled(format!("{error:#}")))
        })
    }

    fn remove(&self, agent: &AgentId) {
        self.poller.remove(agent);
    }
}

/// Where an agent is, going by what the tenant said of it.
fn contact(
    id: &AgentId,
    facts: &KeylimeFacts,
    ak_public: Vec<u8>,
    has_passed: bool,
) -> anyhow::Result<Contact> {
    let certificate = match facts.mtls_cert.as_deref() {
        None | Some("" | "disabled") => None,
        Some(pem) => Some(certificate_of_pem(pem.as_bytes()).context("its certificate")?),
    };
    let v_key = match &facts.v {
        None => None,
        Some(bytes) => Some(VKey(bytes.as_slice().try_into().context("its V key")?)),
    };
    Ok(Contact {
        agent: id.clone(),
        ak_public,
        host: facts.ip.clone().context("it has no address")?,
        port: facts.port.context("it has no port")?,
        certificate,
        attested_by: AgentVersion::parse(&facts.supported_version).filter(|_| has_passed),
        accept_hash_algs: facts.accept_tpm_hash_algs.clone(),
        accept_encryption_algs: facts.accept_tpm_encryption_algs.clone(),
        accept_signing_algs: facts.accept_tpm_signing_algs.clone(),
        v_key,
    })
}

/// Has agents asked for the bank that they have, and remembers by which version they attested.
struct Banks {
    store: Store,
    shards: Shards,
    runtime: Handle,
}

impl Watcher for Banks {
    fn told(&self, agent: &AgentId, news: News) {
        let (store, shards, agent) = (self.store.clone(), self.shards.clone(), agent.clone());
        match news {
            News::Quotes(bank) => self.runtime.spawn(async move {
                if let Err(error) = ask_for(&store, &shards, &agent, bank).await {
                    let error = format!("{error:#}");
                    tracing::error!(%agent, %bank, error, "its bank cannot be asked for");
                }
            }),
            // Before its first pass an agent may say anything: that is not remembered.
            News::Attested(version) => self.runtime.spawn(async move {
                let known = store.set_keylime_supported_version(&agent, version.as_str());
                if let Err(error) = known.await {
                    tracing::error!(%agent, %version, %error, "its version is not remembered");
                }
            }),
            _ => return,
        };
    }
}

async fn ask_for(
    store: &Store,
    shards: &Shards,
    agent: &AgentId,
    bank: HashAlg,
) -> anyhow::Result<()> {
    if !store.set_keylime_bank(agent, bank).await? {
        return Ok(());
    }
    let stored = store.keylime_agent(agent).await?;
    if let Some(stored) = stored {
        shards.keylime_changed(&stored).await?;
    }
    Ok(())
}
