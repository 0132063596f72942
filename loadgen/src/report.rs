//! What came of a fleet's run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rat_agent::run::Event;
use rat_engine::evidence::Answer;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::host;
use crate::latency::{Latencies, Latency, per_second};
use crate::misdeeds::{Conduct, Misdeeds};
use crate::output::{Rows, Tabled};
use crate::schedule::Begun;

/// Troubles that are told apart; more of them are counted together.
const TROUBLES_MAX: usize = 32;

/// What went wrong, and how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Troubles(BTreeMap<String, u64>);

impl Troubles {
    /// Counts one.
    pub fn count(&mut self, trouble: &impl ToString) {
        self.count_many(trouble.to_string(), 1);
    }

    /// Counts those of another.
    pub fn add(&mut self, others: &Self) {
        for (text, count) in &others.0 {
            self.count_many(text.clone(), *count);
        }
    }

    fn count_many(&mut self, text: String, count: u64) {
        let known = self.0.contains_key(&text) || self.0.len() < TROUBLES_MAX;
        let text = if known { text } else { "others".to_owned() };
        let sum = self.0.entry(text).or_default();
        *sum = sum.saturating_add(count);
    }

    /// How often each.
    pub const fn by_text(&self) -> &BTreeMap<String, u64> {
        &self.0
    }
}

/// Counts what happens to a fleet's agents that do as they should.
#[derive(Debug)]
pub struct Counts {
    inner: Mutex<Inner>,
    verdict: Notify,
}

#[derive(Debug)]
struct Inner {
    connected: u64,
    by_status: BTreeMap<String, u64>,
    by_code: BTreeMap<String, u64>,
    troubles: Troubles,
    latencies: Latencies,
    since_due: Latencies,
    /// When the challenge of each agent is due, as the server told it with the verdict before.
    due: BTreeMap<usize, Instant>,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine that the agents ran on.
    pub machine: String,
    /// Agents that enrolled.
    pub agents: usize,
    /// How long all enrolments took, in seconds.
    pub enrolment_seconds: f64,
    /// How long attestations were counted, in seconds.
    pub seconds: f64,
    /// Connections made.
    pub connections: u64,
    /// Verdicts received.
    pub attestations: u64,
    /// Verdicts per second.
    pub per_second: f64,
    /// Verdicts by the status they say.
    pub by_status: BTreeMap<String, u64>,
    /// Verdicts by code; `-` where there is none.
    pub by_code: BTreeMap<String, u64>,
    /// What went wrong, and how often.
    pub troubles: BTreeMap<String, u64>,
    /// From a challenge's arrival to its verdict's: the server's service, without what came before.
    pub latency_ms: Latency,
    /// From the time for which the server had announced a challenge to its verdict, of agents that
    /// stay. Lateness on either side counts, and the server's own spreading of challenges.
    pub since_due_ms: Latency,
    /// Agents that stay whose challenge was announced for a time before the end, and that had no
    /// verdict for it when the run ended.
    pub due_at_end: usize,
    /// With a rate: what was to be begun, and what came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Scheduled>,
    /// With agents that misbehave: which these are follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Of agents that misbehave: what they did, and what the server said. Counted from their first
    /// connections on; nothing of theirs is in the other counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub misbehaving: BTreeMap<Conduct, Misdeeds>,
}

/// Visits, or first connections, at a rate.
#[derive(Debug, Clone, Serialize)]
pub struct Scheduled {
    /// How many.
    #[serde(flatten)]
    pub begun: Begun,
    /// Visits that the server did not challenge because nothing was due for longer than an agent
    /// stays for it.
    pub not_due: u64,
    /// From the intended start of a connection to the server's Welcome.
    pub welcome_ms: Latency,
    /// From the intended start of a visit to its verdict, less what the Welcome said that the
    /// challenge is not due yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visit_ms: Option<Latency>,
}

impl Report {
    /// How often evidence of agents that misbehave was taken for genuine. Anything but 0 is a
    /// fault of the server.
    pub fn accepted(&self) -> u64 {
        let kinds = self.misbehaving.values();
        kinds.fold(0, |sum, kind| sum.saturating_add(kind.accepted))
    }
}

