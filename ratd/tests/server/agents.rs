//! Agents at the API: shown, cleared, moved, approved, removed.

use rat_api::clock::{rfc3339, unix_ms};
use serde_json::{Value, json};

use crate::attested::{Attested, GROUP};
use crate::machine::Machine;
use crate::operating::{Operated, members, policy};
use crate::process::eventually;

#[test]
fn members_are_the_documented_ones() {
    let attested = Attested::trusted();
    let server = &attested.server;
    // The Core API's documented examples, member for member.
    let identity = [
        "hostname",
        "id",
        "ip_address",
        "last_checkin",
        "registered_at",
        "status",
    ];
    let list = server.expect("GET", "/agents/", None, 200);
    let item = members(&list[0]);
    assert!(identity.iter().all(|name| item.contains(name)), "{item:?}");
    assert_eq!(list[0]["policy_group_id"], GROUP);
    assert_eq!(list[0]["status"], "active");
    let evidence = attested.evidence();
    let agent = members(&evidence["agent"]);
    assert!(
        identity.iter().all(|name| agent.contains(name)),
        "{agent:?}"
    );
    assert!(!agent.contains(&"policy_group_id"), "{agent:?}");
    let attestation = &evidence["attestation"];
    assert!(attestation["count"].as_u64().unwrap() > 0);
    assert!(attestation["last_successful"].is_string());
    assert_eq!(attestation["hash_alg"], "sha256");
    assert_eq!(attestation["sign_alg"], "ecdsa");
    assert!(
        attestation["active_pcrs"]
            .as_array()
            .unwrap()
            .contains(&json!(10))
    );
    let policy = &evidence["policy"];
    assert_eq!(policy["name"], format!("Baseline::{GROUP}"));
    assert_eq!(
        (&policy["version"], &policy["measurement_count"]),
        (&json!("1"), &json!(1))
    );
    for member in ["commit_sha", "source_repo", "signed_by", "rekor_log_id"] {
        assert_eq!(policy[member], Value::Null, "{member}");
    }
    assert!(policy["created_at"].is_string());
}

#[test]
fn what_is_known_beside_the_documented_members_is_shown() {
    let attested = Attested::trusted();
    let server = &attested.server;
    let evidence = attested.evidence();
    let attestation = &evidence["attestation"];
    assert_eq!(evidence["first_offence"], Value::Null);
    assert_eq!(evidence["what_to_do"], Value::Null);
    assert_eq!(
        attestation["boot_epoch"],
        json!({"reset_count": 1, "restart_count": 0})
    );
    assert_eq!(attestation["policy_judged"]["version"], "1");
    assert!(attestation["trusted_until"].is_string());
    let synced = server.expect("POST", "/agents/m1/sync-status", None, 200);
    assert_eq!(
        members(&synced),
        [
            "agent_id",
            "attestation_count",
            "last_received_quote",
            "operational_state",
            "status"
        ]
    );
    assert_eq!(
        (&synced["operational_state"], &synced["status"]),
        (&json!(3), &json!("active"))
    );
    let shown = server.expect("GET", "/agents/m1", None, 200);
    assert_eq!(
        (&shown["ak_epoch"], &shown["path"]),
        (&json!(1), &json!("native"))
    );
    assert_eq!(shown["ak_proposed"], false);
    assert_eq!(shown["baseline_policy_id"], format!("p-{GROUP}-001"));
    let group = server.expect("GET", "/groups/web", None, 200);
    assert_eq!(group["coverage"], json!({"judged": 1, "agents": 1}));
}

