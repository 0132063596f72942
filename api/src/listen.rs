//! Serving a router on a socket, without ever letting one client hold up another.
//!
//! The accept loop only accepts: handshakes and requests run in tasks of their own, each with a
//! time-out, and the number of connections is limited in all and per address. (X01, X05)

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::address::{Share, Shares};
use crate::auth::{ClientCertificate, Link, Peer};
use crate::limits;
use crate::metrics;
use crate::tls::Acceptor;

/// What lies between the socket and HTTP.
#[derive(Debug, Clone)]
pub enum Security {
    /// TLS.
    Tls(Arc<Acceptor>),
    /// Nothing; only on a loopback address.
    PlainOnLoopback,
    /// Nothing, on whatever address. Only for routes that take nothing that is not proven, and tell
    /// nothing that others may not read: those of Keylime's registrar for agents.
    Plain,
}

/// Why a listener cannot be opened.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Plain HTTP was asked for on an address that others can reach.
    #[error("plain HTTP is only for loopback addresses, and {0} is none")]
    PlainNotLoopback(SocketAddr),
}

/// When to stop: first politely, then at once.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No new connections or requests; those under way are finished.
    pub drain: CancellationToken,
    /// Everything ends now.
    pub force: CancellationToken,
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    name: &'static str,
    tcp: TcpListener,
    address: SocketAddr,
    security: Security,
}

impl Listener {
    /// Binds `address`. `name` is the listener's label in metrics.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(
        name: &'static str,
        address: SocketAddr,
        security: Security,
    ) -> Result<Self, ListenError> {
        let is_loopback = address.ip().to_canonical().is_loopback();
        if matches!(security, Security::PlainOnLoopback) && !is_loopback {
            return Err(ListenError::PlainNotLoopback(address));
        }
        let bind = |source| ListenError::Bind { address, source };
        let tcp = TcpListener::bind(address).await.map_err(bind)?;
        let address = tcp.local_addr().map_err(bind)?;
        Ok(Self {
            name,
            tcp,
            address,
            security,
        })
    }

    /// The bound address, with the port that the system chose if none was asked for.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves `router` until told to stop, and returns when the last connection has ended.
    pub async fn serve(self, router: Router, stop: Stop) {
        let shared = Arc::new(Shared {
            name: self.name,
            security: self.security,
            router,
            stop: stop.clone(),
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
            by_address: Shares::default(),
        });
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.drain.cancelled() => break,
                () = stop.force.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    if let Some(connection) = shared.admit(address) {
                        tasks.spawn(Arc::clone(&shared).connection(stream, connection));
                    }
                }
                Err(error) => {
                    metrics::counter_of(metrics::ACCEPT_ERRORS, "listener", self.name);
                    tracing::warn!(listener = self.name, %error, "cannot accept a connection");
                    // Out of descriptors: accepting again at once would fail again.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.tcp);
        tasks.close();
        tasks.wait().await;
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

struct Shared {
    name: &'static str,
    security: Security,
    router: Router,
    stop: Stop,
    connections: Arc<Semaphore>,
    by_address: Shares,
}

/// What an open connection holds of the limits.
struct Admitted {
    address: SocketAddr,
    _connection: OwnedSemaphorePermit,
    _of_address: Share,
    _gauge: OpenGauge,
}

/// The gauge of open connections, down again when this is dropped.
struct OpenGauge(&'static str);

impl Drop for OpenGauge {
    fn drop(&mut self) {
        ::metrics::gauge!(metrics::CONNECTIONS, "listener" => self.0).decrement(1.0);
    }
}

impl Shared {
    /// Room for one more connection; without room it is closed at once.
    fn admit(&self, address: SocketAddr) -> Option<Admitted> {
        let acquire = |semaphore: &Arc<Semaphore>, limit| {
            let permit = Arc::clone(semaphore).try_acquire_owned().ok();
            if permit.is_none() {
                metrics::limit_rejected(limit);
            }
            permit
        };
        let connection = acquire(&self.connections, "CONNECTIONS_MAX")?;
        let max = limits::CONNECTIONS_PER_ADDRESS_MAX;
        let of_address = self.by_address.take(address.ip(), max);
        if of_address.is_none() {
            metrics::limit_rejected("CONNECTIONS_PER_ADDRESS_MAX");
        }
        let of_address = of_address?;
        ::metrics::gauge!(metrics::CONNECTIONS, "listener" => self.name).increment(1.0);
        Some(Admitted {
            address,
            _connection: connection,
            _of_address: of_address,
            _gauge: OpenGauge(self.name),
        })
    }

    /// One connection, from its handshake to its end.
    async fn connection(self: Arc<Self>, stream: TcpStream, admitted: Admitted) {
        // Answers are small, and waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let mut peer = Peer {
            address: admitted.address,
            certificate: None,
            link: Link::Plain,
        };
        let Security::Tls(acceptor) = &self.security else {
            return self.serve(stream, peer, Protocol::Http1).await;
        };
        peer.link = acceptor.link();
        let handshake = TlsAcceptor::from(acceptor.config()).accept(stream);
        let time = limits::duration(limits::HANDSHAKE_MS_MAX);
        let ended = tokio::select! {
            () = self.stop.drain.cancelled() => return,
            () = self.stop.force.cancelled() => return,
            ended = timeout(time, handshake) => ended,
        };
        let (result, stream) = match ended {
            Ok(Ok(stream)) => ("done", Some(stream)),
            Ok(Err(_)) => ("failed", None),
            Err(_) => ("timeout", None),
        };
        let labels = [("listener", self.name), ("result", result)];
        ::metrics::counter!(metrics::HANDSHAKES, &labels).increment(1);
        let Some(stream) = stream else {
            return;
        };
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates().unwrap_or_default();
        let leaf = chain.first().map(|leaf| leaf.clone().into_owned());
        peer.certificate = leaf.map(ClientCertificate::new);
        let protocol = match session.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        self.serve(stream, peer, protocol).await;
    }

    async fn serve<I>(&self, stream: I, peer: Peer, protocol: Protocol)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::default();
        let service = {
            let (router, activity) = (self.router.clone(), activity.clone());
            service_fn(move |request: Request<Incoming>| {
                answer(router.clone(), activity.clone(), peer.clone(), request)
            })
        };
        let builder = protocol.builder();
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut draining = false;
        loop {
            tokio::select! {
                // An error is the client's: it went away, or does not speak HTTP.
                _ = connection.as_mut() => return,
                () = self.stop.force.cancelled() => return,
                () = self.stop.drain.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(activity.deadline()) => {
                    if activity.deadline() <= Instant::now() {
                        metrics::limit_rejected(activity.limit().0);
                        return;
                    }
                }
            }
        }
    }
}

