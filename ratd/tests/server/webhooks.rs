//! Webhooks of the program as it is run: what arrives over restarts and kills, and what people see.

use std::os::unix::fs::PermissionsExt;

use rat_engine::agent_id::AgentId;
use rat_engine::shard::EffectiveStatus;
use rat_store::{Noted, StatusNote, Store};
use rat_tests::receiver::{Delivery, Receiver, Reply, recipe_takes};
use rustix::process::Signal;
use serde_json::Value;

use crate::attested::Attested;
use crate::operating::Operated;
use crate::process::{Home, eventually, metric};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The option that names this receiver, with the key in a file of this home.
pub(crate) fn option(home: &Home, receiver: &Receiver, more: &str) -> String {
    let key = home.path("webhook.key");
    std::fs::write(&key, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!(
        "webhook=[{{name=\"hook\", url={:?}, secret_file={key:?}, ca_file={:?}, \
         allow=[\"127.0.0.0/8\"]{more}}}]",
        receiver.url("/ratd?key=hidden"),
        receiver.ca_file(),
    )
}

fn changes(taken: &[Delivery]) -> Vec<[String; 2]> {
    let both = |delivery: &Delivery| ["from", "to"].map(|member| delivery.text(member));
    taken.iter().map(both).collect()
}

fn shown(server: &Operated) -> Value {
    server.expect("GET", "/webhooks/", None, 200)[0].clone()
}

fn exposed(server: &Operated) -> String {
    String::from_utf8(server.client.get("/metrics", None).body).unwrap()
}

#[test]
fn an_attested_machines_changes_arrive_signed_and_people_see_how_it_stands() {
    let receiver = Receiver::start();
    let home = Home::new();
    let hook = option(&home, &receiver, "");
    let attested = Attested::trusted_in(home, &[&hook]);
    attested.runs("/tmp/implant");
    attested.becomes("untrusted");
    let caught = || {
        let taken = receiver.taken();
        taken
            .last()
            .is_some_and(|last| last.text("to") == "untrusted")
    };
    eventually("the receiver is told", caught);
    let taken = receiver.taken();
    let message = taken.last().unwrap();
    let body = message.json();
    assert_eq!(body["type"], "agent.status");
    assert_eq!(body["agent_id"], "m1");
    assert_eq!(body["hostname"], "m1.example.com");
    assert_eq!(body["policy_group_id"], "web");
    assert_eq!(body["policy_id"], "p-web-001");
    assert_eq!(body["code"], "ima.path_not_listed");
    assert!(
        body["detail"].as_str().unwrap().contains("/tmp/implant"),
        "{body}"
    );
    for pair in changes(&taken).windows(2) {
        assert_eq!(pair[0][1], pair[1][0], "from and to join");
    }
    let signature = message.header("ratd-signature");
    assert!(recipe_takes(SECRET, signature, &message.body));
    assert!(!recipe_takes(
        &SECRET.replace('0', "1"),
        signature,
        &message.body
    ));

    let server = &attested.server;
    eventually("nothing waits", || shown(server)["queued"] == 0);
    let webhook = shown(server);
    assert_eq!(webhook["name"], "hook");
    assert_eq!(webhook["state"], "idle");
    assert_eq!(webhook["url"], receiver.url("/ratd"), "without its query");
    assert!(webhook["last_delivery"].is_string(), "{webhook}");
    assert_eq!(webhook["last_error"], Value::Null);
    assert_eq!(webhook["dead_letters"], 0);
    let text = exposed(server);
    let labels = ["webhook=\"hook\"", "result=\"taken\""];
    let attempts = metric(&text, "attest_webhook_attempts_total", &labels);
    assert_eq!(attempts, taken.len() as f64);
    let delivered = metric(
        &text,
        "attest_webhook_delivery_duration_seconds_count",
        &labels[..1],
    );
    assert_eq!(delivered, taken.len() as f64);
    assert!(
        !server.ratd.log().contains("hidden"),
        "a query may hold a secret"
    );
}

#[test]
fn a01_a_test_message_is_for_administrators_and_audited() {
    let receiver = Receiver::start();
    let home = Home::new();
    let hook = option(&home, &receiver, "");
    let server = Operated::start_in(home, &[&hook]);
    let path = "/webhooks/hook/test";
    for role in ["viewer", "operator"] {
        let token = server.ratd.api_token(role);
        let refused = server.client.send("POST", path, Some(&token), None);
        assert_eq!(refused.status, 403, "{role}");
    }
    assert!(server.audited("webhook.test").is_empty() && receiver.connections() == 0);
    let viewer = server.ratd.api_token("viewer");
    assert_eq!(server.client.get("/webhooks/", Some(&viewer)).status, 200);

    let tested = server.expect("POST", path, None, 200);
    assert_eq!(tested["delivered"], true, "{tested}");
    let message = receiver.taken().remove(0);
    assert_eq!(message.json()["type"], "webhook.test");
    assert_eq!(message.json()["id"], tested["id"]);
    assert_eq!(message.target, "/ratd?key=hidden");
    let signature = message.header("ratd-signature");
    assert!(recipe_takes(SECRET, signature, &message.body));
    let audited = server.audited("webhook.test");
    assert_eq!(audited.len(), 1);
    assert_eq!(audited[0][1], "hook");

    // A05: whoever may test learns a status, and nothing of what is written elsewhere.
    let elsewhere = Receiver::start();
    let location = format!("location: {}\r\n", elsewhere.url("/"));
    receiver.answers(move |_| Reply::Status(302, location.clone()));
    let tested = server.expect("POST", path, None, 200);
    assert_eq!(tested["delivered"], false);
    assert_eq!(
        tested["error"],
        "it answered 302, and redirects are not followed"
    );
    assert_eq!(elsewhere.connections(), 0);

    for unknown in ["/webhooks/other/test", "/webhooks/%0a/test"] {
        assert_eq!(
            server.refused("POST", unknown, None, 404),
            "webhook.not_found"
        );
    }
    let unknown = "/webhooks/other/dead-letters";
    assert_eq!(
        server.refused("GET", unknown, None, 404),
        "webhook.not_found"
    );
    assert_eq!(server.audited("webhook.test").len(), 2);
}

#[test]
fn what_is_given_up_is_seen_in_log_metric_and_list() {
    let receiver = Receiver::start();
    receiver.answers(|delivery| match delivery.text("to").as_str() {
        "trusted" => Reply::status(500),
        _ => Reply::status(200),
    });
    let home = Home::new();
    let hook = option(&home, &receiver, ", attempts_max=2");
    let attested = Attested::trusted_in(home, &[&hook]);
    let server = &attested.server;
    eventually("it is given up", || shown(server)["dead_letters"] == 1);
    attested.runs("/tmp/implant");
    eventually("the next goes on", || {
        receiver
            .taken()
            .iter()
            .any(|it| it.text("to") == "untrusted")
    });
    let letters = server.expect("GET", "/webhooks/hook/dead-letters", None, 200);
    assert_eq!(letters.as_array().unwrap().len(), 1);
    let letter = &letters[0];
    assert_eq!(letter["agent_id"], "m1");
    assert_eq!(letter["attempts"], 2);
    assert_eq!(letter["error"], "it answered 500");
    assert_eq!(letter["message"]["to"], "trusted");
    assert_eq!(letter["message"]["id"], letter["id"]);
    let after = format!("/webhooks/hook/dead-letters?after={}", letter["number"]);
    assert_eq!(
        server.expect("GET", &after, None, 200),
        serde_json::json!([])
    );
    let count = metric(
        &exposed(server),
        "attest_webhook_dead_letters_total",
        &["webhook=\"hook\""],
    );
    assert_eq!(count, 1.0);
    assert!(server.ratd.log().contains("a message is given up"));
    let error = shown(server)["last_error"]["error"].clone();
    assert_eq!(error, "it answered 500");
}

/// The only dead letter's id.
fn dead_letter(server: &Operated) -> String {
    let letters = server.expect("GET", "/webhooks/hook/dead-letters", None, 200);
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    letters[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn s17_a_dead_letter_is_sent_again_under_its_id_also_over_a_kill() {
    let receiver = Receiver::start();
    receiver.answers(|delivery| match delivery.text("to").as_str() {
        "trusted" => Reply::status(422),
        _ => Reply::status(200),
    });
    let home = Home::new();
    let hook = option(
        &home,
        &receiver,
        ", attempts_max=1, timeout_ms=20000, statuses=[\"trusted\"]",
    );
    let mut attested = Attested::trusted_in(home, &[&hook]);
    // A machine that was late for once would be told of twice.
    attested.stop();
    let server = &attested.server;
    eventually("it is given up", || shown(server)["dead_letters"] == 1);
    let id = dead_letter(server);
    let given_up = receiver.deliveries().remove(0);
    assert_eq!(given_up.text("id"), id);
    let path = format!("/webhooks/hook/dead-letters/{id}/redeliver");

    // A01: whoever may not, and what is not there.
    for role in ["viewer", "operator"] {
        let token = server.ratd.api_token(role);
        let refused = server.client.send("POST", &path, Some(&token), None);
        assert_eq!(refused.status, 403, "{role}");
    }
    for (unknown, code) in [
        (path.replace("/hook/", "/other/"), "webhook.not_found"),
        (path.replace(&id, &"0".repeat(32)), "dead_letter.not_found"),
        (path.replace(&id, "%0a"), "dead_letter.not_found"),
        (path.replace(&id, "%27%20OR%201"), "dead_letter.not_found"),
    ] {
        assert_eq!(server.refused("POST", &unknown, None, 404), code);
    }
    assert!(server.audited("webhook.redeliver").is_empty());
    assert_eq!(dead_letter(server), id);

    // It fails again, and is one dead letter again.
    let queued = server.expect("POST", &path, None, 200);
    assert_eq!(queued, serde_json::json!({"id": id, "agent_id": "m1"}));
    eventually("it is given up again", || {
        shown(server)["dead_letters"] == 2 && shown(server)["queued"] == 0
    });
    assert_eq!(dead_letter(server), id);
    // The process is killed while it is sent a third time.
    receiver.answers(|_| Reply::Silence);
    server.expect("POST", &path, None, 200);
    let letters = server.expect("GET", "/webhooks/hook/dead-letters", None, 200);
    assert_eq!(letters, serde_json::json!([]));
    assert_eq!(
        server.refused("POST", &path, None, 404),
        "dead_letter.not_found",
        "it waits already"
    );
    let audited = server.audited("webhook.redeliver");
    assert_eq!(audited.len(), 2);
    assert_eq!(audited[1][1], "hook");
    assert_eq!(audited[1][2], format!("message {id} about m1"));
    attested.server.ratd.signal(Signal::KILL);
    attested.server.ratd.wait();
    receiver.answers(|_| Reply::status(200));
    let ratd = attested.into_home().start(&[&hook]);
    eventually("it is taken", || {
        receiver.taken().iter().any(|taken| taken.text("id") == id)
    });
    let taken = receiver.taken();
    let message = taken.iter().find(|taken| taken.text("id") == id).unwrap();
    assert_eq!(message.body, given_up.body, "word for word");
    let signature = message.header("ratd-signature");
    assert!(recipe_takes(SECRET, signature, &message.body));
    assert_eq!(ratd.stop().code(), Some(0));
}

/// A machine that failed before the receiver was told, whose server was killed then.
struct Killed {
    home: Home,
    hook: String,
}

fn killed(receiver: &Receiver) -> Killed {
    let home = Home::new();
    let hook = option(&home, receiver, "");
    let mut attested = Attested::trusted_in(home, &[&hook]);
    eventually("trust is told", || !receiver.taken().is_empty());
    // Other changes, as of a machine that is late for once, must not stand before it.
    receiver.answers(|delivery| match delivery.text("to").as_str() {
        "untrusted" => Reply::Silence,
        _ => Reply::status(200),
    });
    attested.runs("/tmp/implant");
    eventually("an attempt is under way", || {
        receiver
            .deliveries()
            .iter()
            .any(|it| it.text("to") == "untrusted")
    });
    attested.stop();
    attested.server.ratd.signal(Signal::KILL);
    attested.server.ratd.wait();
    receiver.answers(|_| Reply::status(200));
    let home = attested.into_home();
    Killed { home, hook }
}

#[test]
fn s17_a_kill_between_commit_and_delivery_loses_no_status() {
    let receiver = Receiver::start();
    let killed = killed(&receiver);
    assert!(
        receiver
            .taken()
            .iter()
            .all(|it| it.text("to") != "untrusted")
    );
    let ratd = killed.home.start(&[&killed.hook]);
    eventually("it is told after the start", || {
        receiver
            .taken()
            .iter()
            .any(|it| it.text("to") == "untrusted")
    });
    let of_failure: Vec<Delivery> = receiver
        .deliveries()
        .into_iter()
        .filter(|it| it.text("to") == "untrusted")
        .collect();
    assert!(of_failure.len() >= 2);
    let id = of_failure[0].text("id");
    assert!(of_failure.iter().all(|it| it.text("id") == id), "one id");
    let message = of_failure.last().unwrap();
    let signature = message.header("ratd-signature");
    assert!(
        recipe_takes(SECRET, signature, &message.body),
        "signed anew"
    );
    assert_eq!(ratd.stop().code(), Some(0));
}

#[test]
fn s17_a_kill_between_commit_and_queue_loses_no_status() {
    let receiver = Receiver::start();
    let killed = killed(&receiver);
    // As if the process had ended after the verdict was durable and before anybody noted it: the
    // queue is empty, and what is noted is what was noted before.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(&killed.home.data()).await.unwrap();
        for message in store.due_messages("hook", u64::MAX, 100).await.unwrap() {
            let taken = rat_store::Settled {
                seq: message.seq,
                fate: rat_store::Fate::Taken,
            };
            store.settle_messages("hook", &[taken], 1).await.unwrap();
        }
        assert_eq!(store.webhook_standing("hook").await.unwrap().queued, 0);
        let note = StatusNote {
            agent: AgentId::parse("m1").unwrap(),
            from: None,
            to: EffectiveStatus::Trusted,
        };
        let noted = store
            .note_statuses(&[note], 1, |_| Vec::new())
            .await
            .unwrap();
        assert_eq!(noted, [Noted::Changed { messages: 0 }]);
        store.close().await;
    });
    let _ratd = killed.home.start(&[&killed.hook]);
    eventually("it is told after the start", || {
        receiver
            .taken()
            .iter()
            .any(|it| it.text("to") == "untrusted")
    });
    let message = receiver.taken().pop().unwrap().json();
    assert_eq!(message["from"], "trusted");
    assert_eq!(message["code"], "ima.path_not_listed", "{message}");
}

#[test]
fn a_machine_that_falls_silent_is_told_of_as_overdue() {
    let receiver = Receiver::start();
    let home = Home::new();
    let hook = option(&home, &receiver, ", statuses=[\"overdue\"]");
    let mut attested = Attested::trusted_in(home, &[&hook]);
    attested.stop();
    eventually("time is told", || receiver.taken().len() == 1);
    let message = receiver.taken().remove(0).json();
    assert_eq!(message["from"], "trusted");
    assert_eq!(message["to"], "overdue");
    assert_eq!(message["code"], Value::Null);
}

#[test]
fn a07_every_mistake_in_a_webhook_is_found_before_the_start() {
    let home = Home::new();
    let receiver = Receiver::start();
    let sound = option(&home, &receiver, "");
    home.ok(&["--set", &sound, "config", "check"]);
    for (from, to, expected) in [
        ("name=\"hook\"", "name=\"a hook\"", "name: must be"),
        ("https://", "http://", "url: must begin with https://"),
        ("https://", "https://me@", "url: holds a user name"),
        (
            "allow=[\"127.0.0.0/8\"]",
            "allow=[\"127.0.0.1/8\"]",
            "allow: \"127.0.0.1/8\" is no network",
        ),
        (
            "allow=",
            "statuses=[\"bad\"], allow=",
            "statuses: \"bad\" is no status",
        ),
        (
            "allow=",
            "plain_http=true, allow=",
            "plain_http: stands beside",
        ),
        (
            "allow=",
            "timeout_ms=1, allow=",
            "timeout_ms: must be 100 to 20000",
        ),
        (
            "allow=",
            "attempts_max=0, allow=",
            "attempts_max: must be 1 to",
        ),
        (
            "allow=",
            "give_up_after_hours=0, allow=",
            "give_up_after_hours: must be 1 to 720",
        ),
        ("allow=", "retries=3, allow=", "retries"),
        ("name=\"hook\",", "", "name"),
        ("webhook.key", "nothing.key", "secret_file"),
        ("ca.pem", "nothing.pem", "ca_file"),
    ] {
        let changed = sound.replace(from, to);
        assert_ne!(changed, sound, "{from}");
        let error = home.fails(3, &["--set", &changed, "config", "check"]);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains(SECRET), "{error}");
    }
    let twice = sound.replace("webhook=[", "").replace("}]", "}");
    let twice = format!("webhook=[{twice},{twice}]");
    let error = home.fails(3, &["--set", &twice, "config", "check"]);
    assert!(error.contains("has the name of another"), "{error}");
}

