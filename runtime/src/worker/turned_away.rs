//! What the audit log is told of evidence that was turned away. (N04, Q05)

use std::collections::HashSet;

use rat_engine::agent_id::AgentId;
use rat_engine::shard::Event;
use rat_engine::verdict::Code;

use crate::limits::{AUDITED_FAULTS_MAX, AUDITED_FAULTS_MS};
use crate::measures;
use crate::store_thread::Fault;

/// Faults that went into the audit log lately.
///
/// A machine can cause as many as it likes. So each agent has one entry an hour for each code, and
/// all agents of a worker together have so many: what a flood keeps out is counted, like the rest,
/// by a metric.
#[derive(Debug, Default)]
pub(super) struct TurnedAway {
    lately: HashSet<(AgentId, Code)>,
    since_ms: u64,
}

impl TurnedAway {
    /// What the audit log is to be told of an event, if anything.
    pub(super) fn fault(&mut self, event: &Event, now_ms: u64) -> Option<Fault> {
        let (agent, code, other, relay) = match event {
            Event::TurnedAway { agent, code, other } if is_of_somebody_else(*code) => {
                (agent, code, other.clone(), None)
            }
            Event::RelayMismatch { agent, relay, code } => (agent, code, None, Some(*relay)),
            _ => return None,
        };
        if now_ms.saturating_sub(self.since_ms) >= AUDITED_FAULTS_MS {
            self.lately.clear();
            self.since_ms = now_ms;
        }
        let fault = (agent.clone(), *code);
        if self.lately.contains(&fault) {
            return None;
        }
        if self.lately.len() >= AUDITED_FAULTS_MAX {
            measures::limit_rejection("audited_faults_max");
            return None;
        }
        self.lately.insert(fault);
        Some(Fault {
            agent: agent.clone(),
            code: *code,
            other,
            relay,
        })
    }
}

/// Whether this is what comes of a key, session or challenge that is not the agent's own. Other
/// faults of a sender (evidence that came late, or is malformed) say nothing about who sends.
const fn is_of_somebody_else(code: Code) -> bool {
    matches!(
        code,
        Code::QuoteSignature
            | Code::QuoteSignerMismatch
            | Code::QuoteNonceMismatch
            | Code::QuoteNonceConsumed
            | Code::QuoteChannelMismatch
            | Code::PathNotEnrolled
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(nth: usize, code: Code) -> Event {
        Event::TurnedAway {
            agent: AgentId::parse(&format!("machine-{nth}")).unwrap(),
            code,
            other: None,
        }
    }

    #[test]
    fn n04_s07_a_machine_fills_no_audit_log() {
        let mut turned_away = TurnedAway::default();
        let mut entries = |nth: usize, code, now_ms| {
            let fault = turned_away.fault(&event(nth, code), now_ms);
            usize::from(fault.is_some())
        };
        let hour = AUDITED_FAULTS_MS;
        // One each hour for each code, however often it tries.
        let tries = (0..1_000).map(|nth| entries(0, Code::QuoteSignature, hour + nth));
        assert_eq!(tries.sum::<usize>(), 1);
        assert_eq!(entries(0, Code::QuoteNonceConsumed, hour), 1);
        assert_eq!(entries(1, Code::QuoteSignature, hour), 1);
        // What is late or malformed is no impostor.
        for code in [Code::QuoteStale, Code::QuoteMalformed, Code::ImaIncomplete] {
            assert_eq!(entries(2, code, hour), 0);
        }
        // And many machines have so many entries together.
        let rest = (3..10_000).map(|nth| entries(nth, Code::QuoteSignature, hour));
        assert_eq!(rest.sum::<usize>(), AUDITED_FAULTS_MAX - 3);
        assert_eq!(entries(0, Code::QuoteSignature, 2 * hour - 1), 0);
        assert_eq!(entries(0, Code::QuoteSignature, 2 * hour), 1);
    }
}
