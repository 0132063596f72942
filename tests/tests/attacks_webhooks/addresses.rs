//! A05: where a webhook may be, whatever its name leads to, and whom it must prove to be.

use rat_ops::webhook::Delivery;
use rat_tests::driven::until;
use rat_tests::receiver::Receiver;

use crate::world::{Configured, World, shown};

/// The result of a test message, as a fixed word; `taken` when it was.
async fn tested(delivery: &Delivery) -> (String, String) {
    let tester = delivery.webhooks().tester("hook").unwrap();
    match tester.send().await.unwrap().1 {
        Ok(()) => ("taken".to_owned(), String::new()),
        Err(failure) => (failure.as_str().to_owned(), failure.to_string()),
    }
}

async fn result_at(world: &World, hook: Configured) -> (String, String) {
    let delivery = world.deliver(&[hook]).await;
    let result = tested(&delivery).await;
    drop(delivery);
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_nothing_connects_to_this_machine_unless_it_is_allowed() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1"]).await;
    let port = receiver.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "2130706433",
        "0x7f000001",
        "127.1",
        "0.0.0.0",
        "[::]",
    ] {
        let hook = Configured {
            url: format!("https://{host}:{port}/"),
            allow: Vec::new(),
            ..Configured::of(&receiver)
        };
        let (result, text) = result_at(&world, hook).await;
        assert_eq!(result, "address", "{host}: {text}");
        assert!(text.ends_with("which is not allowed"), "{text}");
    }
    for host in [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "10.0.0.1",
        "192.168.0.1",
        "[fe80::1]",
        "224.0.0.1",
        "[64:ff9b::a9fe:a9fe]",
    ] {
        let hook = Configured {
            url: format!("https://{host}/latest/meta-data"),
            // What is allowed allows nothing else.
            ..Configured::of(&receiver)
        };
        let (result, text) = result_at(&world, hook).await;
        assert_eq!(result, "address", "{host}: {text}");
    }
    assert_eq!(receiver.connections(), 0);
    assert_eq!(
        result_at(&world, Configured::of(&receiver)).await.0,
        "taken"
    );
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_messages_to_what_is_not_allowed_wait_and_say_why() {
    let receiver = Receiver::start();
    let world = World::with_agents(&["m1"]).await;
    let hook = Configured {
        allow: vec!["10.0.0.0/8".to_owned()],
        ..Configured::of(&receiver)
    };
    let delivery = world.deliver(&[hook]).await;
    world.block(true).await;
    until(|| shown(&delivery).standing.error.is_some()).await;
    let standing = shown(&delivery).standing;
    let error = standing.error.unwrap();
    assert_eq!(error, "it is at 127.0.0.1, which is not allowed");
    assert_eq!((standing.queued, receiver.connections()), (1, 0));
    drop(delivery);
    // Allowed after a restart, it is told what waited.
    let delivery = world.deliver(&[Configured::of(&receiver)]).await;
    until(|| receiver.taken().len() == 1).await;
    assert!(world.end(delivery).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_a_receiver_must_prove_its_name_to_a_ca_that_vouches_for_it() {
    let world = World::with_agents(&["m1"]).await;
    let other_name = Receiver::named(&["hooks.example.com"]);
    let (result, text) = result_at(&world, Configured::of(&other_name)).await;
    assert_eq!(result, "tls");
    assert_eq!(text, "its certificate is for another name");

    let (receiver, other) = (Receiver::start(), Receiver::start());
    let foreign = Configured {
        ca: std::fs::read(other.ca_file()).unwrap(),
        ..Configured::of(&receiver)
    };
    let (result, text) = result_at(&world, foreign).await;
    assert_eq!(result, "tls");
    assert_eq!(text, "its certificate is of an unknown CA");

    let plain = Receiver::plain();
    let expects_tls = Configured {
        url: plain.url("/").replace("http://", "https://"),
        ca: std::fs::read(other.ca_file()).unwrap(),
        timeout_ms: 500,
        ..Configured::of(&plain)
    };
    assert_eq!(result_at(&world, expects_tls).await.0, "timeout");
    for receiver in [&other_name, &receiver, &plain] {
        assert!(receiver.deliveries().is_empty(), "nothing was sent");
    }
    // The name that its certificate has, at the address that is allowed.
    let by_name = Configured {
        url: format!("https://localhost:{}/", receiver.port()),
        allow: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
        ..Configured::of(&receiver)
    };
    assert_eq!(result_at(&world, by_name).await.0, "taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_reaches_this_machine_when_both_are_said() {
    let plain = Receiver::plain();
    let world = World::with_agents(&["m1"]).await;
    let other = Receiver::start();
    let ca = std::fs::read(other.ca_file()).unwrap();
    let hook = Configured {
        ca: ca.clone(),
        ..Configured::of(&plain)
    };
    let not_allowed = Configured {
        allow: Vec::new(),
        ..hook.clone()
    };
    assert_eq!(result_at(&world, not_allowed).await.0, "address");
    assert_eq!(result_at(&world, hook).await.0, "taken");
    let nowhere = Configured {
        url: "https://nothing.invalid/".to_owned(),
        ..Configured::of(&other)
    };
    assert_eq!(result_at(&world, nowhere).await.0, "resolve");
}
