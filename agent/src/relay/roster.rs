//! Which agents are here, and what waits to be sent for them.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Busy, Peer, Refusal, SessionId, ToAgent};
use rat_transport::quic::RenewRefused;
use rat_transport::quic::client::{
    AboutAgent, AgentHello, Batch, ForAgent, RelayWelcome, UploadLimits,
};
use tokio::sync::Notify;

/// Bytes of logs and evidence that wait for the line, of all agents.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long an agent is sent away when the relay cannot take what it sends.
const RETRY_MS: u32 = 2_000;
/// How much is sent at once.
const BATCH_BYTES: usize = 64 * 1024;
/// How long an agent's request for a certificate may be on its way.
const RENEWAL: Duration = Duration::from_secs(20);

type Renewal = Result<Vec<Vec<u8>>, RenewRefused>;

/// What the intake and the line share.
pub(super) struct Roster {
    inner: Mutex<Inner>,
    /// Something waits to be sent.
    came: Notify,
}

struct Inner {
    agents: HashMap<u64, Entry>,
    /// Agents whose Hello waits for its turn.
    hellos: VecDeque<u64>,
    queue: VecDeque<(u64, ForAgent)>,
    queued_bytes: usize,
    /// While there is a line.
    limits: Option<UploadLimits>,
    agents_max: usize,
    ca_set: Vec<Vec<u8>>,
}

struct Entry {
    hello: AgentHello,
    peer: Box<dyn Peer>,
    /// Whether the server knows it over this line.
    is_told: bool,
    renewal: Option<SyncSender<Renewal>>,
}

/// The number by which the server knows a session; 0 is the relay itself.
pub(super) const fn number(session: SessionId) -> u64 {
    session.0.saturating_add(1)
}

const BUSY: Busy = Busy {
    retry_after_ms: RETRY_MS,
};

