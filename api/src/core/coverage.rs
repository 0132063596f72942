//! How far what a group enforces has been held against its agents. (L07)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rat_engine::shard::ListRules;
use rat_store::StoredGroup;
use tokio::sync::{Mutex as Turn, Semaphore};
use tokio::time::{Instant, timeout};

use super::Core;
use super::fleet::Fleet;
use super::wire::policy::Coverage;
use crate::limits::{COVERAGE_COUNTS_AT_ONCE_MAX, COVERAGE_MS_MAX, duration};
use crate::metrics;

/// Counts of groups' judged agents, under way and just made.
///
/// A count looks at every agent of the server, so there is one of each group at a time, and few in
/// all. Whoever waited for one takes it if it began after it asked, and nobody is told an older one.
pub(super) struct Counts {
    by_group: Mutex<HashMap<String, Arc<Turn<Option<Counted>>>>>,
    at_once: Arc<Semaphore>,
}

/// A count of one version of a group: what it enforces now may be judged by nobody yet.
struct Counted {
    row_version: u64,
    began: Instant,
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
    fn of(&self, slug: &str) -> Arc<Turn<Option<Counted>>> {
        // Nothing panics while it is held.
        let mut groups = self.by_group.lock().unwrap_or_else(PoisonError::into_inner);
        // Who asks from now on is told none of those that nobody waits for.
        groups.retain(|_, newest| Arc::strong_count(newest) > 1);
        Arc::clone(groups.entry(slug.to_owned()).or_default())
    }
}

/// How far a group's enforced policy has been held against its agents; `None` when the shards do
/// not answer in time, or count by another policy than the one that is stored.
pub(super) async fn coverage(core: &Core, group: &StoredGroup) -> Option<Coverage> {
    let counting = newest(core, group);
    let Ok(counted) = timeout(duration(COVERAGE_MS_MAX), counting).await else {
        metrics::limit_rejected("COVERAGE_MS_MAX");
        return None;
    };
    counted
}

async fn newest(core: &Core, group: &StoredGroup) -> Option<Coverage> {
    let asked = Instant::now();
    let counts = &core.in_memory.coverage;
    let mut newest = counts.of(&group.slug).lock_owned().await;
    let row_version = group.row_version;
    if let Some(counted) = newest.as_ref()
        && counted.row_version == row_version
        && counted.began >= asked
    {
        return counted.coverage;
    }
    let place = Arc::clone(&counts.at_once).acquire_owned().await.ok()?;
    let (fleet, slug) = (Arc::clone(&core.fleet), group.slug.clone());
    let demanded = list_rules(group);
    // It goes on when nobody waits for it any more, so that a worker that hangs is asked once for
    // each group, and not by every request.
    let counting = tokio::spawn(async move {
        let _place = place;
        let began = Instant::now();
        let coverage = count(&*fleet, slug, demanded).await;
        *newest = Some(Counted {
            row_version,
            began,
            coverage,
        });
        coverage
    });
    counting.await.ok()?
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
