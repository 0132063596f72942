//! What listeners are told. Nobody waits for a listener: one that is slow loses the oldest.

use rat_engine::shard::Event;
use tokio::sync::broadcast;

/// Events that a listener was too slow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost(pub u64);

/// Every event from now on, in the order in which each agent's happened.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Event>,
}

impl EventStream {
    pub(crate) const fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Self { receiver }
    }

    /// The next event, how many were lost instead, or `None` when the runtime has stopped.
    pub async fn next(&mut self) -> Option<Result<Event, Lost>> {
        match self.receiver.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                crate::measures::events_lost(lost);
                Some(Err(Lost(lost)))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next event or loss that is there already.
    pub fn try_next(&mut self) -> Option<Result<Event, Lost>> {
        match self.receiver.try_recv() {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::TryRecvError::Lagged(lost)) => {
                crate::measures::events_lost(lost);
                Some(Err(Lost(lost)))
            }
            Err(_) => None,
        }
    }
}
