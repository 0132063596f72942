//! What a shard says to an agent that cannot hear: the poller hears it in its place.

use std::sync::Arc;
use std::time::Duration;

use rat_engine::evidence::{Peer, SessionId, ToAgent};

use super::exchange;
use super::polled::Polled;
use super::poller::Shared;
use crate::limits;

/// An agent's session, as its shard speaks to it.
pub(super) struct Ear {
    pub(super) shared: Arc<Shared>,
    pub(super) polled: Arc<Polled>,
    pub(super) session: SessionId,
}

impl Peer for Ear {
    fn send(&self, message: ToAgent) {
        let Self {
            shared,
            polled,
            session,
        } = self;
        match message {
            ToAgent::Welcome { .. } => {}
            ToAgent::Challenge(challenge) => {
                exchange::begin(shared, polled, *session, challenge);
            }
            ToAgent::More(id) => polled.more(id),
            ToAgent::Verdict(id, answer) => polled.verdict(shared, id, &answer),
            ToAgent::Refused { retry_after_ms, .. } => {
                self.lost(Duration::from_millis(retry_after_ms.into()));
            }
        }
    }
}

impl Ear {
    /// The shard let go of the session: another one follows.
    fn lost(&self, after: Duration) {
        let Self {
            shared,
            polled,
            session,
        } = self;
        if polled.ended(*session) && !shared.is_stopping() {
            let after = shared.jittered(after, &polled.known.contact.agent);
            shared.retries.put(polled, after);
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.lost(Duration::from_millis(limits::BUSY_RETRY_MS.into()));
    }
}
