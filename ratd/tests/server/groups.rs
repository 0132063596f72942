//! Groups at the API: made, shown, changed by members and by version; machines let in one by one.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::operating::Operated;

#[test]
fn a_group_enforces_and_waives_nothing_unless_it_is_told() {
    let server = Operated::start(&[]);
    let made = server.group("web");
    let expected = json!({
        "policy_group_id": "web", "name": "web", "protected": true, "bypass": false,
        "block": false, "bank": "sha256", "require_boot_log": true, "accept_violations": false,
        "auto_recover": false, "approval": "auto", "pcr_policy": null,
        "interval_ms": null, "allow_sha1": false, "require_valid_ima_sig": false,
        "enforced_policy_id": null, "shadow_policy_id": null,
        "coverage": {"judged": 0, "agents": 0},
    });
    for (member, value) in expected.as_object().unwrap() {
        assert_eq!(&made[member], value, "{member}");
    }
    assert_eq!(made["hex_id"].as_str().unwrap().len(), 32);
    let body = json!({"policy_group_id": "web"});
    assert_eq!(
        server.refused("POST", "/groups/", Some(&body), 409),
        "group.exists"
    );
    let other = json!({"policy_group_id": "lab", "protected": false, "bank": "sha384"});
    let other = server.expect("POST", "/groups", Some(&other), 201);
    assert_eq!(
        (&other["protected"], &other["bank"]),
        (&json!(false), &json!("sha384"))
    );
    let list = server.expect("GET", "/groups/", None, 200);
    let slugs: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["policy_group_id"])
        .collect();
    assert_eq!(slugs, ["lab", "web"]);
    let page = server.get("/groups/?limit=1");
    assert_eq!(page.json()[0]["policy_group_id"], "lab");
    assert_eq!(
        page.header("link"),
        Some("</groups/?limit=1&after=lab>; rel=\"next\"")
    );
    let rest = server.get("/groups/?limit=1&after=web");
    assert_eq!((rest.json(), rest.header("link")), (json!([]), None));
    for query in ["limit=0", "limit=1001", "goup=web"] {
        server.refused("GET", &format!("/groups/?{query}"), None, 422);
    }
    let null = json!({"policy_group_id": "nil", "protected": null});
    server.refused("POST", "/groups/", Some(&null), 422);
    assert_eq!(
        server.refused("GET", "/groups/none", None, 404),
        "group.not_found"
    );
    assert_eq!(server.audited("group.create").len(), 2);
}

#[test]
fn settings_that_are_given_change_and_others_stay() {
    let server = Operated::start(&[]);
    server.group("web");
    let pcrs = json!({"7": ["ab".repeat(32)]});
    let body = json!({"auto_recover": true, "approval": "manual", "pcr_policy": pcrs});
    let changed = server.expect("PUT", "/groups/web", Some(&body), 200);
    for (member, value) in body.as_object().unwrap() {
        assert_eq!(&changed[member], value, "{member}");
    }
    assert_eq!(changed["protected"], true);
    let body = json!({"pcr_policy": null, "block": true});
    let changed = server.expect("PUT", "/groups/web", Some(&body), 200);
    assert_eq!(changed["pcr_policy"], Value::Null);
    assert_eq!(
        (&changed["block"], &changed["auto_recover"]),
        (&json!(true), &json!(true))
    );
    let before = server.expect("GET", "/groups/web", None, 200);
    let changes = server.changes();
    // What is as it was is no change.
    for body in [json!({}), json!({"block": true, "approval": "manual"})] {
        assert_eq!(
            server.expect("PUT", "/groups/web", Some(&body), 200),
            before
        );
    }
    for body in [
        json!({"bank": null}),
        json!({"approval": null}),
        json!({"name": null}),
        json!({"auto_recover": null, "block": false}),
        json!({"bank": "sha1"}),
        json!({"bank": "md5"}),
        json!({"allow_sha1": null}),
        json!({"require_valid_ima_sig": "yes"}),
        json!({"protected": "yes"}),
        json!({"protected": null}),
        json!({"approval": "none"}),
        json!({"name": "a\u{1b}[31m"}),
        json!({"name": ""}),
        json!({"pcr_policy": {"7": ["zz"]}}),
        json!({"pcr_policy": {"16": ["ab".repeat(32)]}}),
        json!({"pcr_policy": []}),
        json!({"protectd": false}),
        json!({"policy_group_id": "other"}),
        json!({"enforced_policy_id": "p-web-001"}),
        json!([]),
    ] {
        server.refused("PUT", "/groups/web", Some(&body), 422);
    }
    assert_eq!(server.expect("GET", "/groups/web", None, 200), before);
    assert_eq!(server.changes(), changes);
}