#[test]
fn s09_a_failure_stays_until_an_operator_says_why_it_is_cleared() {
    let (attested, failure) = Attested::failed();
    let server = &attested.server;
    assert_eq!(failure["code"], "ima.path_not_listed");
    assert_eq!(failure["path"], "/tmp/implant");
    let synced = server.expect("POST", "/agents/m1/sync-status", None, 200);
    assert_eq!(
        (&synced["operational_state"], &synced["status"]),
        (&json!(7), &json!("failed"))
    );
    let evidence = attested.evidence();
    assert_eq!(evidence["attestation"]["failure"], failure);
    assert!(evidence["what_to_do"].as_str().unwrap().contains("policy"));
    for body in [
        json!({}),
        json!({"reason": " "}),
        json!({"reason": "x", "force": true}),
    ] {
        server.refused("POST", "/agents/m1/clear", Some(&body), 422);
    }
    assert_eq!(server.audited("agent.clear").len(), 0);
    assert_eq!(attested.evidence()["first_offence"], failure);
    // It ran what it ran: cleared, it fails anew at the same entry, which shows by its time.
    let failed_at = failure["at"].as_str().unwrap();
    eventually("another second", || {
        rfc3339(unix_ms()).unwrap() != failed_at
    });
    let body = json!({"reason": "reinstalled\nby ann"});
    server.expect("POST", "/agents/m1/clear", Some(&body), 200);
    let cleared = &server.audited("agent.clear")[0];
    assert_eq!(cleared[1], "m1");
    assert_eq!(cleared[2], "ima.path_not_listed: reinstalled\\nby ann");
    eventually("it fails anew", || {
        let again = attested.evidence()["first_offence"].clone();
        again != failure && again["code"] == failure["code"]
    });
}

#[test]
fn s09_there_is_nothing_to_clear_of_an_agent_that_has_not_failed() {
    let attested = Attested::trusted();
    let body = json!({"reason": "just in case"});
    let refused = attested
        .server
        .refused("POST", "/agents/m1/clear", Some(&body), 409);
    assert_eq!(refused, "agent.not_failed");
    assert_eq!(attested.server.audited("agent.clear").len(), 0);
}

#[test]
fn l07_another_policy_is_judged_from_the_first_entry_and_a_rollback_too() {
    let (attested, failure) = Attested::failed();
    let server = &attested.server;
    let id = attested.allow_all(GROUP);
    attested.becomes("trusted");
    let evidence = attested.evidence();
    assert_eq!(evidence["attestation"]["policy_judged"]["version"], "2");
    assert_eq!(evidence["first_offence"], Value::Null);
    let path = format!("/policies/groups/{GROUP}/active-policy");
    assert_eq!(server.expect("GET", &path, None, 200)["id"], id.as_str());
    let path = format!("/policies/groups/{GROUP}/rollback");
    server.expect("POST", &path, None, 200);
    attested.becomes("untrusted");
    let again = attested.evidence()["first_offence"].clone();
    assert_eq!(
        (&again["code"], &again["path"]),
        (&failure["code"], &failure["path"])
    );
}

#[test]
fn l11_a_shadow_never_touches_what_is_enforced() {
    let attested = Attested::trusted();
    let server = &attested.server;
    let before = attested.evidence();
    // It allows nothing that the machine runs.
    let id = server.policy(GROUP, "shadow", &policy(&[("/nothing", '1')]));
    let path = format!("/policies/{id}/activate");
    let slot = json!({"slot": "shadow"});
    server.expect("POST", &path, Some(&slot), 200);
    let count = |evidence: &Value| evidence["attestation"]["count"].as_u64().unwrap();
    eventually("it is judged three times more", || {
        count(&attested.evidence()) >= count(&before) + 3
    });
    let after = attested.evidence();
    assert_eq!(after["agent"]["effective_status"], "trusted", "{after}");
    assert_eq!(after["first_offence"], Value::Null);
    let judged = |evidence: &Value| evidence["attestation"]["policy_judged"].clone();
    assert_eq!(judged(&after), judged(&before));
    let group = server.expect("GET", &format!("/groups/{GROUP}"), None, 200);
    assert_eq!(group["shadow_policy_id"], id.as_str());
    assert_eq!(group["coverage"], json!({"judged": 1, "agents": 1}));
}

#[test]
fn l08_a_group_with_an_active_policy_gets_no_baseline_token() {
    let attested = Attested::trusted();
    let server = &attested.server;
    let changes = server.changes();
    let body = json!({ "policy_group_id": GROUP });
    let refused = server.refused("POST", "/tokens/generate-baseline", Some(&body), 409);
    assert_eq!(refused, "policy.active");
    assert_eq!(server.changes(), changes);
    let path = format!("/policies/groups/{GROUP}/active-policy");
    assert_eq!(server.expect("GET", &path, None, 200)["version"], "1");
}

