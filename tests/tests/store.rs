//! The store: what is committed stays, what contradicts it is refused, what rots is isolated.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

#[path = "store/accounts.rs"]
mod accounts;
#[path = "store/admissions.rs"]
mod admissions;
#[path = "store/backup.rs"]
mod backup;
#[path = "store/directory.rs"]
mod directory;
#[path = "store/enrolment.rs"]
mod enrolment;
#[path = "store/failures.rs"]
mod failures;
#[path = "store/groups.rs"]
mod groups;
#[path = "store/interrupted.rs"]
mod interrupted;
#[path = "store/logs.rs"]
mod logs;
#[path = "store/migrations.rs"]
mod migrations;
#[path = "store/model.rs"]
mod model;
#[path = "store/operations.rs"]
mod operations;
#[path = "store/registrations.rs"]
mod registrations;
#[path = "store/ticks.rs"]
mod ticks;

use std::path::Path;

use rat_engine::agent_id::ShardIndex;
use rat_engine::shard::{AgentRecord, Epoch, Outcome, Tick};
use rat_store::{
    Activated, Answered, CommitResult, Conflict, GroupSettings, Loaded, NewGroup, NewPending,
    Registration, ShardHead, Store,
};
use rat_tests::fleet;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tempfile::TempDir;

/// What a machine answers that needs nothing but its proof.
const ANSWERED: Answered<'_> = Answered::new("activation", "test");

/// A store in a folder of its own, owned, with the group of the fleet.
struct Fixture {
    directory: TempDir,
    store: Store,
    epoch: Epoch,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap();
        let epoch = store.take_ownership("test").await.unwrap();
        let group = NewGroup {
            slug: fleet::GROUP.to_owned(),
            hex_id: "0f".to_owned(),
            settings: GroupSettings::default(),
        };
        store.create_group(&group, "test", 1).await.unwrap();
        Self {
            directory,
            store,
            epoch,
        }
    }

    /// The same, with these agents enrolled.
    async fn with_agents(agents: std::ops::Range<u64>) -> Self {
        let fixture = Self::new().await;
        for number in agents {
            let activated = fixture.enrol(&fleet::record(number)).await.unwrap();
            assert!(matches!(activated, Activated::New(_)));
        }
        fixture
    }

    async fn enrol(&self, record: &AgentRecord) -> Result<Activated, Conflict> {
        let pending = NewPending {
            id: "activation",
            agent: &record.id,
            body: b"",
            expires_unix_ms: u64::MAX / 4,
        };
        self.store.put_pending(pending, 1).await.unwrap();
        let activated = self
            .store
            .activate(&ANSWERED, record, &registration())
            .await;
        self.store.drop_pending("activation").await.unwrap();
        activated.unwrap()
    }

    /// The tick of these outcomes that follows the shard's newest.
    async fn tick(&self, outcomes: Vec<Outcome>) -> Tick {
        let head = head(&self.store, outcomes[0].agent.shard()).await;
        Tick::new(head.shard, self.epoch, head.seq + 1, head.head, outcomes)
    }

    async fn commit(&self, outcomes: Vec<Outcome>) -> Tick {
        let tick = self.tick(outcomes).await;
        let results = self
            .store
            .commit(std::slice::from_ref(&tick))
            .await
            .unwrap();
        assert_eq!(results, [CommitResult::Committed]);
        tick
    }

    async fn fold_all(&self) {
        while self.store.fold(7).await.unwrap().more {}
    }

    async fn load(&self) -> Loaded {
        load(&self.store).await
    }

    /// The database as a vandal, or a failing disk, sees it.
    async fn vandal(&self) -> SqliteConnection {
        connect(&self.directory.path().join("ratd.db")).await
    }

    /// Closes the store and opens it again, as a restart does.
    async fn reopen(self) -> Self {
        self.store.close().await;
        let store = Store::open(self.directory.path()).await.unwrap();
        let epoch = store.take_ownership("test").await.unwrap();
        Self {
            directory: self.directory,
            store,
            epoch,
        }
    }
}

async fn connect(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    options.connect().await.unwrap()
}

async fn load(store: &Store) -> Loaded {
    let all = ShardIndex::new(0).unwrap()..=ShardIndex::new(ShardIndex::COUNT - 1).unwrap();
    store.load(all).await.unwrap()
}

async fn head(store: &Store, shard: ShardIndex) -> ShardHead {
    store.heads().await.unwrap()[usize::from(shard.get())]
}

fn registration() -> Registration {
    Registration {
        hostname: "host".to_owned(),
        ip: "192.0.2.1".to_owned(),
        registered_unix_ms: 2,
    }
}
