//! Frames and raw bytes on QUIC streams, for both ends.

use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use thiserror::Error;

use super::reason::Reason;
use super::wire::{EncodeError, Frame, FrameType, PREAMBLE_BYTES, Preamble, WireError};

/// How much memory is taken before bytes arrive, whatever length they were announced with.
const FIRST_BYTES: usize = 4096;

/// Why a stream gives or takes no frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum StreamFault {
    /// What arrived is no frame.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What should be sent is no frame.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The other end gave up this stream.
    #[error("the other end gave up the stream: {0}")]
    Dropped(Reason),
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] quinn::ConnectionError),
}

impl From<ReadError> for StreamFault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Dropped(Reason::from_code(code)),
            ReadError::ConnectionLost(error) => Self::Lost(error),
            // Early data is never sent, and streams are read in order by their only owner.
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Lost(quinn::ConnectionError::LocallyClosed),
        }
    }
}

impl From<WriteError> for StreamFault {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Dropped(Reason::from_code(code)),
            WriteError::ConnectionLost(error) => Self::Lost(error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                Self::Lost(quinn::ConnectionError::LocallyClosed)
            }
        }
    }
}

/// The next frame. What follows it is left on the stream.
pub(super) async fn read_frame(stream: &mut RecvStream) -> Result<Frame, StreamFault> {
    let mut preamble = [0; PREAMBLE_BYTES];
    stream
        .read_exact(&mut preamble)
        .await
        .map_err(|error| match error {
            ReadExactError::FinishedEarly(found) => StreamFault::Wire(WireError::Truncated {
                expected: PREAMBLE_BYTES,
                found,
            }),
            ReadExactError::ReadError(error) => error.into(),
        })?;
    let preamble = Preamble::parse(&preamble)?;
    let body = read_bytes(stream, preamble.body_bytes).await?;
    Ok(Frame::decode_body(&preamble, &body)?)
}

/// Exactly this many bytes. Memory grows with what arrives.
pub(super) async fn read_bytes(
    stream: &mut RecvStream,
    expected: usize,
) -> Result<Vec<u8>, StreamFault> {
    let mut bytes = Vec::with_capacity(expected.min(FIRST_BYTES));
    while bytes.len() < expected {
        let missing = expected.saturating_sub(bytes.len());
        match stream.read_chunk(missing, true).await? {
            Some(chunk) => bytes.extend_from_slice(&chunk.bytes),
            None => {
                let found = bytes.len();
                return Err(WireError::Truncated { expected, found }.into());
            }
        }
    }
    Ok(bytes)
}

/// The end of the stream: nothing may follow the frame named.
pub(super) async fn read_end(stream: &mut RecvStream, after: FrameType) -> Result<(), StreamFault> {
    match stream.read_chunk(1, true).await? {
        None => Ok(()),
        Some(_) => Err(WireError::Trailing { after }.into()),
    }
}

/// Writes a frame; more may follow.
pub(super) async fn write_frame(stream: &mut SendStream, frame: &Frame) -> Result<(), StreamFault> {
    let bytes = frame.encode()?;
    Ok(stream.write_all(&bytes).await?)
}

/// Writes a frame, and nothing after it.
pub(super) async fn write_last(stream: &mut SendStream, frame: &Frame) -> Result<(), StreamFault> {
    let bytes = frame.encode()?;
    write_all(stream, &bytes).await
}

/// Writes these bytes, and nothing after them.
pub(super) async fn write_all(stream: &mut SendStream, bytes: &[u8]) -> Result<(), StreamFault> {
    stream.write_all(bytes).await?;
    stream
        .finish()
        .map_err(|_| StreamFault::Lost(quinn::ConnectionError::LocallyClosed))
}
