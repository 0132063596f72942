//! Whether two machines take turns with one agent's identity. (T03)

use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::evidence::Instance;

/// Superseded instances that are remembered: those of two clones, and of some restarts between.
const SUPERSEDED_MAX: usize = 4;

/// The turns that connections of one agent took, as far as they need two machines.
///
/// A program that crashed and was started again is another instance, whose predecessor never comes
/// back. So a first instance counts for nothing, whatever it replaces. What counts is the return of
/// an instance that another one had replaced, and an instance that replaces its own living
/// connection: the memory of a running machine was copied, with the program in it.
///
/// # Security
/// Instances are what agents say. Clones that draw a new one for each connection are not seen here;
/// the jump of the TPM's clock tells them. (T09)
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Turns {
    superseded: [Option<Instance>; SUPERSEDED_MAX],
    count: u32,
    last_ms: u64,
}

impl Turns {
    /// `new` takes over while the connection of `old`, which proved itself, lives.
    pub(super) fn taken(&mut self, old: Instance, new: Instance, now_ms: u64, settings: &Settings) {
        let returns = self.superseded.contains(&Some(new));
        if old != new && !self.superseded.contains(&Some(old)) {
            self.superseded.rotate_right(1);
            if let Some(newest) = self.superseded.first_mut() {
                *newest = Some(old);
            }
        }
        if old != new && !returns {
            return;
        }
        if !self.is_recent(now_ms, settings) {
            self.count = 0;
        }
        // The first return shows that what it answers was a turn too.
        let is_first_return = returns && self.count == 0;
        let turns = if is_first_return { 2 } else { 1 };
        self.count = self.count.saturating_add(turns);
        self.last_ms = now_ms;
    }

    /// Whether there were too many, and the last not longer ago than the longest age.
    pub(super) fn are_too_many(&self, now_ms: u64, settings: &Settings) -> bool {
        self.count >= settings.alternations_max && self.is_recent(now_ms, settings)
    }

    /// An operator has looked into it.
    pub(super) const fn forgive(&mut self) {
        self.count = 0;
    }

    const fn is_recent(&self, now_ms: u64, settings: &Settings) -> bool {
        now_ms.saturating_sub(self.last_ms) <= settings.max_age_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns of these instances, so many milliseconds apart.
    fn turns(instances: &[u8], apart_ms: u64) -> (Turns, u64) {
        let mut turns = Turns::default();
        let mut now_ms = 1_000_000;
        for (old, new) in instances.iter().zip(instances.iter().skip(1)) {
            now_ms += apart_ms;
            let [old, new] = [*old, *new].map(|number| Instance([number; 16]));
            turns.taken(old, new, now_ms, &Settings::default());
        }
        (turns, now_ms)
    }

    fn are_two(instances: &[u8], apart_ms: u64) -> bool {
        let (turns, now_ms) = turns(instances, apart_ms);
        turns.are_too_many(now_ms, &Settings::default())
    }

    #[test]
    fn t03_programs_that_are_started_again_are_one_machine() {
        assert!(!are_two(&[1, 2, 3, 4, 5, 6, 7, 8], 1_000));
    }

    #[test]
    fn t03_a_program_that_comes_back_is_of_another_machine() {
        assert!(!are_two(&[1, 2, 1], 1_000));
        assert!(are_two(&[1, 2, 1, 2], 1_000));
        // One of the two crashes now and then.
        assert!(are_two(&[1, 2, 1, 3, 1, 4, 1], 1_000));
    }

    #[test]
    fn t03_a_program_that_replaces_itself_again_and_again_was_copied_while_it_ran() {
        assert!(!are_two(&[1, 1, 1], 1_000));
        assert!(are_two(&[1, 1, 1, 1], 1_000));
    }

    #[test]
    fn t03_turns_far_apart_and_old_ones_count_for_nothing() {
        assert!(!are_two(&[1, 1, 1, 1, 1, 1], 30_001));
        let (turns, now_ms) = turns(&[1, 2, 1, 2], 1_000);
        assert!(turns.are_too_many(now_ms + 30_000, &Settings::default()));
        assert!(!turns.are_too_many(now_ms + 30_001, &Settings::default()));
    }

    #[test]
    fn t03_no_more_instances_are_remembered_than_the_limit() {
        let many: Vec<u8> = (1..=SUPERSEDED_MAX as u8 + 2).collect();
        let (turns, _) = turns(&many, 1);
        assert!(turns.superseded.iter().all(Option::is_some));
        assert!(!turns.superseded.contains(&Some(Instance([1; 16]))));
    }
}
