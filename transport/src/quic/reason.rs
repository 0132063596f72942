//! Why a conversation ends, as numbers on the wire and words in journals.

use std::fmt;

use rat_engine::evidence::Refusal;

/// Why a request for a new certificate is turned down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RenewRefused {
    /// The request is no PKCS#10, or its own signature is wrong.
    Malformed,
    /// It is for another key than the one that enrolled.
    KeyNotEnrolled,
    /// The agent is not, or no longer, enrolled.
    NotEnrolled,
    /// The CA cannot sign at the moment.
    Unavailable,
    /// This agent renewed often enough, or all agents together did.
    TooOften,
}

/// Why a conversation ended or a request was turned down.
///
/// Numbers and texts are stable: numbers are application error codes of QUIC connections and
/// streams, texts are labels of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing is wrong: whoever closed is done.
    Done,
    /// The server's shards say so.
    Session(Refusal),
    /// A frame that cannot be decoded.
    Malformed,
    /// No version of the protocol that both speak.
    Version,
    /// Frames of relays are reserved, and not served.
    RelayReserved,
    /// A size or count is over its limit.
    Limit,
    /// The Hello names another agent than the certificate. (S13)
    AgentMismatch,
    /// The certificate is from our CA and names no agent.
    CertificateUnusable,
    /// The certificate that the connection began with is no longer valid.
    CertificateExpired,
    /// An upload came slower than the least rate.
    TooSlow,
    /// Messages were not read.
    NotReading,
    /// The request for a certificate was turned down.
    Renew(RenewRefused),
    /// A number that this version does not know.
    Unknown(u32),
}

/// What an agent should do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Advice {
    /// Connect again soon; add jitter.
    Reconnect,
    /// Stay away for at least this long, longer at each repetition; add jitter.
    BackOff {
        /// Milliseconds.
        after_ms: u32,
    },
    /// Trying again as it is cannot help: certificate, enrolment or software must change first.
    Stop,
}

const NUMBERS: [(u32, Reason, &str); 23] = [
    (0, Reason::Done, "session.done"),
    (1, Reason::Session(Refusal::Busy), "session.busy"),
    (2, Reason::Session(Refusal::Draining), "session.draining"),
    (
        3,
        Reason::Session(Refusal::UnknownAgent),
        "session.unknown_agent",
    ),
    (
        4,
        Reason::Session(Refusal::CertificateNotCurrent),
        "session.certificate_not_current",
    ),
    (
        5,
        Reason::Session(Refusal::PathNotEnrolled),
        "path.not_enrolled",
    ),
    (
        6,
        Reason::Session(Refusal::Superseded),
        "session.superseded",
    ),
    (7, Reason::Session(Refusal::Protocol), "session.protocol"),
    (8, Reason::Session(Refusal::Timeout), "session.timeout"),
    (16, Reason::Malformed, "wire.malformed"),
    (17, Reason::Version, "wire.version"),
    (18, Reason::RelayReserved, "wire.relay_reserved"),
    (19, Reason::Limit, "wire.limit"),
    (20, Reason::AgentMismatch, "session.agent_mismatch"),
    (
        21,
        Reason::CertificateUnusable,
        "session.certificate_unusable",
    ),
    (22, Reason::TooSlow, "session.too_slow"),
    (23, Reason::NotReading, "session.not_reading"),
    (
        24,
        Reason::CertificateExpired,
        "session.certificate_expired",
    ),
    (
        32,
        Reason::Renew(RenewRefused::Malformed),
        "renew.malformed",
    ),
    (
        33,
        Reason::Renew(RenewRefused::KeyNotEnrolled),
        "renew.key_not_enrolled",
    ),
    (
        34,
        Reason::Renew(RenewRefused::NotEnrolled),
        "renew.not_enrolled",
    ),
    (
        35,
        Reason::Renew(RenewRefused::Unavailable),
        "renew.unavailable",
    ),
    (36, Reason::Renew(RenewRefused::TooOften), "renew.too_often"),
];

impl Reason {
    /// Every reason that has a number.
    pub fn all() -> impl Iterator<Item = Self> {
        NUMBERS.iter().map(|(_, reason, _)| *reason)
    }

    /// The number on the wire.
    pub fn number(self) -> u32 {
        if let Self::Unknown(number) = self {
            return number;
        }
        // A refusal that the engine gains later is told as the most general one until it has a
        // number here; a test fails until then.
        NUMBERS
            .iter()
            .find(|(_, reason, _)| *reason == self)
            .map_or(7, |(number, ..)| *number)
    }

    /// The reason with this number.
    pub fn from_number(number: u32) -> Self {
        NUMBERS
            .iter()
            .find(|(known, ..)| *known == number)
            .map_or(Self::Unknown(number), |(_, reason, _)| *reason)
    }

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        let number = self.number();
        NUMBERS
            .iter()
            .find(|(known, ..)| *known == number)
            .map_or("session.unknown", |(.., text)| text)
    }

    /// What an agent should do when it is told this and a delay.
    pub const fn advice(self, retry_after_ms: u32) -> Advice {
        match self {
            // With a renewed certificate, if it has one.
            Self::Done | Self::CertificateExpired => Advice::Reconnect,
            Self::Session(
                Refusal::UnknownAgent | Refusal::CertificateNotCurrent | Refusal::PathNotEnrolled,
            )
            | Self::Malformed
            | Self::Version
            | Self::RelayReserved
            | Self::Limit
            | Self::AgentMismatch
            | Self::CertificateUnusable
            | Self::Renew(
                RenewRefused::Malformed | RenewRefused::KeyNotEnrolled | RenewRefused::NotEnrolled,
            ) => Advice::Stop,
            Self::Session(_)
            | Self::TooSlow
            | Self::NotReading
            | Self::Renew(RenewRefused::Unavailable | RenewRefused::TooOften)
            | Self::Unknown(_) => Advice::BackOff {
                after_ms: retry_after_ms,
            },
        }
    }

    pub(crate) fn code(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(self.number())
    }

    pub(crate) fn from_code(code: quinn::VarInt) -> Self {
        u32::try_from(code.into_inner()).map_or(Self::Unknown(u32::MAX), Self::from_number)
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self::Session(refusal)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(f, "session.unknown ({number})"),
            known => f.write_str(known.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_number_and_its_own_text() {
        for refusal in Refusal::ALL {
            let reason = Reason::from(refusal);
            assert_eq!(Reason::from_number(reason.number()), reason);
            assert_eq!(reason.as_str(), refusal.as_str());
        }
    }

    #[test]
    fn numbers_and_texts_are_distinct_and_round_trip() {
        let mut texts = std::collections::BTreeSet::new();
        for reason in Reason::all() {
            assert_eq!(Reason::from_number(reason.number()), reason);
            assert_eq!(Reason::from_code(reason.code()), reason);
            assert!(texts.insert(reason.as_str()), "{reason} twice");
        }
        assert_eq!(Reason::from_number(9999), Reason::Unknown(9999));
        assert_eq!(Reason::Unknown(9999).number(), 9999);
    }

    #[test]
    fn an_agent_that_cannot_help_itself_stops() {
        let stop = Reason::from(Refusal::CertificateNotCurrent).advice(5);
        assert_eq!(stop, Advice::Stop);
        let busy = Reason::from(Refusal::Busy).advice(5);
        assert_eq!(busy, Advice::BackOff { after_ms: 5 });
    }
}
