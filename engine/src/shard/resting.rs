//! Agents that nothing happens to, packed into few bytes.
//!
//! Of a large fleet nearly everybody waits for the next challenge, or is not there. Such an agent
//! rests: it is one record of bytes, about half as large as its parts are, and is unpacked when
//! something happens to it.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::agent::{Agent, Key, Phase, StoredList};
use super::kept::Passed;
use super::record::AgentRecord;

/// A connected agent whose next challenge comes sooner is not packed: that would take longer than
/// it is worth.
const REST_MS_MIN: u64 = 5_000;

/// An agent at rest.
#[derive(Debug)]
pub(super) struct Resting {
    /// [`Agent`] in postcard: its id comes first, its group second.
    packed: Box<[u8]>,
    key: Key,
    last_pass: Option<Box<Passed>>,
}

/// An agent to look at.
#[derive(Debug)]
pub(super) enum AgentRef<'a> {
    /// One that something happens to.
    Awake(&'a Agent),
    /// One at rest, unpacked for this look.
    Resting(Box<Agent>),
}

impl Deref for AgentRef<'_> {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        match self {
            Self::Awake(agent) => agent,
            Self::Resting(agent) => agent,
        }
    }
}

impl Agent {
    /// Whether nothing is under way for it, and nothing is to come soon.
    pub(super) fn may_rest(&self, now_ms: u64) -> bool {
        let is_idle = matches!(self.phase, Phase::Idle) && self.share.is_none();
        let list_waits = matches!(
            self.stored_list,
            StoredList::Wanted | StoredList::Delayed | StoredList::Queued
        );
        let left_ms = self.due_ms.saturating_sub(now_ms);
        let is_soon = self.session.is_some() && left_ms < REST_MS_MIN;
        is_idle && !list_waits && !is_soon && !self.is_to_be_cleared && self.candidate.is_none()
    }
}

impl Resting {
    /// Packs an agent that may rest; gives it back when it cannot be packed.
    pub(super) fn of(mut agent: Box<Agent>, scratch: &mut Vec<u8>) -> Result<Self, Box<Agent>> {
        scratch.clear();
        match postcard::to_extend(&*agent, std::mem::take(scratch)) {
            Ok(packed) => *scratch = packed,
            Err(_) => return Err(agent),
        }
        Ok(Self {
            packed: scratch.as_slice().into(),
            key: std::mem::take(&mut agent.key),
            last_pass: agent.last_pass.take(),
        })
    }

    /// The agent, as it was packed. `None` only if the bytes were not made by [`of`](Self::of).
    pub(super) fn wake(&mut self) -> Option<Box<Agent>> {
        let mut agent: Box<Agent> = postcard::from_bytes(&self.packed).ok()?;
        agent.key = std::mem::take(&mut self.key);
        agent.last_pass = self.last_pass.take();
        Some(agent)
    }

    /// The agent to look at, without its key and its last pass: who needs them wakes it.
    pub(super) fn look(&self) -> Option<Box<Agent>> {
        postcard::from_bytes(&self.packed).ok()
    }

    /// How long it is.
    #[cfg(test)]
    pub(super) const fn packed_bytes(&self) -> usize {
        self.packed.len()
    }

    /// Its id.
    pub(super) fn id(&self) -> Option<&str> {
        let (id, _) = postcard::take_from_bytes(&self.packed).ok()?;
        Some(id)
    }

    /// Its id and its group.
    pub(super) fn id_and_group(&self) -> Option<(&str, &str)> {
        let (both, _) = postcard::take_from_bytes(&self.packed).ok()?;
        Some(both)
    }
}

/// The record of an agent, written as if it was not shared.
pub(super) mod record {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        record: &Arc<AgentRecord>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        record.as_ref().serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<AgentRecord>, D::Error> {
        AgentRecord::deserialize(deserializer).map(Arc::new)
    }
}
