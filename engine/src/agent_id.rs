//! The name of a machine.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::crypto;
use crate::hash::HashAlg;
use crate::limits;

/// Segments of routes that stand where an id would.
const RESERVED: [&str; 8] = [
    ".",
    "..",
    "pending",
    "latest",
    "enroll",
    "enroll-baseline",
    "baseline",
    "establish-baseline",
];

/// The name of one machine, in canonical form: 1-80 of `[A-Za-z0-9_.-]`, UUIDs in lower case.
///
/// Two ids are the same machine exactly when they are equal. (N06)
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(Arc<str>);

/// Why a text is no agent id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AgentIdError {
    /// Empty, or too long.
    #[error(
        "an agent id has 1 to {} characters, this one {found}",
        limits::AGENT_ID_BYTES_MAX
    )]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// A character that is not allowed, at this byte.
    #[error("byte {at} of the agent id is not a letter, digit, `_`, `.` or `-`")]
    Character {
        /// Its offset.
        at: usize,
    },
    /// A word that routes use.
    #[error("this word is reserved and cannot be an agent id")]
    Reserved,
}

impl AgentId {
    /// The id in this text. A UUID is brought to lower case; nothing else is changed.
    ///
    /// # Errors
    /// [`AgentIdError`]. White space, braces and Unicode are refused, never trimmed or folded.
    pub fn parse(text: &str) -> Result<Self, AgentIdError> {
        let found = text.len();
        if found == 0 || found > limits::AGENT_ID_BYTES_MAX {
            return Err(AgentIdError::Length { found });
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if let Some(at) = text.bytes().position(|byte| !allowed(byte)) {
            return Err(AgentIdError::Character { at });
        }
        if RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word)) {
            return Err(AgentIdError::Reserved);
        }
        if is_uuid(text) {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        Ok(Self(text.into()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard that holds this agent.
    pub fn shard(&self) -> ShardIndex {
        let digest = crypto::digest(HashAlg::Sha256, self.0.as_bytes());
        match digest.as_bytes() {
            [high, low, ..] => ShardIndex(u16::from_be_bytes([*high, *low]) % ShardIndex::COUNT),
            _ => ShardIndex(0),
        }
    }
}

/// One of the logical partitions of all agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardIndex(u16);

impl ShardIndex {
    /// How many there are. Part of the store's schema: it never changes.
    pub const COUNT: u16 = 1024;

    /// The shard with this number, if there is one.
    pub const fn new(index: u16) -> Option<Self> {
        if index < Self::COUNT {
            Some(Self(index))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentId({})", self.0)
    }
}

impl Serialize for AgentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AgentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n06_only_one_form_of_each_id() {
        let upper = AgentId::parse("D432FBB3-D2F1-4A97-9EF7-75BD81C00000").unwrap();
        assert_eq!(upper.as_str(), "d432fbb3-d2f1-4a97-9ef7-75bd81c00000");
        // Only UUIDs have no case.
        assert_ne!(
            AgentId::parse("Host").unwrap(),
            AgentId::parse("host").unwrap()
        );
        for refused in [
            "",
            " a",
            "a ",
            "a\n",
            "a/b",
            "a\\b",
            "{a}",
            "ä",
            "a\u{200b}",
            "a%2f",
            "a\0",
            "..",
            ".",
            "pending",
            "Latest",
            "ENROLL",
            "baseline",
            "enroll-baseline",
            "establish-baseline",
            &"x".repeat(81),
        ] {
            assert!(AgentId::parse(refused).is_err(), "{refused:?}");
        }
        for taken in ["a", "web-1.example_com", "...", &"x".repeat(80)] {
            assert_eq!(AgentId::parse(taken).unwrap().as_str(), taken);
        }
    }

    #[test]
    fn shards_of_ids_never_change() {
        assert_eq!(
            AgentId::parse("agent-1").unwrap().shard(),
            ShardIndex(EXPECTED)
        );
        assert_eq!(ShardIndex::all().count(), 1024);
        assert_eq!(ShardIndex::new(1024), None);
    }
    // printf agent-1 | sha256sum: first two bytes modulo 1024.
    const EXPECTED: u16 = 1011;
}
