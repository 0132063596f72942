//! Agents, and what is known of them.

use serde::Serialize;
use utoipa::ToSchema;

/// An agent's status in the words of the Core API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Enrolled, not attested yet.
    Pending,
    /// Genuine now.
    Active,
    /// Failed, or its group is blocked.
    Failed,
    /// Nothing recent shows that it is as it should be.
    Stale,
}

impl Status {
    pub(crate) const ALL: [Self; 4] = [Self::Pending, Self::Active, Self::Failed, Self::Stale];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Failed => "failed",
            Self::Stale => "stale",
        }
    }
}

/// An item of R1.
#[derive(Serialize, ToSchema)]
pub(crate) struct Agent {
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// Null when the stored record cannot be read.
    pub(crate) policy_group_id: Option<String>,
    /// What relying parties see.
    #[schema(example = "trusted")]
    pub(crate) effective_status: &'static str,
    /// What an operator should know; absent when there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warning: Option<&'static str>,
}

/// What R1 and R2 both say of an agent.
#[derive(Serialize, ToSchema)]
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) hostname: String,
    pub(crate) ip_address: String,
    pub(crate) status: Status,
    #[schema(format = DateTime)]
    pub(crate) registered_at: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) last_checkin: Option<String>,
}

/// One agent, with what enrolment bound to its id.
#[derive(Serialize, ToSchema)]
pub(crate) struct AgentDetail {
    #[serde(flatten)]
    pub(crate) agent: Agent,
    /// Counts the attestation keys that this id had.
    pub(crate) ak_epoch: u32,
    /// Whether another attestation key waits for an operator's approval.
    pub(crate) ak_proposed: bool,
    /// SHA-256 of that key's public area; null when none waits.
    pub(crate) ak_proposed_sha256: Option<String>,
    /// SHA-256 of the endorsement key: the machine's identity.
    pub(crate) ek_sha256: String,
    /// SHA-256 of the key of its certificate.
    pub(crate) client_key_sha256: String,
    /// SHA-256 of the key of the relay that it speaks through.
    pub(crate) relay_key_sha256: Option<String>,
    /// By which way its evidence comes.
    pub(crate) path: Path,
    /// Whether it stays connected between challenges (`stay`), or not (`leave`).
    #[schema(example = "stay")]
    pub(crate) mode: &'static str,
    /// The policy that its first covering quote makes its group's, when it enrolled with one.
    pub(crate) baseline_policy_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EvidencePath)]
pub(crate) enum Path {
    Native,
    KeylimePull,
    KeylimePush,
}

/// R2.
#[derive(Serialize, ToSchema)]
pub(crate) struct Evidence {
    pub(crate) agent: EvidenceAgent,
    /// Null when nothing is known now.
    pub(crate) attestation: Option<Attestation>,
    /// What the group enforces; null when it has no policy.
    pub(crate) policy: Option<EvidencePolicy>,
    /// Why the agent failed, or would have if its group did not only report, by its first offence;
    /// null while there is none.
    pub(crate) first_offence: Option<Failure>,
    /// What to do about the agent's status; null when there is nothing to be done.
    pub(crate) what_to_do: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warning: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct EvidenceAgent {
    #[serde(flatten)]
    pub(crate) identity: Identity,
    #[schema(example = "trusted")]
    pub(crate) effective_status: &'static str,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Attestation {
    /// Attestations that passed.
    pub(crate) count: u64,
    #[schema(format = DateTime)]
    pub(crate) last_successful: Option<String>,
    #[schema(example = "sha256")]
    pub(crate) hash_alg: &'static str,
    #[schema(example = "rsassa")]
    pub(crate) sign_alg: &'static str,
    pub(crate) active_pcrs: Vec<u8>,
    /// What the agent is held to be failed by; null in detection mode, whatever was found.
    pub(crate) failure: Option<Failure>,
    /// The boot that was attested last.
    pub(crate) boot_epoch: Option<BootEpoch>,
    /// Under which policy everything that is proven of this boot was judged; null when not all of it
    /// was.
    pub(crate) policy_judged: Option<PolicyJudged>,
    /// Entries of the list that passed because an exclude pattern of the policy matches their path;
    /// null when not all of it was judged.
    pub(crate) passed_by_exclude: Option<u64>,
    /// When trust ends if nothing newer is proven; null when there is none.
    #[schema(format = DateTime)]
    pub(crate) trusted_until: Option<String>,
}

/// The TPM's counters of one boot.
#[derive(Serialize, ToSchema)]
pub(crate) struct BootEpoch {
    pub(crate) reset_count: u32,
    pub(crate) restart_count: u32,
}

/// A policy, by its text.
#[derive(Serialize, ToSchema)]
pub(crate) struct PolicyJudged {
    /// SHA-256 of its text.
    pub(crate) digest: String,
    /// Its number in the agent's group; null for a policy that this group does not have.
    pub(crate) version: Option<String>,
}

/// A failure that stays until an operator or another policy ends it.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct Failure {
    #[schema(example = "ima.path_not_listed")]
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    /// The first offending entry of the measurement list, and what it says.
    pub(crate) entry: Option<u64>,
    pub(crate) path: Option<String>,
    pub(crate) digest: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) at: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct EvidencePolicy {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) commit_sha: Option<String>,
    pub(crate) source_repo: Option<String>,
    pub(crate) signed_by: Option<String>,
    pub(crate) rekor_log_id: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) created_at: Option<String>,
    /// Distinct paths that the policy lists.
    pub(crate) measurement_count: usize,
}

/// R3.
#[derive(Serialize, ToSchema)]
pub(crate) struct SyncStatus {
    pub(crate) agent_id: String,
    /// Keylime's number: 1 pending, 3 active, 4 stale, 7 failed.
    pub(crate) operational_state: u8,
    pub(crate) status: Status,
    /// Attestations that passed.
    pub(crate) attestation_count: u64,
    #[schema(format = DateTime)]
    pub(crate) last_received_quote: Option<String>,
}

/// What an approval approved.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approved {
    pub(crate) agent_id: String,
    pub(crate) approved: ApprovedWhat,
    /// The machine, SHA-256 of its endorsement key.
    pub(crate) ek_sha256: String,
    pub(crate) policy_group_id: String,
    /// Counts the attestation keys of the agent; null while it is not enrolled.
    pub(crate) ak_epoch: Option<u32>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ApprovedWhat {
    /// Its new attestation key counts from now on.
    AttestationKey,
    /// It can enrol: it asks again by itself.
    Enrolment,
}

/// An agent that was removed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Removed {
    pub(crate) agent_id: String,
    /// Its failure stays with its machine: enrolled again, it is failed. So is a machine whose
    /// record could not be read.
    pub(crate) failure_kept: bool,
}
