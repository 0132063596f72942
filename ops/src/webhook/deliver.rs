//! Delivers one webhook's queue: in order for each agent, several agents at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rat_runtime::Clock;
use rat_store::{Fate, QueuedMessage, Settled, Store, StoreError};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Attempt, Failure};
use super::pace::{Pace, pause_ms};
use super::{Recipient, measures};
use crate::limits::{WEBHOOK_ATTEMPTS_AT_ONCE_MAX, WEBHOOK_MESSAGES_MAX};

/// How often the queue is looked at when nothing is known to be due: the clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// From one try to the next, while the store fails.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// What is given up for want of room.
const NO_ROOM: &str = "too many messages waited";

/// Delivers to one webhook until it is told to stop.
pub(super) struct Deliverer {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) recipient: Arc<Recipient>,
    /// Nothing new is begun.
    pub(super) stops: CancellationToken,
    /// Nothing is waited for.
    pub(super) gives_up: CancellationToken,
    pub(super) pace: Pace,
    pub(super) under_way: HashMap<Id, QueuedMessage>,
}

type Ended = Result<(Id, Attempt), JoinError>;

impl Deliverer {
    /// Works until it stops; attempts that are under way then are waited for.
    pub(super) async fn run(mut self) {
        let mut attempts = JoinSet::new();
        while !self.stops.is_cancelled() {
            let wait = match self.begin(&mut attempts).await {
                Ok(wait) => wait,
                Err(error) => {
                    self.store_failed(&error);
                    RETRY_EVERY
                }
            };
            let recipient = Arc::clone(&self.recipient);
            tokio::select! {
                () = self.stops.cancelled() => {}
                Some(ended) = attempts.join_next_with_id() => {
                    self.settle(ended, &mut attempts).await;
                }
                () = recipient.standing.wait() => {}
                () = sleep(wait) => {}
            }
        }
        let gives_up = self.gives_up.clone();
        let ending = async {
            while let Some(ended) = attempts.join_next_with_id().await {
                self.settle(ended, &mut attempts).await;
            }
        };
        // What is cut off here is sent once more after the next start, under the same id.
        tokio::select! {
            () = ending => {}
            () = gives_up.cancelled() => {}
        }
    }

    fn name(&self) -> &str {
        self.recipient.name()
    }

    /// Begins what is due and may be begun; how long until there may be more.
    async fn begin(&mut self, attempts: &mut JoinSet<Attempt>) -> Result<Duration, StoreError> {
        self.make_room().await?;
        let now = Instant::now();
        if let Some(until) = self.pace.pause(now) {
            return Ok(until.saturating_duration_since(now));
        }
        let at_once = match self.pace.is_failing() {
            true => 1,
            false => WEBHOOK_ATTEMPTS_AT_ONCE_MAX,
        };
        let room = at_once.saturating_sub(self.under_way.len());
        if room == 0 {
            return Ok(LOOK_EVERY);
        }
        let now_unix_ms = self.clock.now().unix_ms;
        let most = u32::try_from(at_once.saturating_add(self.under_way.len())).unwrap_or(u32::MAX);
        let due = self
            .store
            .due_messages(self.name(), now_unix_ms, most)
            .await?;
        let is_new = |message: &QueuedMessage| {
            let mut under_way = self.under_way.values();
            !under_way.any(|other| other.seq == message.seq)
        };
        let due: Vec<QueuedMessage> = due.into_iter().filter(is_new).take(room).collect();
        let began = due.len();
        for message in due {
            let (recipient, sent) = (Arc::clone(&self.recipient), message.clone());
            let attempt = attempts.spawn(async move {
                let QueuedMessage {
                    subject, id, body, ..
                } = &sent;
                recipient.deliver(subject, id, body, now_unix_ms).await
            });
            self.under_way.insert(attempt.id(), message);
        }
        if began == room {
            return Ok(LOOK_EVERY);
        }
        let next = self
            .store
            .next_due_unix_ms(self.name(), now_unix_ms)
            .await?;
        let until = next.map(|next| Duration::from_millis(next.saturating_sub(now_unix_ms)));
        Ok(until.map_or(LOOK_EVERY, |until| until.min(LOOK_EVERY)))
    }

    /// Gives up the oldest messages while there are more than may be.
    async fn make_room(&mut self) -> Result<(), StoreError> {
        let most = u64::try_from(WEBHOOK_MESSAGES_MAX).unwrap_or(u64::MAX);
        while let Some(over) = self.recipient.standing.queued().checked_sub(most) {
            if over == 0 || self.give_up(u64::MAX, over, NO_ROOM).await? == 0 {
                break;
            }
            measures::limit_rejection("WEBHOOK_MESSAGES_MAX");
        }
        Ok(())
    }

