//! What `rat` sends and reads, held against the OpenAPI document in the repository.

use std::collections::BTreeSet;

use rat_tests::described::{check_request, operations, sample};
use serde_json::json;

use crate::hostile_server::{HostileServer, Reply};
use crate::operator::Operator;

/// Routes of other programs: browsers, monitoring, machines, and clients of the original.
const OF_OTHERS: [&str; 10] = [
    "GET /docs",
    "GET /docs/style.css",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "POST /agents/enroll",
    "POST /agents/enroll-baseline",
    "POST /agents/{agent_id}/activate",
    "POST /tokens/validate",
];

/// A server that answers each request as the document says, with every member there.
fn server() -> HostileServer {
    HostileServer::answering(|request| {
        let (method, target) = request.line();
        match sample(method, target) {
            Some(mut body) => {
                if target == "/api/v1/auth/me" {
                    body["must_change_password"] = json!(false);
                }
                // What is shown here is sent back.
                if target == "/agents/a" {
                    body["ek_sha256"] = json!("ab".repeat(32));
                    body["ak_proposed_sha256"] = json!("cd".repeat(32));
                }
                Reply::ok(&body.to_string())
            }
            None => Reply::of(204, ""),
        }
    })
}

/// An operator who has connected and logged in.
fn operator(server: &HostileServer) -> Operator {
    let operator = Operator::new();
    let password = operator.secret("password", "correct horse battery");
    let new = operator.secret("new", "a better password");
    operator.ok(&["connect", &server.url, "--ca-sha256", &server.fingerprint]);
    let login = ["login", "--username", "x", "--password-file", &password];
    operator.ok(&[&login[..], &["--new-password-file", &new]].concat());
    operator.secret("policy.json", r#"{"digests":{}}"#);
    let label = "CERTIFICATE REQUEST-----";
    let request = format!("-----BEGIN {label}\nAAAA\n-----END {label}\n");
    operator.secret("request.csr", &request);
    operator
}

const AGENTS: [&str; 12] = [
    "agents list --group g --status failed --hostname h --since 2026-01-31T00:00:00Z --limit 5",
    "agents show a",
    "agents watch --group g --until pending",
    "agents watch a --until pending",
    "agents pending",
    "agents approve a --yes",
    "agents sync-status a",
    "agents clear a --reason r",
    "agents remove a --yes",
    "agents move a g",
    "agents relay a site-1",
    "agents relay a --direct",
];

const GROUPS: [&str; 16] = [
    "groups list",
    "groups show g",
    "groups create g --name n --protected true --bypass false --block false --bank sha256 \
     --require-boot-log true --accept-violations false --auto-recover false --approval auto \
     --pcr-policy {}",
    "groups set g --approval list --bank sha512 --pcr-policy null --if-version 1",
    "groups set g --approval manual --bank sha384",
    "ek list g",
    "ek add g EK",
    "ek remove g EK",
    "policies list --group g --limit 5",
    "policies show p-g-001",
    "policies show --active g",
    "policies show p-g-001 --content",
    "policies add policy.json --group g",
    "policies activate p-g-001",
    "policies activate p-g-001 --shadow",
    "policies rollback g",
];

const PEOPLE: [&str; 28] = [
    "whoami",
    "status",
    "doctor",
    "tokens list",
    "tokens create g --ttl-hours 2 --max-uses 3",
    "tokens create g --baseline",
    "tokens revoke 0123456789abcdef",
    "users list",
    "users create x --role viewer --email x@y --password-file password",
    "users disable x",
    "users show x",
    "users set x --role viewer --role admin --email x@y --disabled false",
    "users password x --password-file password",
    "users roles",
    "account set --email x@y",
    "account password --password-file password --new-password-file new",
    "relays list",
    "relays add site-1 --csr request.csr",
    "relays remove site-1 --yes",
    "webhooks list",
    "webhooks show x",
    "webhooks dead-letters x --limit 5",
    "webhooks redeliver x m",
    "webhooks test x",
    "api-tokens list --all",
    "api-tokens create n --role viewer --ttl-hours 2",
    "api-tokens revoke 0123456789abcdef",
    "audit --after 1 --limit 5",
];

#[test]
fn every_request_and_every_member_that_is_read_is_described() {
    let server = server();
    let operator = operator(&server);
    let ek = "ab".repeat(32);
    for line in AGENTS.iter().chain(&GROUPS).chain(&PEOPLE) {
        let words = line.split_whitespace();
        let words: Vec<&str> = words
            .map(|word| if word == "EK" { ek.as_str() } else { word })
            .collect();
        let shown = operator.ok(&words);
        // Where a member is not there, a dash stands.
        let absent = shown.split_whitespace().any(|word| word == "-");
        assert!(!absent, "{line}: {shown}");
    }
    let at = "2026-01-31T00:00:00Z";
    let diff = format!(
        "--- x  x  by x at {at}\n+++ x  x  by x at {at}\n+ x  x\n- x  x\n~ x  + x  - x\n\
         + exclude x\n- exclude x\n~ member x\n"
    );
    assert_eq!(
        operator.ok(&["policies", "diff", "p-g-001", "p-g-002"]),
        diff
    );
    // A status that `rat` does not know is no trust.
    let run = operator.rat(&["evidence", "a"]);
    assert_eq!(run.code, 1, "{run:?}");
    let evidence = run.stdout;
    let why = format!(
        "x: x\nwhat           x\nentry          1\npath           x\ndigest         x\n\
         since          {at}\nwarning        x\nwhat to do     x\ntrusted until  {at}\n\nAgent\n"
    );
    assert!(evidence.starts_with(&why), "{evidence}");
    operator.ok(&["logout"]);
    let mut asked = BTreeSet::new();
    for request in server.requests.lock().unwrap().iter() {
        let (method, target) = request.line();
        asked.insert(check_request(method, target, &request.body));
    }
    // What nobody here asks for is for others.
    let described: BTreeSet<String> = operations().into_iter().collect();
    let of_others: BTreeSet<String> = OF_OTHERS.map(str::to_owned).into();
    let left: Vec<_> = described.difference(&asked).collect();
    assert_eq!(left, of_others.iter().collect::<Vec<_>>());
}
