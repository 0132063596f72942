//! How often agents had their certificates renewed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use tokio::time::Instant;

use crate::limits;

const HOUR: Duration = Duration::from_secs(3600);

/// The requests of the last hour, of all connections: an agent that comes back has no more of
/// them than one that stays.
#[derive(Debug, Default)]
pub(super) struct Renewed(Mutex<LastHour>);

/// Why a request has to wait, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooOften {
    pub(super) limit: &'static str,
    pub(super) wait: Duration,
}

#[derive(Debug, Default)]
struct LastHour {
    /// In the order in which they came.
    all: VecDeque<(Instant, AgentId)>,
    /// Those of each agent, likewise.
    of: HashMap<AgentId, VecDeque<Instant>>,
}

impl Renewed {
    /// Counts a request, unless the last hour had enough of them.
    pub(super) fn count(&self, agent: &AgentId, now: Instant) -> Result<(), TooOften> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.forget(now);
        let left = |since: Instant| HOUR.saturating_sub(now.saturating_duration_since(since));
        let own = last.of.get(agent);
        if own.is_some_and(|own| own.len() >= limits::RENEWALS_PER_HOUR_MAX) {
            let oldest = own.and_then(VecDeque::front).copied();
            return Err(TooOften {
                limit: "RENEWALS_PER_HOUR_MAX",
                wait: oldest.map_or(HOUR, left),
            });
        }
        if last.all.len() >= limits::RENEWALS_REMEMBERED_MAX {
            return Err(TooOften {
                limit: "RENEWALS_REMEMBERED_MAX",
                wait: last.all.front().map_or(HOUR, |(oldest, _)| left(*oldest)),
            });
        }
        last.all.push_back((now, agent.clone()));
        last.of.entry(agent.clone()).or_default().push_back(now);
        Ok(())
    }
}

impl LastHour {
    /// Drops what is an hour old.
    fn forget(&mut self, now: Instant) {
        let is_old = |(at, _): &mut (Instant, AgentId)| now.saturating_duration_since(*at) >= HOUR;
        while let Some((_, agent)) = self.all.pop_front_if(is_old) {
            if let Some(own) = self.of.get_mut(&agent) {
                own.pop_front();
                if own.is_empty() {
                    self.of.remove(&agent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: usize) -> AgentId {
        AgentId::parse(&format!("agent-{number}")).unwrap()
    }

    #[test]
    fn each_agent_has_its_own_hour_and_gets_it_back() {
        let renewed = Renewed::default();
        let start = Instant::now();
        for nth in 0..limits::RENEWALS_PER_HOUR_MAX {
            let minutes = u64::try_from(nth).unwrap() * 60;
            let at = start + Duration::from_secs(minutes);
            assert_eq!(renewed.count(&agent(1), at), Ok(()));
        }
        let half = start + HOUR / 2;
        let refused = TooOften {
            limit: "RENEWALS_PER_HOUR_MAX",
            wait: HOUR / 2,
        };
        assert_eq!(renewed.count(&agent(1), half), Err(refused));
        assert_eq!(renewed.count(&agent(2), half), Ok(()));
        // The oldest is over, the next one is not.
        assert_eq!(renewed.count(&agent(1), start + HOUR), Ok(()));
        let refused = TooOften {
            wait: Duration::from_secs(60),
            ..refused
        };
        assert_eq!(renewed.count(&agent(1), start + HOUR), Err(refused));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let renewed = Renewed::default();
        let start = Instant::now();
        for number in 0..limits::RENEWALS_REMEMBERED_MAX {
            assert_eq!(renewed.count(&agent(number), start), Ok(()));
        }
        let newcomer = agent(limits::RENEWALS_REMEMBERED_MAX);
        let refused = TooOften {
            limit: "RENEWALS_REMEMBERED_MAX",
            wait: HOUR,
        };
        assert_eq!(renewed.count(&newcomer, start), Err(refused));
        assert_eq!(renewed.count(&newcomer, start + HOUR), Ok(()));
        let last = renewed.0.lock().unwrap();
        assert_eq!((last.all.len(), last.of.len()), (1, 1));
    }
}
