//! Makes many enrolled agents that attested in a data directory, for `benches/road records` and
//! `benches/fleet`: enrolling 100,000 machines one by one would take a quarter of an hour.
//!
//! ```text
//! records DIR AGENTS
//! records DIR AGENTS --like AGENT --identities FILE --evidence HOST:PORT [--relays N] [--certificates N]
//! ```
//!
//! The first makes a new directory; what an agent's record holds has the size of a real one's. The
//! second multiplies an agent of `rat-load fleet` that has attested to the server of this directory,
//! which does not run: the others have its group, boot and list, and certificates from the server's
//! CA, which FILE holds with their keys, for `rat-load fleet --identities FILE`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_types,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

mod like;

use std::collections::BTreeMap;
use std::path::Path;

use rat_engine::crypto;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{AgentRecord, Outcome, Tick};
use rat_store::{
    Activated, Answered, CommitResult, GroupSettings, NewGroup, NewPending, NewPolicy,
    Precondition, Registration, Slot, Store,
};
use rat_tests::fleet;

/// Paths that the policy lists.
const PATHS: usize = 1_000;
/// Agents whose outcomes are committed together.
const AT_ONCE: usize = 5_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, agents, more @ ..] = arguments.as_slice() else {
        eprintln!("usage: records DIR AGENTS");
        std::process::exit(2);
    };
    let store = Store::open(Path::new(directory)).await.unwrap();
    let agents = agents.parse().unwrap();
    if !more.is_empty() {
        like::multiply(&store, Path::new(directory), agents, more).await;
        return;
    }
    let policy = make_group(&store).await;
    let now = fleet::START_UNIX_MS;
    enrol(&store, now, (0..agents).map(fleet::record)).await;
    let digest = crypto::digest(HashAlg::Sha256, &policy);
    let attested = (0..agents).map(|number| {
        let mut outcome = fleet::outcome(number, 1);
        outcome.policy = Some(digest);
        outcome.state.passed_under = Some(digest);
        // Of a list that was judged whole, so that nobody's is judged again.
        (outcome.state.list.violations, outcome.state.list.excluded) = (Some(0), Some(0));
        outcome
    });
    attest(&store, attested).await;
}

/// A policy of so many files.
fn policy() -> Vec<u8> {
    let digests: Vec<String> = (0..PATHS)
        .map(|nth| {
            let digest = crypto::digest(HashAlg::Sha256, &nth.to_le_bytes());
            let hex = hex::encode(digest.as_bytes());
            format!("\"/usr/lib/x86_64-linux-gnu/lib{nth}.so\":[\"{hex}\"]")
        })
        .collect();
    let digests = digests.join(",");
    let meta = r#"{"version":1,"generator":1,"timestamp":"2026-01-01T00:00:00Z"}"#;
    format!(r#"{{"meta":{meta},"release":0,"digests":{{{digests}}},"excludes":[],"keyrings":{{}},"ima":{{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null}},"ima-buf":{{}},"verification-keys":""}}"#)
        .into_bytes()
}

async fn make_group(store: &Store) -> Vec<u8> {
    let text = policy();
    let group = NewGroup {
        slug: fleet::GROUP.to_owned(),
        hex_id: "0f".repeat(16),
        settings: GroupSettings::default(),
    };
    store.create_group(&group, "bench", 1).await.unwrap();
    let version = store
        .put_policy(NewPolicy {
            group: fleet::GROUP,
            text: &text,
            name: "bench",
            origin: "bench",
            actor: "bench",
            now_unix_ms: 1,
        })
        .await
        .unwrap();
    let slot = Slot::Enforced;
    let always = Precondition::Always;
    store
        .activate_policy(fleet::GROUP, version.version, slot, always, "bench", 1)
        .await
        .unwrap();
    text
}

async fn enrol(store: &Store, from_unix_ms: u64, records: impl Iterator<Item = AgentRecord>) {
    for (number, record) in records.enumerate() {
        let registration = Registration {
            hostname: format!("host-{number}"),
            ip: "192.0.2.1".to_owned(),
            registered_unix_ms: from_unix_ms + number as u64,
        };
        let pending = NewPending {
            id: "p",
            agent: &record.id,
            body: b"",
            expires_unix_ms: registration.registered_unix_ms + 1,
        };
        store.put_pending(pending, 1).await.unwrap();
        let answered = Answered::new("p", "bench");
        let activated = store.activate(&answered, &record, &registration).await;
        let activated = activated.unwrap();
        assert!(matches!(activated, Ok(Activated::New(_))), "{activated:?}");
    }
}

async fn attest(store: &Store, mut outcomes: impl Iterator<Item = Outcome>) {
    let epoch = store.take_ownership("bench").await.unwrap();
    let mut heads = store.heads().await.unwrap();
    loop {
        let mut by_shard = BTreeMap::<_, Vec<Outcome>>::new();
        for outcome in outcomes.by_ref().take(AT_ONCE) {
            let of_shard = by_shard.entry(outcome.agent.shard()).or_default();
            of_shard.push(outcome);
        }
        if by_shard.is_empty() {
            return;
        }
        let ticks: Vec<Tick> = by_shard
            .into_iter()
            .map(|(shard, outcomes)| {
                let head = &mut heads[usize::from(shard.get())];
                let tick = Tick::new(shard, epoch, head.seq + 1, head.head, outcomes);
                (head.seq, head.head) = (tick.seq, tick.after);
                tick
            })
            .collect();
        let results = store.commit(&ticks).await.unwrap();
        assert!(results.iter().all(|r| *r == CommitResult::Committed));
        while store.fold(4096).await.unwrap().more {}
    }
}
