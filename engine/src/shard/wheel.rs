//! A timing wheel: many timers, most of which are moved before they fire.

const SLOTS: usize = 256;
const SLOTS_U64: u64 = 256;
const SLOT_MS: u64 = 64;

/// Timers of one shard. A timer is a deadline and whose it is; moving one means setting another
/// and ignoring the first when it fires.
///
/// # Cost
/// Setting is one push. Each turn of the wheel (16 seconds) looks once at every timer that is
/// further away than that.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<Timer>>,
    /// Everything before this time has fired.
    swept_ms: u64,
    count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) deadline_ms: u64,
    pub(super) owner: u32,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Vec::new(); SLOTS],
            swept_ms: 0,
            count: 0,
        }
    }

    /// How many timers are set, those among them that are ignored when they fire.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) fn set(&mut self, timer: Timer) {
        // A deadline that has passed fires at the next sweep.
        let at = timer.deadline_ms.max(self.swept_ms);
        if let Some(slot) = self.slots.get_mut(slot_of(at)) {
            slot.push(timer);
            self.count = self.count.saturating_add(1);
        }
    }

    /// Takes every timer whose deadline is not after `now_ms`, in order of time and owner.
    pub(super) fn sweep(&mut self, now_ms: u64, fired: &mut Vec<Timer>) {
        if self.count > 0 {
            let first = self.swept_ms / SLOT_MS;
            let turns = (now_ms / SLOT_MS).saturating_sub(first);
            let slots = usize::try_from(turns).unwrap_or(SLOTS).min(SLOTS - 1);
            let start = slot_of(self.swept_ms);
            for nth in 0..=slots {
                let Some(slot) = self.slots.get_mut(start.wrapping_add(nth) % SLOTS) else {
                    continue;
                };
                slot.retain(|timer| {
                    let due = timer.deadline_ms <= now_ms;
                    if due {
                        fired.push(*timer);
                    }
                    !due
                });
            }
            fired.sort_unstable_by_key(|timer| (timer.deadline_ms, timer.owner));
            self.count = self.count.saturating_sub(fired.len());
        }
        self.swept_ms = self.swept_ms.max(now_ms);
    }

    /// When the next timer fires; `None` when there is none.
    pub(super) fn next_ms(&self) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let first = self.swept_ms / SLOT_MS;
        let mut soonest: Option<u64> = None;
        for turn in 0..SLOTS_U64 {
            let window = first.saturating_add(turn);
            let slot = self.slots.get(slot_of(window.saturating_mul(SLOT_MS)))?;
            let Some(in_slot) = slot.iter().map(|timer| timer.deadline_ms).min() else {
                continue;
            };
            soonest = Some(soonest.map_or(in_slot, |other| other.min(in_slot)));
            // Slots hold later turns of the wheel too; one of this turn comes before all others.
            if in_slot / SLOT_MS <= window {
                break;
            }
        }
        soonest
    }
}

fn slot_of(ms: u64) -> usize {
    usize::try_from(ms / SLOT_MS % SLOTS_U64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_timer_fires_once_at_the_first_sweep_after_its_deadline(
            deadlines in prop::collection::vec(0_u64..100_000, 0..60),
            steps in prop::collection::vec(0_u64..30_000, 1..20),
        ) {
            let mut wheel = Wheel::new();
            let mut expected: Vec<(u64, u32)> = Vec::new();
            for (owner, deadline_ms) in deadlines.iter().enumerate() {
                let owner = u32::try_from(owner).unwrap();
                wheel.set(Timer { deadline_ms: *deadline_ms, owner });
                expected.push((*deadline_ms, owner));
            }
            let mut now = 0;
            for step in steps {
                now += step;
                let mut fired = Vec::new();
                let soonest = expected.iter().map(|(deadline, _)| *deadline).min();
                prop_assert_eq!(wheel.next_ms(), soonest);
                wheel.sweep(now, &mut fired);
                let due: Vec<_> = expected.iter().copied().filter(|(at, _)| *at <= now).collect();
                expected.retain(|(at, _)| *at > now);
                let mut due = due;
                due.sort_unstable();
                let fired: Vec<_> = fired.iter().map(|timer| (timer.deadline_ms, timer.owner)).collect();
                prop_assert_eq!(fired, due);
            }
        }
    }
}
