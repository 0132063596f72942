//! Attacks on freshness, time, attribution and state, against one shard.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

#[path = "attacks_session/attribution.rs"]
mod attribution;
#[path = "attacks_session/boot.rs"]
mod boot;
#[path = "attacks_session/boot_policy.rs"]
mod boot_policy;
#[path = "attacks_session/demands.rs"]
mod demands;
#[path = "attacks_session/evidence.rs"]
mod evidence;
#[path = "attacks_session/failing.rs"]
mod failing;
#[path = "attacks_session/freshness.rs"]
mod freshness;
#[path = "attacks_session/intervals.rs"]
mod intervals;
#[path = "attacks_session/load.rs"]
mod load;
#[path = "attacks_session/policy.rs"]
mod policy;
#[path = "attacks_session/rejudge.rs"]
mod rejudge;
#[path = "attacks_session/rejudge_queue.rs"]
mod rejudge_queue;
#[path = "attacks_session/relays.rs"]
mod relays;
#[path = "attacks_session/rules.rs"]
mod rules;
#[path = "attacks_session/sha1.rs"]
mod sha1;
#[path = "attacks_session/signatures.rs"]
mod signatures;
#[path = "attacks_session/state.rs"]
mod state;
#[path = "attacks_session/time.rs"]
mod time;

use rat_engine::evidence::SessionId;
use rat_engine::shard::{AgentState, EffectiveStatus, Event};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::stage::{Enrolled, Stage, group_of};

/// A machine that is enrolled, connected and trusted.
fn trusted() -> (Stage, Enrolled, SessionId) {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    stage.events.clear();
    (stage, agent, session)
}

/// What an attack must not change: trust, position, boot, failure.
fn unchanged(before: &AgentState, after: &AgentState) {
    assert_eq!(before, after, "the agent's state changed");
}

fn turned_away(stage: &Stage, code: Code) -> usize {
    let is_it = |event: &&Event| matches!(event, Event::TurnedAway { code: of, .. } if *of == code);
    stage.events.iter().filter(is_it).count()
}
