//! The example bodies of the Core API's document, as they stand there: `...` and `<...>` are what
//! its authors left out.

use serde_json::{Value, json};

use crate::operating::{Operated, members, policy};

const ENROLL: &str = r#"{
"token": "esp_...",
"hostname": "prod-node-02.fleet.internal",
"agent_uuid": "a1b2c3d4-..."
}"#;

const BASELINE: &str = r#"{
"token": "esp_b_...",
"agent_uuid": "a1b2c3d4-...",
"hostname": "baseline-host.fleet.internal",
"ima_log": "<raw IMA ascii measurement log>"
}"#;

const GENERATE_BASELINE: &str = r#"{
"policy_group_id": "prod-fleet",
"ttl_hours": 24
}"#;

const GENERATE: &str = r#"{
"policy_group_id": "prod-fleet",
"ttl_hours": 1
}"#;

const VALIDATE: &str = r#"{ "token": "esp_b_..." }"#;

fn example(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The same with what the document leaves out.
fn with(text: &str, given: &[(&str, &str)]) -> Value {
    let mut body = example(text);
    for (member, value) in given {
        assert!(body[*member].is_string(), "{member}");
        body[*member] = (*value).into();
    }
    body
}

#[test]
fn requests_of_the_document_are_understood() {
    let server = Operated::start(&[]);
    let issued = |path: &str, text: &str| {
        let issued = server.expect("POST", path, Some(&example(text)), 200);
        assert_eq!(members(&issued), ["command", "expires_at", "token"]);
        issued["token"].as_str().unwrap().to_owned()
    };
    let baseline = issued("/tokens/generate-baseline", GENERATE_BASELINE);
    let standard = issued("/tokens/generate", GENERATE);
    // Word for word they hold no token of anybody's.
    for (path, text) in [
        ("/agents/enroll", ENROLL),
        ("/agents/enroll-baseline", BASELINE),
        ("/tokens/validate", VALIDATE),
    ] {
        let refused = server.client.post(path, &example(text));
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(refused.json()["code"], "auth.not_authenticated");
    }
    let config = with(VALIDATE, &[("token", &baseline)]);
    let config = server.client.post("/tokens/validate", &config);
    assert_eq!(config.status, 200);
    let expected = [
        "core_url",
        "group_id",
        "is_baseline",
        "registrar_ip",
        "verifier_ip",
    ];
    assert_eq!(members(&config.json()), expected);
    assert_eq!(config.json()["group_id"], "prod-fleet");

    // R5: the list is a candidate, which an operator makes the group's policy.
    let unreadable = with(BASELINE, &[("token", &baseline)]);
    let unreadable = server.client.post("/agents/enroll-baseline", &unreadable);
    assert_eq!(unreadable.status, 422, "the token is not spent");
    let list = crate::enrolment::list();
    let body = with(BASELINE, &[("token", &baseline), ("ima_log", &list)]);
    let established = server.client.post("/agents/enroll-baseline", &body);
    assert_eq!(established.status, 200, "{}", established.json());
    let established = established.json();
    assert_eq!(members(&established), ["policy_id", "status"]);
    assert_eq!(established["status"], "baseline_established");
    let id = established["policy_id"].as_str().unwrap();
    let again = server.client.post("/agents/enroll-baseline", &body);
    assert_eq!(again.status, 401, "the token serves once");
    let active = "/policies/groups/prod-fleet/active-policy";
    server.refused("GET", active, None, 404);
    assert_eq!(server.expect("GET", "/agents/", None, 200), json!([]));
    let [actor, ..] = &server.audited("policy.create")[0];
    assert_eq!(*actor, format!("token {}", &baseline[6..22]));
    server.expect("POST", &format!("/policies/{id}/activate"), None, 200);
    let active = server.expect("GET", active, None, 200);
    assert_eq!(active["name"], "Baseline::prod-fleet");
    let paths = active["content"]["digests"].as_object().unwrap();
    assert!(paths.contains_key("/usr/bin/a"), "{paths:?}");

    // R4 makes an agent of the registrar's, which is not there yet.
    let body = with(ENROLL, &[("token", &standard)]);
    let missing = server.client.post("/agents/enroll", &body);
    assert_eq!(missing.status, 501);
    assert_eq!(missing.json()["code"], "request.not_supported");
}

#[test]
fn l08_a_list_without_keys_replaces_no_policy_and_is_of_a_named_machine() {
    let server = Operated::start(&[]);
    let issue = || {
        let body = example(GENERATE_BASELINE);
        let issued = server.expect("POST", "/tokens/generate-baseline", Some(&body), 200);
        issued["token"].as_str().unwrap().to_owned()
    };
    let token = issue();
    let list = crate::enrolment::list();
    let whole = with(BASELINE, &[("token", &token), ("ima_log", &list)]);
    let changes = server.changes();
    for (member, value) in [
        ("hostname", "a b"),
        ("agent_uuid", "../x"),
        ("agent_uuid", "pending"),
        ("ima_log", ""),
    ] {
        let mut body = whole.clone();
        body[member] = value.into();
        let refused = server.client.post("/agents/enroll-baseline", &body);
        assert_eq!(refused.status, 422, "{member}: {value}");
    }
    for missing in ["token", "hostname", "agent_uuid", "ima_log"] {
        let mut body = whole.clone();
        body.as_object_mut().unwrap().remove(missing);
        let refused = server.client.post("/agents/enroll-baseline", &body);
        assert_eq!(refused.status, 422, "{missing}");
        let expected = format!("member `{missing}`: is missing");
        assert_eq!(refused.detail(), expected);
    }
    assert_eq!(server.changes(), changes);
    let id = server.policy("prod-fleet", "n", &policy(&[]));
    server.expect("POST", &format!("/policies/{id}/activate"), None, 200);
    let changes = server.changes();
    let refused = server.client.post("/agents/enroll-baseline", &whole);
    assert_eq!(refused.status, 409);
    assert_eq!(refused.json()["code"], "policy.active");
    assert_eq!(server.changes(), changes);
}
