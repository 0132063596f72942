//! One attestation of an agent that pushes, as the shards see it: a connection that begins with the
//! first request and ends with the verdict.

use std::sync::Arc;
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{
    Answer, Busy, Challenge, ChallengeId, Hello, Instance, Intake, Peer, Refusal, SessionId,
    Submission, ToAgent,
};
use rat_engine::ima::LogFormat;
use rat_engine::shard::AgentPath;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

use super::sessions::Proven;

/// Messages of one conversation that wait: never more than a handful are sent.
const MESSAGES_MAX: usize = 16;
/// How long the shards may take to greet, or to ask.
const GREETED_WITHIN: Duration = Duration::from_secs(5);
/// An agent that is due within this time is not sent away, in milliseconds.
const WAITED_MS: u32 = 1_000;
/// How long evidence may take that the shards have.
const JUDGED_WITHIN: Duration = Duration::from_secs(600);
/// Bytes of a list that are handed over at once.
const PIECE_BYTES: usize = 64 * 1024;

struct Postbox(Sender<ToAgent>);

impl Peer for Postbox {
    fn send(&self, message: ToAgent) {
        // One that is full is of a conversation that nobody reads any more.
        let _ = self.0.try_send(message);
    }
}

/// Why nothing is asked of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAsked {
    /// It came too soon; so many milliseconds.
    Early(u32),
    /// The shards have too much to do.
    Busy(u32),
    /// They do not serve it.
    Refused(Refusal),
}

/// A conversation. Dropping it ends it.
pub(super) struct Conversation {
    intake: Arc<dyn Intake>,
    session: SessionId,
    agent: AgentId,
    messages: Receiver<ToAgent>,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.intake.disconnected(self.session, &self.agent);
    }
}

impl Conversation {
    /// Begins one, and waits until the agent is asked.
    ///
    /// `entries` is how long the agent says that its list is.
    ///
    /// # Errors
    /// [`NotAsked`]; then it is over.
    pub(super) async fn begin(
        intake: Arc<dyn Intake>,
        session: SessionId,
        proven: &Proven,
        entries: u64,
    ) -> Result<(Self, Challenge), NotAsked> {
        let (sender, messages) = channel(MESSAGES_MAX);
        let hello = Hello {
            agent: proven.agent.clone(),
            path: AgentPath::KeylimePush,
            client_key_sha256: proven.ak_sha256,
            log_formats: vec![LogFormat::Ascii],
            banks: Vec::new(),
            reset_count: 0,
            restart_count: 0,
            entry_count: entries,
            instance: Instance([0; 16]),
            relay_key_sha256: None,
        };
        let connected = intake.connected(session, hello, Box::new(Postbox(sender)));
        connected.map_err(|busy| NotAsked::Busy(busy.retry_after_ms))?;
        let mut conversation = Self {
            intake,
            session,
            agent: proven.agent.clone(),
            messages,
        };
        loop {
            match timeout(GREETED_WITHIN, conversation.messages.recv()).await {
                Ok(Some(ToAgent::Welcome { next_after_ms })) if next_after_ms > WAITED_MS => {
                    return Err(NotAsked::Early(next_after_ms));
                }
                Ok(Some(ToAgent::Welcome { .. })) => {}
                Ok(Some(ToAgent::Challenge(challenge))) => return Ok((conversation, challenge)),
                Ok(Some(ToAgent::Refused {
                    code: Refusal::Busy | Refusal::Draining,
                    retry_after_ms,
                })) => return Err(NotAsked::Busy(retry_after_ms)),
                Ok(Some(ToAgent::Refused { code, .. })) => return Err(NotAsked::Refused(code)),
                Ok(Some(ToAgent::More(_) | ToAgent::Verdict(..)) | None) | Err(_) => {
                    return Err(NotAsked::Busy(1_000));
                }
            }
        }
    }

    /// Hands over evidence.
    ///
    /// # Errors
    /// [`Busy`]; nothing was taken.
    pub(super) fn submit(&self, submission: Submission) -> Result<(), Busy> {
        self.intake.evidence(self.session, &self.agent, submission)
    }

    /// Hands over a list that was announced, and waits for the verdict. `None` when there will be
    /// none: the agent is asked again.
    pub(super) async fn conclude(mut self, challenge: ChallengeId, list: &[u8]) -> Option<Answer> {
        let mut pieces = list.chunks(PIECE_BYTES);
        let judged = async {
            loop {
                match self.messages.recv().await? {
                    ToAgent::More(_) => {
                        let piece = pieces.next()?.to_vec();
                        let (session, agent) = (self.session, &self.agent);
                        self.intake
                            .log_piece(session, agent, challenge, piece)
                            .ok()?;
                    }
                    ToAgent::Verdict(of, answer) if of == challenge => return Some(answer),
                    ToAgent::Verdict(..) | ToAgent::Welcome { .. } => {}
                    ToAgent::Challenge(_) | ToAgent::Refused { .. } => return None,
                }
            }
        };
        timeout(JUDGED_WITHIN, judged).await.ok().flatten()
    }
}
