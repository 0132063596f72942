//! How a webhook stands, in memory: what people and metrics are shown.

use std::sync::{Mutex, PoisonError};

use rat_store::WebhookStanding;
use tokio::sync::Notify;

use super::client::Failure;
use super::measures;

/// One webhook's standing, and how its deliverer is woken.
#[derive(Debug)]
pub(super) struct Standing {
    webhook: String,
    now: Mutex<Now>,
    woken: Notify,
}

#[derive(Debug, Clone, Default)]
struct Now {
    stored: WebhookStanding,
    is_failing: bool,
}

/// Whether messages arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// There is nothing to deliver.
    Idle,
    /// Messages are on their way.
    Delivering,
    /// The last attempt failed; it is tried again, more and more seldom.
    Failing,
}

impl Standing {
    pub(super) fn new(webhook: &str, stored: WebhookStanding) -> Self {
        measures::queued(webhook, stored.queued);
        // So that the counter is there before the first.
        measures::dead_letters(webhook, 0);
        Self {
            webhook: webhook.to_owned(),
            now: Mutex::new(Now {
                stored,
                is_failing: false,
            }),
            woken: Notify::new(),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Now) -> T) -> T {
        // Nothing panics while it is held.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut now);
        measures::queued(&self.webhook, now.stored.queued);
        changed
    }

    pub(super) fn health(&self) -> Health {
        self.change(|now| match (now.is_failing, now.stored.queued) {
            (true, _) => Health::Failing,
            (false, 0) => Health::Idle,
            (false, _) => Health::Delivering,
        })
    }

    pub(super) fn shown(&self) -> WebhookStanding {
        self.change(|now| now.stored.clone())
    }

    pub(super) fn queued(&self) -> u64 {
        self.change(|now| now.stored.queued)
    }

    /// So many messages more wait.
    pub(super) fn queue(&self, more: u64) {
        if more > 0 {
            self.change(|now| now.stored.queued = now.stored.queued.saturating_add(more));
            self.woken.notify_one();
        }
    }

    /// A message was taken.
    pub(super) fn delivered(&self, now_unix_ms: u64) {
        self.change(|now| {
            now.is_failing = false;
            now.stored.queued = now.stored.queued.saturating_sub(1);
            now.stored.delivered_unix_ms = Some(now_unix_ms);
        });
    }

    /// An attempt failed.
    pub(super) fn failed(&self, failure: Failure, now_unix_ms: u64) {
        self.change(|now| {
            now.is_failing |= !failure.is_of_message();
            now.stored.failed_unix_ms = Some(now_unix_ms);
            now.stored.error = Some(failure.to_string());
        });
    }

    /// So many messages were given up.
    pub(super) fn gave_up(&self, messages: u64) {
        if messages > 0 {
            measures::dead_letters(&self.webhook, messages);
        }
        self.change(|now| {
            now.stored.queued = now.stored.queued.saturating_sub(messages);
            now.stored.dead_letters = now.stored.dead_letters.saturating_add(messages);
        });
    }

    /// Waits until there may be something to do.
    pub(super) async fn wait(&self) {
        self.woken.notified().await;
    }
}
