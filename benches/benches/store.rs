//! What a commit, the folder and a start cost.
//!
//! The data directory is made where `TMPDIR` says: on a disk, or the figures are of memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    missing_docs
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rat_engine::agent_id::ShardIndex;
use rat_engine::shard::{Epoch, Outcome, Tick};
use rat_store::{
    Activated, Answered, CommitResult, GroupSettings, NewGroup, NewPending, Registration,
    ShardHead, Store,
};
use rat_tests::fleet;
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct Bench {
    runtime: Runtime,
    _directory: TempDir,
    store: Store,
    epoch: Epoch,
    heads: Vec<ShardHead>,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (store, epoch, heads) = runtime.block_on(async {
            let store = Store::open(directory.path()).await.unwrap();
            let epoch = store.take_ownership("bench").await.unwrap();
            let heads = store.heads().await.unwrap();
            (store, epoch, heads)
        });
        Self {
            runtime,
            _directory: directory,
            store,
            epoch,
            heads,
        }
    }

    fn commit(&mut self, outcomes: Vec<Vec<Outcome>>) {
        let ticks: Vec<Tick> = outcomes
            .into_iter()
            .map(|outcomes| {
                let shard = outcomes[0].agent.shard();
                let head = &mut self.heads[usize::from(shard.get())];
                let tick = Tick::new(shard, self.epoch, head.seq + 1, head.head, outcomes);
                (head.seq, head.head) = (tick.seq, tick.after);
                tick
            })
            .collect();
        let results = self.runtime.block_on(self.store.commit(&ticks)).unwrap();
        assert!(results.iter().all(|r| *r == CommitResult::Committed));
    }

    fn fold_all(&self) {
        self.runtime
            .block_on(async { while self.store.fold(4096).await.unwrap().more {} });
    }

    fn enrol(&self, agents: u64) {
        let group = NewGroup {
            slug: fleet::GROUP.to_owned(),
            hex_id: "0f".to_owned(),
            settings: GroupSettings::default(),
        };
        let registration = Registration {
            hostname: "host".to_owned(),
            ip: "192.0.2.1".to_owned(),
            registered_unix_ms: 1,
        };
        self.runtime.block_on(async {
            self.store.create_group(&group, "bench", 1).await.unwrap();
            for number in 0..agents {
                let record = fleet::record(number);
                let pending = NewPending {
                    id: "p",
                    agent: &record.id,
                    body: b"",
                    expires_unix_ms: 9,
                };
                self.store.put_pending(pending, 1).await.unwrap();
                let activated = self
                    .store
                    .activate(&Answered::new("p", "bench"), &record, &registration)
                    .await;
                assert!(matches!(activated.unwrap(), Ok(Activated::New(_))));
            }
        });
    }
}

/// The first agents of one shard.
fn of_one_shard(count: usize) -> Vec<u64> {
    let shard = ShardIndex::new(7).unwrap();
    (0..)
        .filter(|number| fleet::agent(*number).shard() == shard)
        .take(count)
        .collect()
}

fn commits(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(20);
    let mut attestation = 0;
    for ticks in [1, 100, 1000] {
        // Agents of different shards: a tick for each.
        let mut agents: Vec<u64> = (0..20_000).collect();
        agents.sort_by_key(|number| fleet::agent(*number).shard());
        agents.dedup_by_key(|number| fleet::agent(*number).shard());
        agents.truncate(ticks);
        group.throughput(Throughput::Elements(ticks as u64));
        group.bench_function(format!("{ticks} ticks of one outcome"), |b| {
            b.iter(|| {
                attestation += 1;
                let outcomes = agents.iter().map(|n| vec![fleet::outcome(*n, attestation)]);
                bench.commit(outcomes.collect());
            });
        });
        bench.fold_all();
    }
    let agents = of_one_shard(1000);
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1 tick of 1000 outcomes", |b| {
        b.iter(|| {
            attestation += 1;
            let outcomes = agents.iter().map(|n| fleet::outcome(*n, attestation));
            bench.commit(vec![outcomes.collect()]);
        });
    });
    // What of the above is making up outcomes.
    group.bench_function("1000 outcomes made up and hashed", |b| {
        b.iter(|| {
            attestation += 1;
            let outcomes = agents.iter().map(|n| fleet::outcome(*n, attestation));
            let shard = ShardIndex::new(7).unwrap();
            black_box(Tick::new(
                shard,
                Epoch(1),
                1,
                Default::default(),
                outcomes.collect(),
            ))
        });
    });
    group.finish();
}

fn start(criterion: &mut Criterion) {
    const AGENTS: u64 = 10_000;
    let mut bench = Bench::new();
    bench.enrol(AGENTS);
    for attestation in 1..3 {
        for from in (0..AGENTS).step_by(500) {
            let mut by_shard = std::collections::BTreeMap::<_, Vec<Outcome>>::new();
            for number in from..from + 500 {
                let outcome = fleet::outcome(number, attestation);
                by_shard
                    .entry(outcome.agent.shard())
                    .or_default()
                    .push(outcome);
            }
            bench.commit(by_shard.into_values().collect());
        }
        if attestation == 1 {
            bench.fold_all();
        }
    }
    let all = || ShardIndex::new(0).unwrap()..=ShardIndex::new(ShardIndex::COUNT - 1).unwrap();
    let mut group = criterion.benchmark_group("start");
    group.sample_size(10);
    group.throughput(Throughput::Elements(AGENTS));
    group.bench_function("load 10000 agents and a tail of 10000 outcomes", |b| {
        b.iter(|| {
            let loaded = bench.runtime.block_on(bench.store.load(all())).unwrap();
            assert_eq!(loaded.agents.len() as u64, AGENTS);
        });
    });
    bench.fold_all();
    group.bench_function("load 10000 agents", |b| {
        b.iter(|| {
            let loaded = bench.runtime.block_on(bench.store.load(all())).unwrap();
            assert_eq!(loaded.agents.len() as u64, AGENTS);
        });
    });
    group.finish();
}

fn fold(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    bench.enrol(2_000);
    let mut attestation = 0;
    let mut group = criterion.benchmark_group("fold");
    group.sample_size(10);
    group.throughput(Throughput::Elements(2_000));
    group.bench_function("2000 outcomes of 2000 agents", |b| {
        b.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                attestation += 1;
                let mut by_shard = std::collections::BTreeMap::<_, Vec<Outcome>>::new();
                for number in 0..2_000 {
                    let outcome = fleet::outcome(number, attestation);
                    by_shard
                        .entry(outcome.agent.shard())
                        .or_default()
                        .push(outcome);
                }
                bench.commit(by_shard.into_values().collect());
                #[expect(clippy::disallowed_types, reason = "a bench reads the clock")]
                let began = std::time::Instant::now();
                bench.fold_all();
                spent += began.elapsed();
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, commits, start, fold);
criterion_main!(benches);
