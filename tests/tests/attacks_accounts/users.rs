//! T24-T30: the accounts of others.

use serde_json::{Value, json};

use crate::world::{PASSWORD, Served, World, refusal, refused};

fn new(username: &str) -> Value {
    json!({
        "username": username,
        "password": "password123",
        "email": "user@example.com",
        "roles": ["operator"],
    })
}

#[test]
fn t25_a_user_is_made_shown_and_changed() {
    let world = World::new(Served::Accounts);
    let first = world.user("admin", &["admin"]);
    let admin = world.logged_in("admin");
    let made = world.send("POST", "/api/v1/users", &admin, &new("newuser"));
    assert_eq!(made.status, 201);
    let made = made.json();
    let members = [
        "id",
        "username",
        "email",
        "roles",
        "auth_provider",
        "disabled",
        "created_at",
        "last_login",
    ];
    for member in members {
        assert!(made.get(member).is_some(), "{member}");
    }
    assert_eq!(made["username"], "newuser");
    assert_eq!(made["roles"], json!(["operator"]));
    assert_eq!(made["last_login"], Value::Null);
    assert!(!made.to_string().contains("password123"));
    let path = format!("/api/v1/users/{}", made["id"].as_str().unwrap());
    assert_eq!(world.get(&path, &admin).json(), made);
    let listed = world.get("/api/v1/users", &admin).json();
    let names: Vec<&str> = listed["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["username"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["admin", "newuser"]);
    let body = json!({ "email": "newemail@example.com", "roles": ["operator", "viewer"] });
    let changed = world.send("PUT", &path, &admin, &body).json();
    assert_eq!(changed["email"], "newemail@example.com");
    assert_eq!(changed["roles"], json!(["operator", "viewer"]));
    // What is not named stays.
    let changed = world.send("PUT", &path, &admin, &json!({})).json();
    assert_eq!(changed["email"], "newemail@example.com");
    let token = world.log_in("newuser", "password123").json();
    let token = token["token"].as_str().unwrap();
    let me = world
        .send("PUT", "/api/v1/auth/me", token, &json!({ "email": "" }))
        .json();
    assert_eq!(
        (&me["email"], &me["roles"]),
        (&json!(""), &json!(["operator", "viewer"]))
    );
    let roles = world.get("/api/v1/roles", &admin).json();
    assert_eq!(roles["roles"][0]["id"], "admin");
    assert_eq!(roles["roles"][0]["name"], "Administrator");
    assert_eq!(roles["roles"][0]["permissions"], json!(["*"]));
    assert_eq!(roles["roles"][0]["is_system"], true);
    let actions = world.audited();
    for action in ["user.create", "user.change", "session.open"] {
        assert!(
            actions.iter().any(|seen| seen == action),
            "{action}: {actions:?}"
        );
    }
    let entries = world.run(world.store.audit_entries(0, 99)).unwrap();
    let by_admin = entries.iter().filter(|entry| entry.actor == "admin");
    assert!(by_admin.count() >= 3, "{entries:?}");
    assert!(world.run(world.store.verify_audit()).unwrap().is_ok());
    assert_eq!(first.username, "admin");
}

#[test]
fn t25_what_is_no_user_is_refused_by_member_and_nothing_is_made() {
    let world = World::new(Served::Accounts);
    world.user("admin", &["admin"]);
    let admin = world.logged_in("admin");
    let without = |member: &str| {
        let mut body = new("newuser");
        body.as_object_mut().unwrap().remove(member);
        (member.to_owned(), body)
    };
    let with = |member: &str, value: Value| {
        let mut body = new("newuser");
        body[member] = value;
        (member.to_owned(), body)
    };
    for (member, body) in [
        without("username"),
        without("password"),
        without("roles"),
        with("username", json!("a b")),
        with("username", json!("<script>")),
        with("username", json!("a".repeat(65))),
        with("username", json!(1)),
        with("password", json!("short")),
        with("password", json!("newuser")),
        with("password", json!("a".repeat(257))),
        with("email", json!("nobody")),
        with("email", json!("a@b\r\nbcc: c@d")),
        with("roles", json!("admin")),
        with("roles", json!([1])),
        with("roles", json!(["root"])),
        with("roles", json!(["*"])),
        with("roles", json!(vec!["viewer"; 17])),
        with("must_change_password", json!("yes")),
    ] {
        let answer = world.send("POST", "/api/v1/users", &admin, &body);
        assert_eq!(
            refused(&answer),
            refusal(400, "VALIDATION_FAILED"),
            "{body}"
        );
        assert_eq!(
            answer.json()["details"]["member"],
            member.as_str(),
            "{body}"
        );
        let text = answer.json().to_string();
        assert!(!text.contains("password123"), "{text}");
    }
    for taken in ["admin", "ADMIN"] {
        let answer = world.send("POST", "/api/v1/users", &admin, &new(taken));
        assert_eq!(refused(&answer), refusal(400, "ALREADY_EXISTS"));
    }
    assert_eq!(world.run(world.store.users()).unwrap().len(), 1);
    for path in ["/api/v1/users/nobody", "/api/v1/users/%ff"] {
        let answer = world.get(path, &admin);
        assert_eq!(refused(&answer), refusal(404, "NOT_FOUND"));
        let answer = world.send("PUT", path, &admin, &json!({ "email": "a@b" }));
        assert_eq!(refused(&answer), refusal(404, "NOT_FOUND"));
    }
}

#[test]
fn x01_a_member_that_no_route_of_accounts_has_is_refused_and_changes_nothing() {
    let world = World::new(Served::Accounts);
    let admin = world.user("admin", &["admin"]);
    let bob = world.user("bob", &["viewer"]);
    let session = world.logged_in("admin");
    let token = json!({ "name": "scrape", "role": "viewer" });
    let made = world.send("POST", "/api/v1/auth/tokens", &session, &token);
    let made = made.json()["id"].as_str().unwrap().to_owned();
    let of_bob = format!("/api/v1/users/{}", bob.id);
    let password = format!("{of_bob}/password");
    let token = format!("/api/v1/auth/tokens/{made}");
    let changes = world.audited().len();
    for (method, path, body) in [
        ("PUT", of_bob.as_str(), json!({ "disable": true })),
        ("PUT", &of_bob, json!({ "disabled": null })),
        ("PUT", &of_bob, json!({ "email": "a@b", "role": ["admin"] })),
        ("DELETE", &of_bob, json!({ "disabled": false })),
        ("POST", "/api/v1/users", {
            let mut body = new("newuser");
            body["disabled"] = true.into();
            body
        }),
        (
            "PUT",
            &password,
            json!({ "new_password": "another password", "must_change": true }),
        ),
        ("PUT", "/api/v1/auth/me", json!({ "mail": "a@b" })),
        // Roles are not one's own to change.
        (
            "PUT",
            "/api/v1/auth/me",
            json!({ "email": "a@b", "roles": ["admin"] }),
        ),
        (
            "PUT",
            "/api/v1/auth/me/password",
            json!({
                "current_password": PASSWORD, "new_password": "another password", "x": 1,
            }),
        ),
        (
            "POST",
            "/api/v1/auth/tokens",
            json!({
                "name": "scrape", "role": "viewer", "ttl": 1,
            }),
        ),
        ("DELETE", &token, json!({ "id": made })),
        ("POST", "/api/v1/auth/logout", json!({ "all": true })),
    ] {
        let answer = world.send(method, path, &session, &body);
        assert_eq!(
            refused(&answer),
            refusal(400, "VALIDATION_FAILED"),
            "{method} {path} {body}"
        );
    }
    assert_eq!(world.audited().len(), changes);
    assert_eq!(
        (world.stored("admin").id, world.stored("bob")),
        (admin.id, bob)
    );
    assert_eq!(world.me(&session), 200);
    // A login is the exception: clients of all versions must be able to log in.
    let body = json!({ "username": "bob", "password": PASSWORD, "remember": true });
    let answer = world.client().post("/api/v1/auth/login", &body);
    assert_eq!(answer.status, 200);
}

#[test]
fn a01_the_last_administrator_stays() {
    let world = World::new(Served::Accounts);
    let first = world.user("admin", &["admin"]);
    let admin = world.logged_in("admin");
    let path = format!("/api/v1/users/{}", first.id);
    for (method, body) in [
        ("DELETE", json!({})),
        ("PUT", json!({ "disabled": true })),
        ("PUT", json!({ "roles": ["operator"] })),
        ("PUT", json!({ "roles": [] })),
    ] {
        let answer = world.send(method, &path, &admin, &body);
        assert_eq!(
            refused(&answer),
            refusal(400, "LAST_ADMINISTRATOR"),
            "{method} {body}"
        );
    }
    assert_eq!(world.me(&admin), 200);
    assert_eq!(world.stored("admin"), world.stored("ADMIN"));
    world.user("second", &["admin"]);
    assert_eq!(world.send("DELETE", &path, &admin, &json!({})).status, 204);
    assert_eq!(world.me(&admin), 401);
    assert_eq!(world.log_in("second", PASSWORD).status, 200);
}
