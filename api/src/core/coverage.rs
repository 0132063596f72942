//! How far what a group enforces has been held against its agents. (L07)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rat_engine::shard::ListRules;
use rat_store::StoredGroup;
use tokio::sync::Semaphore;

use super::Core;
use super::fleet::Fleet;
use super::newest::Newest;
use super::wire::policy::Coverage;
use crate::limits::COVERAGE_COUNTS_AT_ONCE_MAX;

/// Counts of groups' judged agents: one of each group at a time, and few in all.
pub(super) struct Counts {
    by_group: Mutex<HashMap<String, Newest<Counted>>>,
    at_once: Arc<Semaphore>,
}

/// A count of one version of a group: what it enforces now may be judged by nobody yet.
#[derive(Clone)]
struct Counted {
    row_version: u64,
    coverage: Option<Coverage>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            by_group: Mutex::default(),
            at_once: Arc::new(Semaphore::new(COVERAGE_COUNTS_AT_ONCE_MAX)),
        }
    }
}

impl Counts {
    fn of(&self, slug: &str) -> Newest<Counted> {
        // Nothing panics while it is held.
        let mut groups = self.by_group.lock().unwrap_or_else(PoisonError::into_inner);
        // Who asks from now on is told none of those that nobody waits for.
        groups.retain(|_, newest| newest.is_shared());
        groups.entry(slug.to_owned()).or_default().clone()
    }
}

/// How far a group's enforced policy has been held against its agents; `None` when the shards do
/// not answer in time, or count by another policy than the one that is stored.
pub(super) async fn coverage(core: &Core, group: &StoredGroup) -> Option<Coverage> {
    let counts = &core.in_memory.coverage;
    let (fleet, at_once) = (Arc::clone(&core.fleet), Arc::clone(&counts.at_once));
    let (slug, demanded) = (group.slug.clone(), list_rules(group));
    let row_version = group.row_version;
    let counting = async move {
        let coverage = match at_once.acquire().await {
            Ok(_place) => count(&*fleet, slug, demanded).await,
            Err(_) => None,
        };
        Counted {
            row_version,
            coverage,
        }
    };
    let newest = counts.of(&group.slug);
    let is_of_it = |counted: &Counted| counted.row_version == row_version;
    newest.or_count(is_of_it, counting).await?.coverage
}

/// What lists are judged by in a group that does not skip its policy.
pub(super) fn list_rules(group: &StoredGroup) -> Option<ListRules> {
    let enforced = group.enforced.as_ref()?;
    Some(ListRules {
        policy: enforced.digest,
        accept_violations: group.settings.accept_violations,
        require_valid_ima_sig: group.settings.require_valid_ima_sig,
    })
}

async fn count(fleet: &dyn Fleet, slug: String, demanded: Option<ListRules>) -> Option<Coverage> {
    let counted = fleet.coverage(slug).await.ok()??;
    (counted.by?.list == demanded).then_some(Coverage {
        judged: counted.judged,
        agents: counted.agents,
    })
}
