//! What is wrong with bytes that should be a frame.

use rat_engine::agent_id::AgentIdError;
use thiserror::Error;

use super::preamble::{FrameType, Versions};
use crate::limits;
use crate::quic::Reason;

/// Why bytes are no frame, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// Not this protocol.
    #[error("a frame starts with {found:02x?} instead of the protocol's magic")]
    Magic {
        /// The bytes there.
        found: [u8; 4],
    },
    /// A version that we do not speak.
    #[error("the peer speaks versions {} to {}, this end {} to {}",
        peer.min, peer.max, Versions::SPOKEN.min, Versions::SPOKEN.max)]
    Version {
        /// What the peer speaks.
        peer: Versions,
    },
    /// A type that no version has.
    #[error("there is no frame of type {number}")]
    FrameType {
        /// Its number.
        number: u16,
    },
    /// A type that is kept for later versions of relays.
    #[error("frames of type {number} are reserved for relays, and not served")]
    RelayReserved {
        /// Its number.
        number: u16,
    },
    /// A frame of a type that has no place here.
    #[error("a frame of type {} where another is due", found.name())]
    Unexpected {
        /// Its type.
        found: FrameType,
    },
    /// A body over the limit.
    #[error(
        "a frame of {length} bytes, over the limit of {}",
        limits::FRAME_BYTES_MAX
    )]
    TooLong {
        /// Bytes announced.
        length: u32,
    },
    /// The bytes end too early.
    #[error("a frame ends after {found} of {expected} bytes")]
    Truncated {
        /// Bytes that should be there.
        expected: usize,
        /// Bytes that are.
        found: usize,
    },
    /// Bytes follow where nothing may.
    #[error("bytes follow after a {}", after.name())]
    Trailing {
        /// The last frame.
        after: FrameType,
    },
    /// The body is no archive of its type. (X03)
    #[error("the body of a {} is not a valid archive", frame.name())]
    Archive {
        /// The frame.
        frame: FrameType,
    },
    /// The body holds more than its values, or holds them in another order. (X03)
    #[error("the body of a {} is not the encoding of its values", frame.name())]
    NotCanonical {
        /// The frame.
        frame: FrameType,
    },
    /// An extension that must not be skipped, and that we do not know.
    #[error("extension {id:#06x} of a {} is critical and unknown", frame.name())]
    CriticalExtension {
        /// The frame.
        frame: FrameType,
        /// Its id.
        id: u16,
    },
    /// A value that a field cannot have.
    #[error("{field} of a {}: {fault}", frame.name())]
    Field {
        /// The frame.
        frame: FrameType,
        /// The field.
        field: &'static str,
        /// What is wrong.
        fault: FieldFault,
    },
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FieldFault {
    /// Too long, or too many.
    #[error("{found} {unit}, over the limit of {max}")]
    OverLimit {
        /// How many.
        found: u64,
        /// How many may be.
        max: u64,
        /// What is counted.
        unit: &'static str,
        /// The limit's name.
        limit: &'static str,
    },
    /// There must be one.
    #[error("there is none")]
    Empty,
    /// A number that stands for nothing.
    #[error("{value} is not known")]
    Unknown {
        /// The number.
        value: u64,
    },
    /// The same twice.
    #[error("{value} occurs twice")]
    Duplicate {
        /// The number.
        value: u64,
    },
    /// Not an agent id.
    #[error(transparent)]
    AgentId(AgentIdError),
    /// A value of another size than its algorithm's.
    #[error("{found} bytes are no digest of its bank")]
    DigestSize {
        /// Bytes there.
        found: usize,
    },
}

impl WireError {
    /// What the sender is told.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Version { .. } => Reason::Version,
            Self::RelayReserved { .. } => Reason::RelayReserved,
            Self::TooLong { .. }
            | Self::Field {
                fault: FieldFault::OverLimit { .. },
                ..
            } => Reason::Limit,
            _ => Reason::Malformed,
        }
    }

    /// The limit that was hit, if one was.
    pub const fn limit(&self) -> Option<&'static str> {
        match self {
            Self::TooLong { .. } => Some("FRAME_BYTES_MAX"),
            Self::Field {
                fault: FieldFault::OverLimit { limit, .. },
                ..
            } => Some(limit),
            _ => None,
        }
    }
}

/// A frame of ours that would be refused by the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A field's value.
    #[error(transparent)]
    Field(#[from] WireError),
    /// All fields together are too long for a frame.
    #[error("a {} does not fit into {} bytes", frame.name(), limits::FRAME_BYTES_MAX)]
    TooLong {
        /// The frame.
        frame: FrameType,
    },
}
