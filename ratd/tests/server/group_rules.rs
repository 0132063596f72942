//! What one group can have otherwise than the others: an interval, SHA-1, valid signatures. S14, Q09,
//! L07.

use rat_api::clock::{rfc3339, unix_ms};
use rat_engine::hash::HashAlg;
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use serde_json::{Value, json};

use crate::attested::{Attested, GROUP};
use crate::machine::Machine;
use crate::operating::Operated;
use crate::process::{eventually, metric};

const HOUR_MS: u64 = 3_600_000;

fn set(server: &Operated, group: &str, body: &Value) -> Value {
    server.expect("PUT", &format!("/groups/{group}"), Some(body), 200)
}

/// Whether the machine will stay trusted for longer than this without another quote.
fn is_trusted_for_ms(attested: &Attested, ms: u64) -> bool {
    // Times of one form sort as their texts do.
    let then = rfc3339(unix_ms() + ms).unwrap();
    let evidence = attested.evidence();
    let until = evidence["attestation"]["trusted_until"].as_str().unwrap();
    assert_eq!(until.len(), then.len());
    until > then.as_str()
}

#[test]
fn s14_a_groups_interval_counts_at_once_and_both_ways() {
    let attested = Attested::trusted();
    let server = &attested.server;
    let changed = set(server, GROUP, &json!({ "interval_ms": HOUR_MS }));
    assert_eq!(changed["interval_ms"], HOUR_MS);
    eventually("its evidence earns what the group grants", || {
        is_trusted_for_ms(&attested, 2 * HOUR_MS)
    });
    // Now it would not be asked for an hour, and would be trusted for three.
    let count = || attested.evidence()["attestation"]["count"].clone();
    let before = count();
    set(server, GROUP, &json!({ "interval_ms": 1_500 }));
    assert!(!is_trusted_for_ms(&attested, 3 * 1_500));
    eventually("it is asked in the new interval", || count() != before);
    attested.passes_again(2);
    assert!(!is_trusted_for_ms(&attested, 3 * 1_500));
    let unset = set(server, GROUP, &json!({ "interval_ms": null }));
    assert_eq!(unset["interval_ms"], Value::Null);
    attested.passes_again(1);
    let changes = server.audited("group.update");
    let of = |nth: usize| {
        let [actor, target, detail] = &changes[nth];
        assert!(actor.starts_with("api-token:") && target == GROUP);
        serde_json::from_str::<Value>(detail).unwrap()["interval_ms"].clone()
    };
    assert_eq!(
        [of(0), of(1), of(2)],
        [json!(HOUR_MS), json!(1_500), Value::Null]
    );
}

#[test]
fn an_interval_leaves_room_for_the_answer_and_has_bounds() {
    // Trust lasts for three: an answer that may take six seconds needs two of three.
    let server = Operated::start(&[
        "attestation.challenge_deadline_ms=6000",
        "attestation.max_age_ms=20000",
    ]);
    server.group("web");
    let before = server.expect("GET", "/groups/web", None, 200);
    assert_eq!(before["interval_ms"], Value::Null);
    for wrong in [
        json!(0),
        json!(2_999),
        json!(86_400_001_u64),
        json!(-1),
        json!(3_000.5),
        json!("3000"),
        json!(true),
    ] {
        let body = json!({ "interval_ms": wrong });
        let code = server.refused("PUT", "/groups/web", Some(&body), 422);
        assert_eq!(code, "request.member", "{wrong}");
        let new = json!({"policy_group_id": "new", "interval_ms": wrong});
        server.refused("POST", "/groups/", Some(&new), 422);
    }
    let refused = server.expect(
        "PUT",
        "/groups/web",
        Some(&json!({"interval_ms": 2_999})),
        422,
    );
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("3000 to 86400000"), "{detail}");
    assert_eq!(server.expect("GET", "/groups/web", None, 200), before);
    server.refused("GET", "/groups/new", None, 404);
    for right in [3_000, 86_400_000] {
        let changed = set(&server, "web", &json!({ "interval_ms": right }));
        assert_eq!(changed["interval_ms"], right);
    }
}

#[test]
fn a_machine_is_told_its_groups_interval_when_it_enrols() {
    let (one, other) = (Machine::new("one"), Machine::new("other"));
    let server = Operated::knowing(&[&one, &other]);
    let body = json!({"policy_group_id": "slow", "interval_ms": 60_000});
    server.expect("POST", "/groups/", Some(&body), 201);
    server.group("usual");
    for (machine, group, interval_ms) in [(&one, "slow", 60_000), (&other, "usual", 10_000)] {
        let token = server.token(group);
        let activated = machine.enrol(&server.client, &token, group).json();
        assert_eq!(activated["settings"]["interval_ms"], interval_ms, "{group}");
    }
}

