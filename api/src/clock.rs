//! The wall clock, and how times are written.

use std::time::{Duration, UNIX_EPOCH};

pub use rat_engine::calendar::{from_rfc3339, rfc3339};

/// Milliseconds since 1970-01-01T00:00:00Z; 0 before it.
pub fn unix_ms() -> u64 {
    let since = UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
