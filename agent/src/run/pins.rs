//! Which CAs an agent pins, and how that changes.
//!
//! Each Welcome tells the server's CA set. Whoever holds the key of a server's certificate can
//! tell any set, for as long as that certificate is valid; so what is told once changes nothing.
//!
//! - A CA that is told and not pinned, or pinned and not told, is a *change*; the agent remembers
//!   when it was first told.
//! - A change is made when a server tells it whose certificate was issued after that, by a pinned
//!   CA. A server gets a new certificate at each start and every few weeks, from the CA; a stolen
//!   key does not. A change that a server takes back in between is forgotten.
//! - A CA is dropped only if the server that tells so is trusted under those that stay. There is
//!   always one that stays.
//!
//! So a stolen key never makes a CA of the thief's pinned, nor the next CA forgotten; and a
//! rotation works when the next CA has been told for longer than a server's certificate is used
//! before it takes over. At enrolment the whole set is pinned at once: its channel is
//! authenticated by the fingerprint in the token. (N14)

use rat_transport::limits::CERTIFICATES_MAX;

/// The CAs that are pinned, and the changes that wait to be confirmed; certificates in DER.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pins {
    pub(super) ca_set: Vec<Vec<u8>>,
    pub(super) changes: Vec<Change>,
}

/// A CA that is to be pinned if it is not, and dropped if it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) certificate: Vec<u8>,
    /// When a server told it first, by this machine's clock.
    pub(super) since_unix_ms: u64,
}

/// What a server told that proved itself under the pinned CAs.
pub(super) struct Telling<'t> {
    /// Its CAs.
    pub(super) ca_set: &'t [Vec<u8>],
    /// When its own certificate was issued.
    pub(super) issued_unix_ms: u64,
    /// Now, by this machine's clock.
    pub(super) now_unix_ms: u64,
    /// Whether the server is trusted under these CAs alone.
    pub(super) trusted_under: &'t dyn Fn(&[Vec<u8>]) -> bool,
}

impl Pins {
    /// The pins after a server told its CAs.
    ///
    /// # Security
    /// The server has proven itself under the pins before. Time is the machine's: one whose clock
    /// is behind takes a certificate for younger than the change that is older.
    pub(super) fn after(&self, telling: &Telling<'_>) -> Self {
        let told = telling.ca_set;
        if told.is_empty() {
            return self.clone();
        }
        let added = told.iter().filter(|ca| !self.ca_set.contains(ca));
        let dropped = self.ca_set.iter().filter(|ca| !told.contains(ca));
        let changes: Vec<Change> = added
            .chain(dropped)
            .map(|certificate| Change {
                certificate: certificate.clone(),
                since_unix_ms: self.since(certificate).unwrap_or(telling.now_unix_ms),
            })
            .collect();
        let (confirmed, waiting): (Vec<Change>, Vec<Change>) = changes
            .iter()
            .cloned()
            .partition(|change| telling.issued_unix_ms > change.since_unix_ms);
        let changes_now = |ca: &Vec<u8>| confirmed.iter().any(|change| change.certificate == *ca);
        let all = self.ca_set.iter().chain(told);
        let mut ca_set: Vec<Vec<u8>> = Vec::new();
        for ca in all.filter(|ca| self.ca_set.contains(ca) != changes_now(ca)) {
            if !ca_set.contains(ca) {
                ca_set.push(ca.clone());
            }
        }
        let stays = |ca: &&Vec<u8>| self.ca_set.contains(ca);
        let staying: Vec<Vec<u8>> = ca_set.iter().filter(stays).cloned().collect();
        let is_sound = ca_set.len() <= CERTIFICATES_MAX
            && (telling.trusted_under)(&staying)
            && (telling.trusted_under)(&ca_set);
        if !is_sound {
            tracing::warn!("the server's CA set would lock this agent out: not pinned");
            return Self {
                ca_set: self.ca_set.clone(),
                changes,
            };
        }
        Self {
            ca_set,
            changes: waiting,
        }
    }

    /// Whether a server that tells these CAs changes nothing.
    pub(super) fn are_all_of(&self, told: &[Vec<u8>]) -> bool {
        self.changes.is_empty()
            && told.iter().all(|ca| self.ca_set.contains(ca))
            && self.ca_set.iter().all(|ca| told.contains(ca))
    }

