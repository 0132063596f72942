//! How much is asked of the fleet at once: never more than can be judged.

/// Challenges that one worker may have open at once, and connections it admits.
///
/// The number of open challenges follows the time that evidence takes from its arrival to its
/// commit: it grows while that is short and shrinks when it is long, so that agents which behave
/// cannot overload the server. Evidence whose logs are long has a place of its own while it
/// arrives, and its time does not count: how fast an agent sends must not slow down others.
/// (S07, S08)
#[derive(Debug, Clone)]
pub struct Pacer {
    limit_milli: u64,
    open: u64,
    receiving: u64,
    rejudging: u64,
    shrunk_at_ms: u64,
    admitted: u64,
    admitted_at_ms: u64,
    settings: PacerSettings,
}

/// The bounds of a [`Pacer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacerSettings {
    /// Challenges that may always be open.
    pub open_min: u64,
    /// Challenges that may ever be open.
    pub open_max: u64,
    /// Agents whose logs may be on their way beside the open challenges.
    pub receiving_max: u64,
    /// Stored lists that are judged at once, after a policy changed. Each takes a lane for one
    /// piece at a time, so that quotes go in between. (L07)
    pub rejudging_max: u64,
    /// The service time that is aimed at, in milliseconds.
    pub service_ms_target: u64,
    /// Connections admitted each second.
    pub admissions_per_second_max: u64,
}

impl Default for PacerSettings {
    fn default() -> Self {
        Self {
            open_min: 16,
            open_max: 4_096,
            receiving_max: 256,
            rejudging_max: 2,
            service_ms_target: 250,
            admissions_per_second_max: 2_000,
        }
    }
}

/// What a challenge counts as until it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// One of the open challenges.
    Open,
    /// One of those whose logs are on their way.
    Receiving,
    /// None: its stored list is being judged.
    Rejudging,
}

const MILLI: u64 = 1_000;

impl Pacer {
    /// A pacer that begins between its bounds.
    pub const fn new(settings: PacerSettings) -> Self {
        Self {
            limit_milli: settings.open_min.saturating_mul(4).saturating_mul(MILLI),
            open: 0,
            receiving: 0,
            rejudging: 0,
            shrunk_at_ms: 0,
            admitted: 0,
            admitted_at_ms: 0,
            settings,
        }
    }

    /// Whether another challenge may be opened.
    pub const fn may_open(&self) -> bool {
        self.open < self.limit_milli / MILLI
    }

    /// How many challenges are open.
    pub const fn open(&self) -> u64 {
        self.open
    }

    /// How many may be.
    pub const fn limit(&self) -> u64 {
        self.limit_milli / MILLI
    }

    pub(super) const fn opened(&mut self) {
        self.open = self.open.saturating_add(1);
    }

    /// How many more stored lists may be judged now.
    pub const fn rejudging_room(&self) -> u64 {
        self.settings.rejudging_max.saturating_sub(self.rejudging)
    }

    pub(super) const fn rejudges(&mut self) {
        self.rejudging = self.rejudging.saturating_add(1);
    }

    /// Logs of a challenge are on their way: it counts as an open one no more, unless
    /// too many arrive already. Returns what it counts as from now on.
    pub(super) const fn receive(&mut self, slot: Slot) -> Slot {
        match slot {
            Slot::Open if self.receiving < self.settings.receiving_max => {
                self.open = self.open.saturating_sub(1);
                self.receiving = self.receiving.saturating_add(1);
                Slot::Receiving
            }
            slot => slot,
        }
    }

    /// A challenge is over; `service_ms` when its evidence was judged and committed.
    pub(super) fn closed(&mut self, slot: Slot, service_ms: Option<u64>, now_ms: u64) {
        match slot {
            Slot::Receiving => {
                self.receiving = self.receiving.saturating_sub(1);
                return;
            }
            Slot::Rejudging => {
                self.rejudging = self.rejudging.saturating_sub(1);
                return;
            }
            Slot::Open => self.open = self.open.saturating_sub(1),
        }
        let Some(service_ms) = service_ms else { return };
        let PacerSettings {
            open_min,
            open_max,
            service_ms_target,
            ..
        } = self.settings;
        if service_ms <= service_ms_target {
            // One more for each limit's worth of quick ones.
            let step = MILLI.saturating_mul(MILLI).checked_div(self.limit_milli);
            self.limit_milli = self.limit_milli.saturating_add(step.unwrap_or(1).max(1));
        } else if now_ms.saturating_sub(self.shrunk_at_ms) >= service_ms_target {
            self.shrunk_at_ms = now_ms;
            self.limit_milli = self.limit_milli.saturating_mul(3) / 4;
        }
        let (least, most) = (
            open_min.saturating_mul(MILLI),
            open_max.saturating_mul(MILLI),
        );
        self.limit_milli = self.limit_milli.clamp(least, most.max(least));
    }

    /// Whether one more connection is admitted now.
    pub(super) const fn admit(&mut self, now_ms: u64) -> bool {
        if now_ms.saturating_sub(self.admitted_at_ms) >= 1_000 {
            self.admitted_at_ms = now_ms;
            self.admitted = 0;
        }
        if self.admitted >= self.settings.admissions_per_second_max {
            return false;
        }
        self.admitted = self.admitted.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s07_slow_service_closes_the_gate_and_quick_service_opens_it() {
        let mut pacer = Pacer::new(PacerSettings::default());
        let start = pacer.limit();
        for _ in 0..10_000 {
            pacer.opened();
            pacer.closed(Slot::Open, Some(1), 0);
        }
        let grown = pacer.limit();
        assert!(grown > start && grown <= 4_096, "{grown}");
        for nth in 0..100 {
            pacer.opened();
            pacer.closed(Slot::Open, Some(10_000), nth * 1_000);
        }
        assert_eq!(pacer.limit(), 16);
    }

    #[test]
    fn s07_no_more_challenges_than_the_limit() {
        let mut pacer = Pacer::new(PacerSettings::default());
        let mut opened = 0;
        while pacer.may_open() {
            pacer.opened();
            opened += 1;
        }
        assert_eq!(opened, pacer.limit());
        pacer.closed(Slot::Open, None, 0);
        assert!(pacer.may_open());
    }

    #[test]
    fn s07_logs_on_their_way_hold_nobody_up() {
        let mut pacer = Pacer::new(PacerSettings {
            receiving_max: 2,
            ..PacerSettings::default()
        });
        let (start, limit) = (pacer.open(), pacer.limit());
        let slots = [(); 3].map(|()| {
            pacer.opened();
            pacer.receive(Slot::Open)
        });
        assert_eq!(slots, [Slot::Receiving, Slot::Receiving, Slot::Open]);
        assert_eq!(pacer.open(), start + 1);
        assert_eq!(slots.map(|slot| pacer.receive(slot)), slots, "counted once");
        for slot in slots {
            pacer.closed(slot, (slot == Slot::Receiving).then_some(600_000), 0);
        }
        assert_eq!((pacer.open(), pacer.limit()), (start, limit));
        pacer.opened();
        assert_eq!(pacer.receive(Slot::Open), Slot::Receiving);
    }

    #[test]
    fn s08_a_herd_is_admitted_at_a_rate() {
        let mut pacer = Pacer::new(PacerSettings {
            admissions_per_second_max: 3,
            ..PacerSettings::default()
        });
        let admitted = (0..10).filter(|_| pacer.admit(5_000)).count();
        assert_eq!(admitted, 3);
        assert!(pacer.admit(6_000));
    }
}
