//! One budget of bytes for the logs of all connections.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::measures;

/// Permits stand for this many bytes: a semaphore counts at most 2^29 of them.
const UNIT_BYTES: usize = 1024;

/// The budget.
#[derive(Debug)]
pub(crate) struct Memory {
    units: Arc<Semaphore>,
    all: usize,
}

/// Bytes taken from the budget, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _permit: OwnedSemaphorePermit,
    units: u32,
}

impl Memory {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let all = bytes_max.div_ceil(UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(all)),
            all,
        }
    }

    /// Waits until there is room for this many bytes; `None` when there never is.
    pub(crate) async fn hold(&self, bytes: usize) -> Option<Held> {
        let units = bytes.div_ceil(UNIT_BYTES);
        if units > self.all {
            return None;
        }
        let units = u32::try_from(units).ok()?;
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await;
        let held = Held {
            _permit: permit.ok()?,
            units,
        };
        measures::buffered(held.bytes());
        Some(held)
    }
}

impl Held {
    fn bytes(&self) -> f64 {
        f64::from(self.units) * 1024.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        measures::buffered(-self.bytes());
    }
}
