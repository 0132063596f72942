//! What operators and surfaces ask of the runtime.

use std::ops::Range;
use std::sync::Arc;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::{
    AgentRecord, AgentState, AgentView, Coverage, EffectiveStatus, Glance, Group, Input, Operation,
    StatusCounts,
};
use rat_store::StoredGroup;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::groups::{self, GroupError};
use crate::health::Pulse;
use crate::limits::SHARDS_PER_COUNT_MAX;
use crate::mailbox::{Look, NotTaken, Notice, Request};
use crate::measures;
use crate::runtime::{Runtime, lock};
use crate::store_thread::Job;

/// Why a call was not answered.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The worker of that agent is gone, and with it the knowledge of whom to trust. (S01)
    #[error("the worker of this agent has died")]
    WorkerDead,
    /// Too many requests wait.
    #[error("too many requests wait; try again in {retry_after_ms} ms")]
    Busy {
        /// When to try again.
        retry_after_ms: u32,
    },
    /// A policy cannot be used.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// What the shards were told of a group.
#[derive(Debug)]
#[must_use]
pub enum Reloaded {
    /// All that is stored.
    Whole,
    /// Its settings without its policies, which cannot be used: nobody is trusted by it.
    WithoutPolicies(GroupError),
    /// Nothing: they know it as it is stored.
    Known,
    /// Nothing: there is no such group.
    Absent,
}

