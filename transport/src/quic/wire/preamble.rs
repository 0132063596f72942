//! What stands before every frame, in a layout that no version changes.

use super::error::WireError;
use crate::limits;

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"RATD";

/// Bytes of a preamble: magic, lowest version, highest version, type (u16), length (u32); numbers
/// are little-endian.
pub const PREAMBLE_BYTES: usize = 12;

/// The versions of the protocol that somebody speaks, both ends included.
///
/// A body is in the layout of the highest version that both ends named. The first frame of each
/// end comes before that is known, and is in the layout of its sender's lowest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub min: u8,
    /// The highest.
    pub max: u8,
}

impl Versions {
    /// What this implementation speaks.
    pub const SPOKEN: Self = Self { min: 1, max: 1 };

    /// The highest version that both speak.
    pub fn shared(self, other: Self) -> Option<u8> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

/// Whose body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameType {
    /// The versions that its sender speaks, as two bytes: the answer to a frame of none of them.
    Versions,
    /// The agent's first frame.
    Hello,
    /// The server's answer when the agent is known.
    Welcome,
    /// The server's answer when something is not served.
    Refused,
    /// What the agent is to prove.
    Challenge,
    /// The agent's proof; logs follow as raw bytes.
    Evidence,
    /// What it led to.
    Verdict,
    /// The agent's request for a new certificate.
    Renew,
    /// The new certificate.
    Renewed,
    /// A relay's first frame.
    RelayHello,
    /// The server's answer when the relay is known.
    RelayWelcome,
    /// The Hello of an agent that a relay speaks for.
    AgentHello,
    /// The server's answer when that agent is known.
    AgentWelcome,
    /// Logs of an agent are on their way to its relay.
    Arriving,
    /// One more piece of a list is wanted.
    More,
    /// A piece of a list; it follows as raw bytes.
    Piece,
    /// An agent left its relay.
    Left,
}

/// Type numbers kept for what relays may say in later versions; none is served.
pub const RELAY_TYPES: std::ops::RangeInclusive<u16> = 0x48..=0x4f;

impl FrameType {
    /// Every type.
    pub const ALL: [Self; 17] = [
        Self::Versions,
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Challenge,
        Self::Evidence,
        Self::Verdict,
        Self::Renew,
        Self::Renewed,
        Self::RelayHello,
        Self::RelayWelcome,
        Self::AgentHello,
        Self::AgentWelcome,
        Self::Arriving,
        Self::More,
        Self::Piece,
        Self::Left,
    ];

    /// Its number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Versions => 0,
            Self::Hello => 1,
            Self::Welcome => 2,
            Self::Refused => 3,
            Self::Challenge => 4,
            Self::Evidence => 5,
            Self::Verdict => 6,
            Self::Renew => 7,
            Self::Renewed => 8,
            Self::RelayHello => 0x40,
            Self::RelayWelcome => 0x41,
            Self::AgentHello => 0x42,
            Self::AgentWelcome => 0x43,
            Self::Arriving => 0x44,
            Self::More => 0x45,
            Self::Piece => 0x46,
            Self::Left => 0x47,
        }
    }

    /// The type's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Versions => "Versions",
            Self::Hello => "Hello",
            Self::Welcome => "Welcome",
            Self::Refused => "Refused",
            Self::Challenge => "Challenge",
            Self::Evidence => "Evidence",
            Self::Verdict => "Verdict",
            Self::Renew => "Renew",
            Self::Renewed => "Renewed",
            Self::RelayHello => "RelayHello",
            Self::RelayWelcome => "RelayWelcome",
            Self::AgentHello => "AgentHello",
            Self::AgentWelcome => "AgentWelcome",
            Self::Arriving => "Arriving",
            Self::More => "More",
            Self::Piece => "Piece",
            Self::Left => "Left",
        }
    }

    fn from_number(number: u16) -> Result<Self, WireError> {
        if RELAY_TYPES.contains(&number) {
            return Err(WireError::RelayReserved { number });
        }
        Self::ALL
            .into_iter()
            .find(|known| known.number() == number)
            .ok_or(WireError::FrameType { number })
    }
}

/// A preamble whose sender speaks a version that we speak, and whose length is within limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// The versions that its sender speaks.
    pub versions: Versions,
    /// What follows.
    pub frame_type: FrameType,
    /// Bytes of the body.
    pub body_bytes: usize,
}

impl Preamble {
    /// Reads a preamble.
    ///
    /// # Errors
    /// [`WireError`], before anything else is read: magic, versions, type, length.
    pub fn parse(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, min, max, t0, t1, l0, l1, l2, l3] = *bytes;
        let found = [m0, m1, m2, m3];
        if found != MAGIC {
            return Err(WireError::Magic { found });
        }
        let versions = Versions { min, max };
        let number = u16::from_le_bytes([t0, t1]);
        // Whoever lists versions cannot read ours, and says so in the one body that never changes.
        let is_list = number == FrameType::Versions.number();
        if !is_list && Versions::SPOKEN.shared(versions).is_none() {
            return Err(WireError::Version { peer: versions });
        }
        let frame_type = FrameType::from_number(number)?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let body_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if body_bytes > limits::FRAME_BYTES_MAX {
            return Err(WireError::TooLong { length });
        }
        Ok(Self {
            versions,
            frame_type,
            body_bytes,
        })
    }

    /// The preamble of our own frames.
    pub(super) fn of(frame_type: FrameType, body: &[u8]) -> Option<[u8; PREAMBLE_BYTES]> {
        if body.len() > limits::FRAME_BYTES_MAX {
            return None;
        }
        let [m0, m1, m2, m3] = MAGIC;
        let Versions { min, max } = Versions::SPOKEN;
        let [t0, t1] = frame_type.number().to_le_bytes();
        let [l0, l1, l2, l3] = u32::try_from(body.len()).ok()?.to_le_bytes();
        Some([m0, m1, m2, m3, min, max, t0, t1, l0, l1, l2, l3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_versions_speak_the_highest_they_share() {
        let range = |min, max| Versions { min, max };
        assert_eq!(range(1, 2).shared(range(2, 3)), Some(2));
        assert_eq!(range(1, 1).shared(range(1, 2)), Some(1));
        assert_eq!(range(2, 3).shared(range(1, 1)), None);
        // A range that ends before it begins holds nothing.
        assert_eq!(range(1, 5).shared(range(3, 2)), None);
    }
}
