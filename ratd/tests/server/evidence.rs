//! Keylime's verifier API, as it is served: where, to whom, and within what limits.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};

use rat_tests::evidence::Machine;
use rat_tests::http_client::{Answer, Client, read};
use rat_tests::keylime::data;
use serde_json::{Value, json};

use crate::process::{Home, Ratd, metric};

const PATH: &str = "/v2.6/verify/evidence";

fn keylime(ratd: &Ratd) -> Client {
    ratd.client_of(ratd.keylime.unwrap())
}

fn body(data: &Value) -> Vec<u8> {
    json!({"type": "tpm", "data": data})
        .to_string()
        .into_bytes()
}

fn post(client: &Client, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    client.request_of_own("POST", path, headers, body)
}

fn counted(ratd: &Ratd, name: &str, labels: &[&str]) -> f64 {
    let text = ratd.client().get("/metrics", None).body;
    metric(&String::from_utf8(text).unwrap(), name, labels)
}

#[test]
fn it_is_served_nowhere_unless_somebody_says_where() {
    let home = Home::new();
    let ratd = home.start(&[]);
    assert_eq!(ratd.keylime, None);
    let answer = post(&ratd.client(), PATH, &[], b"{}");
    assert_eq!((answer.status, answer.body.as_slice()), (404, &b""[..]));
}

#[test]
fn it_has_a_listener_of_its_own_with_its_own_routes() {
    let home = Home::new();
    let ratd = home.start(&["keylime.listen=127.0.0.1:0"]);
    let client = keylime(&ratd);
    let data = data(&Machine::valid());
    let versions = ["/v2.6", "/v2.5", "/v2", "/2.6"].map(|it| format!("{it}/verify/evidence"));
    for path in versions
        .iter()
        .map(String::as_str)
        .chain(["/v2.6/verify/evidence/"])
    {
        let answer = post(&client, path, &[], &body(&data));
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header("content-length").is_some());
        let expected = json!({"valid": true, "claims": data, "failures": []});
        assert_eq!(answer.json()["results"], expected);
    }
    let answer = post(&client, "/v2.4/verify/evidence", &[], &body(&data));
    assert_eq!(
        answer.json()["results"],
        json!({"valid": 1, "failures": []})
    );
    let answer = post(&client, "/v2.3/verify/evidence", &[], &body(&data));
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (400, &json!("API Version not supported"))
    );
    for (method, path, status) in [
        ("POST", "/v3.0/verify/evidence", 404),
        ("POST", "/v2.6/agents/a", 404),
        ("GET", PATH, 405),
        ("DELETE", PATH, 405),
    ] {
        let answer = client.request_of_own(method, path, &[], b"");
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (status, &b""[..]),
            "{path}"
        );
    }
    // Nothing of the Core API is here, and nothing of this there.
    assert_eq!(
        client.request_of_own("GET", "/agents/", &[], b"").status,
        404
    );
    assert_eq!(post(&ratd.client(), PATH, &[], &body(&data)).status, 404);
    let name = "attest_evidence_verifications_total";
    assert_eq!(counted(&ratd, name, &["result=\"valid\""]), 6.0);
}

#[test]
fn it_can_be_added_to_the_core_listener() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = free.local_addr().unwrap();
    drop(free);
    let home = Home::new();
    let (core, here) = (
        format!("core.listen={address}"),
        format!("keylime.listen={address}"),
    );
    let ratd = home.start(&[&core, &here]);
    assert_eq!(ratd.keylime, None);
    let data = data(&Machine::valid());
    let answer = post(&ratd.client(), PATH, &[], &body(&data));
    assert_eq!(answer.json()["results"]["valid"], true);
    assert_eq!(ratd.client().get("/livez", None).status, 200);
    drop(ratd);
    let said = home.fails(
        3,
        &[
            "--set",
            &core,
            "--set",
            &here,
            "--set",
            "core.plain_http=true",
        ],
    );
    assert!(said.contains("keylime.listen"), "{said}");
}

