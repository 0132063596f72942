//! An enrolled agent at work: it connects, answers challenges, renews its certificate.

mod answer;
mod backoff;
mod memory;
mod pins;
mod relay;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rat_engine::evidence::{Answer, Instance};
use rat_transport::quic::Advice;
use rat_transport::quic::client::{Client, ClientError, Connection, Sockets};
use thiserror::Error;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

pub use answer::{AnswerError, Answering, BootEpoch, Evidence, evidence};
pub use backoff::{Backoff, Dice, SystemDice, below};
use memory::{Identity, Memory};
pub use relay::{RelayKeyError, Through};
use relay::{Turn, Way};
use session::{Left, Session};

use crate::device::DeviceError;
use crate::keys::{self, KeysError};
use crate::logs::LogError;
use crate::machine::{Interrupted, Machine};
use crate::state::{Enrolled, StateDir, StateError};

/// How long an agent that is stopped may take to tell its server.
const GOODBYE: Duration = Duration::from_secs(2);

/// What happens to an agent, for whoever watches it.
#[derive(Debug)]
pub enum Event<'a> {
    /// It is connected to this server, with a list of so many entries.
    Connected {
        /// The server.
        address: SocketAddr,
        /// Entries in its measurement list.
        entries: u64,
    },
    /// It answered a challenge, and this is what came of it.
    Answered {
        /// The verdict.
        answer: &'a Answer,
        /// From the challenge's arrival to the verdict's.
        took: Duration,
        /// Entries in its measurement list, when it was asked for.
        entries: Option<u64>,
    },
    /// It could not answer a challenge, renew its certificate or save what it is to remember.
    Unanswered(&'a RunError),
    /// Its certificate was renewed, until then.
    Renewed {
        /// In milliseconds since 1970.
        until_unix_ms: u64,
    },
    /// Its connection ended, or there was none; it comes back after a while.
    Away {
        /// Why; `None` when it left of its own accord.
        error: Option<&'a RunError>,
        /// How long it stays away.
        wait: Duration,
    },
}

/// Told of events, in order; must not block.
pub type Watcher = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Why a visit to the server ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// The server, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// None of the server's addresses is known to the resolver.
    #[error("{address} cannot be resolved: {source}")]
    Resolve {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A key or certificate.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// There are no random numbers to tell this life of the program from others by.
    #[error("the operating system gives no random numbers: {0}")]
    NoRandomness(#[from] getrandom::Error),
    /// The work with the device was cut short.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// What answers at the relay's address is no relay of our server's, or another one.
    #[error("at the relay's address is {found}, not the relay that was named")]
    NotTheRelay {
        /// What it is.
        found: String,
    },
    /// The device holds another attestation key than the one that was enrolled.
    #[error(
        "the TPM's attestation key is {found}, {enrolled} was enrolled; was the TPM cleared? \
         Enrol again"
    )]
    OtherKey {
        /// Name of the key that is there.
        found: String,
        /// Name of the key that was enrolled.
        enrolled: String,
    },
}

impl From<AnswerError> for RunError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Device(error) => Self::Device(error),
            AnswerError::Log(error) => Self::Log(error),
        }
    }
}

impl RunError {
    fn advice(&self) -> Advice {
        match self {
            Self::Client(error) => error.advice(),
            Self::OtherKey { .. } => Advice::Stop,
            // Devices, disks and resolvers recover.
            _ => Advice::BackOff { after_ms: 0 },
        }
    }
}

/// An enrolled agent.
pub struct Agent {
    machine: Machine,
    memory: Memory,
    sockets: Sockets,
    watcher: Watcher,
    /// The relay that it speaks through, if through one.
    relay: Option<Through>,
    /// By which way it goes next.
    way: Way,
    /// Drawn at the first visit, and kept until the program ends. (T03)
    instance: Option<Instance>,
}

impl Agent {
    /// An agent that remembers what it is told in `state`, if it has one.
    pub fn new(
        machine: Machine,
        enrolled: Enrolled,
        state: Option<StateDir>,
        watcher: Watcher,
    ) -> Self {
        Self {
            machine,
            memory: Memory::new(enrolled, state),
            sockets: Sockets::default(),
            watcher,
            relay: None,
            way: Way::Direct,
            instance: None,
        }
    }

    /// Shares UDP sockets with other agents of this process.
    #[must_use]
    pub fn with_sockets(mut self, sockets: Sockets) -> Self {
        self.sockets = sockets;
        self
    }

    /// Speaks through a relay, as long as the server says so. (Q16)
    #[must_use]
    pub fn through(mut self, relay: Option<Through>) -> Self {
        self.way = match relay {
            Some(_) => Way::Relay,
            None => Way::Direct,
        };
        self.relay = relay;
        self
    }

