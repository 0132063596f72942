//! Where the runtime is joined to the server: agents as surfaces see them, and its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use rat_api::core::fleet::{Answer, Fleet, FleetUnavailable, Seen};
use rat_api::health::{Check, Probe};
use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::evidence::Intake;
use rat_engine::ima::CacheLimits;
use rat_engine::shard::{self, AgentView, Coverage, Glance, Operation, StatusCounts};
use rat_ops::webhook;
use rat_runtime::{
    ControlError, Drained, EventStream, KeylimeSettings, ListsHealth, Reloaded, Runtime, Settings,
    StoreHealth, SystemClock, WorkerHealth,
};
use rat_store::{KeylimeKind, Store, StoredAgent, StoredKeylimeAgent};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::failure::{Exit, Failure, Means};

/// How often groups are compared with what the shards were told: `ratd group` changes them in
/// another process.
const GROUPS_EVERY: Duration = Duration::from_secs(1);

/// The driven shards, until they are taken away to be drained.
#[derive(Clone)]
pub(super) struct Shards(Arc<ArcSwapOption<Runtime>>);

impl Shards {
    /// Takes ownership of every shard, and drives them.
    pub(super) async fn start(config: &Config, store: &Store) -> Result<Self, Failure> {
        let clock = Arc::new(SystemClock::start());
        let runtime = Runtime::start(store.clone(), settings(config), clock)
            .await
            .context("the shards cannot be driven")
            .means(Exit::Unusable)?;
        for unreadable in runtime.unreadable() {
            let (agent, row, fault) = (&unreadable.agent, &unreadable.row, &unreadable.fault);
            tracing::error!(agent, %row, %fault, "an agent cannot be read, and is not served");
        }
        Ok(Self(Arc::new(ArcSwapOption::from_pointee(runtime))))
    }

    /// Where the evidence listener delivers; `None` when the shards were drained.
    pub(super) fn intake(&self) -> Option<Arc<dyn Intake>> {
        self.0.load_full().map(|runtime| runtime.intake())
    }

    /// Every event from now on; `None` when the shards were drained.
    pub(super) fn events(&self) -> Option<EventStream> {
        self.0.load_full().map(|runtime| runtime.events())
    }

    /// What `/readyz` asks.
    pub(super) fn probe(&self) -> Probe {
        let shards = self.clone();
        Box::new(move || match shards.0.load_full() {
            Some(runtime) => check(&runtime),
            None => Check::failed("workers", "the shards are drained".to_owned()),
        })
    }

    /// Tells the shards what other processes change in the store, until `stop`.
    pub(super) async fn follow_groups(self, store: Store, stop: CancellationToken) {
        let mut ticks = interval(GROUPS_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.tell_groups(&store).await {
                tracing::error!(%error, "changes of groups cannot be followed");
            }
        }
    }

    async fn tell_groups(&self, store: &Store) -> Result<(), rat_store::StoreError> {
        for group in store.groups().await? {
            let Some(runtime) = self.0.load_full() else {
                return Ok(());
            };
            if runtime.knows(&group) {
                continue;
            }
            match runtime.reload_group(&group.slug).await {
                Ok(Reloaded::Whole | Reloaded::Known | Reloaded::Absent) => {}
                Ok(Reloaded::WithoutPolicies(error)) => {
                    tracing::error!(group = group.slug, %error, "nobody in this group is trusted");
                }
                Err(error) => {
                    tracing::error!(group = group.slug, %error, "a group cannot be read yet");
                }
            }
        }
        Ok(())
    }

    /// What is demanded of one of Keylime's agents, as the store has it, from now on.
    pub(super) async fn keylime_changed(&self, agent: &StoredKeylimeAgent) -> anyhow::Result<()> {
        let runtime = self.0.load_full().context("the shards are drained")?;
        Ok(runtime.keylime_changed(agent).await?)
    }

    /// Ends the shards: what was begun is committed, unless the deadline comes first.
    pub(super) async fn drain(&self, deadline: Duration) -> bool {
        let Some(runtime) = self.0.swap(None) else {
            return true;
        };
        match super::wiring::sole(runtime).await {
            Some(runtime) => runtime.drain(deadline).await == Drained::Finished,
            None => false,
        }
    }
}

pub(super) fn settings(config: &Config) -> Settings {
    let defaults = Settings::default();
    let attestation = &config.attestation;
    let verifier = &config.keylime.verifier;
    let boot = config.keylime.measured_boot();
    let ms = |seconds: u64| seconds.saturating_mul(1_000);
    let given = |value: usize, default: usize| if value == 0 { default } else { value };
    Settings {
        workers: given(config.runtime.workers, defaults.workers),
        arith_threads: given(config.runtime.arith_threads, defaults.arith_threads),
        ima_caches: CacheLimits {
            bytes_max: config.runtime.ima_cache_bytes,
            agent_bytes_max: config.runtime.ima_cache_agent_bytes,
        },
        keylime: KeylimeSettings {
            interval_ms: ms(verifier.quote_interval_seconds),
            answer_ms: u32::try_from(ms(verifier.challenge_lifetime_seconds)).unwrap_or(u32::MAX),
            auto_recover: verifier.auto_recover_attestation_failures,
            accept_violations: verifier.accept_violations,
            boot_policy: boot.policy_name,
            boot_log_always: boot.evaluate == rat_api::keylime::Evaluate::Always,
        },
        shard: shard::Settings {
            challenge_deadline_ms: attestation.challenge_deadline_ms,
            max_age_ms: attestation.max_age_ms,
            ..shard::Settings::with_interval(attestation.interval_ms)
        },
        ..defaults
    }
}

