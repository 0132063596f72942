//! All agents that are polled, and what they share.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Intake, SessionId};
use rat_engine::hash::HashAlg;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contact::{Contact, ContactError, Known};
use super::failure::Failure;
use super::notify::Notices;
use super::polled::Polled;
use super::retries::Retries;
use super::tls::{self, ClientIdentity};
use super::v_key::VKeyFailure;
use super::version::AgentVersion;
use crate::limits;
use crate::measures;
use crate::memory::Memory;

/// Sessions of polled agents are numbered from here: others that deliver to the same intake number
/// theirs from 0.
const FIRST_SESSION: u64 = 1 << 62;

/// How agents are polled. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From one poll of an agent to the next, as its shard has it: it decides whether connections
    /// are worth keeping.
    pub interval_ms: u64,
    /// How long an agent has for its answer, unless its challenge ends earlier; half of it may pass in
    /// waiting for its turn.
    pub answer_ms: u64,
    /// Keylime's `retry_interval`: an agent is asked again after this many seconds to the power of
    /// its failures in a row.
    pub retry_interval_seconds: u64,
    /// Keylime's `exponential_backoff`; without it, the interval stays the same.
    pub exponential_backoff: bool,
    /// The longest pause; never less than the interval.
    pub retry_ms_max: u64,
    /// Whether agents without a certificate are polled over plain HTTP.
    pub plain_http: bool,
    /// Exchanges with agents at once.
    pub exchanges_max: usize,
    /// Bytes of one answer.
    pub answer_bytes_max: u64,
    /// Bytes of answers of all agents.
    pub buffered_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval_ms: 10_000,
            answer_ms: 30_000,
            retry_interval_seconds: 2,
            exponential_backoff: true,
            retry_ms_max: 60_000,
            plain_http: false,
            exchanges_max: limits::PULL_EXCHANGES_MAX,
            answer_bytes_max: limits::PULL_ANSWER_BYTES_MAX,
            buffered_bytes_max: limits::PULL_BUFFERED_BYTES_MAX,
        }
    }
}

