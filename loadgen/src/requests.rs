//! `rat-load requests`: the API under clients that ask as fast as they are answered, or at a rate.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderValue};
use rat_agent::https::{ServerUrl, Trust};
use rat_agent::keys;
use rat_client::access;
use rat_client::https::{Asked, Client, Connection, HttpsError, Reply};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::host;
use crate::latency::{Latencies, Latency, per_second};
use crate::output::{Rows, Tabled};
use crate::progress;
use crate::report::Troubles;
use crate::schedule::{Begun, Rate, Schedule};

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct RequestOptions {
    /// The server, as https://host:port
    #[arg(long, value_name = "URL")]
    pub server: ServerUrl,
    /// The server's CA certificate, in PEM
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
    /// File with an API token, which nobody else may read
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// Paths to ask for in turn; without a rate each connection begins at another one
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// Connections, each with one request in flight
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub connections: usize,
    /// Begin so many requests each second, whether or not earlier ones are answered
    /// [default: each connection asks again when it was answered]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<Rate>,
    /// For how long to ask
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub seconds: u64,
    /// How long to ask before that, uncounted
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub warm_up_seconds: u64,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct RequestReport {
    /// The machine that the clients ran on.
    pub machine: String,
    /// Answers, read to their ends.
    pub answers: u64,
    /// How long they were counted, in seconds.
    pub seconds: f64,
    /// Answers per second.
    pub per_second: f64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests that were not answered, by why.
    pub troubles: BTreeMap<String, u64>,
    /// To the end of an answer: from its request; with a rate, from when that was to be begun.
    pub latency_ms: Latency,
    /// With a rate: what was to be begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Begun>,
}

impl Tabled for RequestReport {
    fn rows(&self) -> Rows {
        let from = match self.schedule {
            Some(_) => "intended start to answer",
            None => "request to answer",
        };
        let begun = self.schedule.as_ref().map(Begun::rows).unwrap_or_default();
        Rows::default()
            .row("machine", &self.machine)
            .row("answers", self.answers)
            .number("seconds", self.seconds)
            .number("per second", self.per_second)
            .row("bytes of bodies", self.body_bytes)
            .and(begun)
            .latency(from, &self.latency_ms)
            .counts("status", &self.by_status)
            .counts("trouble:", &self.troubles)
    }
}

/// Answers may take so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// No answer of the API is longer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// No API token is longer.
const TOKEN_BYTES_MAX: usize = 4096;
/// Without a rate, a client that was not answered waits so long.
const AFTER_TROUBLE: Duration = Duration::from_millis(100);

struct Counted {
    begun: u64,
    by_status: BTreeMap<u16, u64>,
    body_bytes: u64,
    latencies: Latencies,
    troubles: Troubles,
}

impl Counted {
    fn new() -> Result<Self> {
        Ok(Self {
            begun: 0,
            by_status: BTreeMap::new(),
            body_bytes: 0,
            latencies: Latencies::new()?,
            troubles: Troubles::default(),
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.begun = self.begun.saturating_add(other.begun);
        for (status, count) in &other.by_status {
            let sum = self.by_status.entry(*status).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.body_bytes = self.body_bytes.saturating_add(other.body_bytes);
        self.troubles.add(&other.troubles);
        self.latencies.add(&other.latencies)
    }

    fn answered(&mut self, reply: &Reply, took: Duration) {
        self.latencies.record(took);
        let sum = self.by_status.entry(reply.status.as_u16()).or_default();
        *sum = sum.saturating_add(1);
        let length = u64::try_from(reply.body.len()).unwrap_or(u64::MAX);
        self.body_bytes = self.body_bytes.saturating_add(length);
    }
}

/// When requests are begun, by all connections together.
#[derive(Clone)]
struct Pace {
    begin: Instant,
    end: Instant,
    /// With a rate: all starts, and how many were taken by a connection.
    open: Option<(Schedule, Arc<AtomicU64>)>,
}

impl Pace {
    /// Waits for the next start. Gives its number and the time from which its latency counts;
    /// `None` when the time is over.
    async fn next(&self) -> Option<(Option<u64>, Instant)> {
        let next = match &self.open {
            None => (None, Instant::now()),
            Some((schedule, taken)) => {
                let nth = taken.fetch_add(1, Ordering::Relaxed);
                let at = schedule.at(nth)?;
                sleep_until(at).await;
                (Some(nth), at)
            }
        };
        (Instant::now() < self.end).then_some(next)
    }

    /// Whether an answer to this start that comes now is counted. With a rate all are whose start
    /// is: leaving out those that come after the end would leave out the slowest.
    fn counts(&self, from: Instant, now: Instant) -> bool {
        match self.open {
            Some(_) => from >= self.begin,
            None => now >= self.begin && now <= self.end,
        }
    }
}

/// Asks until the time is over.
///
/// # Errors
/// When the CA or the token cannot be read, or no answer comes at all.
pub async fn run(options: &RequestOptions) -> Result<RequestReport> {
    let pem = std::fs::read_to_string(&options.ca);
    let pem = pem.with_context(|| options.ca.display().to_string())?;
    let trust = Trust::Set(keys::certificates(&pem)?);
    let client = Client::new(options.server.clone(), trust)?;
    let token = access::read_secret(&options.token_file, TOKEN_BYTES_MAX)?;
    let bearer = [b"Bearer ", token.trim_ascii()].concat();
    let mut bearer = HeaderValue::from_bytes(&bearer)?;
    bearer.set_sensitive(true);

    let warm_up = Duration::from_secs(options.warm_up_seconds);
    let counted = Duration::from_secs(options.seconds);
    let all_time = warm_up.saturating_add(counted);
    let now = Instant::now();
    let begin = now.checked_add(warm_up).context("--warm-up-seconds")?;
    let end = begin.checked_add(counted).context("--seconds")?;
    let schedule = options.rate.map(|rate| Schedule::new(now, rate, all_time));
    let pace = Pace {
        begin,
        end,
        open: schedule.map(|schedule| (schedule, Arc::default())),
    };
    let showing = progress::running("asking", all_time, String::new);
    let mut asking = JoinSet::new();
    for nth in 0..options.connections {
        let asker = Asker {
            client: client.clone(),
            bearer: bearer.clone(),
            paths: options.paths.clone(),
            pace: pace.clone(),
        };
        asking.spawn(asker.run(nth));
    }
    let mut all = Counted::new()?;
    while let Some(ended) = asking.join_next().await {
        all.add(&ended??)?;
    }
    drop(showing);
    let answers = all.latencies.count();
    if answers == 0 {
        let why: Vec<_> = all.troubles.by_text().keys().cloned().collect();
        bail!("no answer came while answers were counted: {why:?}");
    }
    let begun = options.rate.zip(schedule).map(|(rate, schedule)| {
        let intended = schedule.starts_from(begin);
        Begun::new(rate, intended, all.begun)
    });
    Ok(RequestReport {
        machine: host::description(),
        answers,
        seconds: counted.as_secs_f64(),
        per_second: per_second(answers, counted),
        body_bytes: all.body_bytes,
        by_status: all.by_status,
        troubles: all.troubles.by_text().clone(),
        latency_ms: all.latencies.quantiles(),
        schedule: begun,
    })
}

/// One connection at a time, and what is asked over it.
struct Asker {
    client: Client,
    bearer: HeaderValue,
    paths: Vec<String>,
    pace: Pace,
}

impl Asker {
    async fn run(self, begin_at: usize) -> Result<Counted> {
        let mut counted = Counted::new()?;
        let mut connection = None;
        let mut own = u64::try_from(begin_at).unwrap_or(0);
        while let Some((nth, from)) = self.pace.next().await {
            let replied = self.ask(&mut connection, nth.unwrap_or(own)).await;
            own = own.wrapping_add(1);
            let counts = self.pace.counts(from, Instant::now());
            if counts {
                counted.begun = counted.begun.saturating_add(1);
            }
            match replied {
                Ok(reply) if counts => counted.answered(&reply, from.elapsed()),
                Ok(_) => {}
                Err(error) => {
                    connection = None;
                    if counts {
                        counted.troubles.count(&error);
                    }
                    if nth.is_none() {
                        sleep(AFTER_TROUBLE).await;
                    }
                }
            }
        }
        Ok(counted)
    }

    /// One request, over a new connection where there is none.
    async fn ask(&self, slot: &mut Option<Connection>, nth: u64) -> Result<Reply, HttpsError> {
        let connection = match slot {
            Some(connection) => connection,
            None => slot.insert(self.client.open().await?),
        };
        let nth = usize::try_from(nth).unwrap_or(0);
        let at = nth.checked_rem(self.paths.len()).unwrap_or(0);
        connection
            .exchange(Asked {
                method: Method::GET,
                path: self.paths.get(at).map_or("/", String::as_str),
                headers: vec![(AUTHORIZATION, self.bearer.clone())],
                body: Bytes::new(),
                patience: PATIENCE,
                answer_bytes_max: ANSWER_BYTES_MAX,
            })
            .await
    }
}
