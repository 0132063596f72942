//! What can go wrong for an agent, and what it should do about it.

use std::io;

use quinn::{ConnectError, ConnectionError, TransportErrorCode};
use rustls::server::VerifierBuilderError;
use thiserror::Error;

use crate::limits;
use crate::quic::reason::{Advice, Reason};
use crate::quic::roots::RootsError;
use crate::quic::streams::StreamFault;
use crate::quic::wire::{EncodeError, Frame, Refused, Versions, WireError};

/// Why certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The CA set.
    #[error("the CA set cannot be used")]
    CaSet(#[from] RootsError),
    /// The verifier made of it.
    #[error("servers cannot be verified")]
    Verifier(#[from] VerifierBuilderError),
    /// The agent's own certificate or key, or the server's chain under a new set.
    #[error("a certificate or key cannot be used")]
    Certificate(#[from] rustls::Error),
    /// The server's chain or name is not known.
    #[error("the server's certificate is not known")]
    ServerUnknown,
    /// The provider of cryptography has no cipher suite that QUIC starts with.
    #[error("no cipher suite for QUIC's first packets")]
    NoInitialCipherSuite,
}

/// Why a conversation with a server ends or fails.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The agent's own certificates or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No socket could be opened.
    #[error("no UDP socket")]
    Socket(#[from] io::Error),
    /// The address or name is none that can be connected to.
    #[error(transparent)]
    Address(#[from] ConnectError),
    /// Nobody answers there.
    #[error("the server does not answer")]
    Unreachable,
    /// The server's certificate is not under a pinned CA, expired, or of another name.
    #[error("the server's certificate was refused (TLS alert {alert})")]
    ServerUntrusted {
        /// The alert that was sent.
        alert: u8,
    },
    /// The server does not accept this agent's certificate.
    #[error("the server refused the agent's certificate (TLS alert {alert})")]
    CertificateRejected {
        /// The alert that came.
        alert: u8,
    },
    /// The handshake failed for another reason: perhaps that is no ratd.
    #[error("the handshake failed ({code})")]
    Handshake {
        /// QUIC's code.
        code: u64,
    },
    /// The server takes no connection at the moment.
    #[error("the server takes no connections at the moment")]
    Full,
    /// The server said no.
    #[error("the server refused: {reason}")]
    Refused {
        /// Why.
        reason: Reason,
        /// How long to stay away, in milliseconds.
        retry_after_ms: u32,
    },
    /// The server speaks none of our versions.
    #[error("the server speaks versions {} to {}, this agent {} to {}",
        server.min, server.max, Versions::SPOKEN.min, Versions::SPOKEN.max)]
    Versions {
        /// What it speaks.
        server: Versions,
    },
    /// What the server sent is no frame, or not the one that is due.
    #[error("the server sent what cannot be understood: {0}")]
    Wire(#[from] WireError),
    /// What should be sent is over the protocol's limits.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A log is longer than the server takes.
    #[error("the {log} has {bytes} bytes, and the server takes {max}")]
    TooLong {
        /// Which.
        log: Log,
        /// Its length.
        bytes: u64,
        /// The most that is taken.
        max: u64,
    },
    /// The measurement list ended early or could not be read.
    #[error("the measurement list cannot be read to its announced length")]
    List(#[source] io::Error),
    /// The connection broke.
    #[error("the connection to the server was lost")]
    Lost,
    /// The server did not answer in time.
    #[error("the server did not answer in {} ms", limits::ANSWER_MS_MAX)]
    Timeout,
}

/// One of the two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// The boot log.
    Boot,
    /// The measurement list.
    Measurements,
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Boot => "boot log",
            Self::Measurements => "measurement list",
        })
    }
}

impl ClientError {
    /// What an agent should do.
    pub const fn advice(&self) -> Advice {
        let back_off = Advice::BackOff {
            after_ms: limits::BUSY_RETRY_MS,
        };
        match self {
            Self::Refused {
                reason,
                retry_after_ms,
            } => reason.advice(*retry_after_ms),
            Self::Lost => Advice::Reconnect,
            // A server that is being set up or renewed may answer and be trusted again.
            Self::Socket(_)
            | Self::Unreachable
            | Self::ServerUntrusted { .. }
            | Self::Handshake { .. }
            | Self::Full
            | Self::List(_)
            | Self::Timeout => back_off,
            Self::Tls(_)
            | Self::Address(_)
            | Self::CertificateRejected { .. }
            | Self::Versions { .. }
            | Self::Wire(_)
            | Self::Encode(_)
            | Self::TooLong { .. } => Advice::Stop,
        }
    }
}

/// TLS alerts by which a server turns down a client certificate.
///
/// Source: RFC 8446, 6.2: bad_certificate to unknown_ca, and certificate_required.
const fn is_about_certificate(alert: u8) -> bool {
    matches!(alert, 42..=48 | 116)
}

/// The alert in a QUIC error code, if it is one.
///
/// Source: RFC 9001, 4.8: 0x0100 and the alert.
fn alert(code: TransportErrorCode) -> Option<u8> {
    match u64::from(code).to_be_bytes() {
        [0, 0, 0, 0, 0, 0, 1, alert] => Some(alert),
        _ => None,
    }
}

/// What an error during or right after the handshake means.
pub(super) fn handshake_error(error: ConnectionError) -> ClientError {
    match error {
        ConnectionError::TransportError(error) => match alert(error.code) {
            Some(alert) => ClientError::ServerUntrusted { alert },
            None => ClientError::Handshake {
                code: error.code.into(),
            },
        },
        ConnectionError::TimedOut => ClientError::Unreachable,
        other => connection_error(other),
    }
}

/// What the end of a connection means.
pub(super) fn connection_error(error: ConnectionError) -> ClientError {
    match error {
        ConnectionError::ApplicationClosed(close) => match Frame::decode(&close.reason) {
            Ok(frame) => said_no(frame),
            Err(_) => ClientError::Refused {
                reason: Reason::from_code(close.error_code),
                retry_after_ms: 0,
            },
        },
        ConnectionError::ConnectionClosed(close) => {
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED {
                return ClientError::Full;
            }
            match alert(close.error_code) {
                Some(alert) if is_about_certificate(alert) => {
                    ClientError::CertificateRejected { alert }
                }
                _ => ClientError::Handshake {
                    code: close.error_code.into(),
                },
            }
        }
        _ => ClientError::Lost,
    }
}

/// What a frame means that came where another was due.
pub(super) fn said_no(frame: Frame) -> ClientError {
    match frame {
        Frame::Refused(Refused {
            reason,
            retry_after_ms,
        }) => ClientError::Refused {
            reason,
            retry_after_ms,
        },
        Frame::Versions(server) => ClientError::Versions { server },
        other => ClientError::Wire(WireError::Unexpected {
            found: other.frame_type(),
        }),
    }
}

impl From<StreamFault> for ClientError {
    fn from(fault: StreamFault) -> Self {
        match fault {
            StreamFault::Wire(error) => Self::Wire(error),
            StreamFault::Encode(error) => Self::Encode(error),
            StreamFault::Dropped(reason) => Self::Refused {
                reason,
                retry_after_ms: 0,
            },
            StreamFault::Lost(error) => connection_error(error),
        }
    }
}
