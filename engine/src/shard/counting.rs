//! Agents by group and by how they stand.

use std::collections::BTreeMap;

use super::machine::Shard;
use super::state::EffectiveStatus;
use crate::time::Now;

/// How many agents of each group stand how. Groups without agents, and statuses that no agent of a
/// group has, are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusCounts(BTreeMap<String, BTreeMap<EffectiveStatus, u64>>);

impl StatusCounts {
    /// One more agent.
    pub fn add(&mut self, group: &str, status: EffectiveStatus) {
        self.add_many(group, status, 1);
    }

    /// What another one counted, too.
    pub fn add_all(&mut self, other: &Self) {
        for (group, statuses) in other.groups() {
            for (status, agents) in statuses {
                self.add_many(group, *status, *agents);
            }
        }
    }

    fn add_many(&mut self, group: &str, status: EffectiveStatus, agents: u64) {
        if !self.0.contains_key(group) {
            self.0.insert(group.to_owned(), BTreeMap::new());
        }
        if let Some(statuses) = self.0.get_mut(group) {
            let count = statuses.entry(status).or_default();
            *count = count.saturating_add(agents);
        }
    }

    /// Groups by name, with their agents by status.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &BTreeMap<EffectiveStatus, u64>)> {
        let groups = self.0.iter();
        groups.map(|(group, statuses)| (group.as_str(), statuses))
    }
}

impl Shard {
    /// Every agent, counted by its group and by what it amounts to now.
    ///
    /// # Cost
    /// A look at each agent of the shard.
    pub fn status_counts(&self, now: Now) -> StatusCounts {
        let mut counts = StatusCounts::default();
        for agent in self.agents() {
            let status = agent.status(self.group_of(&agent), now.mono_ms);
            counts.add(&agent.record.group, status);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_counts_together_are_the_count_of_both() {
        let (mut one, mut other) = (StatusCounts::default(), StatusCounts::default());
        one.add("a", EffectiveStatus::Trusted);
        one.add("a", EffectiveStatus::Overdue);
        other.add("a", EffectiveStatus::Overdue);
        other.add("b", EffectiveStatus::Untrusted);
        one.add_all(&other);
        let counted: Vec<_> = one
            .groups()
            .flat_map(|(group, statuses)| {
                let statuses = statuses.iter();
                statuses.map(move |(status, agents)| (group, *status, *agents))
            })
            .collect();
        let expected = [
            ("a", EffectiveStatus::Trusted, 1),
            ("a", EffectiveStatus::Overdue, 2),
            ("b", EffectiveStatus::Untrusted, 1),
        ];
        assert_eq!(counted, expected);
    }
}
