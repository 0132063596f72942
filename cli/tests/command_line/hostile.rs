//! What a server, or a machine by way of it, could say to fool who reads it. (X01, X07)

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::hostile_server::{HostileServer, Reply};
use crate::operator::Operator;
use crate::run::Run;

/// Moves the cursor, rings, ends the line, turns the reading direction around.
const HOSTILE: &str = "a\u{1b}[2J\u{7}\r\n\u{9b}31m\u{202e}<script>'\u{e0041}";

fn is_harmless(text: &str) -> bool {
    let hides = ['\u{202e}', '\u{e0041}'];
    let is_harmless = |c: char| c == '\n' || !c.is_control() && !hides.contains(&c);
    text.chars().all(is_harmless)
}

fn agents(id: &str) -> String {
    json!([{
        "id": id, "hostname": HOSTILE, "ip_address": "192.0.2.1", "status": "failed",
        "policy_group_id": "g", "effective_status": "untrusted", "registered_at": null,
        "last_checkin": "2026-01-31T00:00:00Z", "a_member_of_tomorrow": {"deep": [1.5, -2, HOSTILE]},
    }])
    .to_string()
}

#[test]
fn x07_nothing_that_a_server_says_drives_a_terminal() {
    let server = HostileServer::start(|target| {
        let evidence = json!({
            "agent": {"id": HOSTILE, "effective_status": HOSTILE, HOSTILE: 1},
            "attestation": null, "policy": {"name": HOSTILE},
            "first_offence": {"code": HOSTILE, "detail": HOSTILE, "path": HOSTILE},
            "what_to_do": HOSTILE, "warning": HOSTILE,
        });
        let diff = json!({
            "from": {"id": HOSTILE, "name": HOSTILE}, "to": {},
            "added_paths": [{"path": HOSTILE, "digests": [HOSTILE]}], "added_paths_count": 9,
            "changed": [{"path": HOSTILE, "digests_added": [HOSTILE], "digests_removed": []}],
            "excludes_added": [HOSTILE], "other_members": [HOSTILE],
        });
        match target {
            "/agents/gone" => Reply::of(
                404,
                &json!({"detail": HOSTILE, "code": HOSTILE}).to_string(),
            ),
            "/agents/busy" => Reply::of(503, &json!({"detail": HOSTILE}).to_string()),
            "/agents/strange" => Reply::ok(HOSTILE),
            "/agents/one" => Reply::ok(&json!({"id": HOSTILE, HOSTILE: HOSTILE}).to_string()),
            "/agents/one/evidence" => Reply::ok(&evidence.to_string()),
            "/policies/p-g-001" => Reply::ok(
                &json!({
                    "id": "p", "name": HOSTILE, "version": "1", "status": HOSTILE,
                    "content": {HOSTILE: HOSTILE},
                })
                .to_string(),
            ),
            _ if target.starts_with("/policies/p-g-002/diff") => Reply::ok(&diff.to_string()),
            _ => Reply::ok(&agents(HOSTILE)),
        }
    });
    let operator = server.operator();
    let mut seen = 0;
    for command in [
        &["agents", "list"][..],
        &["agents", "show", "one"],
        &["agents", "show", "gone"],
        &["agents", "show", "busy"],
        &["agents", "show", "strange"],
        &["agents", "watch", "--until", "failed"],
        &["evidence", "one"],
        &["audit"],
        &["groups", "list"],
        &["tokens", "list"],
        &["policies", "list"],
        &["policies", "show", "p-g-001"],
        &["policies", "show", "p-g-001", "--content"],
        &["policies", "diff", "p-g-001", "p-g-002"],
    ] {
        for format in ["table", "json", "yaml"] {
            let run = operator.rat(&[command, &["--output", format]].concat());
            assert!(
                is_harmless(&run.stdout) && is_harmless(&run.stderr),
                "{run:?}"
            );
            assert!(!run.stdout.is_empty() || format == "table", "{run:?}");
            seen += usize::from((run.stdout + &run.stderr).contains("script"));
        }
    }
    // They were told all the same, but for codes that tables have no column for.
    assert!(seen >= 30, "{seen}");
}