    fn since(&self, certificate: &[u8]) -> Option<u64> {
        let known = |change: &&Change| change.certificate == certificate;
        self.changes
            .iter()
            .find(known)
            .map(|change| change.since_unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const CURRENT: u8 = 1;
    const NEXT: u8 = 2;
    const EVIL: u8 = 9;

    fn set(cas: &[u8]) -> Vec<Vec<u8>> {
        cas.iter().map(|ca| vec![*ca]).collect()
    }

    fn pins(cas: &[u8]) -> Pins {
        Pins {
            ca_set: set(cas),
            changes: Vec::new(),
        }
    }

    /// What a server told whose certificate, of this CA, was issued on one day, on another day.
    fn told(pins: &Pins, cas: &[u8], (by, issued): (u8, u64), now: u64) -> Pins {
        assert!(issued <= now && pins.ca_set.contains(&vec![by]));
        let after = pins.after(&Telling {
            ca_set: &set(cas),
            issued_unix_ms: issued * DAY,
            now_unix_ms: now * DAY,
            trusted_under: &|cas: &[Vec<u8>]| cas.contains(&vec![by]),
        });
        // What is told to change nothing changes nothing.
        if pins.are_all_of(&set(cas)) {
            assert_eq!(after, *pins);
        }
        after
    }

    #[test]
    fn n14_a_stolen_server_key_never_pins_a_ca_of_the_thief() {
        let stolen = (CURRENT, 5);
        let tellings: [&[u8]; 5] = [
            &[CURRENT, NEXT, EVIL],
            &[EVIL],
            &[CURRENT, EVIL],
            &[EVIL, CURRENT],
            &[],
        ];
        let mut now = pins(&[CURRENT, NEXT]);
        for day in 5..35 {
            for telling in tellings {
                now = told(&now, telling, stolen, day);
                assert_eq!(now.ca_set, set(&[CURRENT, NEXT]), "day {day}");
            }
        }
        // The server's next certificate takes everything back.
        now = told(&now, &[CURRENT, NEXT], (CURRENT, 25), 35);
        assert_eq!(now, pins(&[CURRENT, NEXT]));
    }

    #[test]
    fn n14_what_a_stolen_key_told_starts_anew_after_the_server_took_it_back() {
        let evil = [CURRENT, EVIL];
        let now = told(&pins(&[CURRENT]), &evil, (CURRENT, 5), 10);
        let now = told(&now, &[CURRENT], (CURRENT, 5), 11);
        // A second theft, years later, finds nothing prepared.
        let now = told(&now, &evil, (CURRENT, 100), 101);
        assert_eq!(now.ca_set, set(&[CURRENT]));
    }

    #[test]
    fn n14_current_and_next_rotate() {
        const THIRD: u8 = 3;
        let now = told(&pins(&[CURRENT]), &[CURRENT, NEXT], (CURRENT, 1), 2);
        assert_eq!(now.ca_set, set(&[CURRENT]));
        // The same certificate tells nothing new; the next one does.
        let now = told(&now, &[CURRENT, NEXT], (CURRENT, 1), 20);
        assert_eq!(now.ca_set, set(&[CURRENT]));
        let now = told(&now, &[CURRENT, NEXT], (CURRENT, 21), 22);
        assert_eq!(now, pins(&[CURRENT, NEXT]));
        // The next CA issues, with the one before still in the set, and a third prepared.
        let now = told(&now, &[NEXT, THIRD, CURRENT], (NEXT, 30), 30);
        assert_eq!(now.ca_set, set(&[CURRENT, NEXT]));
        let now = told(&now, &[NEXT, THIRD, CURRENT], (NEXT, 50), 50);
        assert_eq!(now.ca_set, set(&[CURRENT, NEXT, THIRD]));
        // Then the first is dropped: told once, and again with a later certificate.
        let now = told(&now, &[NEXT, THIRD], (NEXT, 50), 60);
        assert_eq!(now.ca_set, set(&[CURRENT, NEXT, THIRD]));
        let now = told(&now, &[NEXT, THIRD], (NEXT, 70), 70);
        assert_eq!(now, pins(&[NEXT, THIRD]));
    }

    #[test]
    fn n14_no_server_drops_the_ca_that_it_is_trusted_under() {
        let now = pins(&[CURRENT, NEXT]);
        let now = told(&now, &[NEXT], (CURRENT, 1), 2);
        let now = told(&now, &[NEXT], (CURRENT, 3), 4);
        assert_eq!(now.ca_set, set(&[CURRENT, NEXT]));
        // A server under the one that stays does.
        let now = told(&now, &[NEXT], (NEXT, 5), 6);
        assert_eq!(now, pins(&[NEXT]));
        // A set without any of the pinned ones is nobody's to tell.
        let mut now = now;
        for day in 7..100 {
            now = told(&now, &[EVIL], (NEXT, day), day);
            assert_eq!(now.ca_set, set(&[NEXT]));
        }
    }

    #[test]
    fn n14_the_set_is_bounded() {
        let cas: Vec<u8> = (1..=8).collect();
        assert_eq!(cas.len(), CERTIFICATES_MAX);
        let mut now = pins(&cas);
        let more = [&cas[..], &[EVIL]].concat();
        for day in 1..50 {
            now = told(&now, &more, (CURRENT, day), day);
            assert_eq!(now.ca_set, set(&cas));
            assert!(now.changes.len() <= 1);
        }
    }
}
