//! What the runtime and its store owe each other: baselines that become policies, a directory
//! with one owner, and a folder that falls behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;

use rat_api::core::baseline;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::ToAgent;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{AgentView, BaselineCandidate, EffectiveStatus, Event, Operation};
use rat_engine::verdict::Code;
use rat_runtime::{Reloaded, Runtime, StoreHealth, SystemClock};
use rat_store::{DirectoryError, Precondition, Store, StoreError};
use rat_tests::driven::{
    Connected, Driven, GROUP, PATIENCE, activate, agent_of, data, event, put_policy, settings,
    until,
};
use rat_tests::evidence::Machine;
use rat_tests::measured::{self, Measured};
use rat_tests::software_tpm::SoftwareAk;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};

/// What a machine's enrolment with a baseline leaves: its list as a version of the group's
/// policy, and the point that a quote must pass through.
async fn candidate(driven: &Driven, machine: &Machine) -> BaselineCandidate {
    let list = measured::ascii(&machine.list);
    let made = baseline::from_ascii(&list, "2026-01-01T00:00:00Z").unwrap();
    put_policy(&driven.store, &made.policy).await;
    let policy = rat_engine::crypto::digest(HashAlg::Sha256, made.policy.as_bytes());
    let covers = made.covers;
    BaselineCandidate { policy, covers }
}

/// Another machine that runs what the first does not.
fn other_machine() -> Machine {
    Machine::valid().with(|machine| {
        let implant = Measured::file("/usr/bin/implant", b"implant");
        machine.list.push(implant);
    })
}

