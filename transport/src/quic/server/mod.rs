//! The server's end.
//!
//! [`Server::bind`] takes agents' connections on one UDP port and delivers what they send to an
//! [`Intake`]. One task serves one connection, from the handshake to
//! [`Intake::disconnected`]; nothing that one agent does or omits holds up another. (X05)
//!
//! | module | holds |
//! |---|---|
//! | `admission` | who may begin a handshake |
//! | `tls` | certificates and QUIC parameters |
//! | `session` | one connection: Hello, Welcome, end |
//! | `exchange` | one challenge and its answer |
//! | `upload` | evidence and logs as they arrive |
//! | `relay` | one connection of a relay, and the agents that it speaks for |
//! | `relays` | which relays are connected |
//! | `renewal` | new certificates for agents |
//! | `renewed` | how often they had one |
//! | `reset` | how agents learn that a server was started again |

mod admission;
mod end;
mod exchange;
mod options;
mod outbox;
mod relay;
mod relays;
mod renewal;
mod renewed;
mod reset;
mod session;
mod tls;
mod upload;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::Endpoint;
use rat_engine::evidence::{Intake, Refusal, SessionId};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

pub use options::{
    CaSet, Certified, Client, Identify, RelayClient, Renew, RenewRelay, ServerLimits,
    ServerOptions, Tls,
};
pub use tls::TlsError;

use crate::memory::Memory;
use admission::Admission;
use end::End;
use relays::Relays;
use renewed::Renewed;

use crate::limits;
use crate::quic::wire::Refused;

/// How long connections that were told to close may take to confirm it.
const CLOSE: Duration = Duration::from_secs(1);

/// Why a server does not start.
#[derive(Debug, Error)]
pub enum BindError {
    /// Certificates or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The port cannot be opened.
    #[error("cannot listen on {address}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A listening server. Dropping it ends all connections at once.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    intake: Arc<dyn Intake>,
    identify: Arc<Identify>,
    renew: Arc<Renew>,
    renew_relay: Arc<RenewRelay>,
    relays: Relays,
    ca_set: Arc<CaSet>,
    limits: ServerLimits,
    admission: Admission,
    memory: Memory,
    renewals: Arc<Semaphore>,
    renewed: Renewed,
    sessions: AtomicU64,
    draining: watch::Sender<bool>,
    tasks: TaskTracker,
    jitter: RandomState,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on this address, and serves agents on the current tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        address: SocketAddr,
        options: ServerOptions,
        intake: Arc<dyn Intake>,
    ) -> Result<Self, BindError> {
        let ServerOptions {
            tls,
            identify,
            renew,
            renew_relay,
            ca_set,
            limits,
            reset_secret,
        } = options;
        let config = tls::server_config(&tls, &limits)?;
        let endpoint = reset::endpoint(config, address, &reset_secret)
            .map_err(|source| BindError::Socket { address, source })?;
        let shared = Arc::new(Shared {
            intake,
            identify,
            renew,
            renew_relay,
            relays: Relays::default(),
            ca_set,
            admission: Admission::new(&limits),
            memory: Memory::new(limits.buffered_bytes_max),
            renewals: Arc::new(Semaphore::new(limits::RENEWALS_AT_ONCE_MAX)),
            renewed: Renewed::default(),
            limits,
            sessions: AtomicU64::new(0),
            draining: watch::Sender::new(false),
            tasks: TaskTracker::new(),
            jitter: RandomState::new(),
        });
        tokio::spawn(admission::accept(Arc::clone(&shared), endpoint.clone()));
        Ok(Self { endpoint, shared })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the socket says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Serves new connections with these certificates and CA set. Open ones stay as they are.
    ///
    /// # Errors
    /// [`TlsError`]; then nothing changes.
    pub fn set_tls(&self, tls: &Tls) -> Result<(), TlsError> {
        let config = tls::server_config(tls, &self.shared.limits)?;
        self.endpoint.set_server_config(Some(config));
        Ok(())
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Ends the connection of the relay with this key, if it has one. [`ServerOptions::identify`]
    /// must know it no more, or it comes back.
    pub fn end_relay(&self, key_sha256: &[u8; 32]) {
        self.shared.relays.end(key_sha256);
    }

    /// Refuses whatever is new, lets open challenges be answered until the deadline, and closes.
    ///
    /// When it returns, the intake hears no more of any connection.
    pub async fn shutdown(self, deadline: Duration) {
        self.shared.draining.send_replace(true);
        self.shared.tasks.close();
        let _ = tokio::time::timeout(deadline, self.shared.tasks.wait()).await;
        stopped().close_all(&self.endpoint);
        self.shared.tasks.wait().await;
        let _ = tokio::time::timeout(CLOSE, self.endpoint.wait_idle()).await;
    }
}

/// What agents are told whose server does not wait for them; they add jitter of their own.
fn stopped() -> End {
    End::refused(Refusal::Draining.into(), limits::DRAINING_RETRY_MS)
}

impl Drop for Server {
    fn drop(&mut self) {
        stopped().close_all(&self.endpoint);
    }
}

impl Shared {
    fn next_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    /// The delay and up to as much again, so that those sent away together come back apart.
    /// (S07, S08)
    fn jittered(&self, delay_ms: u32, session: SessionId) -> u32 {
        let random = self.jitter.hash_one(session);
        let most = u64::from(delay_ms).saturating_add(1);
        let extra = random.checked_rem(most).unwrap_or(0);
        delay_ms.saturating_add(u32::try_from(extra).unwrap_or(0))
    }

    /// What agents of a server that stops are told.
    fn stopping(&self, session: SessionId) -> Refused {
        Refused {
            reason: Refusal::Draining.into(),
            retry_after_ms: self.jittered(limits::DRAINING_RETRY_MS, session),
        }
    }
}
