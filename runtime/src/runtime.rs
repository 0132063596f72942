//! Starting, and stopping.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rat_engine::agent_id::ShardIndex;
use rat_engine::crypto::vector_unit;
use rat_engine::evidence::{Intake, NonceSource as _};
use rat_engine::ima::ImaCaches;
use rat_engine::shard::{Group, Input, Shard};
use rat_engine::time::Now;
use rat_store::{ShardHead, Store, StoreError, StoredAgent, Unreadable};
use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};

use crate::clock::{Clock, OsNonces};
use crate::events::{EventStream, Events};
use crate::groups::{self, Told};
use crate::health::{Health, Pulse, ReaderPulse, StorePulse};
use crate::intake::{Doors, worker_of};
use crate::keylime::{self, Judges, KeylimeSettings};
use crate::lanes::Lanes;
use crate::limits::{LOADS_AT_ONCE_MAX, SHARDS_PER_LOAD_MAX};
use crate::list_reader::{self, ListReader, ReadJob, ReaderDoor};
use crate::mailbox::{Mailbox, Notice};
use crate::measures;
use crate::settings::Settings;
use crate::store_thread::{self, Job, StoreDoor, StoreThread};
use crate::worker::{Turn, Worker};

/// From one look at whether everything is finished to the next.
const DRAIN_LOOK_MS: u64 = 20;

/// Threads that drive every shard of one server.
///
/// Dropping it leaves the threads running; end it with [`drain`](Self::drain).
pub struct Runtime {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) seed: u64,
    pub(crate) pulses: Vec<Arc<Pulse>>,
    clock: Arc<dyn Clock>,
    store_pulse: Arc<StorePulse>,
    pub(crate) store_door: StoreDoor,
    reader_door: ReaderDoor,
    reader_pulse: Arc<ReaderPulse>,
    /// Which version of each group the shards were told.
    pub(crate) told: Arc<Told>,
    pub(crate) judges: Judges,
    gives_up: Arc<AtomicBool>,
    is_draining: Arc<AtomicBool>,
    events: Events,
    pub(crate) unreadable: Mutex<Vec<Unreadable>>,
    threads: Vec<JoinHandle<()>>,
    store_thread: JoinHandle<()>,
}

/// Why the runtime did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gives no random bytes, so that no challenge can be made.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
    /// A thread could not be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// Agents could not be read from the store to the end.
    #[error("agents cannot be read: {0}")]
    Load(#[source] JoinError),
    /// The lanes could not be started.
    #[error("the lanes cannot be started: {0}")]
    Lanes(#[source] rayon::ThreadPoolBuildError),
}

/// How draining ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Whatever was begun was committed.
    Finished,
    /// The deadline came first: agents whose evidence was not committed are asked again after
    /// the next start.
    CutShort,
}

