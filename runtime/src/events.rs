//! What listeners are told. Nobody waits for a listener: one that is slow loses the oldest.

use rat_engine::shard::{EffectiveStatus, Event};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// Events that a listener was too slow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost(pub u64);

/// Where workers tell what happened. Agents that fail have room of their own: however much else
/// happens, as when a policy changes for a whole fleet, it pushes no failure out. (S07)
#[derive(Debug, Clone)]
pub(crate) struct Events {
    failures: broadcast::Sender<Event>,
    others: broadcast::Sender<Event>,
}

impl Events {
    /// Room for so many of each kind.
    pub(crate) fn new(events_max: usize) -> Self {
        let room = || broadcast::channel(events_max.max(1)).0;
        Self {
            failures: room(),
            others: room(),
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        let room = match is_failure(&event) {
            true => &self.failures,
            false => &self.others,
        };
        // Nobody may be listening.
        let _ = room.send(event);
    }

    pub(crate) fn listen(&self) -> EventStream {
        EventStream {
            failures: self.failures.subscribe(),
            others: self.others.subscribe(),
        }
    }
}

const fn is_failure(event: &Event) -> bool {
    matches!(
        event,
        Event::Status {
            to: EffectiveStatus::Untrusted,
            ..
        } | Event::Cleared { .. }
    )
}

/// Every event from now on: failures and their ends first, then the others, each in the order in
/// which they happened.
#[derive(Debug)]
pub struct EventStream {
    failures: broadcast::Receiver<Event>,
    others: broadcast::Receiver<Event>,
}

impl EventStream {
    /// The next event, how many were lost instead, or `None` when the runtime has stopped.
    pub async fn next(&mut self) -> Option<Result<Event, Lost>> {
        let received = tokio::select! {
            biased;
            // It closes together with the other, which may hold more.
            received = self.failures.recv() => match received {
                Err(RecvError::Closed) => self.others.recv().await,
                received => received,
            },
            received = self.others.recv() => match received {
                Err(RecvError::Closed) => self.failures.recv().await,
                received => received,
            },
        };
        match received {
            Ok(event) => Some(Ok(event)),
            Err(RecvError::Lagged(lost)) => Some(Err(self::lost(lost))),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next event or loss that is there already.
    pub fn try_next(&mut self) -> Option<Result<Event, Lost>> {
        for room in [&mut self.failures, &mut self.others] {
            match room.try_recv() {
                Ok(event) => return Some(Ok(event)),
                Err(TryRecvError::Lagged(lost)) => return Some(Err(self::lost(lost))),
                Err(TryRecvError::Empty | TryRecvError::Closed) => {}
            }
        }
        None
    }
}

fn lost(lost: u64) -> Lost {
    crate::measures::events_lost(lost);
    Lost(lost)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rat_engine::agent_id::AgentId;
    use rat_engine::hash::{Digest, HashAlg};
    use rat_engine::verdict::Code;

    use super::*;

    const ROOM: usize = 16;

    fn status(to: EffectiveStatus) -> Event {
        Event::Status {
            agent: AgentId::parse("machine-1").unwrap(),
            group: "fleet".to_owned(),
            from: EffectiveStatus::Trusted,
            to,
            code: (to == EffectiveStatus::Untrusted).then_some(Code::ImaPathNotListed),
            detail: String::new(),
        }
    }

    #[tokio::test]
    async fn s07_a_failing_agents_events_survive_a_flood_of_others() {
        let events = Events::new(ROOM);
        let mut stream = events.listen();
        let rejudged = Event::Rejudged {
            agent: AgentId::parse("machine-2").unwrap(),
            policy: Digest::zero(HashAlg::Sha256),
            code: None,
            entries: 4,
        };
        events.tell(status(EffectiveStatus::Untrusted));
        for _ in 0..ROOM {
            events.tell(rejudged.clone());
            events.tell(status(EffectiveStatus::Pending));
        }
        let first = stream.next().await.unwrap();
        assert_eq!(first, Ok(status(EffectiveStatus::Untrusted)));
        // Of the others the oldest are lost, and counted.
        let overrun = u64::try_from(ROOM).unwrap();
        assert_eq!(stream.next().await.unwrap(), Err(Lost(overrun)));
        for _ in 0..ROOM {
            assert!(stream.try_next().unwrap().is_ok());
        }
        assert_eq!(stream.try_next(), None);
        drop(events);
        assert_eq!(stream.next().await, None);
    }
}
