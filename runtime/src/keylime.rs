//! What is demanded of each of Keylime's agents, made ready to judge.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use rat_engine::agent_id::AgentId;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::judge::Judge;
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::shard::{
    Accepted, Group, Input, KEYLIME_GROUP, KeylimeTerms, PolicyRef, QuoteScheme,
};
use rat_engine::uefi::policy::{MeasuredBootPolicy, PolicyName};
use rat_store::{KeylimeFacts, KeylimeKind, Store, StoreError, StoredKeylimeAgent};

use crate::control::ControlError;
use crate::groups::{GroupError, load_judge};
use crate::runtime::{Runtime, lock};

/// Agents that one query lists.
const AGENTS_PER_PAGE: u32 = 1_000;

/// What is the same for all of Keylime's agents: what Keylime has in its verifier's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeylimeSettings {
    /// `quote_interval`, in milliseconds.
    pub interval_ms: u64,
    /// How long an agent has for its answer, in milliseconds.
    pub answer_ms: u32,
    /// `auto_recover_attestation_failures`.
    pub auto_recover: bool,
    /// Whether violations of the measurement list are accepted: the plain meaning of Keylime's
    /// `ignore_tomtou_errors`.
    pub accept_violations: bool,
    /// `measured_boot_policy_name`: what judges boot logs by an agent's reference state.
    pub boot_policy: PolicyName,
    /// `measured_boot_evaluate`: whether a boot log is judged with every quote, and not once in a
    /// boot.
    pub boot_log_always: bool,
}

impl Default for KeylimeSettings {
    fn default() -> Self {
        Self {
            interval_ms: 10_000,
            answer_ms: 30_000,
            auto_recover: false,
            accept_violations: false,
            boot_policy: PolicyName::AcceptAll,
            boot_log_always: true,
        }
    }
}

/// Policies that judge somebody, each compiled once however many agents it judges.
#[derive(Default)]
pub(crate) struct Judges {
    runtime: Compiled<Judge>,
    boot: Compiled<MeasuredBootPolicy>,
}

/// Those of a kind by their digests, for as long as somebody is judged by them.
struct Compiled<P>(Mutex<HashMap<Digest, Weak<P>>>);

impl<P> Default for Compiled<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<P> Compiled<P> {
    fn get(&self, digest: &Digest) -> Option<Arc<P>> {
        lock(&self.0).get(digest).and_then(Weak::upgrade)
    }

    fn keep(&self, digest: &Digest, policy: &Arc<P>) {
        let mut policies = lock(&self.0);
        policies.retain(|_, policy| policy.strong_count() > 0);
        policies.insert(*digest, Arc::downgrade(policy));
    }
}

impl Judges {
    async fn runtime(
        &self,
        store: &Store,
        digest: &Digest,
        seed: u64,
    ) -> Result<Arc<Judge>, GroupError> {
        if let Some(judge) = self.runtime.get(digest) {
            return Ok(judge);
        }
        let judge = load_judge(store, digest, seed).await?;
        self.runtime.keep(digest, &judge);
        Ok(judge)
    }

    /// What a reference state demands of a boot log. The policy's name is the same for all agents
    /// while this process runs.
    async fn boot(
        &self,
        store: &Store,
        digest: &Digest,
        name: PolicyName,
    ) -> Result<Arc<MeasuredBootPolicy>, GroupError> {
        if let Some(policy) = self.boot.get(digest) {
            return Ok(policy);
        }
        let policy = load_boot_policy(store, digest, name).await?;
        self.boot.keep(digest, &policy);
        Ok(policy)
    }
}

async fn load_boot_policy(
    store: &Store,
    digest: &Digest,
    name: PolicyName,
) -> Result<Arc<MeasuredBootPolicy>, GroupError> {
    let digest = *digest;
    let text = store.policy_text(&digest).await?;
    let text = text.ok_or(GroupError::TextMissing(digest))?;
    let compiling = tokio::task::spawn_blocking(move || {
        let policy = MeasuredBootPolicy::parse(name, &text).map_err(|error| {
            let error = Box::new(error);
            GroupError::Policy { digest, error }
        })?;
        // One that demands nothing is none, and was not stored as one.
        let policy = policy.ok_or(GroupError::TextMissing(digest))?;
        Ok(Arc::new(policy))
    });
    compiling.await.unwrap_or(Err(GroupError::Panicked(digest)))
}

/// What is demanded of an agent that is kept like this.
///
/// # Errors
/// [`GroupError`] when one of its policies cannot be used.
pub(crate) async fn terms(
    store: &Store,
    judges: &Judges,
    agent: &StoredKeylimeAgent,
    settings: &KeylimeSettings,
    seed: u64,
) -> Result<Group, GroupError> {
    let pcr_policy = PcrPolicy::parse(agent.facts.tpm_policy.as_bytes())?;
    let enforced = match &agent.runtime_policy.digest {
        None => None,
        Some(digest) => Some(PolicyRef {
            version: agent.version,
            judge: judges.runtime(store, digest, seed).await?,
        }),
    };
    let measured_boot = match &agent.mb_policy.digest {
        None => None,
        Some(digest) => Some(judges.boot(store, digest, settings.boot_policy).await?),
    };
    let demanded = pcr_policy.demanded();
    let list = enforced.is_some();
    Ok(Group {
        pcr_policy: Some(Arc::new(pcr_policy)),
        enforced,
        measured_boot,
        bypass: false,
        ..without_policies(agent, settings, demanded, list)
    })
}

