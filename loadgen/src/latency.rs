//! How long things took, in HdrHistograms.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies from one microsecond to ten minutes, to three digits. A longer one counts as the
/// longest.
const HIGHEST_US: u64 = 600_000_000;

/// Latencies, each of them counted.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    ///
    /// # Errors
    /// When there is no memory for the histogram.
    pub fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, HIGHEST_US, 3)?))
    }

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(took);
    }

    /// Counts those of another.
    ///
    /// # Errors
    /// None, between histograms of the same bounds.
    pub fn add(&mut self, others: &Self) -> Result<()> {
        Ok(self.0.add(&others.0)?)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Forgets all.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// What is told of them.
    pub fn quantiles(&self) -> Latency {
        let ms = |microseconds: u64| Duration::from_micros(microseconds).as_secs_f64() * 1000.0;
        let quantile = |quantile| ms(self.0.value_at_quantile(quantile));
        Latency {
            count: self.0.len(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: ms(self.0.max()),
        }
    }
}

/// Quantiles, in milliseconds; all zero when nothing was counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// How many were counted.
    pub count: u64,
    /// Half are below.
    pub p50: f64,
    /// Nine in ten are below.
    pub p90: f64,
    /// All but one in a hundred are below.
    pub p99: f64,
    /// All but one in a thousand are below.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// How many there were of something in each second of a time.
pub fn per_second(count: u64, time: Duration) -> f64 {
    // In two halves, each of which a float holds exactly.
    let half = |bits: u64| f64::from(u32::try_from(bits).unwrap_or(u32::MAX));
    let count = half(count >> 32).mul_add(4_294_967_296.0, half(count & 0xffff_ffff));
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut latencies = Latencies::new().unwrap();
        for ms in 1..=1000 {
            latencies.record(Duration::from_millis(ms));
        }
        let Latency {
            count,
            p50,
            p90,
            p99,
            p999,
            max,
        } = latencies.quantiles();
        assert_eq!(count, 1000);
        for (found, expected) in [
            (p50, 500.0),
            (p90, 900.0),
            (p99, 990.0),
            (p999, 999.0),
            (max, 1000.0),
        ] {
            // To three digits.
            assert!((found - expected).abs() <= expected / 1000.0, "{found}");
        }
        latencies.record(Duration::from_secs(3600));
        assert_eq!(latencies.count(), 1001, "what is too long is not dropped");
        assert!(latencies.quantiles().max >= 600_000.0);
    }

    #[test]
    fn many_are_counted_exactly() {
        let second = Duration::from_secs(1);
        assert_eq!(per_second(3, second * 2), 1.5);
        assert_eq!(per_second(1 << 40, second), 1_099_511_627_776.0);
        assert_eq!(per_second(1, Duration::ZERO), 0.0);
    }
}
