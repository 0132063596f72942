//! A03: credentials after they ended, and what is kept of them.

use rat_api::clock::unix_ms;
use rat_store::PasswordChange;
use serde_json::json;

use crate::world::{HOUR_MS, PASSWORD, Served, World, refusal, refused};

#[test]
fn a03_a_session_is_refused_after_logout() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["viewer"]);
    let (one, other) = (world.logged_in("alice"), world.logged_in("alice"));
    assert_eq!(world.me(&one), 200);
    let answer = world.send("POST", "/api/v1/auth/logout", &one, &json!({}));
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    for _ in 0..2 {
        assert_eq!(world.me(&one), 401);
    }
    let again = world.send("POST", "/api/v1/auth/logout", &one, &json!({}));
    assert_eq!(refused(&again), refusal(401, "UNAUTHORIZED"));
    assert_eq!(world.me(&other), 200);
}

#[test]
fn a03_sessions_end_when_the_password_changes() {
    let world = World::new(Served::Accounts);
    let alice = world.user("alice", &["admin"]);
    world.user("bob", &["viewer"]);
    let (mine, other) = (world.logged_in("alice"), world.logged_in("alice"));
    let bobs = world.logged_in("bob");
    let body = json!({ "current_password": PASSWORD, "new_password": "a new password" });
    let answer = world.send("PUT", "/api/v1/auth/me/password", &mine, &body);
    assert_eq!(answer.status, 204);
    assert_eq!(
        (world.me(&mine), world.me(&other), world.me(&bobs)),
        (200, 401, 200)
    );
    assert_eq!(world.log_in("alice", PASSWORD).status, 401);
    assert_eq!(world.log_in("alice", "a new password").status, 200);
    // By an administrator: all of them.
    let path = format!("/api/v1/users/{}/password", world.stored("bob").id);
    let body = json!({ "new_password": "given password" });
    assert_eq!(world.send("PUT", &path, &mine, &body).status, 204);
    assert_eq!((world.me(&mine), world.me(&bobs)), (200, 401));
    assert_eq!(world.log_in("bob", "given password").status, 200);
    let path = format!("/api/v1/users/{}/password", alice.id);
    assert_eq!(world.send("PUT", &path, &mine, &body).status, 204);
    assert_eq!(
        world.me(&mine),
        401,
        "also one's own, when it is done as an administrator"
    );
}

#[test]
fn a03_everything_of_a_user_ends_when_it_is_disabled() {
    let world = World::new(Served::Accounts);
    world.user("admin", &["admin"]);
    let bob = world.user("bob", &["operator"]);
    let (admin, bobs) = (world.logged_in("admin"), world.logged_in("bob"));
    let made = world.send(
        "POST",
        "/api/v1/auth/tokens",
        &bobs,
        &json!({ "name": "scrape", "role": "operator" }),
    );
    assert_eq!(made.status, 201, "{}", made.json());
    let token = made.json()["token"].as_str().unwrap().to_owned();
    // An API token is valid, and no login.
    assert_eq!(world.me(&token), 403);
    let path = format!("/api/v1/users/{}", bob.id);
    let answer = world.client().request(
        "DELETE",
        &path,
        &[&format!("authorization: Bearer {admin}")],
        b"",
    );
    assert_eq!(answer.status, 204);
    assert_eq!((world.me(&bobs), world.me(&token)), (401, 401));
    assert_eq!(world.log_in("bob", PASSWORD).status, 401);
    let shown = world.get(&path, &admin).json();
    assert_eq!(shown["disabled"], true, "it is disabled and not removed");
    // Allowed again, the token is its owner's again; the session is gone for good.
    let answer = world.send("PUT", &path, &admin, &json!({ "disabled": false }));
    assert_eq!(answer.status, 200);
    assert_eq!((world.me(&bobs), world.me(&token)), (401, 403));
}

#[test]
fn a03_a_token_is_refused_after_it_was_revoked_and_is_somebodys_own() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["viewer"]);
    world.user("bob", &["viewer"]);
    world.user("admin", &["admin"]);
    let [alices, bobs, admins] = ["alice", "bob", "admin"].map(|name| world.logged_in(name));
    let body = json!({ "name": "scrape", "role": "viewer", "ttl_hours": 1 });
    let made = world.send("POST", "/api/v1/auth/tokens", &alices, &body);
    let made = made.json();
    let (text, id) = (
        made["token"].as_str().unwrap(),
        made["id"].as_str().unwrap(),
    );
    assert_eq!(made["owner"], "alice");
    assert_eq!(world.me(text), 403);
    let tokens = |path: &str, session: &str| {
        let answer = world.get(path, session);
        assert_eq!(answer.status, 200);
        assert!(
            !String::from_utf8(answer.body.clone())
                .unwrap()
                .contains(&text[20..])
        );
        answer.json()["tokens"].as_array().unwrap().len()
    };
    assert_eq!(tokens("/api/v1/auth/tokens", &alices), 1);
    assert_eq!(tokens("/api/v1/auth/tokens", &bobs), 0);
    assert_eq!(tokens("/api/v1/auth/tokens?owner=all", &admins), 1);
    let all = world.get("/api/v1/auth/tokens?owner=all", &bobs);
    assert_eq!(refused(&all), refusal(403, "FORBIDDEN"));
    assert_eq!(all.json()["details"]["permission"], "tokens:view");
    let other = world.get("/api/v1/auth/tokens?owner=alice", &admins);
    assert_eq!(refused(&other), refusal(400, "VALIDATION_FAILED"));

    let path = format!("/api/v1/auth/tokens/{id}");
    let by_bob = world.send("DELETE", &path, &bobs, &json!({}));
    assert_eq!(
        refused(&by_bob),
        refusal(404, "NOT_FOUND"),
        "as if it were not there"
    );
    assert_eq!(world.me(text), 403, "still valid");
    assert_eq!(world.send("DELETE", &path, &alices, &json!({})).status, 204);
    assert_eq!(world.me(text), 401);
    let revoked = world.get("/api/v1/auth/tokens", &alices).json();
    assert!(revoked["tokens"][0]["revoked_at"].is_string());
    // An administrator ends those of others.
    let made = world
        .send("POST", "/api/v1/auth/tokens", &alices, &body)
        .json();
    let path = format!("/api/v1/auth/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(world.send("DELETE", &path, &admins, &json!({})).status, 204);
    assert_eq!(world.me(made["token"].as_str().unwrap()), 401);
    let nothing = world.send("DELETE", "/api/v1/auth/tokens/%ff", &admins, &json!({}));
    assert_eq!(nothing.status, 404);
}

