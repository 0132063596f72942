//! Policies that change under a running server: stored lists are read and judged again. (L07)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use metrics_exporter_prometheus::PrometheusBuilder;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::ToAgent;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{
    AgentView, Coverage, Demands, EffectiveStatus, Event, Operation, StatusCounts, Unusable,
};
use rat_engine::verdict::Code;
use rat_runtime::{Reloaded, Settings};
use rat_store::Precondition;
use rat_tests::driven::{
    Connected, Driven, GROUP, PATIENCE, activate, agent_of, data, event, put_policy, settings,
};
use rat_tests::evidence::Machine;
use rat_tests::measured::Measured;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

/// A machine whose list takes several chunks.
fn long() -> Machine {
    Machine::valid().with(|machine| {
        let files = (0..2_000).map(|n| {
            let name = format!("/usr/lib/x86_64-linux-gnu/package-{n:06}/libfile.so.{n}");
            Measured::file(&name, &i32::to_le_bytes(n))
        });
        machine.list.extend(files);
    })
}

/// The policy of this machine, and something that nobody runs.
fn wider(machine: &Machine) -> String {
    let more = machine.clone().with(|machine| {
        machine.list.push(Measured::file("/usr/bin/id", b"id"));
    });
    more.policy()
}

/// Such policies, each another one.
fn widened(machine: &Machine, nth: u32) -> String {
    let more = machine.clone().with(|machine| {
        let name = format!("/usr/bin/tool-{nth}");
        machine.list.push(Measured::file(&name, b"tool"));
    });
    more.policy()
}

/// The policy of this machine without a digest of what it runs.
fn stricter(machine: &Machine) -> String {
    let last = i32::to_le_bytes(1_999);
    let last = hex::encode(rat_tests::oracle::digest(HashAlg::Sha256, &last));
    machine.policy().replace(&last, &"00".repeat(32))
}

/// Activates a policy as an operator does.
async fn enforce(driven: &Driven, text: &str) {
    let version = put_policy(&driven.store, text).await;
    activate(&driven.store, version, Precondition::Always).await;
    let reloaded = driven.runtime.reload_group(GROUP).await.unwrap();
    assert!(matches!(reloaded, Reloaded::Whole));
}