#[test]
fn s16_an_agent_that_is_removed_and_enrols_again_is_still_failed() {
    let (mut attested, failure) = Attested::failed();
    let removed = attested.server.expect("DELETE", "/agents/m1", None, 200);
    assert_eq!(removed, json!({"agent_id": "m1", "failure_kept": true}));
    let server = &attested.server;
    assert_eq!(server.expect("GET", "/agents/", None, 200), json!([]));
    for (method, path) in [
        ("GET", "/agents/m1"),
        ("GET", "/agents/m1/evidence"),
        ("DELETE", "/agents/m1"),
        ("POST", "/agents/m1/sync-status"),
    ] {
        assert_eq!(server.refused(method, path, None, 404), "agent.not_found");
    }
    // Another group would ask something else of it.
    server.group("lab");
    let elsewhere = server.token("lab");
    assert!(attested.enrol(&elsewhere).is_err());
    let token = attested.server.token(GROUP);
    attested.enrol(&token).unwrap();
    assert_eq!(attested.status(), "untrusted");
    assert_eq!(attested.evidence()["first_offence"], failure);
    let audited = attested.server.audited("agent.remove");
    assert_eq!(audited[0][2], "failure kept with the machine");
}

#[test]
fn s16_another_group_does_not_end_a_failure_and_an_operator_does() {
    let (attested, failure) = Attested::failed();
    let server = &attested.server;
    server.group("lab");
    attested.allow_all("lab");
    for (body, status) in [
        (json!({}), 422),
        (json!({"policy_group_id": "../x"}), 422),
        (json!({"policy_group_id": "lab", "clear": true}), 422),
        (json!({"policy_group_id": "none"}), 404),
    ] {
        server.refused("POST", "/agents/m1/move", Some(&body), status);
    }
    assert_eq!(server.audited("agent.move").len(), 0);
    let body = json!({"policy_group_id": "lab"});
    let moved = server.expect("POST", "/agents/m1/move", Some(&body), 200);
    assert_eq!(moved["policy_group_id"], "lab");
    assert_eq!(
        server.audited("agent.move")[0][2],
        format!("from {GROUP} to lab")
    );
    // It passes everything that its new group asks, and its failure is another group's.
    attested.passes_again(2);
    assert_eq!(attested.status(), "untrusted");
    assert_eq!(attested.evidence()["first_offence"], failure);
    let body = json!({"reason": "looked at"});
    server.expect("POST", "/agents/m1/clear", Some(&body), 200);
    attested.becomes("trusted");
}

#[test]
fn n06_another_attestation_key_waits_for_an_operator() {
    let mut attested = Attested::trusted();
    attested.change_key();
    let token = attested.server.token(GROUP);
    assert!(attested.enrol(&token).is_err(), "nobody approved the key");
    let server = &attested.server;
    let waiting = server.expect("GET", "/agents/m1", None, 200);
    assert_eq!(
        (&waiting["ak_proposed"], &waiting["ak_epoch"]),
        (&json!(true), &json!(1))
    );
    let proposed = waiting["ak_proposed_sha256"].as_str().unwrap();
    let other = json!({"ak_proposed_sha256": "0".repeat(64)});
    let refused = server.refused("POST", "/agents/m1/approve", Some(&other), 409);
    assert_eq!(refused, "agent.nothing_waits");
    let seen = json!({ "ak_proposed_sha256": proposed });
    let approved = server.expect("POST", "/agents/m1/approve", Some(&seen), 200);
    assert_eq!(approved["approved"], "attestation_key");
    assert_eq!(approved["ak_epoch"], 2);
    assert_ne!(
        attested.status(),
        "trusted",
        "the new key has proven nothing"
    );
    let refused = server.refused("POST", "/agents/m1/approve", None, 409);
    assert_eq!(refused, "agent.nothing_waits");
    attested.enrol(&token).unwrap();
    attested.becomes("trusted");
}

