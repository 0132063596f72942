//! How a connection ends, and what the agent is told.

use quinn::{Connection, ConnectionError, Endpoint};

use crate::measures;
use crate::quic::Reason;
use crate::quic::streams::StreamFault;
use crate::quic::wire::{Frame, Refused, Versions, WireError};

/// The end of a connection.
#[derive(Debug)]
pub(super) enum End {
    /// It is gone, or the agent closed it.
    Lost,
    /// We end it.
    Refused(Refused),
}

impl End {
    pub(super) const fn refused(reason: Reason, retry_after_ms: u32) -> Self {
        Self::Refused(Refused {
            reason,
            retry_after_ms,
        })
    }

    /// Tells the agent, and counts.
    pub(super) fn close(self, connection: &Connection) {
        if let Self::Refused(refused) = self {
            measures::refusal(refused.reason);
            connection.close(refused.reason.code(), &notice(refused));
        }
    }

    /// Tells all agents.
    pub(super) fn close_all(self, endpoint: &Endpoint) {
        if let Self::Refused(refused) = self {
            endpoint.close(refused.reason.code(), &notice(refused));
        }
    }
}

/// The frame that says why, as bytes of a stream or of the connection's close.
pub(super) fn notice(refused: Refused) -> Vec<u8> {
    frame(refused).encode().unwrap_or_default()
}

/// An agent of another version cannot read our refusals, but every version reads the list of
/// versions.
pub(super) const fn frame(refused: Refused) -> Frame {
    match refused.reason {
        Reason::Version => Frame::Versions(Versions::SPOKEN),
        _ => Frame::Refused(refused),
    }
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        if let Some(limit) = error.limit() {
            measures::limit(limit);
        }
        tracing::debug!(%error, "an agent's bytes were refused");
        Self::refused(error.reason(), 0)
    }
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        tracing::debug!(%error, "a connection ended");
        Self::Lost
    }
}

impl From<StreamFault> for End {
    fn from(fault: StreamFault) -> Self {
        match fault {
            StreamFault::Wire(error) => error.into(),
            StreamFault::Lost(error) => error.into(),
            StreamFault::Dropped(reason) => {
                tracing::debug!(%reason, "an agent gave up a stream");
                Self::refused(Reason::Malformed, 0)
            }
            StreamFault::Encode(error) => {
                tracing::error!(%error, "a frame of our own is over its limits");
                Self::refused(
                    rat_engine::evidence::Refusal::Busy.into(),
                    crate::limits::BUSY_RETRY_MS,
                )
            }
        }
    }
}
