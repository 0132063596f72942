//! A process that commits verdicts is killed with SIGKILL at random moments; every verdict that
//! it answered is there when the store is opened again.
//!
//! `CRASH_ROUNDS` says how often, `CRASH_SEED` repeats a sequence of moments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rat_engine::agent_id::ShardIndex;
use rat_store::{
    Activated, Answered, GroupSettings, NewGroup, NewPending, Registration, Restored, Store,
    StoredAgent,
};
use rat_tests::{crash, fleet};

const ROUNDS: u64 = 50;
/// Rounds that one data directory lives through.
const ROUNDS_OF_A_DIRECTORY: u64 = 25;
/// Answers after which the process is killed, at most.
const ANSWERS_MAX: u64 = 400;
/// How much later the kill comes, at most, so that it does not always find the process between two
/// commits.
const LATER_US_MAX: u64 = 20_000;

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
    )
}

async fn prepare(directory: &Path) {
    let store = Store::open(directory).await.unwrap();
    let group = NewGroup {
        slug: fleet::GROUP.to_owned(),
        hex_id: "0f".to_owned(),
        settings: GroupSettings::default(),
    };
    store.create_group(&group, "test", 1).await.unwrap();
    let registration = Registration {
        hostname: "host".to_owned(),
        ip: "192.0.2.1".to_owned(),
        registered_unix_ms: 1,
    };
    for number in 0..crash::AGENTS {
        let record = fleet::record(number);
        let pending = NewPending {
            id: record.id.as_str(),
            agent: &record.id,
            body: b"",
            expires_unix_ms: 9,
        };
        store.put_pending(pending, 1).await.unwrap();
        let activated = store
            .activate(&Answered::new(pending.id, "test"), &record, &registration)
            .await;
        assert!(matches!(activated.unwrap(), Ok(Activated::New(_))));
    }
    store.close().await;
}

/// Runs the writer until it gave so many answers and a moment more, kills it, and gives all that it
/// answered: of each agent the attestations.
fn run_and_kill(directory: &Path, answers: u64, later: Duration) -> BTreeMap<u64, Vec<u64>> {
    let mut writer = Command::new(env!("CARGO_BIN_EXE_store_writer"))
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answered: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut lines = BufReader::new(writer.stdout.take().unwrap());
    let mut count = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        // What was written before the kill counts; half a line was not.
        let Some(line) = line.strip_suffix('\n') else {
            break;
        };
        let (number, attestation) = line.split_once(' ').unwrap();
        let of_agent = answered.entry(number.parse().unwrap()).or_default();
        of_agent.push(attestation.parse().unwrap());
        count += 1;
        if count == answers {
            // It goes on writing: answers wait in the pipe.
            thread::sleep(later);
            writer.kill().unwrap();
        }
    }
    let status = writer.wait().unwrap();
    assert!(count >= answers, "the writer ended by itself: {status}");
    answered
}

async fn check(directory: &Path, answered: &BTreeMap<u64, Vec<u64>>) {
    let store = Store::open(directory).await.unwrap();
    let all = ShardIndex::new(0).unwrap()..=ShardIndex::new(ShardIndex::COUNT - 1).unwrap();
    let loaded = store.load(all).await.unwrap();
    assert_eq!(loaded.unreadable, []);
    assert_eq!(loaded.agents.len() as u64, crash::AGENTS);
    for number in 0..crash::AGENTS {
        let id = fleet::agent(number);
        let agent = loaded.agents.iter().find(|agent| agent.record.id == id);
        check_agent(&store, number, agent.unwrap(), answered.get(&number)).await;
    }
    for head in store.heads().await.unwrap() {
        let chain = store.verify_chain(head.shard).await.unwrap().unwrap();
        assert_eq!((chain.seq, chain.head), (head.seq, head.head));
    }
    store.close().await;
}

async fn check_agent(store: &Store, number: u64, agent: &StoredAgent, answered: Option<&Vec<u64>>) {
    let newest = agent.state.attestations;
    if newest > 0 {
        // Not torn: state and list are those of one attestation.
        assert_eq!(agent.state, fleet::state(number, newest));
        let mut log = store.log_of(&agent.record.id).await.unwrap().unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = log.next().await.unwrap() {
            bytes.extend(piece);
        }
        assert!(
            bytes == crash::list(number, newest),
            "the list of agent {number}"
        );
    }
    let Some(answered) = answered else { return };
    let history = store.history(&agent.record.id, None, 1_000).await.unwrap();
    for attestation in answered {
        assert!(*attestation <= newest, "an answered verdict is lost");
        let evidence = fleet::outcome(number, *attestation).evidence_sha256;
        let found = history.iter().filter(|o| o.evidence_sha256 == evidence);
        assert_eq!(
            found.count(),
            1,
            "attestation {attestation} of agent {number}"
        );
    }
}

/// The whole database is sound: its own check, foreign keys, chains and audit log.
async fn check_all(directory: &Path) -> Restored {
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("backup.db");
    let store = Store::open(directory).await.unwrap();
    store.backup(&file).await.unwrap();
    store.close().await;
    Store::restore(&elsewhere.path().join("restored"), &file)
        .await
        .unwrap()
}

#[tokio::test]
async fn s03_s05_a_kill_at_any_moment_loses_no_answered_verdict() {
    let rounds = from_environment("CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_environment("CRASH_SEED")
        .unwrap_or_else(|| RandomState::new().build_hasher().finish());
    eprintln!("CRASH_SEED={seed}, {rounds} rounds");
    let mut verdicts = 0;
    let mut outcomes = 0;
    let mut round = 0;
    while round < rounds {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path()).await;
        let end = rounds.min(round + ROUNDS_OF_A_DIRECTORY);
        while round < end {
            let answers = 1 + crash::random(seed, round) % ANSWERS_MAX;
            let later_us = crash::random(!seed, round) % LATER_US_MAX;
            let later = Duration::from_micros(later_us);
            let answered = run_and_kill(directory.path(), answers, later);
            verdicts += answered.values().map(Vec::len).sum::<usize>();
            check(directory.path(), &answered).await;
            round += 1;
        }
        outcomes += check_all(directory.path()).await.outcomes;
    }
    eprintln!(
        "{rounds} kills, {verdicts} answered verdicts, none lost; {outcomes} outcomes stored"
    );
    assert!(outcomes >= verdicts as u64);
}
