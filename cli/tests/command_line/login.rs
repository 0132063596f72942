//! Sessions and tokens: opened, kept, shown to nobody else, ended. (A03, A07, X08)

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::hostile_server::{HostileServer, Reply};
use crate::operator::{Operator, mode};
use crate::ratd::Ratd;

const NEW: &str = "a much better password";

/// An operator who has logged in as the first user, with [`NEW`] as password.
fn logged_in(ratd: &Ratd) -> Operator {
    let operator = Operator::new();
    ratd.connect(&operator);
    let first = ratd.first_password().display().to_string();
    let new = operator.secret("new", NEW);
    let login = ["login", "--username", "admin", "--password-file", &first];
    let run = operator.json(&[&login[..], &["--new-password-file", &new]].concat());
    assert_eq!(run["logged_in_as"], "admin");
    operator
}

fn session(operator: &Operator) -> Value {
    let text = std::fs::read_to_string(operator.saved("session.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a03_the_first_password_is_changed_and_the_session_kept_until_logout() {
    let ratd = Ratd::start(&["log.level=trace"]);
    let operator = logged_in(&ratd);
    assert!(!ratd.first_password().exists());
    assert_eq!(mode(&operator.saved("session.json")), 0o600);
    let token = session(&operator)["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("rats_"));
    let me = operator.json(&["whoami"]);
    assert_eq!(
        (&me["username"], &me["roles"]),
        (&json!("admin"), &json!(["admin"]))
    );
    assert_eq!(operator.json(&["agents", "list"]), json!([]));
    assert!(
        operator
            .ok(&["doctor"])
            .contains("admin (admin), from the saved session")
    );
    assert!(operator.ok(&["logout"]).contains("logged out"));
    assert!(!operator.saved("session.json").exists());
    for command in [["whoami"], ["logout"]] {
        let said = operator.fails(2, &command);
        assert!(said.contains("rat login"), "{said}");
    }
    // The server knows that it is over, and neither secret stands in its log.
    let stolen = Operator::new().with("RAT_TOKEN", &token);
    ratd.connect(&stolen);
    let said = stolen.fails(1, &["agents", "list"]);
    assert!(
        said.contains("rat login") && !said.contains(&token),
        "{said}"
    );
    let log = ratd.log();
    assert!(!log.contains(&token[21..]) && !log.contains(NEW));
    // The password is the new one.
    let run = operator.rat_reading(
        &format!("{NEW}\n"),
        &["login", "--username", "admin", "--password-stdin"],
    );
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn a03_a_password_that_must_be_changed_opens_nothing() {
    let ratd = Ratd::start(&[]);
    let operator = Operator::new();
    ratd.connect(&operator);
    let first = ratd.first_password().display().to_string();
    let login = ["login", "--username", "admin", "--password-file", &first];
    let said = operator.fails(2, &login);
    assert!(said.contains("--new-password-file"), "{said}");
    assert!(!operator.saved("session.json").exists());
    let short = operator.secret("short", "abc");
    let said = operator.fails(1, &[&login[..], &["--new-password-file", &short]].concat());
    assert!(said.contains("8 to 256"), "{said}");
    assert!(!operator.saved("session.json").exists() && ratd.first_password().exists());
}

#[test]
fn x08_a_wrong_name_and_a_wrong_password_are_answered_alike() {
    let ratd = Ratd::start(&[]);
    let operator = Operator::new();
    ratd.connect(&operator);
    let wrong = |name: &str| {
        let arguments = ["login", "--username", name, "--password-stdin"];
        let run = operator.rat_reading("not the password\n", &arguments);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
        assert!(!run.stderr.contains("not the password"), "{run:?}");
        run.stderr
    };
    assert_eq!(wrong("admin"), wrong("nobody"));
    for input in ["", "\n"] {
        let arguments = ["login", "--username", "admin", "--password-stdin"];
        let run = operator.rat_reading(input, &arguments);
        assert_eq!(run.code, 2, "{run:?}");
    }
    assert!(!operator.saved("session.json").exists());
}

/// Reads until this text has come.
pub(crate) fn read_until(output: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let read = output.read(&mut byte).unwrap();
        assert_eq!(read, 1, "no `{text}`: {}", String::from_utf8_lossy(&seen));
        seen.extend(byte);
    }
    String::from_utf8(seen).unwrap()
}

#[test]
fn a03_a_terminal_does_not_show_the_password() {
    let ratd = Ratd::start(&[]);
    let operator = Operator::new();
    ratd.connect(&operator);
    let first = std::fs::read_to_string(ratd.first_password()).unwrap();
    let mut command = Command::new("script");
    operator.prepare(&mut command);
    let line = format!("{} login", env!("CARGO_BIN_EXE_rat"));
    let mut child = command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of util-linux");
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    for (question, answer) in [
        ("Username: ", "admin"),
        ("Password: ", first.trim()),
        ("New password: ", NEW),
        ("Again: ", NEW),
    ] {
        shown.push_str(&read_until(&mut output, question));
        writeln!(input, "{answer}").unwrap();
    }
    output.read_to_string(&mut shown).unwrap();
    assert!(child.wait().unwrap().success(), "{shown}");
    assert!(shown.contains("logged in as"), "{shown}");
    assert!(
        !shown.contains(first.trim()) && !shown.contains(NEW),
        "{shown}"
    );
    assert_eq!(operator.json(&["whoami"])["username"], "admin");
}

#[test]
fn a03_a_prompt_that_is_interrupted_leaves_the_terminal_as_it_was() {
    let nowhere = Operator::new()
        .with("RAT_SERVER", "https://127.0.0.1:1")
        .with("RAT_CA_SHA256", &"00".repeat(32));
    let mut command = Command::new("script");
    nowhere.prepare(&mut command);
    let rat = env!("CARGO_BIN_EXE_rat");
    let line = format!("trap : INT; stty -a; {rat} login --username x; echo \"code $?\"; stty -a");
    let mut child = command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of util-linux");
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let before = read_until(&mut output, "Password: ");
    input.write_all(b"secr\x03").unwrap();
    let mut after = String::new();
    output.read_to_string(&mut after).unwrap();
    child.wait().unwrap();
    // As a program ends that the signal has killed.
    assert!(after.contains("\r\ncode 130\r\n"), "{after}");
    assert!(!after.contains("secr"), "{after}");
    let modes = |text: &str| -> Vec<String> {
        let (_, modes) = text.split_once("speed ").unwrap();
        let words = modes.split_whitespace().map(str::to_owned);
        words
            .take_while(|word| !word.starts_with("Password"))
            .collect()
    };
    let (before, after) = (modes(&before), modes(&after));
    assert!(before.contains(&"echo".to_owned()), "{before:?}");
    assert_eq!(after, before);
}

#[test]
fn a03_a_session_is_shown_to_its_own_server_alone() {
    let ratd = Ratd::start(&[]);
    let operator = logged_in(&ratd);
    let other = HostileServer::start(|_| Reply::ok("[]"));
    let pin = ["--server", &other.url, "--ca-sha256", &other.fingerprint];
    let said = operator.fails(2, &[&["agents", "list"][..], &pin].concat());
    assert!(said.contains("not logged in"), "{said}");
    operator.fails(2, &[&["logout"][..], &pin].concat());
    assert!(operator.saved("session.json").exists());
    operator.ok(&["connect", &other.url, "--ca-sha256", &other.fingerprint]);
    operator.fails(2, &["agents", "list"]);
    // Who goes to another server for good leaves the session behind.
    assert!(!operator.saved("session.json").exists());
    for request in other.requests.lock().unwrap().iter() {
        let head = request.head.to_lowercase();
        assert!(!head.contains("authorization"), "{head}");
    }
}

#[test]
fn a03_a_session_that_has_ended_says_so() {
    let ratd = Ratd::start(&[]);
    let operator = logged_in(&ratd);
    // The same session, ended from elsewhere.
    let elsewhere = Operator::new();
    std::fs::create_dir_all(elsewhere.saved("")).unwrap();
    for file in ["server.json", "session.json"] {
        std::fs::copy(operator.saved(file), elsewhere.saved(file)).unwrap();
    }
    elsewhere.ok(&["logout"]);
    let run = operator.rat(&["agents", "list", "--output", "json"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.json()["error"]["status"], 401);
    assert!(run.stderr.contains("log in again"), "{run:?}");
    let run = operator.rat(&["doctor"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("run `rat login`"), "{run:?}");
    // What has ended can be forgotten.
    operator.ok(&["logout"]);
    assert!(!operator.saved("session.json").exists());
}

#[test]
fn a07_tokens_of_scripts_come_from_the_environment_or_from_private_files() {
    let ratd = Ratd::start(&[]);
    let token = ratd.api_token("viewer");
    let mut operator = Operator::new();
    ratd.connect(&operator);
    let file = operator.secret("token", &format!("{token}\n"));
    assert_eq!(
        operator.json(&["agents", "list", "--token-file", &file]),
        json!([])
    );
    operator.set("RAT_TOKEN_FILE", Some(&file));
    assert_eq!(operator.json(&["agents", "list"]), json!([]));
    let me = operator.json(&["whoami"]);
    assert_eq!(me["api_token"], &token[4..20]);
    assert!(!me.to_string().contains(&token[20..]));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    for arguments in [&["agents", "list"][..], &["status", "--token-file", &file]] {
        let said = operator.fails(2, arguments);
        assert!(said.contains("chmod 600"), "{said}");
    }
    // The variable goes before the file.
    operator.set("RAT_TOKEN", Some(&token));
    assert_eq!(operator.json(&["agents", "list"]), json!([]));
    let enrolment = format!("esp_{}", "0".repeat(112));
    for unusable in ["", " ", "a b", "x\u{1b}[2J", &enrolment] {
        operator.set("RAT_TOKEN", Some(unusable));
        let said = operator.fails(2, &["agents", "list"]);
        assert!(
            said.contains("RAT_TOKEN") && !said.contains('\u{1b}'),
            "{said}"
        );
    }
    ratd.ok(&["api-token", "revoke", &token[4..20]]);
    operator.set("RAT_TOKEN", Some(&token));
    let said = operator.fails(1, &["agents", "list"]);
    assert!(said.contains("make another token"), "{said}");
    assert!(!said.contains(&token[20..]), "{said}");
}