    /// Gives up the oldest messages that were queued before this time; how many.
    async fn give_up(
        &self,
        queued_before_unix_ms: u64,
        messages_max: u64,
        error: &str,
    ) -> Result<u64, StoreError> {
        let under_way: Vec<i64> = self.under_way.values().map(|it| it.seq).collect();
        let messages_max = u32::try_from(messages_max).unwrap_or(u32::MAX);
        let given_up = self
            .store
            .give_up_messages(
                self.name(),
                queued_before_unix_ms,
                messages_max,
                &under_way,
                error,
                self.clock.now().unix_ms,
            )
            .await?;
        if given_up > 0 {
            let webhook = self.name();
            tracing::error!(webhook, messages = given_up, error, "messages are given up");
            self.recipient.standing.gave_up(given_up);
        }
        Ok(given_up)
    }

    /// Writes down how this attempt, and others that ended meanwhile, came out.
    async fn settle(&mut self, ended: Ended, attempts: &mut JoinSet<Attempt>) {
        let mut all = vec![ended];
        while let Some(ended) = attempts.try_join_next_with_id() {
            all.push(ended);
        }
        let now = self.clock.now().unix_ms;
        let mut settled = Vec::with_capacity(all.len());
        let mut failed = false;
        for ended in all {
            let (id, attempt) = match ended {
                Ok(ended) => ended,
                Err(error) => {
                    tracing::error!(webhook = self.name(), "an attempt panicked");
                    (error.id(), Failure::Exchange.into())
                }
            };
            let Some(message) = self.under_way.get(&id).cloned() else {
                continue;
            };
            self.pace_by(&attempt);
            failed |= attempt
                .result
                .is_err_and(|failure| !failure.is_of_message());
            let fate = self.fate(&message, &attempt, now);
            settled.push((id, message, attempt, fate));
        }
        let fates: Vec<Settled> = settled
            .iter()
            .map(|(_, message, _, fate)| Settled {
                seq: message.seq,
                fate: fate.clone(),
            })
            .collect();
        while let Err(error) = self.store.settle_messages(self.name(), &fates, now).await {
            self.store_failed(&error);
            let pause = timeout(RETRY_EVERY, self.gives_up.cancelled()).await;
            if pause.is_ok() {
                return;
            }
        }
        for (id, message, attempt, fate) in settled {
            self.under_way.remove(&id);
            self.show(&message, &attempt, &fate, now);
        }
        if failed {
            self.give_up_the_old(now).await;
        }
    }

    /// What has waited for too long is not tried one by one while the receiver is away.
    async fn give_up_the_old(&self, now_unix_ms: u64) {
        let before = now_unix_ms.saturating_sub(self.recipient.give_up_after_ms());
        let error = "it took no message for too long";
        loop {
            match self.give_up(before, u64::MAX, error).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return self.store_failed(&error),
            }
        }
    }

    fn pace_by(&mut self, attempt: &Attempt) {
        match attempt.result {
            Ok(()) => {
                if self.pace.is_failing() {
                    tracing::info!(webhook = self.name(), "messages are taken again");
                }
                self.pace.succeeded();
            }
            // It answers: others may be taken.
            Err(failure) if failure.is_of_message() => {}
            Err(failure) => {
                if !self.pace.is_failing() {
                    tracing::warn!(webhook = self.name(), %failure, "no message is taken");
                }
                let now = Instant::now();
                self.pace.failed(attempt.retry_after, random(), now);
            }
        }
    }

    fn fate(&self, message: &QueuedMessage, attempt: &Attempt, now_unix_ms: u64) -> Fate {
        let Err(failure) = attempt.result else {
            return Fate::Taken;
        };
        let error = failure.to_string();
        let tried = message.attempts.saturating_add(1);
        let age_ms = now_unix_ms.saturating_sub(message.queued_unix_ms);
        let recipient = &self.recipient;
        if tried >= recipient.attempts_max() || age_ms >= recipient.give_up_after_ms() {
            return Fate::GivenUp { error };
        }
        let ours = pause_ms(tried, random());
        let asked_for = attempt.retry_after.unwrap_or_default().as_millis();
        let pause = u64::try_from(asked_for).unwrap_or(u64::MAX).max(ours);
        Fate::Again {
            due_unix_ms: now_unix_ms.saturating_add(pause),
            error,
        }
    }

    fn show(&self, message: &QueuedMessage, attempt: &Attempt, fate: &Fate, now_unix_ms: u64) {
        let (webhook, standing) = (self.name(), &self.recipient.standing);
        measures::attempt(webhook, attempt.result);
        match attempt.result {
            Ok(()) => {
                let after_ms = now_unix_ms.saturating_sub(message.queued_unix_ms);
                measures::delivered(webhook, after_ms);
                standing.delivered(now_unix_ms);
            }
            Err(failure) => standing.failed(failure, now_unix_ms),
        }
        if let Fate::GivenUp { error } = fate {
            let (agent, id) = (&message.subject, &message.id);
            tracing::error!(webhook, agent, id, error, "a message is given up");
            standing.gave_up(1);
        }
    }

    fn store_failed(&self, error: &StoreError) {
        tracing::warn!(webhook = self.name(), %error, "deliveries wait for the store");
    }
}

/// Any number: it only spreads pauses.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers all pauses are the shortest.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
