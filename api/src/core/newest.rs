//! Counts that look at every agent of the server.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Mutex as Turn;
use tokio::time::{Instant, timeout};

use crate::limits::{COUNT_MS_MAX, duration};
use crate::metrics;

/// The newest count of one kind, under way or just made.
///
/// There is one at a time. Whoever waited for one takes it if it began after it asked, and nobody is
/// told an older one. One goes on when nobody waits for it any more, so that a worker that hangs is
/// asked once, and not by every request.
pub(super) struct Newest<T>(Arc<Turn<Option<Made<T>>>>);

struct Made<T> {
    began: Instant,
    counted: T,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self(Arc::new(Turn::new(None)))
    }
}

impl<T> Clone for Newest<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone + Send + 'static> Newest<T> {
    /// What was counted; `None` when that is not known in time.
    pub(super) async fn or_count(
        &self,
        is_wanted: impl Fn(&T) -> bool,
        count: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let known = timeout(duration(COUNT_MS_MAX), self.in_turn(is_wanted, count)).await;
        known.unwrap_or_else(|_| {
            metrics::limit_rejected("COUNT_MS_MAX");
            None
        })
    }

    async fn in_turn(
        &self,
        is_wanted: impl Fn(&T) -> bool,
        count: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let asked = Instant::now();
        let mut newest = Arc::clone(&self.0).lock_owned().await;
        if let Some(made) = newest.as_ref()
            && made.began >= asked
            && is_wanted(&made.counted)
        {
            return Some(made.counted.clone());
        }
        let counting = tokio::spawn(async move {
            let began = Instant::now();
            let counted = count.await;
            *newest = Some(Made {
                began,
                counted: counted.clone(),
            });
            counted
        });
        counting.await.ok()
    }

    /// Whether somebody else has it, to wait for it or to count.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}
