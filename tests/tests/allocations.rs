//! What the judgement of a quote allocates: a busy server is to spend its time on mathematics.
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::alloc::System;

use rat_engine::crypto::{VectorUnit, vector_unit};
use rat_engine::shard::{Assignment, Judged, Task, VerdictKind};
use rat_tests::assignment::steady;
use rat_tests::software_tpm::Scheme;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The lists of what is verified together, where it belongs, and what came of it.
const PER_BATCH: usize = 3;

/// Judges a batch as the server does; says what verifying its signatures allocated, and the rest.
fn judge(assignments: &[Assignment]) -> (usize, usize) {
    let tasks = assignments.iter().cloned().map(Task::new);
    let mut tasks: Vec<_> = tasks.collect();
    let mut judged: Vec<Judged> = Vec::with_capacity(tasks.len());
    let region = Region::new(ALLOCATOR);
    Task::verify_signatures(&mut tasks);
    let of_batch = region.change();
    judged.extend(tasks.drain(..).map(Task::finish));
    let all = region.change();
    let are_trusted = judged.iter().all(|it| it.verdict == VerdictKind::Trusted);
    assert!(are_trusted, "{judged:?}");
    let count = |it: stats_alloc::Stats| it.allocations + it.reallocations;
    (count(of_batch), count(all) - count(of_batch))
}

/// Both schemes in one test: allocations are counted in the whole process.
#[test]
fn a_quote_that_brings_nothing_new_is_judged_without_allocating() {
    for scheme in [Scheme::RsaSsa(2048), Scheme::Ecdsa(256)] {
        let assignments: Vec<_> = (0..8).map(|nth| steady(scheme, nth)).collect();
        // The constants of the keys are made once.
        judge(&assignments);
        for count in [2, 8] {
            let (of_batch, others) = judge(&assignments[..count]);
            assert_eq!(others, 0, "{count} of {scheme:?}");
            // Libraries allocate what they like.
            if vector_unit() == VectorUnit::InUse {
                assert_eq!(of_batch, PER_BATCH, "{count} of {scheme:?}");
            }
        }
    }
}
