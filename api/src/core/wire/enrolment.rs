//! Enrolment and its tokens.

use serde::Serialize;
use utoipa::ToSchema;

/// R10.
#[derive(Serialize, ToSchema)]
pub(crate) struct InstallConfig {
    #[schema(example = "10.128.0.4")]
    pub(crate) registrar_ip: String,
    pub(crate) verifier_ip: String,
    pub(crate) core_url: String,
    pub(crate) is_baseline: bool,
    pub(crate) group_id: String,
}

/// R4, and what a native agent needs beside it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Enrolled {
    pub(crate) status: &'static str,
    pub(crate) verifier_ip: String,
    pub(crate) verifier_port: u16,
    pub(crate) activation: Activation,
}

/// R5, and what a native agent needs beside it.
#[derive(Serialize, ToSchema)]
pub(crate) struct BaselineEstablished {
    pub(crate) status: &'static str,
    pub(crate) policy_id: String,
    /// Missing when the request had no keys: then nothing is to be proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) activation: Option<Activation>,
}

/// A sealed secret: binary members in base64.
#[derive(Serialize, ToSchema)]
pub(crate) struct Activation {
    pub(crate) id: String,
    /// `TPM2B_ID_OBJECT`.
    pub(crate) blob: String,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub(crate) secret: String,
}

/// What an activated agent runs with.
#[derive(Serialize, ToSchema)]
pub(crate) struct Activated {
    pub(crate) certificate: String,
    pub(crate) ca: Vec<String>,
    pub(crate) evidence: EvidenceListener,
    pub(crate) settings: AgentSettings,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct EvidenceListener {
    pub(crate) addresses: Vec<String>,
    pub(crate) server_name: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AgentSettings {
    pub(crate) interval_ms: u64,
    pub(crate) mode: &'static str,
}

/// R8 and R9: a new token, shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenIssue {
    pub(crate) token: String,
    #[schema(format = DateTime)]
    pub(crate) expires_at: Option<String>,
    /// What to run on the machine.
    pub(crate) command: String,
}

/// An enrolment token, without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) kind: TokenKind,
    pub(crate) policy_group_id: String,
    pub(crate) status: TokenStatus,
    pub(crate) uses: u64,
    /// Null for any number.
    pub(crate) max_uses: Option<u64>,
    pub(crate) created_by: String,
    #[schema(format = DateTime)]
    pub(crate) created_at: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) expires_at: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) revoked_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TokenKind {
    /// For any number of machines.
    Standard,
    /// For one machine, whose list becomes a policy.
    Baseline,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TokenStatus {
    Issued,
    Consumed,
    Expired,
    Revoked,
}

/// A machine that waits for an operator's approval.
#[derive(Serialize, ToSchema)]
pub(crate) struct Waiting {
    /// The id that it asks for.
    pub(crate) agent_id: String,
    pub(crate) hostname: String,
    pub(crate) ip_address: String,
    pub(crate) policy_group_id: String,
    /// SHA-256 of its endorsement key, which `rat-agent doctor` shows on the machine.
    pub(crate) ek_sha256: String,
    #[schema(format = DateTime)]
    pub(crate) first_seen: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) last_seen: Option<String>,
    pub(crate) tries: u64,
}

/// A machine that may enrol into a group.
#[derive(Serialize, ToSchema)]
pub(crate) struct ApprovedEk {
    pub(crate) ek_sha256: String,
    pub(crate) approved_by: String,
    #[schema(format = DateTime)]
    pub(crate) approved_at: Option<String>,
}
