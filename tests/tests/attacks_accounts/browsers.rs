//! A04: what a browser could be made to do.

use serde_json::json;

use crate::world::{PASSWORD, Served, World};

#[test]
fn a04_no_cookie_is_set_or_read_and_no_other_origin_is_let_in() {
    let world = World::new(Served::Accounts);
    world.user("admin", &["admin"]);
    let login = world.log_in("admin", PASSWORD);
    let token = login.json()["token"].as_str().unwrap().to_owned();
    let client = world.client();
    let origin = "origin: https://evil.example";
    let bearer = format!("authorization: Bearer {token}");
    let cookies = [
        format!("cookie: session={token}"),
        format!("cookie: token={token}; Authorization=Bearer {token}"),
    ];
    let preflight = [
        origin,
        "access-control-request-method: POST",
        "access-control-request-headers: authorization",
    ];
    let answers = [
        login,
        client.request("GET", "/api/v1/auth/me", &[&bearer, origin], b""),
        client.request("GET", "/api/v1/users", &[origin], b""),
        client.request("OPTIONS", "/api/v1/users", &preflight, b""),
        client.request("OPTIONS", "/api/v1/auth/login", &preflight, b""),
        client.get("/nothing", None),
    ];
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 401, 405, 405, 404]);
    for answer in &answers {
        for (name, value) in &answer.headers {
            assert!(name != "set-cookie", "{value}");
            assert!(!name.starts_with("access-control-"), "{name}: {value}");
        }
        // No frame, no guessing of types, nothing kept.
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for cookie in &cookies {
        let answer = client.request("GET", "/api/v1/users", &[cookie], b"");
        assert_eq!(answer.status, 401, "{cookie}");
    }
    // Neither does a form of another site, whose browser knows no token.
    let form = ["content-type: application/x-www-form-urlencoded", origin];
    let body = b"username=eve&password=correct+horse&roles=admin";
    assert_eq!(
        client.request("POST", "/api/v1/users", &form, body).status,
        401
    );
    assert_eq!(world.run(world.store.users()).unwrap().len(), 1);
}

#[test]
fn a04_a_login_always_has_a_new_token_whatever_was_brought_along() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["viewer"]);
    let chosen = format!("rats_{}", "1".repeat(80));
    let body = json!({ "username": "alice", "password": PASSWORD, "token": chosen });
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let answer = world
            .client()
            .send("POST", "/api/v1/auth/login", Some(&chosen), Some(&body));
        assert_eq!(answer.status, 200);
        assert!(seen.insert(answer.json()["token"].as_str().unwrap().to_owned()));
    }
    assert!(!seen.contains(&chosen));
    assert_eq!(world.me(&chosen), 401);
}

#[test]
fn a03_a_token_in_the_url_is_nobodys() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["viewer"]);
    let token = world.logged_in("alice");
    for parameter in ["token", "access_token", "authorization"] {
        let path = format!("/api/v1/auth/me?{parameter}={token}");
        assert_eq!(world.client().get(&path, None).status, 401);
    }
}
