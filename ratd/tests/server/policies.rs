//! R6, R7: versions of policies, and which of them is enforced.

use serde_json::{Value, json};

use crate::operating::{Operated, members, policy};

fn ids(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|policy| policy["id"].as_str().unwrap()).collect()
}

#[test]
fn a_version_is_added_enforced_and_rolled_back() {
    let server = Operated::start(&[]);
    server.group("web");
    let none = server.refused("GET", "/policies/groups/web/active-policy", None, 404);
    assert_eq!(none, "active_policy.not_found");
    let nothing = server.refused("POST", "/policies/groups/web/rollback", None, 409);
    assert_eq!(nothing, "policy.nothing_before");
    let contents = [
        policy(&[("/usr/bin/a", 'a')]),
        policy(&[("/usr/bin/a", 'b')]),
        policy(&[("/usr/bin/b", 'b')]),
    ];
    for (number, content) in (1..).zip(&contents) {
        let id = server.policy("web", &format!("release {number}"), content);
        assert_eq!(id, format!("p-web-00{number}"));
    }
    let statuses = || {
        let list = server.expect("GET", "/policies/?group=web", None, 200);
        assert_eq!(ids(&list), ["p-web-003", "p-web-002", "p-web-001"]);
        let list = list.as_array().unwrap().iter();
        list.map(|it| it["status"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(statuses(), ["inactive"; 3]);
    let activate = |id: &str, body: Option<&Value>| {
        let path = format!("/policies/{id}/activate");
        server.expect("POST", &path, body, 200)
    };
    let activated = activate("p-web-001", None);
    assert_eq!(
        activated,
        json!({"policy_id": "p-web-001", "policy_group_id": "web", "version": "1",
               "slot": "enforced", "coverage": {"judged": 0, "agents": 0}})
    );
    activate("p-web-002", Some(&json!({"slot": "enforced"})));
    activate("p-web-003", Some(&json!({"slot": "shadow"})));
    assert_eq!(statuses(), ["shadow", "active", "superseded"]);
    let active = server.expect("GET", "/policies/groups/web/active-policy", None, 200);
    assert_eq!(active["version"], "2");
    assert_eq!(active["content"], contents[1]);
    let group = server.expect("GET", "/groups/web", None, 200);
    assert_eq!(group["enforced_policy_id"], "p-web-002");
    assert_eq!(group["shadow_policy_id"], "p-web-003");
    for (version, standing) in [
        ("1", ["shadow", "superseded", "active"]),
        ("2", ["shadow", "active", "superseded"]),
    ] {
        let rolled_back = server.expect("POST", "/policies/groups/web/rollback", None, 200);
        assert_eq!(rolled_back["version"], version);
        assert_eq!(statuses(), standing);
    }
    let [actor, target, detail] = &server.audited("policy.rollback")[0];
    assert!(!actor.is_empty());
    assert_eq!([target.as_str(), detail], ["web", "version 1"]);
    assert_eq!(server.audited("policy.enforce").len(), 2);
    assert_eq!(server.audited("policy.create").len(), 3);
}

#[test]
fn a_policy_that_cannot_be_used_is_422_with_its_place_and_adds_nothing() {
    let server = Operated::start(&[]);
    server.group("web");
    let changes = server.changes();
    let add = |content: Value| {
        let body = json!({"policy_group_id": "web", "name": "n", "content": content});
        server.expect("POST", "/policies/", Some(&body), 422)
    };
    let mut short = policy(&[("/usr/bin/a", 'a')]);
    short["digests"]["/usr/bin/a"] = json!(["abc"]);
    let refused = add(short);
    assert_eq!(refused["code"], "policy.malformed");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("digests[\"/usr/bin/a\"][0]"), "{detail}");
    let mut pattern = policy(&[]);
    pattern["excludes"] = json!(["^/tmp/(.*$"]);
    let refused = add(pattern);
    assert!(
        refused["detail"].as_str().unwrap().contains("excludes[0]"),
        "{refused}"
    );
    let mut version = policy(&[]);
    version["meta"]["version"] = json!(2);
    for content in [version, json!({}), json!([]), json!("text"), json!(1)] {
        assert_eq!(add(content)["code"], "policy.malformed");
    }
    for body in [
        json!({"policy_group_id": "web", "name": "n"}),
        json!({"policy_group_id": "web", "name": "n", "content": null}),
        json!({"policy_group_id": "web", "content": policy(&[])}),
        json!({"policy_group_id": "web", "name": "a\nb", "content": policy(&[])}),
        json!({"policy_group_id": "web", "name": " ", "content": policy(&[])}),
        json!({"policy_group_id": "../x", "name": "n", "content": policy(&[])}),
        json!({"policy_group_id": "web", "name": "n", "content": policy(&[]), "activate": true}),
    ] {
        server.refused("POST", "/policies/", Some(&body), 422);
    }
    let body = json!({"policy_group_id": "none", "name": "n", "content": policy(&[])});
    let missing = server.refused("POST", "/policies/", Some(&body), 404);
    assert_eq!(missing, "group.not_found");
    assert_eq!(server.expect("GET", "/policies/", None, 200), json!([]));
    assert_eq!(server.changes(), changes);
}

#[test]
fn l10_what_is_doubtful_about_a_policy_is_said_when_it_is_added() {
    let server = Operated::start(&[]);
    server.group("web");
    let mut content = policy(&[("/usr/bin/a", 'a')]);
    content["excludes"] = json!(["/tmp/.*"]);
    let body = json!({"policy_group_id": "web", "name": "n", "content": content});
    let created = server.expect("POST", "/policies/", Some(&body), 201);
    let warnings = created["warnings"].as_array().unwrap();
    assert_eq!(created["warning_count"], warnings.len());
    let first = &warnings[0];
    assert_eq!(first["severity"], "danger", "{created}");
    assert_eq!(first["id"], "exclude.writable_place", "{created}");
}

#[test]
fn a_text_is_kept_byte_for_byte() {
    let server = Operated::start(&[]);
    server.group("web");
    let text =
        "{ \"digests\" : {} ,\n\t\"meta\":{\"version\":1,\"note\":\"\\u00e9\"}, \"excludes\":[]}";
    let body = format!("{{\"name\":\"n\",\"content\": {text} ,\"policy_group_id\":\"web\"}}");
    let authorization = format!("authorization: Bearer {}", server.admin);
    let headers = [authorization.as_str()];
    let client = &server.client;
    let answer = client.request("POST", "/policies/", &headers, body.as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.json());
    let sha256 = hex::encode(openssl::sha::sha256(text.as_bytes()));
    assert_eq!(answer.json()["digest"], sha256);
    let shown = server.get("/policies/p-web-001");
    let shown = String::from_utf8(shown.body).unwrap();
    assert!(shown.contains(text), "{shown}");
}

#[test]
fn two_versions_are_compared() {
    let server = Operated::start(&[]);
    server.group("web");
    let old = server.policy("web", "old", &policy(&[("/a", 'a'), ("/b", 'a')]));
    let new = server.policy("web", "new", &policy(&[("/a", 'b'), ("/c", 'a')]));
    let path = format!("/policies/{new}/diff?against={old}");
    let diff = server.expect("GET", &path, None, 200);
    assert_eq!(diff["from"]["id"], old.as_str());
    assert_eq!(diff["to"]["id"], new.as_str());
    assert!(diff["to"]["created_at"].is_string() && diff["to"]["created_by"].is_string());
    assert_eq!(diff["added_paths"][0]["path"], "/c");
    assert_eq!(diff["removed_paths"][0]["path"], "/b");
    assert_eq!(diff["changed"][0]["path"], "/a");
    for (query, status) in [
        ("", 422),
        ("?against=x", 422),
        ("?against=p-web-009", 404),
        ("?against=p-web-001&against=p-web-001", 422),
        ("?against=p-web-001&x=1", 422),
    ] {
        let path = format!("/policies/{new}/diff{query}");
        server.refused("GET", &path, None, status);
    }
}

#[test]
fn lists_come_in_pages_the_newest_first() {
    let server = Operated::start(&[]);
    server.group("web");
    server.group("db");
    for number in 1..=5 {
        server.policy("web", "w", &policy(&[("/a", 'a')]));
        server.policy("db", &format!("d{number}"), &policy(&[("/b", 'b')]));
    }
    let whole = server.expect("GET", "/policies/", None, 200);
    assert_eq!(whole.as_array().unwrap().len(), 10);
    let mut next = Some("/policies/?limit=3".to_owned());
    let mut seen = Vec::new();
    while let Some(path) = next {
        let page = server.get(&path);
        assert_eq!(page.status, 200);
        seen.extend(page.json().as_array().unwrap().clone());
        let link = page.header("link").map(str::to_owned);
        next = link.map(|link| {
            let (address, relation) = link.split_once(">; ").unwrap();
            assert_eq!(relation, "rel=\"next\"");
            address.trim_start_matches('<').to_owned()
        });
        assert!(seen.len() <= 10);
    }
    assert_eq!(Value::from(seen), whole);
    let of_web = server.expect("GET", "/policies?group=web", None, 200);
    assert_eq!(of_web.as_array().unwrap().len(), 5);
    assert_eq!(
        server.expect("GET", "/policies/?group=none", None, 200),
        json!([])
    );
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=%2B1",
        "after=x",
        "goup=web",
    ] {
        server.refused("GET", &format!("/policies/?{query}"), None, 422);
    }
}

#[test]
fn a_version_that_no_group_can_have_is_not_there() {
    let server = Operated::start(&[]);
    server.group("web");
    let id = server.policy("web", "n", &policy(&[]));
    for huge in ["9223372036854775808", "18446744073709551615", "000"] {
        let huge = format!("p-web-{huge}");
        let path = format!("/policies/{huge}");
        server.refused("GET", &path, None, 404);
        server.refused("GET", &format!("{path}/diff?against={id}"), None, 404);
        server.refused("POST", &format!("{path}/activate"), None, 404);
        let path = format!("/policies/{id}/diff?against={huge}");
        server.refused("GET", &path, None, 422);
        let path = format!("/policies/?after={huge}");
        server.refused("GET", &path, None, 422);
    }
    let most = format!("/policies/p-web-{}", i64::MAX);
    server.refused("GET", &most, None, 404);
    assert!(!server.ratd.log().contains("the store failed"));
}

#[test]
fn x04_a_policy_on_its_way_has_a_place_until_it_was_read() {
    use std::io::{Read, Write};
    let server = Operated::start(&["core.requests_per_address_per_second=10000"]);
    server.group("web");
    // More than fits into the buffers on the way.
    let paths: Vec<String> = (0..120_000).map(|n| format!("/usr/lib/{n:0>60}")).collect();
    let paths: Vec<(&str, char)> = paths.iter().map(|path| (path.as_str(), 'a')).collect();
    let id = server.policy("web", "n", &policy(&paths));
    let head = format!(
        "GET /policies/{id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         authorization: Bearer {}\r\n\r\n",
        server.admin
    );
    // As many as one address may have begin, and read no further.
    let mut begun: Vec<_> = (0..rat_api::limits::POLICY_TEXTS_PER_ADDRESS_MAX)
        .map(|_| {
            let mut stream = server.client.tls();
            stream.write_all(head.as_bytes()).unwrap();
            stream.read_exact(&mut [0; 1024]).unwrap();
            stream
        })
        .collect();
    let path = format!("/policies/{id}");
    let refused = server.refused("GET", &path, None, 429);
    assert_eq!(refused, "request.limited");
    // What is asked of other routes is answered.
    server.expect("GET", "/policies/", None, 200);
    let mut stream = begun.pop().unwrap();
    assert!(crate::process::drain(&mut stream) > 8 << 20);
    crate::process::eventually("a place is free", || server.get(&path).status == 200);
}

#[test]
fn members_are_the_documented_ones() {
    let server = Operated::start(&[]);
    server.group("web");
    server.policy("web", "n", &policy(&[]));
    // The Core API's documented example of R6.
    let documented = [
        "commit_sha",
        "created_at",
        "id",
        "name",
        "rekor_log_id",
        "signed_by",
        "source_repo",
        "status",
        "version",
    ];
    let list = server.expect("GET", "/policies/", None, 200);
    let names = members(&list[0]);
    assert!(
        documented.iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    assert!(list[0]["version"].is_string() && list[0]["id"].is_string());
    server.expect("POST", "/policies/p-web-001/activate", None, 200);
    let active = server.expect("GET", "/policies/groups/web/active-policy", None, 200);
    let names = members(&active);
    assert!(
        documented.iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    assert!(active["content"].is_object());
}
