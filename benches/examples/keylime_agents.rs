//! Agents of Keylime for `benches/keylime-agents`, which asks a verifier of Keylime's and ours the
//! same.
//!
//! ```text
//! keylime_agents push ADDRESS CA_PEM COUNT rsa|ecc
//! keylime_agents pull COUNT
//! ```
//!
//! Says of each agent, as a line of JSON, its id and what a tenant adds it with; then does what
//! lines of standard input tell it, and answers each with a line of JSON. Keys are in software.
//! Those that push: `session N` opens so many sessions of each, `attest SECONDS INTERVAL_MS`
//! attests with each at that interval, `tamper` runs a file that the first one's policy does not
//! have, attests, and is that one's end. Those that are polled: `count` is the quotes that all of them were asked for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::disallowed_types
)]

use std::io::{BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use openssl::ssl::SslStream;
use openssl::x509::X509;
use rat_engine::hash::HashAlg;
use rat_tests::evidence::Machine;
use rat_tests::http_client::{Answer, Client, read};
use rat_tests::keylime_verifier::{Pusher, shown};
use rat_tests::measured::Measured;
use rat_tests::pull_agent::{Device, PullAgent};
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use serde_json::{Value, json};

/// Agents that keep their connection; of more, each attests over one of its own.
const KEPT: usize = 8000;
/// Threads that speak for agents.
const THREADS: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["push", address, ca, count, key] => {
            let verifier = Client::new(address.parse().unwrap(), Path::new(ca));
            push(&verifier, count.parse().unwrap(), key);
        }
        ["pull", count] => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(pull(count.parse().unwrap()));
        }
        _ => {
            eprintln!("usage: keylime_agents push ADDRESS CA_PEM COUNT rsa|ecc | pull COUNT");
            std::process::exit(2);
        }
    }
}

fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").unwrap();
    out.flush().unwrap();
}

/// The keys that the real ones have by default.
fn rsa() -> SoftwareAk {
    SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha256)
}

/// An agent that pushes.
struct Agent {
    pusher: Pusher,
    verifier: Client,
    keeps: bool,
    connection: Option<SslStream<TcpStream>>,
}

impl Agent {
    fn new(nth: usize, verifier: &Client, keeps: bool, key: &str) -> Self {
        let mut pusher = Pusher::new(&format!("d432fbb3-d2f1-4a97-9ef7-{nth:012}"));
        if key == "rsa" {
            pusher.machine.ak = rsa();
            pusher.algorithm = "rsa";
        } else {
            pusher.machine.ak = SoftwareAk::p256();
        }
        // Each at an address of its own, as sessions are counted by address.
        let [_, high, middle, low] = (u32::try_from(nth).unwrap() + 0x0001_0001).to_be_bytes();
        let source = IpAddr::V4(Ipv4Addr::new(127, high, middle, low));
        Self {
            pusher,
            verifier: verifier.at(source),
            keeps,
            connection: None,
        }
    }

    fn send(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let token = self.pusher.token.iter();
        let token: String = token
            .map(|it| format!("authorization: Bearer {it}\r\n"))
            .collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{token}content-type: \
             application/vnd.api+json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        // One that was kept may have been ended meanwhile.
        if let Some(kept) = self.connection.take()
            && let Some(answer) = self.exchange(kept, &request)
        {
            return answer;
        }
        let fresh = self.verifier.tls();
        let answer = self.exchange(fresh, &request);
        answer.expect("an answer")
    }

    fn exchange(&mut self, mut on: SslStream<TcpStream>, request: &str) -> Option<Answer> {
        on.write_all(request.as_bytes()).ok()?;
        let mut bytes = Vec::new();
        let mut piece = [0; 16384];
        loop {
            if let Some(answer) = whole(&bytes) {
                self.connection = Some(on);
                return Some(answer);
            }
            match on.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(read) => bytes.extend_from_slice(&piece[..read]),
            }
        }
    }

    fn open(&mut self) {
        self.pusher.token = None;
        let asked = self.send("POST", "/v3.0/sessions", &self.pusher.asks());
        assert_eq!(asked.status, 200, "{}", shown(&asked));
        let (name, body) = self.pusher.proves(&asked.json());
        let answer = self.send("PATCH", &format!("/v3.0/sessions/{name}"), &body);
        let attributes = &answer.json()["data"]["attributes"];
        assert_eq!(attributes["evaluation"], "pass", "{}", shown(&answer));
        self.pusher.token = Some(attributes["token"].as_str().unwrap().to_owned());
    }

    /// One attestation, or the seconds after which it may be begun.
    fn attest(&mut self) -> Result<(), u64> {
        let path = format!("/v3.0/agents/{}/attestations", self.pusher.id);
        let mut offers = self.pusher.offers();
        if self.pusher.algorithm == "rsa" {
            let supported = &mut offers["data"]["attributes"]["evidence_supported"];
            supported[0]["capabilities"]["certification_keys"][0]["key_size"] = 2048.into();
        }
        let begun = self.send("POST", &path, &offers);
        if begun.status == 429 {
            return Err(begun.header("retry-after").unwrap().parse().unwrap());
        }
        assert_eq!(begun.status, 201, "{}", shown(&begun));
        self.pusher.clock += 100;
        let location = begun.header("location").unwrap().to_owned();
        let evidence = self.pusher.evidence(&begun.json());
        let answer = self.send("PATCH", &location, &evidence);
        assert_eq!(answer.status, 202, "{}", shown(&answer));
        Ok(())
    }

    fn rest(&mut self) {
        if !self.keeps {
            self.connection = None;
        }
    }
}

