//! A03 and X08: guessing passwords, and what a refused login tells.

use rat_api::clock::unix_ms;
use rat_api::limits::{
    LOGINS_PER_ADDRESS_PER_MINUTE, LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE,
    LOGINS_PER_USERNAME_PER_MINUTE, PASSWORD_CHECKS_PER_USER_PER_MINUTE,
};
use rat_store::{Standing, UserChange};
use rat_tests::http_client::Answer;
use serde_json::json;

use crate::world::{PASSWORD, Served, World, refusal, refused};

#[test]
fn t2_a_login_answers_with_token_user_and_end() {
    let world = World::new(Served::Accounts);
    let user = world.user("Alice", &["operator", "viewer"]);
    for name in ["Alice", "alice", "ALICE"] {
        let answer = world.log_in(name, PASSWORD);
        assert_eq!(answer.status, 200);
        let body = answer.json();
        assert!(body["token"].as_str().unwrap().starts_with("rats_"));
        assert!(body["expires_at"].as_str().unwrap().ends_with('Z'));
        let shown = &body["user"];
        assert_eq!(shown["id"], user.id.as_str());
        assert_eq!(shown["username"], "Alice");
        assert_eq!(shown["roles"], json!(["operator", "viewer"]));
        assert_eq!(shown["auth_provider"], "local");
        assert_eq!(shown["disabled"], false);
        assert!(shown["last_login"].is_string());
        let permissions = shown["permissions"].as_array().unwrap();
        assert!(
            permissions.contains(&json!("agents:*"))
                && permissions.contains(&json!("webhooks:view"))
        );
        let me = world.get("/api/v1/auth/me", body["token"].as_str().unwrap());
        assert_eq!(me.json()["id"], shown["id"]);
        assert!(!me.json().to_string().contains("argon2"));
    }
}

/// What differs from answer to answer: the date.
fn comparable(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    (answer.status, headers, answer.body.clone())
}

#[test]
fn x08_unknown_wrong_and_disabled_are_one_answer() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["admin"]);
    let gone = world.user("gone", &["viewer"]);
    let disable = UserChange {
        disabled: Some(true),
        ..UserChange::default()
    };
    let disabled = world.run(
        world
            .store
            .change_user(&gone.id, &disable, "admin", "test", 1),
    );
    assert_eq!(disabled.unwrap().unwrap().standing, Standing::Disabled);
    let wrong = world.log_in("alice", "wrong password");
    assert_eq!(refused(&wrong), refusal(401, "INVALID_CREDENTIALS"));
    for (name, password) in [
        ("nobody", PASSWORD),
        ("nobody", "wrong password"),
        ("gone", PASSWORD),
        ("gone", "wrong password"),
        ("alice", ""),
        ("", PASSWORD),
        ("alice' OR '1'='1", PASSWORD),
        ("alice\u{0}", PASSWORD),
    ] {
        let answer = world.log_in(name, password);
        assert_eq!(
            comparable(&answer),
            comparable(&wrong),
            "{name:?} {password:?}"
        );
    }
    assert_eq!(world.log_in("alice", PASSWORD).status, 200);
    // The refusals changed nothing.
    let logins = world
        .audited()
        .into_iter()
        .filter(|action| action == "session.open");
    assert_eq!(logins.count(), 1);
}

/// Repeats a refused attempt until it is put off; after how many, and for how long.
#[track_caller]
fn until_put_off(limit: &str, expected: u16, mut attempt: impl FnMut() -> Answer) -> (usize, u64) {
    for count in 0..1000 {
        let answer = attempt();
        if answer.status == expected {
            continue;
        }
        assert_eq!(refused(&answer), refusal(429, "TOO_MANY_REQUESTS"));
        assert_eq!(answer.json()["details"]["limit"], limit);
        let seconds = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=61).contains(&seconds), "{seconds}");
        return (count, seconds);
    }
    panic!("never put off");
}

