//! Whole fleets in one thread: shards, agents and a store under a virtual clock, with seeded
//! faults, and the invariants of the design checked after each step.
//!
//! A failing run prints its seed; `SIM_SEED=… cargo nextest run -p rat-tests simulation` runs
//! that one again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::print_stdout
)]

#[path = "simulation/durable.rs"]
mod durable;
#[path = "simulation/events.rs"]
mod events;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/fleet.rs"]
mod fleet;
#[path = "simulation/invariants.rs"]
mod invariants;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/policies.rs"]
mod policies;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/world.rs"]
mod world;

use std::collections::BTreeMap;

use rat_engine::shard::EffectiveStatus;

use faults::Faults;
use fleet::Allows;
use world::{Happened, World};

const SEEDS: u64 = 40;
/// Each of these commits to a real database.
const DURABLE_SEEDS: u64 = 4;

/// The seed that is to be run again, alone.
fn one_seed() -> Option<u64> {
    let seed = std::env::var("SIM_SEED").ok()?;
    Some(seed.parse().expect("SIM_SEED is a number"))
}

fn seeds() -> Vec<u64> {
    one_seed().map_or_else(|| (1..=SEEDS).collect(), |seed| vec![seed])
}

/// Runs a fleet through faults, then lets it settle.
fn run(seed: u64, faults: Faults) -> World {
    settle(World::new(seed, faults), seed)
}

fn settle(mut world: World, seed: u64) -> World {
    println!("SIM_SEED={seed}");
    world.run_ms(120_000);
    world.heal();
    world.run_ms(120_000);
    world
}

#[test]
fn s01_s05_s14_s17_no_fault_makes_or_keeps_trust() {
    let mut happened = Happened::default();
    let mut rejudged = BTreeMap::new();
    for seed in seeds() {
        let world = run(seed, Faults::all());
        happened.add(world.happened());
        for (how, times) in world.rejudged() {
            *rejudged.entry(how.clone()).or_default() += times;
        }
        // What failed is failed, what is clean is trusted: nothing is lost for good.
        for (agent, machine) in world.machines() {
            let status = world.status(agent);
            let expected = match machine.is_clean() {
                true => EffectiveStatus::Trusted,
                false => EffectiveStatus::Untrusted,
            };
            assert_eq!(status, expected, "seed {seed}, {agent}");
        }
    }
    // The faults did happen; one seed alone does not reach these counts.
    if one_seed().is_none() {
        let enough = happened.commits > 1_000 && happened.crashes > 50;
        assert!(enough, "{happened:?}");
        let Happened {
            restarts,
            hidden,
            kills,
            copies,
            repairs,
            removals,
            intervals,
            ..
        } = happened;
        let least = [
            restarts, hidden, kills, copies, repairs, removals, intervals,
        ]
        .into_iter()
        .min();
        assert!(least >= Some(10), "{happened:?}");
        for how in ["passed", "denied", "missing", "not_reproduced", "timeout"] {
            let times: u64 = rejudged.get(how).copied().unwrap_or(0);
            assert!(times > 0, "no list was {how}: {rejudged:?}");
        }
    }
}

#[test]
fn l07_without_faults_an_activation_asks_no_machine_for_its_list_again() {
    let mut world = World::new(11, Faults::none());
    world.run_ms(60_000);
    for (round, allows) in [Allows::More, Allows::Usual, Allows::More]
        .iter()
        .enumerate()
    {
        world.activate(*allows);
        world.run_ms(2_000);
        for (agent, _) in world.machines() {
            assert_eq!(world.status(agent), EffectiveStatus::Trusted, "{agent}");
        }
        let all = world.machines().count() as u64;
        let expected = BTreeMap::from([("passed".to_owned(), all * (round as u64 + 1))]);
        assert_eq!(*world.rejudged(), expected);
        world.run_ms(60_000);
    }
    assert_eq!(world.whole_lists(), world.machines().count() as u64);
    assert_eq!(world.times_untrusted(), 0);
}

#[test]
fn s14_without_faults_no_interval_of_a_group_costs_anybody_its_trust() {
    let intervals = Faults {
        interval: 100,
        ..Faults::none()
    };
    let mut world = World::new(17, intervals);
    world.run_ms(30_000);
    let mut overdue = 0;
    for _ in 0..600 {
        world.run_ms(1_000);
        let lost = |agent: &_| world.status(agent) != EffectiveStatus::Trusted;
        overdue += world.agents().filter(|agent| lost(agent)).count();
    }
    assert!(world.happened().intervals > 30, "{:?}", world.happened());
    assert_eq!(world.times_untrusted(), 0);
    // A shorter interval ends the trust of some at once, who are asked within that interval.
    let asked = 4_u64 * 3 * world.happened().intervals;
    assert!(overdue as u64 <= asked, "{overdue} of {asked}");
    world.heal();
    world.run_ms(30_000);
    for (agent, _) in world.machines() {
        assert_eq!(world.status(agent), EffectiveStatus::Trusted, "{agent}");
    }
}

#[test]
fn t03_agents_that_are_killed_again_and_again_are_never_taken_for_clones() {
    let kills = Faults {
        kill: 150,
        ..Faults::none()
    };
    let mut world = World::new(11, kills);
    world.run_ms(300_000);
    assert!(world.happened().kills > 100, "{:?}", world.happened());
    assert_eq!(world.times_untrusted(), 0);
}

#[test]
fn t03_t09_a_machine_that_is_copied_while_it_runs_is_noticed() {
    let mut world = World::new(13, Faults::none());
    world.run_ms(30_000);
    let agent = world.agents().next().unwrap().clone();
    world.copy_machine(&agent);
    world.run_ms(200_000);
    assert_eq!(world.status(&agent), EffectiveStatus::Untrusted);
    // And nobody else.
    assert_eq!(world.times_untrusted(), 1);
}

#[test]
fn s03_s05_s18_the_real_store_says_what_the_model_says() {
    for seed in seeds().into_iter().take(DURABLE_SEEDS as usize) {
        let world = settle(World::durable(seed, Faults::all()), seed);
        world.verify_chains();
        assert!(world.happened().commits > 0, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    for seed in [1, 2, 3] {
        let (one, other) = (run(seed, Faults::all()), run(seed, Faults::all()));
        assert_eq!(one.trace(), other.trace(), "seed {seed}");
        assert_ne!(one.trace(), run(seed + 100, Faults::all()).trace());
    }
}

#[test]
fn without_faults_every_clean_machine_stays_trusted() {
    let mut world = World::new(7, Faults::none());
    world.run_ms(300_000);
    for (agent, machine) in world.machines() {
        assert!(machine.is_clean());
        assert_eq!(world.status(agent), EffectiveStatus::Trusted, "{agent}");
    }
    assert_eq!(world.times_untrusted(), 0);
}
