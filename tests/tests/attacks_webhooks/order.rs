//! Nothing is lost and nothing overtakes, whoever goes away when.

use std::collections::BTreeMap;

use rat_engine::agent_id::AgentId;
use rat_engine::shard::EffectiveStatus;
use rat_store::{Noted, StatusNote};
use rat_tests::driven::until;
use rat_tests::receiver::{Delivery, Receiver, Reply};

use crate::world::{Configured, World, shown};

/// What was taken about each agent: ids, and from which status to which. A message that came twice
/// counts once.
fn told(taken: &[Delivery]) -> BTreeMap<String, Vec<(String, String)>> {
    let mut ids = std::collections::BTreeSet::new();
    let mut told: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for delivery in taken {
        if ids.insert(delivery.text("id")) {
            let change = (delivery.text("from"), delivery.text("to"));
            told.entry(delivery.text("agent_id"))
                .or_default()
                .push(change);
        }
    }
    told
}

fn changes(statuses: &[&str]) -> Vec<(String, String)> {
    let pairs = statuses.windows(2);
    pairs
        .map(|pair| (pair[0].to_owned(), pair[1].to_owned()))
        .collect()
}

const AGENTS: [&str; 20] = [
    "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2", "b3", "b4", "b5",
    "b6", "b7", "b8", "b9",
];

#[tokio::test(flavor = "multi_thread")]
async fn s11_a_receiver_that_was_away_is_told_everything_in_order() {
    let mut receiver = Receiver::start();
    let world = World::with_agents(&AGENTS).await;
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    receiver.pause();
    for block in [true, false, true] {
        world.block(block).await;
    }
    until(|| shown(&delivery).standing.queued == 60).await;
    until(|| shown(&delivery).standing.error.is_some()).await;
    let error = shown(&delivery).standing.error.unwrap();
    assert!(error.starts_with("no connection"), "{error}");
    receiver.resume();
    until(|| shown(&delivery).standing.queued == 0).await;
    let told = told(&receiver.taken());
    assert_eq!(told.len(), AGENTS.len());
    let expected = changes(&["pending", "blocked", "pending", "blocked"]);
    for (agent, changes) in told {
        assert_eq!(changes, expected, "{agent}");
    }
    assert_eq!(receiver.taken().len(), 60, "nothing came twice");
    assert_eq!(shown(&delivery).standing.dead_letters, 0);
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_answers_by_turns_change_no_order() {
    let receiver = Receiver::start();
    let world = World::with_agents(&AGENTS[..5]).await;
    let count = std::sync::atomic::AtomicUsize::new(0);
    receiver.answers(move |_| {
        let nth = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Reply::status(if nth % 4 == 1 { 503 } else { 202 })
    });
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    for block in [true, false, true, false] {
        world.block(block).await;
    }
    until(|| receiver.taken().len() == 20).await;
    let expected = changes(&["pending", "blocked", "pending", "blocked", "pending"]);
    for (agent, changes) in told(&receiver.taken()) {
        assert_eq!(changes, expected, "{agent}");
    }
    assert!(world.end(delivery).await);
}

/// Whoever delivers is gone without a word, as after a kill: what was queued is delivered by the
/// next one, and what happened in between is found.
#[tokio::test(flavor = "multi_thread")]
async fn s17_what_was_not_told_when_the_process_ended_is_told_after_the_next_start() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1", "m2", "m3"]).await;
    let hook = Configured::of(&receiver);
    receiver.answers(|_| Reply::Silence);
    let delivery = world.deliver(std::slice::from_ref(&hook)).await;
    world.block(true).await;
    until(|| shown(&delivery).standing.queued == 3).await;
    until(|| !receiver.deliveries().is_empty()).await;
    drop(delivery);
    // Nobody listens: two changes, of which the last leaves the agents where they were noted.
    world.block(false).await;
    world.block(true).await;
    receiver.answers(|_| Reply::status(200));
    let delivery = world.deliver(std::slice::from_ref(&hook)).await;
    // What was taken and not settled comes again.
    let different = || {
        told(&receiver.taken())
            .values()
            .map(Vec::len)
            .sum::<usize>()
    };
    until(|| different() == 3).await;
    drop(delivery);
    // And one that does not.
    world.block(false).await;
    let delivery = world.deliver(std::slice::from_ref(&hook)).await;
    until(|| different() == 6).await;
    for (agent, told) in told(&receiver.taken()) {
        assert_eq!(told, changes(&["pending", "blocked", "pending"]), "{agent}");
    }
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_look_at_a_fleet_tells_nobody_and_new_agents_are_told_of() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1"]).await;
    world.block(true).await;
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    world.block(false).await;
    until(|| receiver.taken().len() == 1).await;
    assert_eq!(receiver.taken()[0].text("from"), "blocked");
    assert!(world.end(delivery).await);
}

