//! Stored groups, made ready to judge.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rat_engine::hash::Digest;
use rat_engine::ima::judge::{Judge, VerificationKeyError};
use rat_engine::pcr_policy::{PcrPolicy, PcrPolicyError};
use rat_engine::policy::{PolicyError, RuntimePolicy};
use rat_engine::shard::{Group, PolicyRef};
use rat_store::{Precondition, Slot, Store, StoreError, StoredGroup};
use thiserror::Error;

use crate::runtime::lock;

/// Versions that one query lists.
const VERSIONS_PER_PAGE: u32 = 1_000;

/// Who puts a proven baseline into its slot, as the audit names it.
const BASELINE_ACTOR: &str = "baseline";

/// Which version of each group the shards were told.
pub(crate) struct Told(Mutex<HashMap<String, u64>>);

impl Told {
    /// That they were told these.
    pub(crate) fn of(groups: &[Arc<Group>]) -> Self {
        let versions = groups.iter().map(|it| (it.slug.clone(), it.row_version));
        Self(Mutex::new(versions.collect()))
    }

    /// Notes that they were told this version.
    pub(crate) fn note(&self, slug: &str, row_version: u64) {
        let mut versions = lock(&self.0);
        let known = versions.entry(slug.to_owned()).or_default();
        *known = row_version.max(*known);
    }

    /// Whether they were told this version, or a newer one.
    pub(crate) fn has(&self, slug: &str, row_version: u64) -> bool {
        let versions = lock(&self.0);
        versions
            .get(slug)
            .is_some_and(|known| *known >= row_version)
    }
}

/// Why a stored group cannot be enforced. Nobody in it is trusted then.
#[derive(Debug, Error)]
pub enum GroupError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A policy that the group names is not there.
    #[error("the text of policy {0} is missing")]
    TextMissing(Digest),
    /// A policy cannot be read.
    #[error("policy {digest}: {error}")]
    Policy {
        /// Its digest.
        digest: Digest,
        /// Why.
        error: Box<PolicyError>,
    },
    /// A policy has a key that cannot be used.
    #[error("policy {digest}: {error}")]
    Key {
        /// Its digest.
        digest: Digest,
        /// Why.
        error: VerificationKeyError,
    },
    /// The PCR policy cannot be read.
    #[error("the PCR policy: {0}")]
    PcrPolicy(#[from] PcrPolicyError),
    /// Reading a policy panicked.
    #[error("reading policy {0} panicked")]
    Panicked(Digest),
}

impl GroupError {
    /// Whether another try would end in the same way: the policy is at fault, or what is stored of
    /// it, and not the store.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Store(error) => error.is_lasting(),
            _ => true,
        }
    }
}

/// The group, with its enforced policy compiled. `seed` keeps submitted policies from being made
/// slow on purpose; it is random.
///
/// # Errors
/// [`GroupError`].
///
/// # Cost
/// Compiles the policy, on another thread: seconds for millions of paths.
pub async fn load_group(
    store: &Store,
    stored: &StoredGroup,
    seed: u64,
) -> Result<Group, GroupError> {
    let enforced = match stored.enforced {
        None => None,
        Some(version) => Some(PolicyRef {
            version: version.version,
            judge: load_judge(store, &version.digest, seed).await?,
        }),
    };
    let pcr_policy = match &stored.settings.pcr_policy {
        None => None,
        Some(text) => Some(Arc::new(PcrPolicy::parse(text.as_bytes())?)),
    };
    Ok(Group {
        enforced,
        pcr_policy,
        bypass: stored.settings.bypass,
        ..without_policies(stored)
    })
}

/// The group, trusting nobody: its policies cannot be used. (L01)
pub(crate) fn without_policies(stored: &StoredGroup) -> Group {
    let settings = &stored.settings;
    Group {
        slug: stored.slug.clone(),
        row_version: stored.row_version,
        enforced: None,
        pcr_policy: None,
        measured_boot: None,
        bank: settings.bank,
        protected: settings.protected,
        // A group without its policies would pass whatever is genuine.
        bypass: false,
        block: settings.block,
        require_boot_log: settings.require_boot_log,
        accept_violations: settings.accept_violations,
        auto_recover: settings.auto_recover,
        interval_ms: settings.interval_ms,
        allow_sha1: settings.allow_sha1,
        require_valid_ima_sig: settings.require_valid_ima_sig,
        keylime: None,
    }
}

/// The judge of the policy with this digest.
pub(crate) async fn load_judge(
    store: &Store,
    digest: &Digest,
    seed: u64,
) -> Result<Arc<Judge>, GroupError> {
    let digest = *digest;
    let text = store.policy_text(&digest).await?;
    let text = text.ok_or(GroupError::TextMissing(digest))?;
    let compiling = tokio::task::spawn_blocking(move || {
        let policy = RuntimePolicy::parse_seeded(&text, seed).map_err(|error| {
            let error = Box::new(error);
            GroupError::Policy { digest, error }
        })?;
        let judge = Judge::new(Arc::new(policy));
        judge
            .map(Arc::new)
            .map_err(|error| GroupError::Key { digest, error })
    });
    compiling.await.unwrap_or(Err(GroupError::Panicked(digest)))
}

/// Enforces a proven baseline where nothing is enforced yet; `None` when something else is. (L08)
///
/// A group that enforces this very policy already is returned too: whoever put it there may have
/// failed before the shards were told.
pub(crate) async fn adopt_baseline(
    store: &Store,
    group: &str,
    policy: &Digest,
    now_unix_ms: u64,
    seed: u64,
) -> Result<Option<Group>, GroupError> {
    let mut after = 0;
    let version = loop {
        let page = store.policies(group, after, VERSIONS_PER_PAGE).await?;
        if let Some(found) = page.iter().find(|version| version.digest == *policy) {
            break found.version;
        }
        match page.last() {
            Some(last) => after = last.version,
            None => return Err(GroupError::TextMissing(*policy)),
        }
    };
    let (slot, only) = (Slot::Enforced, Precondition::OnlyIfNone);
    store
        .activate_policy(group, version, slot, only, BASELINE_ACTOR, now_unix_ms)
        .await?;
    let is_enforced = |stored: &StoredGroup| {
        let enforced = stored.enforced.as_ref();
        enforced.is_some_and(|enforced| enforced.digest == *policy)
    };
    match store.group(group).await?.filter(is_enforced) {
        Some(stored) => load_group(store, &stored, seed).await.map(Some),
        None => Ok(None),
    }
}
