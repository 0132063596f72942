//! Evidence and its logs, as they arrive on the stream of their challenge.
//!
//! Each read has a deadline: the evidence frame that of its challenge, each piece of a log one
//! that follows from its size and the least rate. Time in which we do not read, because memory or
//! the shard is not ready, is nobody's fault and is not counted. (X04)

use std::time::Duration;

use quinn::RecvStream;
use rat_engine::evidence::{Binding, Busy, Challenge, ChallengeId, ImaUpload, Refusal, Submission};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::end::End;
use super::session::Session;
use crate::limits;
use crate::measures;
use crate::memory::Held;
use crate::quic::Reason;
use crate::quic::streams::{StreamFault, read_bytes, read_end, read_frame};
use crate::quic::wire::{Evidence, Frame, FrameType, ListHead, Refused, WireError};

/// Why an upload ends before everything was handed over.
pub(super) enum UploadEnd {
    /// The agent gave up this stream: it cannot answer this time.
    Declined,
    /// The agent is told so on this stream, and stays connected.
    Refused(Refused),
    /// The connection ends.
    Connection(End),
}

impl From<StreamFault> for UploadEnd {
    fn from(fault: StreamFault) -> Self {
        Self::Connection(fault.into())
    }
}

impl From<WireError> for UploadEnd {
    fn from(error: WireError) -> Self {
        Self::Connection(error.into())
    }
}

/// One answer to one challenge.
pub(super) struct Upload<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) challenge: &'a Challenge,
    /// One permit for each piece that the shard is ready for.
    pub(super) more: &'a Semaphore,
}

