//! The first contact, and what is kept of it. (N14, A07)

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::hostile_server::{HostileServer, Reply};
use crate::operator::{Operator, mode};
use crate::ratd::Ratd;

#[test]
fn n14_a_server_with_another_ca_is_sent_nothing() {
    let server = HostileServer::start(|_| Reply::ok("[]"));
    let operator = Operator::new().with("RAT_TOKEN", &format!("rat_{}", "5".repeat(80)));
    let other = "ab".repeat(32);
    let said = operator.fails(3, &["connect", &server.url, "--ca-sha256", &other]);
    assert!(
        said.contains(&other) && said.contains("Nothing was sent"),
        "{said}"
    );
    assert_eq!(server.asked(), [""; 0]);
    assert!(!operator.saved("server.json").exists());
    // Neither is a server that was pinned before, and that somebody else stands in for.
    let pin = ["--server", &server.url, "--ca-sha256", &other];
    for command in [&["agents", "list"][..], &["status"], &["whoami"]] {
        operator.fails(3, &[command, &pin].concat());
    }
    assert_eq!(server.asked(), [""; 0]);
}

#[test]
fn n14_a_first_contact_without_a_fingerprint_is_wrong_usage() {
    let operator = Operator::new();
    let said = operator.fails(2, &["connect", "https://127.0.0.1:1"]);
    assert!(said.contains("--ca-sha256"), "{said}");
    let pin = "ab".repeat(32);
    for url in [
        "http://127.0.0.1:1",
        "127.0.0.1:1",
        "https://a/b",
        "https://u@a",
    ] {
        let said = operator.fails(2, &["connect", url, "--ca-sha256", &pin]);
        assert!(said.contains("https://host:port"), "{said}");
    }
    for pin in ["", "ab", &"zz".repeat(32)] {
        operator.fails(2, &["connect", "https://127.0.0.1:1", "--ca-sha256", pin]);
    }
    let said = operator.fails(2, &["agents", "list"]);
    assert!(said.contains("rat connect"), "{said}");
    let said = operator.fails(2, &["agents", "list", "--server", "https://127.0.0.1:1"]);
    assert!(said.contains("--ca-sha256"), "{said}");
    assert!(!operator.path("config").exists());
}

#[test]
fn a07_what_is_kept_is_for_its_owner_alone() {
    let ratd = Ratd::start(&[]);
    let operator = Operator::new();
    let fingerprint = ratd.fingerprint();
    let connected = operator.json(&["connect", &ratd.url, "--ca-sha256", &fingerprint]);
    assert_eq!(connected["connected"], ratd.url.as_str());
    assert_eq!(connected["version"], env!("CARGO_PKG_VERSION"));
    let file = operator.saved("server.json");
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        kept,
        json!({ "server": ratd.url, "ca_sha256": fingerprint })
    );
    // Whoever could read it could have written it, or its neighbour.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = operator.fails(2, &["agents", "list"]);
    assert!(said.contains("chmod 600"), "{said}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "{}").unwrap();
    let said = operator.fails(2, &["agents", "list"]);
    assert!(said.contains("server.json is not what rat wrote"), "{said}");
    // As other programs write fingerprints.
    let pairs: Vec<String> = fingerprint
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
        .collect();
    operator.ok(&["connect", &ratd.url, "--ca-sha256", &pairs.join(":")]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text).unwrap(),
        kept
    );
}

#[test]
fn where_it_is_kept_follows_the_environment() {
    let server = HostileServer::start(|_| Reply::ok("[]"));
    let connect = ["connect", &server.url, "--ca-sha256", &server.fingerprint];
    let mut operator = Operator::new().with("XDG_CONFIG_HOME", "relative");
    operator.ok(&connect);
    assert!(operator.path("home/.config/rat/server.json").exists());
    assert!(!operator.path("relative").exists());
    operator.set("HOME", Some(""));
    let said = operator.fails(2, &connect);
    assert!(said.contains("XDG_CONFIG_HOME"), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_exit_code_3() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let operator = Operator::new().with("RAT_TOKEN", &format!("rat_{}", "5".repeat(80)));
    let pin = "ab".repeat(32);
    let said = operator.fails(3, &["connect", &url, "--ca-sha256", &pin]);
    assert!(said.contains("cannot be reached"), "{said}");
    assert_eq!(said.matches("refused").count(), 1, "{said}");
    let arguments = ["status", "--server", &url, "--ca-sha256", &pin];
    let run = operator.rat(&[&arguments[..], &["--output", "json"]].concat());
    assert_eq!(run.code, 3);
    let message = run.json()["error"]["message"].to_string();
    assert!(message.contains("cannot be reached"), "{message}");
}

#[test]
fn doctor_says_what_to_do() {
    let operator = Operator::new();
    let run = operator.rat(&["doctor"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("to do: run `rat connect`"), "{run:?}");
    let ratd = Ratd::start(&[]);
    ratd.connect(&operator);
    let run = operator.rat(&["doctor"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("to do: run `rat login`"), "{run:?}");
    let run = operator.rat(&["doctor", "--ca-sha256", &"ab".repeat(32)]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("somebody stands between"), "{run:?}");
    let operator = ratd.operator("viewer");
    let found = operator.json(&["doctor"]);
    for check in found["checks"].as_array().unwrap() {
        assert_eq!(check["result"], "ok", "{found}");
    }
    let checks = found["checks"].as_array().unwrap().iter();
    let names: Vec<_> = checks
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    let all = [
        "files",
        "configuration",
        "CA",
        "connection",
        "clock",
        "login",
    ];
    assert_eq!(names, all);
}
