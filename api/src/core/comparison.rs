//! What one version of a policy has that another has not.

use std::collections::{BTreeSet, HashMap};

use rat_engine::hash::HashAlg;
use rat_engine::policy::{BOOT_AGGREGATE, CompiledPolicy, RuntimePolicy};
use serde_json::value::RawValue;

use super::wire::policy as wire;
use crate::error::ApiError;
use crate::limits::DIFF_ITEMS_MAX;

type Digests<'a> = BTreeSet<(HashAlg, &'a [u8])>;

/// Compares two versions, each with its text.
///
/// # Errors
/// [`ApiError::Unavailable`] when what is stored cannot be read.
///
/// # Cost
/// Both policies compiled in memory; a few hundred nanoseconds for each path.
pub(super) fn compare(
    from: (wire::Policy, &[u8]),
    to: (wire::Policy, &[u8]),
) -> Result<wire::PolicyDiff, ApiError> {
    let unreadable = ApiError::Unavailable("the policy cannot be read");
    let parse = |text| RuntimePolicy::parse(text).map_err(|_| unreadable.clone());
    let (old, new) = (parse(from.1)?, parse(to.1)?);
    let other_members = other_members(from.1, to.1).ok_or(unreadable)?;
    let (old, new) = (old.compiled(), new.compiled());
    let mut known = listed(old);
    let mut diff = wire::PolicyDiff {
        from: from.0,
        to: to.0,
        added_paths: Vec::new(),
        added_paths_count: 0,
        removed_paths: Vec::new(),
        removed_paths_count: 0,
        changed: Vec::new(),
        changed_count: 0,
        excludes_added: excludes_without(new, old),
        excludes_removed: excludes_without(old, new),
        other_members,
    };
    let mut in_order: Vec<_> = listed(new).into_iter().collect();
    in_order.sort_unstable_by_key(|(path, _)| *path);
    for (path, digests) in in_order {
        match known.remove(path) {
            None => {
                let item = || path_digests(path, &digests);
                push(&mut diff.added_paths, &mut diff.added_paths_count, item);
            }
            Some(before) if before != digests => {
                let item = || wire::ChangedPath {
                    path: text(path),
                    digests_added: digests.difference(&before).map(digest).collect(),
                    digests_removed: before.difference(&digests).map(digest).collect(),
                };
                push(&mut diff.changed, &mut diff.changed_count, item);
            }
            Some(_) => {}
        }
    }
    let mut removed: Vec<_> = known.into_iter().collect();
    removed.sort_unstable_by_key(|(path, _)| *path);
    for (path, digests) in removed {
        let item = || path_digests(path, &digests);
        push(&mut diff.removed_paths, &mut diff.removed_paths_count, item);
    }
    Ok(diff)
}

/// Counts an item, and keeps it while there is room.
fn push<T>(items: &mut Vec<T>, count: &mut usize, item: impl FnOnce() -> T) {
    *count = count.saturating_add(1);
    if items.len() < DIFF_ITEMS_MAX {
        items.push(item());
    }
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

fn excludes_without(policy: &CompiledPolicy, other: &CompiledPolicy) -> Vec<String> {
    let others: BTreeSet<&str> = other.excludes().iter().map(|it| it.source()).collect();
    let own = policy.excludes().iter().map(|it| it.source());
    own.filter(|source| !others.contains(source))
        .take(DIFF_ITEMS_MAX)
        .map(str::to_owned)
        .collect()
}

/// Members other than paths and excludes whose values differ.
fn other_members(from: &[u8], to: &[u8]) -> Option<Vec<String>> {
    type Members<'a> = HashMap<String, &'a RawValue>;
    let from: Members<'_> = serde_json::from_slice(from).ok()?;
    let to: Members<'_> = serde_json::from_slice(to).ok()?;
    let value = |members: &Members<'_>, name: &str| -> Option<serde_json::Value> {
        serde_json::from_str(members.get(name)?.get()).ok()
    };
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let differ = names.into_iter().filter(|name| {
        let is_listed = matches!(name.as_str(), "digests" | "excludes");
        !is_listed && value(&from, name) != value(&to, name)
    });
    Some(differ.take(DIFF_ITEMS_MAX).cloned().collect())
}