impl Tabled for Report {
    fn rows(&self) -> Rows {
        let scheduled = self.schedule.as_ref().map(Scheduled::rows);
        let mut rows = Rows::default()
            .row("machine", &self.machine)
            .row("agents", self.agents)
            .number("enrolment, s", self.enrolment_seconds)
            .number("seconds", self.seconds)
            .row("connections", self.connections)
            .row("attestations", self.attestations)
            .number("per second", self.per_second)
            .and(scheduled.unwrap_or_default())
            .latency("challenge to verdict", &self.latency_ms)
            .latency("due to verdict", &self.since_due_ms);
        if self.due_at_end > 0 {
            rows = rows.row("due at the end", self.due_at_end);
        }
        rows = rows
            .counts("status", &self.by_status)
            .counts("code", &self.by_code)
            .counts("trouble:", &self.troubles);
        if let Some(seed) = self.seed {
            rows = rows.row("seed", seed);
        }
        for (conduct, misdeeds) in &self.misbehaving {
            rows = rows.and(misdeeds.rows(*conduct));
        }
        rows
    }
}

impl Scheduled {
    fn rows(&self) -> Rows {
        let rows = self
            .begun
            .rows()
            .row("not due", self.not_due)
            .latency("intended start to welcome", &self.welcome_ms);
        match &self.visit_ms {
            Some(visit_ms) => rows.latency("intended start to verdict", visit_ms),
            None => rows,
        }
    }
}

impl Counts {
    /// Nothing yet.
    ///
    /// # Errors
    /// When the histogram cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            inner: Mutex::new(Inner {
                connected: 0,
                by_status: BTreeMap::new(),
                by_code: BTreeMap::new(),
                troubles: Troubles::default(),
                latencies: Latencies::new()?,
                since_due: Latencies::new()?,
                due: BTreeMap::new(),
            }),
            verdict: Notify::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a verdict that nobody waited for before.
    ///
    /// # Errors
    /// When none comes in this time.
    pub async fn verdict(&self, patience: Duration) -> anyhow::Result<()> {
        let verdict = timeout(patience, self.verdict.notified());
        verdict
            .await
            .with_context(|| format!("no verdict in {} s", patience.as_secs()))
    }

    /// How many verdicts came.
    pub fn attestations(&self) -> u64 {
        self.inner().latencies.count()
    }

    /// Counts an event of the nth agent, which stays.
    pub fn tell(&self, nth: usize, event: &Event<'_>) {
        match event {
            Event::Connected { .. } => self.connected(),
            Event::Answered { answer, took, .. } => {
                self.answered(answer, *took);
                self.told_when_due(nth, answer);
            }
            Event::Unanswered(error) => self.trouble(error),
            Event::Away { error, .. } => {
                // What was announced is for agents that are there.
                self.inner().due.remove(&nth);
                if let Some(error) = error {
                    self.trouble(error);
                }
            }
            Event::Renewed { .. } => {}
        }
    }

    /// Counts a connection.
    pub fn connected(&self) {
        let mut inner = self.inner();
        inner.connected = inner.connected.saturating_add(1);
    }

    /// Counts a verdict that took so long since its challenge came.
    pub fn answered(&self, answer: &Answer, took: Duration) {
        let inner = &mut *self.inner();
        count_answer(&mut inner.by_status, &mut inner.by_code, answer);
        inner.latencies.record(took);
        self.verdict.notify_one();
    }

    /// Counts what an agent could not do.
    pub fn trouble(&self, trouble: &impl ToString) {
        self.inner().troubles.count(trouble);
    }

    /// Notes for when the next challenge is announced, and counts the time since the last one was
    /// due.
    fn told_when_due(&self, nth: usize, answer: &Answer) {
        let now = Instant::now();
        let after = Duration::from_millis(answer.next_after_ms.into());
        let next = now.checked_add(after).unwrap_or(now);
        let mut inner = self.inner();
        if let Some(due) = inner.due.insert(nth, next) {
            inner.since_due.record(now.saturating_duration_since(due));
        }
    }

    /// Forgets what was answered so far. Connections and troubles stay: they say how the fleet came
    /// to be as it is.
    pub fn start_over(&self) {
        let mut inner = self.inner();
        inner.by_status.clear();
        inner.by_code.clear();
        inner.latencies.reset();
        inner.since_due.reset();
    }

    /// The result.
    pub fn report(&self, agents: usize, enrolment: Duration, counted: Duration) -> Report {
        let inner = self.inner();
        let now = Instant::now();
        let attestations = inner.latencies.count();
        Report {
            machine: host::description(),
            agents,
            enrolment_seconds: enrolment.as_secs_f64(),
            seconds: counted.as_secs_f64(),
            connections: inner.connected,
            attestations,
            per_second: per_second(attestations, counted),
            by_status: inner.by_status.clone(),
            by_code: inner.by_code.clone(),
            troubles: inner.troubles.by_text().clone(),
            latency_ms: inner.latencies.quantiles(),
            since_due_ms: inner.since_due.quantiles(),
            due_at_end: inner.due.values().filter(|due| **due < now).count(),
            schedule: None,
            seed: None,
            misbehaving: BTreeMap::new(),
        }
    }
}

