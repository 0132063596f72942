//! S10: what was let in and is taken back. Nothing is remembered of it: it ends with the next
//! request, and on connections that are open; what the configuration names, with the next start.

use std::io::{Read, Write};
use std::time::Duration;

use openssl::pkey::PKey;
use rat_agent::keys;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Instance, Refusal};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_tests::http_client::Answer;
use rat_transport::quic::Reason;
use rat_transport::quic::client::{Client, ClientError, ClientOptions, Connection, Hello};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::machine::Machine;
use crate::operating::Operated;

const GROUP: &str = "web";
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine's certificate, and what it needs beside it.
struct Certified {
    agent: AgentId,
    server_name: String,
    options: ClientOptions,
}

impl Certified {
    fn of(machine: &Machine, activated: &Answer) -> Self {
        assert_eq!(activated.status, 200, "{}", activated.json());
        let body = activated.json();
        let ca_set = body["ca"].as_array().unwrap().iter();
        let ca_set = ca_set.flat_map(|pem| keys::certificates(pem.as_str().unwrap()).unwrap());
        let certificate = body["certificate"].as_str().unwrap();
        Self {
            agent: AgentId::parse(&machine.id).unwrap(),
            server_name: body["evidence"]["server_name"].as_str().unwrap().to_owned(),
            options: ClientOptions {
                ca_set: ca_set.collect(),
                certificate_chain: keys::certificates(certificate).unwrap(),
                key_pkcs8: machine.key.private_key_to_pkcs8().unwrap(),
                keep_alive_ms: 5_000,
                probe_mtu: true,
            },
        }
    }

    /// Connects and says hello.
    async fn connect(&self, server: &Operated) -> Result<Connection, ClientError> {
        let client = Client::new(self.options.clone()).unwrap();
        let evidence = server.ratd.evidence;
        let connection = client.connect(evidence, &self.server_name).await?;
        let hello = Hello {
            agent: self.agent.clone(),
            log_formats: vec![LogFormat::Ascii],
            banks: vec![HashAlg::Sha256],
            reset_count: 1,
            restart_count: 0,
            entry_count: 1,
            instance: Instance([1; 16]),
        };
        connection.hello(hello).await.map(|_| connection)
    }

    /// Why the server refuses a new connection.
    async fn refused(&self, server: &Operated) -> Reason {
        reason(self.connect(server).await.unwrap_err())
    }
}

#[track_caller]
fn reason(error: ClientError) -> Reason {
    match error {
        ClientError::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// Why the server ended an open connection.
async fn ended(connection: &Connection) -> Reason {
    let closed = timeout(PATIENCE, connection.closed()).await;
    reason(closed.expect("the connection ends"))
}

fn with_another_certificate(machine: &Machine) -> Machine {
    Machine {
        key: PKey::clone(&Machine::new(&machine.id).key),
        ..machine.clone()
    }
}

#[test]
fn s10_an_open_connection_ends_with_its_certificate_and_with_its_agent() {
    let (machine, other) = (Machine::new("m1"), Machine::new("m2"));
    let server = Operated::knowing(&[&machine, &other]);
    server.group(GROUP);
    let token = server.token(GROUP);
    let enrol =
        |machine: &Machine| Certified::of(machine, &machine.enrol(&server.client, &token, GROUP));
    let (first, others) = (enrol(&machine), enrol(&other));
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let open = first.connect(&server).await.unwrap();
        let of_other = others.connect(&server).await.unwrap();
        // It enrols again, with another key for its certificate.
        let renewed = with_another_certificate(&machine);
        let second = enrol(&renewed);
        let not_current = Reason::Session(Refusal::CertificateNotCurrent);
        assert_eq!(ended(&open).await, not_current);
        assert_eq!(first.refused(&server).await, not_current);
        let open = second.connect(&server).await.unwrap();

        server.expect("DELETE", "/agents/m1", None, 200);
        let unknown = Reason::Session(Refusal::UnknownAgent);
        assert_eq!(ended(&open).await, unknown);
        for certified in [&first, &second] {
            assert_eq!(certified.refused(&server).await, unknown);
        }
        assert_eq!(
            server.refused("GET", "/agents/m1", None, 404),
            "agent.not_found"
        );
        // Nobody else's connection ended.
        let still = timeout(Duration::ZERO, of_other.closed()).await;
        assert!(still.is_err(), "{still:?}");
        // And what it enrols as next is another agent, which its old certificates are not of.
        let third = enrol(&with_another_certificate(&machine));
        assert_eq!(first.refused(&server).await, not_current);
        assert!(third.connect(&server).await.is_ok());
    });
}

