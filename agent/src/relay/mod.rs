//! `rat-agent relay`: carries the evidence of many agents over one connection to the server.
//!
//! Agents connect to it as they would to the server, and it passes on what they and the server say.
//! It decides nothing and keeps nothing: what it holds is bounded, and a log goes through it piece
//! by piece.
//!
//! | module | holds |
//! |---|---|
//! | `settings` | what can be set |
//! | `identity` | its key, its certificate, its server |
//! | `roster` | which agents are here, and what waits for the server |
//! | `intake` | what agents send |
//! | `line` | the connection to the server |
//!
//! # Security
//! The server believes a relay nothing, and an agent believes it no verdict that matters: quotes are
//! bound to the relay's key, by which the server knows that they came by the way which an operator
//! has set. A relay can withhold and delay. (Q16)

mod identity;
mod intake;
mod line;
mod roster;
pub mod settings;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rat_identity::agent_certificate;
use rat_transport::quic::RenewRefused;
use rat_transport::quic::client::ClientError;
use rat_transport::quic::server::{BindError, Certified, Client, Server, ServerOptions, Tls};
use sd_notify::NotifyState;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::keys::{ClientKey, KeysError};
use crate::state::{StateDir, StateError};
use crate::unix_ms;
use identity::Identity;
use intake::Door;
use line::Line;
use roster::Roster;
use settings::RelaySettings;

/// How long agents of a relay that stops may take to hear it.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why a relay does not start.
#[derive(Debug, Error)]
pub enum RelayError {
    /// Its state.
    #[error(transparent)]
    State(#[from] StateError),
    /// A key or certificate.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What should be installed is not what the server answered.
    #[error("{path} is not what `rat relays add` wrote: {source}")]
    Content {
        /// The file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// There is no certificate yet.
    #[error(
        "{path} holds no certificate: run rat-agent relay request, then rat relays add where an \
         operator is logged in, then rat-agent relay install"
    )]
    NotInstalled {
        /// The state directory.
        path: String,
    },
    /// The port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Certificates that the line cannot use.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Signals or output.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Prints the request for a certificate, in PEM. The key is made when there is none.
///
/// # Errors
/// [`RelayError`].
pub fn request(settings: &RelaySettings, out: &mut impl Write) -> Result<(), RelayError> {
    let state = StateDir::open(&settings.state_dir())?;
    let key = identity::key(&state)?;
    let request = rat_identity::pem::encode("CERTIFICATE REQUEST", &key.relay_request()?);
    Ok(out.write_all(request.as_bytes())?)
}

/// Takes over what the server answered to `rat relays add`.
///
/// # Errors
/// [`RelayError`], for a certificate of another key, too.
pub fn install(settings: &RelaySettings, file: &Path) -> Result<String, RelayError> {
    let state = StateDir::open(&settings.state_dir())?;
    let installed = identity::install(&state, file)?;
    Ok(installed.name)
}

/// Serves agents until SIGTERM or SIGINT.
///
/// # Errors
/// [`RelayError`], before anything is done.
pub async fn run(settings: &RelaySettings) -> Result<(), RelayError> {
    let state = StateDir::open(&settings.state_dir())?;
    let _running = state.lock()?;
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let relay = Relay::start(settings, state)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "relay {}", relay.address()?)?;
    out.flush()?;
    drop(out);
    notify(NotifyState::Ready);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify(NotifyState::Stopping);
    relay.stop().await;
    Ok(())
}

fn notify(state: NotifyState<'_>) {
    // Without systemd there is nobody to tell.
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// A relay at work.
pub struct Relay {
    server: Arc<Server>,
    line: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Relay {
    /// Listens for agents, and connects to the server whenever it can.
    ///
    /// # Errors
    /// [`RelayError`].
    pub fn start(settings: &RelaySettings, state: StateDir) -> Result<Self, RelayError> {
        let identity = Identity::load(state)?;
        let roster = Arc::new(Roster::new(identity.ca_set()?));
        let server = Server::bind(
            settings.listen(),
            options(settings, &identity, &roster)?,
            Arc::new(Door(Arc::clone(&roster))),
        )?;
        let server = Arc::new(server);
        let (stop, stopped) = watch::channel(false);
        let line = Line::new(identity, roster, Arc::clone(&server), stopped)?;
        let line = tokio::spawn(line.run());
        Ok(Self { server, line, stop })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the socket says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.server.local_addr()
    }

    /// Tells the server and the agents, and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = tokio::time::timeout(GOODBYE, self.line).await;
        if let Some(server) = Arc::into_inner(self.server) {
            server.shutdown(Duration::ZERO).await;
        }
    }
}

/// What agents find: the same protocol as the server's own.
fn options(
    settings: &RelaySettings,
    identity: &Identity,
    roster: &Arc<Roster>,
) -> Result<ServerOptions, RelayError> {
    let (renewing, told) = (Arc::clone(roster), Arc::clone(roster));
    let mut reset_secret = [0; 32];
    // Without one, agents find out a little later that the relay was started again.
    let _ = getrandom::fill(&mut reset_secret);
    Ok(ServerOptions {
        tls: tls(identity)?,
        identify: Arc::new(|certificate: &[u8]| {
            let peer = agent_certificate::read(certificate).ok()?;
            let left_ms = peer.not_after_unix_ms.saturating_sub(unix_ms());
            Some(Certified::Agent(Client {
                agent: peer.agent,
                key_sha256: peer.key_sha256,
                valid_for: Duration::from_millis(left_ms),
            }))
        }),
        renew: Arc::new(move |agent, _, csr| renewing.renew(agent, csr.to_vec())),
        renew_relay: Arc::new(|_, _, _| Err(RenewRefused::NotEnrolled)),
        ca_set: Arc::new(move || told.ca_set()),
        limits: settings.limits(),
        reset_secret,
    })
}

/// What agents are shown.
fn tls(identity: &Identity) -> Result<Tls, RelayError> {
    Ok(Tls {
        certificate_chain: identity.chain()?,
        key_pkcs8: identity.key.to_pkcs8_der()?,
        client_ca: identity.ca_set()?,
    })
}

/// What a relay has to be told of its own key.
fn read_key(pem: &str) -> Result<ClientKey, RelayError> {
    Ok(ClientKey::from_pem(pem)?)
}