/// The status of an agent that is moved is another one at once, and nothing that its machine does
/// tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn s17_an_agent_that_is_moved_is_told_of_at_once() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1", "m2"]).await;
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    world.block(true).await;
    until(|| receiver.taken().len() == 2).await;
    world.group("other").await;
    let m1 = AgentId::parse("m1").unwrap();
    world.moves(&m1, "other").await;
    until(|| receiver.taken().len() == 3).await;
    let told = receiver.taken().pop().unwrap();
    for (member, expected) in [
        ("agent_id", "m1"),
        ("policy_group_id", "other"),
        ("from", "blocked"),
        ("to", "pending"),
    ] {
        assert_eq!(told.text(member), expected);
    }
    // And back; an agent that enrols is not told of until it has been something else.
    world.moves(&m1, "driven").await;
    until(|| receiver.taken().len() == 4).await;
    let told = receiver.taken().pop().unwrap();
    assert_eq!(told.text("policy_group_id"), "driven");
    assert_eq!(told.text("to"), "blocked");
    until(|| shown(&delivery).standing.queued == 0).await;
    assert!(world.end(delivery).await);
}

/// What was given up and is sent again waits its turn like any other message about its agent.
#[tokio::test(flavor = "multi_thread")]
async fn s17_a_dead_letter_that_is_sent_again_overtakes_nothing_about_its_agent() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1", "m2"]).await;
    receiver.answers(|delivery| match delivery.text("agent_id").as_str() {
        "m1" => Reply::status(422),
        _ => Reply::status(200),
    });
    let hook = Configured {
        attempts_max: 1,
        timeout_ms: 20_000,
        ..Configured::of(&receiver)
    };
    let delivery = world.deliver(&[hook]).await;
    world.block(true).await;
    until(|| shown(&delivery).standing.dead_letters == 1).await;
    // The next message about it is under way, and is not answered.
    receiver.answers(|delivery| match delivery.text("agent_id").as_str() {
        "m1" => Reply::Silence,
        _ => Reply::status(200),
    });
    world.block(false).await;
    let of_m1 = || {
        let deliveries = receiver.deliveries().into_iter();
        let of_m1 = deliveries.filter(|it| it.text("agent_id") == "m1");
        of_m1.map(|it| it.text("to")).collect::<Vec<_>>()
    };
    until(|| of_m1() == ["blocked", "pending"]).await;
    let letters = world.store.dead_letters("hook", u64::MAX, 10);
    let letter = letters.await.unwrap().remove(0);
    let redelivered = world.store.redeliver("hook", &letter.id, "test", 2).await;
    assert_eq!(redelivered.unwrap(), Some("m1".to_owned()));
    delivery.webhooks().queued("hook");
    // Another agent's messages are not held up, and say that the queue was looked at since.
    world.block(true).await;
    until(|| {
        receiver
            .taken()
            .iter()
            .filter(|it| it.text("agent_id") == "m2")
            .count()
            == 3
    })
    .await;
    assert_eq!(of_m1(), ["blocked", "pending"], "one at a time");
    let due = world.store.due_messages("hook", u64::MAX / 4, 10).await;
    let due = due.unwrap();
    assert!(due.iter().all(|message| message.id != letter.id));
    drop(delivery);
    receiver.answers(|_| Reply::status(200));
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    until(|| shown(&delivery).standing.queued == 0).await;
    let taken = receiver.taken();
    let of_m1: Vec<_> = taken
        .iter()
        .filter(|it| it.text("agent_id") == "m1")
        .collect();
    let order: Vec<String> = of_m1.iter().map(|it| it.text("to")).collect();
    assert_eq!(order, ["pending", "blocked", "blocked"]);
    assert_eq!(of_m1[1].text("id"), letter.id);
    let body: serde_json::Value = serde_json::from_str(&letter.body).unwrap();
    assert_eq!(of_m1[1].json(), body, "it says what was so then");
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_that_do_not_join_are_not_taken() {
    let world = World::with_agents(&["m1"]).await;
    let m1 = AgentId::parse("m1").unwrap();
    let note = |from: Option<EffectiveStatus>, to| StatusNote {
        agent: m1.clone(),
        from,
        to,
    };
    use EffectiveStatus::{Overdue, Trusted, Untrusted};
    let store = &world.store;
    let mut composed = Vec::new();
    let mut compose = |change: &rat_store::StatusChange<'_>| {
        composed.push((change.from, change.to));
        Vec::new()
    };
    let changed = Noted::Changed { messages: 0 };
    for (from, to, expected) in [
        (Some(Overdue), Trusted, changed),
        (Some(Overdue), Trusted, Noted::Same),
        (None, Trusted, Noted::Same),
        (Some(Overdue), Untrusted, Noted::OutOfStep),
        (Some(Trusted), Untrusted, changed),
        (None, Overdue, changed),
    ] {
        let notes = [note(from, to)];
        let noted = store.note_statuses(&notes, 1, &mut compose).await;
        assert_eq!(noted.unwrap(), [expected], "{from:?} {to:?}");
    }
    let unknown = [StatusNote {
        agent: AgentId::parse("nobody").unwrap(),
        from: None,
        to: Trusted,
    }];
    let noted = store.note_statuses(&unknown, 1, &mut compose).await;
    assert_eq!(noted.unwrap(), [Noted::Unknown]);
    let expected = [
        (Some(Overdue), Trusted),
        (Some(Trusted), Untrusted),
        (Some(Untrusted), Overdue),
    ];
    assert_eq!(composed, expected);
    // What is noted goes with its agent.
    let removed = store.remove_agent(&m1, rat_store::OnRemoval::KeepFailure, "test", 2);
    assert!(removed.await.unwrap().is_some());
    assert!(store.noted_statuses(m1.shard()).await.unwrap().is_empty());
}