/// Encrypts a V key for an agent's public key (PEM), by RSA-OAEP with SHA-1; `None` for a key that is
/// none or too weak.
pub type Seal = Arc<dyn Fn(&[u8], &[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// What a poller works with.
pub struct Options {
    /// How agents are polled.
    pub settings: Settings,
    /// What agents know us by.
    pub identity: Option<ClientIdentity>,
    /// How V keys are encrypted.
    pub seal: Seal,
    /// Who is told of what happens.
    pub watcher: Arc<dyn Watcher>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What happened to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// It gave no evidence, for so many times in a row now.
    Silent {
        /// Why.
        failure: Failure,
        /// How many times.
        times: u32,
    },
    /// It answers again.
    Answers,
    /// It speaks this version from now on.
    Speaks(AgentVersion),
    /// It attested for the first time since it was put, or for the first time by this version.
    Attested(AgentVersion),
    /// It quotes this bank, which is accepted of it, and not the one that it is asked for. It is to
    /// be asked for this one: until then it gives no evidence.
    Quotes(HashAlg),
    /// The key in its answer is not the one that its TPM shows: it is given no V key.
    KeyNotBound,
    /// It has its V key.
    HasVKey,
    /// It did not take its V key; it is sent again after the next evidence.
    NoVKey(VKeyFailure),
}

/// Who is told of what happens.
pub trait Watcher: Send + Sync {
    /// This happened to an agent. Must not block.
    fn told(&self, agent: &AgentId, news: News);
}

/// Whether an agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was not asked yet.
    New,
    /// It answered last.
    Answers,
    /// It gave no evidence, for so many times in a row.
    Silent {
        /// Why, last.
        failure: Failure,
        /// How many times.
        times: u32,
    },
}

/// Why no poller can be started.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("the certificate for agents, or its key, cannot be used: {0}")]
pub struct StartError(#[from] rustls::Error);

/// Polls agents until it is shut down.
pub struct Poller {
    shared: Arc<Shared>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

/// What all agents share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) intake: Arc<dyn Intake>,
    pub(super) watcher: Arc<dyn Watcher>,
    pub(super) seal: Seal,
    pub(super) memory: Memory,
    /// One permit for each exchange.
    pub(super) exchanges: Arc<Semaphore>,
    /// One more for each with an agent that gave no evidence twice.
    pub(super) suspects: Arc<Semaphore>,
    /// One for each connection that is kept.
    pub(super) kept: Arc<Semaphore>,
    pub(super) retries: Retries,
    notices: Notices,
    pub(super) tasks: TaskTracker,
    pub(super) runtime: Handle,
    pub(super) stopped: CancellationToken,
    is_stopping: AtomicBool,
    tls: Mutex<Arc<ClientConfig>>,
    agents: Mutex<HashMap<AgentId, Arc<Polled>>>,
    sessions: AtomicU64,
    jitter: RandomState,
}

impl Poller {
    /// Polls on the current tokio runtime, and delivers here.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(options: Options, intake: Arc<dyn Intake>) -> Result<Self, StartError> {
        let Options {
            settings,
            identity,
            seal,
            watcher,
        } = options;
        let suspects = limits::PULL_SUSPECTS_MAX.min(settings.exchanges_max.div_ceil(4));
        let shared = Arc::new(Shared {
            intake,
            watcher,
            seal,
            memory: Memory::new(settings.buffered_bytes_max),
            exchanges: Arc::new(Semaphore::new(settings.exchanges_max)),
            suspects: Arc::new(Semaphore::new(suspects)),
            kept: Arc::new(Semaphore::new(limits::PULL_KEPT_MAX)),
            retries: Retries::default(),
            notices: Notices::default(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            stopped: CancellationToken::new(),
            is_stopping: AtomicBool::new(false),
            tls: Mutex::new(tls::client(identity)?),
            agents: Mutex::default(),
            sessions: AtomicU64::new(FIRST_SESSION),
            jitter: RandomState::new(),
            settings,
        });
        let retrying = Arc::clone(&shared);
        shared.runtime.spawn(async move {
            tokio::select! {
                () = retrying.stopped.cancelled() => {}
                () = retrying.retries.run(|polled| polled.reach(&retrying)) => {}
            }
        });
        let notifying = Arc::clone(&shared);
        shared.runtime.spawn(async move {
            tokio::select! {
                () = notifying.stopped.cancelled() => {}
                () = notifying.notices.run(&notifying) => {}
            }
        });
        Ok(Self { shared })
    }

    /// Tells every polled agent but its subject of a revocation: `POST /notifications/revocation` with
    /// this body (JSON). Agents that are silent are passed over, and nobody is told twice: metrics
    /// count who took it. True when all had their turn, false when the poller ended before.
    pub async fn notify(&self, subject: AgentId, body: Bytes) -> bool {
        match self.shared.notices.put(subject, body) {
            Some(told) => told.await.is_ok(),
            None => false,
        }
    }

    /// Polls an agent from now on, in place of what was known of it before. Its shard must know the
    /// agent. Call it when an agent is added, reactivated or changed, and for each at the start.
    ///
    /// # Errors
    /// [`ContactError`]; then what was polled before is polled still.
    pub fn put(&self, contact: Contact) -> Result<(), ContactError> {
        let known = Known::of(contact)?;
        let agent = known.contact.agent.clone();
        let polled = Arc::new(Polled::new(known));
        let old = {
            let mut agents = self.shared.agents();
            let is_full = agents.len() >= limits::PULL_AGENTS_MAX;
            match agents.entry(agent) {
                Entry::Occupied(mut known) => Some(known.insert(Arc::clone(&polled))),
                Entry::Vacant(_) if is_full => {
                    measures::limit("PULL_AGENTS_MAX");
                    return Err(ContactError::TooMany);
                }
                Entry::Vacant(free) => {
                    free.insert(Arc::clone(&polled));
                    None
                }
            }
        };
        measures::polled_agents(1.0);
        if let Some(old) = old {
            self.let_go(&old);
        }
        polled.reach(&self.shared);
        Ok(())
    }

    /// Polls an agent no more: it was stopped or deleted. False when it was not polled.
    pub fn remove(&self, agent: &AgentId) -> bool {
        let old = self.shared.agents().remove(agent);
        let is_there = old.is_some();
        if let Some(old) = old {
            self.let_go(&old);
        }
        is_there
    }

    fn let_go(&self, old: &Arc<Polled>) {
        old.forget(&self.shared);
        measures::polled_agents(-1.0);
    }

    /// Whether an agent answers; `None` when it is not polled.
    pub fn standing(&self, agent: &AgentId) -> Option<Standing> {
        let polled = self.shared.agents().get(agent).map(Arc::clone);
        polled.map(|polled| polled.standing())
    }

    /// Shows agents another certificate from now on. What is on its way over an open connection ends
    /// there; no connection that was opened before takes another poll.
    ///
    /// # Errors
    /// [`StartError`]; then nothing changes.
    pub fn set_identity(&self, identity: Option<ClientIdentity>) -> Result<(), StartError> {
        let config = tls::client(identity)?;
        *lock(&self.shared.tls) = config;
        Ok(())
    }

    /// Asks nobody any more, and waits for answers that are on their way.
    ///
    /// When it returns, the intake hears no more of any agent.
    pub async fn shutdown(&self, deadline: Duration) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.tasks.close();
        let _ = tokio::time::timeout(deadline, self.shared.tasks.wait()).await;
        self.shared.stopped.cancel();
        self.shared.tasks.wait().await;
        let agents: Vec<_> = self.shared.agents().drain().map(|(_, it)| it).collect();
        for agent in agents {
            self.let_go(&agent);
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.stopped.cancel();
    }
}

impl Shared {
    fn agents(&self) -> MutexGuard<'_, HashMap<AgentId, Arc<Polled>>> {
        lock(&self.agents)
    }

    /// Every agent that is polled now.
    pub(super) fn polled(&self) -> Vec<Arc<Polled>> {
        self.agents().values().map(Arc::clone).collect()
    }

    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&lock(&self.tls))
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Runs a task to its end, or to ours.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let stopped = self.stopped.clone();
        let task = async move {
            tokio::select! {
                () = task => {}
                () = stopped.cancelled() => {}
            }
        };
        self.tasks.spawn_on(task, &self.runtime).abort_handle()
    }

    pub(super) fn next_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    /// The delay and up to a quarter more, so that those that fail together come back apart. (S08)
    pub(super) fn jittered(&self, delay: Duration, agent: &AgentId) -> Duration {
        let random = self
            .jitter
            .hash_one((agent, self.sessions.load(Ordering::Relaxed)));
        let quarter_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX) / 4;
        let extra_ms = random
            .checked_rem(quarter_ms.saturating_add(1))
            .unwrap_or(0);
        delay.saturating_add(Duration::from_millis(extra_ms))
    }

    /// How long an agent is left alone that failed so many times in a row. (keylime.md 11.2)
    pub(super) fn pause(&self, times: u32) -> Duration {
        let Settings {
            interval_ms,
            retry_interval_seconds: base,
            ..
        } = self.settings;
        let most_ms = self.settings.retry_ms_max.max(interval_ms);
        let grows = self.settings.exponential_backoff && base > 1;
        let seconds = match grows {
            true => base.checked_pow(times).unwrap_or(u64::MAX),
            false => base,
        };
        Duration::from_millis(seconds.saturating_mul(1_000).min(most_ms))
    }
}

/// No code panics while it holds such a lock, so what a poisoned one guards is whole.
pub(super) fn lock<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}