/// Three pages of one agent each, and after them whatever `last` says.
fn paged(last: &'static str) -> HostileServer {
    HostileServer::start(move |target| {
        let after = target.rsplit_once("after=").map_or("0", |(_, after)| after);
        let page: usize = after.parse().unwrap();
        let reply = Reply::ok(&agents(&format!("agent-{}", page + 1)));
        match page {
            0..2 => {
                let next = format!("/agents/?group=g%20h&after={}", page + 1);
                reply.with(&format!("link: <{next}>; rel=\"next\""))
            }
            _ => reply.with(&format!("link: {last}")),
        }
    })
}

fn ids(run: &Run) -> Vec<String> {
    assert_eq!(run.code, 0, "{run:?}");
    let json = run.json();
    let items = json.as_array().unwrap().iter();
    items
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn lists_are_read_to_their_end_and_no_further() {
    let list = ["agents", "list", "--group", "g h", "--output", "json"];
    for last in [
        "<https://evil.example/agents/?after=3>; rel=\"next\"",
        "<//evil.example/agents/?after=3>; rel=\"next\"",
        "</users?after=3>; rel=\"next\"",
        "</agents/?group=g%20h&after=2>; rel=\"next\"",
        "</agents/?after=9>; rel=\"prev\"",
        "nonsense",
    ] {
        let server = paged(last);
        let operator = server.operator();
        let run = operator.rat(&list);
        assert_eq!(ids(&run), ["agent-1", "agent-2", "agent-3"], "{last}");
        assert_eq!(server.asked().len(), 3, "{last}");
        assert_eq!(server.asked()[0], "GET /agents/?group=g%20h HTTP/1.1");
        server.requests.lock().unwrap().clear();
        let run = operator.rat(&[&list[..], &["--limit", "2"]].concat());
        assert_eq!(ids(&run), ["agent-1", "agent-2"]);
        assert_eq!(server.asked().len(), 2, "{last}");
        assert!(server.asked()[0].contains("limit=2"), "{last}");
    }
}

#[test]
fn x01_answers_that_are_none_end_with_exit_code_3() {
    let server = HostileServer::start(|target| match target {
        "/agents/?status=short" => Reply::ok("[{\"id\":").with("x: y"),
        "/agents/?status=html" => Reply::ok("<html>"),
        "/agents/?status=object" => Reply::ok("{}"),
        "/agents/?status=deep" => Reply::ok(&"[".repeat(100_000)),
        "/agents/?status=later" => Reply::of(503, "{}").with("retry-after: 7"),
        "/agents/?status=often" => Reply::of(429, r#"{"detail":"slowly"}"#),
        "/agents/?status=moved" => Reply::of(302, "").with("location: https://evil.example/"),
        _ => Reply::of(418, ""),
    });
    let operator = server.operator();
    for (status, code, said) in [
        ("short", 3, "something else than was expected"),
        ("html", 3, "something else than was expected"),
        ("object", 3, "something else than was expected"),
        ("deep", 3, "recursion limit"),
        ("later", 3, "try again in 7 s"),
        ("often", 3, "slowly"),
        ("moved", 1, "with status 302"),
        ("teapot", 1, "with status 418"),
    ] {
        let heard = operator.fails(code, &["agents", "list", "--status", status]);
        assert!(heard.contains(said), "{status}: {heard}");
        assert!(!heard.contains(&"5".repeat(20)), "{heard}");
    }
    assert_eq!(server.asked().len(), 8, "each was asked for once");
}

#[test]
fn x07_names_of_operators_stay_in_their_place() {
    let server = HostileServer::start(|_| Reply::of(404, "{}"));
    let operator = server.operator();
    for name in ["..", ".", ""] {
        operator.fails(2, &["agents", "show", name]);
    }
    assert_eq!(server.asked(), [""; 0]);
    operator.fails(1, &["agents", "show", "../policies/x?y#\r\nz: 1"]);
    let asked = "GET /agents/..%2Fpolicies%2Fx%3Fy%23%0D%0Az%3A%201 HTTP/1.1";
    assert_eq!(server.asked(), [asked]);
}

#[test]
fn programs_see_what_the_server_said_and_people_a_table() {
    let agents = r#"[{"id":"a","hostname":"web-1","status":"active","effective_status":"trusted",
        "policy_group_id":"yes","last_checkin":null,"new":{"n":1}}]"#;
    let server = HostileServer::start(move |_| Reply::ok(agents));
    let operator = server.operator();
    let list = |format| operator.ok(&["agents", "list", "--output", format]);
    assert_eq!(
        list("table"),
        "ID  HOSTNAME  GROUP  STATUS  EFFECTIVE  LAST CHECK-IN\n\
         a   web-1     yes    active  trusted    -\n"
    );
    let json = "[\n  {\n    \"id\": \"a\",\n    \"hostname\": \"web-1\",\n    \"status\": \"active\",\n    \
                \"effective_status\": \"trusted\",\n    \"policy_group_id\": \"yes\",\n    \
                \"last_checkin\": null,\n    \"new\": {\n      \"n\": 1\n    }\n  }\n]\n";
    assert_eq!(list("json"), json);
    let yaml = "- id: a\n  hostname: web-1\n  status: active\n  effective_status: trusted\n  \
                policy_group_id: \"yes\"\n  last_checkin: null\n  new:\n    \"n\": 1\n";
    assert_eq!(list("yaml"), yaml);
}

