//! What a relay and a server send each other: parcels, each a frame about one agent.
//!
//! After its first frame each end writes parcels on the one stream of the connection: eight bytes,
//! little-endian, that number the agent, and a frame as an agent's own connection would carry it.
//! Raw bytes follow the frames that announce some. The relay gives the numbers; number
//! [`ITSELF`] is the relay. Parcels of many agents share packets, reads and wakeups.

use bytes::{Buf as _, Bytes};
use quinn::RecvStream;

use super::streams::StreamFault;
use super::wire::{EncodeError, Frame, PREAMBLE_BYTES, Preamble, WireError};

/// The number of the relay itself.
pub(crate) const ITSELF: u64 = 0;

const NUMBER_BYTES: usize = 8;
const HEAD_BYTES: usize = NUMBER_BYTES + PREAMBLE_BYTES;
/// Chunks of the stream that are taken at once.
const CHUNKS: usize = 64;

/// Appends a parcel. Raw bytes that its frame announces are appended after it.
pub(super) fn append(out: &mut Vec<u8>, of: u64, frame: &Frame) -> Result<(), EncodeError> {
    let begin = out.len();
    out.extend_from_slice(&of.to_le_bytes());
    let appended = frame.encode_into(out);
    if appended.is_err() {
        out.truncate(begin);
    }
    appended
}

/// The parcels of a stream, in order.
pub(super) struct Parcels {
    stream: RecvStream,
    /// What was read and not yet taken.
    buffer: Vec<u8>,
    taken: usize,
}

impl Parcels {
    pub(super) const fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// The next parcel; `None` when the stream ended between two.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, Frame)>, StreamFault> {
        if !self.fill(HEAD_BYTES).await? {
            return match self.waiting().len() {
                0 => Ok(None),
                found => Err(truncated(HEAD_BYTES, found)),
            };
        }
        let Some((number, preamble)) = head(self.waiting()) else {
            return Err(truncated(HEAD_BYTES, self.waiting().len()));
        };
        let preamble = Preamble::parse(&preamble)?;
        let bytes = HEAD_BYTES.saturating_add(preamble.body_bytes);
        if !self.fill(bytes).await? {
            return Err(truncated(bytes, self.waiting().len()));
        }
        let body = self.waiting().get(HEAD_BYTES..bytes).unwrap_or_default();
        let frame = Frame::decode_body(&preamble, body)?;
        self.taken = self.taken.saturating_add(bytes);
        Ok(Some((number, frame)))
    }

    /// The raw bytes that follow a parcel, exactly so many.
    pub(super) async fn raw(&mut self, bytes: usize) -> Result<Vec<u8>, StreamFault> {
        if !self.fill(bytes).await? {
            return Err(truncated(bytes, self.waiting().len()));
        }
        let raw = self.waiting().get(..bytes).unwrap_or_default().to_vec();
        self.taken = self.taken.saturating_add(bytes);
        Ok(raw)
    }

    fn waiting(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }

    /// Reads until so many bytes wait; false when the stream ends before.
    async fn fill(&mut self, bytes: usize) -> Result<bool, StreamFault> {
        while self.waiting().len() < bytes {
            // What was taken goes when there is nothing else to do: once for many parcels.
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let mut chunks = [const { Bytes::new() }; CHUNKS];
            let Some(count) = self.stream.read_chunks(&mut chunks).await? else {
                return Ok(false);
            };
            for chunk in chunks.iter().take(count) {
                self.buffer.extend_from_slice(chunk.chunk());
            }
        }
        Ok(true)
    }
}

fn head(bytes: &[u8]) -> Option<(u64, [u8; PREAMBLE_BYTES])> {
    let (number, rest) = bytes.split_first_chunk::<NUMBER_BYTES>()?;
    let (preamble, _) = rest.split_first_chunk::<PREAMBLE_BYTES>()?;
    Some((u64::from_le_bytes(*number), *preamble))
}

fn truncated(expected: usize, found: usize) -> StreamFault {
    WireError::Truncated { expected, found }.into()
}
