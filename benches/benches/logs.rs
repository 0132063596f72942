//! Replay and judgement of logs: entries and events per second.
//!
//! `distinct` lists hold another path in each entry, as the first list of a new fleet does;
//! `recurring` ones hold the same thousand files over and over, as lists of one fleet do. Each is
//! appraised without caches, with caches that nothing is in, and with caches that hold what other
//! machines of the fleet have shown.
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
use rat_engine::agent_id::AgentId;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::BootAggregates;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{CacheLimits, ImaAppraiser, ImaCaches, ImaOptions, LogFormat, Start};
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

/// A list, and what it is appraised by.
struct List {
    format: LogFormat,
    bytes: Vec<u8>,
    quoted: PcrValues,
    judge: Arc<Judge>,
}

impl List {
    fn appraise(&self, caches: Option<(&Arc<ImaCaches>, &str)>) {
        let options = ImaOptions {
            format: self.format,
            ..ImaOptions::default()
        };
        let boot = BootAggregates::from_quoted(&self.quoted);
        let judge = Some(Arc::clone(&self.judge));
        let mut appraiser =
            ImaAppraiser::new(&self.quoted, options, Start::First, boot, judge).unwrap();
        if let Some((caches, agent)) = caches {
            let agent = AgentId::parse(agent).unwrap();
            appraiser = appraiser.with_caches(Arc::clone(caches), &agent);
        }
        for piece in self.bytes.chunks(64 * 1024) {
            appraiser.feed(piece);
        }
        let outcome = appraiser.finish().unwrap();
        assert!(outcome.proof.passed_under().is_some());
        black_box(outcome);
    }
}

fn caches() -> Arc<ImaCaches> {
    Arc::new(ImaCaches::new(CacheLimits::default(), 1))
}

fn ima(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ima");
    group.throughput(Throughput::Elements(ENTRIES as u64));
    for (name, distinct) in [("distinct", ENTRIES), ("recurring", 1_000)] {
        let machine = machine(distinct);
        let policy = RuntimePolicy::parse(machine.policy().as_bytes()).unwrap();
        let judge = Arc::new(Judge::new(policy.into()).unwrap());
        let lists = [
            ("binary", LogFormat::Binary, measured::binary(&machine.list)),
            ("ascii", LogFormat::Ascii, measured::ascii(&machine.list)),
        ];
        for (form, format, bytes) in lists {
            let list = List {
                format,
                bytes,
                quoted: quoted(&machine),
                judge: Arc::clone(&judge),
            };
            group.bench_function(format!("{form}/{name}/no caches"), |bencher| {
                bencher.iter(|| list.appraise(None));
            });
            group.bench_function(format!("{form}/{name}/empty caches"), |bencher| {
                bencher.iter(|| list.appraise(Some((&caches(), "first"))));
            });
            let warm = caches();
            // Each machine may add so much: after these all of it is there, and the fleet's.
            for agent in 0..20 {
                list.appraise(Some((&warm, &format!("agent-{agent}"))));
            }
            group.bench_function(format!("{form}/{name}/warm caches"), |bencher| {
                bencher.iter(|| list.appraise(Some((&warm, "another"))));
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
