//! One machine: its device and its logs, behind one lock.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::task::JoinError;

use crate::device::Device;
use crate::logs::Logs;

/// A device and the logs of what was measured into it.
///
/// Its calls block, so they run on threads that may: one at a time, because a TPM does one thing
/// at a time.
#[derive(Clone)]
pub struct Machine(Arc<Mutex<Parts>>);

/// The parts of a machine.
pub struct Parts {
    /// Quotes.
    pub device: Box<dyn Device>,
    /// Shows what was measured.
    pub logs: Box<dyn Logs>,
}

/// The thread that worked with the device ended before its work.
#[derive(Debug, Error)]
#[error("the work with the device did not end: {0}")]
pub struct Interrupted(#[from] JoinError);

impl Machine {
    /// A machine of these parts.
    pub fn new(device: impl Device + 'static, logs: impl Logs + 'static) -> Self {
        Self(Arc::new(Mutex::new(Parts {
            device: Box::new(device),
            logs: Box::new(logs),
        })))
    }

    /// Runs `work` where blocking is allowed.
    ///
    /// # Errors
    /// [`Interrupted`] when the work panicked or the runtime is stopping.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Parts) -> T + Send + 'static,
    ) -> Result<T, Interrupted> {
        let machine = self.clone();
        Ok(tokio::task::spawn_blocking(move || machine.here(work)).await?)
    }

    /// Runs `work` on this thread, which may block.
    pub fn here<T>(&self, work: impl FnOnce(&mut Parts) -> T) -> T {
        // Devices and logs keep no state that a panic could leave half done.
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut parts)
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}
