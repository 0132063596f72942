//! How much is asked of the fleet at once: never more than can be judged.

use std::collections::HashMap;

/// Challenges that one worker may have open at once, and connections it admits.
///
/// The number of open challenges follows the time that evidence takes from its arrival to its
/// commit: it grows while that is short and shrinks when it is long, so that agents which behave
/// cannot overload the server. Evidence whose logs are long has a place of its own while it
/// arrives, and its time does not count: how fast an agent sends must not slow down others.
/// (S07, S08)
///
/// A relay can withhold the answers of all its agents. So one has no more than half of the open
/// challenges, all relays together no more than three quarters, and the rest is for agents that
/// speak for themselves. (Q16)
#[derive(Debug, Clone)]
pub struct Pacer {
    limit_milli: u64,
    open: u64,
    receiving: u64,
    rejudging: u64,
    shrunk_at_ms: u64,
    admitted: u64,
    admitted_at_ms: u64,
    /// Open challenges of each relay, in the order in which they were first seen.
    relays: Vec<u64>,
    relay_places: HashMap<[u8; 32], RelayPlace>,
    relayed: u64,
    /// Challenges that ended.
    ended: u64,
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

/// A relay, as a pacer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelayPlace(u16);

/// What a challenge counts as, and against which relay's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) slot: Slot,
    pub(super) relay: Option<RelayPlace>,
}

impl Share {
    /// One that no relay has a part in.
    pub(super) const fn direct(slot: Slot) -> Self {
        Self { slot, relay: None }
    }
}

const MILLI: u64 = 1_000;

impl Pacer {
    /// A pacer that begins between its bounds.
    pub fn new(settings: PacerSettings) -> Self {
        Self {
            limit_milli: settings.open_min.saturating_mul(4).saturating_mul(MILLI),
            open: 0,
            receiving: 0,
            rejudging: 0,
            shrunk_at_ms: 0,
            admitted: 0,
            admitted_at_ms: 0,
            relays: Vec::new(),
            relay_places: HashMap::new(),
            relayed: 0,
            ended: 0,
            settings,
        }
    }

    /// Whether another challenge may be opened.
    pub const fn may_open(&self) -> bool {
        self.open < self.limit_milli / MILLI
    }

    /// How many more challenges may be opened.
    pub const fn room(&self) -> u64 {
        self.limit().saturating_sub(self.open)
    }

    /// How many more may be opened through relays, all of them together. (Q16)
    pub const fn relay_room(&self) -> u64 {
        let (room, of_all) = (self.room(), self.relays_max());
        let relayed = of_all.saturating_sub(self.relayed);
        if relayed < room { relayed } else { room }
    }

    /// How many may be open through relays, all of them together.
    const fn relays_max(&self) -> u64 {
        let most = self.limit().saturating_sub(self.limit() / 4);
        if most == 0 { 1 } else { most }
    }

    /// How many challenges are open.
    pub const fn open(&self) -> u64 {
        self.open
    }

    /// How many may be.
    pub const fn limit(&self) -> u64 {
        self.limit_milli / MILLI
    }

    /// How many challenges ended: when this changed, a relay may have room again.
    pub const fn ended(&self) -> u64 {
        self.ended
    }

    /// Whether another challenge may be opened through the relay with this key.
    pub(super) fn may_open_through(&self, relay: &[u8; 32]) -> bool {
        let of_one = (self.limit() / 2).max(1);
        let open = self
            .relay_places
            .get(relay)
            .map_or(0, |place| self.open_of(*place));
        self.relay_room() > 0 && open < of_one
    }

    fn open_of(&self, relay: RelayPlace) -> u64 {
        self.relays.get(usize::from(relay.0)).copied().unwrap_or(0)
    }

    fn count(&mut self, relay: RelayPlace, change: impl Fn(u64) -> u64) {
        self.relayed = change(self.relayed);
        if let Some(open) = self.relays.get_mut(usize::from(relay.0)) {
            *open = change(*open);
        }
    }

