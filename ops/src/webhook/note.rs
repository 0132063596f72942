//! Writes changes of status down, together with the messages that they lead to.
//!
//! Each agent's newest status is noted in the store, in one transaction with the messages about it.
//! So nothing is needed of the events but speed: when some were missed, and at every start, each
//! agent is compared with what was noted of it.

use std::sync::Arc;
use std::time::Duration;

use rat_engine::agent_id::ShardIndex;
use rat_engine::shard::{AgentView, EffectiveStatus};
use rat_runtime::Clock;
use rat_store::{NewMessage, Noted, StatusChange, StatusNote, Store, StoreError};
use tokio::sync::mpsc::Receiver;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::fleet::{Fleet, FleetUnavailable};
use super::listen::{Change, Missed};
use super::message::{self, Why};
use super::{Recipient, measures};
use crate::limits::WEBHOOK_CHANGES_PER_COMMIT_MAX;

/// From one comparison of all agents to the next, when nothing is known to be missed: what went wrong
/// without anybody's notice is told late, and not never.
const COMPARE_EVERY: Duration = Duration::from_secs(600);
/// From one try to note changes to the next, while the store fails.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Writes down what [`listen`](super::listen) hears.
pub(super) struct Notes {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fleet: Arc<dyn Fleet>,
    pub(super) recipients: Arc<[Arc<Recipient>]>,
    pub(super) missed: Arc<Missed>,
    /// Ends waiting for a store that fails.
    pub(super) gives_up: CancellationToken,
    /// Whether an agent of which nothing is noted is new, so that its status is a change.
    pub(super) is_complete: bool,
}

/// The work was given up, because the process ends: the next start compares every agent.
struct GivenUp;

impl Notes {
    /// Works until the last change was written down.
    pub(super) async fn run(mut self, mut changes: Receiver<Change>) {
        let mut comparing = interval(COMPARE_EVERY);
        comparing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut why = "start";
        let mut batch = Vec::new();
        loop {
            let missed = Arc::clone(&self.missed);
            let ended = tokio::select! {
                biased;
                taken = changes.recv_many(&mut batch, WEBHOOK_CHANGES_PER_COMMIT_MAX) => {
                    match taken {
                        0 => return,
                        _ => self.note_told(std::mem::take(&mut batch)).await,
                    }
                }
                _ = comparing.tick() => {
                    self.missed.take();
                    self.compare(std::mem::replace(&mut why, "schedule")).await
                }
                () = missed.wait() => match self.missed.take() {
                    true => self.compare("missed").await,
                    false => Ok(()),
                },
            };
            if ended.is_err() {
                return;
            }
        }
    }

    /// Notes what was told. Of an agent whose change does not follow what was noted last, the
    /// shard is asked: it is old, or one before it was missed.
    async fn note_told(&mut self, changes: Vec<Change>) -> Result<(), GivenUp> {
        let noted = self.note(&changes).await?;
        let mut asked = Vec::new();
        for (change, noted) in changes.iter().zip(noted) {
            if noted != Noted::OutOfStep {
                continue;
            }
            match self.fleet.view(change.note.agent.clone()).await {
                Ok(view) => asked.extend(view.map(|view| seen(&view))),
                Err(FleetUnavailable) => tracing::warn!(
                    agent = %change.note.agent,
                    "how the agent stands cannot be asked; it is compared later"
                ),
            }
        }
        if !asked.is_empty() {
            self.note(&asked).await?;
        }
        Ok(())
    }

    /// Compares every agent with what was noted of it, a shard at a time.
    async fn compare(&mut self, why: &'static str) -> Result<(), GivenUp> {
        measures::comparison(why);
        let mut are_all_asked = true;
        for shard in ShardIndex::all() {
            let Ok(views) = self.fleet.views(shard).await else {
                are_all_asked = false;
                continue;
            };
            let noting = || self.store.noted_statuses(shard);
            let Some(noted) = self.until_stored(noting).await? else {
                continue;
            };
            let differs =
                |view: &&AgentView| noted.get(view.record.id.as_str()) != Some(&view.status);
            let changes: Vec<Change> = views.iter().filter(differs).map(seen).collect();
            for changes in changes.chunks(WEBHOOK_CHANGES_PER_COMMIT_MAX) {
                self.note(changes).await?;
            }
        }
        if !are_all_asked {
            tracing::warn!("not every agent's status could be compared with what was told");
        }
        if are_all_asked && !self.is_complete {
            let store = self.store.clone();
            self.until_stored(|| store.statuses_are_noted()).await?;
            self.is_complete = true;
        }
        Ok(())
    }

