//! Limits on names.

use rat_engine::agent_id::{AgentId, AgentIdError};
use rat_engine::limits;

pub(crate) fn agent_id_bytes() {
    let max = limits::AGENT_ID_BYTES_MAX;
    assert!(AgentId::parse(&"a".repeat(max)).is_ok());
    let found = max + 1;
    let refused = AgentId::parse(&"a".repeat(found));
    assert_eq!(refused, Err(AgentIdError::Length { found }));
}
