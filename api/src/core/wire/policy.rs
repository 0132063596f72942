//! Versions of policies.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// How a version stands in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PolicyStatus {
    /// It is enforced.
    Active,
    /// It is kept beside the enforced one.
    Shadow,
    /// It was enforced once.
    Superseded,
    /// It never was.
    Inactive,
}

/// An item of R6: a version of a group's policy, which never changes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Policy {
    #[schema(example = "p-prod-fleet-003")]
    pub(crate) id: String,
    pub(crate) name: String,
    /// Its number within the group.
    #[schema(example = "3")]
    pub(crate) version: String,
    pub(crate) status: PolicyStatus,
    pub(crate) policy_group_id: String,
    pub(crate) source_repo: Option<String>,
    pub(crate) commit_sha: Option<String>,
    pub(crate) signed_by: Option<String>,
    pub(crate) rekor_log_id: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) created_at: Option<String>,
    /// Who brought it: a user, an API token, or the enrolment token that a machine came with.
    pub(crate) created_by: String,
    /// Where it came from.
    #[schema(example = "api")]
    pub(crate) origin: String,
    /// SHA-256 of its text.
    pub(crate) digest: String,
}

/// R7: a version with its text.
#[derive(Serialize, ToSchema)]
pub(crate) struct PolicyWithContent {
    #[serde(flatten)]
    pub(crate) policy: Policy,
    /// The runtime policy, as it was given.
    #[schema(value_type = Object)]
    pub(crate) content: Box<RawValue>,
}

/// A new version, and what its author should know.
#[derive(Serialize, ToSchema)]
pub(crate) struct PolicyCreated {
    #[serde(flatten)]
    pub(crate) policy: Policy,
    /// The most severe first.
    pub(crate) warnings: Vec<LintFinding>,
    /// How many there are, when not all are named.
    pub(crate) warning_count: usize,
}

/// What is doubtful about a policy.
#[derive(Serialize, ToSchema)]
pub(crate) struct LintFinding {
    #[schema(example = "exclude.writable_place")]
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    pub(crate) text: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Danger,
    Warning,
    Note,
}

/// What is in a slot from now on.
#[derive(Serialize, ToSchema)]
#[schema(as = PolicyActivated)]
pub(crate) struct Activated {
    pub(crate) policy_id: String,
    pub(crate) policy_group_id: String,
    pub(crate) version: String,
    pub(crate) slot: Slot,
    /// How far the enforced policy has been held against the group's agents; null when the shards
    /// do not answer now, or do not count by it yet. They learn of the change all the same.
    pub(crate) coverage: Option<Coverage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Slot {
    /// Verdicts are made with it.
    Enforced,
    /// Kept beside the enforced one; nobody judges by it yet.
    Shadow,
}

/// How many of a group's agents were judged in full under what it enforces now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Coverage {
    pub(crate) judged: u64,
    pub(crate) agents: u64,
}

/// What a version has that another has not. Lists are cut at 1,000 items; counts are not.
#[derive(Serialize, ToSchema)]
pub(crate) struct PolicyDiff {
    /// The version that was compared with, `against`.
    pub(crate) from: Policy,
    /// The version that was asked for.
    pub(crate) to: Policy,
    pub(crate) added_paths: Vec<PathDigests>,
    pub(crate) added_paths_count: usize,
    pub(crate) removed_paths: Vec<PathDigests>,
    pub(crate) removed_paths_count: usize,
    pub(crate) changed: Vec<ChangedPath>,
    pub(crate) changed_count: usize,
    pub(crate) excludes_added: Vec<String>,
    pub(crate) excludes_removed: Vec<String>,
    /// Names of other members whose values differ.
    pub(crate) other_members: Vec<String>,
}

/// A path and its digests.
#[derive(Serialize, ToSchema)]
pub(crate) struct PathDigests {
    pub(crate) path: String,
    pub(crate) digests: Vec<String>,
}

/// A path that both list, with other digests.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChangedPath {
    pub(crate) path: String,
    pub(crate) digests_added: Vec<String>,
    pub(crate) digests_removed: Vec<String>,
}
