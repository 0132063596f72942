//! What came of a run, as JSON.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use rat_agent::run::Event;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Troubles that are told apart; more of them are counted together.
const TROUBLES_MAX: usize = 32;
/// Latencies from one microsecond to ten minutes, to three digits.
const HIGHEST_US: u64 = 600_000_000;

/// A histogram of latencies, in microseconds.
pub(crate) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, HIGHEST_US, 3)?)
}

/// Counts what happens to a fleet's agents.
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
    troubles: BTreeMap<String, u64>,
    latency_us: Histogram<u64>,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct Report {
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
    /// From a challenge's arrival to its verdict's.
    pub latency_ms: Latency,
}

/// Quantiles, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half are below.
    pub p50: f64,
    /// Nine in ten are below.
    pub p90: f64,
    /// All but one in a hundred are below.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    pub(crate) fn of(microseconds: &Histogram<u64>) -> Self {
        let ms = |microseconds: u64| Duration::from_micros(microseconds).as_secs_f64() * 1000.0;
        let quantile = |quantile| ms(microseconds.value_at_quantile(quantile));
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: ms(microseconds.max()),
        }
    }
}

/// How many there were of something in each second of a time.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    // What a run counts is far below 2^32.
    let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count / seconds } else { 0.0 }
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
                troubles: BTreeMap::new(),
                latency_us: latencies()?,
            }),
            verdict: Notify::new(),
        })
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

    /// Counts an event.
    pub fn tell(&self, event: &Event<'_>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Connected { .. } => inner.connected = inner.connected.saturating_add(1),
            Event::Answered { answer, took, .. } => {
                let code = answer.code.map_or("-".to_owned(), |code| code.to_string());
                add(&mut inner.by_status, answer.status.to_string());
                add(&mut inner.by_code, code);
                let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                inner.latency_us.saturating_record(took);
                self.verdict.notify_one();
            }
            Event::Unanswered(error)
            | Event::Away {
                error: Some(error), ..
            } => {
                let text = error.to_string();
                let known = inner.troubles.contains_key(&text);
                let text = if known || inner.troubles.len() < TROUBLES_MAX {
                    text
                } else {
                    "others".to_owned()
                };
                add(&mut inner.troubles, text);
            }
            Event::Away { error: None, .. } | Event::Renewed { .. } => {}
        }
    }

    /// Forgets what was answered so far. Connections and troubles stay: they say how the fleet came
    /// to be as it is.
    pub fn start_over(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.by_status.clear();
        inner.by_code.clear();
        inner.latency_us.reset();
    }

    /// The result.
    pub fn report(&self, agents: usize, enrolment: Duration, counted: Duration) -> Report {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let attestations = inner.latency_us.len();
        let seconds = counted.as_secs_f64();
        Report {
            agents,
            enrolment_seconds: enrolment.as_secs_f64(),
            seconds,
            connections: inner.connected,
            attestations,
            per_second: per_second(attestations, counted),
            by_status: inner.by_status.clone(),
            by_code: inner.by_code.clone(),
            troubles: inner.troubles.clone(),
            latency_ms: Latency::of(&inner.latency_us),
        }
    }
}

fn add(to: &mut BTreeMap<String, u64>, key: String) {
    let count = to.entry(key).or_default();
    *count = count.saturating_add(1);
}