/// The same, trusting nobody: its policies cannot be used.
fn refused(agent: &StoredKeylimeAgent, settings: &KeylimeSettings) -> Group {
    Group {
        block: true,
        ..without_policies(agent, settings, PcrSet::EMPTY, false)
    }
}

fn without_policies(
    agent: &StoredKeylimeAgent,
    settings: &KeylimeSettings,
    demanded: PcrSet,
    list: bool,
) -> Group {
    let accepted = accepted(&agent.facts);
    let mut pcrs = demanded;
    if list {
        pcrs.insert(PcrIndex::IMA);
    }
    // Keylime's agents quote it whatever they are asked for.
    pcrs.insert(PcrIndex::KEYLIME_DATA);
    if agent.mb_policy.digest.is_some() {
        pcrs = pcrs.union(PcrSet::MEASURED_BOOT);
    }
    Group {
        slug: KEYLIME_GROUP.to_owned(),
        row_version: agent.version,
        enforced: None,
        pcr_policy: None,
        measured_boot: None,
        bank: agent.facts.bank,
        protected: true,
        bypass: false,
        block: false,
        // A measured boot policy demands one, where there is one.
        require_boot_log: false,
        accept_violations: settings.accept_violations,
        auto_recover: settings.auto_recover,
        interval_ms: Some(settings.interval_ms),
        allow_sha1: accepted.hashes.contains(&HashAlg::Sha1),
        require_valid_ima_sig: false,
        keylime: Some(Arc::new(KeylimeTerms {
            accepted,
            pcrs,
            list,
            boot_log_always: settings.boot_log_always,
            answer_ms: settings.answer_ms,
        })),
    }
}

/// Names that are not known here stand for nothing that an agent could choose.
fn accepted(facts: &KeylimeFacts) -> Accepted {
    let hashes = facts.accept_tpm_hash_algs.iter();
    let schemes = facts.accept_tpm_signing_algs.iter();
    Accepted {
        hashes: hashes
            .filter_map(|name| HashAlg::from_name(name.as_bytes()))
            .collect(),
        schemes: schemes
            .filter_map(|name| QuoteScheme::from_name(name))
            .collect(),
    }
}

impl Runtime {
    /// What is demanded of one of Keylime's agents, as the store has it, from now on; nothing, when it
    /// has no such agent. Call it before [`enrolled`](Self::enrolled), and when the agent or its
    /// policies changed. An agent whose policies cannot be used is blocked.
    ///
    /// # Errors
    /// [`ControlError`]; then what was demanded before is demanded still, and this is to be tried
    /// again.
    ///
    /// # Cost
    /// Compiles the runtime policy, unless it judges somebody already.
    pub async fn reload_keylime(&self, agent: &AgentId) -> Result<(), ControlError> {
        let stored = self.store.keylime_agent(agent).await;
        match stored.map_err(GroupError::from)? {
            Some(agent) => self.keylime_changed(&agent).await,
            None => Ok(()),
        }
    }

    /// The same of an agent that was read already.
    ///
    /// # Errors
    /// As [`reload_keylime`](Self::reload_keylime).
    pub async fn keylime_changed(&self, agent: &StoredKeylimeAgent) -> Result<(), ControlError> {
        let settings = &self.settings.keylime;
        let made = terms(&self.store, &self.judges, agent, settings, self.seed).await;
        let group = match made {
            Ok(group) => group,
            Err(error) if error.is_lasting() => {
                tracing::error!(agent = %agent.id, %error, "the agent is blocked");
                refused(agent, settings)
            }
            Err(error) => return Err(error.into()),
        };
        let input = Input::Terms {
            agent: agent.id.clone(),
            terms: Arc::new(group),
        };
        self.input(agent.id.shard(), input).await
    }

    /// The same for every agent that a policy judges. Agents are told one after the other.
    ///
    /// # Errors
    /// [`ControlError`]; then some agents may be judged by what the policy was before.
    pub async fn keylime_policy_changed(
        &self,
        kind: KeylimeKind,
        name: &str,
    ) -> Result<(), ControlError> {
        let mut after = String::new();
        loop {
            let store = &self.store;
            let ids = store.keylime_agents_judged_by(kind, name, &after, AGENTS_PER_PAGE);
            let ids = ids.await.map_err(GroupError::from)?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for id in ids {
                let Ok(id) = AgentId::parse(&id) else {
                    continue;
                };
                self.reload_keylime(&id).await?;
            }
        }
    }
}

/// What is demanded of every one of Keylime's agents that is stored, for the start.
pub(crate) async fn all_terms(
    store: &Store,
    judges: &Judges,
    settings: &KeylimeSettings,
    seed: u64,
) -> Result<Vec<(AgentId, Arc<Group>)>, StoreError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = store.keylime_agents(after, AGENTS_PER_PAGE).await?;
        for agent in page.agents {
            let agent = match agent {
                Ok(agent) => agent,
                Err(error) => {
                    tracing::error!(%error, "nothing is demanded of an agent, which is not trusted");
                    continue;
                }
            };
            let group = match terms(store, judges, &agent, settings, seed).await {
                Ok(group) => group,
                Err(error) => {
                    tracing::error!(agent = %agent.id, %error, "the agent is blocked");
                    refused(&agent, settings)
                }
            };
            all.push((agent.id, Arc::new(group)));
        }
        after = page.end;
        if after.is_none() {
            return Ok(all);
        }
    }
}
