//! `rat-load fleet`: many software agents that enrol and attest through the real protocol.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rat_agent::device::KeyKind;
use rat_agent::enrol::{EnrolOptions, enrol};
use rat_agent::https::ServerUrl;
use rat_agent::machine::Machine;
use rat_agent::run::{Agent, Event};
use rat_agent::state::Enrolled;
use rat_agent::token::Token;
use rat_engine::agent_id::AgentId;
use rat_transport::quic::client::Sockets;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::keys::{EkCa, SoftwareKey};
use crate::measured::Entry;
use crate::report::{Counts, Report};
use crate::software_tpm::{Boot, Keys, SharedBoot, SoftwareLogs, SoftwareTpm};

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct FleetOptions {
    /// The server, as https://host:port
    #[arg(long, value_name = "URL")]
    pub server: ServerUrl,
    /// A token that any number of machines may use
    #[arg(long)]
    pub token: Token,
    /// A baseline token, for the first machine: its list becomes the group's policy
    #[arg(long)]
    pub baseline_token: Option<Token>,
    /// How many
    #[arg(long, value_name = "N")]
    pub agents: usize,
    /// The type of their keys
    #[arg(long, value_enum, default_value = "ecc")]
    pub key: KeyKind,
    /// Share this many attestation keys among all, and give each a P-256 endorsement key; RSA keys
    /// take long to make
    #[arg(long, value_name = "N")]
    pub ak_pool: Option<usize>,
    /// Directory of the CA that signs the endorsement keys, made when there is none; name its
    /// ek-ca.pem to the server
    #[arg(long, value_name = "DIR")]
    pub ek_ca: PathBuf,
    /// First part of the agents' ids
    #[arg(long, value_name = "PREFIX", default_value = "load")]
    pub prefix: String,
    /// Entries of each measurement list at its boot
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub entries: usize,
    /// Entries that each machine measures after each attestation
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub growth: usize,
    /// Enrolments at the same time
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub enrolments: usize,
    /// For how long to attest
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub seconds: u64,
    /// How long to attest before that, uncounted
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub warm_up_seconds: u64,
}

/// How long the first machine may take to prove the list that becomes the policy.
const BASELINE_WAIT: Duration = Duration::from_secs(60);

struct Member {
    machine: Machine,
    boot: SharedBoot,
    agent: AgentId,
}

/// Makes the fleet, enrols it, and lets it attest.
///
/// # Errors
/// When keys cannot be made or an enrolment fails.
pub async fn run(options: &FleetOptions) -> Result<Report> {
    let members = members(options).await?;
    tracing::info!(agents = members.len(), "keys made");
    let begun = Instant::now();
    let enrolled = enrol_all(options, members).await?;
    let enrolment = begun.elapsed();
    let agents = enrolled.len();
    tracing::info!(agents, seconds = enrolment.as_secs(), "enrolled");

    let counts = Arc::new(Counts::new()?);
    let (stop, stopped) = watch::channel(false);
    let sockets = Sockets::default();
    let mut running = JoinSet::new();
    let mut begun = Instant::now();
    for (nth, (member, enrolled)) in enrolled.into_iter().enumerate() {
        let watcher = watcher(&counts, member.boot, options.growth, options.entries);
        let agent = Agent::new(member.machine, enrolled, None, watcher);
        running.spawn(agent.with_sockets(sockets.clone()).run(stopped.clone()));
        // Until the first machine has proven its list, there is no policy for the others.
        if nth == 0 && options.baseline_token.is_some() {
            counts.verdict(BASELINE_WAIT).await?;
        }
    }
    if options.warm_up_seconds > 0 {
        sleep(Duration::from_secs(options.warm_up_seconds)).await;
        counts.start_over();
        begun = Instant::now();
    }
    sleep(Duration::from_secs(options.seconds)).await;
    let report = counts.report(agents, enrolment, begun.elapsed());
    let _ = stop.send(true);
    while running.join_next().await.is_some() {}
    Ok(report)
}

