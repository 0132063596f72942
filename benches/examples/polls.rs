//! What polling Keylime's agents costs the server.
//!
//! ```text
//! polls AGENTS INTERVAL_MS SECONDS    prints a JSON object
//! ```
//!
//! The agents are a process of their own: HTTPS servers on loopback, with keys in software (RSA-2048,
//! as Keylime's agents have them), lists that do not grow, and a certificate of each. The server is a
//! runtime over a store in a temporary directory and a poller, with all that a poll means: TLS,
//! quote, verdict and its record. Counted is its CPU time, once every agent is trusted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::print_stdout
)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{
    Busy, ChallengeId, Hello, Intake, Peer, SessionId, Submission, ToAgent,
};
use rat_engine::hash::HashAlg;
use rat_engine::shard::{AgentView, EffectiveStatus};
use rat_runtime::{KeylimeSettings, Settings};
use rat_tests::driven::Driven;
use rat_tests::evidence::Machine;
use rat_tests::pull_agent::{Device, PullAgent};
use rat_tests::pulled::{contact, enrol, make_group};
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use rat_transport::pull::{self, News, Options, Poller, Watcher};
use serde_json::json;
use tokio::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.as_slice() {
        ["agents", count] => runtime.block_on(agents(count.parse().unwrap())),
        [count, interval_ms, seconds] => runtime.block_on(serve(
            count.parse().unwrap(),
            interval_ms.parse().unwrap(),
            seconds.parse().unwrap(),
        )),
        _ => {
            eprintln!("usage: polls AGENTS INTERVAL_MS SECONDS");
            std::process::exit(2);
        }
    }
}

/// Agents until standard input ends; says of each where it is and how it is known.
async fn agents(count: usize) {
    let machine = Machine::valid().with(|machine| {
        machine.ak = SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha256);
    });
    let mut all = Vec::new();
    let mut out = std::io::stdout().lock();
    let policy = machine.policy();
    writeln!(out, "{}", hex::encode(machine.ak.public())).unwrap();
    writeln!(out, "{}", hex::encode(policy)).unwrap();
    for _ in 0..count {
        let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
        writeln!(out, "{} {}", agent.address, hex::encode(&agent.certificate)).unwrap();
        all.push(agent);
    }
    out.flush().unwrap();
    drop(out);
    let waiting = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    waiting.await.unwrap().unwrap();
}

/// Counts polls on their way to the shards.
struct Counted {
    intake: Arc<dyn Intake>,
    evidence: AtomicU64,
    verdicts: Arc<AtomicU64>,
}

struct CountedPeer(Box<dyn Peer>, Arc<AtomicU64>);

impl Peer for CountedPeer {
    fn send(&self, message: ToAgent) {
        if let ToAgent::Verdict(_, answer) = &message
            && answer.code.is_none()
        {
            self.1.fetch_add(1, Relaxed);
        }
        self.0.send(message);
    }
}

impl Intake for Counted {
    fn connected(&self, session: SessionId, hello: Hello, peer: Box<dyn Peer>) -> Result<(), Busy> {
        let peer = CountedPeer(peer, Arc::clone(&self.verdicts));
        self.intake.connected(session, hello, Box::new(peer))
    }

    fn logs_arrive(
        &self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        bytes: u64,
    ) -> Result<(), Busy> {
        self.intake.logs_arrive(session, agent, challenge, bytes)
    }

    fn evidence(
        &self,
        session: SessionId,
        agent: &AgentId,
        submission: Submission,
    ) -> Result<(), Busy> {
        self.evidence.fetch_add(1, Relaxed);
        self.intake.evidence(session, agent, submission)
    }

    fn log_piece(
        &self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        piece: Vec<u8>,
    ) -> Result<(), Busy> {
        self.intake.log_piece(session, agent, challenge, piece)
    }

    fn disconnected(&self, session: SessionId, agent: &AgentId) {
        self.intake.disconnected(session, agent);
    }
}

struct Silent(AtomicU64);

impl Watcher for Silent {
    fn told(&self, agent: &AgentId, news: News) {
        if let News::Silent { failure, .. } = news
            && self.0.fetch_add(1, Relaxed) < 10
        {
            eprintln!("{agent}: {failure}");
        }
    }
}

