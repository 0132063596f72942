//! Names, units and descriptions of the metrics.

use rat_tests::workspace_root;
use rat_transport::limits;
use rat_transport::quic::client::ClientError;

use super::certificates::SERVER_NAME;
use super::world::{World, hello, list, metrics, with_list};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_described_and_named_by_its_unit() {
    let world = World::limited(|limits| limits.connections_max = 1);
    let agent = world.agent("measured").await;
    agent.attest(&world.recorder, with_list(list(70_000))).await;
    let client = world.client("second");
    let error = client
        .connect(world.address, SERVER_NAME)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Full));
    agent
        .connection
        .renew(b"request".to_vec())
        .await
        .unwrap_err();
    agent.connection.hello(hello("measured")).await.unwrap_err();
    let text = metrics().render();
    let mut described = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name)) => described.push(name),
            (Some("#"), Some("TYPE"), Some(name)) => {
                let is_counter = line.ends_with(" counter");
                assert_eq!(is_counter, name.ends_with("_total"), "{line}");
                assert!(described.contains(&name), "{name} is not described");
            }
            _ => {}
        }
    }
    for expected in [
        "attest_transport_connections",
        "attest_transport_handshakes_total",
        "attest_transport_refusals_total",
        "attest_transport_evidence_total",
        "attest_transport_verdicts_total",
        "attest_transport_log_bytes_total",
        "attest_transport_buffered_bytes",
        "attest_limit_rejections_total",
    ] {
        assert!(described.contains(&expected), "{expected} is missing");
    }
}

/// Every string in the transport's sources that is counted as a limit.
fn counted_limits() -> Vec<String> {
    let mut folders = vec![workspace_root().join("transport/src")];
    let mut counted = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let words = text.split('"').skip(1).step_by(2);
            let is_limit = |word: &&str| {
                let allowed = |c: char| c.is_ascii_uppercase() || c == '_';
                word.contains('_') && word.chars().all(allowed)
            };
            counted.extend(words.filter(is_limit).map(str::to_owned));
        }
    }
    counted
}

#[test]
fn every_limit_is_counted_under_its_own_name() {
    let own = limits::all();
    let known = own.iter().chain(rat_engine::limits::ALL);
    let known: Vec<_> = known.map(|limit| limit.name).collect();
    let counted = counted_limits();
    assert!(counted.len() > 15, "{counted:?}");
    for name in counted {
        assert!(known.contains(&name.as_str()), "no limit is called {name}");
    }
}
