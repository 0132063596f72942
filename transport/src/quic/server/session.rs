//! One connection: who it is, its Hello and Welcome, and its end.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, SendStream};
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Busy, Hello, Intake, Refusal, SessionId, ToAgent};
use rat_engine::shard::AgentPath;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::end::{End, frame};
use super::outbox::{Inbox, outbox};
use super::{Certified, Client, Shared, exchange, relay, renewal};
use crate::limits;
use crate::measures;
use crate::quic::Reason;
use crate::quic::streams::{read_end, read_frame, write_last};
use crate::quic::wire::{self, Frame, FrameType, Refused, UploadLimits, WireError};

/// What all parts of one agent's connection use.
pub(super) struct Session<'a> {
    pub(super) shared: &'a Shared,
    pub(super) connection: &'a Connection,
    pub(super) id: SessionId,
    pub(super) client: Client,
}

/// An agent that the intake knows to be connected; dropping it tells the intake that it is not.
struct Connected {
    intake: Arc<dyn Intake>,
    session: SessionId,
    agent: AgentId,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.intake.disconnected(self.session, &self.agent);
    }
}

/// Serves one connection to its end.
pub(super) async fn run(shared: &Shared, connection: Connection) {
    let end = serve(shared, &connection).await;
    end.close(&connection);
}

async fn serve(shared: &Shared, connection: &Connection) -> End {
    let client = match identified(shared, connection) {
        Ok(Certified::Agent(client)) => client,
        // Boxed, so that an agent's connection does not carry room for a relay's.
        Ok(Certified::Relay(named)) => {
            return Box::pin(relay::serve(shared, connection, named)).await;
        }
        Err(end) => return end,
    };
    let (client, hello, mut reply) = match greet(shared, connection, client).await {
        Ok(greeted) => greeted,
        Err(end) => return end,
    };
    let session = Session {
        shared,
        connection,
        id: shared.next_session(),
        client,
    };
    let (peer, mut inbox) = outbox(connection);
    let taken = shared.intake.connected(session.id, hello, Box::new(peer));
    if let Err(Busy { retry_after_ms }) = taken {
        let retry_after_ms = shared.jittered(retry_after_ms, session.id);
        let refused = refusal(Refusal::Busy.into(), retry_after_ms);
        return refuse_hello(&mut reply, refused).await;
    }
    let _connected = Connected {
        intake: Arc::clone(&shared.intake),
        session: session.id,
        agent: session.client.agent.clone(),
    };
    if let Err(end) = session.welcome(&mut reply, &mut inbox).await {
        return end;
    }
    drop(reply);
    // Whichever ends first ends the others, before the intake hears that the agent is gone.
    tokio::select! {
        end = exchange::run(&session, &mut inbox) => end,
        end = renewal::run(&session) => end,
        () = sleep(session.client.valid_for) => End::refused(Reason::CertificateExpired, 0),
        error = connection.closed() => error.into(),
    }
}

const fn refusal(reason: Reason, retry_after_ms: u32) -> Refused {
    Refused {
        reason,
        retry_after_ms,
    }
}

/// Answers a Hello with a refusal. The connection's close says the same, should it be faster.
async fn refuse_hello(reply: &mut SendStream, refused: Refused) -> End {
    let frame = frame(refused);
    let write = write_last(reply, &frame);
    let _ = timeout(Duration::from_millis(limits::WRITE_MS_MAX), write).await;
    End::Refused(refused)
}

/// The agent, and the stream on which it waits for an answer.
///
/// # Security
/// The client certificate comes first: TLS has verified it against the CA set, and here it must
/// name the agent that the Hello names. Until both are so, the intake hears nothing. (S13)
async fn greet(
    shared: &Shared,
    connection: &Connection,
    client: Client,
) -> Result<(Client, Hello, SendStream), End> {
    let limit = Duration::from_millis(shared.limits.hello_ms_max);
    let (hello, mut reply) = match timeout(limit, read_hello(connection)).await {
        Ok(read) => read?,
        Err(_) => {
            measures::limit("HELLO_MS_MAX");
            return Err(End::refused(Refusal::Timeout.into(), limits::BUSY_RETRY_MS));
        }
    };
    if hello.agent != client.agent {
        tracing::warn!(certificate = %client.agent, hello = %hello.agent, "a Hello names another agent");
        let refused = refusal(Reason::AgentMismatch, 0);
        return Err(refuse_hello(&mut reply, refused).await);
    }
    if *shared.draining.borrow() {
        let refused = shared.stopping(shared.next_session());
        return Err(refuse_hello(&mut reply, refused).await);
    }
    let hello = Hello {
        path: AgentPath::Native,
        agent: hello.agent,
        client_key_sha256: client.key_sha256,
        log_formats: hello.log_formats,
        banks: hello.banks,
        reset_count: hello.reset_count,
        restart_count: hello.restart_count,
        entry_count: hello.entry_count,
        instance: hello.instance,
        relay_key_sha256: None,
    };
    Ok((client, hello, reply))
}

