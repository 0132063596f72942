//! Frames: what the two ends say to each other, as bytes.
//!
//! A frame is a [`Preamble`] and a body. The preamble's layout never changes; the body is an
//! archive whose layout belongs to a version. Within a version a frame grows by its extensions.
//!
//! # Security
//! Whatever bytes come in, [`Frame::decode`] gives a frame whose every field is within its named
//! limit, or a [`WireError`]. It allocates in proportion to the body, which is at most
//! [`FRAME_BYTES_MAX`](crate::limits::FRAME_BYTES_MAX) long. Nothing in a frame is authenticated
//! but by the connection over which it came.

mod archive;
mod error;
mod fields;
mod preamble;
mod read;
#[cfg(test)]
mod tests;
mod write;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Answer, Challenge, ChallengeId, Instance};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::pcr::PcrValues;

pub use error::{EncodeError, FieldFault, WireError};
pub use preamble::{FrameType, MAGIC, PREAMBLE_BYTES, Preamble, RELAY_TYPES, Versions};

use crate::quic::Reason;

/// Set in the id of an extension that must not be skipped.
pub const EXTENSION_CRITICAL: u16 = 0x8000;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The versions that its sender speaks.
    Versions(Versions),
    /// The agent's first frame.
    Hello(Hello),
    /// The server's answer when the agent is known.
    Welcome(Welcome),
    /// The server's answer when something is not served.
    Refused(Refused),
    /// What the agent is to prove.
    Challenge(Challenge),
    /// The agent's proof. The boot log follows as raw bytes, then the measurement list.
    Evidence(Evidence),
    /// What the evidence of this challenge led to.
    Verdict(ChallengeId, Answer),
    /// A PKCS#10 request for a new certificate, in DER.
    Renew(Vec<u8>),
    /// The new certificate and those above it, in DER.
    Renewed(Vec<Vec<u8>>),
    /// A relay's first frame.
    RelayHello,
    /// The server's answer when the relay is known.
    RelayWelcome(RelayWelcome),
    /// The Hello of an agent that a relay speaks for.
    AgentHello(AgentHello),
    /// The server's answer when that agent is known.
    AgentWelcome {
        /// When its first challenge is due, in milliseconds.
        next_after_ms: u32,
    },
    /// The evidence of this challenge has reached the relay, and so many bytes of logs follow.
    Arriving(ChallengeId, u64),
    /// One more piece of the list of this challenge is wanted.
    More(ChallengeId),
    /// A piece of the list of this challenge; so many raw bytes follow.
    Piece(ChallengeId, usize),
    /// The agent left its relay.
    Left,
}

/// What a server says to a relay that it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayWelcome {
    /// The certificates of the CAs that agents' certificates are under, in DER.
    pub ca_set: Vec<Vec<u8>>,
    /// What the server takes of logs.
    pub limits: UploadLimits,
    /// How many agents it may speak for at once.
    pub agents_max: u32,
    /// How many of their Hellos are taken each second.
    pub hellos_per_second_max: u32,
}

/// The Hello of an agent that a relay speaks for.
///
/// # Security
/// All of it is what the relay says: the agent showed its certificate to the relay, not to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentHello {
    /// SHA-256 of the SubjectPublicKeyInfo of the agent's certificate.
    pub client_key_sha256: [u8; 32],
    /// What the agent says of itself.
    pub hello: Hello,
}

/// What an agent says of itself; all but the id are hints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its id. The certificate must name the same.
    pub agent: AgentId,
    /// The formats in which it can send the measurement list.
    pub log_formats: Vec<LogFormat>,
    /// The PCR banks that its TPM has.
    pub banks: Vec<HashAlg>,
    /// The TPM's resetCount.
    pub reset_count: u32,
    /// The TPM's restartCount.
    pub restart_count: u32,
    /// Entries in the measurement list.
    pub entry_count: u64,
    /// The life of its program.
    pub instance: Instance,
}

