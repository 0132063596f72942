//! The evidence of steady agents in one process, on one core: from what a connection took to what
//! is to be recorded. One element is one agent's quote; its list has nothing new.
//!
//! `batch` is how the server does it, `alone` the same without a batch. Keys, quotes and nonces are
//! all different.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rat_engine::shard::{Assignment, Judged, Task, VerdictKind};
use rat_tests::assignment::steady;
use rat_tests::software_tpm::Scheme;

/// What a busy worker finds in one turn.
const AGENTS: u8 = 64;

fn judge(assignments: Vec<Assignment>, is_batch: bool) -> Vec<Judged> {
    let mut tasks: Vec<_> = assignments.into_iter().map(Task::new).collect();
    if is_batch {
        Task::verify_signatures(&mut tasks);
    }
    tasks.into_iter().map(Task::finish).collect()
}

fn quotes(criterion: &mut Criterion) {
    for (name, scheme) in [
        ("rsassa-2048", Scheme::RsaSsa(2048)),
        ("ecdsa-p256", Scheme::Ecdsa(256)),
    ] {
        let assignments: Vec<_> = (0..AGENTS).map(|nth| steady(scheme, nth)).collect();
        let mut group = criterion.benchmark_group(format!("task/{name}"));
        group.throughput(Throughput::Elements(AGENTS.into()));
        for (how, is_batch) in [("batch", true), ("alone", false)] {
            let judged = judge(assignments.clone(), is_batch);
            let are_trusted = judged.iter().all(|it| it.verdict == VerdictKind::Trusted);
            assert!(are_trusted, "{judged:?}");
            group.bench_function(how, |bencher| {
                bencher.iter_batched(
                    || assignments.clone(),
                    |assignments| judge(assignments, is_batch),
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, quotes);
criterion_main!(benches);
