//! How long to stay away: longer at each failure, and never the same for two agents.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// What cannot be helped by trying is tried this seldom: an operator may help.
const HOPELESS: Duration = Duration::from_secs(600);

/// Where random numbers come from: the operating system, or a test.
pub trait Dice {
    /// A random number.
    fn throw(&mut self) -> u64;
}

/// The operating system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDice;

impl Dice for SystemDice {
    fn throw(&mut self) -> u64 {
        // Without a random source all agents wait the longest time, which is safe.
        getrandom::u64().unwrap_or(u64::MAX)
    }
}

/// Exponential backoff with full jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    failures: u32,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    /// A backoff whose bound stops to double here.
    pub const fn up_to(longest: Duration) -> Self {
        Self {
            failures: 0,
            longest,
        }
    }

    /// Things work again: there was a verdict.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// After a failure: random below a bound that doubles each time, after `at_least`.
    pub fn after_failure(&mut self, at_least: Duration, dice: &mut impl Dice) -> Duration {
        let bound = FIRST
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(self.longest);
        self.failures = self.failures.saturating_add(1);
        // What a server asks for is bounded too: it may be wrong.
        at_least.min(HOPELESS).saturating_add(below(bound, dice))
    }

    /// After a failure that trying again cannot help: five to ten minutes.
    pub fn hopeless(&mut self, dice: &mut impl Dice) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let half = HOPELESS.checked_div(2).unwrap_or(HOPELESS);
        half.saturating_add(below(half, dice))
    }
}

/// A random duration up to `bound`, in milliseconds.
pub fn below(bound: Duration, dice: &mut impl Dice) -> Duration {
    let bound = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
    let thrown = dice.throw().checked_rem(bound.saturating_add(1));
    Duration::from_millis(thrown.unwrap_or(bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Throws the largest numbers there are.
    struct Highest(u64);

    impl Dice for Highest {
        fn throw(&mut self) -> u64 {
            self.0
        }
    }

    #[test]
    fn waits_double_to_a_bound_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        let bounds = [
            1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000,
        ];
        for bound in bounds {
            let wait = backoff.after_failure(Duration::ZERO, &mut Highest(bound));
            assert_eq!(wait, Duration::from_millis(bound));
        }
        for _ in 0..100 {
            let wait = backoff.after_failure(Duration::ZERO, &mut Highest(300_000));
            assert_eq!(wait, LONGEST);
        }
        backoff.reset();
        let wait = backoff.after_failure(Duration::ZERO, &mut Highest(1_001));
        assert_eq!(wait, Duration::ZERO, "1001 modulo 1001");
    }

    #[test]
    fn s08_two_agents_do_not_come_back_together() {
        let mut backoff = Backoff::default();
        let waits: std::collections::BTreeSet<_> = (0..64)
            .map(|_| {
                backoff.failures = 6;
                backoff.after_failure(Duration::ZERO, &mut SystemDice)
            })
            .collect();
        assert!(waits.len() > 32, "{waits:?}");
    }

    #[test]
    fn a_server_can_ask_for_more_and_not_for_forever() {
        let mut backoff = Backoff::default();
        let asked = Duration::from_secs(30);
        assert!(backoff.after_failure(asked, &mut SystemDice) >= asked);
        let forever = Duration::from_millis(u64::from(u32::MAX));
        let wait = backoff.after_failure(forever, &mut Highest(0));
        assert_eq!(wait, HOPELESS);
        let wait = backoff.hopeless(&mut Highest(0));
        assert_eq!(wait, HOPELESS / 2);
    }
}
