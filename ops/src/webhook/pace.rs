//! When to try again.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::WEBHOOK_RETRY_SECONDS_MAX;

/// The first pause after a failure; each further one is twice as long.
const PAUSE_MS_MIN: u64 = 1_000;
/// The longest pause, unless the receiver asks for more.
const PAUSE_MS_MAX: u64 = 600_000;

/// The pause after so many failures: between half and all of what doubling gives, by `random`, so
/// that what failed together is not tried again together.
pub(super) fn pause_ms(failures: u64, random: u64) -> u64 {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
    let whole = PAUSE_MS_MIN.saturating_mul(factor).min(PAUSE_MS_MAX);
    let half = whole.checked_div(2).unwrap_or_default();
    let more = random
        .checked_rem(half.saturating_add(1))
        .unwrap_or_default();
    half.saturating_add(more)
}

/// The pause that a receiver asks for, as far as it is granted.
///
/// Source: RFC 9110, 10.2.3.
pub(super) fn retry_after(value: &str, now_unix_ms: u64) -> Option<Duration> {
    let most = Duration::from_secs(u64::try_from(WEBHOOK_RETRY_SECONDS_MAX).unwrap_or(u64::MAX));
    let value = value.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        // More digits than a number has are a long time, too.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(most));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let at = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    let pause = at.saturating_sub(Duration::from_millis(now_unix_ms));
    Some(pause.min(most))
}

/// How fast a receiver is tried: by one attempt at a time, with growing pauses, while it fails.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u64,
    paused_until: Option<Instant>,
}

impl Pace {
    /// It took a message.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It failed, and may have asked for a pause. Attempts that were under way together, and fail
    /// together, are one failure.
    pub(super) fn failed(&mut self, asked_for: Option<Duration>, random: u64, now: Instant) {
        let until = |pause| now.checked_add(pause);
        if let Some(paused_until) = self.pause(now) {
            let asked_for = asked_for.and_then(until);
            self.paused_until = asked_for.max(Some(paused_until));
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let ours = Duration::from_millis(pause_ms(self.failures, random));
        self.paused_until = until(asked_for.unwrap_or_default().max(ours));
    }

    /// Whether its last attempt failed.
    pub(super) const fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// The end of the pause that it is in.
    pub(super) fn pause(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_minutes_and_differ() {
        for (failures, whole) in [
            (0, 1_000),
            (1, 1_000),
            (2, 2_000),
            (5, 16_000),
            (10, 512_000),
            (11, 600_000),
            (64, 600_000),
            (65, 600_000),
            (u64::MAX, 600_000),
        ] {
            assert_eq!(pause_ms(failures, 0), whole / 2, "{failures}");
            assert_eq!(pause_ms(failures, whole / 2), whole, "{failures}");
            for random in [1, 7, 1 << 40, u64::MAX] {
                let pause = pause_ms(failures, random);
                assert!((whole / 2..=whole).contains(&pause), "{failures}: {pause}");
            }
        }
    }

    #[test]
    fn x04_a_receiver_cannot_ask_for_a_longer_pause_than_an_hour() {
        let now = 1_700_000_000_000;
        let hour = Some(Duration::from_secs(3_600));
        for (value, expected) in [
            ("0", Some(Duration::ZERO)),
            ("120", Some(Duration::from_secs(120))),
            (" 5 ", Some(Duration::from_secs(5))),
            ("3601", hour),
            ("99999999999999999999999999", hour),
            (
                "Tue, 14 Nov 2023 22:15:20 GMT",
                Some(Duration::from_secs(120)),
            ),
            ("Tue, 14 Nov 2023 22:00:00 GMT", Some(Duration::ZERO)),
            ("Fri, 14 Nov 2053 22:00:00 GMT", hour),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), expected, "{value:?}");
        }
    }

    #[tokio::test]
    async fn a_failing_receiver_is_paused_until_it_takes_a_message() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert!(!pace.is_failing() && pace.pause(now).is_none());
        pace.failed(None, 0, now);
        let first = pace.pause(now).unwrap();
        assert_eq!(first.duration_since(now), Duration::from_millis(500));
        assert!(pace.is_failing() && pace.pause(first).is_none());
        // Others that were under way are no further failures; what one asks for lengthens the pause.
        for _ in 0..7 {
            pace.failed(Some(Duration::ZERO), u64::MAX, now);
            assert_eq!(pace.pause(now), Some(first));
        }
        pace.failed(Some(Duration::from_secs(9)), 0, now);
        let asked = pace.pause(now).unwrap();
        assert_eq!(asked.duration_since(now), Duration::from_secs(9));
        // The next one is, and what it asks for shortens nothing.
        pace.failed(Some(Duration::ZERO), 0, asked);
        let second = pace.pause(asked).unwrap();
        assert_eq!(second.duration_since(asked), Duration::from_secs(1));
        pace.succeeded();
        assert!(!pace.is_failing() && pace.pause(now).is_none());
    }
}