#[test]
fn s10_an_enrolment_token_that_is_withdrawn_lets_nobody_in_any_more() {
    let machines = ["m1", "m2", "m3"].map(Machine::new);
    let [before, between, after] = &machines;
    let server = Operated::knowing(&[before, between, after]);
    server.group(GROUP);
    let token = server.token(GROUP);
    let enrolled = Certified::of(before, &before.enrol(&server.client, &token, GROUP));
    let begun = server
        .client
        .post("/agents/enroll", &between.claims(&token));
    assert_eq!(begun.status, 200);
    let asked = between.release(&token, GROUP, &begun);

    let path = format!("/tokens/{}", &token[4..20]);
    server.expect("DELETE", &path, None, 204);
    let validated = server
        .client
        .post("/tokens/validate", &json!({ "token": token }));
    let again = before.claims(&token);
    for refused in [
        validated,
        server.client.post("/agents/enroll", &after.claims(&token)),
        server.client.post("/agents/enroll", &again),
        between.activate(&server.client, &asked),
    ] {
        assert_eq!(refused.status, 401);
        assert_eq!(refused.json()["code"], "auth.not_authenticated");
    }
    let agents = server.expect("GET", "/agents/", None, 200);
    assert_eq!(agents.as_array().unwrap().len(), 1);
    // Whoever is enrolled is: that ends when the agent is removed.
    let runtime = Runtime::new().unwrap();
    assert!(runtime.block_on(enrolled.connect(&server)).is_ok());
}

#[test]
fn s10_an_approval_that_is_withdrawn_lets_the_machine_in_no_more() {
    let (before, between) = (Machine::new("m1"), Machine::new("m2"));
    let server = Operated::start(&[]);
    let body = json!({ "policy_group_id": GROUP, "approval": "manual" });
    server.expect("POST", "/groups/", Some(&body), 201);
    let path = |machine: &Machine| format!("/groups/{GROUP}/ek/{}", machine.listed());
    for machine in [&before, &between] {
        let let_in = server.send("PUT", &path(machine), None);
        assert!((200..300).contains(&let_in.status), "{}", let_in.status);
    }
    let token = server.token(GROUP);
    let enrolled = Certified::of(&before, &before.enrol(&server.client, &token, GROUP));
    let begun = server
        .client
        .post("/agents/enroll", &between.claims(&token));
    let asked = between.release(&token, GROUP, &begun);
    for machine in [&before, &between] {
        let withdrawn = server.send("DELETE", &path(machine), None);
        assert!(
            (200..300).contains(&withdrawn.status),
            "{}",
            withdrawn.status
        );
    }
    let activated = between.activate(&server.client, &asked);
    assert_eq!(activated.status, 403);
    assert_eq!(activated.json()["code"], "ek.not_approved");
    for machine in [&before, &between] {
        let refused = server
            .client
            .post("/agents/enroll", &machine.claims(&token));
        assert_eq!(refused.status, 403);
        assert_eq!(refused.json()["code"], "ek.certificate_missing");
    }
    let agents = server.expect("GET", "/agents/", None, 200);
    assert_eq!(agents.as_array().unwrap().len(), 1);
    let runtime = Runtime::new().unwrap();
    assert!(runtime.block_on(enrolled.connect(&server)).is_ok());
}

#[test]
fn s10_a_tpm_that_is_taken_from_the_list_enrols_no_more_after_the_start() {
    let machines = ["m1", "m2", "m3"].map(Machine::new);
    let [before, between, listed] = &machines;
    let server = Operated::knowing(&[before, between, listed]);
    server.group(GROUP);
    let token = server.token(GROUP);
    let enrolled = Certified::of(before, &before.enrol(&server.client, &token, GROUP));
    let begun = server
        .client
        .post("/agents/enroll", &between.claims(&token));
    let asked = between.release(&token, GROUP, &begun);
    let waits = server.client.post("/agents/enroll", &listed.claims(&token));
    let of_listed = listed.release(&token, GROUP, &waits);

    let Operated { home, ratd, .. } = server;
    assert_eq!(ratd.stop().code(), Some(0));
    let list = home.path("ek-list");
    std::fs::write(&list, listed.listed()).unwrap();
    let server = Operated::start_in(home, &[&format!("identity.ek_list={:?}", [list])]);
    // What began before the start does not outlive the entry.
    let activated = between.activate(&server.client, &asked);
    assert_eq!(activated.status, 403);
    assert_eq!(activated.json()["code"], "ek.not_listed");
    for machine in [before, between] {
        let refused = server
            .client
            .post("/agents/enroll", &machine.claims(&token));
        assert_eq!(refused.status, 403);
        assert_eq!(refused.json()["code"], "ek.certificate_missing");
    }
    assert_eq!(listed.activate(&server.client, &of_listed).status, 200);
    let runtime = Runtime::new().unwrap();
    assert!(runtime.block_on(enrolled.connect(&server)).is_ok());
}

/// Sends a request on a connection that stays, and reads the answer.
fn ask(stream: &mut (impl Read + Write), token: &str) -> (u16, Value) {
    let request =
        format!("GET /agents/ HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[test]
fn s10_an_api_token_that_is_revoked_ends_on_the_connections_that_use_it() {
    let server = Operated::start(&[]);
    let token = server.ratd.api_token("viewer");
    let [mut one, mut other] = [server.client.tls(), server.client.tls()];
    for stream in [&mut one, &mut other] {
        assert_eq!(ask(stream, &token), (200, json!([])));
    }
    // By another process, on the data directory.
    server.ratd.ok(&["api-token", "revoke", &token[4..20]]);
    for stream in [&mut one, &mut other] {
        let (status, body) = ask(stream, &token);
        assert_eq!(status, 401);
        assert_eq!(body["code"], "auth.not_authenticated");
        // The connection is not to blame.
        assert_eq!(ask(stream, &server.admin).0, 200);
    }
}
