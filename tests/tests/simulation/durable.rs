//! The real store beside the model: both must say the same, whatever happens to the server.

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::{AgentRecord, AgentState, ChainHash, Epoch, Tick};
use rat_store::{
    Answered, CommitResult, GroupSettings, NewGroup, NewPending, OnRemoval, Registration, Store,
};
use rat_tests::lists::KeptList;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::fleet::GROUPS;

pub(crate) struct Durable {
    directory: TempDir,
    /// `None` only while it is being opened again.
    store: Option<Store>,
    runtime: Runtime,
}

impl Durable {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime
            .block_on(Store::open(&directory.path().join("data")))
            .unwrap();
        for slug in GROUPS {
            let group = NewGroup {
                slug: slug.into(),
                hex_id: hex::encode(slug),
                settings: GroupSettings::default(),
            };
            runtime
                .block_on(store.create_group(&group, "test", 1))
                .unwrap();
        }
        Self {
            directory,
            store: Some(store),
            runtime,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn enrol(&self, record: &AgentRecord) {
        let registration = Registration {
            hostname: record.id.to_string(),
            ip: "127.0.0.1".into(),
            registered_unix_ms: 1,
        };
        let pending = NewPending {
            id: record.id.as_str(),
            agent: &record.id,
            body: b"",
            expires_unix_ms: 10,
        };
        self.runtime.block_on(async {
            self.store().put_pending(pending, 1).await.unwrap();
            let activated = self
                .store()
                .activate(&Answered::new(pending.id, "test"), record, &registration)
                .await;
            activated.unwrap().unwrap();
        });
    }

    /// An operator removes an agent, whose failure stays with its machine.
    pub(crate) fn remove(&self, agent: &AgentId) {
        let keep = OnRemoval::KeepFailure;
        let removing = self.store().remove_agent(agent, keep, "test", 1);
        assert!(self.runtime.block_on(removing).unwrap().is_some());
    }

    /// The process ends without a word, and another opens what it left.
    pub(crate) fn reopen(&mut self) -> Epoch {
        drop(self.store.take());
        let path = self.directory.path().join("data");
        let store = self.runtime.block_on(Store::open(&path)).unwrap();
        let epoch = self.runtime.block_on(store.take_ownership("test")).unwrap();
        self.store = Some(store);
        epoch
    }

    pub(crate) fn state(&self, agent: &AgentId) -> AgentState {
        let shard = agent.shard();
        let loaded = self
            .runtime
            .block_on(self.store().load(shard..=shard))
            .unwrap();
        let found = loaded.agents.into_iter().find(|it| it.record.id == *agent);
        found.unwrap().state
    }

    pub(crate) fn head(&self, shard: ShardIndex) -> (u64, ChainHash) {
        let heads = self.runtime.block_on(self.store().heads()).unwrap();
        let found = heads.into_iter().find(|it| it.shard == shard);
        found.map_or_else(Default::default, |head| (head.seq, head.head))
    }

    pub(crate) fn commit(&self, tick: &Tick) -> bool {
        let results = self
            .runtime
            .block_on(self.store().commit(std::slice::from_ref(tick)));
        match results.unwrap()[..] {
            [CommitResult::Committed] => true,
            [CommitResult::Fenced] => false,
            ref other => panic!("{other:?}"),
        }
    }

    /// The newest list of an agent, as the store gives it back.
    pub(crate) fn list(&self, agent: &AgentId) -> Option<KeptList> {
        self.runtime.block_on(async {
            let mut reader = self.store().log_of(agent).await.unwrap()?;
            let log = *reader.log();
            let mut bytes = Vec::new();
            while let Some(piece) = reader.next().await.unwrap() {
                bytes.extend(piece);
            }
            Some(KeptList {
                format: log.format,
                boot: log.boot,
                entries: log.entries,
                gap_at_entry: log.gap_at_entry,
                bytes,
            })
        })
    }

    /// Moves ticks into agent rows; nothing that is seen changes.
    pub(crate) fn fold(&self) {
        self.runtime.block_on(self.store().fold(3)).unwrap();
    }

    pub(crate) fn verify_chain(&self, shard: ShardIndex) {
        let verified = self
            .runtime
            .block_on(self.store().verify_chain(shard))
            .unwrap();
        assert!(verified.is_ok(), "{verified:?}");
    }
}
