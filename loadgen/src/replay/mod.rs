//! `rat-load replay`: the engine alone, in this process, on evidence that is judged again and
//! again.
//!
//! Each judgement is a whole appraisal, from the bytes of the evidence to the verdict: signature,
//! nonce, PCR values, boot log, measurement list from its first entry, policy. What a server does
//! around it is not in it: connections, that a nonce counts once, the store.

mod evidence;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rat_agent::device::KeyKind;
use rat_engine::verdict::Verdict;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::host;
use crate::latency::{Latencies, Latency, per_second};
use crate::output::{Rows, Tabled};
use crate::progress;
use evidence::Evidence;

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayOptions {
    /// Judge the evidence in these directories, instead of some that is made up. Each has files
    /// named and written as `rat verify` takes them: ak, quote, signature, pcrs, nonce (in hex),
    /// and where there is one ima-log, boot-log, policy
    #[arg(value_name = "DIR", conflicts_with_all = ["machines", "key", "entries"])]
    pub recorded: Vec<PathBuf>,
    /// Machines whose evidence is made up, each with a key of its own
    #[arg(long, value_name = "N", default_value = "16")]
    pub machines: NonZeroUsize,
    /// The type of their keys
    #[arg(long, value_enum, default_value = "ecc")]
    pub key: KeyKind,
    /// Entries of each measurement list
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub entries: usize,
    /// Threads that judge [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// For how long to judge
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub seconds: u64,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct ReplayReport {
    /// The machine.
    pub machine: String,
    /// Pieces of evidence, which take turns.
    pub evidence: usize,
    /// Threads that judged.
    pub threads: usize,
    /// How long, in seconds.
    pub seconds: f64,
    /// Judgements.
    pub quotes: u64,
    /// Judgements per second.
    pub quotes_per_second: f64,
    /// Entries of measurement lists that were proven and judged.
    pub entries: u64,
    /// These per second.
    pub entries_per_second: f64,
    /// Judgements by verdict.
    pub by_verdict: BTreeMap<&'static str, u64>,
    /// Judgements by the code of what failed first; `-` where nothing did.
    pub by_code: BTreeMap<String, u64>,
    /// One judgement.
    pub latency_ms: Latency,
}

impl Tabled for ReplayReport {
    fn rows(&self) -> Rows {
        Rows::default()
            .row("machine", &self.machine)
            .row("evidence", self.evidence)
            .row("threads", self.threads)
            .number("seconds", self.seconds)
            .row("quotes", self.quotes)
            .number("quotes per second", self.quotes_per_second)
            .row("entries", self.entries)
            .number("entries per second", self.entries_per_second)
            .latency("judgement", &self.latency_ms)
            .counts("verdict", &self.by_verdict)
            .counts("code", &self.by_code)
    }
}

/// What one thread did.
struct Judged {
    latencies: Latencies,
    entries: u64,
    by_verdict: BTreeMap<&'static str, u64>,
    by_code: BTreeMap<String, u64>,
}

impl Judged {
    fn new() -> Result<Self> {
        Ok(Self {
            latencies: Latencies::new()?,
            entries: 0,
            by_verdict: BTreeMap::new(),
            by_code: BTreeMap::new(),
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.entries = self.entries.saturating_add(other.entries);
        add_all(&mut self.by_verdict, &other.by_verdict);
        add_all(&mut self.by_code, &other.by_code);
        self.latencies.add(&other.latencies)
    }
}

fn add_all<K: Ord + Clone>(to: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        let sum = to.entry(key.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
}

/// Judges until the time is over.
///
/// # Errors
/// When recorded evidence cannot be read, or there is none; when evidence cannot be made up.
pub async fn run(options: &ReplayOptions) -> Result<ReplayReport> {
    let evidence = match options.recorded.as_slice() {
        [] => evidence::made_up(options.machines.get(), options.key, options.entries)?,
        directories => evidence::recorded(directories)?,
    };
    ensure!(!evidence.is_empty(), "there is no evidence to judge");
    let evidence: Arc<[Evidence]> = evidence.into();
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = options.threads.unwrap_or(cores).get();
    let time = Duration::from_secs(options.seconds);
    let judgements = Arc::new(AtomicU64::new(0));
    let shown = Arc::clone(&judgements);
    let said = move || format!("{} quotes", shown.load(Ordering::Relaxed));
    let showing = progress::running("judging", time, said);
    let begun = Instant::now();
    let end = begun.checked_add(time).context("--seconds")?;
    let mut judging = JoinSet::new();
    for nth in 0..threads {
        let (evidence, judgements) = (Arc::clone(&evidence), Arc::clone(&judgements));
        judging.spawn_blocking(move || judge(&evidence, nth, end, &judgements));
    }
    let mut all = Judged::new()?;
    while let Some(judged) = judging.join_next().await {
        all.add(&judged??)?;
    }
    let took = begun.elapsed();
    drop(showing);
    let quotes = all.latencies.count();
    Ok(ReplayReport {
        machine: host::description(),
        evidence: evidence.len(),
        threads,
        seconds: took.as_secs_f64(),
        quotes,
        quotes_per_second: per_second(quotes, took),
        entries: all.entries,
        entries_per_second: per_second(all.entries, took),
        by_verdict: all.by_verdict,
        by_code: all.by_code,
        latency_ms: all.latencies.quantiles(),
    })
}

/// One thread: one piece of evidence after the other, each thread beginning at another one.
fn judge(
    evidence: &[Evidence],
    begin_at: usize,
    end: Instant,
    judgements: &AtomicU64,
) -> Result<Judged> {
    let mut judged = Judged::new()?;
    let begin_at = begin_at.checked_rem(evidence.len()).unwrap_or(0);
    let mut begun = Instant::now();
    for piece in evidence.iter().cycle().skip(begin_at) {
        let (appraised, entries) = piece.judge();
        let now = Instant::now();
        judged
            .latencies
            .record(now.saturating_duration_since(begun));
        begun = now;
        judgements.fetch_add(1, Ordering::Relaxed);
        judged.entries = judged.entries.saturating_add(entries);
        let verdict = match appraised.verdict {
            Verdict::Trusted(_) => "trusted",
            Verdict::Authentic => "authentic",
            Verdict::Untrusted => "untrusted",
        };
        let code = appraised.findings.first();
        let code = code.map_or("-".to_owned(), |finding| finding.code.to_string());
        add_all(&mut judged.by_verdict, &BTreeMap::from([(verdict, 1)]));
        add_all(&mut judged.by_code, &BTreeMap::from([(code, 1)]));
        if now >= end {
            break;
        }
    }
    Ok(judged)
}
