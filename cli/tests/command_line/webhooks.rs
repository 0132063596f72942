//! Webhooks by way of `rat`: of a real server and a receiver that is not there, and of any answer.

use serde_json::json;

use crate::hostile_server::{HostileServer, Reply};
use crate::operator::Operator;
use crate::ratd::Ratd;

#[test]
fn webhooks_are_listed_shown_and_tried() {
    let keys = Operator::new();
    let key = keys.secret("key", &"5".repeat(64));
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let hook = format!(
        "webhook=[{{name=\"ops\", url=\"http://{address}/x?secret=y\", secret_file={key:?}, \
         allow=[\"127.0.0.0/8\"], plain_http=true}}]"
    );
    let ratd = Ratd::start(&[&hook]);
    let admin = ratd.operator("admin");
    let listed = admin.ok(&["webhooks", "list"]);
    assert!(
        listed.starts_with("NAME  STATE  QUEUED  DEAD LETTERS"),
        "{listed}"
    );
    assert!(
        listed.contains("\nops   idle   0") && !listed.contains("secret=y"),
        "{listed}"
    );
    let shown = admin.json(&["webhooks", "show", "ops"]);
    assert_eq!(
        (&shown["name"], &shown["state"]),
        (&json!("ops"), &json!("idle"))
    );
    assert_eq!(admin.ok(&["webhooks", "dead-letters", "ops"]), "(none)\n");
    let run = admin.rat(&["webhooks", "test", "ops", "--output", "json"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.json()["delivered"], false, "{run:?}");
    assert!(admin.ok(&["audit"]).contains("webhook.test"));
    for command in ["show", "test", "dead-letters"] {
        let said = admin.fails(1, &["webhooks", command, "other"]);
        assert!(said.contains("webhook"), "{said}");
    }
    let viewer = ratd.operator("viewer");
    assert_eq!(viewer.json(&["webhooks", "list"]), json!([shown]));
    let said = viewer.fails(1, &["webhooks", "test", "ops"]);
    assert!(said.contains("webhooks:manage"), "{said}");
}

#[test]
fn a_test_that_was_taken_is_told_from_one_that_was_not() {
    for (delivered, code) in [("true", 0), ("false", 1), ("\"true\"", 1), ("null", 1)] {
        let answer = format!(r#"{{"id":"x","delivered":{delivered},"error":null}}"#);
        let server = HostileServer::start(move |_| Reply::ok(&answer));
        let operator = server.operator();
        assert_eq!(
            operator.rat(&["webhooks", "test", "ops"]).code,
            code,
            "{delivered}"
        );
        assert_eq!(server.asked(), ["POST /webhooks/ops/test HTTP/1.1"]);
    }
}

#[test]
fn dead_letters_come_in_pages() {
    let letter = |number: u64| {
        json!([{
            "number": number, "id": "m", "agent_id": "a", "message": {"x": 1}, "queued_at": null,
            "given_up_at": null, "attempts": 3, "error": "it answered 503",
        }])
        .to_string()
    };
    let server = HostileServer::start(move |target| match target {
        "/webhooks/ops/dead-letters" => {
            Reply::ok(&letter(9)).with("link: </webhooks/ops/dead-letters?after=9>; rel=\"next\"")
        }
        _ => Reply::ok(&letter(4)),
    });
    let operator = server.operator();
    let all = operator.json(&["webhooks", "dead-letters", "ops"]);
    assert_eq!(
        (&all[0]["number"], &all[1]["number"]),
        (&json!(9), &json!(4))
    );
    let shown = operator.ok(&["webhooks", "dead-letters", "ops"]);
    assert!(
        shown.contains("m   a      -       -         3         it answered 503"),
        "{shown}"
    );
}

#[test]
fn a_dead_letter_is_sent_again_by_its_id() {
    let server = HostileServer::start(|target| match target {
        "/webhooks/ops/dead-letters/m-1/redeliver" => {
            Reply::ok(&json!({"id": "m-1", "agent_id": "a"}).to_string())
        }
        _ => Reply::ok("[]"),
    });
    let operator = server.operator();
    let queued = operator.json(&["webhooks", "redeliver", "ops", "m-1"]);
    assert_eq!(queued, json!({"id": "m-1", "agent_id": "a"}));
}