#[test]
fn a07_a_webhooks_files_are_looked_at_before_the_start() {
    let home = Home::new();
    let receiver = Receiver::start();
    let sound = option(&home, &receiver, "");
    let key = home.path("webhook.key");
    std::fs::write(&key, "too short\n").unwrap();
    let error = home.fails(3, &["--set", &sound, "config", "check"]);
    assert!(error.contains("holds 9 bytes"), "{error}");
    std::fs::write(&key, SECRET).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o660] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = home.fails(3, &["--set", &sound, "config", "check"]);
        assert!(error.contains(&format!("{mode:o}")), "{error}");
        assert!(error.contains("others than its owner"), "{error}");
    }
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(home.path("empty.pem"), "").unwrap();
    let empty = sound.replace(
        receiver.ca_file().to_str().unwrap(),
        home.path("empty.pem").to_str().unwrap(),
    );
    let error = home.fails(3, &["--set", &empty, "config", "check"]);
    assert!(error.contains("holds no certificate"), "{error}");
}

#[test]
fn webhooks_are_configured_in_a_file_and_shown() {
    let home = Home::new();
    let receiver = Receiver::start();
    option(&home, &receiver, "");
    let path = home.path("ratd.toml");
    let text = format!(
        "[[webhook]]\nname = \"first\"\nurl = \"https://hooks.example.com/x\"\n\
         secret_file = {key:?}\nca_file = {ca:?}\ngroups = [\"web\"]\n\n\
         [[webhook]]\nname = \"second\"\nurl = \"http://127.0.0.1:9/\"\nplain_http = true\n\
         secret_file = {key:?}\nca_file = {ca:?}\nallow = [\"127.0.0.1\"]\n",
        key = home.path("webhook.key"),
        ca = receiver.ca_file(),
    );
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    home.ok(&["--config", path, "config", "check"]);
    let shown = home.ok(&["--config", path, "config", "show", "--origin"]);
    let line = shown.lines().find(|line| line.starts_with("webhook = [{ "));
    let line = line.unwrap_or_else(|| panic!("{shown}"));
    assert!(
        line.contains("name = \"second\"") && line.contains("# file"),
        "{line}"
    );
    assert!(line.contains("timeout_ms = 10000"), "{line}");
    assert!(!shown.contains(SECRET));
    // What is shown can be configured.
    let again = home.path("again.toml");
    let value = line.split("  # ").next().unwrap();
    std::fs::write(&again, value).unwrap();
    home.ok(&["--config", again.to_str().unwrap(), "config", "check"]);
}