#[test]
fn a03_a_username_is_guessed_at_slowly_from_however_many_addresses() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["admin"]);
    for name in ["alice", "nobody"] {
        let limit = "LOGINS_PER_USERNAME_PER_MINUTE";
        let guess = || world.log_in(name, "wrong password");
        let (guesses, seconds) = until_put_off(limit, 401, guess);
        assert!(guesses >= LOGINS_PER_USERNAME_PER_MINUTE, "{guesses}");
        // The right password is not even looked at before the time is over.
        let begun = unix_ms();
        if world.log_in(name, PASSWORD).status != 429 {
            assert!(unix_ms() - begun >= (seconds - 1) * 1000);
        }
    }
}

#[test]
fn a03_whoever_guesses_at_a_username_keeps_its_owner_neither_out_nor_from_a_new_password() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["admin"]);
    let attacker = world.client();
    let limit = "LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE";
    let guess = || {
        let body = json!({ "username": "alice", "password": "wrong password" });
        attacker.post("/api/v1/auth/login", &body)
    };
    let (guesses, _) = until_put_off(limit, 401, guess);
    assert!(guesses >= LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE);
    let token = world.logged_in("alice");
    let body = json!({ "current_password": PASSWORD, "new_password": "another password" });
    let changed = world.send("PUT", "/api/v1/auth/me/password", &token, &body);
    assert_eq!(changed.status, 204);
}

#[test]
fn a03_an_address_guesses_slowly_at_however_many_usernames() {
    let world = World::new(Served::Accounts);
    let client = world.client();
    let mut number = 0;
    let guess = || {
        number += 1;
        let body = json!({ "username": format!("user-{number}"), "password": PASSWORD });
        client.post("/api/v1/auth/login", &body)
    };
    let (guesses, _) = until_put_off("LOGINS_PER_ADDRESS_PER_MINUTE", 401, guess);
    assert!(guesses >= LOGINS_PER_ADDRESS_PER_MINUTE, "{guesses}");
    // Somebody elsewhere is not held up.
    world.user("alice", &["viewer"]);
    assert_eq!(world.log_in("alice", PASSWORD).status, 200);
}

#[test]
fn a03_the_present_password_is_guessed_at_slowly_too() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["viewer"]);
    let token = world.logged_in("alice");
    let before = world.stored("alice").password;
    let guess = || {
        let body = json!({
            "current_password": "wrong password",
            "new_password": "another password",
        });
        let answer = world.send("PUT", "/api/v1/auth/me/password", &token, &body);
        if answer.status == 400 {
            assert_eq!(answer.json()["details"]["member"], "current_password");
        }
        answer
    };
    let limit = "PASSWORD_CHECKS_PER_USER_PER_MINUTE";
    let (guesses, _) = until_put_off(limit, 400, guess);
    assert!(guesses >= PASSWORD_CHECKS_PER_USER_PER_MINUTE, "{guesses}");
    assert_eq!(world.stored("alice").password, before);
}

#[test]
fn x01_a_login_that_is_none_is_refused_before_any_work() {
    let world = World::new(Served::Accounts);
    let client = world.client();
    let long = json!({ "username": "a".repeat(65), "password": PASSWORD }).to_string();
    let longer = json!({ "username": "a", "password": "a".repeat(9000) }).to_string();
    for (body, status, code) in [
        ("", 400, "BAD_REQUEST"),
        ("{", 400, "BAD_REQUEST"),
        ("[]", 400, "VALIDATION_FAILED"),
        ("{}", 400, "VALIDATION_FAILED"),
        (r#"{"username":"a"}"#, 400, "VALIDATION_FAILED"),
        (r#"{"username":1,"password":"b"}"#, 400, "VALIDATION_FAILED"),
        (
            r#"{"username":"a","username":"b","password":"c"}"#,
            400,
            "BAD_REQUEST",
        ),
        (&long, 400, "VALIDATION_FAILED"),
        (&longer, 413, "BAD_REQUEST"),
    ] {
        let answer = client.request("POST", "/api/v1/auth/login", &[], body.as_bytes());
        assert_eq!(refused(&answer), refusal(status, code), "{body:.60}");
    }
    let answer = client.get("/api/v1/auth/login", None);
    assert_eq!(refused(&answer), refusal(405, "METHOD_NOT_ALLOWED"));
    let answer = client.get("/api/v1/nothing", None);
    assert_eq!(refused(&answer), refusal(404, "NOT_FOUND"));
    let answer = client.get("/nothing", None);
    assert_eq!(answer.detail(), "no such path");
}