#[test]
fn a_change_for_another_version_is_412_and_changes_nothing() {
    let server = Operated::start(&[]);
    server.group("web");
    let tag = server.get("/groups/web").header("etag").unwrap().to_owned();
    let put = |condition: &str, body: Value| {
        let authorization = format!("authorization: Bearer {}", server.admin);
        let condition = format!("if-match: {condition}");
        let headers = [authorization.as_str(), &condition];
        let body = body.to_string();
        server
            .client
            .request("PUT", "/groups/web", &headers, body.as_bytes())
    };
    let changed = put(&tag, json!({"block": true}));
    assert_eq!(changed.status, 200);
    let newer = changed.header("etag").unwrap();
    assert_ne!(newer, tag);
    let refused = put(&tag, json!({"block": false}));
    assert_eq!(
        (refused.status, refused.json()["code"].clone()),
        (412, "request.changed".into())
    );
    assert_eq!(put("W/\"1\"", json!({"block": false})).status, 412);
    let group = server.get("/groups/web");
    assert_eq!(group.json()["block"], true);
    assert_eq!(group.header("etag"), Some(newer));
    assert_eq!(put("*", json!({"block": false})).status, 200);
    // An activation is a change of the group, too.
    let before = server.get("/groups/web").header("etag").unwrap().to_owned();
    let content = crate::operating::policy(&[]);
    let id = server.policy("web", "n", &content);
    server.expect("POST", &format!("/policies/{id}/activate"), None, 200);
    assert_eq!(put(&before, json!({"block": true})).status, 412);
}

#[test]
fn n12_machines_wait_are_seen_and_are_let_in_one_by_one() {
    let (one, other) = (Machine::new("a"), Machine::new("b"));
    let server = Operated::knowing(&[&one, &other]);
    let body = json!({"policy_group_id": "fleet", "approval": "manual"});
    server.expect("POST", "/groups/", Some(&body), 201);
    let token = server.token("fleet");
    let ask = |machine: &Machine| {
        server
            .client
            .post("/agents/enroll", &machine.claims(&token))
    };
    for machine in [&one, &one, &other] {
        let refused = ask(machine);
        assert_eq!(refused.status, 403);
        assert_eq!(refused.json()["code"], "ek.not_approved");
    }
    let pending = server.expect("GET", "/agents/pending", None, 200);
    assert_eq!(pending.as_array().unwrap().len(), 2);
    let of_one = pending
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["agent_id"] == "a")
        .unwrap();
    assert_eq!(of_one["tries"], 2);
    assert_eq!(of_one["ek_sha256"], one.listed());
    assert_eq!(of_one["hostname"], "web-1.example.com");
    assert_eq!(of_one["ip_address"], "127.0.0.1");
    assert_eq!(of_one["policy_group_id"], "fleet");
    // An id is whatever a machine calls itself, also when one alone waits under it.
    let changes = server.changes();
    for body in [None, Some(json!({}))] {
        let refused = server.refused("POST", "/agents/a/approve", body.as_ref(), 422);
        assert_eq!(refused, "agent.machine_not_named");
    }
    assert_eq!(server.changes(), changes);
    assert_eq!(ask(&one).status, 403, "nobody was let in");
    let named = json!({ "ek_sha256": one.listed() });
    let approved = server.expect("POST", "/agents/a/approve", Some(&named), 200);
    assert_eq!(approved["approved"], "enrolment");
    assert_eq!(approved["ek_sha256"], one.listed());
    assert_eq!(one.enrol(&server.client, &token, "fleet").status, 200);
    assert_eq!(ask(&other).status, 403, "one approval is for one machine");
    let again = server.refused("POST", "/agents/a/approve", None, 409);
    assert_eq!(again, "agent.nothing_waits");
    let pending = server.expect("GET", "/agents/pending", None, 200);
    assert_eq!(pending.as_array().unwrap().len(), 1);
    // The other way round: the operator knows the machine before it asks.
    let machine = format!("/groups/fleet/ek/{}", other.listed());
    server.expect("PUT", &machine, None, 204);
    server.expect("PUT", &machine, None, 204);
    assert_eq!(
        server.expect("GET", "/agents/pending", None, 200),
        json!([])
    );
    let list = server.expect("GET", "/groups/fleet/ek", None, 200);
    assert_eq!(list.as_array().unwrap().len(), 2);
    server.expect("DELETE", &machine, None, 204);
    server.refused("DELETE", &machine, None, 404);
    assert_eq!(ask(&other).status, 403);
    assert_eq!(server.audited("ek.approve").len(), 2);
    assert_eq!(server.audited("ek.withdraw").len(), 1);
    for path in ["/groups/none/ek", "/groups/../ek"] {
        server.refused("GET", path, None, 404);
    }
    server.refused("PUT", "/groups/fleet/ek/xyz", None, 404);
    server.refused("PUT", &machine.replace("fleet", "none"), None, 404);
}

