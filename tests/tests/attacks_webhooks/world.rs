//! A runtime with agents whose status changes, and webhooks that tell of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::{AgentView, EffectiveStatus, Event};
use rat_ops::webhook::{
    ATTEMPTS, Answer, Content, Delivery, Fleet, FleetUnavailable, GIVE_UP_AFTER_HOURS, Given,
    Parts, Roots, Secret, Shown, TIMEOUT_MS, Target, Webhook, Webhooks,
};
use rat_runtime::{Reloaded, Runtime, SystemClock};
use rat_store::{GroupSettings, NewGroup, RecordChange, Store};
use rat_tests::driven::{Driven, GROUP, PATIENCE, event, settings};
use rat_tests::evidence::Machine;
use rat_tests::receiver::Receiver;
use tempfile::TempDir;

/// The key of every webhook here.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A webhook as a test configures it.
#[derive(Debug, Clone)]
pub(crate) struct Configured {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) groups: Vec<String>,
    pub(crate) statuses: Vec<String>,
    pub(crate) allow: Vec<String>,
    pub(crate) timeout_ms: u64,
    pub(crate) attempts_max: u64,
    pub(crate) ca: Vec<u8>,
}

impl Configured {
    /// One for this receiver, which it may be at.
    pub(crate) fn of(receiver: &Receiver) -> Self {
        Self {
            name: "hook".to_owned(),
            url: receiver.url("/ratd"),
            groups: Vec::new(),
            statuses: Vec::new(),
            allow: vec!["127.0.0.0/8".to_owned()],
            timeout_ms: TIMEOUT_MS.default,
            attempts_max: ATTEMPTS.default,
            ca: std::fs::read(receiver.ca_file()).unwrap_or_default(),
        }
    }

    pub(crate) fn webhook(&self) -> Webhook {
        let target = Target::parse(&Given {
            name: &self.name,
            url: &self.url,
            content: Content::Status,
            groups: &self.groups,
            statuses: &self.statuses,
            allow: &self.allow,
            plain_http: self.url.starts_with("http://"),
            timeout_ms: self.timeout_ms,
            attempts_max: self.attempts_max,
            give_up_after_hours: GIVE_UP_AFTER_HOURS.default,
        });
        let roots = match self.ca.as_slice() {
            [] => Roots::of_system(),
            pem => Roots::of_pem(pem),
        };
        let secret = Secret::of_file(SECRET.as_bytes()).unwrap();
        Webhook::new(target.unwrap(), secret, roots.unwrap())
    }
}

/// The runtime as long as it is there.
struct Driving(Weak<Runtime>);

impl Fleet for Driving {
    fn view(&self, agent: AgentId) -> Answer<'_, Option<AgentView>> {
        Box::pin(async move {
            let runtime = self.0.upgrade().ok_or(FleetUnavailable)?;
            Fleet::view(&*runtime, agent).await
        })
    }

    fn views(&self, shard: ShardIndex) -> Answer<'_, Vec<AgentView>> {
        Box::pin(async move {
            let runtime = self.0.upgrade().ok_or(FleetUnavailable)?;
            Fleet::views(&*runtime, shard).await
        })
    }
}

/// A runtime and its agents; webhooks come and go.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
    pub(crate) runtime: Arc<Runtime>,
    agents: Vec<AgentId>,
}

impl World {
    /// One with these agents, which are pending.
    pub(crate) async fn with_agents(agents: &[&str]) -> Self {
        let machine = Machine::valid();
        let driven = Driven::new(&machine, settings()).await;
        let agents: Vec<AgentId> = agents
            .iter()
            .map(|agent| AgentId::parse(agent).unwrap())
            .collect();
        for agent in &agents {
            driven.enrol(&machine, agent).await;
        }
        Self {
            directory: driven.directory,
            store: driven.store,
            runtime: Arc::new(driven.runtime),
            agents,
        }
    }

    /// Begins to deliver, and waits until every agent was compared with what was noted.
    pub(crate) async fn deliver(&self, webhooks: &[Configured]) -> Delivery {
        let parts = Parts {
            webhooks: webhooks.iter().map(Configured::webhook).collect(),
            channels: Vec::new(),
            store: self.store.clone(),
            fleet: Arc::new(Driving(Arc::downgrade(&self.runtime))),
            events: self.runtime.events(),
            clock: Arc::new(SystemClock::start()),
        };
        let delivery = Webhooks::start(parts).await.unwrap();
        let noted = async {
            while !self.store.are_statuses_noted().await.unwrap() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, noted).await.unwrap();
        delivery
    }

    /// Blocks the group of all agents, or lets it go; returns when listeners were told of each.
    pub(crate) async fn block(&self, block: bool) {
        let mut events = self.runtime.events();
        self.set_block(block).await;
        self.reload().await;
        let mut waited_for: BTreeSet<&AgentId> = self.agents.iter().collect();
        while !waited_for.is_empty() {
            let is_status = |event: &Event| matches!(event, Event::Status { .. });
            if let Event::Status { agent, to, .. } = event(&mut events, is_status).await {
                assert_eq!(to == EffectiveStatus::Blocked, block);
                waited_for.remove(&agent);
            }
        }
    }

    pub(crate) async fn set_block(&self, block: bool) {
        let group = self.store.group(GROUP).await.unwrap().unwrap();
        let changed = GroupSettings {
            block,
            ..group.settings
        };
        let updated = self.store.update_group(GROUP, &changed, "test", 1).await;
        updated.unwrap();
    }

    /// Makes a group that demands nothing, which the runtime knows.
    pub(crate) async fn group(&self, slug: &str) {
        let group = NewGroup {
            slug: slug.to_owned(),
            hex_id: hex::encode(slug),
            settings: GroupSettings::default(),
        };
        self.store.create_group(&group, "test", 1).await.unwrap();
        let reloaded = self.runtime.reload_group(slug).await.unwrap();
        assert!(matches!(reloaded, Reloaded::Whole));
    }

    /// Moves an agent to another group, as the API does.
    pub(crate) async fn moves(&self, agent: &AgentId, slug: &str) {
        self.runtime.set_aside(agent.clone()).await.unwrap();
        let change = RecordChange::Group(slug.to_owned());
        let changed = self.store.change_agent(agent, change, "test", 1).await;
        assert!(changed.unwrap().is_some());
        let stored = self.store.enrolled_agent(agent).await.unwrap().unwrap();
        let enrolled = self.runtime.enrolled(stored.record, stored.state);
        enrolled.await.unwrap();
    }

    pub(crate) async fn reload(&self) {
        let reloaded = self.runtime.reload_group(GROUP).await.unwrap();
        assert!(matches!(reloaded, Reloaded::Whole));
    }

    /// Ends the runtime, and then deliveries in order.
    pub(crate) async fn end(self, delivery: Delivery) -> bool {
        let Self {
            store, mut runtime, ..
        } = self;
        let runtime = loop {
            match Arc::try_unwrap(runtime) {
                Ok(runtime) => break runtime,
                Err(still) => runtime = still,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        runtime.drain(PATIENCE).await;
        let is_done = delivery.drain(PATIENCE).await;
        store.close().await;
        is_done
    }
}

/// How the only webhook stands.
pub(crate) fn shown(delivery: &Delivery) -> Shown {
    delivery.webhooks().shown().remove(0)
}
