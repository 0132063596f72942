//! People and programs: the first start, logins, and the commands on the data directory.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::process::{Home, Ratd, metric};

const NEW: &str = "a new password";

fn log_in(ratd: &Ratd, username: &str, password: &str) -> (u16, Value) {
    let body = json!({ "username": username, "password": password });
    let answer = ratd.client().post("/api/v1/auth/login", &body);
    (answer.status, answer.json())
}

/// A file with a password, as its owner keeps it.
fn password_file(home: &Home, password: &str) -> String {
    let path = home.path("password");
    std::fs::write(&path, format!("{password}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a07_the_first_password_is_good_for_its_own_change_alone() {
    let home = Home::new();
    let ratd = home.start(&["log.level=trace"]);
    let client = ratd.client();
    let first = ratd.first_password();
    let (status, body) = log_in(&ratd, "admin", &first);
    assert_eq!(status, 200);
    let token = body["token"].as_str().unwrap();
    let refused = client.get("/agents/", Some(token));
    assert_eq!(refused.status, 403);
    assert_eq!(refused.detail(), "the password must be changed first");
    let change = json!({ "current_password": first, "new_password": NEW });
    let path = "/api/v1/auth/me/password";
    let changed = client.send("PUT", path, Some(token), Some(&change));
    assert_eq!(changed.status, 204);
    assert_eq!(client.get("/agents/", Some(token)).status, 200);
    let file = home.data().join("admin-password");
    assert!(!file.exists());
    assert_eq!(log_in(&ratd, "admin", &first).0, 401);
    let log = ratd.log();
    for secret in [first.as_str(), NEW, &token[21..], "$argon2id$"] {
        assert!(!log.contains(secret), "{secret}");
    }
    ratd.stop();
    // A session outlives a restart, and no second user is made.
    let ratd = home.start(&[]);
    assert!(!file.exists());
    assert_eq!(ratd.client().get("/agents/", Some(token)).status, 200);
    assert_eq!(log_in(&ratd, "admin", NEW).0, 200);
    // A file that was left by a change that was cut short goes at the next start.
    ratd.stop();
    std::fs::write(&file, "left").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _ratd = home.start(&[]);
    assert!(!file.exists());
}

#[test]
fn a03_a_login_costs_the_same_work_whoever_is_named() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let hashed = || {
        let text = String::from_utf8(ratd.client().get("/metrics", None).body).unwrap();
        metric(&text, "attest_password_hashes_total", &[])
    };
    home.ok(&[
        "user",
        "create",
        "gone",
        "--role",
        "viewer",
        "--password-file",
        &password_file(&home, NEW),
    ]);
    home.ok(&["user", "disable", "gone"]);
    let mut before = hashed();
    for (name, password) in [
        ("admin", "wrong password"),
        ("nobody", "wrong password"),
        ("gone", NEW),
    ] {
        assert_eq!(log_in(&ratd, name, password).0, 401);
        let after = hashed();
        assert!(
            (after - before - 1.0).abs() < f64::EPSILON,
            "{name}: {before} {after}"
        );
        before = after;
    }
    let text = String::from_utf8(ratd.client().get("/metrics", None).body).unwrap();
    let refused = metric(&text, "attest_logins_total", &["result=\"refused\""]);
    assert!((refused - 3.0).abs() < f64::EPSILON, "{refused}");
}

#[test]
fn commands_make_change_disable_and_list_users() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let file = password_file(&home, NEW);
    let by_file = ["--password-file", file.as_str()];
    home.ok(&[
        &[
            "user", "create", "alice", "--role", "admin", "--email", "a@b",
        ],
        &by_file[..],
    ]
    .concat());
    let (status, body) = log_in(&ratd, "alice", NEW);
    assert_eq!((status, &body["user"]["email"]), (200, &json!("a@b")));
    let session = body["token"].as_str().unwrap();
    assert_eq!(ratd.client().get("/agents/", Some(session)).status, 200);
    // Beside the running server, and at once.
    let made = home.ok(&["user", "password", "ALICE"]);
    assert_eq!(ratd.client().get("/agents/", Some(session)).status, 401);
    assert_eq!(log_in(&ratd, "alice", NEW).0, 401);
    let (status, body) = log_in(&ratd, "alice", &made);
    assert_eq!(
        (status, &body["user"]["must_change_password"]),
        (200, &json!(true))
    );
    let error = home.fails(1, &["user", "create", "Alice", "--role", "viewer"]);
    assert!(error.contains("taken"), "{error}");
    home.fails(1, &["user", "create", "a b", "--role", "viewer"]);
    home.fails(1, &["user", "create", "bob", "--role", "root"]);
    home.fails(2, &["user", "create", "bob"]);
    home.fails(1, &["user", "password", "nobody"]);
    let short = password_file(&home, "short");
    home.fails(1, &["user", "password", "alice", "--password-file", &short]);
    std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = home.fails(1, &["user", "password", "alice", "--password-file", &short]);
    assert!(error.contains("644"), "{error}");
    home.ok(&["user", "disable", "admin"]);
    let error = home.fails(1, &["user", "disable", "alice"]);
    assert!(error.contains("nobody else"), "{error}");
    let listed = home.ok(&["user", "list"]);
    let users: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let standings: Vec<_> = users
        .iter()
        .map(|user| {
            (
                user["username"].as_str().unwrap(),
                user["standing"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        standings,
        [("admin", "disabled"), ("alice", "must_change_password")]
    );
    assert!(!listed.contains("argon2"));
}

#[test]
fn a03_commands_make_revoke_and_list_api_tokens() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    let viewer = home.ok(&["api-token", "create", "--name", "scrape"]);
    let status = |token: &str, path: &str| client.get(path, Some(token)).status;
    assert_eq!(
        (
            status(&viewer, "/agents/"),
            status(&viewer, "/api/v1/users")
        ),
        (200, 403)
    );
    let admin = home.ok(&[
        "api-token",
        "create",
        "--name",
        "script",
        "--role",
        "admin",
        "--ttl-hours",
        "1",
    ]);
    assert_eq!(status(&admin, "/api/v1/users"), 200);
    let listed = home.ok(&["api-token", "list"]);
    assert_eq!(listed.lines().count(), 2);
    assert!(listed.contains(&viewer[4..20]) && !listed.contains(&viewer[20..]));
    for line in listed.lines() {
        let token: Value = serde_json::from_str(line).unwrap();
        assert!(token["last_used"].is_string(), "{token}");
    }
    home.ok(&["api-token", "revoke", &admin[4..20]]);
    assert_eq!(status(&admin, "/api/v1/users"), 401);
    home.fails(1, &["api-token", "revoke", &admin[4..20]]);
    home.fails(1, &["api-token", "create", "--name", "x", "--role", "root"]);
    home.fails(1, &["api-token", "create", "--name", " "]);
    home.fails(
        2,
        &["api-token", "create", "--name", "x", "--ttl-hours", "0"],
    );
}

#[test]
fn a07_a_user_that_was_made_before_the_first_start_is_the_first() {
    let home = Home::new();
    let file = password_file(&home, NEW);
    home.ok(&[
        "user",
        "create",
        "alice",
        "--role",
        "admin",
        "--password-file",
        &file,
    ]);
    let ratd = home.start(&[]);
    assert!(!home.data().join("admin-password").exists());
    assert_eq!(log_in(&ratd, "alice", NEW).0, 200);
    assert_eq!(log_in(&ratd, "admin", NEW).0, 401);
}

#[test]
fn a03_what_is_revoked_while_it_is_used_ends_with_the_next_request() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    let token = ratd.api_token("viewer");
    for _ in 0..5 {
        assert_eq!(client.get("/agents/", Some(&token)).status, 200);
    }
    home.ok(&["api-token", "revoke", &token[4..20]]);
    assert_eq!(client.get("/agents/", Some(&token)).status, 401);
}