fn path_digests(path: &[u8], digests: &Digests<'_>) -> wire::PathDigests {
    wire::PathDigests {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn version(number: &str) -> wire::Policy {
        wire::Policy {
            id: format!("p-g-00{number}"),
            name: "n".to_owned(),
            version: number.to_owned(),
            status: wire::PolicyStatus::Inactive,
            policy_group_id: "g".to_owned(),
            source_repo: None,
            commit_sha: None,
            signed_by: None,
            rekor_log_id: None,
            created_at: None,
            created_by: "ann".to_owned(),
            origin: "api".to_owned(),
            digest: String::new(),
        }
    }

    fn policy(digests: Value, excludes: Value) -> Vec<u8> {
        json!({"meta": {"version": 1}, "digests": digests, "excludes": excludes})
            .to_string()
            .into_bytes()
    }

    fn compared(from: &[u8], to: &[u8]) -> Value {
        let diff = compare((version("1"), from), (version("2"), to)).unwrap();
        serde_json::to_value(diff).unwrap()
    }

    #[test]
    fn what_was_added_removed_and_changed_is_told_apart() {
        let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let old = policy(
            json!({"/gone": [a], "/same": [a], "/changed": [a, b], "boot_aggregate": [a]}),
            json!(["^/tmp/.*$", "^/var/a$"]),
        );
        let new = policy(
            json!({"/new": [b], "/same": [a], "/changed": [b, c], "boot_aggregate": [b]}),
            json!(["^/var/a$", "^/var/b$"]),
        );
        let diff = compared(&old, &new);
        assert_eq!(diff["from"]["version"], "1");
        assert_eq!(diff["to"]["version"], "2");
        assert_eq!(
            diff["added_paths"],
            json!([{"path": "/new", "digests": [format!("sha256:{b}")]}])
        );
        assert_eq!(
            diff["removed_paths"],
            json!([{"path": "/gone", "digests": [format!("sha256:{a}")]}])
        );
        assert_eq!(diff["changed_count"], 2);
        assert_eq!(
            diff["changed"][0],
            json!({"path": "/changed", "digests_added": [format!("sha256:{c}")],
                   "digests_removed": [format!("sha256:{a}")]})
        );
        assert_eq!(diff["changed"][1]["path"], "boot_aggregate");
        assert_eq!(diff["excludes_added"], json!(["^/var/b$"]));
        assert_eq!(diff["excludes_removed"], json!(["^/tmp/.*$"]));
        assert_eq!(diff["other_members"], json!([]));
        let same = compared(&old, &old);
        for list in ["added_paths", "removed_paths", "changed", "excludes_added"] {
            assert_eq!(same[list], json!([]), "{list}");
        }
    }

    #[test]
    fn other_members_are_compared_by_value() {
        let with = |ima: Value| {
            json!({"meta": {"version": 1}, "digests": {}, "excludes": [], "ima": ima}).to_string()
        };
        let one = with(json!({"ignored_keyrings": [], "dm_policy": null}));
        let two = with(json!({"ignored_keyrings": ["*"], "dm_policy": null}));
        let spaced = one.replace(':', " : ");
        assert_eq!(
            compared(one.as_bytes(), two.as_bytes())["other_members"],
            json!(["ima"])
        );
        assert_eq!(
            compared(one.as_bytes(), spaced.as_bytes())["other_members"],
            json!([])
        );
    }

    #[test]
    fn lists_are_cut_and_counted_to_the_end() {
        let count = DIFF_ITEMS_MAX + 5;
        let paths: serde_json::Map<String, Value> = (0..count)
            .map(|number| (format!("/p/{number:06}"), json!(["a".repeat(64)])))
            .collect();
        let (none, many) = (
            policy(json!({}), json!([])),
            policy(paths.into(), json!([])),
        );
        let diff = compared(&none, &many);
        assert_eq!(diff["added_paths_count"], count);
        assert_eq!(
            diff["added_paths"].as_array().unwrap().len(),
            DIFF_ITEMS_MAX
        );
        assert_eq!(diff["added_paths"][0]["path"], "/p/000000");
        assert_eq!(compared(&many, &none)["removed_paths_count"], count);
    }
}