#[test]
fn agents_come_in_pages_and_by_what_they_are() {
    let machines: Vec<Machine> = (0..5)
        .map(|number| Machine::new(&format!("m{number}")))
        .collect();
    let known: Vec<&Machine> = machines.iter().collect();
    let server = Operated::knowing(&known);
    server.group("web");
    server.group("db");
    for (number, machine) in machines.iter().enumerate() {
        let group = if number < 3 { "web" } else { "db" };
        let token = server.token(group);
        assert_eq!(machine.enrol(&server.client, &token, group).status, 200);
    }
    let ids = |query: &str| -> Vec<String> {
        let list = server.expect("GET", &format!("/agents/{query}"), None, 200);
        let list = list.as_array().unwrap().iter();
        list.map(|agent| agent["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(""), ["m0", "m1", "m2", "m3", "m4"]);
    assert_eq!(ids("?group=db"), ["m3", "m4"]);
    assert_eq!(
        ids("?hostname=WEB-1.example.com&limit=2&after=m1"),
        ["m2", "m3"]
    );
    assert_eq!(ids("?hostname=other"), [""; 0]);
    assert_eq!(ids("?status=pending"), ["m0", "m1", "m2", "m3", "m4"]);
    assert_eq!(ids("?status=active"), [""; 0]);
    assert_eq!(ids("?status=trusted"), [""; 0]);
    assert_eq!(ids("?since=2100-01-01T00:00:00Z"), [""; 0]);
    assert_eq!(
        ids("?since=2020-01-01T00:00:00%2B01:00&group=web"),
        ["m0", "m1", "m2"]
    );
    let page = server.get("/agents/?group=web&status=pending&limit=2");
    let link = page.header("link").unwrap();
    assert_eq!(
        link,
        "</agents/?group=web&limit=2&status=pending&after=m1>; rel=\"next\""
    );
    let last = server.get("/agents/?group=web&status=pending&limit=2&after=m1");
    assert_eq!(last.json().as_array().unwrap().len(), 1);
    assert_eq!(last.header("link"), None);
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "status=fine",
        "since=yesterday",
        "stauts=failed",
        "limit=1&limit=2",
    ] {
        server.refused("GET", &format!("/agents/?{query}"), None, 422);
    }
}

#[test]
fn the_fleet_is_counted_by_group_and_by_status() {
    let machines = ["m0", "m1", "m2"].map(Machine::new);
    let server = Operated::knowing(&machines.iter().collect::<Vec<_>>());
    for group in ["db", "lab", "web"] {
        server.group(group);
    }
    for (machine, group) in machines.iter().zip(["web", "web", "db"]) {
        let token = server.token(group);
        assert_eq!(machine.enrol(&server.client, &token, group).status, 200);
    }
    let counted = || server.expect("GET", "/status", None, 200);
    let of_group = |fleet: &Value, slug: &str| {
        let groups = fleet["groups"].as_array().unwrap();
        let group = groups.iter().find(|it| it["policy_group_id"] == slug);
        group.cloned().unwrap_or_default()
    };
    let fleet = counted();
    let statuses = json!({"pending": 3, "active": 0, "failed": 0, "stale": 0});
    assert_eq!(
        (&fleet["agents"], &fleet["by_status"]),
        (&json!(3), &statuses)
    );
    assert_eq!(fleet["by_effective_status"]["pending"], 3);
    assert_eq!(fleet["groups"].as_array().unwrap().len(), 2);
    assert_eq!(of_group(&fleet, "web")["by_status"]["pending"], 2);
    assert_eq!(of_group(&fleet, "lab"), Value::Null, "nobody is in it");
    let block = json!({ "block": true });
    server.expect("PUT", "/groups/web", Some(&block), 200);
    eventually("a group's status counts for its agents", || {
        counted()["by_status"]["failed"] == 2
    });
    let fleet = counted();
    assert_eq!(of_group(&fleet, "web")["by_effective_status"]["blocked"], 2);
    assert_eq!(of_group(&fleet, "db")["by_status"]["pending"], 1);
    let move_to = json!({"policy_group_id": "lab"});
    server.expect("POST", "/agents/m0/move", Some(&move_to), 200);
    server.expect("DELETE", "/agents/m2", None, 200);
    let fleet = counted();
    assert_eq!(fleet["agents"], 2);
    assert_eq!(of_group(&fleet, "lab")["by_status"]["pending"], 1);
    assert_eq!(of_group(&fleet, "db"), Value::Null);
    let refused = server.refused("GET", "/status?group=web", None, 422);
    assert_eq!(refused, "request.unknown_parameter");
}
