//! The one place that reads clocks and the operating system's randomness.
#![allow(
    clippy::disallowed_types,
    reason = "somebody has to read the time that the engine takes as an argument"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rat_engine::evidence::NonceSource;
use rat_engine::time::Now;
use rustix::time::{ClockId, clock_gettime};

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Now;
}

/// The operating system's clocks. The monotonic one starts at 0, and goes on while the machine is
/// suspended: trust must not outlive a night's sleep of its verifier.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started_ms: u64,
}

impl SystemClock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            started_ms: since_boot_ms(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            mono_ms: since_boot_ms().saturating_sub(self.started_ms),
            // A clock before 1970 has nothing to say; certificates are then not yet valid.
            unix_ms: since_epoch.map_or(0, whole_ms),
        }
    }
}

/// CLOCK_BOOTTIME.
fn since_boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let ms = u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
    seconds.saturating_mul(1_000).saturating_add(ms)
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The operating system's random bytes. (Q04)
#[derive(Debug, Clone, Copy, Default)]
pub struct OsNonces;

impl NonceSource for OsNonces {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        getrandom::fill(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const DRAWS: usize = 1_000_000;

    /// Nonces of 32 bytes: not one twice, and none that is random in a part of it only.
    #[test]
    fn q04_a_million_nonces_are_distinct_and_random_over_their_full_length() {
        let mut nonces = OsNonces;
        let mut seen = HashSet::with_capacity(DRAWS);
        // Two of a million random numbers of 64 bits are alike in one of 37 million runs.
        let mut tails = HashSet::with_capacity(DRAWS);
        let (mut ever_set, mut ever_clear) = ([0_u8; 32], [0_u8; 32]);
        for _ in 0..DRAWS {
            let mut nonce = [0; 32];
            assert_eq!(nonces.fill(&mut nonce), Some(()));
            for ((set, clear), byte) in ever_set.iter_mut().zip(&mut ever_clear).zip(nonce) {
                *set |= byte;
                *clear |= !byte;
            }
            assert!(tails.insert(nonce.last_chunk::<8>().copied()));
            assert!(seen.insert(nonce));
        }
        assert_eq!((ever_set, ever_clear), ([0xff; 32], [0xff; 32]));
    }
}
