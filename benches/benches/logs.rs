//! Replay and judgement of logs: entries and events per second.
//!
//! `distinct` lists hold another path in each entry, as the first list of a new fleet does;
//! `recurring` ones hold the same thousand files over and over, as lists of one fleet do.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::BootAggregates;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{ImaAppraiser, ImaOptions, LogFormat, Start};
use rat_engine::pcr::{PcrIndex, PcrValues};
use rat_engine::policy::RuntimePolicy;
use rat_engine::uefi::EventLog;
use rat_tests::evidence::{Machine, boot_value};
use rat_tests::measured::{self, Measured};
use rat_tests::{oracle, vectors};

const ENTRIES: usize = 20_000;

/// A machine that measured this many files, of which so many are different.
fn machine(distinct: usize) -> Machine {
    Machine::valid().with(|machine| {
        machine.list.truncate(1);
        machine.list.extend((0..ENTRIES).map(|n| {
            let file = n % distinct;
            let name = format!("/usr/lib/x86_64-linux-gnu/package-{file:06}/libfile.so.{file}");
            Measured::file(&name, &file.to_le_bytes())
        }));
    })
}

/// The quoted values, with the boot PCRs that boot_aggregate covers.
fn quoted(machine: &Machine) -> PcrValues {
    let mut values = PcrValues::new();
    for index in 0..10 {
        let bytes = boot_value(HashAlg::Sha256, index);
        let value = Digest::new(HashAlg::Sha256, &bytes).unwrap();
        values.insert(PcrIndex::new(index.into()).unwrap(), value);
    }
    let entries: Vec<_> = machine.list.iter().map(Measured::oracle).collect();
    let replayed = oracle::replay(&entries, &[HashAlg::Sha256], &[10])
        .pop()
        .unwrap();
    let value = Digest::new(HashAlg::Sha256, &replayed[&(HashAlg::Sha256, 10)]).unwrap();
    values.insert(PcrIndex::IMA, value);
    values
}

fn ima(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ima");
    group.throughput(Throughput::Elements(ENTRIES as u64));
    for (name, distinct) in [("distinct", ENTRIES), ("recurring", 1_000)] {
        let machine = machine(distinct);
        let quoted = quoted(&machine);
        let policy = RuntimePolicy::parse(machine.policy().as_bytes()).unwrap();
        let judge = Arc::new(Judge::new(policy.into()).unwrap());
        let lists = [
            ("binary", LogFormat::Binary, measured::binary(&machine.list)),
            ("ascii", LogFormat::Ascii, measured::ascii(&machine.list)),
        ];
        for (form, format, list) in lists {
            group.bench_function(format!("{form}/{name}"), |bencher| {
                bencher.iter(|| {
                    let options = ImaOptions {
                        format,
                        ..ImaOptions::default()
                    };
                    let boot = BootAggregates::from_quoted(&quoted);
                    let mut appraiser = ImaAppraiser::new(
                        &quoted,
                        options,
                        Start::First,
                        boot,
                        Some(Arc::clone(&judge)),
                    )
                    .unwrap();
                    for piece in list.chunks(64 * 1024) {
                        appraiser.feed(piece);
                    }
                    let outcome = appraiser.finish().unwrap();
                    assert!(outcome.proof.passed_under().is_some());
                    black_box(outcome)
                });
            });
        }
    }
    group.finish();
}

fn uefi(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uefi");
    let log = vectors::read("sets/hpe-rsa-sha256-ima780-uefi/boot_log.bin");
    let events = EventLog::parse(&log).unwrap().events().len();
    group.throughput(Throughput::Elements(events as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| EventLog::parse(black_box(&log)).unwrap().events().len());
    });
    group.bench_function("parse and replay", |bencher| {
        bencher.iter(|| {
            let log = EventLog::parse(black_box(&log)).unwrap();
            log.replay(HashAlg::Sha256).unwrap().values().len()
        });
    });
    group.finish();
}

criterion_group!(benches, ima, uefi);
criterion_main!(benches);
