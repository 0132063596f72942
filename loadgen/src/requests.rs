//! `rat-load requests`: the API under clients that ask as fast as they are answered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderValue};
use rat_agent::https::{ServerUrl, Trust};
use rat_agent::keys;
use rat_client::access;
use rat_client::https::{Asked, Client};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::report::{Latency, latencies, per_second};

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
    /// Paths to ask for in turn; each connection begins at another one
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// Connections, each with one request in flight
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub connections: usize,
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
    /// From a request to the end of its answer.
    pub latency_ms: Latency,
}

/// Answers may take so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// No answer of the API is longer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// No API token is longer.
const TOKEN_BYTES_MAX: usize = 4096;

struct Counted {
    by_status: BTreeMap<u16, u64>,
    body_bytes: u64,
    latency_us: Histogram<u64>,
}

impl Counted {
    fn new() -> Result<Self> {
        Ok(Self {
            by_status: BTreeMap::new(),
            body_bytes: 0,
            latency_us: latencies()?,
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        for (status, count) in &other.by_status {
            let sum = self.by_status.entry(*status).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.body_bytes = self.body_bytes.saturating_add(other.body_bytes);
        self.latency_us.add(&other.latency_us)?;
        Ok(())
    }
}

/// Asks until the time is over.
///
/// # Errors
/// When the CA or the token cannot be read, or a request has no answer.
pub async fn run(options: &RequestOptions) -> Result<RequestReport> {
    let pem = std::fs::read_to_string(&options.ca);
    let pem = pem.with_context(|| options.ca.display().to_string())?;
    let trust = Trust::Set(keys::certificates(&pem)?);
    let client = Client::new(options.server.clone(), trust)?;
    let token = access::read_secret(&options.token_file, TOKEN_BYTES_MAX)?;
    let bearer = [b"Bearer ", token.trim_ascii()].concat();
    let mut bearer = HeaderValue::from_bytes(&bearer)?;
    bearer.set_sensitive(true);

    let begin = Instant::now()
        .checked_add(Duration::from_secs(options.warm_up_seconds))
        .context("--warm-up-seconds")?;
    let counted = Duration::from_secs(options.seconds);
    let end = begin.checked_add(counted).context("--seconds")?;
    let mut asking = JoinSet::new();
    for nth in 0..options.connections {
        let (client, bearer) = (client.clone(), bearer.clone());
        let mut paths = options.paths.clone();
        let begin_at = nth.checked_rem(paths.len()).unwrap_or(0);
        paths.rotate_left(begin_at);
        asking.spawn(ask(client, bearer, paths, begin, end));
    }
    let mut all = Counted::new()?;
    while let Some(ended) = asking.join_next().await {
        all.add(&ended??)?;
    }
    if all.latency_us.is_empty() {
        bail!("no answer came while answers were counted");
    }
    Ok(RequestReport {
        answers: all.latency_us.len(),
        seconds: counted.as_secs_f64(),
        per_second: per_second(all.latency_us.len(), counted),
        body_bytes: all.body_bytes,
        by_status: all.by_status,
        latency_ms: Latency::of(&all.latency_us),
    })
}

/// One connection's requests; counts answers that came between `begin` and `end`.
async fn ask(
    client: Client,
    bearer: HeaderValue,
    paths: Vec<String>,
    begin: Instant,
    end: Instant,
) -> Result<Counted> {
    let mut counted = Counted::new()?;
    let mut connection = client.open().await?;
    for path in paths.iter().cycle() {
        let asked = Instant::now();
        if asked >= end {
            break;
        }
        let reply = connection
            .exchange(Asked {
                method: Method::GET,
                path,
                headers: vec![(AUTHORIZATION, bearer.clone())],
                body: Bytes::new(),
                patience: PATIENCE,
                answer_bytes_max: ANSWER_BYTES_MAX,
            })
            .await?;
        let now = Instant::now();
        if now < begin || now > end {
            continue;
        }
        let took = now.saturating_duration_since(asked).as_micros();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        counted.latency_us.saturating_record(took);
        let sum = counted.by_status.entry(reply.status.as_u16()).or_default();
        *sum = sum.saturating_add(1);
        let length = u64::try_from(reply.body.len()).unwrap_or(u64::MAX);
        counted.body_bytes = counted.body_bytes.saturating_add(length);
    }
    Ok(counted)
}