#[test]
fn colours_are_for_terminals() {
    let server = HostileServer::start(|_| Reply::ok(&agents("a")));
    let mut operator = server.operator();
    let at_terminal = |operator: &Operator| {
        let line = format!("{} agents list", env!("CARGO_BIN_EXE_rat"));
        let mut command = Command::new("script");
        operator.prepare(&mut command);
        let output = command
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .output()
            .expect("script, of util-linux");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(at_terminal(&operator).contains("\u{1b}[1;31mfailed"));
    operator.set("NO_COLOR", Some("1"));
    assert!(!at_terminal(&operator).contains("\u{1b}[1;31m"));
    operator.set("NO_COLOR", None);
    assert!(!operator.ok(&["agents", "list"]).contains('\u{1b}'));
}

/// `rat` beside a `rat-agent` that writes down how it was called.
fn beside_agent(operator: &Operator) -> std::path::PathBuf {
    let rat = operator.path("bin/rat");
    std::fs::create_dir(operator.path("bin")).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_rat"), &rat).unwrap();
    let agent = operator.path("bin/rat-agent");
    let script = "#!/bin/sh\necho \"$@\"\ncat\nexit 7\n";
    std::fs::write(&agent, script).unwrap();
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    rat
}

#[test]
fn a03_enrolment_is_handed_to_the_agent_and_the_token_over_a_pipe() {
    let operator = Operator::new();
    let rat = beside_agent(&operator);
    let enroll = |arguments: &[&str]| {
        let mut command = Command::new(&rat);
        operator.prepare(&mut command);
        Run::of(command.arg("enroll").args(arguments).output().unwrap())
    };
    let (standard, baseline) = (
        format!("esp_{}", "a".repeat(112)),
        format!("esp_b_{}", "b".repeat(112)),
    );
    let server = ["--server", "https://ratd.example:8001"];
    let run = enroll(&[&[standard.as_str()], &server[..], &["--", "--tcti", "x y"]].concat());
    let said = format!("enroll - --server https://ratd.example:8001 --tcti x y\n{standard}\n");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (7, said.as_str()),
        "{run:?}"
    );
    let file = operator.secret("token", &format!("{baseline}\n"));
    let run = enroll(&[&["--baseline", "--token-file", &file], &server[..]].concat());
    assert!(
        run.code == 7 && run.stdout.ends_with(&format!("\n{baseline}\n")),
        "{run:?}"
    );
    // Refused before anything runs.
    let run = enroll(&[&[standard.as_str(), "--baseline"], &server[..]].concat());
    assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
    assert!(run.stderr.contains("no baseline token"), "{run:?}");
    let run = enroll(&[&["esp_x"], &server[..]].concat());
    assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
    let run = enroll(&[standard.as_str()]);
    assert!(
        run.code == 2 && run.stderr.contains("rat connect"),
        "{run:?}"
    );
}
