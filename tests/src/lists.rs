//! The lists that a store keeps, in the plainest way, and how they are judged again.

use std::collections::HashMap;

use rat_engine::agent_id::AgentId;
use rat_engine::ima::LogFormat;
use rat_engine::shard::{BootEpoch, ListOnRecord, Outcome, Rejudge, Rejudged, Tick, Unusable};

/// A list as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptList {
    /// Its format.
    pub format: LogFormat,
    /// The boot in which it began.
    pub boot: Option<BootEpoch>,
    /// Its entries.
    pub entries: u64,
    /// From this entry on some are missing.
    pub gap_at_entry: Option<u64>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The newest list of each agent.
#[derive(Debug, Default)]
pub struct Lists(HashMap<AgentId, KeptList>);

impl Lists {
    /// Takes over what a tick adds.
    pub fn commit(&mut self, tick: &Tick) {
        tick.outcomes.iter().for_each(|outcome| self.keep(outcome));
    }

    /// Takes over what an outcome adds.
    pub fn keep(&mut self, outcome: &Outcome) {
        let Some(log) = &outcome.log else { return };
        let whole = log.whole.as_deref().unwrap();
        if log.from_entry == 0 {
            self.0.remove(&outcome.agent);
        }
        let list = self
            .0
            .entry(outcome.agent.clone())
            .or_insert_with(|| KeptList {
                format: log.format,
                boot: outcome.state.boot,
                entries: 0,
                gap_at_entry: None,
                bytes: Vec::new(),
            });
        if list.gap_at_entry.is_none() && list.entries == log.from_entry {
            list.entries = log.to_entry;
            list.bytes.extend_from_slice(whole);
        } else {
            list.gap_at_entry.get_or_insert(list.entries);
        }
    }

    /// The list of an agent.
    pub fn of(&self, agent: &AgentId) -> Option<&KeptList> {
        self.0.get(agent)
    }

    /// Changes the list of an agent, if there is one, behind everybody's back.
    pub fn damage(&mut self, agent: &AgentId, change: impl FnOnce(&mut KeptList)) {
        self.0.get_mut(agent).map(change);
    }

    /// Loses the list of an agent.
    pub fn lose(&mut self, agent: &AgentId) {
        self.0.remove(agent);
    }

    /// Judges the list of an agent as a runtime does, in pieces.
    pub fn rejudge(&self, rejudge: Rejudge) -> Box<Rejudged> {
        rejudged(self.of(&rejudge.agent), rejudge)
    }
}

/// Judges a list, if it is there, as a runtime does, in pieces.
pub fn rejudged(list: Option<&KeptList>, rejudge: Rejudge) -> Box<Rejudged> {
    match list {
        Some(list) => list.rejudge(rejudge, 100),
        None => rejudge.unusable(Unusable::Missing),
    }
}

impl KeptList {
    /// Judges this list in pieces of this many bytes.
    pub fn rejudge(&self, rejudge: Rejudge, piece_bytes: usize) -> Box<Rejudged> {
        let on_record = ListOnRecord {
            format: self.format,
            boot: self.boot,
            entries: self.entries,
            gap_at_entry: self.gap_at_entry,
        };
        let mut task = match rejudge.begin(&on_record) {
            Ok(task) => task,
            Err(ended) => return ended,
        };
        for piece in self.bytes.chunks(piece_bytes) {
            if !task.feed(piece) {
                break;
            }
        }
        task.finish()
    }
}
