//! Open loops: when things are to be begun, whether or not earlier ones are done.
//!
//! A client that asks again only when it was answered asks less of a slow server, and does not
//! see the time that others would have waited (coordinated omission). Here the times of all
//! starts follow from the rate alone, and latencies count from them.

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tokio::time::Instant;

use crate::output::Rows;

/// The most starts in a second.
const PER_SECOND_MAX: f64 = 100_000.0;
/// The fewest: one in an hour.
const PER_SECOND_MIN: f64 = 1.0 / 3600.0;

/// So many starts in each second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(f64);

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a rate is a number of starts per second, from one in an hour to 100000")]
pub struct RateError;

impl Rate {
    /// Starts in a second.
    pub const fn per_second(self) -> f64 {
        self.0
    }

    /// From one start to the next.
    fn interval(self) -> Duration {
        // The bounds of a rate keep this from being zero or too long.
        Duration::try_from_secs_f64(self.0.recip()).unwrap_or(Duration::MAX)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let rate: f64 = text.parse().map_err(|_| RateError)?;
        // Not a number is in no range.
        (PER_SECOND_MIN..=PER_SECOND_MAX)
            .contains(&rate)
            .then_some(Self(rate))
            .ok_or(RateError)
    }
}

/// Starts at a rate, from a moment on, for a time.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    begin: Instant,
    interval: Duration,
    starts: u64,
}

impl Schedule {
    /// The starts of this time; the first is at its beginning.
    pub fn new(begin: Instant, rate: Rate, time: Duration) -> Self {
        let interval = rate.interval();
        let starts = time.as_nanos().div_ceil(interval.as_nanos().max(1));
        Self {
            begin,
            interval,
            starts: u64::try_from(starts).unwrap_or(u64::MAX),
        }
    }

    /// How many there are to be.
    pub const fn starts(&self) -> u64 {
        self.starts
    }

    /// How many there are to be at this time or later.
    pub fn starts_from(&self, time: Instant) -> u64 {
        let before = time.saturating_duration_since(self.begin).as_nanos();
        let before = before.div_ceil(self.interval.as_nanos().max(1));
        self.starts
            .saturating_sub(u64::try_from(before).unwrap_or(u64::MAX))
    }

    /// When the nth is to be, counted from 0; `None` when there are not so many.
    pub fn at(&self, nth: u64) -> Option<Instant> {
        if nth >= self.starts {
            return None;
        }
        let after = self.interval.as_nanos().checked_mul(nth.into())?;
        let after = Duration::from_nanos(u64::try_from(after).ok()?);
        self.begin.checked_add(after)
    }
}

/// What a rate asked for, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Begun {
    /// Starts per second.
    pub rate: f64,
    /// Starts that the rate asks for in the time that is counted.
    pub intended: u64,
    /// Those of them that were begun, in time or later.
    pub begun: u64,
    /// Those that were not, because everything was busy until the end. They have no latency: each
    /// waited longer than the quantiles know.
    pub not_begun: u64,
}

impl Begun {
    /// What came of this many starts of a rate.
    pub const fn new(rate: Rate, intended: u64, begun: u64) -> Self {
        Self {
            rate: rate.per_second(),
            intended,
            begun,
            not_begun: intended.saturating_sub(begun),
        }
    }

    /// Its lines in a table.
    pub fn rows(&self) -> Rows {
        Rows::default()
            .row("rate", self.rate)
            .row("intended", self.intended)
            .row("begun", self.begun)
            .row("not begun", self.not_begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_follow_from_the_rate_alone() {
        let begin = Instant::now();
        let rate = |text: &str| text.parse::<Rate>().unwrap();
        let schedule = Schedule::new(begin, rate("4"), Duration::from_secs(2));
        let starts: Vec<_> = (0..9).map_while(|nth| schedule.at(nth)).collect();
        let expected: Vec<_> = (0..8)
            .map(|nth| begin + Duration::from_millis(250 * nth))
            .collect();
        assert_eq!((schedule.starts(), starts), (8, expected));
        for (after_ms, left) in [(0, 8), (1, 7), (250, 7), (251, 6), (5000, 0)] {
            let time = begin + Duration::from_millis(after_ms);
            assert_eq!(schedule.starts_from(time), left, "{after_ms}");
        }
        // A start that fits partly is one.
        let schedule = Schedule::new(begin, rate("0.4"), Duration::from_secs(6));
        assert_eq!(schedule.starts(), 3);
        let none = Schedule::new(begin, rate("1"), Duration::ZERO);
        assert_eq!((none.starts(), none.at(0)), (0, None));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["0", "-1", "NaN", "inf", "100001", "0.0001", "", "ten"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
        assert_eq!("100000".parse::<Rate>().unwrap().per_second(), 100_000.0);
    }
}