pub(super) fn identified(shared: &Shared, connection: &Connection) -> Result<Certified, End> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain.as_ref().and_then(|chain| chain.first());
    leaf.and_then(|leaf| (shared.identify)(leaf))
        .ok_or_else(|| End::refused(Reason::CertificateUnusable, 0))
}

async fn read_hello(connection: &Connection) -> Result<(wire::Hello, SendStream), End> {
    let (reply, mut stream) = connection.accept_bi().await?;
    let frame = read_frame(&mut stream).await?;
    let Frame::Hello(hello) = frame else {
        let found = frame.frame_type();
        return Err(WireError::Unexpected { found }.into());
    };
    read_end(&mut stream, FrameType::Hello).await?;
    Ok((hello, reply))
}

impl Session<'_> {
    /// Waits for what the shard says to the Hello, and passes it on.
    async fn welcome(&self, reply: &mut SendStream, inbox: &mut Inbox) -> Result<(), End> {
        let limit = Duration::from_millis(limits::WELCOME_MS_MAX);
        let said = tokio::select! {
            said = timeout(limit, first_answer(inbox)) => said,
            error = self.connection.closed() => return Err(error.into()),
        };
        let next_after_ms = match said {
            Ok(Some(Ok(next_after_ms))) => next_after_ms,
            Ok(Some(Err(refused))) => return Err(refuse_hello(reply, refused).await),
            // The shard is behind, or gave up the session without a word.
            Ok(None) | Err(_) => {
                measures::limit("WELCOME_MS_MAX");
                let retry_after_ms = self.shared.jittered(limits::BUSY_RETRY_MS, self.id);
                let refused = refusal(Refusal::Busy.into(), retry_after_ms);
                return Err(refuse_hello(reply, refused).await);
            }
        };
        let limits = &self.shared.limits;
        let welcome = Frame::Welcome(wire::Welcome {
            next_after_ms,
            ca_set: (self.shared.ca_set)(),
            limits: UploadLimits {
                boot_log_bytes_max: u64::try_from(limits.boot_log_bytes_max).unwrap_or(u64::MAX),
                list_bytes_max: limits.list_bytes_max,
                upload_bytes_per_second_min: limits.upload_bytes_per_second_min,
            },
        });
        self.write(reply, &welcome).await
    }

    /// Writes the last frame of a stream, or ends the connection of an agent that does not read.
    pub(super) async fn write(&self, stream: &mut SendStream, frame: &Frame) -> Result<(), End> {
        let limit = Duration::from_millis(limits::WRITE_MS_MAX);
        match timeout(limit, write_last(stream, frame)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(not_reading()),
        }
    }

    /// Resolves when the server is told to stop.
    pub(super) async fn draining(&self) {
        let mut draining: watch::Receiver<bool> = self.shared.draining.subscribe();
        // The sender lives as long as the server; without one there is nothing to wait for.
        let _ = draining.wait_for(|draining| *draining).await;
    }
}

/// The end of an agent that does not read.
pub(super) fn not_reading() -> End {
    measures::limit("WRITE_MS_MAX");
    End::refused(Reason::NotReading, 0)
}

/// The delay of a Welcome, or a refusal; `None` when the shard let go of the session.
async fn first_answer(inbox: &mut Inbox) -> Option<Result<u32, Refused>> {
    loop {
        match inbox.recv().await? {
            ToAgent::Welcome { next_after_ms } => return Some(Ok(next_after_ms)),
            ToAgent::Refused {
                code,
                retry_after_ms,
            } => return Some(Err(refusal(code.into(), retry_after_ms))),
            early => tracing::warn!(?early, "a message before the welcome is dropped"),
        }
    }
}
