//! The time, as an argument.

use serde::{Deserialize, Serialize};

/// The time of one call: the engine never reads a clock.
///
/// Deadlines, intervals and the end of trust are counted on the monotonic clock, which nobody can
/// set; certificates and records carry the other. (T04)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Now {
    /// Milliseconds on a clock that never goes back.
    pub mono_ms: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
}
