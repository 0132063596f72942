//! What is kept of an enrolment between its challenge and its answer.

use rat_engine::shard::BaselineCandidate;
use rat_identity::enrolment::Pending;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// A pending enrolment, as the store keeps it for us. It lives for minutes, so that a server of
/// another version drops it rather than to guess.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PendingEnrolment {
    /// What the answer is checked against.
    pub(super) pending: Pending,
    /// The token's id, for the audit log.
    pub(super) token_id: String,
    /// The machine's name, as it says.
    pub(super) hostname: String,
    /// The policy made from its list.
    pub(super) baseline: Option<BaselineCandidate>,
}

impl PendingEnrolment {
    /// As bytes.
    pub(super) fn pack(&self) -> Result<Vec<u8>, ApiError> {
        serde_json::to_vec(self)
            .map_err(|_| ApiError::Unavailable("the enrolment cannot be recorded"))
    }

    /// From bytes; `None` for those of another version.
    pub(super) fn unpack(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