/// The version that the group enforces, as it is stored.
async fn enforced(driven: &Driven) -> Option<u64> {
    let group = driven.store.group(GROUP).await.unwrap().unwrap();
    group.enforced.map(|version| version.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn l08_a_proven_baseline_is_enforced_for_its_group_and_after_a_restart() {
    let (golden, altered) = (Machine::valid(), other_machine());
    let driven = Driven::without_policy(settings()).await;
    let baseline = candidate(&driven, &golden).await;
    let digest = baseline.policy;
    // The agents are served by different workers.
    let agents = [agent_of(0, 0), agent_of(1, 0), agent_of(0, 1)];
    let [first, changed, same] = &agents;
    let set = |record: &mut rat_engine::shard::AgentRecord| record.baseline = Some(baseline);
    driven.enrol_with(&golden, first, set).await;
    driven.enrol(&altered, changed).await;
    driven.enrol(&golden, same).await;
    // Until somebody proves it, nobody is judged by it.
    let (waiting, answer) = driven.attest(1, &altered, changed);
    assert_eq!(answer.code, Some(Code::PolicyMissing));
    assert_ne!(answer.status, EffectiveStatus::Trusted);
    assert_eq!(enforced(&driven).await, None);
    let mut events = driven.runtime.events();
    let (_, answer) = driven.attest(2, &golden, first);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Unverified, None)
    );
    let is_proof = |event: &Event| matches!(event, Event::BaselineProven { .. });
    let proof = Event::BaselineProven {
        agent: first.clone(),
        group: GROUP.to_owned(),
        policy: digest,
    };
    assert_eq!(event(&mut events, is_proof).await, proof);
    let trusted = |view: &rat_engine::shard::AgentView| view.status == EffectiveStatus::Trusted;
    driven.until_view(first, trusted).await;
    // What it showed before is on record, and judged by what is enforced now.
    let untrusted = |view: &AgentView| view.status == EffectiveStatus::Untrusted;
    driven.until_view(changed, untrusted).await;
    let failure = driven.view(changed).await.state.failure.unwrap();
    assert_eq!(failure.code, Code::ImaPathNotListed);
    drop(waiting);
    let (_, answer) = driven.attest(3, &golden, same);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    let mut before = Vec::new();
    for agent in &agents {
        before.push(driven.view(agent).await);
    }
    let driven = driven.restart(settings()).await;
    let group = driven.store.group(GROUP).await.unwrap().unwrap();
    let version = group.enforced.unwrap();
    assert_eq!((version.version, version.digest), (1, digest));
    for (agent, before) in agents.iter().zip(before) {
        let after = driven.view(agent).await;
        assert_eq!((after.status, after.state), (before.status, before.state));
    }
    let audit = driven.store.audit_entries(0, 100).await.unwrap();
    let adopted: Vec<_> = audit
        .iter()
        .filter(|entry| entry.action == "policy.enforce")
        .map(|entry| (entry.actor.as_str(), entry.target.as_str()))
        .collect();
    assert_eq!(adopted, [("baseline", GROUP)]);
    let newcomer = agent_of(1, 1);
    driven.enrol(&altered, &newcomer).await;
    let (_, answer) = driven.attest(4, &altered, &newcomer);
    assert_eq!(answer.code, Some(Code::ImaPathNotListed));
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l08_of_two_baselines_the_one_that_is_proven_first_stays() {
    let driven = Driven::without_policy(settings()).await;
    let machines = [Machine::valid(), other_machine()];
    let agents = [agent_of(0, 0), agent_of(1, 0)];
    for (machine, agent) in machines.iter().zip(&agents) {
        let baseline = candidate(&driven, machine).await;
        let set = |record: &mut rat_engine::shard::AgentRecord| record.baseline = Some(baseline);
        driven.enrol_with(machine, agent, set).await;
    }
    // The second candidate is the first that a quote covers.
    let (_, answer) = driven.attest(1, &machines[1], &agents[1]);
    assert_eq!(answer.status, EffectiveStatus::Unverified);
    driven
        .until_view(&agents[1], |view| view.status == EffectiveStatus::Trusted)
        .await;
    assert_eq!(enforced(&driven).await, Some(2));
    driven
        .until_view(&agents[0], |view| view.status == EffectiveStatus::Pending)
        .await;
    // What the other machine runs is a part of it; its own baseline changes nothing.
    let (_, answer) = driven.attest(2, &machines[0], &agents[0]);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    let driven = driven.restart(settings()).await;
    assert_eq!(enforced(&driven).await, Some(2));
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l08_a_baseline_that_the_store_enforces_already_reaches_the_shards() {
    let golden = Machine::valid();
    let driven = Driven::without_policy(settings()).await;
    let baseline = candidate(&driven, &golden).await;
    let agent = agent_of(0, 0);
    driven
        .enrol_with(&golden, &agent, |record| record.baseline = Some(baseline))
        .await;
    // As when an earlier proof was recorded, and telling the shards failed.
    activate(&driven.store, 1, Precondition::OnlyIfNone).await;
    let (_, answer) = driven.attest(1, &golden, &agent);
    assert_eq!(answer.status, EffectiveStatus::Unverified);
    driven
        .until_view(&agent, |view| view.status == EffectiveStatus::Trusted)
        .await;
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_a_second_server_on_a_directory_is_refused_and_the_first_goes_on() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agent = agent_of(0, 0);
    driven.enrol(&machine, &agent).await;
    let directory = data(&driven.directory);
    match Store::open(&directory).await {
        Err(StoreError::Directory(DirectoryError::Held { pid, path })) => {
            assert_eq!((pid, path), (Some(std::process::id()), directory));
        }
        other => panic!("{other:?}"),
    }
    let (_, answer) = driven.attest(1, &machine, &agent);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    assert!(driven.runtime.health().is_ready());
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_a_stale_runtime_writes_nothing_answers_nobody_and_stops_serving() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agents = [agent_of(0, 0), agent_of(1, 0)];
    for agent in &agents {
        driven.enrol(&machine, agent).await;
    }
    let [agent, elsewhere] = &agents;
    let connected = driven.connect(1, &machine, agent);
    let challenge = connected.challenged();
    let idle = driven.connect(2, &machine, elsewhere);
    idle.challenged();
    // A lock that does not hold, as on some network file systems: another runtime starts.
    let store = Store::open_shared(&data(&driven.directory)).await.unwrap();
    let clock = Arc::new(SystemClock::start());
    let newer = Runtime::start(store.clone(), settings(), clock)
        .await
        .unwrap();
    let heads = store.heads().await.unwrap();
    let stored = driven.stored(agent.shard()).await;
    driven
        .deliver(&connected, connected.answer(&challenge))
        .unwrap();
    until(|| driven.runtime.health().store == StoreHealth::Fenced).await;
    assert!(!driven.runtime.health().is_ready());
    assert_eq!(store.heads().await.unwrap(), heads);
    assert_eq!(driven.stored(agent.shard()).await, stored);
    assert_eq!(driven.view(agent).await.state, stored[0].state);
    // Its agents are sent away, also those whose challenge nobody answers; there is no verdict.
    for connection in [&connected, &idle] {
        let last = connection.next();
        assert!(matches!(last, ToAgent::Refused { .. }), "{last:?}");
    }
    let late = driven.connect(3, &machine, elsewhere).next();
    assert!(matches!(late, ToAgent::Refused { .. }), "{late:?}");
    driven.runtime.drain(PATIENCE).await;
    assert!(connected.messages.try_recv().is_err());
    // The new owner serves the same agents.
    let owner = Driven {
        directory: driven.directory,
        store,
        runtime: newer,
    };
    let (_, answer) = owner.attest(4, &machine, agent);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    assert_eq!(owner.stored(agent.shard()).await[0].state.attestations, 1);
    owner.runtime.drain(PATIENCE).await;
}

async fn database(driven: &Driven) -> SqliteConnection {
    let path = data(&driven.directory).join("ratd.db");
    let options = SqliteConnectOptions::new().filename(path);
    options.connect().await.unwrap()
}

async fn ticks(driven: &Driven) -> i64 {
    let query = sqlx::query_scalar("SELECT count(*) FROM tick");
    query.fetch_one(&mut database(driven).await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn s07_what_is_due_goes_at_once_however_much_it_is_and_commits_go_on() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agent = agent_of(0, 0);
    driven.enrol(&machine, &agent).await;
    let steps = 40;
    let rows = steps * i64::from(settings().retention.rows_max);
    let fill = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < $1)
        INSERT INTO evidence (shard, agent, seq, reason, at_unix_ms, log, log_bytes, is_of_newest,
                              packed)
        SELECT 0, 'gone-' || n, 1, 'failure', n, NULL, 0, 0, zeroblob(1000) FROM n";
    sqlx::query(fill)
        .bind(rows)
        .execute(&mut database(&driven).await)
        .await
        .unwrap();
    let driven = driven.restart(settings()).await;
    let due = "SELECT count(*) FROM evidence WHERE at_unix_ms < 1000000";
    let connected = driven.connect(1, &machine, &agent);
    let mut challenge = connected.challenged();
    let dropping = async {
        loop {
            driven.answer(&connected, &challenge);
            let left: i64 = sqlx::query_scalar(due)
                .fetch_one(&mut database(&driven).await)
                .await
                .unwrap();
            if left == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let recheck = driven.runtime.operate(agent.clone(), Operation::Recheck);
            recheck.await.unwrap();
            challenge = connected.next_challenge();
        }
    };
    let dropped = tokio::time::timeout(PATIENCE, dropping).await;
    dropped.expect("forty steps take less than as many minutes");
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_damaged_rows_of_some_agents_stop_no_other_agents_commits() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agents = [agent_of(0, 0), agent_of(1, 0), agent_of(0, 1)];
    let [listless, lost, well] = &agents;
    let mut connections = Vec::new();
    for (nth, agent) in agents.iter().enumerate() {
        driven.enrol(&machine, agent).await;
        let (connected, answer) = driven.attest(nth as u64, &machine, agent);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
        connections.push(connected);
    }
    let shard = i64::from(lost.shard().get());
    let mut vandal = database(&driven).await;
    sqlx::query("UPDATE log SET format = 'torn' WHERE agent = $1")
        .bind(listless.as_str().to_owned())
        .execute(&mut vandal)
        .await
        .unwrap();
    sqlx::query("UPDATE shard SET epoch = -1 WHERE id = $1")
        .bind(shard)
        .execute(&mut vandal)
        .await
        .unwrap();
    let again = async |nth: usize| {
        let recheck = Operation::Recheck;
        let asked = driven.runtime.operate(agents[nth].clone(), recheck);
        asked.await.unwrap();
        connections[nth].next_challenge()
    };
    let challenge = again(1).await;
    let answer = connections[1].answer(&challenge);
    driven.deliver(&connections[1], answer).unwrap();
    for _ in 0..3 {
        for nth in [0, 2] {
            let challenge = again(nth).await;
            let answer = driven.answer(&connections[nth], &challenge);
            assert_eq!(answer.status, EffectiveStatus::Trusted);
        }
    }
    // Whose verdict cannot be stored is told none, and is asked again.
    match connections[1].next() {
        ToAgent::Challenge(newer) => assert_ne!(newer.id, challenge.id),
        other => panic!("{other:?}"),
    }
    assert_eq!(driven.view(lost).await.state.attestations, 1);
    assert_eq!(driven.view(well).await.state.attestations, 4);
    // The shard's row is mended: its agents go on.
    sqlx::query("UPDATE shard SET epoch = (SELECT max(epoch) FROM shard) WHERE id = $1")
        .bind(shard)
        .execute(&mut vandal)
        .await
        .unwrap();
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l01_stricter_settings_hold_even_when_the_policy_cannot_be_read() {
    let machine = Machine::valid();
    for is_blocked in [true, false] {
        let driven = Driven::new(&machine, settings()).await;
        let agent = agent_of(0, 0);
        driven.enrol(&machine, &agent).await;
        let (connected, answer) = driven.attest(1, &machine, &agent);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
        let damage = "DROP TRIGGER policy_blob_is_immutable; UPDATE policy_blob SET packed = x'01'";
        let mut vandal = database(&driven).await;
        sqlx::raw_sql(damage).execute(&mut vandal).await.unwrap();
        let mut stricter = driven.store.group(GROUP).await.unwrap().unwrap().settings;
        stricter.block = is_blocked;
        let updated = driven.store.update_group(GROUP, &stricter, "ann", 1).await;
        updated.unwrap();
        let reloaded = driven.runtime.reload_group(GROUP).await.unwrap();
        assert!(matches!(reloaded, Reloaded::WithoutPolicies(_)));
        if is_blocked {
            let blocked = |view: &AgentView| view.status == EffectiveStatus::Blocked;
            driven.until_view(&agent, blocked).await;
        } else {
            let lost = |view: &AgentView| view.status != EffectiveStatus::Trusted;
            driven.until_view(&agent, lost).await;
            let challenge = connected.next_challenge();
            let answer = driven.answer(&connected, &challenge);
            assert_ne!(answer.status, EffectiveStatus::Trusted);
        }
        // The store that is gone is asked again: the group stays as it was until it answers.
        driven.store.clone().close().await;
        let later = driven.runtime.reload_group(GROUP).await;
        assert!(later.is_err(), "{later:?}");
        driven.runtime.drain(std::time::Duration::ZERO).await;
    }
}

/// Rounds of attestations: together more ticks than three steps of the folder move.
const ROUNDS: u64 = 100;

/// What the runtime shows of each agent is what the store would give to another process.
async fn views_are_stored(driven: &Driven, agents: &[AgentId], attestations: u64) {
    for agent in agents {
        let view = driven.view(agent).await;
        assert_eq!(view.state.attestations, attestations, "{agent}");
        let stored = driven.stored(agent.shard()).await;
        let stored = stored.iter().find(|it| it.record.id == *agent).unwrap();
        assert_eq!(stored.state, view.state, "{agent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s05_s18_a_folder_that_falls_behind_loses_nothing_and_catches_up() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agents: Vec<_> = (0..8)
        .map(|nth| agent_of(nth % 2, usize::from(nth / 2)))
        .collect();
    // The last one fails each time.
    let altered = other_machine();
    let machine_of = |nth: usize| if nth == 7 { &altered } else { &machine };
    for (nth, agent) in agents.iter().enumerate() {
        driven.enrol(machine_of(nth), agent).await;
    }
    let held = "CREATE TRIGGER held BEFORE DELETE ON tick BEGIN SELECT RAISE(ABORT, 'held'); END";
    sqlx::query(held)
        .execute(&mut database(&driven).await)
        .await
        .unwrap();
    let mut connections: Vec<Connected> = Vec::new();
    for (nth, agent) in agents.iter().enumerate() {
        let (connected, answer) = driven.attest(nth as u64, machine_of(nth), agent);
        let expected = (nth == 7).then_some(Code::ImaPathNotListed);
        assert_eq!(answer.code, expected);
        connections.push(connected);
    }
    for _ in 1..ROUNDS {
        for connected in &connections {
            let recheck = Operation::Recheck;
            driven
                .runtime
                .operate(connected.agent.clone(), recheck)
                .await
                .unwrap();
            let challenge = connected.next_challenge();
            driven.answer(connected, &challenge);
        }
    }
    let behind = ticks(&driven).await;
    assert!(behind >= ROUNDS as i64 * agents.len() as i64, "{behind}");
    views_are_stored(&driven, &agents, ROUNDS).await;
    // Another process starts from rows that are old, and all the ticks.
    let driven = driven.restart(settings()).await;
    assert_eq!(ticks(&driven).await, behind);
    views_are_stored(&driven, &agents, ROUNDS).await;
    sqlx::query("DROP TRIGGER held")
        .execute(&mut database(&driven).await)
        .await
        .unwrap();
    let folding = async {
        while ticks(&driven).await > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, folding)
        .await
        .expect("the folder catches up");
    views_are_stored(&driven, &agents, ROUNDS).await;
    let driven = driven.restart(settings()).await;
    views_are_stored(&driven, &agents, ROUNDS).await;
    for agent in &agents {
        let chain = driven.store.verify_chain(agent.shard()).await.unwrap();
        assert!(chain.is_ok(), "{chain:?}");
        let history = driven.store.history(agent, None, 1_000).await.unwrap();
        assert_eq!(history.len() as u64, ROUNDS, "{agent}");
    }
    let last = driven.view(&agents[7]).await;
    assert_eq!(last.status, EffectiveStatus::Untrusted);
    driven.runtime.drain(PATIENCE).await;
}

/// What the audit log says of evidence that was turned away: under whose name, and why.
async fn turned_away(driven: &Driven) -> Vec<(String, String)> {
    let entries = driven.store.audit_entries(0, 1_000).await.unwrap();
    let of_evidence = entries
        .into_iter()
        .filter(|entry| entry.action == "agent.turn_away");
    let said = of_evidence.map(|entry| {
        assert_eq!(entry.actor, "ratd");
        (entry.target, entry.detail)
    });
    said.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn n04_q05_evidence_of_another_key_or_machine_is_in_the_audit_log_once() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    // Of one shard, which knows both.
    let agent = agent_of(0, 0);
    let mut ids = (0..).map(|nth| AgentId::parse(&format!("other-{nth}")).unwrap());
    let other = ids.find(|id| id.shard() == agent.shard()).unwrap();
    driven.enrol(&machine, &agent).await;
    driven.enrol(&machine, &other).await;
    let connected = driven.connect(1, &machine, &agent);
    let challenge = connected.challenged();
    let others = driven.connect(2, &machine, &other);
    let of_other = others.challenged();
    let before = driven.view(&agent).await.state;
    // N04: another key than the activated one signs. Its quote uses up the nonce, so that it is
    // asked again; however often it tries, there is one entry.
    let substituted = SoftwareAk::p256();
    let mut asked = challenge;
    for _ in 0..2 {
        let mut forged = connected.answer(&asked);
        forged.signature = substituted.sign(&forged.quote);
        driven.deliver(&connected, forged).unwrap();
        let answer = connected.verdict(asked.id);
        assert_eq!(answer.code, Some(Code::QuoteSignature));
        let again = driven.runtime.operate(agent.clone(), Operation::Recheck);
        again.await.unwrap();
        asked = connected.next_challenge();
    }
    // Q05: it answers another agent's challenge.
    driven
        .deliver(&connected, connected.answer(&of_other))
        .unwrap();
    let answer = connected.verdict(of_other.id);
    assert_eq!(answer.code, Some(Code::QuoteSignerMismatch));
    let after = driven.view(&agent).await;
    // Both are served on.
    for (connected, challenge) in [(&connected, &asked), (&others, &of_other)] {
        let answer = driven.answer(connected, challenge);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
    }
    assert_eq!(after.status, EffectiveStatus::Pending);
    assert_eq!(
        (after.state.boot, after.state.passed, after.state.failure),
        (before.boot, before.passed, before.failure)
    );
    let waiting = async {
        while turned_away(&driven).await.len() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let signature = format!("quote.signature: {}", Code::QuoteSignature.cause());
    let signer = format!(
        "quote.signer_mismatch: {}; it answers a challenge of {other}",
        Code::QuoteSignerMismatch.cause()
    );
    let expected = [signature, signer].map(|said| (agent.to_string(), said));
    assert_eq!(turned_away(&driven).await, expected);
    driven.runtime.drain(PATIENCE).await;
}