    /// Notes changes, and what became of each. One that the store will never take is left out.
    async fn note(&self, changes: &[Change]) -> Result<Vec<Noted>, GivenUp> {
        let notes: Vec<StatusNote> = changes.iter().map(|change| change.note.clone()).collect();
        let now = self.clock.now().unix_ms;
        let noting = || async {
            let mut queued = vec![0_u64; self.recipients.len()];
            let compose = |change: &StatusChange<'_>| {
                let why = changes.get(change.note).map(|change| &change.why);
                self.compose(change, why, now, &mut queued)
            };
            let noted = self.store.note_statuses(&notes, now, compose).await?;
            Ok((noted, queued))
        };
        let stored = match self.until_stored(noting).await? {
            Some((noted, queued)) => {
                for (recipient, more) in self.recipients.iter().zip(queued) {
                    recipient.standing.queue(more);
                }
                noted
            }
            None if changes.len() > 1 => {
                let mut noted = Vec::with_capacity(changes.len());
                for change in changes {
                    noted.extend(Box::pin(self.note(std::slice::from_ref(change))).await?);
                }
                noted
            }
            None => vec![Noted::Unknown],
        };
        Ok(stored)
    }

    fn compose(
        &self,
        change: &StatusChange<'_>,
        why: Option<&Why>,
        now_unix_ms: u64,
        queued: &mut [u64],
    ) -> Vec<NewMessage> {
        // The first look at a fleet tells nobody anything, and neither does an agent that only
        // enrolled.
        let is_new = change.from.is_none() && change.to == EffectiveStatus::Pending;
        if is_new || (change.from.is_none() && !self.is_complete) {
            return Vec::new();
        }
        let mut messages = Vec::new();
        for (recipient, queued) in self.recipients.iter().zip(queued) {
            let Some(client) = recipient.client() else {
                continue;
            };
            let settings = &client.webhook.target;
            if !settings.wants(&change.group, change.to) {
                continue;
            }
            let Some(id) = message::new_id() else {
                // Without random numbers no agent is challenged either.
                tracing::error!(
                    webhook = settings.name,
                    "a message has no id and is not sent"
                );
                continue;
            };
            let none = Why::default();
            messages.push(NewMessage {
                webhook: settings.name.clone(),
                body: message::status(&id, change, why.unwrap_or(&none), now_unix_ms),
                id,
            });
            *queued = queued.saturating_add(1);
        }
        messages
    }

    /// Calls until the store answers; `None` when it never will.
    async fn until_stored<T, F>(&self, call: impl Fn() -> F) -> Result<Option<T>, GivenUp>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match call().await {
                Ok(stored) => return Ok(Some(stored)),
                Err(error) if error.is_lasting() => {
                    tracing::error!(%error, "a change of status cannot be noted");
                    return Ok(None);
                }
                Err(error) => tracing::warn!(%error, "changes of status wait for the store"),
            }
            tokio::select! {
                () = self.gives_up.cancelled() => return Err(GivenUp),
                () = sleep(RETRY_EVERY) => {}
            }
        }
    }
}

/// An agent's status as its shard shows it, and why.
fn seen(view: &AgentView) -> Change {
    use rat_engine::shard::EffectiveStatus::{Overdue, Pending, Untrusted};
    let why = match (view.status, &view.state.failure, &view.state.verdict) {
        (Untrusted, Some(failure), _) => Why {
            code: Some(failure.code),
            detail: failure.detail.clone(),
        },
        // Time did that, or nothing yet.
        (Overdue | Pending, ..) | (_, _, None) => Why::default(),
        (_, _, Some(verdict)) => Why {
            code: verdict.code,
            detail: verdict.detail.clone(),
        },
    };
    Change {
        note: StatusNote {
            agent: view.record.id.clone(),
            from: None,
            to: view.status,
        },
        why,
    }
}