    /// Works until `stop` turns true. No failure ends it: it comes back, at random and ever
    /// longer times.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::default();
        loop {
            let mut visiting = Box::pin(self.visit(&mut backoff, stop.clone()));
            let visit = tokio::select! {
                visit = &mut visiting => visit,
                () = stopped(&mut stop) => {
                    // It closes its connection, or what it waits for is not worth waiting for.
                    let _ = timeout(GOODBYE, visiting).await;
                    self.memory.save_again();
                    return;
                }
            };
            drop(visiting);
            self.memory.save_again();
            let wait = match self.turn(&visit) {
                Turn::OtherWay => backoff.after_failure(Duration::ZERO, &mut SystemDice),
                Turn::AsAdvised => self.wait(&visit, &mut backoff),
            };
            let error = visit.as_ref().err();
            (self.watcher)(Event::Away { error, wait });
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Takes the other way when the server does not want this one: it does not trust what the relay
    /// brought, or does again. Where it cannot be reached directly, the relay is tried again.
    fn turn(&mut self, visit: &Result<Left, RunError>) -> Turn {
        match (visit, &self.relay) {
            (Err(error), Some(_)) => {
                let turn;
                (self.way, turn) = self.way.after(error);
                turn
            }
            _ => Turn::AsAdvised,
        }
    }

    fn wait(&self, visit: &Result<Left, RunError>, backoff: &mut Backoff) -> Duration {
        let dice = &mut SystemDice;
        match visit {
            Ok(Left { next_after }) => *next_after,
            Err(error) => match error.advice() {
                // A server that restarts loses all its agents at once.
                Advice::Reconnect => {
                    let interval = Duration::from_millis(self.memory.enrolled().interval_ms);
                    let spread = below(interval.min(Duration::from_secs(10)), dice);
                    spread.saturating_add(backoff.after_failure(Duration::ZERO, dice))
                }
                Advice::BackOff { after_ms } => {
                    backoff.after_failure(Duration::from_millis(after_ms.into()), dice)
                }
                Advice::Stop => backoff.hopeless(dice),
            },
        }
    }

    /// One connection, from its begin to its end.
    async fn visit(
        &mut self,
        backoff: &mut Backoff,
        stop: watch::Receiver<bool>,
    ) -> Result<Left, RunError> {
        let instance = match self.instance {
            Some(instance) => instance,
            None => *self.instance.insert(draw_instance()?),
        };
        let identity = self.memory.identity(&self.sockets)?;
        let relay = self.relay.as_ref().filter(|_| self.way == Way::Relay);
        let ended = Session {
            machine: &self.machine,
            relay,
            memory: &mut self.memory,
            watcher: &self.watcher,
            sockets: &self.sockets,
            instance,
            backoff,
            stop,
        }
        .run(&identity.client)
        .await;
        identity.client.finish().await;
        ended
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("agent", &self.memory.enrolled().agent)
            .finish_non_exhaustive()
    }
}

fn draw_instance() -> Result<Instance, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(Instance(bytes))
}

/// The client that an enrolment allows.
///
/// # Errors
/// [`RunError`] when a key or certificate cannot be used.
pub fn client(enrolled: &Enrolled, sockets: Sockets) -> Result<Client, RunError> {
    Ok(Identity::read(enrolled, sockets)?.client)
}

/// The CAs that an enrolment pins, in DER.
fn ca_set(enrolled: &Enrolled) -> Result<Vec<Vec<u8>>, KeysError> {
    let mut ca_set = Vec::new();
    for pem in &enrolled.ca_pem {
        ca_set.extend(keys::certificates(pem)?);
    }
    Ok(ca_set)
}

/// Connects to the first of the server's addresses that answers.
///
/// # Errors
/// [`RunError`], of the last address that was tried.
pub async fn connect(
    client: &Client,
    enrolled: &Enrolled,
) -> Result<(Connection, SocketAddr), RunError> {
    let mut last = None;
    for address in &enrolled.evidence_addresses {
        let resolved = match lookup_host(address.as_str()).await {
            Ok(resolved) => resolved,
            Err(source) => {
                let address = address.clone();
                last = Some(RunError::Resolve { address, source });
                continue;
            }
        };
        for resolved in resolved {
            let connected = client.connect(resolved, &enrolled.evidence_server_name);
            match connected.await {
                Ok(connection) => return Ok((connection, resolved)),
                Err(error) => last = Some(error.into()),
            }
        }
    }
    Err(last.unwrap_or(RunError::Client(ClientError::Unreachable)))
}

/// Resolves when `stop` turns true, or nobody can turn it any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    while !*stop.borrow() {
        if stop.changed().await.is_err() {
            return;
        }
    }
}