/// Counts, and lets the machine measure more after each verdict.
fn watcher(
    counts: &Arc<Counts>,
    boot: SharedBoot,
    growth: usize,
    entries: usize,
) -> rat_agent::run::Watcher {
    let counts = Arc::clone(counts);
    Arc::new(move |event| {
        counts.tell(&event);
        if let Event::Answered { .. } = event {
            let mut boot = boot.lock().unwrap_or_else(PoisonError::into_inner);
            for nth in 0..growth {
                // A file that ran at boot, so that the policy lists it.
                let known = entries.saturating_sub(1);
                boot.measure(&tool(nth.checked_rem(known).unwrap_or(0).saturating_add(1)));
            }
        }
    })
}

/// The nth of the files that machines of a fleet run.
fn tool(nth: usize) -> Entry {
    let name = format!("/usr/bin/tool-{nth}");
    Entry::file(&name, name.as_bytes())
}

/// Makes keys on all cores.
async fn members(options: &FleetOptions) -> Result<Vec<Member>> {
    let ca = Arc::new(EkCa::open(&options.ek_ca)?);
    let mut pool = Vec::new();
    for _ in 0..options.ak_pool.unwrap_or(0) {
        pool.push(SoftwareKey::generate(options.key)?);
    }
    if options.ak_pool == Some(0) {
        bail!("--ak-pool needs at least one key");
    }
    let pool = Arc::new(pool);
    let mut making = JoinSet::new();
    for nth in 0..options.agents {
        let (ca, pool, options) = (Arc::clone(&ca), Arc::clone(&pool), options.clone());
        making.spawn_blocking(move || member(nth, &options, &pool, &ca));
    }
    let mut members = Vec::new();
    while let Some(made) = making.join_next().await {
        members.push(made??);
    }
    Ok(members)
}

fn member(nth: usize, options: &FleetOptions, pool: &[SoftwareKey], ca: &EkCa) -> Result<Member> {
    let shared = nth.checked_rem(pool.len()).and_then(|at| pool.get(at));
    let (endorsement, attestation) = match shared {
        Some(key) => (SoftwareKey::generate(KeyKind::Ecc)?, key.clone()),
        None => (
            SoftwareKey::generate(options.key)?,
            SoftwareKey::generate(options.key)?,
        ),
    };
    let keys = Arc::new(Keys::new(endorsement, attestation, ca)?);
    let mut first = Boot::first();
    // One entry is boot_aggregate.
    for entry in 1..options.entries {
        first.measure(&tool(entry));
    }
    let boot = Arc::new(Mutex::new(first));
    let agent = format!("{}-{nth}", options.prefix);
    Ok(Member {
        machine: Machine::new(
            SoftwareTpm::new(keys, Arc::clone(&boot)),
            SoftwareLogs::new(Arc::clone(&boot)),
        ),
        boot,
        agent: AgentId::parse(&agent).with_context(|| agent.clone())?,
    })
}

async fn enrol_all(
    options: &FleetOptions,
    mut members: Vec<Member>,
) -> Result<Vec<(Member, Enrolled)>> {
    let mut enrolled = Vec::with_capacity(members.len());
    if let Some(token) = &options.baseline_token
        && let Some(first) = members.pop()
    {
        enrolled.push(enrol_one(options, token, first).await?);
    }
    let places = Arc::new(Semaphore::new(options.enrolments.max(1)));
    let mut enrolling = JoinSet::new();
    for member in members {
        let (options, places) = (options.clone(), Arc::clone(&places));
        enrolling.spawn(async move {
            let _place = places.acquire_owned().await?;
            enrol_one(&options, &options.token, member).await
        });
    }
    while let Some(done) = enrolling.join_next().await {
        enrolled.push(done??);
    }
    Ok(enrolled)
}

async fn enrol_one(
    options: &FleetOptions,
    token: &Token,
    member: Member,
) -> Result<(Member, Enrolled)> {
    let wanted = EnrolOptions {
        token: token.clone(),
        server: options.server.clone(),
        agent: Some(member.agent.clone()),
        hostname: member.agent.to_string(),
        kind: options.key,
    };
    let enrolled = enrol(&member.machine, &wanted, None)
        .await
        .with_context(|| format!("enrolling {}", member.agent))?;
    Ok((member, enrolled))
}
