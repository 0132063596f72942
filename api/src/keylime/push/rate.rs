//! How often sessions are asked for.

use std::net::IpAddr;

use governor::Quota;

use crate::address::{Buckets, client_of, count, whole_seconds};
use crate::error::ApiError;
use crate::limits::{PUSH_SESSIONS_PER_ADDRESS_PER_MINUTE, PUSH_SESSIONS_PER_AGENT_PER_MINUTE};

/// Counts what an address asks for, and what is asked for an agent: anybody may ask, for anybody.
pub(super) struct SessionRate {
    by_address: Buckets,
    by_agent: Buckets,
}

impl SessionRate {
    pub(super) fn new() -> Self {
        let per_minute = |limit| Buckets::new(Quota::per_minute(count(limit)));
        Self {
            by_address: per_minute(PUSH_SESSIONS_PER_ADDRESS_PER_MINUTE),
            by_agent: per_minute(PUSH_SESSIONS_PER_AGENT_PER_MINUTE),
        }
    }

    /// Counts one request of this address for this agent.
    ///
    /// # Errors
    /// [`ApiError::Limited`].
    pub(super) fn take(&self, address: IpAddr, agent: &str) -> Result<(), ApiError> {
        let limited = |limit| move |wait| ApiError::limited(limit, whole_seconds(wait));
        let by_address = self.by_address.take(client_of(address));
        by_address.map_err(limited("PUSH_SESSIONS_PER_ADDRESS_PER_MINUTE"))?;
        let by_agent = self.by_agent.take((client_of(address), agent));
        by_agent.map_err(limited("PUSH_SESSIONS_PER_AGENT_PER_MINUTE"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(refused: ApiError) -> &'static str {
        match refused {
            ApiError::Limited { limit, .. } => limit,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn x04_neither_an_address_nor_an_agent_gets_sessions_without_end() {
        let rate = SessionRate::new();
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        for _ in 0..PUSH_SESSIONS_PER_AGENT_PER_MINUTE {
            rate.take(address(1), "one").unwrap();
        }
        let refused = rate.take(address(1), "one").unwrap_err();
        assert_eq!(limit(refused), "PUSH_SESSIONS_PER_AGENT_PER_MINUTE");
        // Whoever asks in its name keeps the agent itself from nothing.
        rate.take(address(2), "one").unwrap();
        let refused = (0..PUSH_SESSIONS_PER_ADDRESS_PER_MINUTE)
            .find_map(|nth| rate.take(address(1), &format!("agent-{nth}")).err());
        assert_eq!(
            limit(refused.unwrap()),
            "PUSH_SESSIONS_PER_ADDRESS_PER_MINUTE"
        );
    }
}
