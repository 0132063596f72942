//! The bodies of answers, member for member as documented.

use serde::Serialize;

/// R10.
#[derive(Serialize)]
pub(super) struct InstallConfig<'a> {
    pub(super) registrar_ip: &'a str,
    pub(super) verifier_ip: &'a str,
    pub(super) core_url: &'a str,
    pub(super) is_baseline: bool,
    pub(super) group_id: String,
}

/// R4, and what a native agent needs beside it.
#[derive(Serialize)]
pub(super) struct Enrolled {
    pub(super) status: &'static str,
    pub(super) verifier_ip: String,
    pub(super) verifier_port: u16,
    pub(super) activation: Activation,
}

/// R5, and what a native agent needs beside it.
#[derive(Serialize)]
pub(super) struct BaselineEstablished {
    pub(super) status: &'static str,
    pub(super) policy_id: String,
    pub(super) activation: Activation,
}

/// A sealed secret: binary members in base64.
#[derive(Serialize)]
pub(super) struct Activation {
    pub(super) id: String,
    /// `TPM2B_ID_OBJECT`.
    pub(super) blob: String,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub(super) secret: String,
}

/// What an activated agent runs with.
#[derive(Serialize)]
pub(super) struct Activated {
    pub(super) certificate: String,
    pub(super) ca: Vec<String>,
    pub(super) evidence: EvidenceListener,
    pub(super) settings: AgentSettings,
}

#[derive(Serialize)]
pub(super) struct EvidenceListener {
    pub(super) addresses: Vec<String>,
    pub(super) server_name: String,
}

#[derive(Serialize)]
pub(super) struct AgentSettings {
    pub(super) interval_ms: u64,
    pub(super) mode: &'static str,
}

/// An item of R1.
#[derive(Serialize)]
pub(super) struct Agent {
    #[serde(flatten)]
    pub(super) identity: Identity,
    pub(super) policy_group_id: Option<String>,
    pub(super) effective_status: &'static str,
    /// What an operator should know; absent when there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<&'static str>,
}

/// What R1 and R2 both say of an agent.
#[derive(Serialize)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) hostname: String,
    pub(super) ip_address: String,
    pub(super) status: &'static str,
    pub(super) registered_at: Option<String>,
    pub(super) last_checkin: Option<String>,
}

/// R2.
#[derive(Serialize)]
pub(super) struct Evidence {
    pub(super) agent: EvidenceAgent,
    pub(super) attestation: Option<Attestation>,
    pub(super) policy: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct EvidenceAgent {
    #[serde(flatten)]
    pub(super) identity: Identity,
    pub(super) effective_status: &'static str,
}

#[derive(Serialize)]
pub(super) struct Attestation {
    pub(super) count: u64,
    pub(super) last_successful: Option<String>,
    pub(super) hash_alg: &'static str,
    pub(super) sign_alg: &'static str,
    pub(super) active_pcrs: Vec<u8>,
    /// Why the agent is failed; null while it is not.
    pub(super) failure: Option<Failure>,
}

/// A failure that stays until an operator or another policy ends it.
#[derive(Serialize)]
pub(super) struct Failure {
    pub(super) code: &'static str,
    pub(super) detail: String,
    /// The first offending entry of the measurement list, and what it says.
    pub(super) entry: Option<u64>,
    pub(super) path: Option<String>,
    pub(super) digest: Option<String>,
    pub(super) at: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) commit_sha: Option<String>,
    pub(super) source_repo: Option<String>,
    pub(super) signed_by: Option<String>,
    pub(super) rekor_log_id: Option<String>,
    pub(super) created_at: Option<String>,
    /// Distinct paths that the policy lists.
    pub(super) measurement_count: usize,
}