#[test]
fn a01_a_token_has_no_more_than_its_maker_and_makes_none() {
    let world = World::new(Served::Accounts);
    world.user("bob", &["operator"]);
    let session = world.logged_in("bob");
    let make = |token: &str, role: &str| {
        let body = json!({ "name": "scrape", "role": role });
        world.send("POST", "/api/v1/auth/tokens", token, &body)
    };
    let beyond = make(&session, "admin");
    assert_eq!(refused(&beyond), refusal(403, "FORBIDDEN"));
    assert_eq!(make(&session, "viewer").status, 201);
    assert_eq!(make(&session, "root").status, 400);
    let made = make(&session, "operator");
    assert_eq!(made.status, 201);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let by_token = make(&token, "operator");
    assert_eq!(refused(&by_token), refusal(403, "FORBIDDEN"));
    let by_admin_token = make(&world.token("admin", None, unix_ms() + HOUR_MS), "viewer");
    assert_eq!(by_admin_token.status, 403, "no program makes tokens");
    for body in [
        json!({ "role": "operator" }),
        json!({ "name": "", "role": "operator" }),
        json!({ "name": " ", "role": "operator" }),
        json!({ "name": "a\nb", "role": "operator" }),
        json!({ "name": "a".repeat(65), "role": "operator" }),
        json!({ "name": "a" }),
        json!({ "name": "a", "role": "operator", "ttl_hours": 0 }),
        json!({ "name": "a", "role": "operator", "ttl_hours": 8761 }),
        json!({ "name": "a", "role": "operator", "ttl_hours": "1" }),
        json!({ "name": "a", "role": "operator", "ttl_hours": -1 }),
    ] {
        let answer = world.send("POST", "/api/v1/auth/tokens", &session, &body);
        assert_eq!(
            refused(&answer),
            refusal(400, "VALIDATION_FAILED"),
            "{body}"
        );
    }
    let made = world.run(world.store.api_tokens(None, "", 99)).unwrap();
    assert_eq!(made.len(), 3, "the administrator's, and two");
}

#[test]
fn a03_a_login_that_must_change_its_password_can_do_nothing_else() {
    let world = World::new(Served::Accounts);
    let admin = world.user("admin", &["admin"]);
    let change = PasswordChange {
        hash: &admin.password.clone(),
        replacing: None,
        must_change: true,
        keep_session: None,
    };
    assert!(
        world
            .run(world.store.set_password(&admin.id, &change, "test", 1))
            .unwrap()
    );
    std::fs::write(world.first_password(), PASSWORD).unwrap();
    let answer = world.log_in("admin", PASSWORD).json();
    assert_eq!(answer["user"]["must_change_password"], true);
    let token = answer["token"].as_str().unwrap();
    assert_eq!(world.me(token), 200);
    for (method, path) in [
        ("PUT", "/api/v1/auth/me"),
        ("GET", "/api/v1/users"),
        ("POST", "/api/v1/users"),
        ("GET", "/api/v1/roles"),
        ("POST", "/api/v1/auth/tokens"),
    ] {
        let answer = world.send(method, path, token, &json!({}));
        assert_eq!(
            refused(&answer),
            refusal(403, "PASSWORD_CHANGE_REQUIRED"),
            "{path}"
        );
    }
    let to = |new: &str| {
        let body = json!({ "current_password": PASSWORD, "new_password": new });
        world.send("PUT", "/api/v1/auth/me/password", token, &body)
    };
    for refused_as in [PASSWORD, "short", "admin", ""] {
        assert_eq!(refused(&to(refused_as)), refusal(400, "VALIDATION_FAILED"));
    }
    assert!(world.first_password().exists());
    assert_eq!(to("a new password").status, 204);
    assert!(
        !world.first_password().exists(),
        "a default password is nobody's any more"
    );
    assert_eq!(world.get("/api/v1/users", token).status, 200);
    assert_eq!(world.log_in("admin", PASSWORD).status, 401);
}

#[test]
fn a03_no_secret_is_at_rest() {
    let world = World::new(Served::Accounts);
    world.user("alice", &["viewer"]);
    let session = world.logged_in("alice");
    let body = json!({ "name": "scrape", "role": "viewer" });
    let made = world
        .send("POST", "/api/v1/auth/tokens", &session, &body)
        .json();
    let token = made["token"].as_str().unwrap();
    let folder = world.first_password().parent().unwrap().join("data");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        read += bytes.len();
        let has = |secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!has(PASSWORD.as_bytes()));
        for secret in [&session[21..], &token[20..]] {
            assert!(!has(secret.as_bytes()));
            let raw: Vec<u8> = hex::decode(secret).unwrap();
            assert!(!has(&raw));
        }
    }
    assert!(read > 10_000, "{read}");
}