impl Upload<'_> {
    /// Reads everything and hands it to the intake.
    pub(super) async fn run(&self, stream: &mut RecvStream) -> Result<(), UploadEnd> {
        let evidence = self.evidence(stream).await?;
        self.check_announced(&evidence)?;
        let id = evidence.challenge;
        let list = evidence.ima;
        let is_whole = list.is_none_or(|list| list.length <= limits::WHOLE_LIST_BYTES_MAX);
        let list_bytes = list.filter(|_| is_whole).map_or(0, |list| list.length);
        let boot_log_bytes = evidence.boot_log_bytes.unwrap_or(0);
        self.logs_arrive(id, boot_log_bytes.saturating_add(list_bytes))?;
        let (boot_log, _held_boot_log) = match evidence.boot_log_bytes {
            Some(bytes) => {
                let (log, held) = self.collect(stream, bytes).await?;
                (Some(log), held)
            }
            None => (None, Vec::new()),
        };
        let (whole, _held_list) = match list {
            Some(list) if is_whole => {
                let (whole, held) = self.collect(stream, list.length).await?;
                (Some(whole), held)
            }
            _ => (None, Vec::new()),
        };
        if is_whole {
            self.timed(0, read_end(stream, FrameType::Evidence)).await?;
        }
        let logs = [boot_log.as_ref(), whole.as_ref()];
        let log_bytes: usize = logs.into_iter().flatten().map(Vec::len).sum();
        let submission = self.submission(evidence, boot_log, whole)?;
        let (session, intake) = (self.session.id, &self.session.shared.intake);
        intake
            .evidence(session, &self.session.client.agent, submission)
            .map_err(|busy| UploadEnd::Refused(self.busy(busy)))?;
        measures::count(measures::EVIDENCE, 1);
        measures::count(measures::LOG_BYTES, u64::try_from(log_bytes).unwrap_or(0));
        match list {
            Some(list) if !is_whole => self.pieces(stream, id, list.length).await,
            _ => Ok(()),
        }
    }

    /// Tells the shard of logs that may take longer than the deadline leaves.
    fn logs_arrive(&self, id: ChallengeId, bytes: u64) -> Result<(), UploadEnd> {
        if bytes <= limits::PROMPT_LOG_BYTES_MAX {
            return Ok(());
        }
        let (session, intake) = (self.session, &self.session.shared.intake);
        intake
            .logs_arrive(session.id, &session.client.agent, id, bytes)
            .map_err(|busy| UploadEnd::Refused(self.busy(busy)))
    }

    /// The evidence frame, within its challenge's deadline.
    async fn evidence(&self, stream: &mut RecvStream) -> Result<Evidence, UploadEnd> {
        let deadline_ms = u64::from(self.challenge.deadline_ms);
        let limit = Duration::from_millis(deadline_ms.saturating_add(limits::EVIDENCE_SLACK_MS));
        let frame = match timeout(limit, read_frame(stream)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(StreamFault::Dropped(_))) => return Err(UploadEnd::Declined),
            Ok(Err(fault)) => return Err(fault.into()),
            Err(_) => {
                return Err(UploadEnd::Refused(Refused {
                    reason: Refusal::Timeout.into(),
                    retry_after_ms: 0,
                }));
            }
        };
        let Frame::Evidence(evidence) = frame else {
            let found = frame.frame_type();
            return Err(WireError::Unexpected { found }.into());
        };
        if evidence.challenge != self.challenge.id {
            let end = End::refused(Refusal::Protocol.into(), 0);
            return Err(UploadEnd::Connection(end));
        }
        Ok(evidence)
    }

    /// Refuses announced lengths before a byte of them is read.
    fn check_announced(&self, evidence: &Evidence) -> Result<(), UploadEnd> {
        let most = &self.session.shared.limits;
        let boot_log_max = u64::try_from(most.boot_log_bytes_max).unwrap_or(u64::MAX);
        let list = evidence.ima.map_or(0, |list: ListHead| list.length);
        let over = if evidence.boot_log_bytes.unwrap_or(0) > boot_log_max {
            "BOOT_LOG_BYTES_MAX"
        } else if list > most.list_bytes_max {
            "LIST_BYTES_MAX"
        } else {
            return Ok(());
        };
        measures::limit(over);
        Err(UploadEnd::Connection(End::refused(Reason::Limit, 0)))
    }

    /// What the shard gets. The binding is this end's own. (Q13)
    fn submission(
        &self,
        evidence: Evidence,
        boot_log: Option<Vec<u8>>,
        whole: Option<Vec<u8>>,
    ) -> Result<Submission, UploadEnd> {
        let binding = crate::quic::binding(self.session.connection, evidence.challenge)
            .ok_or(UploadEnd::Connection(End::Lost))?;
        Ok(Submission {
            challenge: evidence.challenge,
            binding: Binding::Channel(binding),
            claimed_binding: evidence.claimed_binding,
            quote: evidence.quote,
            signature: evidence.signature,
            pcr_values: evidence.pcr_values,
            boot_log,
            ima: evidence.ima.map(|list| ImaUpload {
                from_entry: list.from_entry,
                format: list.format,
                length: list.length,
                whole,
            }),
        })
    }

    /// A long list: each piece when the shard asks for it.
    async fn pieces(
        &self,
        stream: &mut RecvStream,
        id: ChallengeId,
        length: u64,
    ) -> Result<(), UploadEnd> {
        let session = self.session;
        let mut left = length;
        while left > 0 {
            // The semaphore is never closed: this waits, or is dropped with the exchange.
            if let Ok(permit) = self.more.acquire().await {
                permit.forget();
            }
            let (piece, held) = self.piece(stream, left).await?;
            let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            left = left.saturating_sub(bytes);
            if left == 0 {
                self.timed(0, read_end(stream, FrameType::Evidence)).await?;
            }
            let intake = &session.shared.intake;
            let taken = intake.log_piece(session.id, &session.client.agent, id, piece);
            drop(held);
            // The shard cannot go on without this piece, and a disconnect is how it learns that.
            taken.map_err(|busy| UploadEnd::Connection(End::Refused(self.busy(busy))))?;
            measures::count(measures::LOG_BYTES, bytes);
        }
        Ok(())
    }

    /// A log of this length, read piece by piece, and the memory it holds.
    async fn collect(
        &self,
        stream: &mut RecvStream,
        length: u64,
    ) -> Result<(Vec<u8>, Vec<Held>), UploadEnd> {
        let mut log = Vec::new();
        let mut all_held = Vec::new();
        let mut left = length;
        while left > 0 {
            let (piece, held) = self.piece(stream, left).await?;
            left = left.saturating_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if log.is_empty() {
                log = piece;
            } else {
                log.extend_from_slice(&piece);
            }
            all_held.push(held);
        }
        Ok((log, all_held))
    }

    /// The next piece, when there is memory for it.
    async fn piece(
        &self,
        stream: &mut RecvStream,
        left: u64,
    ) -> Result<(Vec<u8>, Held), UploadEnd> {
        let bytes = usize::try_from(left).unwrap_or(usize::MAX);
        let bytes = bytes.min(limits::PIECE_BYTES_MAX);
        let grace = Duration::from_millis(self.session.shared.limits.upload_grace_ms);
        let held = match timeout(grace, self.session.shared.memory.hold(bytes)).await {
            Ok(Some(held)) => held,
            Ok(None) | Err(_) => {
                measures::limit("BUFFERED_BYTES_MAX");
                let retry_after_ms = limits::BUSY_RETRY_MS;
                let refused = self.busy(Busy { retry_after_ms });
                return Err(UploadEnd::Connection(End::Refused(refused)));
            }
        };
        let piece = self.timed(bytes, read_bytes(stream, bytes)).await?;
        Ok((piece, held))
    }

    /// What arrives no slower than the least rate, or the end of the connection.
    async fn timed<T>(
        &self,
        bytes: usize,
        read: impl Future<Output = Result<T, StreamFault>>,
    ) -> Result<T, UploadEnd> {
        let least = &self.session.shared.limits;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let at_least_rate_ms = bytes
            .saturating_mul(1000)
            .checked_div(least.upload_bytes_per_second_min)
            .unwrap_or(0);
        let limit = least.upload_grace_ms.saturating_add(at_least_rate_ms);
        match timeout(Duration::from_millis(limit), read).await {
            Ok(read) => Ok(read?),
            Err(_) => {
                measures::limit("UPLOAD_BYTES_PER_SECOND_MIN");
                let retry_after_ms = limits::BUSY_RETRY_MS;
                let end = End::refused(Reason::TooSlow, retry_after_ms);
                Err(UploadEnd::Connection(end))
            }
        }
    }

    fn busy(&self, Busy { retry_after_ms }: Busy) -> Refused {
        Refused {
            reason: Refusal::Busy.into(),
            retry_after_ms: self
                .session
                .shared
                .jittered(retry_after_ms, self.session.id),
        }
    }
}