impl Runtime {
    /// Takes ownership of every shard, loads what is stored, and starts the threads.
    ///
    /// A group whose policy cannot be used trusts nobody, and an agent that cannot be read is not
    /// served; neither keeps the others from being served. (S06)
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        store: Store,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let seed = random_u64().ok_or(StartError::NoRandomness)?;
        store.take_ownership("ratd").await?;
        let heads = store.heads().await?;
        let groups = load_groups(&store, seed).await?;
        let told = Arc::new(Told::of(&groups));
        let lanes = Lanes::start(settings.arith_threads).map_err(StartError::Lanes)?;
        measures::vector_unit(vector_unit());
        let caches = Arc::new(ImaCaches::new(settings.ima_caches, seed));
        let events = Events::new(settings.events_max);
        let (store_door, jobs) = StoreDoor::new();
        let store_pulse = Arc::new(StorePulse::default());
        let gives_up = Arc::new(AtomicBool::new(false));
        let is_draining = Arc::new(AtomicBool::new(false));
        let now = clock.now();
        let pulses = pulses(&settings, now);
        let thread = StoreThread {
            store: store.clone(),
            clock: Arc::clone(&clock),
            retention: settings.retention,
            pulse: Arc::clone(&store_pulse),
            mailboxes: pulses.iter().map(|it| Arc::clone(&it.mailbox)).collect(),
            told: Arc::clone(&told),
            gives_up: Arc::clone(&gives_up),
            seed,
        };
        let store_thread = spawn("store", move || store_thread::run(thread, jobs))?;
        let (reader_door, lists) = ReaderDoor::new();
        let (reader_pulse, reading) = read_lists(
            store.clone(),
            Arc::clone(&caches),
            lists,
            Arc::clone(&gives_up),
        )?;
        let parts = Parts {
            settings,
            clock: Arc::clone(&clock),
            lanes,
            caches,
            store: store_door.clone(),
            reader: reader_door.clone(),
            events: events.clone(),
            is_draining: Arc::clone(&is_draining),
        };
        let mut built = parts.workers(&pulses, &heads, &groups);
        let judges = Judges::default();
        put_terms(&store, (&judges, &settings.keylime, seed), &mut built, now).await?;
        let unreadable = load_agents(&store, seed, &mut built, now).await?;
        let mut threads = spawn_all(built)?;
        threads.push(reading);
        Ok(Self {
            store,
            settings,
            seed,
            pulses,
            clock,
            store_pulse,
            store_door,
            reader_door,
            reader_pulse,
            told,
            judges,
            gives_up,
            is_draining,
            events,
            unreadable: Mutex::new(unreadable),
            threads,
            store_thread,
        })
    }

    /// Where transports deliver.
    pub fn intake(&self) -> Arc<dyn Intake> {
        Arc::new(Doors {
            mailboxes: self
                .pulses
                .iter()
                .map(|it| Arc::clone(&it.mailbox))
                .collect(),
            retry_after_ms: self.settings.retry_after_ms,
            is_draining: Arc::clone(&self.is_draining),
        })
    }

    /// Every event from now on; failures first.
    pub fn events(&self) -> EventStream {
        self.events.listen()
    }

    /// Agents that could not be read when the runtime started, and were not removed or enrolled
    /// since; they are not served.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        lock(&self.unreadable).clone()
    }

    /// Whether everything works.
    pub fn health(&self) -> Health {
        let now_ms = self.clock.now().mono_ms;
        Health {
            workers: self.pulses.iter().map(|it| it.health(now_ms)).collect(),
            store: self.store_pulse.health(),
            lists: self.reader_pulse.health(),
            is_draining: self.is_draining.load(Ordering::Acquire),
        }
    }

    /// Stops: no agent is challenged any more, what was begun is finished and committed, and the
    /// threads end. After the deadline they end anyway.
    pub async fn drain(self, deadline: Duration) -> Drained {
        self.is_draining.store(true, Ordering::Release);
        for pulse in &self.pulses {
            pulse.turned(self.clock.now().mono_ms, true);
            pulse.mailbox.tell(Notice::Drain);
        }
        let alive_and_busy = |pulse: &Arc<Pulse>| pulse.is_busy() && !pulse.mailbox.is_dead();
        let finished = async {
            while self.pulses.iter().any(alive_and_busy) {
                tokio::time::sleep(Duration::from_millis(DRAIN_LOOK_MS)).await;
                // A worker at rest looks again when something arrives.
                for pulse in &self.pulses {
                    pulse.mailbox.tell(Notice::Look);
                }
            }
        };
        let is_finished = tokio::time::timeout(deadline, finished).await.is_ok();
        for pulse in &self.pulses {
            pulse.mailbox.tell(Notice::Stop);
        }
        self.gives_up.store(true, Ordering::Release);
        self.store_door.give(Job::Stop);
        self.reader_door.give(ReadJob::Stop);
        let (threads, store_thread) = (self.threads, self.store_thread);
        let joining = tokio::task::spawn_blocking(move || {
            let died = threads.into_iter().filter_map(|it| it.join().err()).count();
            died.saturating_add(usize::from(store_thread.join().is_err()))
        });
        match joining.await {
            Ok(0) if is_finished => Drained::Finished,
            _ => Drained::CutShort,
        }
    }

    pub(crate) fn worker_of(&self, shard: ShardIndex) -> usize {
        worker_of(shard, self.pulses.len())
    }
}

/// No code panics while it holds such a lock, so what a poisoned one guards is whole.
pub(crate) fn lock<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What every worker gets a share of.
struct Parts {
    settings: Settings,
    clock: Arc<dyn Clock>,
    lanes: Lanes,
    caches: Arc<ImaCaches>,
    store: StoreDoor,
    reader: ReaderDoor,
    events: Events,
    is_draining: Arc<AtomicBool>,
}

impl Parts {
    /// A worker for each pulse, with its shards, and in them the groups.
    fn workers(
        &self,
        pulses: &[Arc<Pulse>],
        heads: &[ShardHead],
        groups: &[Arc<Group>],
    ) -> Vec<Worker> {
        let (settings, count) = (self.settings, pulses.len());
        let now = self.clock.now();
        let mut workers = Vec::with_capacity(count);
        for (nth, pulse) in pulses.iter().enumerate() {
            let shards = shards_of(nth, count, heads, &settings);
            let mut worker = Worker {
                turn: Turn::new(&settings, shards.len()),
                shards,
                workers: count,
                settings,
                clock: Arc::clone(&self.clock),
                mailbox: Arc::clone(&pulse.mailbox),
                pulse: Arc::clone(pulse),
                lanes: self.lanes.clone(),
                caches: Arc::clone(&self.caches),
                store: self.store.clone(),
                reader: self.reader.clone(),
                events: self.events.clone(),
                is_draining: Arc::clone(&self.is_draining),
            };
            for group in groups {
                worker.every_group(group, now);
            }
            workers.push(worker);
        }
        workers
    }
}