fn check(runtime: &Runtime) -> Check {
    let health = runtime.health();
    let count = |wanted: fn(&WorkerHealth) -> bool| {
        health
            .workers
            .iter()
            .filter(|worker| wanted(worker))
            .count()
    };
    let dead = count(|worker| matches!(worker, WorkerHealth::Dead));
    let hanging = count(|worker| matches!(worker, WorkerHealth::Hanging { .. }));
    let store = match health.store {
        StoreHealth::Alive if health.lists == ListsHealth::Dead => {
            Some("the reader of stored lists has died")
        }
        StoreHealth::Alive => None,
        StoreHealth::Failing => Some("commits fail"),
        StoreHealth::Fenced => Some("another server owns the shards"),
        StoreHealth::Dead => Some("the store thread has died"),
    };
    match (dead, hanging, store) {
        (0, 0, None) => Check::ok("workers"),
        (0, 0, Some(reason)) => Check::failed("workers", reason.to_owned()),
        _ => Check::failed("workers", format!("{dead} dead, {hanging} hanging")),
    }
}

fn unavailable(error: &ControlError) -> FleetUnavailable {
    tracing::warn!(%error, "the shards do not answer");
    FleetUnavailable
}

impl Shards {
    fn driven(&self) -> Result<Arc<Runtime>, FleetUnavailable> {
        self.0.load_full().ok_or(FleetUnavailable)
    }
}

impl webhook::Fleet for Shards {
    fn view(&self, agent: AgentId) -> webhook::Answer<'_, Option<AgentView>> {
        Box::pin(async move {
            let runtime = self.driven().map_err(|_| webhook::FleetUnavailable)?;
            webhook::Fleet::view(&*runtime, agent).await
        })
    }

    fn views(&self, shard: ShardIndex) -> webhook::Answer<'_, Vec<AgentView>> {
        Box::pin(async move {
            let runtime = self.driven().map_err(|_| webhook::FleetUnavailable)?;
            webhook::Fleet::views(&*runtime, shard).await
        })
    }
}

impl Fleet for Shards {
    fn enrolled(&self, agent: StoredAgent) -> Answer<'_, ()> {
        Box::pin(async move {
            let told = self.driven()?.enrolled(agent.record, agent.state).await;
            told.map_err(|error| unavailable(&error))
        })
    }

    fn group_changed(&self, slug: String) -> Answer<'_, ()> {
        Box::pin(async move {
            match self.driven()?.reload_group(&slug).await {
                Ok(Reloaded::Whole | Reloaded::Known | Reloaded::Absent) => Ok(()),
                Ok(Reloaded::WithoutPolicies(error)) => {
                    tracing::error!(group = slug, %error, "nobody in this group is trusted");
                    Ok(())
                }
                Err(error) => Err(unavailable(&error)),
            }
        })
    }

    fn keylime_changed(&self, agent: AgentId) -> Answer<'_, ()> {
        Box::pin(async move {
            let told = self.driven()?.reload_keylime(&agent).await;
            told.map_err(|error| unavailable(&error))
        })
    }

    fn keylime_policy_changed(&self, kind: KeylimeKind, name: String) -> Answer<'_, ()> {
        Box::pin(async move {
            let told = self.driven()?.keylime_policy_changed(kind, &name).await;
            told.map_err(|error| unavailable(&error))
        })
    }

    fn clear(&self, agent: AgentId) -> Answer<'_, ()> {
        Box::pin(async move {
            let told = self.driven()?.operate(agent, Operation::Clear).await;
            told.map_err(|error| unavailable(&error))
        })
    }

    fn remove(&self, agent: AgentId) -> Answer<'_, ()> {
        Box::pin(async move {
            let told = self.driven()?.remove(agent).await;
            told.map_err(|error| unavailable(&error))
        })
    }

    fn set_aside(&self, agent: AgentId) -> Answer<'_, ()> {
        Box::pin(async move {
            let told = self.driven()?.set_aside(agent).await;
            told.map_err(|error| unavailable(&error))
        })
    }

    fn coverage(&self, slug: String) -> Answer<'_, Option<Coverage>> {
        Box::pin(async move {
            let counted = self.driven()?.coverage(&slug).await;
            counted.map_err(|error| unavailable(&error))
        })
    }

    fn status_counts(&self) -> Answer<'_, StatusCounts> {
        Box::pin(async move {
            let counted = self.driven()?.status_counts().await;
            counted.map_err(|error| unavailable(&error))
        })
    }

    fn seen(&self, agent: AgentId) -> Answer<'_, Option<Seen>> {
        Box::pin(async move {
            let view = self.driven()?.view(agent).await;
            let view = view.map_err(|error| unavailable(&error))?;
            Ok(view.map(Seen::from))
        })
    }

    fn glances(&self, agents: Vec<AgentId>) -> Answer<'_, Vec<Option<Glance>>> {
        Box::pin(async move {
            let glances = self.driven()?.glances(agents).await;
            glances.map_err(|error| unavailable(&error))
        })
    }
}
