//! Ten thousand agents change at once, while nothing can be written.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use rat_engine::shard::AgentState;
use rat_ops::limits::{WEBHOOK_CHANGES_PER_COMMIT_MAX, WEBHOOK_CHANGES_WAITING_MAX};
use rat_tests::driven::{GROUP, data};
use rat_tests::fleet;
use rat_tests::receiver::Receiver;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::world::{Configured, World, shown};

const AGENTS: u64 = 10_000;
/// Ten thousand exchanges on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(600);

async fn connect(world: &World) -> SqliteConnection {
    let file = data(&world.directory).join("ratd.db");
    let options = SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(Duration::from_secs(60));
    options.connect().await.unwrap()
}

/// Enrols agents in one transaction: as many enrolments would take minutes.
async fn enrol(world: &World, connection: &mut SqliteConnection) {
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await
        .unwrap();
    for number in 0..AGENTS {
        let record = fleet::record(number);
        sqlx::query(
            "INSERT INTO agent (shard, id, slug, path, ek_sha256, ak_epoch, hostname, ip,
                                registered_unix_ms, packed)
             VALUES ($1, $2, $3, 'native', $4, 1, '', '192.0.2.1', 1, x'00')",
        )
        .bind(i64::from(record.id.shard().get()))
        .bind(record.id.as_str())
        .bind(GROUP)
        .bind(&record.ek_sha256[..])
        .execute(&mut *connection)
        .await
        .unwrap();
    }
    sqlx::raw_sql("COMMIT")
        .execute(&mut *connection)
        .await
        .unwrap();
    for number in 0..AGENTS {
        let mut record = fleet::record(number);
        record.group = GROUP.to_owned();
        let state = AgentState::default();
        world.runtime.enrolled(record, state).await.unwrap();
    }
}

fn turned_away(metrics: &PrometheusHandle) -> u64 {
    let text = metrics.render();
    let name = "attest_limit_rejections_total{limit=\"WEBHOOK_CHANGES_WAITING_MAX\"} ";
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |count| count.parse().unwrap())
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, looking).await;
    waited.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn x04_a_storm_is_bounded_in_memory_and_loses_nobody() {
    let metrics = rat_api::metrics::install().unwrap();
    // Without TLS, which would be most of the work.
    let receiver = Receiver::plain();
    let other = Receiver::start();
    let world = World::with_agents(&[]).await;
    let mut connection = connect(&world).await;
    enrol(&world, &mut connection).await;
    let hook = Configured {
        ca: std::fs::read(other.ca_file()).unwrap(),
        ..Configured::of(&receiver)
    };
    let delivery = world.deliver(&[hook]).await;
    // Everybody is blocked while somebody else writes to the database.
    world.set_block(true).await;
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut connection)
        .await
        .unwrap();
    world.reload().await;
    // What is held is what may wait and what is being written; all else was turned away.
    let held = WEBHOOK_CHANGES_WAITING_MAX + WEBHOOK_CHANGES_PER_COMMIT_MAX;
    let expected = AGENTS - u64::try_from(held).unwrap();
    until("changes are turned away", || {
        turned_away(&metrics) >= expected
    })
    .await;
    assert!(receiver.deliveries().is_empty());
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut connection)
        .await
        .unwrap();

    until("everybody was told of", || {
        receiver.taken().len() as u64 >= AGENTS
    })
    .await;
    until("nothing waits", || shown(&delivery).standing.queued == 0).await;
    let taken = receiver.taken();
    let agents: BTreeSet<String> = taken.iter().map(|it| it.text("agent_id")).collect();
    assert_eq!((agents.len() as u64, taken.len() as u64), (AGENTS, AGENTS));
    let all_alike = taken
        .iter()
        .all(|it| it.text("from") == "pending" && it.text("to") == "blocked");
    assert!(all_alike);
    assert_eq!(shown(&delivery).standing.dead_letters, 0);
    assert!(world.end(delivery).await);
}
