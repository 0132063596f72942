//! How long a quote waits for its verdict in the running runtime, with one worker: one agent alone,
//! a hundred together, and these while other agents' first lists of 100,000 entries are replayed.
//!
//! From the evidence's delivery to the verdict, the commit included: SQLite with
//! `synchronous = FULL` where temporary files are. Evidence is signed, and lists are sent, by
//! threads of this process, which want a core of their own. Caches of lists are off: each entry of
//! a long list is hashed and judged as if no machine had ever shown it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Peer, SessionId, ToAgent};
use rat_engine::ima::CacheLimits;
use rat_engine::shard::EffectiveStatus;
use rat_runtime::{Runtime, Settings};
use rat_tests::assignment::{answer_as, streamed};
use rat_tests::driven::{Connected, Driven, PATIENCE, Wire, activate, put_policy, settings};
use rat_tests::evidence::Machine;
use rat_tests::measured::Measured;

/// Agents whose lists do not grow.
const AGENTS: usize = 100;
/// How often each of them is asked.
const INTERVAL_MS: u64 = 500;
/// How often the one that is alone is asked.
const ALONE_INTERVAL_MS: u64 = 20;
const SAMPLES: usize = 1_000;
const ENTRIES: usize = 100_000;
/// Lists that are on their way at a time, and all of them.
const UPLOADS: usize = 2;
const LISTS: usize = 12;
const PIECE_BYTES: usize = 64 * 1024;

/// Says of each message when it came, and to whom.
struct Stamping(usize, Sender<(usize, Instant, ToAgent)>);

impl Peer for Stamping {
    fn send(&self, message: ToAgent) {
        let _ = self.1.send((self.0, Instant::now(), message));
    }
}

fn agent(of: &str, nth: usize) -> AgentId {
    AgentId::parse(&format!("{of}-{nth}")).unwrap()
}

/// The machine that measured so many files more than the others.
fn long() -> Machine {
    Machine::valid().with(|machine| {
        machine.list.extend((0..ENTRIES).map(|n| {
            let name = format!("/usr/lib/x86_64-linux-gnu/package-{n:06}/libfile.so.{n}");
            Measured::file(&name, &n.to_le_bytes())
        }));
    })
}

async fn driven(policy: &str, interval_ms: u64) -> Driven {
    let mut settings = Settings {
        workers: 1,
        ima_caches: CacheLimits {
            agent_bytes_max: 0,
            ..CacheLimits::default()
        },
        ..settings()
    };
    settings.shard = rat_engine::shard::Settings::with_interval(interval_ms);
    let driven = Driven::without_policy(settings).await;
    let version = put_policy(&driven.store, policy).await;
    activate(&driven.store, version, rat_store::Precondition::Always).await;
    driven.restart(settings).await
}

/// Agents that answer whatever they are asked.
struct Fleet {
    machine: Machine,
    agents: Vec<AgentId>,
    messages: Receiver<(usize, Instant, ToAgent)>,
    delivered: Vec<Option<Instant>>,
}

impl Fleet {
    async fn connect(driven: &Driven, count: usize) -> Self {
        let machine = Machine::valid();
        let agents: Vec<_> = (0..count).map(|nth| agent("quick", nth)).collect();
        let (sender, messages) = channel();
        for (nth, agent) in agents.iter().enumerate() {
            driven.enrol(&machine, agent).await;
            let connected = Connected {
                session: session(nth),
                agent: agent.clone(),
                machine: machine.clone(),
                messages: channel().1,
            };
            let peer = Stamping(nth, sender.clone());
            driven.greet(&connected, Box::new(peer)).unwrap();
        }
        Self {
            machine,
            agents,
            messages,
            delivered: vec![None; count],
        }
    }

