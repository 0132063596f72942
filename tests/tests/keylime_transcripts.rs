//! What real agents that push, and scripted clients, sent to Keylime's verifier, sent to this one.
//!
//! The TPMs behind the recordings are gone. Where one was believed, a key of the test's own stands
//! in its place: it is enrolled as the agent's, and signs what the agent signed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::hash::HashAlg;
use rat_tests::http_client::Answer;
use rat_tests::keylime::tpm2b;
use rat_tests::keylime_verifier::{Pusher, Served, shown};
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use rat_tests::transcripts::{Exchange, missing, recorded};
use serde_json::Value;

/// What answers differently here on purpose, or cannot be the same: number of the exchange, our
/// status, and why. `docs/keylime.md` has the intended ones.
type Differences = &'static [(usize, u16, &'static str)];

/// A verifier, and an agent that it was recorded to know.
struct Replay {
    served: Served,
    agent: Pusher,
    /// Names of sessions and paths of attestations, by those that were recorded.
    ours: HashMap<String, String>,
    token: Option<String>,
    /// The attestation key that was recorded.
    theirs: String,
}

impl Replay {
    /// For an agent that somebody adds in this recording.
    fn new(id: &str, added: &Exchange) -> Self {
        let mut agent = Pusher::new(id);
        agent.algorithm = "rsa";
        agent.machine.ak = SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha256);
        Self {
            served: Served::start(),
            agent,
            ours: HashMap::new(),
            token: None,
            theirs: added.asked()["ak_tpm"].as_str().unwrap().to_owned(),
        }
    }

    /// A recorded path with the names that are ours.
    fn path(&self, recorded: &str) -> String {
        let (rest, last) = recorded.rsplit_once('/').unwrap_or(("", recorded));
        match (self.ours.get(recorded), self.ours.get(last)) {
            (Some(path), _) => path.clone(),
            (None, Some(name)) => format!("{rest}/{name}"),
            (None, None) => recorded.to_owned(),
        }
    }

    /// The body, with the key, names and proofs that are ours where Keylime believed those.
    fn body(&self, exchange: &Exchange, session: &Value) -> String {
        let was_proven = exchange.json()["data"]["attributes"]["evaluation"] == "pass";
        if was_proven && exchange.path.starts_with("/v3.0/sessions/") {
            let (_, proof) = self.agent.proves(session);
            return proof.to_string();
        }
        let mut text = exchange.body.clone();
        for (theirs, ours) in self.keys() {
            text = text.replace(&theirs, &ours);
        }
        let names = self.ours.iter();
        names.fold(text, |text, (theirs, ours)| text.replace(theirs, ours))
    }

    /// The recorded attestation key and ours: as tenants write it, and as agents offer it.
    fn keys(&self) -> [(String, String); 2] {
        let (theirs, ours) = (&self.theirs, tpm2b(&self.agent.machine.ak.public()));
        let area = |key: &str| BASE64.encode(&BASE64.decode(key).unwrap()[2..]);
        [(area(theirs), area(&ours)), (theirs.clone(), ours)]
    }

    fn send(&self, exchange: &Exchange, session: &Value) -> Answer {
        let mut headers = exchange.headers.clone();
        for header in &mut headers {
            if header
                .to_ascii_lowercase()
                .starts_with("authorization: bearer")
            {
                let token = self.token.as_deref().unwrap_or("none");
                *header = format!("authorization: Bearer {token}");
            }
        }
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let (path, body) = (self.path(&exchange.path), self.body(exchange, session));
        let client = match exchange.is_admin {
            true => self.served.admin(),
            false => self.served.anonymous(),
        };
        let answer = || client.request_of_own(&exchange.method, &path, &headers, body.as_bytes());
        loop {
            let answer = answer();
            // Recorded agents kept to another pace than this server's.
            if answer.status != 429 {
                return answer;
            }
            let seconds = answer.header("retry-after").unwrap().parse().unwrap();
            std::thread::sleep(Duration::from_secs(seconds));
        }
    }

    /// Sends all of a recording; how many were answered as they were recorded.
    fn all(&mut self, exchanges: &[Exchange], differences: Differences) -> usize {
        let (mut session, mut same, mut faults) = (Value::Null, 0, Vec::new());
        for (number, exchange) in exchanges.iter().enumerate() {
            let answer = self.send(exchange, &session);
            let about = format!("{number}: {} {}", exchange.method, exchange.path);
            let mut text = String::from_utf8_lossy(&answer.body).into_owned();
            for (theirs, ours) in self.keys() {
                text = text.replace(&ours, &theirs);
            }
            let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
            let theirs = exchange.json();
            if exchange.is("POST", "/sessions") && answer.status == 200 {
                let name = |body: &Value| body["data"]["id"].as_str().unwrap().to_owned();
                self.ours.insert(name(&theirs), name(&body));
                session = body.clone();
            }
            if let Some(token) = body["data"]["attributes"]["token"].as_str() {
                self.token = Some(token.to_owned());
            }
            if answer.status == 201 && exchange.path.ends_with("/attestations") {
                let theirs = theirs["data"]["links"]["self"].as_str();
                let ours = answer.header("location").unwrap().to_owned();
                self.ours.extend(theirs.map(|it| (it.to_owned(), ours)));
            }
            let different = differences.iter().find(|(at, ..)| *at == number);
            let expected = different.map_or(exchange.status, |(_, status, _)| *status);
            if answer.status != expected {
                faults.push(format!("{about}: {expected} expected: {}", shown(&answer)));
            } else if different.is_none() {
                // An error without a body says no less with one.
                let lacks = match exchange.answer.is_empty() {
                    true => Vec::new(),
                    false => missing(&theirs, &body),
                };
                match lacks.is_empty() {
                    true => same += 1,
                    false => faults.push(format!("{about}: {lacks:?}")),
                }
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        same
    }
}

const PUSHES: &str = "d432fbb3-d2f1-4a97-9ef7-75bd81c00001";

/// What the tenant sent when it added the agent that pushes.
fn added() -> Exchange {
    let exchanges = recorded("verifier-push-03-ima-failure-and-recovery.txt");
    let mut posts = exchanges.into_iter().filter(|it| it.is("POST", PUSHES));
    posts.next().unwrap()
}

#[test]
fn an_agent_that_nobody_added_is_answered_as_it_was_recorded() {
    // The second recording goes on after the first; the agent is added after its end.
    let files = [
        ("verifier-push-01-unenrolled.txt", 6),
        ("verifier-push-02-attesting.txt", 14),
    ];
    for (file, count) in files {
        let exchanges = recorded(file);
        let same = Replay::new(PUSHES, &added()).all(&exchanges, &[]);
        assert_eq!((same, exchanges.len()), (count, count));
    }
}

#[test]
fn an_agent_that_fails_and_its_tenant_are_answered_as_they_were_recorded() {
    let exchanges = recorded("verifier-push-03-ima-failure-and-recovery.txt");
    let mut replay = Replay::new(PUSHES, &added());
    replay.all(&[added()], &[]);
    replay.agent.open(&replay.served);
    replay.token = replay.agent.token.clone();
    let same = replay.all(
        &exchanges,
        &[
            // With this status Keylime shows an attestation; here it is the TPM that is gone.
            (10, 404, "no attestation is kept whose quote is not genuine"),
            (13, 200, "agents that are polled are served, too"),
            (17, 200, "agents that are polled are served, too"),
            (26, 200, "agents that are polled are served, too"),
        ],
    );
    assert_eq!((same, exchanges.len()), (28, 32));
}

#[test]
fn errors_of_agents_that_push_are_answered_as_they_were_recorded() {
    let exchanges = recorded("verifier-push-04-edge-cases-scripted.txt");
    let mut replay = Replay::new("bench-edge-1", &exchanges[0]);
    let same = replay.all(
        &exchanges,
        &[
            (5, 200, "Keylime fails: an empty list"),
            (22, 422, "another word for a request without content"),
            (24, 404, "nothing was begun"),
            (27, 201, "the pace is the server's own"),
            (30, 404, "no attestation is kept whose quote is not genuine"),
            (31, 404, "no attestation is kept whose quote is not genuine"),
            (32, 200, "a media type without a body is no error"),
            (34, 200, "Keylime fails: a list"),
            (35, 501, "agents that push cannot be stopped"),
            (36, 200, "a media type without a body is no error"),
        ],
    );
    assert_eq!((same, exchanges.len()), (33, 43));
}