async fn load_groups(store: &Store, seed: u64) -> Result<Vec<Arc<Group>>, StoreError> {
    let mut groups = Vec::new();
    for stored in store.groups().await? {
        let group = match groups::load_group(store, &stored, seed).await {
            Ok(group) => group,
            Err(error) => {
                tracing::error!(group = stored.slug, %error, "nobody in this group is trusted");
                measures::group_without_policies();
                groups::without_policies(&stored)
            }
        };
        groups.push(Arc::new(group));
    }
    Ok(groups)
}

/// Tells the shards what is demanded of each of Keylime's agents.
async fn put_terms(
    store: &Store,
    (judges, settings, seed): (&Judges, &KeylimeSettings, u64),
    workers: &mut [Worker],
    now: Now,
) -> Result<(), StoreError> {
    for (agent, terms) in keylime::all_terms(store, judges, settings, seed).await? {
        let shard = agent.shard();
        let place = worker_of(shard, workers.len());
        if let Some(worker) = workers.get_mut(place) {
            worker.enrolment(shard, Input::Terms { agent, terms }, now);
        }
    }
    Ok(())
}

/// Puts every agent into its shard, and returns those that cannot be read. A few shards are read at
/// a time, the next of them while the last are put.
///
/// An agent read from the store takes several times what it takes in its shard: what is read at
/// once decides how much memory a server has from its start on.
async fn load_agents(
    store: &Store,
    seed: u64,
    workers: &mut [Worker],
    now: Now,
) -> Result<Vec<Unreadable>, StartError> {
    let mut unreadable = Vec::new();
    let shards: Vec<_> = ShardIndex::all().collect();
    let mut ranges = shards
        .chunks(SHARDS_PER_LOAD_MAX)
        .filter_map(|few| Some(*few.first()?..=*few.last()?));
    let read = |range| {
        let store = store.clone();
        async move { store.load(range).await }
    };
    let mut reading = JoinSet::new();
    for range in ranges.by_ref().take(LOADS_AT_ONCE_MAX) {
        reading.spawn(read(range));
    }
    while let Some(loaded) = reading.join_next().await {
        let loaded = loaded.map_err(StartError::Load)??;
        if let Some(range) = ranges.next() {
            reading.spawn(read(range));
        }
        for agent in loaded.agents {
            put_agent(store, seed, workers, agent, now).await;
        }
        for lost in loaded.unreadable {
            tracing::error!(
                agent = lost.agent,
                "an agent cannot be read and is not served"
            );
            unreadable.push(lost);
        }
    }
    Ok(unreadable)
}

async fn put_agent(store: &Store, seed: u64, workers: &mut [Worker], agent: StoredAgent, now: Now) {
    let candidate = match &agent.record.baseline {
        None => None,
        // Without it the agent has nothing to pass under, which is not trust.
        Some(baseline) => groups::load_judge(store, &baseline.policy, seed).await.ok(),
    };
    let shard = agent.record.id.shard();
    let input = Input::Agent {
        record: Box::new(agent.record),
        state: Box::new(agent.state),
        candidate,
    };
    let place = worker_of(shard, workers.len());
    if let Some(worker) = workers.get_mut(place) {
        worker.enrolment(shard, input, now);
    }
}

/// The shards of one worker, in the order of their numbers.
fn shards_of(nth: usize, workers: usize, heads: &[ShardHead], settings: &Settings) -> Vec<Shard> {
    heads
        .iter()
        .filter(|head| worker_of(head.shard, workers) == nth)
        .map(|head| Shard::new(head.shard, head.epoch, head.seq, head.head, settings.shard))
        .collect()
}

/// A mailbox and a pulse for each worker.
fn pulses(settings: &Settings, now: Now) -> Vec<Arc<Pulse>> {
    let pulse = |_| {
        let mailbox = Arc::new(Mailbox::new(settings.mailbox_messages_max));
        Arc::new(Pulse::new(mailbox, now.mono_ms))
    };
    (0..settings.workers.max(1)).map(pulse).collect()
}

fn spawn_all(workers: Vec<Worker>) -> Result<Vec<JoinHandle<()>>, StartError> {
    let workers = workers.into_iter().enumerate();
    workers
        .map(|(nth, worker)| spawn(&format!("worker-{nth}"), move || worker.run()))
        .collect()
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(StartError::Thread)
}

/// Starts the thread that reads stored lists.
fn read_lists(
    store: Store,
    caches: Arc<ImaCaches>,
    lists: UnboundedReceiver<ReadJob>,
    stops: Arc<AtomicBool>,
) -> Result<(Arc<ReaderPulse>, JoinHandle<()>), StartError> {
    let pulse = Arc::new(ReaderPulse::default());
    let told = Arc::clone(&pulse);
    let reader = ListReader {
        store,
        caches,
        stops,
    };
    let reading = spawn("lists", move || list_reader::run(reader, lists, &told))?;
    Ok((pulse, reading))
}

fn random_u64() -> Option<u64> {
    let mut bytes = [0; 8];
    OsNonces.fill(&mut bytes)?;
    Some(u64::from_le_bytes(bytes))
}
