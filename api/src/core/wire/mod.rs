//! The bodies of answers, member for member as documented.

pub(crate) mod agent;
pub(crate) mod enrolment;
pub(crate) mod group;
pub(crate) mod policy;
pub(crate) mod relay;
pub(crate) mod request;
pub(crate) mod status;
pub(crate) mod webhook;

use serde::Serialize;
use utoipa::ToSchema;

/// R11.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    pub(crate) status: &'static str,
    pub(crate) version: &'static str,
    /// Seconds since the server started.
    pub(crate) uptime: u64,
}

/// Which entries of the audit log come first.
#[derive(Clone, Copy, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum AuditOrder {
    Oldest,
    Newest,
}

/// An entry of the audit log.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    pub(crate) seq: u64,
    #[schema(format = DateTime)]
    pub(crate) at: Option<String>,
    /// Who did it.
    pub(crate) actor: String,
    #[schema(example = "policy.enforce")]
    pub(crate) action: String,
    /// To what.
    pub(crate) target: String,
    pub(crate) detail: String,
    /// The head of the log's hash chain after this entry, SHA-256.
    pub(crate) head: String,
}
