//! A challenge, and the agent's answer to it.

use std::io;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use rat_engine::evidence::{Answer, Challenge};
use rat_engine::ima::LogFormat;
use rat_engine::pcr::PcrValues;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::UploadLimits;
use super::connection::read_last;
use super::error::{ClientError, Log, said_no};
use crate::limits;
use crate::quic::Reason;
use crate::quic::streams::{StreamFault, write_frame};
use crate::quic::wire::{Evidence, Frame, ListHead};

/// Where a measurement list is read from.
pub enum ListSource {
    /// All of it.
    Bytes(Vec<u8>),
    /// A reader, of which the announced length is read.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl std::fmt::Debug for ListSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes(_) => "Bytes",
            Self::Reader(_) => "Reader",
        })
    }
}

/// Entries of the measurement list.
#[derive(Debug)]
pub struct ListParts {
    /// Position of the first.
    pub from_entry: u64,
    /// How many.
    pub count: u64,
    /// Their format.
    pub format: LogFormat,
    /// Their bytes.
    pub length: u64,
    /// Where they are read from.
    pub source: ListSource,
}

/// What an agent proves.
#[derive(Debug)]
pub struct EvidenceParts {
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The quoted PCRs.
    pub pcr_values: PcrValues,
    /// The TPM's resetCount.
    pub reset_count: u32,
    /// The TPM's restartCount.
    pub restart_count: u32,
    /// The measurement list, read after the quote was made.
    pub ima: Option<ListParts>,
    /// The boot log.
    pub boot_log: Option<Vec<u8>>,
}

/// A challenge that waits for its answer. Dropping it declines.
#[derive(Debug)]
pub struct Incoming {
    connection: quinn::Connection,
    /// What is to be proven.
    pub challenge: Challenge,
    /// What the quote must be bound to: 32 bytes that only this connection's two ends export.
    pub binding: [u8; 32],
    most: Option<UploadLimits>,
    upload: Half,
    receive: RecvStream,
}

/// The sending half of a stream. One that was not finished is given up, never cut short as if it
/// were whole.
#[derive(Debug)]
struct Half {
    send: SendStream,
    finished: bool,
}

impl Drop for Half {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.send.reset(Reason::Done.code());
        }
    }
}

impl Incoming {
    pub(super) fn new(
        connection: quinn::Connection,
        challenge: Challenge,
        binding: [u8; 32],
        most: Option<UploadLimits>,
        (send, receive): (SendStream, RecvStream),
    ) -> Self {
        let finished = false;
        Self {
            connection,
            challenge,
            binding,
            most,
            upload: Half { send, finished },
            receive,
        }
    }

    /// Sends the evidence and waits for its verdict, which is durable when it comes.
    ///
    /// # Errors
    /// [`ClientError`]. After [`ClientError::Refused`] the connection may still be good:
    /// [`Connection::next_challenge`](super::Connection::next_challenge) tells.
    pub async fn answer(self, parts: EvidenceParts) -> Result<Answer, ClientError> {
        self.check_lengths(&parts)?;
        let Self {
            connection,
            challenge,
            binding,
            mut upload,
            mut receive,
            ..
        } = self;
        let evidence = Evidence {
            challenge: challenge.id,
            claimed_binding: Some(binding),
            quote: parts.quote,
            signature: parts.signature,
            pcr_values: parts.pcr_values,
            reset_count: parts.reset_count,
            restart_count: parts.restart_count,
            ima: parts.ima.as_ref().map(|list| ListHead {
                from_entry: list.from_entry,
                count: list.count,
                format: list.format,
                length: list.length,
            }),
            boot_log_bytes: parts.boot_log.as_deref().map(byte_count),
        };
        let logs = (parts.boot_log, parts.ima);
        let sending = upload.send_all(Frame::Evidence(evidence), logs);
        // The server may answer before it has everything; what it says then counts.
        let answered = read_last(&connection, &mut receive);
        tokio::pin!(answered);
        let frame = tokio::select! {
            biased;
            frame = &mut answered => frame?,
            sent = sending => {
                match sent {
                    // The stream was stopped by a server that has said why.
                    Ok(()) | Err(ClientError::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
                let limit = Duration::from_millis(limits::ANSWER_MS_MAX);
                timeout(limit, &mut answered).await.map_err(|_| ClientError::Timeout)??
            }
        };
        match frame {
            Frame::Verdict(id, answer) if id == challenge.id => Ok(answer),
            other => Err(said_no(other)),
        }
    }

    fn check_lengths(&self, parts: &EvidenceParts) -> Result<(), ClientError> {
        let Some(most) = &self.most else {
            return Ok(());
        };
        let boot = parts.boot_log.as_deref().map_or(0, byte_count);
        let list = parts.ima.as_ref().map_or(0, |list| list.length);
        for (log, bytes, max) in [
            (Log::Boot, boot, most.boot_log_bytes_max),
            (Log::Measurements, list, most.list_bytes_max),
        ] {
            if bytes > max {
                return Err(ClientError::TooLong { log, bytes, max });
            }
        }
        Ok(())
    }
}

fn byte_count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl Half {
    async fn send_all(
        &mut self,
        evidence: Frame,
        (boot_log, list): (Option<Vec<u8>>, Option<ListParts>),
    ) -> Result<(), ClientError> {
        write_frame(&mut self.send, &evidence).await?;
        if let Some(log) = boot_log {
            self.write(&log).await?;
        }
        match list {
            Some(ListParts {
                source: ListSource::Bytes(bytes),
                length,
                ..
            }) => {
                if byte_count(&bytes) != length {
                    return Err(ClientError::List(io::ErrorKind::InvalidInput.into()));
                }
                self.write(&bytes).await?;
            }
            Some(ListParts {
                source: ListSource::Reader(reader),
                length,
                ..
            }) => self.write_from(reader, length).await?,
            None => {}
        }
        self.send.finish().map_err(|_| ClientError::Lost)?;
        self.finished = true;
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let written = self.send.write_all(bytes).await;
        written.map_err(|error| StreamFault::from(error).into())
    }

    async fn write_from(
        &mut self,
        reader: Box<dyn AsyncRead + Send + Unpin>,
        length: u64,
    ) -> Result<(), ClientError> {
        let mut reader = reader.take(length);
        let mut piece = Vec::with_capacity(limits::PIECE_BYTES_MAX);
        let mut left = length;
        while left > 0 {
            piece.clear();
            let read = reader
                .read_buf(&mut piece)
                .await
                .map_err(ClientError::List)?;
            if read == 0 {
                return Err(ClientError::List(io::ErrorKind::UnexpectedEof.into()));
            }
            self.write(&piece).await?;
            left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}
