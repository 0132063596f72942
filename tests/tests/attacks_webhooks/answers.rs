//! What a receiver may answer, and what comes of it.

use rat_ops::webhook::{Health, SIGNATURE_HEADER};
use rat_tests::driven::until;
use rat_tests::receiver::{Receiver, Reply, recipe_takes};
use serde_json::Value;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

use crate::world::{Configured, SECRET, World, shown};

#[tokio::test(flavor = "multi_thread")]
async fn s11_a_change_arrives_signed_and_says_what_happened() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1"]).await;
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    assert_eq!(shown(&delivery).health, Health::Idle);
    world.block(true).await;
    until(|| receiver.taken().len() == 1).await;
    let message = receiver.taken().remove(0);
    let body = message.json();
    for (member, expected) in [
        ("type", "agent.status"),
        ("agent_id", "m1"),
        ("hostname", "host"),
        ("policy_group_id", "driven"),
        ("policy_id", "p-driven-001"),
        ("from", "pending"),
        ("to", "blocked"),
    ] {
        assert_eq!(body[member], expected, "{body}");
    }
    assert_eq!(message.target, "/ratd");
    assert_eq!(message.header("content-type"), "application/json");
    assert_eq!(message.header("ratd-message-id"), body["id"]);
    assert!(message.header("user-agent").starts_with("ratd/"));
    let host = format!("127.0.0.1:{}", receiver.port());
    assert_eq!(message.header("host"), host);

    let signature = message.header(SIGNATURE_HEADER);
    assert!(recipe_takes(SECRET, signature, &message.body));
    let other = SECRET.replace('0', "1");
    assert!(
        !recipe_takes(&other, signature, &message.body),
        "another secret"
    );
    let longer = [&message.body[..], b" "].concat();
    assert!(!recipe_takes(SECRET, signature, &longer), "another body");
    for broken in [
        signature.replace("t=", "t=1"),
        signature.replace("v1=", "v1=0"),
        signature.replace("v1=", "v0="),
        String::new(),
        "t=,v1=".to_owned(),
    ] {
        assert!(!recipe_takes(SECRET, &broken, &message.body), "{broken}");
    }
    until(|| shown(&delivery).standing.queued == 0).await;
    let standing = shown(&delivery).standing;
    assert!(standing.delivered_unix_ms.is_some() && standing.error.is_none());
    assert_eq!(standing.dead_letters, 0);
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn x07_hostile_names_arrive_as_escaped_json() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1"]).await;
    // The API takes no such name; whoever wrote the database could have.
    let hostile = "\u{1b}[31m\r\nratd-signature: t=1,v1=0\r\n\r\n\"},{<script>\u{2028}";
    let file = rat_tests::driven::data(&world.directory).join("ratd.db");
    let options = SqliteConnectOptions::new().filename(file);
    let mut vandal = options.connect().await.unwrap();
    sqlx::query("UPDATE agent SET hostname = $1")
        .bind(hostile)
        .execute(&mut vandal)
        .await
        .unwrap();
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    world.block(true).await;
    until(|| receiver.taken().len() == 1).await;
    let message = receiver.taken().remove(0);
    assert!(message.body.iter().all(|byte| *byte >= b' '), "{message:?}");
    assert_eq!(message.json()["hostname"], hostile);
    let signature = message.header(SIGNATURE_HEADER);
    assert!(recipe_takes(SECRET, signature, &message.body));
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_a_redirect_is_not_followed() {
    let (receiver, elsewhere) = (Receiver::start(), Receiver::start());
    let world = World::with_agents(&["m1"]).await;
    let location = format!("location: {}\r\n", elsewhere.url("/stolen"));
    receiver.answers(move |_| Reply::Status(307, location.clone()));
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    world.block(true).await;
    until(|| shown(&delivery).standing.error.is_some()).await;
    let standing = shown(&delivery).standing;
    let error = standing.error.unwrap();
    assert_eq!(error, "it answered 307, and redirects are not followed");
    assert_eq!(standing.queued, 1);
    assert_eq!(shown(&delivery).health, Health::Failing);
    receiver.answers(|_| Reply::status(204));
    until(|| receiver.taken().len() == 1).await;
    let ids: Vec<String> = receiver
        .deliveries()
        .iter()
        .map(|it| it.text("id"))
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one id in all attempts");
    assert_eq!(elsewhere.connections(), 0);
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_answers_are_read_as_far_as_they_count() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1"]).await;
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    let tester = delivery.webhooks().tester("hook").unwrap();
    let long_head = format!("HTTP/1.1 200 x\r\nx: {}\r\n\r\n", "a".repeat(64 << 10));
    let many = format!("HTTP/1.1 200 x\r\n{}\r\n", "x: y\r\n".repeat(1_000));
    for broken in [long_head.as_str(), &many, "SSH-2.0-x\r\n"] {
        let bytes = broken.as_bytes().to_vec();
        receiver.answers(move |_| Reply::Raw(bytes.clone()));
        let (_, result) = tester.send().await.unwrap();
        assert_eq!(result.unwrap_err().as_str(), "exchange", "{broken:.40}");
    }
    // Its status is there: how its body goes on is of no interest.
    for endless in ["content-length: 999999999999", "transfer-encoding: chunked"] {
        let body = "a".repeat(256 << 10);
        let bytes = format!("HTTP/1.1 200 x\r\n{endless}\r\n\r\n{body}").into_bytes();
        receiver.answers(move |_| Reply::Raw(bytes.clone()));
        let (_, result) = tester.send().await.unwrap();
        assert_eq!(result, Ok(()), "{endless}");
    }
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_kept_to() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1"]).await;
    receiver.answers(|_| Reply::Status(429, "retry-after: 3\r\n".to_owned()));
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    world.block(true).await;
    until(|| receiver.deliveries().len() == 1).await;
    receiver.answers(|_| Reply::status(200));
    until(|| receiver.taken().len() == 1).await;
    let times: Vec<u64> = receiver
        .deliveries()
        .iter()
        .map(|it| it.at_unix_ms)
        .collect();
    assert_eq!(times.len(), 2);
    // Our own first pause is a second at most.
    assert!(times[1] - times[0] >= 2_900, "{times:?}");
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_what_is_never_taken_becomes_a_dead_letter_and_the_next_goes_on() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1", "m2"]).await;
    // One agent's first message is refused for what it is.
    receiver.answers(|delivery| {
        let body = delivery.json();
        let is_poison = body["agent_id"] == "m1" && body["to"] == "blocked";
        Reply::status(if is_poison { 422 } else { 200 })
    });
    let hook = Configured {
        attempts_max: 2,
        ..Configured::of(&receiver)
    };
    let delivery = world.deliver(&[hook]).await;
    world.block(true).await;
    world.block(false).await;
    until(|| shown(&delivery).standing.dead_letters == 1).await;
    until(|| receiver.taken().len() == 3).await;
    until(|| shown(&delivery).standing.queued == 0).await;
    let of = |agent: &str| -> Vec<(u16, String)> {
        let deliveries = receiver.deliveries().into_iter();
        let of_agent = deliveries.filter(|it| it.text("agent_id") == agent);
        of_agent.map(|it| (it.answered, it.text("to"))).collect()
    };
    let blocked = || (422, "blocked".to_owned());
    assert_eq!(
        of("m1"),
        [blocked(), blocked(), (200, "pending".to_owned())]
    );
    // The other was not held up, nor was the receiver taken for one that fails.
    let other: Vec<u16> = of("m2").into_iter().map(|(status, _)| status).collect();
    assert_eq!(other, [200, 200]);
    assert_eq!(shown(&delivery).health, Health::Idle);
    let letters = world
        .store
        .dead_letters("hook", u64::MAX, 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].subject, "m1");
    assert_eq!(letters[0].attempts, 2);
    assert_eq!(letters[0].error, "it answered 422");
    let message: Value = serde_json::from_str(&letters[0].body).unwrap();
    assert_eq!(message["to"], "blocked");
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn x04_a_receiver_that_never_answers_holds_up_its_own_agent_alone() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1", "m2", "m3"]).await;
    receiver.answers(|delivery| match delivery.text("agent_id").as_str() {
        "m2" => Reply::Silence,
        _ => Reply::status(200),
    });
    let hook = Configured {
        timeout_ms: 500,
        ..Configured::of(&receiver)
    };
    let delivery = world.deliver(&[hook]).await;
    world.block(true).await;
    world.block(false).await;
    until(|| receiver.taken().len() == 4).await;
    until(|| shown(&delivery).standing.error.is_some()).await;
    let error = shown(&delivery).standing.error.unwrap();
    assert_eq!(error, "no answer in 500 ms");
    // The second message about it waits for the first.
    let silent: Vec<String> = receiver
        .deliveries()
        .iter()
        .filter(|it| it.text("agent_id") == "m2")
        .map(|it| it.text("to"))
        .collect();
    assert!(silent.iter().all(|to| to == "blocked"), "{silent:?}");
    receiver.answers(|_| Reply::status(200));
    until(|| receiver.taken().len() == 6).await;
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_several_webhooks() {
    let (all, some) = (Receiver::start(), Receiver::start());
    let world = World::with_agents(&["m1"]).await;
    let filtered = Configured {
        name: "some".to_owned(),
        statuses: vec!["blocked".to_owned()],
        ..Configured::of(&some)
    };
    let other_group = Configured {
        name: "none".to_owned(),
        groups: vec!["other".to_owned()],
        ..Configured::of(&some)
    };
    let delivery = world
        .deliver(&[Configured::of(&all), filtered, other_group])
        .await;
    for block in [true, false, true] {
        world.block(block).await;
    }
    until(|| all.taken().len() == 3 && some.taken().len() == 2).await;
    let tos: Vec<String> = some.taken().iter().map(|it| it.text("to")).collect();
    assert_eq!(tos, ["blocked", "blocked"]);
    let ids: std::collections::BTreeSet<String> = all
        .taken()
        .iter()
        .chain(&some.taken())
        .map(|it| it.text("id"))
        .collect();
    assert_eq!(ids.len(), 5, "each message has an id of its own");
    // A webhook that is removed is forgotten, with what waits for it.
    all.answers(|_| Reply::status(500));
    world.block(false).await;
    until(|| delivery.webhooks().shown()[0].standing.queued == 1).await;
    let names: Vec<String> = delivery
        .webhooks()
        .shown()
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(names, ["hook", "some", "none"]);
    drop(delivery);
    let keep = async |names: &[&str]| {
        let keeping = world
            .store
            .keep_webhooks(names, !names.is_empty(), "test", 1);
        keeping.await.unwrap()
    };
    assert_eq!(keep(&["some"]).await, 1);
    let standing = world.store.webhook_standing("hook").await.unwrap();
    assert_eq!(standing.queued, 0);
    assert!(world.store.are_statuses_noted().await.unwrap());
    assert_eq!(keep(&[]).await, 0);
    let entries = world.store.audit_entries(0, 1_000).await.unwrap();
    let mut removed = entries
        .iter()
        .filter(|entry| entry.action == "webhook.remove");
    let first = removed.next().unwrap();
    assert_eq!(first.target, "hook");
    assert_eq!(first.detail, "1 messages were not delivered");
    assert_eq!(removed.next().unwrap().target, "some");
    assert!(!world.store.are_statuses_noted().await.unwrap());
}