#[test]
fn n06_several_machines_that_ask_for_one_id_are_told_apart() {
    let (one, other) = (Machine::new("a"), Machine::new("a"));
    let server = Operated::knowing(&[&one, &other]);
    let body = json!({"policy_group_id": "fleet", "approval": "manual"});
    server.expect("POST", "/groups/", Some(&body), 201);
    let token = server.token("fleet");
    for machine in [&one, &other] {
        server
            .client
            .post("/agents/enroll", &machine.claims(&token));
    }
    let refused = server.refused("POST", "/agents/a/approve", None, 422);
    assert_eq!(refused, "agent.machine_not_named");
    let body = json!({"ek_sha256": other.listed()});
    server.expect("POST", "/agents/a/approve", Some(&body), 200);
    let first = server.client.post("/agents/enroll", &one.claims(&token));
    assert_eq!(first.status, 403);
    assert_eq!(other.enrol(&server.client, &token, "fleet").status, 200);
    let wrong = json!({"ek_sha256": "AB"});
    let refused = server.refused("POST", "/agents/a/approve", Some(&wrong), 422);
    assert_eq!(refused, "request.member");
}

#[test]
fn n12_a_machine_that_waits_in_two_groups_is_let_into_the_one_that_is_named() {
    let machine = Machine::new("a");
    let server = Operated::knowing(&[&machine]);
    let mut tokens = Vec::new();
    for group in ["lab", "shop"] {
        let body = json!({"policy_group_id": group, "approval": "manual"});
        server.expect("POST", "/groups/", Some(&body), 201);
        tokens.push(server.token(group));
    }
    for token in &tokens {
        let refused = server.client.post("/agents/enroll", &machine.claims(token));
        assert_eq!(refused.json()["code"], "ek.not_approved");
    }
    let named = json!({ "ek_sha256": machine.listed() });
    let refused = server.refused("POST", "/agents/a/approve", Some(&named), 409);
    assert_eq!(refused, "agent.several_wait");
    let place = format!("/groups/shop/ek/{}", machine.listed());
    server.expect("PUT", &place, None, 204);
    let other = server
        .client
        .post("/agents/enroll", &machine.claims(&tokens[0]));
    assert_eq!(other.status, 403);
    let enrolled = machine.enrol(&server.client, &tokens[1], "shop");
    assert_eq!(enrolled.status, 200);
}

