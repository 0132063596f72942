//! What real agents and the real tenant sent to Keylime's registrar, sent to this one.

use std::net::IpAddr;

use rat_api::clock::unix_ms;
use rat_engine::agent_id::AgentId;
use rat_tests::http_client::Answer;
use rat_tests::registrar::{Served, Settings, credential};
use rat_tests::transcripts::recorded;
use serde_json::Value;

use super::assert_empty;

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
}

#[test]
fn what_real_agents_send_is_answered_as_they_read_it() {
    let served = Served::start(Settings::open(), &[]);
    let mut seen = 0;
    for (number, exchange) in recorded("registrar-agent-http.txt").iter().enumerate() {
        let source = IpAddr::from([127, 0, 0, 1]);
        let (method, path) = (&exchange.method, &exchange.path);
        let headers = exchange.headers();
        let answer = served.plain_from(source, method, path, &headers, exchange.body.as_bytes());
        let about = format!("{number}: {method} {path}");
        // A client's id comes back.
        let sent = headers
            .iter()
            .find_map(|line| line.strip_prefix("x-request-id: "));
        if let Some(id) = sent {
            assert_eq!(answer.header("x-request-id"), Some(id), "{about}");
        }
        seen += 1;
        match (method.as_str(), exchange.status) {
            // The TPMs behind the recording are gone, so that recorded answers are wrong here.
            ("PUT", 200) => assert_eq!(answer.status, 400, "{about}"),
            ("PUT", 400) => assert_eq!(answer.status, 404, "{about}: the one before ended it"),
            // Keylime raises here; version 3 is served by us.
            ("GET", 500) => assert_eq!(answer.status, 200, "{about}"),
            ("POST", 200) => {
                assert_eq!(answer.status, 200, "{about}");
                let lengths = |answer: &Value| {
                    use base64::Engine as _;
                    let blob = answer["results"]["blob"].as_str().unwrap();
                    let blob = base64::engine::general_purpose::STANDARD.decode(blob);
                    let (object, secret) = credential(&blob.unwrap());
                    (object.len(), secret.len())
                };
                let (ours, theirs) = (body(&answer), exchange.json());
                assert_eq!(lengths(&ours), lengths(&theirs), "{about}");
                assert_eq!(
                    (&ours["code"], &ours["status"]),
                    (&theirs["code"], &theirs["status"])
                );
            }
            (_, status) => {
                assert_eq!(answer.status, status, "{about}");
                assert_eq!(body(&answer), exchange.json(), "{about}");
            }
        }
    }
    assert_eq!(seen, 17);
}

/// Makes a registration active, as its TPM would.
fn activate(served: &Served, id: &str) {
    let id = AgentId::parse(id).unwrap();
    served.wait(async {
        let read = served.store.keylime_registration(&id, unix_ms()).await;
        let (_, revision) = read.unwrap().unwrap();
        let store = &served.store;
        let activated = store.activate_keylime_registration(&id, revision, false, unix_ms());
        activated.await.unwrap().unwrap();
    });
}

#[test]
fn what_the_real_tenant_asks_is_answered_as_it_reads_it() {
    let served = Served::start(Settings::open(), &[]);
    let registrations = recorded("registrar-agent-http.txt");
    let mut agents = Vec::new();
    for exchange in registrations
        .iter()
        .filter(|it| it.method == "POST" && it.status == 200)
    {
        let id = exchange.path.rsplit('/').next().unwrap().to_owned();
        if agents.contains(&id) {
            continue;
        }
        let headers = exchange.headers();
        let answer = served.plain("POST", &exchange.path, &headers, exchange.body.as_bytes());
        assert_eq!(answer.status, 200);
        activate(&served, &id);
        agents.push(id);
    }
    assert_eq!(agents.len(), 2);
    let (mut seen, mut shown) = (0, 0);
    for (number, exchange) in recorded("registrar-admin-tls.txt").iter().enumerate() {
        let about = format!("{number}: {} {}", exchange.method, exchange.path);
        let headers = exchange.headers();
        // The one that was recorded without a certificate.
        let client = match exchange.status {
            403 => served.anonymous(),
            _ => served.admin(),
        };
        let (method, path) = (&exchange.method, &exchange.path);
        let answer = client.request_of_own(method, path, &headers, exchange.body.as_bytes());
        seen += 1;
        if exchange.is("GET", "0001") || exchange.is("GET", "0000") && exchange.status == 200 {
            shown += 1;
        }
        match (method.as_str(), exchange.status) {
            ("PUT", 200) => assert_eq!(answer.status, 400, "{about}"),
            ("POST", 200) => assert_eq!(answer.status, 200, "{about}"),
            // Keylime raises here; version 3 is served by us.
            (_, 500) => assert_eq!(answer.status, 200, "{about}"),
            (_, 404) if exchange.answer.is_empty() => assert_empty(&answer, 404),
            (_, status) => {
                assert_eq!(answer.status, status, "{about}");
                assert_eq!(body(&answer), exchange.json(), "{about}");
            }
        }
    }
    assert!(seen >= 35 && shown >= 8, "{seen} {shown}");
}
