//! The agent's end.
//!
//! ```no_run
//! # use rat_transport::quic::client::*;
//! # async fn example(options: ClientOptions, hello: Hello, parts: EvidenceParts) -> Result<(), ClientError> {
//! let client = Client::new(options)?;
//! let connection = client.connect("192.0.2.1:8882".parse().unwrap(), "ratd.example").await?;
//! let welcome = connection.hello(hello).await?;
//! let challenge = connection.next_challenge().await?;
//! // Quote over `qualifying_data(&challenge.challenge, &Binding::Channel(challenge.binding), …)`.
//! let answer = challenge.answer(parts).await?;
//! // Stay for the next challenge, or leave and come back after `answer.next_after_ms`.
//! connection.close();
//! client.finish().await;
//! # Ok(())
//! # }
//! ```

mod answer;
mod connection;
mod error;
mod line;
mod tls;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime};

pub use super::wire::{AgentHello, Evidence, Hello, ListHead, RelayWelcome, UploadLimits, Welcome};
pub use answer::{EvidenceParts, Incoming, ListParts, ListSource};
pub use connection::Connection;
pub use error::{ClientError, TlsError};
pub use line::{AboutAgent, Batch, ForAgent, Line, LineReceiver, LineSender};

use crate::limits;
use crate::quic::enlarge;
use error::handshake_error;
use tls::client_config;

/// How long connections that were closed may take to be confirmed.
const CLOSE: Duration = Duration::from_secs(1);

/// Who the agent is, and whom it trusts; all in DER.
#[derive(Clone)]
pub struct ClientOptions {
    /// The CAs that it pins.
    pub ca_set: Vec<Vec<u8>>,
    /// Its certificate and those above it.
    pub certificate_chain: Vec<Vec<u8>>,
    /// The certificate's private key, in PKCS#8.
    pub key_pkcs8: Vec<u8>,
    /// How long a connection may be quiet before it is tried whether the server is still there:
    /// a server that was started again is found out after this time. At most a third of
    /// [`limits::IDLE_MS_MAX`].
    pub keep_alive_ms: u64,
    /// Whether each connection finds out if larger packets than 1200 bytes arrive: it takes some
    /// packets, which pays where a connection lasts.
    pub probe_mtu: bool,
}

/// UDP sockets that any number of clients may share.
#[derive(Debug, Clone, Default)]
pub struct Sockets {
    open: Arc<Mutex<Open>>,
    crowd: Crowd,
}

/// How many clients share sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Crowd {
    /// One, or a few.
    #[default]
    Few,
    /// So many that what each of their connections keeps counts.
    Many,
}

#[derive(Debug, Default)]
struct Open {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

impl Sockets {
    /// Sockets for thousands of clients in one process: more packets may wait to be read, and no
    /// connection keeps a buffer to send many packets by one call.
    pub fn for_many() -> Self {
        Self {
            crowd: Crowd::Many,
            ..Self::default()
        }
    }

    /// The endpoint for this kind of address, opened when it is first needed.
    fn endpoint(&self, server: SocketAddr) -> Result<Endpoint, ClientError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (slot, any): (_, SocketAddr) = match server {
            SocketAddr::V4(_) => (&mut open.v4, (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (&mut open.v6, (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        match slot {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(slot.insert(self.crowd.endpoint(any)?).clone()),
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        [&open.v4, &open.v6]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

impl Crowd {
    fn endpoint(self, address: SocketAddr) -> io::Result<Endpoint> {
        let socket = UdpSocket::bind(address)?;
        if self == Self::Many {
            enlarge(&socket);
        }
        let runtime = Arc::new(TokioRuntime);
        Endpoint::new(EndpointConfig::default(), None, socket, runtime)
    }
}

/// One agent: it connects as often as it likes.
///
/// After a renewal of its certificate, or a change of what it pins, make a new one.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    sockets: Sockets,
}

impl Client {
    /// A client with sockets of its own.
    ///
    /// # Errors
    /// [`ClientError::Tls`] when certificates or key cannot be used.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        Self::sharing(Sockets::default(), options)
    }

    /// A client that shares sockets with others.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn sharing(sockets: Sockets, options: ClientOptions) -> Result<Self, ClientError> {
        let config = client_config(options, sockets.crowd)?;
        Ok(Self { config, sockets })
    }

    /// Connects to a server that proves to be `server_name` under a pinned CA.
    ///
    /// # Errors
    /// [`ClientError`]. That the server refuses this end's certificate shows only when
    /// [`Connection::hello`] is answered.
    pub async fn connect(
        &self,
        server: SocketAddr,
        server_name: &str,
    ) -> Result<Connection, ClientError> {
        let endpoint = self.sockets.endpoint(server)?;
        let connecting = endpoint.connect_with(self.config.clone(), server, server_name)?;
        let limit = Duration::from_millis(limits::HANDSHAKE_MS_MAX);
        let connection = match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(handshake_error(error)),
            Err(_) => return Err(ClientError::Unreachable),
        };
        Ok(Connection::new(connection, server_name.to_owned()))
    }

    /// Waits, for a second at most, until closed connections have told their servers so.
    pub async fn finish(&self) {
        for endpoint in self.sockets.endpoints() {
            let _ = tokio::time::timeout(CLOSE, endpoint.wait_idle()).await;
        }
    }
}