#[test]
fn n12_a_machine_that_was_let_in_needs_no_list_and_no_certificate() {
    let (known, other) = (Machine::new("known"), Machine::new("other"));
    // None of the two is on a list of the server's, or has a certificate.
    let server = Operated::start(&[]);
    for approval in ["list", "manual", "auto"] {
        let body = json!({"policy_group_id": approval, "approval": approval});
        server.expect("POST", "/groups/", Some(&body), 201);
        let token = server.token(approval);
        let machine = known.named(approval);
        let ask = |machine: &Machine| {
            let claims = machine.claims(&token);
            server.client.post("/agents/enroll", &claims)
        };
        let refused = ask(&machine);
        assert_eq!(refused.status, 403, "{approval}");
        assert_eq!(refused.json()["code"], "ek.certificate_missing");
        let path = format!("/groups/{approval}/ek/{}", machine.listed());
        server.expect("PUT", &path, None, 204);
        assert_eq!(ask(&other).status, 403, "one approval is for one machine");
        // Withdrawn between question and answer, it lets nobody in. (N08)
        let answer = ask(&machine);
        assert_eq!(answer.status, 200, "{approval}: {}", answer.json());
        let asked = machine.release(&token, approval, &answer);
        server.expect("DELETE", &path, None, 204);
        let refused = machine.activate(&server.client, &asked);
        assert_eq!(refused.status, 403);
        assert_eq!(refused.json()["code"], "ek.not_approved");
        let agent = format!("/agents/{approval}");
        server.refused("GET", &agent, None, 404);
        server.expect("PUT", &path, None, 204);
        assert_eq!(machine.activate(&server.client, &asked).status, 200);
        server.expect("GET", &agent, None, 200);
        server.expect("DELETE", &agent, None, 200);
    }
}

#[test]
fn n12_whoever_asks_in_a_machines_name_takes_no_others_place() {
    let (victim, attacker) = (Machine::new("victim"), Machine::new("attacker"));
    let server = Operated::knowing(&[&victim, &attacker]);
    let body = json!({"policy_group_id": "fleet", "approval": "manual"});
    server.expect("POST", "/groups/", Some(&body), 201);
    let token = server.token("fleet");
    let ask = |machine: &Machine, hostname: &str| {
        let mut claims = machine.claims(&token);
        claims["hostname"] = hostname.into();
        let refused = server.client.post("/agents/enroll", &claims);
        assert_eq!(refused.json()["code"], "ek.not_approved");
    };
    ask(&victim, "victim.example.com");
    // The victim's endorsement key is public: its entry is not renamed by whoever sends it, and
    // what the attacker's own TPM asks for under the victim's id stands beside it.
    for number in 0..10 {
        let renamed = victim.named(&format!("other-{number}"));
        ask(&renamed, "elsewhere.example.com");
    }
    ask(&attacker.named("victim"), "victim.example.com");
    let pending = server.expect("GET", "/agents/pending", None, 200);
    let of_victim: Vec<&Value> = pending
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["agent_id"] == "victim")
        .collect();
    let machines: Vec<&Value> = of_victim.iter().map(|it| &it["ek_sha256"]).collect();
    assert_eq!(machines.len(), 2);
    assert!(machines.contains(&&json!(victim.listed())));
    let refused = server.refused("POST", "/agents/victim/approve", None, 422);
    assert_eq!(refused, "agent.machine_not_named");
    let own = json!({"ek_sha256": victim.listed()});
    server.expect("POST", "/agents/victim/approve", Some(&own), 200);
    let attack = attacker.named("victim").claims(&token);
    assert_eq!(server.client.post("/agents/enroll", &attack).status, 403);
    assert_eq!(victim.enrol(&server.client, &token, "fleet").status, 200);
    // Pages go by group, machine and id.
    let page = server.get("/agents/pending?limit=1");
    let next = page.header("link").unwrap().to_owned();
    let expected = format!(
        "after=fleet%3A{}%3Avictim>; rel=\"next\"",
        attacker.listed()
    );
    assert!(next.ends_with(&expected), "{next}");
}
