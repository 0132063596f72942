//! What waits to be sent to one agent.

use quinn::Connection;
use rat_engine::evidence::{Peer, ToAgent};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::end::End;
use crate::limits;
use crate::measures;
use crate::quic::Reason;

/// The sending half of an agent's outbox.
pub(super) struct Outbox {
    messages: mpsc::Sender<ToAgent>,
    connection: Connection,
}

/// An empty outbox for this connection, and its other half.
pub(super) fn outbox(connection: &Connection) -> (Outbox, mpsc::Receiver<ToAgent>) {
    let (messages, inbox) = mpsc::channel(limits::OUTBOX_MESSAGES_MAX);
    let outbox = Outbox {
        messages,
        connection: connection.clone(),
    };
    (outbox, inbox)
}

impl Peer for Outbox {
    fn send(&self, message: ToAgent) {
        if let Err(TrySendError::Full(_)) = self.messages.try_send(message) {
            measures::limit("OUTBOX_MESSAGES_MAX");
            End::refused(Reason::NotReading, 0).close(&self.connection);
        }
    }
}