    /// Answers until this many verdicts came, or the others are done; how long each took. The first
    /// of each agent, which brings a whole list, does not count.
    fn run(&mut self, runtime: &Runtime, until: impl Fn(usize) -> bool) -> Vec<Duration> {
        let intake = runtime.intake();
        let mut taken = Vec::new();
        while !until(taken.len()) {
            let (nth, at, message) = self.messages.recv_timeout(PATIENCE).unwrap();
            match message {
                ToAgent::Challenge(challenge) => {
                    let agent = &self.agents[nth];
                    let from = challenge.ima_from_entry.unwrap() as usize;
                    let answer = answer_as(&self.machine, agent, &challenge, from, |_| {});
                    self.delivered[nth] = (from > 0).then(Instant::now);
                    intake.evidence(session(nth), agent, answer).unwrap();
                }
                ToAgent::Verdict(_, answer) => {
                    assert_eq!(answer.status, EffectiveStatus::Trusted, "{answer:?}");
                    taken.extend(self.delivered[nth].take().map(|from| at - from));
                }
                ToAgent::Welcome { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        taken
    }
}

fn session(nth: usize) -> SessionId {
    SessionId(nth as u64)
}

/// Sends the whole list of one agent; panics unless it passes.
fn upload(driven: &Driven, machine: &Machine, nth: usize) {
    let (sender, messages) = channel();
    let connected = Connected {
        session: session(AGENTS + nth),
        agent: agent("long", nth),
        machine: machine.clone(),
        messages,
    };
    driven.greet(&connected, Box::new(Wire(sender))).unwrap();
    let challenge = connected.challenged();
    let (submission, bytes) = streamed(connected.answer(&challenge));
    driven.deliver(&connected, submission).unwrap();
    let intake = driven.runtime.intake();
    let (session, agent) = (connected.session, &connected.agent);
    let mut pieces = bytes.chunks(PIECE_BYTES);
    loop {
        match connected.next() {
            ToAgent::More(id) => {
                let piece = pieces.next().unwrap().to_vec();
                intake.log_piece(session, agent, id, piece).unwrap();
            }
            ToAgent::Verdict(_, answer) => {
                // It may be overdue already: trust counts from the challenge.
                assert_eq!(answer.code, None, "{answer:?}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    intake.disconnected(session, agent);
}

fn show(what: &str, mut taken: Vec<Duration>) {
    taken.sort_unstable();
    let at = |percent: usize| {
        let nth = (taken.len() * percent / 100).min(taken.len() - 1);
        taken[nth].as_secs_f64() * 1e3
    };
    let count = taken.len();
    println!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms ({count} verdicts)",
        at(50),
        at(99),
        at(100)
    );
}

#[tokio::main]
async fn main() {
    let long = long();
    let policy = long.policy();
    let alone = driven(&policy, ALONE_INTERVAL_MS).await;
    let mut fleet = Fleet::connect(&alone, 1).await;
    let taken = fleet.run(&alone.runtime, |count| count >= SAMPLES);
    show("one agent alone", taken);
    alone.runtime.drain(PATIENCE).await;

    let driven = driven(&policy, INTERVAL_MS).await;
    for nth in 0..LISTS {
        driven.enrol(&long, &agent("long", nth)).await;
    }
    let mut fleet = Fleet::connect(&driven, AGENTS).await;
    let taken = fleet.run(&driven.runtime, |count| count >= SAMPLES);
    show("a hundred agents, 200 quotes a second", taken);

    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let taken = std::thread::scope(|scope| {
        let uploads = || {
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= LISTS {
                    break;
                }
                upload(&driven, &long, nth);
            }
        };
        let uploads: Vec<_> = (0..UPLOADS).map(|_| scope.spawn(uploads)).collect();
        let are_done = |_| uploads.iter().all(|upload| upload.is_finished());
        fleet.run(&driven.runtime, are_done)
    });
    let seconds = began.elapsed().as_secs_f64();
    show("the same while lists are replayed", taken);
    let rate = (LISTS * ENTRIES) as f64 / seconds;
    println!("{LISTS} lists of {ENTRIES} entries, {UPLOADS} at a time: {rate:.0} entries a second");
}
