//! What Keylime's tenant and a scripted client sent to Keylime's verifier, sent to this server.

use std::net::TcpListener;

use rat_tests::http_client::Client;
use rat_tests::registrar::client_files;
use rat_tests::transcripts::{missing, recorded};
use serde_json::Value;

use crate::process::{Home, Ratd};

/// What is answered otherwise on purpose: number of the exchange, our status, and why.
type Differences = &'static [(usize, u16, &'static str)];

fn client(home: &Home, ratd: &Ratd, is_admin: bool) -> Client {
    let folder = home.data().join("cv_ca");
    let (address, ca) = (ratd.verifier.unwrap(), folder.join("cacert.crt"));
    if !is_admin {
        return Client::new(address, &ca);
    }
    let (certificate, key) = client_files(&folder);
    Client::with_certificate(address, &ca, &certificate, &key)
}

/// Sends a recording; how many were answered as they were recorded.
fn replay(file: &str, differences: Differences) -> (usize, usize) {
    let home = Home::new();
    let ratd = home.start(&["keylime.verifier.listen=127.0.0.1:0"]);
    // Where the recorded agent was: somebody who says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let exchanges = recorded(file);
    let (mut same, mut faults) = (0, Vec::new());
    for (number, exchange) in exchanges.iter().enumerate() {
        let about = format!("{number}: {} {}", exchange.method, exchange.path);
        let body = exchange.body.replace("19002", &port.to_string());
        let answer = client(&home, &ratd, exchange.is_admin).request_of_own(
            &exchange.method,
            &exchange.path,
            &exchange.headers(),
            body.as_bytes(),
        );
        let text = String::from_utf8_lossy(&answer.body).replace(&port.to_string(), "19002");
        let ours: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let different = differences.iter().find(|(at, ..)| *at == number);
        let expected = different.map_or(exchange.status, |(_, status, _)| *status);
        if answer.status != expected {
            faults.push(format!(
                "{about}: {} instead of {expected}: {text}",
                answer.status
            ));
        } else if different.is_none() {
            // An error without a body says no less with one.
            let lacks = match exchange.answer.is_empty() {
                true => Vec::new(),
                false => missing(&exchange.json(), &ours),
            };
            match lacks.is_empty() {
                true => same += 1,
                false => faults.push(format!("{about}: {lacks:?}")),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(ratd.stop().success());
    (same, exchanges.len())
}

#[test]
fn what_the_real_tenant_asked_is_answered_as_it_was_recorded() {
    const JUDGES: &str = "a policy that lists digests judges, whatever its generator";
    let differences = &[
        (2, 200, JUDGES),
        (4, 200, JUDGES),
        (8, 200, JUDGES),
        (10, 200, JUDGES),
        (36, 200, JUDGES),
        (61, 200, "an agent is removed at once"),
        (62, 404, "an agent is removed at once"),
    ];
    let answered = replay("verifier-tenant-pullmode-01.txt", differences);
    assert_eq!(answered, (57, 64));
}

#[test]
fn errors_of_tenants_and_evidence_are_answered_as_they_were_recorded() {
    const AGGREGATE: &str = "a boot_aggregate of zeros is refused";
    let differences = &[
        (0, 200, AGGREGATE),
        (4, 200, "entries that fail in one way are counted"),
        (5, 200, AGGREGATE),
        (7, 404, "Keylime fails: version 3 does not have it"),
        (8, 200, AGGREGATE),
        (13, 403, "agents that push are served, too"),
        (
            23,
            400,
            "measured boot policies are read before they are kept",
        ),
    ];
    let answered = replay("verifier-pullmode-02-edge-cases-scripted.txt", differences);
    assert_eq!(answered, (20, 27));
}