/// An answer, if these bytes are all of it.
fn whole(bytes: &[u8]) -> Option<Answer> {
    let head = bytes.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|it| it.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |it| it.trim().parse().unwrap());
    (bytes.len() >= head + length).then(|| read(&mut &*bytes))
}

fn push(verifier: &Client, count: usize, key: &str) {
    let mut agents: Vec<Agent> = (0..count)
        .map(|nth| Agent::new(nth, verifier, count <= KEPT, key))
        .collect();
    for agent in &agents {
        say(&json!({"id": agent.pusher.id, "body": agent.pusher.body()}));
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let numbers: Vec<u64> = words[1..].iter().map(|it| it.parse().unwrap()).collect();
        let said = match (words[0], numbers.as_slice()) {
            ("session", [each]) => json!({"done": sessions(&mut agents, *each)}),
            ("attest", [seconds, interval_ms]) => {
                let interval = Duration::from_millis(*interval_ms);
                attest(&mut agents, Duration::from_secs(*seconds), interval)
            }
            ("tamper", []) => tamper(agents.remove(0)),
            _ => panic!("{line}"),
        };
        say(&said);
    }
}

/// What each thread answers that has a share of the agents.
fn shared<T: Send>(agents: &mut [Agent], work: impl Fn(&mut [Agent]) -> T + Sync) -> Vec<T> {
    let share = agents.len().div_ceil(THREADS);
    std::thread::scope(|scope| {
        let shares = agents.chunks_mut(share);
        let threads: Vec<_> = shares.map(|it| scope.spawn(|| work(it))).collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

fn sessions(agents: &mut [Agent], each: u64) -> u64 {
    let opened = shared(agents, |agents| {
        for agent in &mut *agents {
            for _ in 0..each {
                agent.open();
            }
            agent.rest();
        }
        agents.len() as u64 * each
    });
    opened.into_iter().sum()
}

fn attest(agents: &mut [Agent], lasts: Duration, interval: Duration) -> Value {
    let begun = Instant::now();
    let counts = shared(agents, |agents| {
        let between = interval / u32::try_from(agents.len()).unwrap();
        let mut due: Vec<Instant> = (0..agents.len())
            .map(|nth| begun + between * u32::try_from(nth).unwrap())
            .collect();
        let (mut done, mut early) = (0_u64, 0_u64);
        loop {
            let (nth, next) = due
                .iter()
                .copied()
                .enumerate()
                .min_by_key(|it| it.1)
                .unwrap();
            if next >= begun + lasts {
                return (done, early);
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            match agents[nth].attest() {
                Ok(()) => {
                    done += 1;
                    due[nth] = next.max(Instant::now() - interval) + interval;
                }
                Err(seconds) => {
                    early += 1;
                    due[nth] = Instant::now() + Duration::from_secs(seconds);
                }
            }
            agents[nth].rest();
        }
    });
    let [mut done, mut early] = [0, 0];
    for (attested, refused) in counts {
        done += attested;
        early += refused;
    }
    json!({"done": done, "early": early, "seconds": begun.elapsed().as_secs_f64()})
}

/// When the evidence was sent, in seconds since 1970.
fn tamper(mut agent: Agent) -> Value {
    let entry = Measured::file("/usr/local/bin/implant", b"not in the policy");
    agent.pusher.machine.list.push(entry);
    loop {
        let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        match agent.attest() {
            Ok(()) => return json!({"sent": sent.as_secs_f64()}),
            Err(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
        }
    }
}

async fn pull(count: usize) {
    let valid = Machine::valid();
    let mut agents = Vec::new();
    for nth in 0..count {
        let machine = valid.clone().with(|machine| machine.ak = rsa());
        let mut told = Pusher::new(&format!("d432fbb3-d2f1-4a97-9ef8-{nth:012}"));
        told.machine = machine.clone();
        let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
        let certificate = X509::from_der(&agent.certificate)
            .unwrap()
            .to_pem()
            .unwrap();
        let mut body = told.body();
        body["cloudagent_ip"] = agent.address.ip().to_string().into();
        body["cloudagent_port"] = agent.address.port().into();
        body["mtls_cert"] = String::from_utf8(certificate).unwrap().into();
        body["supported_version"] = "2.6".into();
        say(&json!({"id": told.id, "body": body}));
        agents.push(agent);
    }
    let lines = tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lock().lines() {
            assert_eq!(line.unwrap(), "count");
            let asked = agents.iter().map(|it| it.quotes_asked().len());
            say(&json!({"done": asked.sum::<usize>()}));
        }
    });
    lines.await.unwrap();
}
