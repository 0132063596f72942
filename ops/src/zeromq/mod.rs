//! A ZeroMQ publisher: whoever connects and subscribes reads every message from then on.
//!
//! It speaks what a `PUB` socket speaks to `SUB` sockets (`wire`), without security, as Keylime's
//! does. A subscriber that reads too slowly loses messages, and those are counted; one that was not
//! connected never sees them.
//!
//! # Security
//! Anybody who reaches the port reads what is published: who relies on it checks the signatures in
//! the messages. A peer can send greetings, commands and subscriptions, all of them under limits, and
//! changes nothing by them but what it is sent. (X02)

pub mod wire;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use metrics::{counter, gauge};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::limits::{ZEROMQ_MESSAGES_WAITING_MAX, ZEROMQ_SUBSCRIBERS_MAX};
use crate::webhook::{Carried, Channel};
use wire::{Head, Subscriptions, WireError, read_head};

/// The name among the webhooks.
pub const NAME: &str = "keylime-zeromq";
/// How long a peer has for its side of the handshake, and to take one message.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of one read.
const READ_BYTES: usize = 1024;

/// Publishes to whoever subscribes. Dropping it ends every connection.
pub struct Publisher {
    address: SocketAddr,
    subscribers: Arc<Subscribers>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Subscribers {
    connected: Mutex<HashMap<u64, Subscriber>>,
    numbers: AtomicU64,
}

struct Subscriber {
    wanted: Subscriptions,
    queue: Sender<Bytes>,
}

impl Subscribers {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Subscriber>> {
        // Nothing panics while it is held.
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a connection ended.
#[derive(Debug, Error)]
enum End {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it took too long")]
    Timeout,
}

impl Publisher {
    /// Listens here.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let subscribers = Arc::new(Subscribers::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&subscribers)));
        Ok(Self {
            address,
            subscribers,
            accepting,
        })
    }

    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Peers that are connected.
    pub fn subscribers(&self) -> usize {
        self.subscribers.lock().len()
    }

    /// Publishes a message of one frame. Never waits: a subscriber whose queue is full loses it.
    pub fn publish(&self, body: &str) {
        let message = Bytes::from(wire::message(body.as_bytes()));
        for subscriber in self.subscribers.lock().values() {
            if !subscriber.wanted.wants(body.as_bytes()) {
                continue;
            }
            let result = match subscriber.queue.try_send(message.clone()) {
                Ok(()) => "sent",
                Err(TrySendError::Full(_)) => {
                    limit("ZEROMQ_MESSAGES_WAITING_MAX");
                    "dropped"
                }
                Err(TrySendError::Closed(_)) => "dropped",
            };
            counter!("attest_zeromq_messages_total", "result" => result).increment(1);
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.accepting.abort();
        // Without its queue, a subscriber's task ends.
        self.subscribers.lock().clear();
    }
}

impl Channel for Publisher {
    fn name(&self) -> &str {
        NAME
    }

    fn place(&self) -> String {
        format!("tcp://{}", self.address)
    }

    fn carry<'a>(&'a self, _subject: &'a str, body: &'a str) -> Carried<'a> {
        self.publish(body);
        Box::pin(std::future::ready(Ok(())))
    }
}

fn limit(name: &'static str) {
    counter!("attest_limit_rejections_total", "limit" => name).increment(1);
}

fn count_subscribers(now: usize) {
    let now = u32::try_from(now).unwrap_or(u32::MAX);
    gauge!("attest_zeromq_subscribers").set(f64::from(now));
}

async fn accept(listener: TcpListener, subscribers: Arc<Subscribers>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let number = subscribers.numbers.fetch_add(1, Ordering::Relaxed);
        let (queue, messages) = channel(ZEROMQ_MESSAGES_WAITING_MAX);
        {
            let mut connected = subscribers.lock();
            if connected.len() >= ZEROMQ_SUBSCRIBERS_MAX {
                limit("ZEROMQ_SUBSCRIBERS_MAX");
                continue;
            }
            let wanted = Subscriptions::default();
            connected.insert(number, Subscriber { wanted, queue });
            count_subscribers(connected.len());
        }
        let subscribers = Arc::clone(&subscribers);
        tokio::spawn(async move {
            let ended = serve(stream, messages, number, &subscribers).await;
            if let Err(end) = ended {
                tracing::debug!(%peer, %end, "a subscriber's connection ended");
            }
            let mut connected = subscribers.lock();
            connected.remove(&number);
            count_subscribers(connected.len());
        });
    }
}

async fn serve(
    stream: TcpStream,
    mut messages: Receiver<Bytes>,
    number: u64,
    subscribers: &Subscribers,
) -> Result<(), End> {
    let _ = stream.set_nodelay(true);
    let (reading, mut writing) = stream.into_split();
    let mut reader = Reader {
        reading,
        bytes: BytesMut::new(),
    };
    let shaking = shake(&mut reader, &mut writing);
    let shaken = timeout(PEER_TIMEOUT, shaking).await;
    shaken.map_err(|_| End::Timeout)??;
    let listening = async {
        loop {
            let (head, body) = reader.frame().await?;
            let mut connected = subscribers.lock();
            let Some(subscriber) = connected.get_mut(&number) else {
                return Ok(());
            };
            subscriber.wanted.take(head, &body)?;
        }
    };
    let telling = async {
        while let Some(message) = messages.recv().await {
            let written = timeout(PEER_TIMEOUT, writing.write_all(&message)).await;
            written.map_err(|_| End::Timeout)??;
        }
        Ok(())
    };
    tokio::select! {
        ended = listening => ended,
        ended = telling => ended,
    }
}

/// Greets, and says what both are.
async fn shake(reader: &mut Reader, writing: &mut OwnedWriteHalf) -> Result<(), End> {
    writing.write_all(&wire::greeting()).await?;
    let mut greeting = [0; wire::GREETING_BYTES];
    reader.reading.read_exact(&mut greeting).await?;
    wire::read_greeting(&greeting)?;
    writing.write_all(&wire::ready()).await?;
    let (head, body) = reader.frame().await?;
    if !head.is_command {
        return Err(WireError::Command.into());
    }
    wire::read_ready(&body)?;
    Ok(())
}

/// Frames as they come in.
struct Reader {
    reading: OwnedReadHalf,
    bytes: BytesMut,
}

impl Reader {
    /// The next frame. What was read stays when this is not awaited to its end.
    async fn frame(&mut self) -> Result<(Head, Bytes), End> {
        loop {
            if let Some(head) = read_head(&self.bytes)? {
                let whole = head.head_bytes.saturating_add(head.body_bytes);
                if self.bytes.len() >= whole {
                    self.bytes.advance(head.head_bytes);
                    return Ok((head, self.bytes.split_to(head.body_bytes).freeze()));
                }
            }
            // What is held is less than a head and a body of the limit, and one read.
            self.bytes.reserve(READ_BYTES);
            if self.reading.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}
