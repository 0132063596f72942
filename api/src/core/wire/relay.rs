//! Relays.

use rat_store::StoredRelay;
use serde::Serialize;
use utoipa::ToSchema;

use super::enrolment::EvidenceListener;
use crate::clock::rfc3339;

/// A relay that may connect.
#[derive(Serialize, ToSchema)]
pub(crate) struct Relay {
    #[schema(example = "site-1")]
    pub(crate) name: String,
    /// SHA-256 of its public key: what its agents' quotes are bound to.
    pub(crate) key_sha256: String,
    pub(crate) created_by: String,
    #[schema(format = DateTime)]
    pub(crate) created_at: Option<String>,
}

impl From<StoredRelay> for Relay {
    fn from(relay: StoredRelay) -> Self {
        Self {
            name: relay.name,
            key_sha256: hex::encode(relay.key_sha256),
            created_by: relay.created_by,
            created_at: rfc3339(relay.created_unix_ms),
        }
    }
}

/// What a relay works with: `rat-agent relay install` takes this file.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewRelay {
    #[schema(example = "site-1")]
    pub(crate) name: String,
    /// SHA-256 of its public key. Agents may be told it, and then speak to this relay alone.
    pub(crate) key_sha256: String,
    /// PEM, the relay's own first.
    pub(crate) certificate: String,
    #[schema(format = DateTime)]
    pub(crate) expires_at: Option<String>,
    /// The CAs of server and agents, each in PEM.
    pub(crate) ca: Vec<String>,
    pub(crate) evidence: EvidenceListener,
}
