//! Accounts, API tokens and the audit log, by an administrator and by others.

use serde_json::{Value, json};

use crate::operator::Operator;
use crate::ratd::Ratd;

const PASSWORD: &str = "correct horse battery";

/// An administrator who has logged in.
fn administrator(ratd: &Ratd) -> Operator {
    let operator = Operator::new();
    ratd.connect(&operator);
    let first = ratd.first_password().display().to_string();
    let new = operator.secret("new", PASSWORD);
    let login = ["login", "--username", "admin", "--password-file", &first];
    operator.ok(&[&login[..], &["--new-password-file", &new]].concat());
    operator
}

fn names(list: &Value, member: &str) -> Vec<String> {
    let items = list.as_array().unwrap().iter();
    items
        .map(|item| item[member].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn users_are_made_used_and_kept_out() {
    let ratd = Ratd::start(&[]);
    let admin = administrator(&ratd);
    let create = [
        "users",
        "create",
        "ada",
        "--role",
        "viewer",
        "--password-stdin",
    ];
    let run = admin.rat_reading(&format!("{PASSWORD}\n"), &create);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!run.stdout.contains(PASSWORD), "{run:?}");
    let run = admin.rat_reading(&format!("{PASSWORD}\n"), &create);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(
        names(&admin.json(&["users", "list"]), "username"),
        ["ada", "admin"]
    );

    let ada = Operator::new();
    ratd.connect(&ada);
    let first = ada.secret("first", PASSWORD);
    let login = ["login", "--username", "ada", "--password-file", &first];
    // Who made the account is to know its password no longer.
    assert!(ada.fails(2, &login).contains("--new-password-file"));
    let new = ada.secret("new", "a password of her own");
    ada.ok(&[&login[..], &["--new-password-file", &new]].concat());
    assert_eq!(ada.json(&["agents", "list"]), serde_json::json!([]));
    for forbidden in [
        &["groups", "create", "g"][..],
        &["tokens", "create", "g", "--baseline"],
        &["users", "list"],
        &["audit"],
    ] {
        ada.fails(1, forbidden);
    }
    let run = ada.rat(&["users", "list", "--output", "yaml"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("status: 403"), "{run:?}");

    assert_eq!(admin.json(&["users", "disable", "ADA"])["disabled"], "ada");
    let said = ada.fails(1, &["agents", "list"]);
    assert!(said.contains("log in again"), "{said}");
    let said = admin.fails(1, &["users", "disable", "nobody"]);
    assert!(said.contains("no user `nobody`"), "{said}");
}

/// `ada`, a viewer.
fn with_ada(ratd: &Ratd) -> Operator {
    let admin = administrator(ratd);
    let password = admin.secret("password", PASSWORD);
    let create = ["users", "create", "ada", "--role", "viewer"];
    admin.ok(&[&create[..], &["--password-file", &password]].concat());
    admin
}

#[test]
fn users_are_shown_and_changed() {
    let ratd = Ratd::start(&[]);
    let admin = with_ada(&ratd);
    let shown = admin.json(&["users", "show", "ADA"]);
    assert_eq!(
        (&shown["username"], &shown["roles"]),
        (&json!("ada"), &json!(["viewer"]))
    );
    let said = admin.fails(2, &["users", "set", "ada"]);
    assert!(said.contains("rat users set --help"), "{said}");
    let roles = ["--role", "operator", "--role", "viewer"];
    let email = ["--email", "ada@example.com"];
    let changed = admin.json(&[&["users", "set", "ada"][..], &roles, &email].concat());
    assert_eq!(
        (&changed["roles"], &changed["email"]),
        (&json!(["operator", "viewer"]), &json!("ada@example.com"))
    );
    admin.ok(&["users", "disable", "ada"]);
    assert_eq!(admin.json(&["users", "show", "ada"])["disabled"], true);
    let changed = admin.json(&["users", "set", "ada", "--disabled", "false"]);
    assert_eq!(
        (&changed["disabled"], &changed["roles"]),
        (&json!(false), &json!(["operator", "viewer"]))
    );
    let roles = admin.json(&["users", "roles"]);
    assert_eq!(names(&roles, "id"), ["admin", "operator", "viewer"]);
    for command in [
        &["users", "show", "nobody"][..],
        &["users", "set", "nobody", "--email", "x"],
    ] {
        let said = admin.fails(1, command);
        assert!(said.contains("no user `nobody`"), "{said}");
    }
    let said = admin.fails(1, &["users", "set", "admin", "--disabled", "true"]);
    assert!(said.contains("last administrator"), "{said}");
}

#[test]
fn a03_passwords_are_given_by_others_once_and_then_are_ones_own() {
    let ratd = Ratd::start(&[]);
    let admin = with_ada(&ratd);
    let given = admin.secret("given", "another password");
    let give = ["users", "password", "ada", "--password-file", &given];
    assert_eq!(admin.json(&give)["password_of"], "ada");
    let ada = Operator::new();
    ratd.connect(&ada);
    let (old, first) = (
        ada.secret("old", PASSWORD),
        ada.secret("first", "another password"),
    );
    let (new, newer) = (
        ada.secret("new", "a password of her own"),
        ada.secret("newer", "another of her own"),
    );
    let login = |password: &str| {
        let login = ["login", "--username", "ada", "--password-file", password];
        let run = ada.rat(&[&login[..], &["--new-password-file", &new]].concat());
        run.code
    };
    assert_eq!(login(&old), 1);
    assert_eq!(login(&first), 0, "and it was changed at once");
    let changed = ada.json(&["account", "set", "--email", "lovelace@example.com"]);
    assert_eq!(changed["email"], "lovelace@example.com");
    let change = |present: &str| {
        let change = ["account", "password", "--password-file", present];
        ada.rat(&[&change[..], &["--new-password-file", &newer]].concat())
    };
    assert_eq!(change(&first).code, 1, "that is not her password");
    let run = change(&new);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        ada.json(&["whoami"])["username"],
        "ada",
        "the session stays"
    );
    assert_eq!(login(&new), 1);
    let said = ada.fails(2, &["account", "password", "--password-file", &newer]);
    assert!(said.contains("--new-password-file"), "{said}");
}

#[test]
fn api_tokens_are_made_used_and_ended() {
    let ratd = Ratd::start(&[]);
    let admin = administrator(&ratd);
    let made = admin.json(&[
        "api-tokens",
        "create",
        "ci",
        "--role",
        "viewer",
        "--ttl-hours",
        "2",
    ]);
    let token = made["token"].as_str().unwrap().to_owned();
    let listed = admin.ok(&["api-tokens", "list"]);
    assert!(
        listed.contains("ci") && !listed.contains(&token[20..]),
        "{listed}"
    );
    let mut script = Operator::new();
    ratd.connect(&script);
    script.set("RAT_TOKEN", Some(&token));
    assert_eq!(script.json(&["agents", "list"]), serde_json::json!([]));
    // A program has no account, and makes no tokens.
    assert_eq!(script.json(&["whoami"])["api_token"], made["id"]);
    script.fails(1, &["api-tokens", "create", "more", "--role", "viewer"]);
    let id = made["id"].as_str().unwrap();
    assert_eq!(admin.json(&["api-tokens", "revoke", id])["revoked"], id);
    assert!(
        script
            .fails(1, &["agents", "list"])
            .contains("make another token")
    );
    let all = admin.json(&["api-tokens", "list", "--all"]);
    assert!(names(&all, "name").contains(&"ci".to_owned()), "{all}");
    for other in ["0123456789abcdef", ".."] {
        let run = admin.rat(&["api-tokens", "revoke", other]);
        assert!(matches!(run.code, 1 | 2), "{run:?}");
    }
}

#[test]
fn the_audit_log_names_who_did_what() {
    let ratd = Ratd::start(&[]);
    let admin = administrator(&ratd);
    admin.ok(&["groups", "create", "prod", "--approval", "manual"]);
    admin.ok(&["groups", "set", "prod", "--block", "true"]);
    let entries = admin.json(&["audit"]);
    let entries = entries.as_array().unwrap();
    let of_group = |entry: &&Value| entry["target"].to_string().contains("prod");
    let of_group: Vec<_> = entries.iter().filter(of_group).collect();
    assert!(of_group.len() >= 2, "{entries:?}");
    for entry in of_group {
        assert!(
            entry["actor"].as_str().unwrap().contains("admin"),
            "{entry}"
        );
    }
    let last = entries.last().unwrap()["seq"].as_u64().unwrap();
    let after = (last - 1).to_string();
    let tail = admin.json(&["audit", "--after", &after]);
    assert_eq!(tail.as_array().unwrap().len(), 1);
    let newest = admin.json(&["audit", "--limit", "2"]);
    assert_eq!(newest.as_array().unwrap()[..], entries[entries.len() - 2..]);
    let first = admin.json(&["audit", "--limit", "1", "--after", "0"]);
    assert_eq!(first.as_array().unwrap()[..], entries[..1]);
    assert!(admin.ok(&["audit"]).starts_with("SEQ"));
}
