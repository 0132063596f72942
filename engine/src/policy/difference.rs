//! What one policy has that another has not.

use std::collections::{BTreeSet, HashMap};

use serde_json::value::RawValue;

use super::compiled::{BOOT_AGGREGATE, CompiledPolicy};
use super::runtime::{PolicyError, RuntimePolicy};
use crate::hash::HashAlg;

type Digests<'a> = BTreeSet<(HashAlg, &'a [u8])>;

/// Items, of which only the first are kept, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted<T> {
    /// The first of them.
    pub items: Vec<T>,
    /// All of them.
    pub count: usize,
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            count: 0,
        }
    }
}

impl<T> Counted<T> {
    /// Counts an item, and keeps it while there is room.
    fn push(&mut self, items_max: usize, item: impl FnOnce() -> T) {
        self.count = self.count.saturating_add(1);
        if self.items.len() < items_max {
            self.items.push(item());
        }
    }
}

/// A path that only one of the policies lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathDigests {
    /// The path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Its digests, each with its algorithm's name.
    pub digests: Vec<String>,
}

/// A path that both policies list, with other digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedPath {
    /// The path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Digests that only the new policy lists for it.
    pub digests_added: Vec<String>,
    /// Digests that only the old policy lists for it.
    pub digests_removed: Vec<String>,
}

/// What the new of two policies has that the old one has not, and the other way round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyDifference {
    /// Paths that only the new one lists, in order.
    pub added: Counted<PathDigests>,
    /// Paths that only the old one lists, in order.
    pub removed: Counted<PathDigests>,
    /// Paths that both list with other digests, in order.
    pub changed: Counted<ChangedPath>,
    /// Patterns that only the new one has.
    pub excludes_added: Vec<String>,
    /// Patterns that only the old one has.
    pub excludes_removed: Vec<String>,
    /// Names of other members whose values differ.
    pub other_members: Vec<String>,
}

impl PolicyDifference {
    /// Whether both policies say the same, but for the order in which they say it.
    pub fn is_empty(&self) -> bool {
        let paths = [self.added.count, self.removed.count, self.changed.count];
        let lists = [
            &self.excludes_added,
            &self.excludes_removed,
            &self.other_members,
        ];
        paths == [0; 3] && lists.iter().all(|list| list.is_empty())
    }
}

/// Compares two policies by their texts. At most `items_max` items of each kind are named.
///
/// # Errors
/// [`PolicyError`], of the first text that is no policy.
///
/// # Cost
/// Both policies compiled in memory; a few hundred nanoseconds for each path.
pub fn compare(old: &[u8], new: &[u8], items_max: usize) -> Result<PolicyDifference, PolicyError> {
    let texts = (old, new);
    let (old, new) = (RuntimePolicy::parse(old)?, RuntimePolicy::parse(new)?);
    // Both are objects in JSON, as policies are.
    let other_members = other_members(texts.0, texts.1, items_max).unwrap_or_default();
    let mut difference = PolicyDifference {
        other_members,
        ..PolicyDifference::default()
    };
    let (old, new) = (old.compiled(), new.compiled());
    difference.excludes_added = excludes_without(new, old, items_max);
    difference.excludes_removed = excludes_without(old, new, items_max);
    let mut known = listed(old);
    let mut in_order: Vec<_> = listed(new).into_iter().collect();
    in_order.sort_unstable_by_key(|(path, _)| *path);
    for (path, digests) in in_order {
        match known.remove(path) {
            None => {
                let item = || path_digests(path, &digests);
                difference.added.push(items_max, item);
            }
            Some(before) if before != digests => {
                let item = || ChangedPath {
                    path: text(path),
                    digests_added: digests.difference(&before).map(digest).collect(),
                    digests_removed: before.difference(&digests).map(digest).collect(),
                };
                difference.changed.push(items_max, item);
            }
            Some(_) => {}
        }
    }
    let mut removed: Vec<_> = known.into_iter().collect();
    removed.sort_unstable_by_key(|(path, _)| *path);
    for (path, digests) in removed {
        let item = || path_digests(path, &digests);
        difference.removed.push(items_max, item);
    }
    Ok(difference)
}

/// Every path with its digests, the boot aggregate among them.
fn listed(policy: &CompiledPolicy) -> HashMap<&[u8], Digests<'_>> {
    let mut listed: HashMap<_, _> = policy
        .paths()
        .map(|(path, digests)| (path, digests.collect()))
        .collect();
    let aggregates = policy.reference_boot_aggregates();
    if !aggregates.is_empty() {
        let digests = aggregates.iter().map(|it| (it.alg(), it.as_bytes()));
        listed.insert(BOOT_AGGREGATE, digests.collect());
    }
    listed
}

fn excludes_without(
    policy: &CompiledPolicy,
    other: &CompiledPolicy,
    items_max: usize,
) -> Vec<String> {
    let others: BTreeSet<&str> = other.excludes().iter().map(|it| it.source()).collect();
    let own = policy.excludes().iter().map(|it| it.source());
    own.filter(|source| !others.contains(source))
        .take(items_max)
        .map(str::to_owned)
        .collect()
}

/// Members other than paths and excludes whose values differ; both texts are policies.
fn other_members(old: &[u8], new: &[u8], items_max: usize) -> Option<Vec<String>> {
    type Members<'a> = HashMap<String, &'a RawValue>;
    let old: Members<'_> = serde_json::from_slice(old).ok()?;
    let new: Members<'_> = serde_json::from_slice(new).ok()?;
    let value = |members: &Members<'_>, name: &str| -> Option<serde_json::Value> {
        serde_json::from_str(members.get(name)?.get()).ok()
    };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differ = names.into_iter().filter(|name| {
        let is_listed = matches!(name.as_str(), "digests" | "excludes");
        !is_listed && value(&old, name) != value(&new, name)
    });
    Some(differ.take(items_max).cloned().collect())
}

fn path_digests(path: &[u8], digests: &Digests<'_>) -> PathDigests {
    PathDigests {
        path: text(path),
        digests: digests.iter().map(digest).collect(),
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn digest((alg, bytes): &(HashAlg, &[u8])) -> String {
    format!("{}:{}", alg.name(), hex::encode(bytes))
}