impl Roster {
    pub(super) fn new(ca_set: Vec<Vec<u8>>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                agents: HashMap::new(),
                hellos: VecDeque::new(),
                queue: VecDeque::new(),
                queued_bytes: 0,
                limits: None,
                agents_max: 0,
                ca_set,
            }),
            came: Notify::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CAs that agents are told.
    pub(super) fn ca_set(&self) -> Vec<Vec<u8>> {
        self.inner().ca_set.clone()
    }

    /// How many agents are here.
    pub(super) fn len(&self) -> usize {
        self.inner().agents.len()
    }

    /// An agent came. Without a line there is nobody to ask for it.
    pub(super) fn connected(
        &self,
        number: u64,
        hello: AgentHello,
        peer: Box<dyn Peer>,
    ) -> Result<(), Busy> {
        let mut inner = self.inner();
        if inner.limits.is_none() || inner.agents.len() >= inner.agents_max {
            return Err(BUSY);
        }
        let entry = Entry {
            hello,
            peer,
            is_told: false,
            renewal: None,
        };
        inner.agents.insert(number, entry);
        inner.hellos.push_back(number);
        drop(inner);
        self.came.notify_one();
        Ok(())
    }

    /// Queues what an agent sends, of so many bytes, while the server knows the agent.
    pub(super) fn say(&self, number: u64, said: ForAgent, bytes: usize) -> Result<(), Busy> {
        let mut inner = self.inner();
        let is_told = inner.agents.get(&number).is_some_and(|entry| entry.is_told);
        if !is_told || inner.queued_bytes.saturating_add(bytes) > QUEUED_BYTES_MAX {
            return Err(BUSY);
        }
        inner.queued_bytes = inner.queued_bytes.saturating_add(bytes);
        inner.queue.push_back((number, said));
        drop(inner);
        self.came.notify_one();
        Ok(())
    }

    /// Whether the server takes logs of these lengths.
    pub(super) fn takes(&self, boot_log: usize, list: u64) -> bool {
        let boot_log = u64::try_from(boot_log).unwrap_or(u64::MAX);
        self.inner().limits.is_some_and(|limits| {
            boot_log <= limits.boot_log_bytes_max && list <= limits.list_bytes_max
        })
    }

    /// An agent left.
    pub(super) fn left(&self, number: u64) {
        let mut inner = self.inner();
        let gone = inner.agents.remove(&number);
        if gone.is_some_and(|entry| entry.is_told) {
            inner.queue.push_back((number, ForAgent::Left));
            drop(inner);
            self.came.notify_one();
        }
    }

    /// Has the server's CA sign an agent's request. Blocks.
    pub(super) fn renew(&self, agent: &AgentId, csr: Vec<u8>) -> Renewal {
        let (answer, answered) = sync_channel(1);
        let mut inner = self.inner();
        let entry = inner
            .agents
            .iter_mut()
            .find(|(_, entry)| entry.is_told && entry.hello.hello.agent == *agent);
        let Some((number, entry)) = entry else {
            return Err(RenewRefused::Unavailable);
        };
        let number = *number;
        entry.renewal = Some(answer);
        inner.queue.push_back((number, ForAgent::Renew(csr)));
        drop(inner);
        self.came.notify_one();
        answered
            .recv_timeout(RENEWAL)
            .unwrap_or(Err(RenewRefused::Unavailable))
    }

    /// There is a line: the server is told of every agent that is here.
    pub(super) fn line_begins(&self, welcome: &RelayWelcome) {
        let mut inner = self.inner();
        inner.limits = Some(welcome.limits);
        inner.agents_max = usize::try_from(welcome.agents_max).unwrap_or(usize::MAX);
        inner.hellos = inner.agents.keys().copied().collect();
        drop(inner);
        self.came.notify_one();
    }

    /// The line is gone, and with it what was on its way. Agents stay.
    pub(super) fn line_ends(&self) {
        let mut inner = self.inner();
        inner.limits = None;
        inner.queue.clear();
        inner.hellos.clear();
        inner.queued_bytes = 0;
        for entry in inner.agents.values_mut() {
            entry.is_told = false;
            entry.renewal = None;
        }
    }

    /// Sends everybody away: there is no line, and there will be none soon.
    pub(super) fn dismiss(&self) {
        let mut inner = self.inner();
        for (_, entry) in inner.agents.drain() {
            entry.peer.send(ToAgent::Refused {
                code: Refusal::Busy,
                retry_after_ms: RETRY_MS,
            });
        }
    }

    /// Passes on what the server says about an agent.
    pub(super) fn hear(&self, number: u64, about: AboutAgent) {
        let mut inner = self.inner();
        let Some(entry) = inner.agents.get_mut(&number) else {
            return;
        };
        match about {
            AboutAgent::Told(message) => {
                let is_last = matches!(message, ToAgent::Refused { .. });
                entry.peer.send(message);
                if is_last {
                    inner.agents.remove(&number);
                }
            }
            AboutAgent::Renewed(answer) => {
                let answer = answer.map_err(|refused| match refused.reason {
                    rat_transport::quic::Reason::Renew(why) => why,
                    _ => RenewRefused::Unavailable,
                });
                if let Some(waiting) = entry.renewal.take() {
                    // Whoever asked may have given up.
                    let _ = waiting.try_send(answer);
                }
            }
        }
    }

    /// Resolves when something waits to be sent.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    /// Fills a batch with what waits, and at most so many Hellos; gives how many these were.
    pub(super) fn fill(&self, batch: &mut Batch, hellos_max: usize) -> usize {
        let mut inner = self.inner();
        let mut hellos: usize = 0;
        while hellos < hellos_max && batch.len() < BATCH_BYTES {
            let Some(number) = inner.hellos.pop_front() else {
                break;
            };
            // It may have left meanwhile.
            let Some(entry) = inner.agents.get_mut(&number) else {
                continue;
            };
            if batch
                .add(number, ForAgent::Hello(entry.hello.clone()))
                .is_ok()
            {
                entry.is_told = true;
                hellos = hellos.saturating_add(1);
            }
        }
        while batch.len() < BATCH_BYTES {
            let Some((number, said)) = inner.queue.pop_front() else {
                break;
            };
            let before = batch.len();
            if let Err(error) = batch.add(number, said) {
                tracing::warn!(%error, "what an agent sent cannot be passed on");
            }
            let added = batch.len().saturating_sub(before);
            inner.queued_bytes = inner.queued_bytes.saturating_sub(added);
        }
        if inner.queue.is_empty() {
            inner.queued_bytes = 0;
        }
        hellos
    }

    /// Whether Hellos wait for their turn.
    pub(super) fn has_hellos(&self) -> bool {
        !self.inner().hellos.is_empty()
    }
}
