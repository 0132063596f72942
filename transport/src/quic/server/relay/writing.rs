//! What a relay's agents are told: collected, and written together.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Connection, SendStream};
use rat_engine::evidence::{Peer, ToAgent};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Shares;
use crate::limits;
use crate::measures;
use crate::quic::Reason;
use crate::quic::parcels;
use crate::quic::server::end::End;
use crate::quic::server::session::not_reading;
use crate::quic::wire::{Frame, Refused};

/// What is to be written to one relay.
pub(super) struct Outbox {
    connection: Connection,
    waiting: Mutex<VecDeque<(u64, Told)>>,
    came: Notify,
    /// Whether what was taken out is written.
    is_written: AtomicBool,
}

/// Something about one agent.
pub(super) enum Told {
    /// What its shard says.
    Shard(ToAgent),
    /// The end of its session, by this transport, which the intake knows of.
    Refused(Refused),
    /// The answer to a request for a certificate.
    Renewed(Result<Vec<Vec<u8>>, Refused>),
}

impl Outbox {
    pub(super) fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            waiting: Mutex::default(),
            came: Notify::new(),
            is_written: AtomicBool::new(true),
        }
    }

    /// Takes what is to be told. A relay that does not read loses its connection.
    pub(super) fn put(&self, number: u64, told: Told) {
        let mut waiting = self.waiting();
        if waiting.len() >= limits::RELAY_OUTBOX_MESSAGES_MAX {
            drop(waiting);
            measures::limit("RELAY_OUTBOX_MESSAGES_MAX");
            return End::refused(Reason::NotReading, 0).close(&self.connection);
        }
        waiting.push_back((number, told));
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            self.came.notify_one();
        }
    }

    pub(super) fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Acquire) && self.waiting().is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(u64, Told)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One agent behind a relay, as its shard speaks to it.
pub(super) struct ThroughRelay {
    pub(super) number: u64,
    pub(super) outbox: Arc<Outbox>,
}

impl Peer for ThroughRelay {
    fn send(&self, message: ToAgent) {
        self.outbox.put(self.number, Told::Shard(message));
    }
}

/// Writes whatever comes, as much at once as there is.
pub(super) async fn run(shares: &Shares<'_>, mut stream: SendStream) -> End {
    let mut bytes = Vec::new();
    let limit = Duration::from_millis(limits::WRITE_MS_MAX);
    loop {
        shares.outbox.came.notified().await;
        loop {
            let verdicts = collect(shares, &mut bytes);
            if bytes.is_empty() {
                break;
            }
            match timeout(limit, stream.write_all(&bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Lost,
                Err(_) => return not_reading(),
            }
            measures::count(measures::VERDICTS, verdicts);
            bytes.clear();
        }
        shares.outbox.is_written.store(true, Ordering::Release);
    }
}

/// Encodes what waits, up to so many bytes. Gives the number of verdicts among it.
fn collect(shares: &Shares<'_>, bytes: &mut Vec<u8>) -> u64 {
    let mut verdicts: u64 = 0;
    while bytes.len() < limits::RELAY_WRITE_BYTES {
        let Some((number, told)) = shares.outbox.waiting().pop_front() else {
            break;
        };
        shares.outbox.is_written.store(false, Ordering::Release);
        let frame = match told {
            Told::Shard(message) => {
                // It may have left meanwhile.
                if !shares.agents.told(number, &message) {
                    continue;
                }
                frame_of(message)
            }
            Told::Refused(refused) => {
                measures::refusal(refused.reason);
                Frame::Refused(refused)
            }
            Told::Renewed(Ok(chain)) => Frame::Renewed(chain),
            Told::Renewed(Err(refused)) => Frame::Refused(refused),
        };
        verdicts = verdicts.saturating_add(u64::from(matches!(frame, Frame::Verdict(..))));
        if let Err(error) = parcels::append(bytes, number, &frame) {
            tracing::error!(%error, "a frame of our own is over its limits");
            shares.agents.disconnect(number);
        }
    }
    verdicts
}

fn frame_of(message: ToAgent) -> Frame {
    match message {
        ToAgent::Welcome { next_after_ms } => Frame::AgentWelcome { next_after_ms },
        ToAgent::Refused {
            code,
            retry_after_ms,
        } => {
            measures::refusal(code.into());
            Frame::Refused(Refused {
                reason: code.into(),
                retry_after_ms,
            })
        }
        ToAgent::Challenge(challenge) => Frame::Challenge(challenge),
        ToAgent::More(id) => Frame::More(id),
        ToAgent::Verdict(id, answer) => Frame::Verdict(id, answer),
    }
}
