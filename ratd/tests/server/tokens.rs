//! R8-R11 and the audit log.

use serde_json::json;

use crate::machine::Machine;
use crate::operating::{Operated, members};

#[test]
fn r8_a_baseline_token_makes_its_group_and_serves_once() {
    let machine = Machine::new("golden");
    let server = Operated::knowing(&[&machine]);
    let body = json!({"policy_group_id": "prod-fleet", "ttl_hours": 24});
    let issued = server.expect("POST", "/tokens/generate-baseline", Some(&body), 200);
    assert_eq!(members(&issued), ["command", "expires_at", "token"]);
    let token = issued["token"].as_str().unwrap();
    assert!(token.starts_with("esp_b_"), "{token}");
    let url = format!("https://{}", server.ratd.core);
    assert_eq!(
        issued["command"],
        format!("rat enroll {token} --server {url}")
    );
    server.expect("GET", "/groups/prod-fleet", None, 200);
    let config = server
        .client
        .post("/tokens/validate", &json!({"token": token}));
    assert_eq!(config.status, 200);
    let config = config.json();
    assert_eq!(
        members(&config),
        [
            "core_url",
            "group_id",
            "is_baseline",
            "registrar_ip",
            "verifier_ip"
        ]
    );
    assert_eq!(
        (&config["is_baseline"], &config["group_id"]),
        (&json!(true), &json!("prod-fleet"))
    );
    let list = server.expect("GET", "/tokens/", None, 200);
    assert_eq!(
        (&list[0]["kind"], &list[0]["status"]),
        (&json!("baseline"), &json!("issued"))
    );
    assert_eq!(list[0]["max_uses"], 1);
    let secret = &token[22..54];
    assert!(!list.to_string().contains(secret) && !server.ratd.log().contains(secret));
    // Twice is two tokens of one group.
    server.expect("POST", "/tokens/generate-baseline", Some(&body), 200);
    assert_eq!(server.audited("group.create").len(), 1);
    assert_eq!(server.audited("token.create").len(), 2);
}

#[test]
fn r9_a_standard_token_is_of_a_group_that_is_there() {
    let (one, other) = (Machine::new("a"), Machine::new("b"));
    let server = Operated::knowing(&[&one, &other]);
    let body = json!({"policy_group_id": "web", "ttl_hours": 1, "max_uses": 1});
    let missing = server.refused("POST", "/tokens/generate", Some(&body), 404);
    assert_eq!(missing, "group.not_found");
    server.group("web");
    let issued = server.expect("POST", "/tokens/generate", Some(&body), 200);
    let token = issued["token"].as_str().unwrap();
    assert_eq!(one.enrol(&server.client, token, "web").status, 200);
    let used = server.client.post("/agents/enroll", &other.claims(token));
    assert_eq!(used.status, 401);
    assert_eq!(used.json()["code"], "auth.not_authenticated");
    let list = server.expect("GET", "/tokens", None, 200);
    assert_eq!(
        (&list[0]["status"], &list[0]["uses"]),
        (&json!("consumed"), &json!(1))
    );
    let another = server.token("web");
    let path = format!("/tokens/{}", &another[4..20]);
    server.expect("DELETE", &path, None, 204);
    server.expect("DELETE", &path, None, 204);
    assert_eq!(server.audited("token.revoke").len(), 1);
    let revoked = server
        .client
        .post("/tokens/validate", &json!({"token": another}));
    assert_eq!(revoked.status, 401);
    server.refused("DELETE", "/tokens/0000000000000000", None, 404);
    for body in [
        json!({}),
        json!({"policy_group_id": 1}),
        json!({"policy_group_id": "A"}),
        json!({"policy_group_id": "web", "ttl_hours": 0}),
        json!({"policy_group_id": "web", "ttl_hours": 8761}),
        json!({"policy_group_id": "web", "ttl_hours": 1.5}),
        json!({"policy_group_id": "web", "ttl_hours": -1}),
        json!({"policy_group_id": "web", "max_uses": 0}),
        json!({"policy_group_id": "web", "ttl": 5}),
    ] {
        server.refused("POST", "/tokens/generate", Some(&body), 422);
    }
}

#[test]
fn r11_health_is_for_everybody() {
    let server = Operated::start(&[]);
    let health = server.client.get("/health", None);
    assert_eq!(health.status, 200);
    let health = health.json();
    assert_eq!(members(&health), ["status", "uptime", "version"]);
    assert_eq!(health["status"], "ok");
    assert!(health["uptime"].is_u64());
}

#[test]
fn s12_the_audit_log_comes_in_pages_with_its_chain() {
    let server = Operated::start(&[]);
    for number in 0..5 {
        server.group(&format!("g{number}"));
    }
    let all = server.expect("GET", "/audit", None, 200);
    let all = all.as_array().unwrap();
    assert!(all.len() >= 5);
    let seqs: Vec<u64> = all
        .iter()
        .map(|entry| entry["seq"].as_u64().unwrap())
        .collect();
    assert!(
        seqs.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{seqs:?}"
    );
    assert!(
        all.iter()
            .all(|entry| entry["head"].as_str().unwrap().len() == 64)
    );
    let page = server.get("/audit?limit=2&after=1");
    assert_eq!(page.json()[0]["seq"], 2);
    assert_eq!(
        page.header("link"),
        Some("</audit?limit=2&after=3>; rel=\"next\"")
    );
    let backwards = server.get("/audit?limit=2&order=newest");
    assert_eq!(backwards.json()[0], all[all.len() - 1]);
    assert_eq!(backwards.json()[1], all[all.len() - 2]);
    let before = seqs[seqs.len() - 2];
    assert_eq!(
        backwards.header("link"),
        Some(&*format!(
            "</audit?limit=2&order=newest&after={before}>; rel=\"next\""
        ))
    );
    let rest = server.expect(
        "GET",
        &format!("/audit?order=newest&after={before}"),
        None,
        200,
    );
    let expected: Vec<_> = all.iter().rev().skip(2).collect();
    assert_eq!(
        rest.as_array().unwrap().iter().collect::<Vec<_>>(),
        expected
    );
    for query in [
        "order=",
        "order=Newest",
        "after=-1",
        "after=x",
        "after=99999999999999999999",
        "limit=0",
        "x=1",
    ] {
        server.refused("GET", &format!("/audit?{query}"), None, 422);
    }
}
