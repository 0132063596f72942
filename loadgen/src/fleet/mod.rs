//! `rat-load fleet`: many software agents that enrol and attest through the real protocol.
//!
//! A server says when it challenges, so the agents of a fleet cannot ask for verdicts at a rate.
//! What they can begin at a rate is a connection:
//!
//! | options | who begins | what is measured |
//! |---|---|---|
//! | neither | all connect at once and stay; the server challenges | challenge to verdict; due to verdict |
//! | `--rate R` | `R` visits a second: connect, answer, leave | also intended start to Welcome, and to verdict |
//! | `--relays N` | `N` relays connect and speak for the agents; the server challenges | challenge to verdict; due to verdict |
//! | `--rate R --stay` | `R` first connections a second, which stay | also intended start to Welcome |
//!
//! Whatever was to be begun and was not is counted. `docs/reference/load.md` says what each figure
//! is.

mod flood;
pub mod identities;
mod members;
mod misbehaving;
mod relayed;
mod staying;
mod visiting;
mod visitor;

use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rat_agent::device::KeyKind;
use rat_agent::https::ServerUrl;
use rat_agent::state::Enrolled;
use rat_agent::token::Token;
use rat_transport::quic::client::Sockets;
use tokio::time::Instant;

use crate::misdeeds::{Conduct, MisbehaviourOptions, Told};
use crate::report::{Counts, Report};
use crate::schedule::Rate;
use crate::software_tpm::SharedBoot;
use identities::Known;
use members::{Member, tool};

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct FleetOptions {
    /// The server, as https://host:port
    #[arg(long, value_name = "URL")]
    pub server: ServerUrl,
    /// A token that any number of machines may use
    #[arg(long, required_unless_present = "identities")]
    pub token: Option<Token>,
    /// A baseline token, for the first machine: its list becomes the group's policy
    #[arg(long, conflicts_with = "identities")]
    pub baseline_token: Option<Token>,
    /// How many
    #[arg(long, value_name = "N")]
    pub agents: usize,
    /// File of agents that are enrolled: they attest, with the keys and certificates in it
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["token", "ek_ca", "key", "ak_pool", "prefix", "entries", "growth"]
    )]
    pub identities: Option<PathBuf>,
    /// Begin so many connections each second, over all agents: each attests once and leaves
    /// [default: all connect at once and stay]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<Rate>,
    /// With a rate: agents connect once and stay
    #[arg(long, requires = "rate")]
    pub stay: bool,
    /// Speak through this many relays, which are simulated, too; an operator's token names them
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub relays: Option<std::num::NonZeroUsize>,
    /// File with the API token of an administrator, for --relays without --identities
    #[arg(long, value_name = "FILE")]
    pub operator_token_file: Option<PathBuf>,
    /// The type of their keys
    #[arg(long, value_enum, default_value = "ecc")]
    pub key: KeyKind,
    /// Share this many attestation keys among all, and give each a P-256 endorsement key; RSA keys
    /// take long to make
    #[arg(long, value_name = "N")]
    pub ak_pool: Option<usize>,
    /// Directory of the CA that signs the endorsement keys, made when there is none; name its
    /// ek-ca.pem to the server
    #[arg(long, value_name = "DIR", required_unless_present = "identities")]
    pub ek_ca: Option<PathBuf>,
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
    /// Agents that misbehave
    #[command(flatten)]
    pub misbehaviour: MisbehaviourOptions,
}

impl FleetOptions {
    const fn warm_up(&self) -> Duration {
        Duration::from_secs(self.warm_up_seconds)
    }