/// Counts what a verdict says.
pub(crate) fn count_answer(
    by_status: &mut BTreeMap<String, u64>,
    by_code: &mut BTreeMap<String, u64>,
    answer: &Answer,
) {
    let code = answer.code.map_or("-".to_owned(), |code| code.to_string());
    for (counts, key) in [(by_status, answer.status.to_string()), (by_code, code)] {
        let count = counts.entry(key).or_default();
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use rat_agent::run::RunError;
    use rat_engine::shard::EffectiveStatus;
    use rat_transport::quic::client::ClientError;

    use super::*;

    #[test]
    fn troubles_are_told_apart_up_to_a_limit() {
        let mut troubles = Troubles::default();
        for nth in 0..TROUBLES_MAX + 3 {
            troubles.count(&nth);
        }
        troubles.count(&0);
        assert_eq!(troubles.by_text().len(), TROUBLES_MAX + 1);
        assert_eq!(troubles.by_text()["others"], 3);
        assert_eq!(troubles.by_text()["0"], 2);
        let mut sum = troubles.clone();
        sum.add(&troubles);
        assert_eq!(sum.by_text()["others"], 6);
    }

    #[test]
    fn a_challenge_is_due_when_the_verdict_before_said_so() {
        let counts = Counts::new().unwrap();
        let answered = |nth, next_after_ms| {
            let answer = Answer {
                status: EffectiveStatus::Trusted,
                code: None,
                detail: String::new(),
                next_after_ms,
            };
            let took = Duration::from_millis(3);
            let entries = None;
            let answer = &answer;
            counts.tell(
                nth,
                &Event::Answered {
                    answer,
                    took,
                    entries,
                },
            );
        };
        let report = || counts.report(2, Duration::ZERO, Duration::from_secs(1));
        answered(1, 0);
        // Nothing was announced before.
        assert_eq!(report().since_due_ms.count, 0);
        std::thread::sleep(Duration::from_millis(20));
        // What could not be answered is due all the same.
        let lost = RunError::Client(ClientError::Lost);
        counts.tell(1, &Event::Unanswered(&lost));
        assert_eq!(report().due_at_end, 1);
        answered(1, 3_600_000);
        answered(2, 3_600_000);
        let told = report();
        assert_eq!((told.since_due_ms.count, told.attestations), (1, 3));
        assert!(told.since_due_ms.max >= 20.0, "{told:?}");
        assert_eq!(told.due_at_end, 0);
        assert_eq!(told.troubles[&lost.to_string()], 1);
        // Nobody is asked who is not there.
        answered(2, 0);
        let (error, wait) = (None, Duration::ZERO);
        counts.tell(2, &Event::Away { error, wait });
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(report().due_at_end, 0);
        counts.start_over();
        assert_eq!((report().attestations, report().since_due_ms.count), (0, 0));
    }
}
