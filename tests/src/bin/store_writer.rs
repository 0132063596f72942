//! Commits ticks without pause, folds and drops meanwhile, and prints each attestation after its
//! commit returned. The crash test kills it at random moments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use rat_engine::agent_id::ShardIndex;
use rat_engine::shard::{Epoch, Outcome, Tick};
use rat_store::{CommitResult, LogPiece, RetentionPolicy, ShardHead, Store};
use rat_tests::{crash, fleet};

/// Outcomes of one commit: from one, as a quiet fleet has, to many.
const OUTCOMES_MAX: u64 = 24;

struct Writer {
    store: Store,
    epoch: Epoch,
    heads: Vec<ShardHead>,
    /// Of each agent, its newest attestation.
    attestations: Vec<u64>,
}

impl Writer {
    async fn open(directory: &Path) -> Self {
        let store = Store::open(directory).await.unwrap();
        let epoch = store.take_ownership("crash").await.unwrap();
        let heads = store.heads().await.unwrap();
        let all = ShardIndex::new(0).unwrap()..=ShardIndex::new(ShardIndex::COUNT - 1).unwrap();
        let loaded = store.load(all).await.unwrap();
        let of = |number| {
            let id = fleet::agent(number);
            let agent = loaded.agents.iter().find(|agent| agent.record.id == id);
            agent.unwrap().state.attestations
        };
        Self {
            epoch,
            heads,
            attestations: (0..crash::AGENTS).map(of).collect(),
            store,
        }
    }

    /// The next outcome of an agent, whose list is staged or comes along.
    async fn next(&mut self, number: u64) -> Outcome {
        let attestation = self.attestations[number as usize] + 1;
        self.attestations[number as usize] = attestation;
        let bytes = crash::list_entries(number, attestation);
        let from = crash::list_position(attestation);
        let log = if from == 0 {
            let agent = fleet::agent(number);
            let upload = fleet::challenge(number * 1_000_000 + attestation);
            let pieces: Vec<LogPiece<'_>> = (0..)
                .zip(bytes.chunks(65_536))
                .map(|(piece, bytes)| LogPiece {
                    agent: &agent,
                    upload,
                    piece,
                    bytes,
                })
                .collect();
            let now = fleet::START_UNIX_MS + attestation * 10_000;
            self.store.stage_log(&pieces, now).await.unwrap();
            fleet::staged_log(0, 1, bytes.len() as u64, upload)
        } else {
            fleet::whole_log(from, from + 1, &bytes)
        };
        Outcome {
            log: Some(log),
            ..fleet::outcome(number, attestation)
        }
    }

    /// One commit of many shards' ticks, and what it answers.
    async fn commit(&mut self, round: u64) -> String {
        let count = 1 + crash::random(round, 0) % OUTCOMES_MAX;
        let first = crash::random(round, 1);
        let mut by_shard: BTreeMap<ShardIndex, Vec<Outcome>> = BTreeMap::new();
        let mut answer = String::new();
        for step in 0..count {
            let number = (first + step) % crash::AGENTS;
            let outcome = self.next(number).await;
            answer += &format!("{number} {}\n", outcome.state.attestations);
            by_shard
                .entry(outcome.agent.shard())
                .or_default()
                .push(outcome);
        }
        let mut ticks = Vec::new();
        for (shard, outcomes) in by_shard {
            let head = &mut self.heads[usize::from(shard.get())];
            let tick = Tick::new(shard, self.epoch, head.seq + 1, head.head, outcomes);
            (head.seq, head.head) = (tick.seq, tick.after);
            ticks.push(tick);
        }
        let results = self.store.commit(&ticks).await.unwrap();
        assert!(results.iter().all(|r| *r == CommitResult::Committed));
        answer
    }
}

async fn keep_house(store: Store) {
    let policy = RetentionPolicy {
        rows_max: 3,
        ..RetentionPolicy::default()
    };
    loop {
        store.fold(5).await.unwrap();
        store
            .retention(fleet::START_UNIX_MS, &policy)
            .await
            .unwrap();
    }
}

#[tokio::main]
async fn main() {
    let directory = std::env::args_os().nth(1).expect("the data directory");
    let mut writer = Writer::open(Path::new(&directory)).await;
    let house = tokio::spawn(keep_house(writer.store.clone()));
    let seed = crash::random(writer.epoch.0, 7);
    for round in 0.. {
        let answer = writer.commit(seed.wrapping_add(round)).await;
        assert!(!house.is_finished());
        let mut out = std::io::stdout().lock();
        // Whoever read the answers is gone: so is the reason to go on.
        if out
            .write_all(answer.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}
