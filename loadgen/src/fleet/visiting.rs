//! Agents that connect, answer and leave, at a rate over all of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rat_agent::run::RunError;
use rat_transport::quic::client::Sockets;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::identities::Known;
use super::misbehaving::Misbehaving;
use super::visitor::Visitor;
use super::{Agents, BASELINE_WAIT, Fleet, FleetOptions, grow};
use crate::latency::Latencies;
use crate::misdeeds::Conduct;
use crate::progress;
use crate::report::{Counts, Report, Scheduled};
use crate::schedule::{Begun, Rate, Schedule};

/// An agent that leaves does not wait longer than this for what is not due.
const WORTH_WAITING: Duration = Duration::from_secs(2);
/// How long visits that were begun may take after the time is over. What is not over then is
/// counted as trouble.
const LAST_VISITS: Duration = Duration::from_secs(30);

/// One of the fleet, between its visits.
enum Guest {
    /// The nth of a file, who is made up for each visit.
    Known(usize),
    Honest(Box<Visitor>),
    Misbehaving(Box<Misbehaving>),
}

/// What visits came to.
#[derive(Debug)]
struct Visits {
    /// Visits that were to begin earlier are not counted.
    begin: Instant,
    begun: u64,
    not_due: u64,
    welcome: Latencies,
    visit: Latencies,
}

/// What every visit needs.
struct Tally {
    options: FleetOptions,
    sockets: Sockets,
    known: Option<Known>,
    counts: Arc<Counts>,
    visits: Mutex<Visits>,
}

/// Lets agents visit at this rate until the time is over.
pub(super) async fn run(mut fleet: Fleet<'_>, rate: Rate) -> Result<Report> {
    let options = fleet.options;
    let agents = options.agents;
    let (guests, known) = fleet.guests()?;
    let (free, mut waiting) = mpsc::channel(agents.max(1));
    let tally = Arc::new(Tally {
        options: options.clone(),
        sockets: fleet.sockets.clone(),
        known,
        counts: Arc::clone(&fleet.counts),
        visits: Mutex::new(Visits::new(Instant::now())?),
    });
    for (nth, guest) in guests.into_iter().enumerate() {
        // Until the first machine has proven its list, there is no policy for the others.
        let guest = match options.baseline_token {
            Some(_) if nth == 0 => tally.prove_baseline(guest).await?,
            _ => guest,
        };
        // There is room for all of them.
        let _ = free.send(guest).await;
    }
    fleet.counts.start_over();
    let now = Instant::now();
    let time = options.warm_up().saturating_add(options.counted());
    let begin = now.checked_add(options.warm_up()).unwrap_or(now);
    let end = now.checked_add(time).unwrap_or(now);
    *tally.visits() = Visits::new(begin)?;
    let schedule = Schedule::new(now, rate, time);
    let counts = Arc::clone(&fleet.counts);
    let said = move || format!("{} verdicts", counts.attestations());
    let showing = progress::running("visiting", time, said);
    let mut visiting = JoinSet::new();
    for at in (0..).map_while(|nth| schedule.at(nth)) {
        sleep_until(at).await;
        // Nobody is free: the start is late, and counts from when it was to be; or it never is.
        let Ok(Some(guest)) = timeout_at(end, waiting.recv()).await else {
            break;
        };
        let (tally, free) = (Arc::clone(&tally), free.clone());
        visiting.spawn(async move {
            let guest = tally.visit(guest, at).await;
            let _ = free.send(guest).await;
        });
        while visiting.try_join_next().is_some() {}
    }
    sleep_until(end).await;
    drop(showing);
    let all_over = async { while visiting.join_next().await.is_some() {} };
    if timeout(LAST_VISITS, all_over).await.is_err() {
        let left = visiting.len();
        tracing::warn!(left, "visits are not over");
        for _ in 0..left {
            fleet.counts.trouble(&"the visit was not over in time");
        }
    }
    visiting.shutdown().await;
    let counted = options.counted();
    let mut report = fleet.counts.report(agents, fleet.enrolment, counted);
    let visits = tally.visits();
    report.schedule = Some(Scheduled {
        begun: Begun::new(rate, schedule.starts_from(begin), visits.begun),
        not_due: visits.not_due,
        welcome_ms: visits.welcome.quantiles(),
        visit_ms: Some(visits.visit.quantiles()),
    });
    Ok(report)
}

