//! The fleet in numbers.

use serde::Serialize;
use utoipa::ToSchema;

/// How the agents of the server stand, and those of each group.
#[derive(Serialize, ToSchema)]
pub(crate) struct FleetStatus {
    #[serde(flatten)]
    pub(crate) standing: Standing,
    /// By name; groups without agents are left out.
    pub(crate) groups: Vec<GroupStatus>,
}

/// How the agents of a group stand.
#[derive(Serialize, ToSchema)]
pub(crate) struct GroupStatus {
    #[schema(example = "prod-fleet")]
    pub(crate) policy_group_id: String,
    #[serde(flatten)]
    pub(crate) standing: Standing,
}

/// How so many agents stand.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct Standing {
    pub(crate) agents: u64,
    pub(crate) by_status: ByStatus,
    pub(crate) by_effective_status: ByEffectiveStatus,
}

/// Agents by status.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct ByStatus {
    pub(crate) pending: u64,
    pub(crate) active: u64,
    pub(crate) failed: u64,
    pub(crate) stale: u64,
}

/// Agents by what relying parties see.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct ByEffectiveStatus {
    pub(crate) trusted: u64,
    pub(crate) trusted_unenforced: u64,
    pub(crate) authentic: u64,
    pub(crate) pending: u64,
    pub(crate) unverified: u64,
    pub(crate) overdue: u64,
    pub(crate) untrusted: u64,
    pub(crate) blocked: u64,
}