    /// The place of a relay. Operators name relays, and a few of them; those beyond the last place
    /// share it.
    fn place(&mut self, relay: &[u8; 32]) -> RelayPlace {
        if let Some(place) = self.relay_places.get(relay) {
            return *place;
        }
        let place = RelayPlace(u16::try_from(self.relays.len()).unwrap_or(u16::MAX));
        if self.relays.len() <= usize::from(place.0) {
            self.relays.push(0);
        }
        self.relay_places.insert(*relay, place);
        place
    }

    /// A challenge was opened, through this relay if through one.
    pub(super) fn opened(&mut self, relay: Option<&[u8; 32]>) -> Share {
        self.open = self.open.saturating_add(1);
        let relay = relay.map(|relay| self.place(relay));
        if let Some(relay) = relay {
            self.count(relay, |open| open.saturating_add(1));
        }
        let slot = Slot::Open;
        Share { slot, relay }
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
    pub(super) const fn receive(&mut self, share: Share) -> Share {
        let slot = match share.slot {
            Slot::Open if self.receiving < self.settings.receiving_max => {
                self.open = self.open.saturating_sub(1);
                self.receiving = self.receiving.saturating_add(1);
                Slot::Receiving
            }
            slot => slot,
        };
        Share { slot, ..share }
    }

    /// A challenge is over; `service_ms` when its evidence was judged and committed.
    pub(super) fn closed(&mut self, share: Share, service_ms: Option<u64>, now_ms: u64) {
        self.ended = self.ended.wrapping_add(1);
        if let Some(relay) = share.relay {
            self.count(relay, |open| open.saturating_sub(1));
        }
        match share.slot {
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
            let share = pacer.opened(None);
            pacer.closed(share, Some(1), 0);
        }
        let grown = pacer.limit();
        assert!(grown > start && grown <= 4_096, "{grown}");
        for nth in 0..100 {
            let share = pacer.opened(None);
            pacer.closed(share, Some(10_000), nth * 1_000);
        }
        assert_eq!(pacer.limit(), 16);
    }

    #[test]
    fn s07_no_more_challenges_than_the_limit() {
        let mut pacer = Pacer::new(PacerSettings::default());
        let mut opened = 0;
        while pacer.may_open() {
            pacer.opened(None);
            opened += 1;
        }
        assert_eq!(opened, pacer.limit());
        pacer.closed(Share::direct(Slot::Open), None, 0);
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
            let share = pacer.opened(None);
            pacer.receive(share)
        });
        let expected = [Slot::Receiving, Slot::Receiving, Slot::Open];
        assert_eq!(slots, expected.map(Share::direct));
        assert_eq!(pacer.open(), start + 1);
        assert_eq!(
            slots.map(|share| pacer.receive(share)),
            slots,
            "counted once"
        );
        for share in slots {
            let is_receiving = share.slot == Slot::Receiving;
            pacer.closed(share, is_receiving.then_some(600_000), 0);
        }
        assert_eq!((pacer.open(), pacer.limit()), (start, limit));
        let share = pacer.opened(None);
        assert_eq!(pacer.receive(share).slot, Slot::Receiving);
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

    #[test]
    fn q16_relays_that_withhold_answers_leave_room_for_others() {
        let mut pacer = Pacer::new(PacerSettings::default());
        let limit = pacer.limit();
        let relays = [[1; 32], [2; 32], [3; 32]];
        let mut shares = Vec::new();
        let opened = relays.map(|relay| {
            let mut opened = 0;
            while pacer.may_open_through(&relay) {
                shares.push(pacer.opened(Some(&relay)));
                opened += 1;
            }
            opened
        });
        assert_eq!(opened, [limit / 2, limit / 4, 0]);
        let mut direct = 0;
        while pacer.may_open() {
            shares.push(pacer.opened(None));
            direct += 1;
        }
        assert_eq!(direct, limit / 4);
        let ended = pacer.ended();
        for share in shares {
            pacer.closed(share, None, 0);
        }
        assert_eq!(pacer.ended(), ended + limit);
        assert!(relays.iter().all(|relay| pacer.may_open_through(relay)));
        assert_eq!((pacer.open(), pacer.relayed), (0, 0));
    }
}