impl Runtime {
    /// An agent is there: newly enrolled, or changed by an operator. The store knows it already.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn enrolled(
        &self,
        record: AgentRecord,
        state: AgentState,
    ) -> Result<(), ControlError> {
        let candidate = match &record.baseline {
            None => None,
            Some(baseline) => {
                Some(groups::load_judge(&self.store, &baseline.policy, self.seed).await?)
            }
        };
        self.is_readable(&record.id);
        let shard = record.id.shard();
        let input = Input::Agent {
            record: Box::new(record),
            state: Box::new(state),
            candidate,
        };
        self.input(shard, input).await
    }

    /// Serves an agent no longer. (N08) When this returns, whatever was on its way to the store
    /// about the agent is there: its record can be removed or changed without losing a failure.
    ///
    /// # Errors
    /// [`ControlError`]; then it is unknown whether the agent is served.
    pub async fn remove(&self, agent: AgentId) -> Result<(), ControlError> {
        self.is_readable(&agent);
        self.input(agent.shard(), Input::Remove(agent)).await?;
        self.settled().await
    }

    /// The same for a moment, in which the agent's record is changed: its machine is told to come
    /// back soon, and is served again from [`enrolled`](Self::enrolled) on.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub async fn set_aside(&self, agent: AgentId) -> Result<(), ControlError> {
        self.input(agent.shard(), Input::SetAside(agent)).await?;
        self.settled().await
    }

    /// Waits until what the shards gave the store before is there.
    async fn settled(&self) -> Result<(), ControlError> {
        let (settled, answer) = oneshot::channel();
        self.store_door.give(Job::Settle(settled));
        answer.await.map_err(|_| ControlError::WorkerDead)
    }

    /// An operator acts on an agent. Listeners are told when it is durable.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn operate(&self, agent: AgentId, operation: Operation) -> Result<(), ControlError> {
        let shard = agent.shard();
        self.input(shard, Input::Operate { agent, operation }).await
    }

    /// What a group demands from now on, unless the shards know something newer. The store knows it
    /// already.
    pub fn group_changed(&self, group: Group) {
        let group = Arc::new(group);
        for pulse in &self.pulses {
            pulse.mailbox.tell(Notice::Group(Arc::clone(&group)));
        }
        self.told.note(&group.slug, group.row_version);
    }

    /// Whether the shards were told of a group as it is stored here, or of what it is by now.
    pub fn knows(&self, stored: &StoredGroup) -> bool {
        self.told.has(&stored.slug, stored.row_version)
    }

    /// The same as [`group_changed`](Self::group_changed), read from the store. What is stored takes effect even when its policies cannot be
    /// used: then nobody is trusted by the group, and its other settings hold. (L01)
    ///
    /// # Cost
    /// Compiles the policy, unless the shards know this version.
    ///
    /// # Errors
    /// [`ControlError::Group`] when the store does not answer: the group stays as it was, and this
    /// is to be tried again.
    pub async fn reload_group(&self, slug: &str) -> Result<Reloaded, ControlError> {
        let stored = self.store.group(slug).await.map_err(GroupError::from)?;
        let Some(stored) = stored else {
            return Ok(Reloaded::Absent);
        };
        if self.knows(&stored) {
            return Ok(Reloaded::Known);
        }
        match groups::load_group(&self.store, &stored, self.seed).await {
            Ok(group) => {
                self.group_changed(group);
                Ok(Reloaded::Whole)
            }
            Err(error) if error.is_lasting() => {
                measures::group_without_policies();
                self.group_changed(groups::without_policies(&stored));
                Ok(Reloaded::WithoutPolicies(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One agent, as it is committed.
    ///
    /// # Errors
    /// [`ControlError`]; never an older view.
    pub async fn view(&self, agent: AgentId) -> Result<Option<AgentView>, ControlError> {
        let shard = agent.shard();
        let (found, answer) = oneshot::channel();
        self.ask(shard, Request::Look(Look::View { agent, found }))?;
        answer.await.map_err(|_| ControlError::WorkerDead)
    }

    /// How many agents stand, in their order; `None` for one that nobody serves.
    ///
    /// # Errors
    /// [`ControlError`]; never a part of them.
    ///
    /// # Cost
    /// One request to each worker that has some of them, however many they are.
    pub async fn glances(&self, agents: Vec<AgentId>) -> Result<Vec<Option<Glance>>, ControlError> {
        let count = agents.len();
        let mut by_worker = vec![(Vec::new(), Vec::new()); self.pulses.len()];
        for (place, agent) in agents.into_iter().enumerate() {
            let of_worker = by_worker.get_mut(self.worker_of(agent.shard()));
            let (places, agents) = of_worker.ok_or(ControlError::WorkerDead)?;
            places.push(place);
            agents.push(agent);
        }
        let mut answers = Vec::with_capacity(self.pulses.len());
        for (pulse, (places, agents)) in self.pulses.iter().zip(by_worker) {
            if !agents.is_empty() {
                let (found, answer) = oneshot::channel();
                let look = Look::Glances { agents, found };
                self.ask_worker(Some(pulse), Request::Look(look))?;
                answers.push((places, answer));
            }
        }
        let mut glances = vec![None; count];
        for (places, answer) in answers {
            let found = answer.await.map_err(|_| ControlError::WorkerDead)?;
            for (place, glance) in places.into_iter().zip(found) {
                if let Some(slot) = glances.get_mut(place) {
                    *slot = glance;
                }
            }
        }
        Ok(glances)
    }

    /// Every agent of a shard.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn views(&self, shard: ShardIndex) -> Result<Vec<AgentView>, ControlError> {
        let (found, answer) = oneshot::channel();
        self.ask(shard, Request::Look(Look::Views { shard, found }))?;
        answer.await.map_err(|_| ControlError::WorkerDead)
    }

    /// An agent is another one than it was when it could not be read.
    fn is_readable(&self, agent: &AgentId) {
        let mut unreadable = lock(&self.unreadable);
        unreadable.retain(|lost| lost.agent != agent.as_str());
    }

    /// How many agents of a group were judged by what it demands, of how many. (L07) `None` while
    /// some shards know what it demands now and others what it did before.
    ///
    /// # Errors
    /// [`ControlError`].
    ///
    /// # Cost
    /// A look at every agent of the server, a few shards at a time: no agent waits for it.
    pub async fn coverage(&self, group: &str) -> Result<Option<Coverage>, ControlError> {
        let unreadable = lock(&self.unreadable)
            .iter()
            .filter(|it| it.group == group)
            .count();
        let group: Arc<str> = group.into();
        let mut total: Option<Coverage> = None;
        for places in self.places() {
            let of_worker = |found| Look::Coverage {
                group: Arc::clone(&group),
                places: places.clone(),
                found,
            };
            for found in self.ask_all(of_worker).await?.into_iter().flatten() {
                let Some(sum) = total.map_or(Some(found), |total| total.and(found)) else {
                    return Ok(None);
                };
                total = Some(sum);
            }
        }
        // Of an agent that cannot be read nobody knows whether it was judged.
        let unreadable = u64::try_from(unreadable).unwrap_or(u64::MAX);
        Ok(total.map(|total| Coverage {
            agents: total.agents.saturating_add(unreadable),
            ..total
        }))
    }

    /// How many agents of each group stand how. Nobody stops meanwhile: an agent whose status
    /// changes is counted by the one or by the other.
    ///
    /// # Errors
    /// [`ControlError`]; never a part of the agents.
    ///
    /// # Cost
    /// A look at every agent of the server, a few shards at a time: no agent waits for it.
    pub async fn status_counts(&self) -> Result<StatusCounts, ControlError> {
        let mut counts = StatusCounts::default();
        // Nobody knows anything of an agent that cannot be read.
        for lost in lock(&self.unreadable).iter() {
            counts.add(&lost.group, EffectiveStatus::Unverified);
        }
        for places in self.places() {
            let of_worker = |found| Look::StatusCounts {
                places: places.clone(),
                found,
            };
            for found in self.ask_all(of_worker).await? {
                counts.add_all(&found);
            }
        }
        Ok(counts)
    }

    /// Places of the workers' shards, so many at a time as one request may look at.
    fn places(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let shards_max = usize::from(ShardIndex::COUNT).div_ceil(self.pulses.len().max(1));
        let firsts = (0..shards_max).step_by(SHARDS_PER_COUNT_MAX);
        firsts.map(|first| first..first.saturating_add(SHARDS_PER_COUNT_MAX))
    }

    /// What every worker answers.
    async fn ask_all<T>(
        &self,
        look: impl Fn(oneshot::Sender<T>) -> Look,
    ) -> Result<Vec<T>, ControlError> {
        let mut answers = Vec::with_capacity(self.pulses.len());
        for pulse in &self.pulses {
            let (found, answer) = oneshot::channel();
            self.ask_worker(Some(pulse), Request::Look(look(found)))?;
            answers.push(answer);
        }
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(answer.await.map_err(|_| ControlError::WorkerDead)?);
        }
        Ok(all)
    }

    pub(crate) async fn input(&self, shard: ShardIndex, input: Input) -> Result<(), ControlError> {
        let (taken, answer) = oneshot::channel();
        let input = Box::new(input);
        self.ask(
            shard,
            Request::Input {
                shard,
                input,
                taken,
            },
        )?;
        answer.await.map_err(|_| ControlError::WorkerDead)
    }

    fn ask(&self, shard: ShardIndex, request: Request) -> Result<(), ControlError> {
        self.ask_worker(self.pulses.get(self.worker_of(shard)), request)
    }

    fn ask_worker(&self, pulse: Option<&Arc<Pulse>>, request: Request) -> Result<(), ControlError> {
        let asked = pulse.map_or(Err(NotTaken::Dead), |pulse| pulse.mailbox.ask(request));
        asked.map_err(|refused| match refused {
            NotTaken::Dead => ControlError::WorkerDead,
            NotTaken::Full | NotTaken::SessionFull => ControlError::Busy {
                retry_after_ms: self.settings.retry_after_ms,
            },
        })
    }
}
