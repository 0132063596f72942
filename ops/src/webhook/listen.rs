//! Takes changes of status from the runtime's events, as fast as they come.
//!
//! Whoever writes them down waits for the store. This part never does: it keeps a bounded number of
//! changes, and remembers that some were missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rat_engine::shard::Event;
use rat_runtime::EventStream;
use rat_store::StatusNote;
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::measures;
use super::message::Why;

/// A status that an agent has from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) note: StatusNote,
    pub(super) why: Why,
}

/// Whether changes were missed, so that every agent is to be compared.
#[derive(Debug, Default)]
pub(super) struct Missed {
    is_set: AtomicBool,
    changed: Notify,
}

impl Missed {
    /// Some were.
    pub(super) fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether some were since the last call.
    pub(super) fn take(&self) -> bool {
        self.is_set.swap(false, Ordering::AcqRel)
    }

    /// Waits until some may have been.
    pub(super) async fn wait(&self) {
        self.changed.notified().await;
    }
}

/// Passes changes on until the runtime ends or nobody takes them.
pub(super) async fn listen(mut events: EventStream, changes: Sender<Change>, missed: Arc<Missed>) {
    while let Some(next) = events.next().await {
        let event = match next {
            Ok(event) => event,
            Err(lost) => {
                tracing::debug!(events = lost.0, "changes of status may have been missed");
                missed.set();
                continue;
            }
        };
        let Some(change) = change(event) else {
            continue;
        };
        match changes.try_send(change) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                measures::limit_rejection("WEBHOOK_CHANGES_WAITING_MAX");
                missed.set();
            }
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

fn change(event: Event) -> Option<Change> {
    match event {
        Event::Status {
            agent,
            from,
            to,
            code,
            detail,
            ..
        } => Some(Change {
            note: StatusNote {
                agent,
                from: Some(from),
                to,
            },
            why: Why { code, detail },
        }),
        _ => None,
    }
}
