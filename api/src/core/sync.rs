//! R3: how an agent stands, with Keylime's numbers.
//!
//! What Keylime's verifier and a database beside it would have to be brought together for is one
//! thing here: the answer is what the shards know, and nothing is written.

use super::State;
use super::agents::Shown;
use super::fleet::Seen;
use super::request::{AgentInPath, Answered, Reply};
use super::wire::agent::{Status, SyncStatus};
use crate::clock::rfc3339;
use crate::error::ApiError;

/// Says how an agent stands now.
#[utoipa::path(
    post, path = "/agents/{agent_id}/sync-status", tag = "agents",
    params(("agent_id" = String, Path)),
    responses((status = 200, body = SyncStatus)),
)]
pub(super) async fn sync_status(
    state: State,
    AgentInPath(id): AgentInPath,
) -> Answered<SyncStatus> {
    let core = &state.0;
    let stored = core.store.agent(&id).await?;
    let stored = stored.ok_or(ApiError::NotFound("agent"))?;
    let seen = core.fleet.seen(id).await?;
    let glance = seen.as_ref().map(Seen::glance);
    let status = Shown::of(glance).status;
    Ok(Reply::ok(SyncStatus {
        agent_id: stored.record.id.as_str().to_owned(),
        operational_state: operational_state(status),
        status,
        attestation_count: seen.map_or(0, |seen| seen.state.passed),
        last_received_quote: glance.and_then(|glance| rfc3339(glance.challenged_unix_ms)),
    }))
}

/// Keylime's number: START, GET_QUOTE, GET_QUOTE_RETRY, FAILED.
///
/// Source: Keylime, `keylime/common/states.py`; docs/adr/003-status-numbers.md.
const fn operational_state(status: Status) -> u8 {
    match status {
        Status::Pending => 1,
        Status::Active => 3,
        Status::Stale => 4,
        Status::Failed => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_is_failed_and_nothing_else_is() {
        for status in Status::ALL {
            assert_eq!(
                operational_state(status) == 7,
                status == Status::Failed,
                "{status:?}"
            );
        }
    }
}
