//! Any sequence of commits, retries, folds, restarts and removals gives the states that a plain
//! table in memory gives.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use rat_engine::shard::{AgentState, Failure, Outcome, Tick};
use rat_store::{Activated, CommitResult, OnRemoval};
use rat_tests::fleet;

use super::Fixture;

const AGENTS: u64 = 4;

#[derive(Debug, Clone)]
enum Step {
    Commit { agent: u64, failed: bool },
    Retry,
    Fenced { agent: u64 },
    Fold { ticks_max: u32 },
    Restart,
    Remove { agent: u64, clear: bool },
    Enrol { agent: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let agent = 0..AGENTS;
    prop_oneof![
        8 => (agent.clone(), prop::bool::weighted(0.2))
            .prop_map(|(agent, failed)| Step::Commit { agent, failed }),
        2 => Just(Step::Retry),
        1 => agent.clone().prop_map(|agent| Step::Fenced { agent }),
        3 => (1_u32..6).prop_map(|ticks_max| Step::Fold { ticks_max }),
        1 => Just(Step::Restart),
        1 => (agent.clone(), any::<bool>()).prop_map(|(agent, clear)| Step::Remove { agent, clear }),
        2 => agent.prop_map(|agent| Step::Enrol { agent }),
    ]
}

#[derive(Default)]
struct Model {
    states: BTreeMap<u64, AgentState>,
    failures: BTreeMap<u64, Failure>,
    attestations: u64,
    last: Option<Tick>,
}

impl Model {
    fn outcome(&mut self, agent: u64, failed: bool) -> Outcome {
        self.attestations += 1;
        match failed {
            true => fleet::failed_outcome(agent, self.attestations),
            false => fleet::outcome(agent, self.attestations),
        }
    }
}

async fn run(mut fixture: Fixture, model: &mut Model, step: Step) -> Fixture {
    match step {
        Step::Commit { agent, failed } if model.states.contains_key(&agent) => {
            let outcome = model.outcome(agent, failed);
            model.states.insert(agent, outcome.state.clone());
            model.last = Some(fixture.commit(vec![outcome]).await);
        }
        Step::Retry => {
            if let Some(tick) = model.last.clone() {
                let results = fixture.store.commit(&[tick]).await.unwrap();
                assert_eq!(results, [CommitResult::AlreadyCommitted]);
            }
        }
        Step::Fenced { agent } => {
            let outcome = model.outcome(agent, false);
            let mut tick = fixture.tick(vec![outcome]).await;
            tick.epoch.0 -= 1;
            let results = fixture.store.commit(&[tick]).await.unwrap();
            assert_eq!(results, [CommitResult::Fenced]);
        }
        Step::Fold { ticks_max } => {
            fixture.store.fold(ticks_max).await.unwrap();
        }
        Step::Restart => {
            fixture = fixture.reopen().await;
            model.last = None;
        }
        Step::Remove { agent, clear } => {
            let on_removal = match clear {
                true => OnRemoval::ClearFailure,
                false => OnRemoval::KeepFailure,
            };
            let id = fleet::agent(agent);
            let removed = fixture.store.remove_agent(&id, on_removal, "ann", 1).await;
            let failure = match model.states.remove(&agent) {
                Some(state) if !clear => state.failure.map(|failure| *failure),
                _ => None,
            };
            assert_eq!(removed.unwrap().and_then(|r| r.failure), failure);
            if let Some(failure) = failure {
                model.failures.insert(agent, failure);
            }
        }
        Step::Enrol { agent } => {
            let activated = fixture.enrol(&fleet::record(agent)).await.unwrap();
            match (activated, model.states.get(&agent)) {
                (Activated::SameAgain(stored), Some(state)) => assert_eq!(stored.state, *state),
                (Activated::New(stored), None) => {
                    let state = AgentState {
                        failure: model.failures.remove(&agent).map(Box::new),
                        ..AgentState::default()
                    };
                    assert_eq!(stored.state, state);
                    model.states.insert(agent, state);
                }
                other => panic!("{other:?}"),
            }
        }
        Step::Commit { .. } => {}
    }
    fixture
}

async fn compare(fixture: &Fixture, model: &Model) {
    let loaded = fixture.load().await;
    assert_eq!(loaded.unreadable, []);
    let stored: BTreeMap<_, _> = loaded
        .agents
        .into_iter()
        .map(|agent| (agent.record.id, agent.state))
        .collect();
    let expected: BTreeMap<_, _> = model
        .states
        .iter()
        .map(|(number, state)| (fleet::agent(*number), state.clone()))
        .collect();
    assert_eq!(stored, expected);
    for number in 0..AGENTS {
        let shard = fleet::agent(number).shard();
        fixture.store.verify_chain(shard).await.unwrap().unwrap();
    }
}

#[test]
fn the_store_is_a_table_that_forgets_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..40))| {
        runtime.block_on(async {
            let mut model = Model::default();
            let mut fixture = Fixture::new().await;
            for step in steps {
                fixture = run(fixture, &mut model, step).await;
                compare(&fixture, &model).await;
            }
            Ok::<_, TestCaseError>(())
        })?;
    });
}
