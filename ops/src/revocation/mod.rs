//! Revocations: what others are told of Keylime's agents that fail, in Keylime's form.
//!
//! ```text
//!  runtime's events ──▶ watch ──▶ store ──▶ deliver ──▶ webhooks, ZeroMQ, other agents
//!                        ▲   │     noted failure,
//!      shards' views ────┘   │     queue of each
//!                            └──▶ who polls: stop, go on
//! ```
//!
//! What an agent's shard has committed is compared with what was told of it last. A failure that was
//! not told, or that became graver, is noted and put into the queues in one transaction
//! ([`Store::note_keylime_told`]); so is an agent that passed and of which nothing is heard any more.
//! Delivery is that of [webhooks](crate::webhook): in order for each agent, over restarts, with dead
//! letters. Events only say when to look; at each start, when some were missed, and now and then,
//! every agent is looked at.
//!
//! A polled agent whose failure is of the gravest severity is not polled again, until it is
//! reactivated or its policy changes.
//!
//! Source: Keylime 7.14 `keylime/cloud_verifier_tornado.py`, `keylime/revocation_notifier.py`.

mod measures;
mod message;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::verdict::severity::SeverityPolicy;
use rat_runtime::{Clock, EventStream};
use rat_store::Store;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::webhook::{Fleet, Webhooks};
use watch::Watch;

/// Signs a message with an agent's revocation key (PEM): RSASSA-PSS with SHA-256, in base64. `None`
/// for a key that is none.
pub type Sign = Arc<dyn Fn(&str, &[u8]) -> Option<String> + Send + Sync>;

/// Whoever polls agents.
pub trait Polling: Send + Sync {
    /// Polls this agent no more.
    fn stop(&self, agent: &AgentId);

    /// Polls it again, as it is stored.
    fn go_on(&self, agent: AgentId);
}

/// What revocations are made of.
pub struct Parts {
    /// The records.
    pub store: Store,
    /// How agents stand now.
    pub fleet: Arc<dyn Fleet>,
    /// How they change. It ends when the runtime does.
    pub events: EventStream,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub webhooks: Webhooks,
    /// How grave failures are.
    pub severities: Arc<SeverityPolicy>,
    /// How messages are signed.
    pub sign: Sign,
    /// Who polls.
    pub polling: Arc<dyn Polling>,
    /// Whether failures end by themselves, so that failed agents are polled on.
    pub auto_recover: bool,
    /// From the start until an agent of which nothing was heard is told of: it could not be asked
    /// before.
    pub silence_after: Duration,
}

/// The work. Dropping it ends it at once; end it with [`drain`](Self::drain).
#[derive(Debug)]
pub struct Revocations {
    task: JoinHandle<()>,
    gives_up: CancellationToken,
}

impl Revocations {
    /// Begins to watch.
    pub fn start(parts: Parts) -> Self {
        let gives_up = CancellationToken::new();
        let watch = Watch::new(parts, gives_up.clone());
        Self {
            task: tokio::spawn(watch.run()),
            gives_up,
        }
    }

    /// Ends when what the runtime told is noted. Call it after the runtime has ended, and before
    /// webhooks end. What is not done by the deadline is done after the next start.
    pub async fn drain(mut self, deadline: Duration) {
        if timeout(deadline, &mut self.task).await.is_err() {
            self.gives_up.cancel();
            self.task.abort();
        }
    }
}

impl Drop for Revocations {
    fn drop(&mut self) {
        self.task.abort();
    }
}
