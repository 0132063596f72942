//! Whether the server does its work. (S01, S14)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::limits::HANGING_MS;
use crate::mailbox::Mailbox;

/// One worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerHealth {
    /// It turns.
    Alive,
    /// It has not turned for this long.
    Hanging {
        /// Milliseconds.
        since_ms: u64,
    },
    /// Its thread ended. Its agents are not served until the process is started again.
    Dead,
}

/// The store thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHealth {
    /// It commits.
    Alive,
    /// The store has been failing; ticks wait.
    Failing,
    /// Somebody else owns the shards, or what is stored is not what was committed. (S04)
    Fenced,
    /// Its thread ended.
    Dead,
}

/// The thread that reads stored lists, to be judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListsHealth {
    /// It reads.
    Alive,
    /// It ended: after a change of policy, machines are asked for their lists instead.
    Dead,
}

/// What [`crate::Runtime::health`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Each worker.
    pub workers: Vec<WorkerHealth>,
    /// The store thread.
    pub store: StoreHealth,
    /// The reader of stored lists.
    pub lists: ListsHealth,
    /// Whether the runtime is stopping.
    pub is_draining: bool,
}

impl Health {
    /// Whether every agent can be served as it should be.
    pub fn is_ready(&self) -> bool {
        let alive = |worker: &WorkerHealth| *worker == WorkerHealth::Alive;
        self.store == StoreHealth::Alive
            && self.lists == ListsHealth::Alive
            && !self.is_draining
            && self.workers.iter().all(alive)
    }
}

/// What a worker writes and others read.
pub(crate) struct Pulse {
    pub(crate) mailbox: Arc<Mailbox>,
    turned_mono_ms: AtomicU64,
    is_busy: AtomicBool,
}

impl Pulse {
    pub(crate) fn new(mailbox: Arc<Mailbox>, now_ms: u64) -> Self {
        Self {
            mailbox,
            turned_mono_ms: AtomicU64::new(now_ms),
            is_busy: AtomicBool::new(false),
        }
    }

    pub(crate) fn turned(&self, now_ms: u64, is_busy: bool) {
        self.turned_mono_ms.store(now_ms, Ordering::Relaxed);
        self.is_busy.store(is_busy, Ordering::Release);
    }

    /// Whether anything was being judged or committed when it last turned.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    pub(crate) fn health(&self, now_ms: u64) -> WorkerHealth {
        if self.mailbox.is_dead() {
            return WorkerHealth::Dead;
        }
        let since_ms = now_ms.saturating_sub(self.turned_mono_ms.load(Ordering::Relaxed));
        if since_ms > HANGING_MS {
            return WorkerHealth::Hanging { since_ms };
        }
        WorkerHealth::Alive
    }
}

/// What the reader of stored lists writes and others read.
#[derive(Default)]
pub(crate) struct ReaderPulse {
    pub(crate) is_dead: AtomicBool,
}

impl ReaderPulse {
    pub(crate) fn health(&self) -> ListsHealth {
        match self.is_dead.load(Ordering::Acquire) {
            true => ListsHealth::Dead,
            false => ListsHealth::Alive,
        }
    }
}

/// What the store thread writes and others read.
#[derive(Default)]
pub(crate) struct StorePulse {
    pub(crate) is_failing: AtomicBool,
    pub(crate) is_fenced: AtomicBool,
    pub(crate) is_dead: AtomicBool,
}

impl StorePulse {
    pub(crate) fn health(&self) -> StoreHealth {
        if self.is_dead.load(Ordering::Acquire) {
            StoreHealth::Dead
        } else if self.is_fenced.load(Ordering::Acquire) {
            StoreHealth::Fenced
        } else if self.is_failing.load(Ordering::Acquire) {
            StoreHealth::Failing
        } else {
            StoreHealth::Alive
        }
    }
}
