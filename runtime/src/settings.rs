//! How a server is driven.

use rat_engine::ima::CacheLimits;
use rat_engine::shard::{self, PacerSettings};
use rat_store::RetentionPolicy;

use crate::keylime::KeylimeSettings;

/// How many threads, and how much may wait where.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Worker threads.
    pub workers: usize,
    /// Threads for arithmetic; with none, workers judge everything themselves.
    pub arith_threads: usize,
    /// Messages that may wait in a worker's mailbox; more are answered with Busy. (S07)
    pub mailbox_messages_max: usize,
    /// Connections of one worker.
    pub sessions_per_worker_max: usize,
    /// Lists that one worker takes in pieces at once; others wait for their turn.
    pub uploads_per_worker_max: usize,
    /// From asking for a piece of a list to its arrival.
    pub piece_ms_max: u64,
    /// How long a list waits for its turn before others that arrive more slowly than the least rate
    /// of uploads give theirs up. (S07)
    pub turn_ms_max: u64,
    /// Events that a slow listener may be behind.
    pub events_max: usize,
    /// How long whoever finds a full queue is told to wait.
    pub retry_after_ms: u32,
    /// The shards' own settings.
    pub shard: shard::Settings,
    /// How much is asked of the fleet at once, for each worker.
    pub pacer: PacerSettings,
    /// How much is remembered of what the lists of the fleet have in common.
    pub ima_caches: CacheLimits,
    /// What is the same for all of Keylime's agents.
    pub keylime: KeylimeSettings,
    /// What the store keeps, and how long.
    pub retention: RetentionPolicy,
}

impl Settings {
    /// The defaults for this many processors: on one or two a worker judges for itself, because
    /// the lane would only take the time that the worker then waits.
    pub fn for_processors(processors: usize) -> Self {
        let (workers, arith_threads) = match processors {
            0..=2 => (processors.max(1), 0),
            more => (more.div_ceil(4), more.saturating_sub(more.div_ceil(4))),
        };
        Self {
            workers,
            arith_threads,
            mailbox_messages_max: 8_192,
            sessions_per_worker_max: 1_000_000,
            uploads_per_worker_max: 64,
            piece_ms_max: 10_000,
            turn_ms_max: 10_000,
            events_max: 16_384,
            retry_after_ms: 1_000,
            shard: shard::Settings::default(),
            pacer: PacerSettings::default(),
            ima_caches: CacheLimits::default(),
            keylime: KeylimeSettings::default(),
            retention: RetentionPolicy::default(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let processors = std::thread::available_parallelism();
        Self::for_processors(processors.map_or(1, std::num::NonZero::get))
    }
}