#[test]
fn a02_a_credential_that_is_no_keylime_session_is_refused() {
    let home = Home::new();
    let ratd = home.start(&["keylime.listen=127.0.0.1:0"]);
    let (client, admin) = (keylime(&ratd), ratd.admin());
    for header in [
        format!("authorization: Bearer {admin}"),
        "authorization: Basic YTpi".to_owned(),
        "authorization:".to_owned(),
    ] {
        let answer = post(&client, PATH, &[&header], &body(&data(&Machine::valid())));
        assert_eq!(answer.status, 401, "{header}");
        let expected = json!({"errors": [{
            "status": "401", "title": "Unauthorized", "detail": "Invalid authentication token",
        }]});
        assert_eq!(answer.json(), expected);
    }
    assert!(!ratd.log().contains(&admin[20..]));
}

#[test]
fn s15_what_it_judges_leaves_nothing_behind() {
    let home = Home::new();
    let ratd = home.start(&["keylime.listen=127.0.0.1:0"]);
    let client = keylime(&ratd);
    let machine = Machine::valid();
    let cache = || {
        let results = ["hit", "miss", "inserted", "promoted"];
        results.map(|result| {
            counted(
                &ratd,
                "attest_ima_cache_total",
                &[&format!("result=\"{result}\"")],
            )
        })
    };
    let before = cache();
    for _ in 0..3 {
        assert_eq!(post(&client, PATH, &[], &body(&data(&machine))).status, 200);
        let mut bad = data(&machine);
        bad["nonce"] = "another".into();
        let answer = post(&client, PATH, &[], &body(&bad));
        assert_eq!(answer.json()["results"]["valid"], false);
    }
    assert_eq!(cache(), before);
    let agents = ratd.client().get("/agents/", Some(&ratd.admin()));
    assert_eq!(agents.json(), json!([]));
    let labels = ["result=\"invalid\"", "code=\"quote.nonce_mismatch\""];
    assert_eq!(
        counted(&ratd, "attest_evidence_verifications_total", &labels),
        3.0
    );
}

#[test]
fn x07_request_ids_are_repeated_when_they_are_plain() {
    let home = Home::new();
    let ratd = home.start(&["keylime.listen=127.0.0.1:0"]);
    let client = keylime(&ratd);
    let id = |header: &str| {
        let answer = post(&client, PATH, &[header], b"{}");
        answer.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id("x-request-id: abc-1.2_3"), "abc-1.2_3");
    let long = format!("x-request-id: {}", "a".repeat(65));
    for header in [
        "x-request-id: <script>",
        "x-request-id: a b",
        "x-request-id:",
        &long,
    ] {
        let drawn = id(header);
        assert!(
            drawn.len() == 16 && drawn.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{drawn}"
        );
    }
    assert_ne!(id("x: y"), id("x: y"));
}

/// The head of a request with a body of so many bytes.
fn head(bytes: usize) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"
    )
}

#[test]
fn x01_bodies_take_places_by_their_length_and_addresses_have_a_share() {
    let home = Home::new();
    let ratd = home.start(&["keylime.listen=127.0.0.1:0"]);
    let client = keylime(&ratd);
    assert_eq!(client.raw(head((64 << 20) + 1).as_bytes()).status, 413);
    // Two thirds of what an address may have on its way, and a body that is not at its end.
    let mebibytes = |count: usize| vec![b' '; count << 20];
    let mut first = client.tls();
    first.write_all(head(60 << 20).as_bytes()).unwrap();
    first.write_all(&mebibytes(40)).unwrap();
    let mut second = client.tls();
    second.write_all(head(60 << 20).as_bytes()).unwrap();
    // It is refused while it is sent.
    let _ = second.write_all(&mebibytes(40));
    let refused = read(&mut second);
    if refused.status != 0 {
        assert_eq!(refused.status, 429);
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    let limit = ["limit=\"EVIDENCE_PLACES_MAX\""];
    assert!(counted(&ratd, "attest_limit_rejections_total", &limit) >= 1.0);
    // Others, and short bodies, have room.
    let elsewhere = client.at(IpAddr::from([127, 0, 0, 2]));
    for client in [&client, &elsewhere] {
        let answer = post(client, PATH, &[], &body(&data(&Machine::valid())));
        assert_eq!(answer.status, 200);
    }
    // The first one is read to its end: spaces are no JSON.
    first.write_all(&mebibytes(20)).unwrap();
    assert_eq!(read(&mut first).status, 400);
}
