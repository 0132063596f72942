//! Threads for evidence: as many as are allowed, whoever sends it.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Judges evidence beside the threads that serve connections, so much at once.
///
/// What waits is bounded by the places of the route.
#[derive(Debug)]
pub struct Verifications {
    running: Arc<Semaphore>,
}

impl Verifications {
    /// So many at once, one at least.
    pub(in crate::keylime) fn new(at_once: usize) -> Self {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            running: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// Does the work when it is its turn; `None` when it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.running).acquire_owned().await.ok()?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        match done.await {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::error!(%error, "judging evidence failed");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s01_a_panic_is_no_result_and_frees_its_turn() {
        let verifications = Verifications::new(1);
        let none: Option<()> = verifications.run(|| panic!("in a test")).await;
        assert!(none.is_none());
        assert_eq!(verifications.run(|| 1).await, Some(1));
    }
}