/// A server with its agents, in another process.
struct Scene {
    driven: Driven,
    poller: Poller,
    counted: Arc<Counted>,
    silent: Arc<Silent>,
    ids: Vec<AgentId>,
    agents: Child,
}

impl Scene {
    async fn start(count: usize, interval_ms: u64) -> Self {
        let settings = Settings {
            keylime: KeylimeSettings {
                interval_ms,
                ..KeylimeSettings::default()
            },
            ..rat_tests::driven::settings()
        };
        let driven = Driven::without_policy(settings).await;
        make_group(&driven.store).await;
        let counted = Arc::new(Counted {
            intake: driven.runtime.intake(),
            evidence: AtomicU64::new(0),
            verdicts: Arc::default(),
        });
        let silent = Arc::new(Silent(AtomicU64::new(0)));
        let options = Options {
            settings: pull::Settings {
                interval_ms,
                ..pull::Settings::default()
            },
            identity: None,
            seal: Arc::new(|_, _| None),
            watcher: Arc::clone(&silent) as Arc<dyn Watcher>,
        };
        let poller = Poller::start(options, Arc::clone(&counted) as Arc<dyn Intake>).unwrap();
        let agents = Command::new(std::env::current_exe().unwrap())
            .args(["agents", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut scene = Self {
            driven,
            poller,
            counted,
            silent,
            ids: Vec::new(),
            agents,
        };
        scene.add(count).await;
        scene
    }

    /// Adds the agents as they say where they are, and waits until each is trusted.
    async fn add(&mut self, count: usize) {
        let mut lines = BufReader::new(self.agents.stdout.take().unwrap()).lines();
        let mut line = || lines.next().unwrap().unwrap();
        let ak_public = hex::decode(line()).unwrap();
        let policy = String::from_utf8(hex::decode(line()).unwrap()).unwrap();
        for nth in 0..count {
            let said = line();
            let (address, certificate) = said.split_once(' ').unwrap();
            let address: SocketAddr = address.parse().unwrap();
            let certificate = Some(hex::decode(certificate).unwrap());
            let id = AgentId::parse(&format!("polled-{nth}")).unwrap();
            enrol(&self.driven, &id, &ak_public, &policy).await;
            let contact = contact(&id, address, certificate, &ak_public);
            self.poller.put(contact).unwrap();
            self.ids.push(id);
        }
        for id in &self.ids {
            let is_trusted = |view: &AgentView| view.status == EffectiveStatus::Trusted;
            self.driven.until_view(id, is_trusted).await;
        }
    }

    /// CPU time, answers and passing verdicts so far.
    fn so_far(&self) -> (Duration, u64, u64) {
        let [answers, verdicts] = [&self.counted.evidence, &*self.counted.verdicts];
        let (answers, verdicts) = (answers.load(Relaxed), verdicts.load(Relaxed));
        (cpu(), answers, verdicts)
    }
}

async fn serve(count: usize, interval_ms: u64, seconds: u64) {
    let mut scene = Scene::start(count, interval_ms).await;
    tokio::time::sleep(Duration::from_millis(interval_ms * 2)).await;
    let before = scene.so_far();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let took = begun.elapsed().as_secs_f64();
    let after = scene.so_far();
    let (polls, passed) = (after.1 - before.1, after.2 - before.2);
    let mut trusted = 0;
    for id in &scene.ids {
        let view = scene.driven.view(id).await;
        trusted += usize::from(view.status == EffectiveStatus::Trusted);
    }
    let said = json!({
        "agents": count,
        "interval_ms": interval_ms,
        "seconds": took,
        "polls_per_second": polls as f64 / took,
        "passed_per_second": passed as f64 / took,
        "server_cpu_us_per_poll": (after.0 - before.0).as_secs_f64() * 1e6 / polls as f64,
        "trusted_at_the_end": trusted,
        "silent": scene.silent.0.load(Relaxed),
    });
    println!("{said}");
    scene.poller.shutdown(Duration::from_secs(1)).await;
    drop(scene.agents.stdin.take());
    scene.agents.wait().unwrap();
}

/// CPU time that this process has used, with threads that ended. Hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // proc(5): utime and stime are the 12th and 13th after the name, which may hold spaces.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|it| it.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}
