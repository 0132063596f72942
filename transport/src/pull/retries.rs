//! When agents that did not answer are asked again: one task waits for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::polled::Polled;
use super::poller::lock;

/// Agents that wait, by when their time comes.
#[derive(Default)]
pub(super) struct Retries {
    waiting: Mutex<Waiting>,
    /// Wakes the task: somebody's time comes earlier than what it waits for.
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    by_time: BTreeMap<(Instant, u64), Weak<Polled>>,
    /// Tells apart those whose time is the same.
    put: u64,
}

impl Retries {
    /// This agent is to be asked after a while, unless it is let go of first.
    pub(super) fn put(&self, polled: &Arc<Polled>, after: Duration) {
        let mut waiting = lock(&self.waiting);
        waiting.put = waiting.put.wrapping_add(1);
        let at = (deadline(after), waiting.put);
        waiting.by_time.insert(at, Arc::downgrade(polled));
        let is_first = waiting.by_time.first_key_value().map(|(at, _)| at) == Some(&at);
        drop(waiting);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Asks whoever's time has come, for ever.
    pub(super) async fn run(&self, ask: impl Fn(&Arc<Polled>)) {
        loop {
            let next = {
                let mut waiting = lock(&self.waiting);
                let due = waiting.by_time.first_entry();
                let due = due.filter(|entry| entry.key().0 <= Instant::now());
                match due {
                    Some(entry) => Err(entry.remove()),
                    None => Ok(waiting.by_time.first_key_value().map(|((at, _), _)| *at)),
                }
            };
            match next {
                Err(due) => {
                    if let Some(polled) = due.upgrade() {
                        ask(&polled);
                    }
                }
                Ok(Some(at)) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
                Ok(None) => self.changed.notified().await,
            }
        }
    }
}

fn deadline(after: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(after).unwrap_or(now)
}
