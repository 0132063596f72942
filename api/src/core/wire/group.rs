//! Policy groups.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::policy::Coverage;

/// A policy group: what is demanded of its agents.
#[derive(Serialize, ToSchema)]
pub(crate) struct Group {
    #[schema(example = "prod-fleet")]
    pub(crate) policy_group_id: String,
    /// Its name in the rulesets API.
    pub(crate) hex_id: String,
    pub(crate) name: String,
    /// False: detection mode, in which violations are reported and not held against the agent.
    pub(crate) protected: bool,
    /// The runtime policy is skipped.
    pub(crate) bypass: bool,
    /// Every agent is reported as blocked.
    pub(crate) block: bool,
    /// The PCR bank that quotes must cover.
    #[schema(example = "sha256")]
    pub(crate) bank: &'static str,
    /// Whether a boot must be explained by a boot log.
    pub(crate) require_boot_log: bool,
    /// Whether violations of the measurement list are accepted.
    pub(crate) accept_violations: bool,
    /// Whether a failed agent that passes again is trusted again without an operator.
    pub(crate) auto_recover: bool,
    /// Milliseconds from one challenge of its agents to the next; null for the server's interval.
    #[schema(minimum = 1000, maximum = 86400000)]
    pub(crate) interval_ms: Option<u64>,
    /// Whether SHA-1 is accepted: as the hash of attestation keys and quotes, and as the bank.
    pub(crate) allow_sha1: bool,
    /// Whether a file whose signature does not verify fails, also when its digest is listed.
    pub(crate) require_valid_ima_sig: bool,
    pub(crate) approval: Approval,
    /// Values that quoted PCRs must have, in the form of Keylime's `tpm_policy`.
    #[schema(value_type = Option<Object>)]
    pub(crate) pcr_policy: Option<Box<RawValue>>,
    /// What verdicts are made with; without one nobody is trusted.
    pub(crate) enforced_policy_id: Option<String>,
    /// What is kept beside it.
    pub(crate) shadow_policy_id: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) created_at: Option<String>,
    /// Grows with every change; `ETag` shows the same.
    pub(crate) row_version: u64,
}

/// Who may enrol, beyond holding a token of the group.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = GroupApproval)]
pub(crate) enum Approval {
    /// Whoever proves a genuine TPM.
    Auto,
    /// Machines on the operator's list.
    List,
    /// Machines that an operator approves one by one.
    Manual,
}

/// A group, and how far its policy has been held against its agents.
#[derive(Serialize, ToSchema)]
pub(crate) struct GroupDetail {
    #[serde(flatten)]
    pub(crate) group: Group,
    /// Null when the shards do not answer now, or do not count by the enforced policy: not yet, or
    /// because the group skips it.
    pub(crate) coverage: Option<Coverage>,
}