/// What a server says to an agent that it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// When the first challenge is due, in milliseconds.
    pub next_after_ms: u32,
    /// The certificates of the CAs to pin from now on, in DER.
    pub ca_set: Vec<Vec<u8>>,
    /// What the server takes.
    pub limits: UploadLimits,
}

/// What a server takes of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadLimits {
    /// The longest boot log, in bytes.
    pub boot_log_bytes_max: u64,
    /// The longest measurement list, in bytes.
    pub list_bytes_max: u64,
    /// The least rate of an upload, in bytes per second.
    pub upload_bytes_per_second_min: u64,
}

/// What is not served, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// How long to stay away, in milliseconds.
    pub retry_after_ms: u32,
}

/// An agent's proof, without its logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The challenge that it answers.
    pub challenge: ChallengeId,
    /// What the agent bound its quote to; only used to name the fault when that is wrong.
    pub claimed_binding: Option<[u8; 32]>,
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The PCR values.
    pub pcr_values: PcrValues,
    /// The TPM's resetCount; a hint, the quote has the signed one.
    pub reset_count: u32,
    /// The TPM's restartCount; a hint too.
    pub restart_count: u32,
    /// The measurement list that follows.
    pub ima: Option<ListHead>,
    /// Bytes of the boot log that follows.
    pub boot_log_bytes: Option<u64>,
}

/// A measurement list, announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListHead {
    /// Position of its first entry.
    pub from_entry: u64,
    /// Entries; a hint.
    pub count: u64,
    /// Its format.
    pub format: LogFormat,
    /// Its bytes.
    pub length: u64,
}

impl Frame {
    /// Its type.
    pub const fn frame_type(&self) -> FrameType {
        match self {
            Self::Versions(_) => FrameType::Versions,
            Self::Hello(_) => FrameType::Hello,
            Self::Welcome(_) => FrameType::Welcome,
            Self::Refused(_) => FrameType::Refused,
            Self::Challenge(_) => FrameType::Challenge,
            Self::Evidence(_) => FrameType::Evidence,
            Self::Verdict(..) => FrameType::Verdict,
            Self::Renew(_) => FrameType::Renew,
            Self::Renewed(_) => FrameType::Renewed,
            Self::RelayHello => FrameType::RelayHello,
            Self::RelayWelcome(_) => FrameType::RelayWelcome,
            Self::AgentHello(_) => FrameType::AgentHello,
            Self::AgentWelcome { .. } => FrameType::AgentWelcome,
            Self::Arriving(..) => FrameType::Arriving,
            Self::More(_) => FrameType::More,
            Self::Piece(..) => FrameType::Piece,
            Self::Left => FrameType::Left,
        }
    }

    /// The frame's bytes: preamble and body.
    ///
    /// # Errors
    /// [`EncodeError`] when a field is over its limit. A verdict's detail is cut instead.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends the frame's bytes.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); then nothing is appended.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let frame = self.frame_type();
        let body = write::body(self)?.ok_or(EncodeError::TooLong { frame })?;
        let preamble = Preamble::of(frame, &body).ok_or(EncodeError::TooLong { frame })?;
        out.reserve(PREAMBLE_BYTES.saturating_add(body.len()));
        out.extend_from_slice(&preamble);
        out.extend_from_slice(&body);
        Ok(())
    }

    /// The frame whose bytes are exactly these.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let Some((preamble, body)) = bytes.split_first_chunk::<PREAMBLE_BYTES>() else {
            return Err(WireError::Truncated {
                expected: PREAMBLE_BYTES,
                found: bytes.len(),
            });
        };
        let preamble = Preamble::parse(preamble)?;
        if body.len() > preamble.body_bytes {
            let after = preamble.frame_type;
            return Err(WireError::Trailing { after });
        }
        Self::decode_body(&preamble, body)
    }

    /// The frame with this preamble and body.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode_body(preamble: &Preamble, body: &[u8]) -> Result<Self, WireError> {
        if body.len() != preamble.body_bytes {
            return Err(WireError::Truncated {
                expected: preamble.body_bytes,
                found: body.len(),
            });
        }
        read::body(preamble.frame_type, body)
    }
}
