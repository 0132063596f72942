//! What waits to be sent to one agent.
//!
//! A channel of tokio keeps room for 32 messages from its beginning to its end, 3 KiB for each
//! connection. Here an agent that nothing is to be said to has a queue without room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Connection;
use rat_engine::evidence::{Peer, ToAgent};
use tokio::sync::Notify;

use super::end::End;
use crate::limits;
use crate::measures;
use crate::quic::Reason;

/// The sending half of an agent's outbox.
pub(super) struct Outbox {
    waiting: Arc<Waiting>,
    connection: Connection,
}

/// The receiving half.
pub(super) struct Inbox(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    queue: Mutex<Queue>,
    /// Wakes the receiving half, of which there is one.
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<ToAgent>,
    /// Whether one of the halves is gone, or a message found no room: nothing more is taken.
    is_over: bool,
}

/// An empty outbox for this connection, and its other half.
pub(super) fn outbox(connection: &Connection) -> (Outbox, Inbox) {
    let waiting = Arc::new(Waiting::default());
    let inbox = Inbox(Arc::clone(&waiting));
    let outbox = Outbox {
        waiting,
        connection: connection.clone(),
    };
    (outbox, inbox)
}

/// There was no room for a message.
#[derive(Debug, PartialEq, Eq)]
struct Full;

impl Waiting {
    /// No code panics while it holds the lock, so what a poisoned one guards is whole.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, message: ToAgent) -> Result<(), Full> {
        let mut queue = self.queue();
        if queue.is_over {
            return Ok(());
        }
        if queue.messages.len() >= limits::OUTBOX_MESSAGES_MAX {
            // Once is enough: the connection is closed for it.
            queue.is_over = true;
            return Err(Full);
        }
        queue.messages.push_back(message);
        drop(queue);
        self.changed.notify_one();
        Ok(())
    }

    fn end(&self) {
        self.queue().is_over = true;
        self.changed.notify_one();
    }
}

impl Peer for Outbox {
    fn send(&self, message: ToAgent) {
        if self.waiting.put(message) == Err(Full) {
            measures::limit("OUTBOX_MESSAGES_MAX");
            End::refused(Reason::NotReading, 0).close(&self.connection);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.waiting.end();
    }
}

impl Inbox {
    /// The next message; `None` when there is none left and there will be none. Nothing is lost
    /// when the future is dropped before it is ready.
    pub(super) async fn recv(&mut self) -> Option<ToAgent> {
        loop {
            {
                let mut queue = self.0.queue();
                if let Some(message) = queue.messages.pop_front() {
                    if queue.messages.is_empty() {
                        queue.messages = VecDeque::new();
                    }
                    return Some(message);
                }
                if queue.is_over {
                    return None;
                }
            }
            // A message that came since leaves a permit, with which this is ready at once.
            self.0.changed.notified().await;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.is_over = true;
        queue.messages = VecDeque::new();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Poll, Waker};

    use rat_engine::evidence::ChallengeId;

    use super::*;

    fn message(number: u8) -> ToAgent {
        ToAgent::More(ChallengeId([number; 16]))
    }

    fn number(message: &ToAgent) -> u8 {
        match message {
            ToAgent::More(ChallengeId([number, ..])) => *number,
            _ => u8::MAX,
        }
    }

    #[tokio::test]
    async fn messages_come_in_order_and_then_the_end() {
        let waiting = Arc::new(Waiting::default());
        let mut inbox = Inbox(Arc::clone(&waiting));
        for nth in 0..3 {
            waiting.put(message(nth)).unwrap();
        }
        waiting.end();
        for nth in 0..3 {
            assert_eq!(number(&inbox.recv().await.unwrap()), nth);
        }
        assert!(inbox.recv().await.is_none());
        assert!(inbox.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_message_wakes_who_waits_and_is_not_lost_with_who_gave_up() {
        let waiting = Arc::new(Waiting::default());
        let mut inbox = Inbox(Arc::clone(&waiting));
        let mut context = Context::from_waker(Waker::noop());
        for nth in 0..3 {
            let mut gives_up = Box::pin(inbox.recv());
            assert!(gives_up.as_mut().poll(&mut context).is_pending());
            waiting.put(message(nth)).unwrap();
            drop(gives_up);
            let mut next = Box::pin(inbox.recv());
            match next.as_mut().poll(&mut context) {
                Poll::Ready(Some(found)) => assert_eq!(number(&found), nth),
                _ => unreachable!("a message waits"),
            }
        }
        let other = Arc::clone(&waiting);
        let sends = tokio::spawn(async move { other.put(message(9)) });
        assert_eq!(number(&inbox.recv().await.unwrap()), 9);
        sends.await.unwrap().unwrap();
        let ends = tokio::spawn(async move { waiting.end() });
        assert!(inbox.recv().await.is_none());
        ends.await.unwrap();
    }

    #[tokio::test]
    async fn x04_no_more_messages_wait_than_the_limit_and_an_empty_queue_has_no_room() {
        let waiting = Arc::new(Waiting::default());
        let mut inbox = Inbox(Arc::clone(&waiting));
        for nth in 0..limits::OUTBOX_MESSAGES_MAX {
            waiting.put(message(u8::try_from(nth).unwrap())).unwrap();
        }
        assert_eq!(waiting.put(message(99)), Err(Full));
        for _ in 0..limits::OUTBOX_MESSAGES_MAX {
            assert_ne!(number(&inbox.recv().await.unwrap()), 99);
        }
        assert_eq!(waiting.queue().messages.capacity(), 0);
        drop(inbox);
        // Nobody reads it, and nobody is to blame.
        waiting.put(message(1)).unwrap();
        assert!(waiting.queue().messages.is_empty());
    }
}
