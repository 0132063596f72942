//! A relay's line to its server: what it says for its agents, and what they are told.

use std::time::Duration;

use quinn::SendStream;
use rat_engine::evidence::{ChallengeId, Refusal, ToAgent};
use tokio::time::timeout;

use super::Connection;
use super::error::{ClientError, connection_error, said_no};
use crate::limits;
use crate::quic::Reason;
use crate::quic::parcels::{self, ITSELF, Parcels};
use crate::quic::streams::{read_frame, write_frame};
use crate::quic::wire::{
    AgentHello, EncodeError, Evidence, Frame, Refused, RelayWelcome, WireError,
};

/// What a relay says for one agent.
#[derive(Debug)]
pub enum ForAgent {
    /// It is here.
    Hello(AgentHello),
    /// Its evidence has come as far as the relay, and so many bytes of logs follow.
    Arriving(ChallengeId, u64),
    /// Its evidence, with the boot log and the list if that is short.
    Evidence {
        /// The frame.
        evidence: Evidence,
        /// As long as the frame says.
        boot_log: Option<Vec<u8>>,
        /// Likewise, and no longer than [`limits::WHOLE_LIST_BYTES_MAX`].
        list: Option<Vec<u8>>,
    },
    /// The next piece of its list, for which the server has asked.
    Piece(ChallengeId, Vec<u8>),
    /// Its request for a certificate.
    Renew(Vec<u8>),
    /// It is gone.
    Left,
}

/// What a server says about one agent.
#[derive(Debug)]
pub enum AboutAgent {
    /// What the agent is to hear. After a refusal the server knows it no more.
    Told(ToAgent),
    /// The answer to its request for a certificate.
    Renewed(Result<Vec<Vec<u8>>, Refused>),
}

/// Messages that are sent together.
#[derive(Debug, Default)]
pub struct Batch(Vec<u8>);

impl Batch {
    /// Adds what is said for the agent with this number, which is not 0.
    ///
    /// # Errors
    /// [`EncodeError`] when a field is over its limit; then nothing is added.
    pub fn add(&mut self, number: u64, said: ForAgent) -> Result<(), EncodeError> {
        let bytes = &mut self.0;
        match said {
            ForAgent::Hello(hello) => {
                parcels::append(bytes, number, &Frame::AgentHello(hello))?;
            }
            ForAgent::Arriving(challenge, length) => {
                parcels::append(bytes, number, &Frame::Arriving(challenge, length))?;
            }
            ForAgent::Evidence {
                evidence,
                boot_log,
                list,
            } => {
                parcels::append(bytes, number, &Frame::Evidence(evidence))?;
                for log in [boot_log, list].into_iter().flatten() {
                    bytes.extend_from_slice(&log);
                }
            }
            ForAgent::Piece(challenge, piece) => {
                parcels::append(bytes, number, &Frame::Piece(challenge, piece.len()))?;
                bytes.extend_from_slice(&piece);
            }
            ForAgent::Renew(csr) => parcels::append(bytes, number, &Frame::Renew(csr))?,
            ForAgent::Left => parcels::append(bytes, number, &Frame::Left)?,
        }
        Ok(())
    }

    /// Adds the relay's own request for a certificate.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_own_renewal(&mut self, csr: Vec<u8>) -> Result<(), EncodeError> {
        parcels::append(&mut self.0, ITSELF, &Frame::Renew(csr))
    }

    /// Bytes in it.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The half of a line that sends.
#[derive(Debug)]
pub struct LineSender(SendStream);

impl LineSender {
    /// Sends all of it, and empties it.
    ///
    /// # Errors
    /// [`ClientError`], when the connection is gone.
    pub async fn send(&mut self, batch: &mut Batch) -> Result<(), ClientError> {
        let sent = self.0.write_all(&batch.0).await;
        batch.0.clear();
        sent.map_err(|error| crate::quic::streams::StreamFault::from(error).into())
    }
}

/// The half of a line that receives.
pub struct LineReceiver(Parcels);

impl std::fmt::Debug for LineReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineReceiver").finish_non_exhaustive()
    }
}

impl LineReceiver {
    /// The next that is said, and about which agent; number 0 is the relay itself.
    ///
    /// # Errors
    /// [`ClientError`], when the connection ends or what comes cannot be understood.
    pub async fn next(&mut self) -> Result<(u64, AboutAgent), ClientError> {
        let (number, frame) = self.0.next().await?.ok_or(ClientError::Lost)?;
        let about = match frame {
            Frame::AgentWelcome { next_after_ms } => {
                AboutAgent::Told(ToAgent::Welcome { next_after_ms })
            }
            Frame::Challenge(challenge) => AboutAgent::Told(ToAgent::Challenge(challenge)),
            Frame::More(challenge) => AboutAgent::Told(ToAgent::More(challenge)),
            Frame::Verdict(challenge, answer) => {
                AboutAgent::Told(ToAgent::Verdict(challenge, answer))
            }
            Frame::Renewed(chain) => AboutAgent::Renewed(Ok(chain)),
            Frame::Refused(refused) => match refused.reason {
                Reason::Renew(_) => AboutAgent::Renewed(Err(refused)),
                reason => AboutAgent::Told(ToAgent::Refused {
                    code: match reason {
                        Reason::Session(code) => code,
                        _ => Refusal::Protocol,
                    },
                    retry_after_ms: refused.retry_after_ms,
                }),
            },
            other => {
                let found = other.frame_type();
                return Err(WireError::Unexpected { found }.into());
            }
        };
        Ok((number, about))
    }
}

/// A relay's line.
#[derive(Debug)]
pub struct Line {
    /// What the server said first.
    pub welcome: RelayWelcome,
    /// To the server.
    pub sender: LineSender,
    /// From the server.
    pub receiver: LineReceiver,
}

impl Connection {
    /// Introduces a relay, whose certificate this connection has. Takes the place of
    /// [`hello`](Self::hello) and everything after it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn relay_hello(&self) -> Result<Line, ClientError> {
        let greeting = async {
            let opened = self.quic().open_bi().await;
            let (mut send, mut receive) = opened.map_err(connection_error)?;
            write_frame(&mut send, &Frame::RelayHello).await?;
            match read_frame(&mut receive).await? {
                Frame::RelayWelcome(welcome) => Ok(Line {
                    welcome,
                    sender: LineSender(send),
                    receiver: LineReceiver(Parcels::new(receive)),
                }),
                other => Err(said_no(other)),
            }
        };
        let limit = Duration::from_millis(limits::ANSWER_MS_MAX);
        timeout(limit, greeting)
            .await
            .map_err(|_| ClientError::Timeout)?
    }
}
