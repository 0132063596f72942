//! How many Hellos of a relay's agents are taken each second. (S08)

use tokio::time::{Duration, Instant};

/// A window of one second.
#[derive(Debug)]
pub(super) struct Hellos {
    per_second_max: u32,
    taken: u32,
    since: Instant,
}

impl Hellos {
    pub(super) const fn new(per_second_max: u32, now: Instant) -> Self {
        Self {
            per_second_max,
            taken: 0,
            since: now,
        }
    }

    /// Whether one more is taken now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.taken = 0;
        }
        if self.taken >= self.per_second_max {
            return false;
        }
        self.taken = self.taken.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s08_a_relays_herd_is_taken_at_a_rate() {
        let begin = Instant::now();
        let mut hellos = Hellos::new(3, begin);
        let taken = (0..10).filter(|_| hellos.take(begin)).count();
        assert_eq!(taken, 3);
        assert!(hellos.take(begin + Duration::from_secs(1)));
    }
}
