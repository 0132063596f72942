//! What one version of a policy has that another has not.

use rat_engine::policy;

use super::wire::policy as wire;
use crate::error::ApiError;
use crate::limits::DIFF_ITEMS_MAX;

/// Compares two versions, each with its text.
///
/// # Errors
/// [`ApiError::Unavailable`] when what is stored cannot be read.
///
/// # Cost
/// As [`policy::compare`].
pub(super) fn compare(
    from: (wire::Policy, &[u8]),
    to: (wire::Policy, &[u8]),
) -> Result<wire::PolicyDiff, ApiError> {
    let difference = policy::compare(from.1, to.1, DIFF_ITEMS_MAX)
        .map_err(|_| ApiError::Unavailable("the policy cannot be read"))?;
    let changed = difference.changed.items.into_iter();
    Ok(wire::PolicyDiff {
        from: from.0,
        to: to.0,
        added_paths: paths(difference.added.items),
        added_paths_count: difference.added.count,
        removed_paths: paths(difference.removed.items),
        removed_paths_count: difference.removed.count,
        changed: changed
            .map(|changed| wire::ChangedPath {
                path: changed.path,
                digests_added: changed.digests_added,
                digests_removed: changed.digests_removed,
            })
            .collect(),
        changed_count: difference.changed.count,
        excludes_added: difference.excludes_added,
        excludes_removed: difference.excludes_removed,
        other_members: difference.other_members,
    })
}

fn paths(items: Vec<policy::PathDigests>) -> Vec<wire::PathDigests> {
    let items = items.into_iter();
    let item = |item: policy::PathDigests| wire::PathDigests {
        path: item.path,
        digests: item.digests,
    };
    items.map(item).collect()
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