#[test]
fn q09_a_key_that_signs_sha1_enrols_only_where_sha1_is_accepted() {
    let mut machine = Machine::new("old");
    machine.ak = SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha1);
    let server = Operated::knowing(&[&machine]);
    server.group("web");
    let token = server.token("web");
    let ask = || {
        server
            .client
            .post("/agents/enroll", &machine.claims(&token))
    };
    let is_refused = || {
        let refused = ask();
        assert_eq!(refused.status, 403);
        assert_eq!(refused.json()["code"], "ak.attributes");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("SHA-1"), "{detail}");
        server.refused("GET", "/agents/old", None, 404);
    };
    is_refused();
    assert_eq!(
        set(&server, "web", &json!({"allow_sha1": true}))["allow_sha1"],
        true
    );
    let answer = ask();
    assert_eq!(answer.status, 200, "{}", answer.json());
    let asked = machine.release(&token, "web", &answer);
    // Withdrawn between question and answer, it lets nobody in. (N08)
    set(&server, "web", &json!({"allow_sha1": false}));
    let refused = machine.activate(&server.client, &asked);
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (403, &json!("ak.attributes"))
    );
    is_refused();
    set(&server, "web", &json!({"allow_sha1": true}));
    assert_eq!(machine.enrol(&server.client, &token, "web").status, 200);
    server.expect("GET", "/agents/old", None, 200);
}

#[test]
fn q09_a_sha1_bank_needs_a_group_that_accepts_sha1() {
    let server = Operated::start(&[]);
    server.group("web");
    let before = server.expect("GET", "/groups/web", None, 200);
    let changes = server.changes();
    for body in [
        json!({"bank": "sha1"}),
        json!({"bank": "sha1", "allow_sha1": false}),
    ] {
        let refused = server.expect("PUT", "/groups/web", Some(&body), 422);
        assert_eq!(refused["detail"], "member `bank`: sha1 needs allow_sha1");
        let mut new = body.clone();
        new["policy_group_id"] = "new".into();
        server.refused("POST", "/groups/", Some(&new), 422);
    }
    assert_eq!(server.expect("GET", "/groups/web", None, 200), before);
    assert_eq!(server.changes(), changes);
    let body = json!({"bank": "sha1", "allow_sha1": true});
    assert_eq!(set(&server, "web", &body)["bank"], "sha1");
    // And the other way round.
    let body = json!({"allow_sha1": false});
    let refused = server.expect("PUT", "/groups/web", Some(&body), 422);
    assert_eq!(refused["detail"], "member `bank`: sha1 needs allow_sha1");
    assert_eq!(
        server.expect("GET", "/groups/web", None, 200)["allow_sha1"],
        true
    );
    let body = json!({"allow_sha1": false, "bank": "sha256"});
    assert_eq!(set(&server, "web", &body)["allow_sha1"], false);
}

#[test]
fn l07_i15_demanding_valid_signatures_has_every_stored_list_judged_again() {
    let attested = Attested::trusted();
    let server = &attested.server;
    let body = json!({"require_valid_ima_sig": true});
    assert_eq!(set(server, GROUP, &body)["require_valid_ima_sig"], true);
    let covered = json!({"judged": 1, "agents": 1});
    eventually("its stored list is judged", || {
        let group = server.expect("GET", &format!("/groups/{GROUP}"), None, 200);
        group["coverage"] == covered
    });
    attested.becomes("trusted");
    attested.passes_again(1);
    let metrics = server.get("/metrics");
    let metrics = String::from_utf8(metrics.body).unwrap();
    let rejudged = metric(&metrics, "attest_lists_rejudged_total", &["passed"]);
    assert!(rejudged >= 1.0, "{metrics}");
}

#[test]
fn the_command_on_the_data_directory_sets_the_same_and_refuses_the_same() {
    let home = crate::process::Home::new();
    home.ok(&["group", "create", "web", "--interval-ms", "60000"]);
    home.fails(1, &["group", "set", "web", "--interval-ms", "1000"]);
    home.fails(1, &["group", "set", "web", "--interval-ms", "86400001"]);
    home.fails(2, &["group", "set", "web", "--interval-ms", "often"]);
    home.fails(1, &["group", "set", "web", "--bank", "sha1"]);
    let shown = home.ok(&["group", "show", "web"]);
    assert!(
        shown
            .contains("\"interval_ms\":60000,\"allow_sha1\":false,\"require_valid_ima_sig\":false"),
        "{shown}"
    );
    let set = [
        "group",
        "set",
        "web",
        "--interval-ms",
        "server",
        "--allow-sha1",
        "true",
        "--bank",
        "sha1",
        "--require-valid-ima-sig",
        "true",
    ];
    home.ok(&set);
    let shown = home.ok(&["group", "show", "web"]);
    assert!(
        shown.contains("\"interval_ms\":null,\"allow_sha1\":true,\"require_valid_ima_sig\":true"),
        "{shown}"
    );
    home.fails(1, &["group", "set", "web", "--allow-sha1", "false"]);
}