/// What was agreed on in the handshake; without one, HTTP/1.1.
#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    fn builder(self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::duration(limits::HEADER_MS_MAX))
            .max_buf_size(limits::HEADER_BYTES_MAX)
            .max_headers(limits::HEADERS_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(u32::try_from(limits::STREAMS_PER_CONNECTION_MAX).ok())
            .max_header_list_size(u32::try_from(limits::HEADER_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(limits::duration(limits::HEADER_MS_MAX))
            .keep_alive_timeout(limits::duration(limits::HEADER_MS_MAX));
        match self {
            Self::Http1 => builder.http1_only(),
            Self::Http2 => builder.http2_only(),
        }
    }
}

async fn answer(
    router: Router,
    activity: Activity,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let under_way = activity.begin();
    request.extensions_mut().insert(peer);
    let response = router.oneshot(request.map(Body::new)).await?;
    Ok(response.map(|body| {
        Body::new(Answered {
            body,
            _under_way: under_way,
        })
    }))
}

/// An answer's body. The request is under way until this has been written, or is dropped.
struct Answered {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// When something last happened on a connection.
#[derive(Clone)]
struct Activity(Arc<Mutex<State>>);

struct State {
    under_way: usize,
    last: Instant,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            under_way: 0,
            last: Instant::now(),
        })))
    }
}

impl Activity {
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.under_way = change(state.under_way);
        state.last = Instant::now();
    }

    fn begin(&self) -> UnderWay {
        self.change(|under_way| under_way.saturating_add(1));
        UnderWay(self.clone())
    }

    /// When the connection has lasted too long without a request that begins or ends.
    ///
    /// This ends what other time-outs do not see: an answer that is not read, an HTTP/2 head that
    /// never ends, a connection that is kept open by pings.
    fn deadline(&self) -> Instant {
        let (_, limit) = self.limit();
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).last;
        last.checked_add(limits::duration(limit)).unwrap_or(last)
    }

    /// The limit that holds now, and its name.
    fn limit(&self) -> (&'static str, usize) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.under_way {
            0 => ("IDLE_MS_MAX", limits::IDLE_MS_MAX),
            _ => ("RESPONSE_MS_MAX", limits::RESPONSE_MS_MAX),
        }
    }
}

/// One request, until its answer is written.
struct UnderWay(Activity);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.change(|under_way| under_way.saturating_sub(1));
    }
}