    const fn counted(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// How long the first machine may take to prove the list that becomes the policy.
const BASELINE_WAIT: Duration = Duration::from_secs(60);

/// One of a fleet.
type Enlisted = (Member, Enrolled, Conduct);

/// The agents of a fleet.
enum Agents {
    /// Those that were enrolled by this program.
    Enrolled(Vec<Enlisted>),
    /// Those of a file.
    Known(Box<Known>),
}

impl Default for Agents {
    fn default() -> Self {
        Self::Enrolled(Vec::new())
    }
}

impl Agents {
    /// The first so many of them. One of a file is made up when it is asked for.
    fn each(self, agents: usize) -> Box<dyn Iterator<Item = Result<Enlisted>> + Send> {
        match self {
            Self::Enrolled(all) => Box::new(all.into_iter().map(Ok)),
            Self::Known(known) => Box::new((0..agents).map(move |nth| {
                let (member, enrolled) = (known.member(nth)?, known.enrolled(nth)?);
                Ok((member, enrolled, Conduct::Honest))
            })),
        }
    }
}

/// A fleet whose agents are enrolled.
struct Fleet<'o> {
    options: &'o FleetOptions,
    agents: Agents,
    enrolment: Duration,
    sockets: Sockets,
    counts: Arc<Counts>,
    told: Arc<Told>,
}

/// Makes the fleet, enrols it, and lets it attest.
///
/// # Errors
/// When keys cannot be made, an enrolment fails, or agents are to misbehave towards a server that
/// is not on a loopback address.
pub async fn run(options: &FleetOptions) -> Result<Report> {
    if let Some(path) = &options.identities {
        return run_known(options, path).await;
    }
    let honest = usize::from(options.baseline_token.is_some());
    let conducts = options.misbehaviour.conducts(options.agents, honest)?;
    if options.misbehaviour.is_some() && !options.misbehaviour.beyond_loopback {
        check_loopback(&options.server.to_string())?;
    }
    let members = members::make(options).await?;
    tracing::info!(agents = members.len(), "keys made");
    let begun = Instant::now();
    let enrolled = members::enrol_all(options, members).await?;
    let enrolment = begun.elapsed();
    let agents = enrolled.len();
    tracing::info!(agents, seconds = enrolment.as_secs(), "enrolled");
    let told = Arc::new(Told::new(&conducts));
    if options.misbehaviour.is_some() && !options.misbehaviour.beyond_loopback {
        // Where evidence goes is another address than where agents enrolled.
        let addresses = enrolled.iter().map(|agent| &agent.1.evidence_addresses);
        for address in addresses.flatten() {
            check_loopback(address)?;
        }
    }
    let enlisted = enrolled.into_iter().zip(conducts);
    let enlisted = enlisted.map(|((member, enrolled), conduct)| (member, enrolled, conduct));
    let fleet = Fleet {
        options,
        agents: Agents::Enrolled(enlisted.collect()),
        enrolment,
        sockets: Sockets::for_many(),
        counts: Arc::new(Counts::new()?),
        told: Arc::clone(&told),
    };
    if let Some(relays) = options.relays {
        ensure!(
            !options.misbehaviour.is_some(),
            "agents of relays do as they should: --relays goes with none that misbehave"
        );
        return relayed::run(fleet, relays.get()).await;
    }
    let mut report = match options.rate {
        Some(rate) if !options.stay => visiting::run(fleet, rate).await?,
        rate => staying::run(fleet, rate).await?,
    };
    if options.misbehaviour.is_some() {
        report.seed = Some(options.misbehaviour.seed);
        report.misbehaving = told.report();
    }
    Ok(report)
}

/// Lets agents of a file attest.
async fn run_known(options: &FleetOptions, path: &Path) -> Result<Report> {
    ensure!(
        !options.misbehaviour.is_some(),
        "agents of a file do as they should: --identities goes with none that misbehave"
    );
    let known = Known::open(path)?;
    let there = known.identities.agents;
    ensure!(
        options.agents <= there,
        "{} has {there} agents",
        path.display()
    );
    let fleet = Fleet {
        options,
        agents: Agents::Known(Box::new(known)),
        enrolment: Duration::ZERO,
        sockets: Sockets::for_many(),
        counts: Arc::new(Counts::new()?),
        told: Arc::new(Told::new(&[])),
    };
    match (options.relays, options.rate) {
        (Some(relays), _) => relayed::run(fleet, relays.get()).await,
        (None, Some(rate)) if !options.stay => visiting::run(fleet, rate).await,
        (None, rate) => staying::run(fleet, rate).await,
    }
}

/// Refuses a server, a URL or `host:port`, that is not on loopback addresses only.
fn check_loopback(server: &str) -> Result<()> {
    let place = server.strip_prefix("https://").unwrap_or(server);
    let place = place.trim_end_matches('/');
    let mut addresses = place.to_socket_addrs().with_context(|| place.to_owned())?;
    ensure!(
        addresses.all(|address| address.ip().is_loopback()),
        "{place} is not on a loopback address: agents misbehave there only with --beyond-loopback"
    );
    Ok(())
}

/// The machine measures more after an attestation.
fn grow(boot: &SharedBoot, options: &FleetOptions) {
    let mut boot = boot.lock().unwrap_or_else(PoisonError::into_inner);
    for nth in 0..options.growth {
        // A file that ran at boot, so that the policy lists it.
        let known = options.entries.saturating_sub(1);
        boot.measure(&tool(nth.checked_rem(known).unwrap_or(0).saturating_add(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_misbehave_towards_loopback_addresses_only() {
        for near in [
            "https://127.0.0.1:8001",
            "https://[::1]:8001/",
            "127.8.9.1:1",
        ] {
            assert!(check_loopback(near).is_ok(), "{near}");
        }
        for far in ["https://192.0.2.1:8001", "[2001:db8::1]:8882"] {
            let refused = check_loopback(far).unwrap_err().to_string();
            assert!(refused.contains("--beyond-loopback"), "{refused}");
        }
    }
}