impl Visits {
    fn new(begin: Instant) -> Result<Self> {
        Ok(Self {
            begin,
            begun: 0,
            not_due: 0,
            welcome: Latencies::new()?,
            visit: Latencies::new()?,
        })
    }
}

impl Fleet<'_> {
    fn guests(&mut self) -> Result<(Vec<Guest>, Option<Known>)> {
        let agents = match std::mem::take(&mut self.agents) {
            Agents::Enrolled(agents) => agents,
            Agents::Known(known) => {
                let guests = (0..self.options.agents).map(Guest::Known);
                return Ok((guests.collect(), Some(*known)));
            }
        };
        let mut guests = Vec::with_capacity(agents.len());
        for (member, enrolled, conduct) in agents {
            let visitor = Visitor::new(member, enrolled, self.sockets.clone())?;
            guests.push(match conduct {
                Conduct::Honest => Guest::Honest(Box::new(visitor)),
                _ => {
                    let told = Arc::clone(&self.told);
                    Guest::Misbehaving(Box::new(Misbehaving::new(visitor, conduct, told)))
                }
            });
        }
        Ok((guests, None))
    }
}

impl Tally {
    fn visits(&self) -> MutexGuard<'_, Visits> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn prove_baseline(&self, guest: Guest) -> Result<Guest> {
        let guest = self.visit(guest, Instant::now()).await;
        self.counts.verdict(BASELINE_WAIT).await?;
        Ok(guest)
    }

    /// One visit that was to begin at this time; gives the agent back.
    async fn visit(&self, guest: Guest, intended: Instant) -> Guest {
        let counts = {
            let mut visits = self.visits();
            let counts = intended >= visits.begin;
            visits.begun = visits.begun.saturating_add(u64::from(counts));
            counts
        };
        match guest {
            Guest::Known(nth) => {
                match self.visitor(nth) {
                    Ok(visitor) => self.try_to_attest(&visitor, intended, counts).await,
                    Err(error) => self.counts.trouble(&error),
                }
                Guest::Known(nth)
            }
            Guest::Honest(visitor) => {
                self.try_to_attest(&visitor, intended, counts).await;
                Guest::Honest(visitor)
            }
            Guest::Misbehaving(mut agent) => {
                agent.visit().await;
                Guest::Misbehaving(agent)
            }
        }
    }

    /// The nth agent of a file.
    fn visitor(&self, nth: usize) -> Result<Visitor> {
        let known = self.known.as_ref().context("an agent of no file")?;
        let client = known.client(nth, self.sockets.clone())?;
        Ok(Visitor::with(
            client,
            known.member(nth)?,
            known.place(nth)?,
        )?)
    }

    async fn try_to_attest(&self, visitor: &Visitor, intended: Instant, counts: bool) {
        if let Err(error) = self.attest(visitor, intended, counts).await {
            self.counts.trouble(&error);
        }
    }

    async fn attest(
        &self,
        visitor: &Visitor,
        intended: Instant,
        counts: bool,
    ) -> Result<(), RunError> {
        let visit = visitor.connect().await?;
        let took = intended.elapsed();
        if counts {
            self.counts.connected();
            self.visits().welcome.record(took);
        }
        if visit.next_after > WORTH_WAITING {
            if counts {
                let mut visits = self.visits();
                visits.not_due = visits.not_due.saturating_add(1);
            }
            visit.connection.close();
            return Ok(());
        }
        let incoming = visit.challenged().await?;
        let challenged = Instant::now();
        let made = visitor.evidence(incoming.challenge, incoming.binding, &visit.answering);
        let answer = incoming.answer(made.await?.parts).await?;
        if counts {
            self.counts.answered(&answer, challenged.elapsed());
            let took = intended.elapsed().saturating_sub(visit.next_after);
            self.visits().visit.record(took);
        }
        grow(&visitor.boot, &self.options);
        visit.connection.close();
        Ok(())
    }
}