async fn covered(driven: &Driven, judged: u64, agents: u64) {
    let is_so = |coverage: Option<Coverage>| {
        coverage.is_some_and(|it| (it.judged, it.agents) == (judged, agents))
    };
    let looking = async {
        while !is_so(driven.runtime.coverage(GROUP).await.unwrap()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, looking).await;
    if waited.is_err() {
        panic!("{:?}", driven.runtime.coverage(GROUP).await);
    }
}

fn is_trusted(view: &AgentView) -> bool {
    view.status == EffectiveStatus::Trusted
}

async fn judges_stored_lists(settings: Settings) {
    let machine = long();
    let driven = Driven::new(&machine, settings).await;
    let agents: Vec<AgentId> = (0..6)
        .map(|nth| agent_of(nth % 2, nth as usize / 2))
        .collect();
    let mut connections = Vec::new();
    for (nth, agent) in agents.iter().enumerate() {
        driven.enrol(&machine, agent).await;
        let (connected, answer) = driven.attest(nth as u64, &machine, agent);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
        connections.push(connected);
    }
    covered(&driven, 6, 6).await;
    let mut all_trusted = StatusCounts::default();
    for _ in &agents {
        all_trusted.add(GROUP, EffectiveStatus::Trusted);
    }
    assert_eq!(driven.runtime.status_counts().await.unwrap(), all_trusted);
    let mut before = Vec::new();
    for agent in &agents {
        before.push(driven.view(agent).await.state);
    }
    enforce(&driven, &wider(&machine)).await;
    for (agent, before) in agents.iter().zip(&before) {
        driven.until_view(agent, is_trusted).await;
        let after = driven.view(agent).await.state;
        assert_ne!(after.passed_under, before.passed_under);
        assert_eq!(after.trusted_until_unix_ms, before.trusted_until_unix_ms);
        assert_eq!(after.attestations, before.attestations);
        let stored = driven.stored(agent.shard()).await;
        let stored = stored.iter().find(|it| it.record.id == *agent).unwrap();
        assert_eq!(stored.state, after);
    }
    // Nobody is asked for the list: each is asked at once for what came since.
    for connected in &connections {
        let challenge = connected.next_challenge();
        assert_eq!(challenge.ima_from_entry, Some(2_004));
        assert_eq!(driven.answer(connected, &challenge).code, None);
    }
    enforce(&driven, &stricter(&machine)).await;
    covered(&driven, 6, 6).await;
    for agent in &agents {
        let view = driven.view(agent).await;
        let failure = view.state.failure.unwrap();
        assert_eq!(failure.code, Code::ImaDigestNotListed);
        assert_eq!(failure.entry, Some(2_003));
    }
    for agent in &agents {
        let chain = driven.store.verify_chain(agent.shard()).await.unwrap();
        assert!(chain.is_ok(), "{chain:?}");
    }
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l07_s14_stored_lists_are_judged_by_the_policy_that_was_activated() {
    judges_stored_lists(settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l07_s14_stored_lists_are_judged_in_lanes() {
    judges_stored_lists(Settings {
        arith_threads: 2,
        ..settings()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l07_s05_an_activation_that_the_process_did_not_live_to_see_is_made_up_for() {
    let machine = long();
    let driven = Driven::new(&machine, settings()).await;
    let agents = [agent_of(0, 0), agent_of(1, 0)];
    for (nth, agent) in agents.iter().enumerate() {
        driven.enrol(&machine, agent).await;
        driven.attest(nth as u64, &machine, agent);
    }
    let version = put_policy(&driven.store, &stricter(&machine)).await;
    activate(&driven.store, version, Precondition::Always).await;
    let driven = driven.restart(settings()).await;
    covered(&driven, 2, 2).await;
    for agent in &agents {
        let view = driven.view(agent).await;
        assert_eq!(view.status, EffectiveStatus::Untrusted);
    }
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l07_s06_of_a_damaged_list_nothing_is_believed_and_the_machine_is_asked() {
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let machine = long();
    let driven = Driven::new(&machine, settings()).await;
    let (damaged, lost) = (agent_of(0, 0), agent_of(1, 0));
    let mut connections = Vec::new();
    for (nth, agent) in [&damaged, &lost].into_iter().enumerate() {
        // Lists that differ share no chunks.
        let machine = machine.clone().with(|machine| {
            let first = machine.list.len() - nth;
            machine.list.truncate(first);
        });
        driven.enrol(&machine, agent).await;
        let (connected, answer) = driven.attest(nth as u64, &machine, agent);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
        connections.push(connected);
    }
    let path = data(&driven.directory).join("ratd.db");
    let options = SqliteConnectOptions::new().filename(path);
    let mut vandal = options.connect().await.unwrap();
    for (statement, agent) in [
        (
            "UPDATE log SET raw_bytes = raw_bytes - 100 WHERE agent = $1",
            &damaged,
        ),
        (
            "DELETE FROM log_tail WHERE log = (SELECT id FROM log WHERE agent = $1)",
            &lost,
        ),
    ] {
        sqlx::query(statement)
            .bind(agent.as_str().to_owned())
            .execute(&mut vandal)
            .await
            .unwrap();
    }
    let mut events = driven.runtime.events();
    enforce(&driven, &wider(&machine)).await;
    let mut why = Vec::new();
    for _ in 0..2 {
        let is_it = |event: &Event| matches!(event, Event::ListUnusable { .. });
        if let Event::ListUnusable { agent, why: of } = event(&mut events, is_it).await {
            why.push((agent, of));
        }
    }
    why.sort_by_key(|(agent, _)| agent != &damaged);
    let expected = [
        (damaged.clone(), Unusable::NotReproduced),
        (lost.clone(), Unusable::Unreadable),
    ];
    assert_eq!(why, expected);
    for why in [Unusable::NotReproduced, Unusable::Unreadable] {
        let line = format!(
            "attest_lists_rejudged_total{{result=\"{}\"}} 1",
            why.as_str()
        );
        assert!(metrics.render().contains(&line), "{line}");
    }
    covered(&driven, 0, 2).await;
    for connected in &connections {
        let challenge = connected.next_challenge();
        assert_eq!(challenge.ima_from_entry, Some(0));
        assert_eq!(driven.answer(connected, &challenge).code, None);
        let view = driven.view(&connected.agent).await;
        assert_eq!(view.status, EffectiveStatus::Trusted);
    }
    covered(&driven, 2, 2).await;
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l07_s07_quotes_are_answered_while_a_fleet_is_judged_again() {
    let machine = long();
    let mut settings = settings();
    // Nobody is late, however slow the machine is that runs this.
    settings.shard.challenge_deadline_ms = 600_000;
    let driven = Driven::new(&machine, settings).await;
    let fleet: Vec<AgentId> = (0..40).map(|nth| agent_of(0, nth)).collect();
    for (nth, agent) in fleet.iter().enumerate() {
        driven.enrol(&machine, agent).await;
        let (connected, answer) = driven.attest(nth as u64, &machine, agent);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
        let intake = driven.runtime.intake();
        intake.disconnected(connected.session, agent);
    }
    // Another machine of the same worker.
    let small = Machine::valid();
    let agent = agent_of(0, 40);
    driven.enrol(&small, &agent).await;
    let (connected, _) = driven.attest(1_000, &small, &agent);
    // The lists are never all judged: before that there is another policy to judge them by. So a
    // machine whose quotes wait for lists waits for ever.
    let mut events = driven.runtime.events();
    let never_done = async {
        for nth in 0.. {
            enforce(&driven, &widened(&machine, nth)).await;
            for _ in 0..20 {
                let is_it = |event: &Event| matches!(event, Event::Rejudged { .. });
                event(&mut events, is_it).await;
            }
        }
    };
    let answered = async {
        let mut rounds = 0;
        while rounds < 3 {
            let before = waits_for(&driven).await;
            let recheck = driven.runtime.operate(agent.clone(), Operation::Recheck);
            recheck.await.unwrap();
            let challenge = match message(&connected).await {
                ToAgent::Challenge(challenge) => challenge,
                other => panic!("{other:?}"),
            };
            let submission = connected.answer(&challenge);
            driven.deliver(&connected, submission).unwrap();
            match message(&connected).await {
                ToAgent::Verdict(id, answer) => {
                    assert_eq!((id, answer.code), (challenge.id, None));
                }
                other => panic!("{other:?}"),
            }
            // Lists waited for the same policy before it was asked, and wait still.
            let after = waits_for(&driven).await;
            rounds += u32::from(before.is_some() && before == after);
        }
    };
    let ended = async {
        tokio::select! {
            () = never_done => {}
            () = answered => {}
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, ended).await;
    in_time.expect("quotes are answered while lists wait");
    driven.runtime.drain(PATIENCE).await;
}

/// What some lists wait to be judged by.
async fn waits_for(driven: &Driven) -> Option<Demands> {
    let coverage = driven.runtime.coverage(GROUP).await.unwrap()?;
    coverage.by.filter(|_| coverage.judged < coverage.agents)
}

/// The next message to a machine, while others work.
async fn message(connected: &Connected) -> ToAgent {
    loop {
        match connected.messages.try_recv() {
            Ok(message) => return message,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_a_store_that_is_gone_makes_nobody_trusted_or_failed() {
    let machine = long();
    let driven = Driven::new(&machine, settings()).await;
    let agent = agent_of(0, 0);
    driven.enrol(&machine, &agent).await;
    driven.attest(1, &machine, &agent);
    let before = driven.view(&agent).await.state;
    let version = put_policy(&driven.store, &stricter(&machine)).await;
    activate(&driven.store, version, Precondition::Always).await;
    let stricter = driven.store.group(GROUP).await.unwrap().unwrap();
    let group = rat_runtime::load_group(&driven.store, &stricter, 1)
        .await
        .unwrap();
    let mut events = driven.runtime.events();
    driven.store.clone().close().await;
    driven.runtime.group_changed(group);
    let is_it = |event: &Event| matches!(event, Event::ListUnusable { .. });
    event(&mut events, is_it).await;
    let view = driven.view(&agent).await;
    assert_eq!(
        (view.status, view.state),
        (EffectiveStatus::Pending, before)
    );
    driven.runtime.drain(std::time::Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l05_l07_an_older_version_that_compiles_longer_does_not_win() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agent = agent_of(0, 0);
    driven.enrol(&machine, &agent).await;
    driven.attest(1, &machine, &agent);
    // Somebody reads the group, and takes long to compile it.
    let version = put_policy(&driven.store, &wider(&machine)).await;
    activate(&driven.store, version, Precondition::Always).await;
    let stored = driven.store.group(GROUP).await.unwrap().unwrap();
    let older = rat_runtime::load_group(&driven.store, &stored, 1).await;
    let older = older.unwrap();
    let strict = machine.policy().replace("/usr/bin/ls", "/usr/bin/sl");
    enforce(&driven, &strict).await;
    driven
        .until_view(&agent, |view| view.state.failure.is_some())
        .await;
    driven.runtime.group_changed(older.clone());
    let coverage = driven.runtime.coverage(GROUP).await.unwrap().unwrap();
    let stored = driven.store.group(GROUP).await.unwrap().unwrap();
    let policy = coverage.by.unwrap().list.unwrap().policy;
    assert_eq!(policy, stored.enforced.unwrap().digest);
    assert_ne!(Some(policy), older.enforced_digest());
    // What is known is not compiled once more, neither as it is nor as it was.
    assert!(
        driven
            .runtime
            .knows(&driven.store.group(GROUP).await.unwrap().unwrap())
    );
    let reloaded = driven.runtime.reload_group(GROUP).await.unwrap();
    assert!(matches!(reloaded, Reloaded::Known));
    let view = driven.view(&agent).await;
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    driven.runtime.drain(PATIENCE).await;
}

/// What was counted so far.
fn counted(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn l07_s01_an_attempt_that_was_given_up_reads_no_further() {
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let machine = long();
    let mut settings = settings();
    // Every attempt is given up before its first piece is there.
    settings.shard.rejudge_ms_max = 0;
    let driven = Driven::new(&machine, settings).await;
    let agent = agent_of(0, 0);
    driven.enrol(&machine, &agent).await;
    let (connected, _) = driven.attest(1, &machine, &agent);
    enforce(&driven, &wider(&machine)).await;
    let challenge = connected.next_challenge();
    assert_eq!(challenge.ima_from_entry, Some(0));
    assert_eq!(driven.answer(&connected, &challenge).code, None);
    let timeout = "attest_lists_rejudged_total{result=\"timeout\"} ";
    assert_eq!(counted(&metrics.render(), timeout), 3);
    // Of each the first piece was asked for before that; nobody asked for another.
    let pieces = || counted(&metrics.render(), "attest_list_pieces_read_total ");
    rat_tests::driven::until(|| pieces() == 3).await;
    for _ in 0..100 {
        driven.view(&agent).await;
        assert_eq!(pieces(), 3);
    }
    driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_l07_agents_that_cannot_be_read_are_counted_as_not_judged() {
    let machine = Machine::valid();
    let driven = Driven::new(&machine, settings()).await;
    let agents = [agent_of(0, 0), agent_of(1, 0)];
    for (nth, agent) in agents.iter().enumerate() {
        driven.enrol(&machine, agent).await;
        driven.attest(nth as u64, &machine, agent);
    }
    covered(&driven, 2, 2).await;
    let path = data(&driven.directory).join("ratd.db");
    let driven = {
        let options = SqliteConnectOptions::new().filename(path);
        let mut vandal = options.connect().await.unwrap();
        sqlx::query("UPDATE agent SET packed = x'00' WHERE id = $1")
            .bind(agents[0].as_str().to_owned())
            .execute(&mut vandal)
            .await
            .unwrap();
        driven.restart(settings()).await
    };
    assert_eq!(driven.runtime.unreadable().len(), 1);
    covered(&driven, 1, 2).await;
    // An operator removes it.
    driven.runtime.remove(agents[0].clone()).await.unwrap();
    covered(&driven, 1, 1).await;
    driven.runtime.drain(PATIENCE).await;
}
