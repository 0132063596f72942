//! The conversation with one agent, without a wire format.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Binding, Challenge, ChallengeId};
use crate::agent_id::AgentId;
use crate::hash::HashAlg;
use crate::ima::LogFormat;
use crate::pcr::PcrValues;
use crate::shard::{AgentPath, EffectiveStatus};
use crate::verdict::Code;

/// One connection of one agent, numbered by whoever accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// One life of an agent's program: drawn at random when it starts, the same until it ends.
///
/// # Security
/// What an agent says of itself: a clone that draws another one looks like a program that was
/// started again. It tells those who have an agent copied by mistake from one that crashes; a clone
/// that lies is found by its TPM's clock alone. (T03, T09)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance(pub [u8; 16]);

/// What an agent says of itself when it connects.
///
/// # Security
/// `agent`, `path` and `client_key_sha256` are authenticated by whoever accepted the connection: by
/// its client certificate, or by a session whose agent proved its attestation key. The rest are
/// hints that save a round trip, and decide nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The machine, as its client certificate names it, or its session.
    pub agent: AgentId,
    /// By which way it came. (S15)
    pub path: AgentPath,
    /// SHA-256 of the certificate's SubjectPublicKeyInfo; of one of Keylime's agents, that of the
    /// public area of the attestation key that it was known by.
    pub client_key_sha256: [u8; 32],
    /// The formats in which it can send the measurement list.
    pub log_formats: Vec<LogFormat>,
    /// The PCR banks that its TPM has.
    pub banks: Vec<HashAlg>,
    /// The TPM's resetCount; Keylime's agents do not say.
    pub reset_count: u32,
    /// The TPM's restartCount; Keylime's agents do not say.
    pub restart_count: u32,
    /// Entries in the measurement list.
    pub entry_count: u64,
    /// The life of its program.
    pub instance: Instance,
    /// SHA-256 of the key of the relay through which it came; `None` when it came directly.
    pub relay_key_sha256: Option<[u8; 32]>,
}

/// Why an agent is sent away. Stable text; an agent decides by `retry` and the delay beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Queues are full, or connections arrive faster than they are admitted.
    Busy,
    /// The server is stopping.
    Draining,
    /// The id has no record here, or no longer.
    UnknownAgent,
    /// The record names another client key: an older enrolment, or not this machine's certificate.
    CertificateNotCurrent,
    /// The id is enrolled on another path, or through another relay. (S15, Q16)
    PathNotEnrolled,
    /// A newer connection of the same agent took over.
    Superseded,
    /// A frame or log was not what the protocol allows.
    Protocol,
    /// An answer took too long.
    Timeout,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Busy,
        Self::Draining,
        Self::UnknownAgent,
        Self::CertificateNotCurrent,
        Self::PathNotEnrolled,
        Self::Superseded,
        Self::Protocol,
        Self::Timeout,
    ];

    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "session.busy",
            Self::Draining => "session.draining",
            Self::UnknownAgent => "session.unknown_agent",
            Self::CertificateNotCurrent => "session.certificate_not_current",
            Self::PathNotEnrolled => "path.not_enrolled",
            Self::Superseded => "session.superseded",
            Self::Protocol => "session.protocol",
            Self::Timeout => "session.timeout",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Evidence, as every surface hands it over: sizes and structure checked, nothing believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The challenge that it answers.
    pub challenge: ChallengeId,
    /// What the quote must be bound to, as the receiving end sees it.
    pub binding: Binding,
    /// What the sender says it bound to; only used to name the fault when the two differ.
    pub claimed_binding: Option<[u8; 32]>,
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The PCR values.
    pub pcr_values: PcrValues,
    /// The boot log; `None` when none was sent.
    pub boot_log: Option<Vec<u8>>,
    /// The measurement list; `None` when none was sent.
    pub ima: Option<ImaUpload>,
}

/// How a measurement list comes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImaUpload {
    /// Position of its first entry.
    pub from_entry: u64,
    /// Its format.
    pub format: LogFormat,
    /// Its announced length in bytes.
    pub length: u64,
    /// All of it, when it is short; `None` when it follows in pieces through
    /// [`Intake::log_piece`].
    pub whole: Option<Vec<u8>>,
}

/// What a verdict tells the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The agent's status from now on.
    pub status: EffectiveStatus,
    /// The first thing that failed.
    pub code: Option<Code>,
    /// What it is, in a sentence; bounded, printable.
    pub detail: String,
    /// When the next challenge is due.
    pub next_after_ms: u32,
}

/// What the server says to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// It is known; its next challenge comes after this delay.
    Welcome {
        /// Milliseconds.
        next_after_ms: u32,
    },
    /// It is not served: the connection ends.
    Refused {
        /// Why.
        code: Refusal,
        /// How long to stay away, in milliseconds.
        retry_after_ms: u32,
    },
    /// Prove this.
    Challenge(Challenge),
    /// The evidence of this challenge was taken up, or its last piece was: send one more piece.
    More(ChallengeId),
    /// What the evidence of this challenge led to; the verdict is durable.
    Verdict(ChallengeId, Answer),
}

/// A connected agent, as the server speaks to it.
pub trait Peer: Send {
    /// Sends a message, or gives up on a peer that does not read: never blocks.
    fn send(&self, message: ToAgent);
}

/// Queues are full; nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// How long to wait before trying again, in milliseconds.
    pub retry_after_ms: u32,
}

/// Where transports deliver what agents send. No method blocks.
///
/// Calls about one session must come in the order in which things happened.
pub trait Intake: Send + Sync {
    /// An agent connected. Its welcome, challenges and verdicts come through `peer`.
    ///
    /// # Errors
    /// [`Busy`].
    fn connected(&self, session: SessionId, hello: Hello, peer: Box<dyn Peer>) -> Result<(), Busy>;

    /// Evidence arrived whose logs, of this length, are still on their way: the challenge's deadline
    /// is met, and [`evidence`](Self::evidence) follows when they are here.
    ///
    /// # Errors
    /// [`Busy`].
    fn logs_arrive(
        &self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        bytes: u64,
    ) -> Result<(), Busy>;

    /// Evidence arrived. When its list follows in pieces, wait for [`ToAgent::More`] before each.
    ///
    /// # Errors
    /// [`Busy`].
    fn evidence(
        &self,
        session: SessionId,
        agent: &AgentId,
        submission: Submission,
    ) -> Result<(), Busy>;

    /// A piece of the list that the evidence of this challenge announced.
    ///
    /// # Errors
    /// [`Busy`].
    fn log_piece(
        &self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        piece: Vec<u8>,
    ) -> Result<(), Busy>;

    /// The connection ended. Never refused.
    fn disconnected(&self, session: SessionId, agent: &AgentId);
}
