//! Revocations told to polled agents: each of one agent, to all the others.
//!
//! Those that wait go out together, in rounds: one connection to each agent takes all messages of a
//! round. So many agents at once are told, beside the polls and never in their place.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use rat_engine::agent_id::AgentId;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::Asked;
use super::failure::Failure;
use super::polled::Polled;
use super::poller::{Shared, Standing, lock};
use crate::limits;
use crate::measures;

/// A revocation on its way.
pub(super) struct Notice {
    /// Whom it is about: that one is not told.
    subject: AgentId,
    body: Bytes,
    told: oneshot::Sender<()>,
}

/// Those that wait for the next round.
#[derive(Default)]
pub(super) struct Notices {
    waiting: Mutex<Vec<Notice>>,
    changed: Notify,
}

impl Notices {
    /// Has a message told; what comes back ends when every agent had its turn, and fails when the
    /// poller ended before.
    pub(super) fn put(&self, subject: AgentId, body: Bytes) -> Option<oneshot::Receiver<()>> {
        let (told, ended) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= limits::PULL_NOTICES_WAITING_MAX {
            measures::limit("PULL_NOTICES_WAITING_MAX");
            return None;
        }
        waiting.push(Notice {
            subject,
            body,
            told,
        });
        drop(waiting);
        self.changed.notify_one();
        Some(ended)
    }

    /// Goes round after round, for ever.
    pub(super) async fn run(&self, shared: &Arc<Shared>) {
        loop {
            let notices = std::mem::take(&mut *lock(&self.waiting));
            if notices.is_empty() {
                self.changed.notified().await;
                continue;
            }
            round(shared, &notices).await;
            for notice in notices {
                // Who asked for it may be gone.
                let _ = notice.told.send(());
            }
        }
    }
}

/// Tells every agent, a few at a time.
async fn round(shared: &Arc<Shared>, notices: &[Notice]) {
    let places = Arc::new(Semaphore::new(limits::PULL_NOTIFIED_AT_ONCE_MAX));
    let mut telling = JoinSet::new();
    for polled in shared.polled() {
        let agent = &polled.known.contact.agent;
        let others = notices.iter().filter(|notice| notice.subject != *agent);
        let bodies: Vec<Bytes> = others.map(|notice| notice.body.clone()).collect();
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let shared = Arc::clone(shared);
        telling.spawn(async move {
            tell(&shared, &polled, bodies).await;
            drop(place);
        });
        // What ended is let go of at once: a fleet's results are not kept.
        while telling.try_join_next().is_some() {}
    }
    while telling.join_next().await.is_some() {}
}

/// Tells one agent, in order; the first that it does not take is the last that it is sent.
async fn tell(shared: &Shared, polled: &Polled, bodies: Vec<Bytes>) {
    let all = u64::try_from(bodies.len()).unwrap_or(u64::MAX);
    // Nobody waits for one that does not answer its polls either.
    if matches!(polled.standing(), Standing::Silent { .. }) {
        measures::revocations("silent", all);
        return;
    }
    let within = Duration::from_millis(limits::PULL_NOTICE_MS_MAX);
    let mut taken = 0_u64;
    let sending = timeout(within, send(shared, polled, bodies, &mut taken)).await;
    if let Err(failure) = sending.unwrap_or(Err(Failure::Timeout)) {
        let agent = &polled.known.contact.agent;
        tracing::warn!(%agent, %failure, "an agent did not take a revocation");
    }
    measures::revocations("taken", taken);
    measures::revocations("failed", all.saturating_sub(taken));
}

async fn send(
    shared: &Shared,
    polled: &Polled,
    bodies: Vec<Bytes>,
    taken: &mut u64,
) -> Result<(), Failure> {
    let version = polled.version().ok_or(Failure::Version)?;
    let mut kept = None;
    for body in bodies {
        let mut line = match kept.take() {
            Some(line) => line,
            None => polled.open_line(shared).await?,
        };
        let asked = Asked {
            method: Method::POST,
            target: format!("/v{version}/notifications/revocation"),
            body,
            is_last: false,
        };
        let most = limits::PULL_VERSION_BYTES_MAX;
        let answered = line.ask(asked, &polled.known, &shared.memory, most).await?;
        match answered.status {
            200..=299 => *taken = taken.saturating_add(1),
            status @ 300..=399 => return Err(Failure::Redirect(status)),
            status => return Err(Failure::Status(status)),
        }
        kept = line.reusable().await;
    }
    Ok(())
}
