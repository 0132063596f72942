//! Agents that connect and stay, and answer whenever the server asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rat_agent::run::{Agent, Event, Watcher};
use rat_agent::state::Enrolled;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::members::Member;
use super::misbehaving::Misbehaving;
use super::visitor::Visitor;
use super::{BASELINE_WAIT, Enlisted, Fleet, grow};
use crate::latency::Latencies;
use crate::misdeeds::Conduct;
use crate::progress;
use crate::report::{Report, Scheduled};
use crate::schedule::{Begun, Rate, Schedule};

/// First connections at a rate.
struct Arrivals {
    rate: Rate,
    schedule: Schedule,
    /// As many as there are agents, and time.
    intended: u64,
    begun: u64,
    welcome: Arc<Mutex<Latencies>>,
}

impl Arrivals {
    fn new(rate: Rate, begin: Instant, time: Duration, agents: usize) -> Result<Self> {
        let schedule = Schedule::new(begin, rate, time);
        let agents = u64::try_from(agents).unwrap_or(u64::MAX);
        Ok(Self {
            rate,
            schedule,
            intended: schedule.starts().min(agents),
            begun: 0,
            welcome: Arc::new(Mutex::new(Latencies::new()?)),
        })
    }

    /// Waits for the next start; `None` when there is none in time.
    async fn next(&mut self) -> Option<First> {
        let intended = self.schedule.at(self.begun)?;
        sleep_until(intended).await;
        self.begun = self.begun.saturating_add(1);
        let welcome = Arc::clone(&self.welcome);
        Some(First { intended, welcome })
    }

    fn report(&self) -> Scheduled {
        let welcome = self.welcome.lock();
        let welcome = welcome.unwrap_or_else(PoisonError::into_inner);
        Scheduled {
            begun: Begun::new(self.rate, self.intended, self.begun),
            not_due: 0,
            welcome_ms: welcome.quantiles(),
            visit_ms: None,
        }
    }
}

/// When an agent was to connect first, and where the time to its Welcome is counted.
struct First {
    intended: Instant,
    welcome: Arc<Mutex<Latencies>>,
}

/// The agents at work.
struct Running {
    tasks: JoinSet<()>,
    stopped: watch::Receiver<bool>,
}

/// Connects all agents, at once or at a rate, and counts until the time is over.
pub(super) async fn run(mut fleet: Fleet<'_>, rate: Option<Rate>) -> Result<Report> {
    let (stop, stopped) = watch::channel(false);
    let mut running = Running {
        tasks: JoinSet::new(),
        stopped,
    };
    let options = fleet.options;
    let all = options.agents;
    let mut agents = std::mem::take(&mut fleet.agents).each(all);
    // Until the first machine has proven its list, there is no policy for the others.
    if options.baseline_token.is_some()
        && let Some(first) = agents.next()
    {
        let (member, enrolled, _) = first?;
        fleet.start(&mut running, member, enrolled, None);
        fleet.counts.verdict(BASELINE_WAIT).await?;
    }
    let begin = Instant::now();
    let time = options.warm_up().saturating_add(options.counted());
    let counts = Arc::clone(&fleet.counts);
    let said = move || format!("{} verdicts", counts.attestations());
    let showing = progress::running("attesting", time, said);
    let mut arrivals = match rate {
        Some(rate) => {
            let first = usize::from(options.baseline_token.is_some());
            let at_rate = all.saturating_sub(first);
            Some(Arrivals::new(rate, begin, time, at_rate)?)
        }
        None => None,
    };
    let connecting = fleet.connect_all(agents, &mut running, arrivals.as_mut());
    let (connected, counted_from) = tokio::join!(connecting, count(&fleet, begin));
    connected?;
    sleep(time.saturating_sub(begin.elapsed())).await;
    let counted = counted_from.elapsed();
    let mut report = fleet.counts.report(all, fleet.enrolment, counted);
    drop(showing);
    report.schedule = arrivals.as_ref().map(Arrivals::report);
    let _ = stop.send(true);
    while running.tasks.join_next().await.is_some() {}
    Ok(report)
}

/// Forgets what was counted when the warm-up is over. Gives the time from which counts are.
async fn count(fleet: &Fleet<'_>, begin: Instant) -> Instant {
    let warm_up = fleet.options.warm_up();
    if warm_up == Duration::ZERO {
        return begin;
    }
    sleep(warm_up).await;
    fleet.counts.start_over();
    Instant::now()
}

impl Fleet<'_> {
    /// Starts these agents, at once or when each is to begin.
    async fn connect_all(
        &self,
        agents: impl Iterator<Item = Result<Enlisted>>,
        running: &mut Running,
        mut arrivals: Option<&mut Arrivals>,
    ) -> Result<()> {
        for enlisted in agents {
            let (member, enrolled, conduct) = enlisted?;
            let first = match &mut arrivals {
                None => None,
                Some(arrivals) => match arrivals.next().await {
                    None => break,
                    first => first,
                },
            };
            match conduct {
                Conduct::Honest => self.start(running, member, enrolled, first),
                _ => self.misbehave(running, member, enrolled, conduct)?,
            }
        }
        Ok(())
    }

    /// Starts an agent as machines run it. The time from when it was to connect first to its first
    /// Welcome is counted, if it is to be.
    fn start(
        &self,
        running: &mut Running,
        member: Member,
        enrolled: Enrolled,
        first: Option<First>,
    ) {
        let watcher = self.watcher(&member, first);
        let agent = Agent::new(member.machine, enrolled, None, watcher);
        let agent = agent.with_sockets(self.sockets.clone());
        running.tasks.spawn(agent.run(running.stopped.clone()));
    }

    /// Counts, and lets the machine measure more after each verdict.
    fn watcher(&self, member: &Member, first: Option<First>) -> Watcher {
        let (counts, options) = (Arc::clone(&self.counts), self.options.clone());
        let (nth, boot) = (member.nth, Arc::clone(&member.boot));
        let first = Mutex::new(first);
        Arc::new(move |event| {
            counts.tell(nth, &event);
            match event {
                Event::Connected { .. } => {
                    let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                    if let Some(First { intended, welcome }) = first {
                        let mut welcome = welcome.lock().unwrap_or_else(PoisonError::into_inner);
                        welcome.record(intended.elapsed());
                    }
                }
                Event::Answered { .. } => grow(&boot, &options),
                _ => {}
            }
        })
    }

    /// Starts an agent that misbehaves, and comes back whenever the server sends it away.
    fn misbehave(
        &self,
        running: &mut Running,
        member: Member,
        enrolled: Enrolled,
        conduct: Conduct,
    ) -> Result<()> {
        let visitor = Visitor::new(member, enrolled, self.sockets.clone())?;
        let mut agent = Misbehaving::new(visitor, conduct, Arc::clone(&self.told));
        let mut stopped = running.stopped.clone();
        running.tasks.spawn(async move {
            tokio::select! {
                () = agent.stay() => {}
                // That nobody can say it any more is to stop, too.
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        Ok(())
    }
}
