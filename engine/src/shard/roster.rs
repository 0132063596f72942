//! Who is in a shard, and where.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::ops::Range;

use hashbrown::HashTable;

use super::agent::{Agent, Key, Phase};
use super::resting::{AgentRef, Resting};
use crate::agent_id::AgentId;

/// Agents of a shard with so few of them keep what a library made of their keys while they rest;
/// others have it made again. It takes as much memory as all the rest of them.
const LIBRARY_KEYS_MAX: usize = 16;

/// Agents by place and by id. An agent keeps its place while it is here.
#[derive(Debug, Default)]
pub(super) struct Roster {
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    /// Places by id; the ids are in the entries.
    places: HashTable<u32>,
    hasher: RandomState,
    /// Places of agents that were awake since [`rest`](Self::rest) was called last, some twice.
    stirred: Vec<u32>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
enum Entry {
    Vacant,
    Awake(Box<Agent>),
    Resting(Resting),
}

impl Entry {
    fn id(&self) -> Option<&str> {
        match self {
            Self::Vacant => None,
            Self::Awake(agent) => Some(agent.record.id.as_str()),
            Self::Resting(resting) => resting.id(),
        }
    }

    fn id_and_group(&self) -> Option<(&str, &str)> {
        match self {
            Self::Vacant => None,
            Self::Awake(agent) => Some((agent.record.id.as_str(), &agent.record.group)),
            Self::Resting(resting) => resting.id_and_group(),
        }
    }

    fn look(&self) -> Option<AgentRef<'_>> {
        match self {
            Self::Vacant => None,
            Self::Awake(agent) => Some(AgentRef::Awake(agent)),
            Self::Resting(resting) => resting.look().map(AgentRef::Resting),
        }
    }
}

impl Roster {
    /// How many agents there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Every place, vacant ones among them.
    pub(super) fn every_place(&self) -> Range<u32> {
        0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    fn entry(&self, place: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// Where an agent is.
    pub(super) fn place(&self, id: &AgentId) -> Option<u32> {
        let is_it = |place: &u32| self.entry(*place).and_then(Entry::id) == Some(id.as_str());
        let hash = self.hasher.hash_one(id.as_str());
        self.places.find(hash, is_it).copied()
    }

    /// The group of the agent at this place.
    pub(super) fn group(&self, place: u32) -> Option<&str> {
        self.id_and_group(place).map(|(_, group)| group)
    }

    /// The same, and who it is.
    pub(super) fn id_and_group(&self, place: u32) -> Option<(&str, &str)> {
        self.entry(place)?.id_and_group()
    }

    /// The agent at this place. One that rests goes on resting.
    pub(super) fn agent(&self, place: u32) -> Option<AgentRef<'_>> {
        self.entry(place)?.look()
    }

    /// The agent at this place, awake.
    pub(super) fn agent_mut(&mut self, place: u32) -> Option<&mut Agent> {
        let entry = self.entries.get_mut(usize::try_from(place).ok()?)?;
        if let Entry::Resting(resting) = entry {
            *entry = Entry::Awake(resting.wake()?);
            self.stirred.push(place);
        }
        match entry {
            Entry::Awake(agent) => Some(agent),
            Entry::Vacant | Entry::Resting(_) => None,
        }
    }

    /// Every agent, by place.
    pub(super) fn agents(&self) -> impl Iterator<Item = AgentRef<'_>> {
        self.entries.iter().filter_map(Entry::look)
    }

    /// Every agent that does not rest.
    pub(super) fn awake(&self) -> impl Iterator<Item = &Agent> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Awake(agent) => Some(agent.as_ref()),
            Entry::Vacant | Entry::Resting(_) => None,
        })
    }

    /// Takes in an agent that is not here; gives its place.
    pub(super) fn put(&mut self, agent: Agent) -> Option<u32> {
        let hash = self.hasher.hash_one(agent.record.id.as_str());
        let place = match self.vacant.pop() {
            Some(place) => place,
            None => {
                let place = u32::try_from(self.entries.len()).ok()?;
                // An eighth at a time: twice as much as is needed would be much in a large fleet.
                if self.entries.len() == self.entries.capacity() {
                    let more = (self.entries.len() / 8).max(8);
                    self.entries.reserve_exact(more);
                }
                self.entries.push(Entry::Vacant);
                place
            }
        };
        *self.entries.get_mut(usize::try_from(place).ok()?)? = Entry::Awake(Box::new(agent));
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.places.insert_unique(hash, place, |place| {
            let entry = usize::try_from(*place).ok();
            let entry = entry.and_then(|place| entries.get(place));
            hasher.hash_one(entry.and_then(Entry::id).unwrap_or_default())
        });
        self.stirred.push(place);
        Some(place)
    }

    /// Takes out the agent at this place.
    pub(super) fn take(&mut self, place: u32) -> Option<Box<Agent>> {
        self.agent_mut(place)?;
        let entry = self.entries.get_mut(usize::try_from(place).ok()?)?;
        let Entry::Awake(agent) = std::mem::replace(entry, Entry::Vacant) else {
            return None;
        };
        let hash = self.hasher.hash_one(agent.record.id.as_str());
        if let Ok(found) = self.places.find_entry(hash, |found| *found == place) {
            found.remove();
        }
        self.vacant.push(place);
        Some(agent)
    }

    /// Notes that an agent may have nothing to do any more.
    pub(super) fn is_idle(&mut self, place: u32) {
        let entry = usize::try_from(place).ok();
        let entry = entry.and_then(|place| self.entries.get(place));
        if matches!(entry, Some(Entry::Awake(agent)) if matches!(agent.phase, Phase::Idle)) {
            self.stirred.push(place);
        }
    }

    /// Lets agents rest that were awake and have nothing to do.
    pub(super) fn rest(&mut self, now_ms: u64) {
        let keeps_library_keys = self.len() <= LIBRARY_KEYS_MAX;
        while let Some(place) = self.stirred.pop() {
            let entry = usize::try_from(place).ok();
            let Some(entry) = entry.and_then(|place| self.entries.get_mut(place)) else {
                continue;
            };
            if !matches!(entry, Entry::Awake(agent) if agent.may_rest(now_ms)) {
                continue;
            }
            let Entry::Awake(mut agent) = std::mem::replace(entry, Entry::Vacant) else {
                continue;
            };
            if let Key::Usable(key) = &mut agent.key
                && !keeps_library_keys
            {
                key.forget_parsed();
            }
            *entry = match Resting::of(agent, &mut self.scratch) {
                Ok(resting) => Entry::Resting(resting),
                Err(agent) => Entry::Awake(agent),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::evidence::{Binding, Challenge, ChallengeId, Instance, Nonce, SessionId};
    use crate::hash::{Digest, HashAlg};
    use crate::ima::Committed;
    use crate::pcr::{PcrIndex, PcrValues};
    use crate::shard::agent::{Live, StoredList, Via};
    use crate::shard::epoch::Strayed;
    use crate::shard::kept::{KeptParts, Passed, Tied};
    use crate::shard::pacing::{Share, Slot};
    use crate::shard::{
        AgentPath, AgentRecord, AgentState, BootEpoch, EffectiveStatus, Failure, LastVerdict,
        QuoteRules, Settings, TpmClock, VerdictKind,
    };
    use crate::time::Now;
    use crate::tpm::PcrSelection;
    use crate::verdict::Code;

    const NOW: Now = Now {
        mono_ms: 1_000_000,
        unix_ms: 1_760_000_000_000,
    };
    const BOOT: BootEpoch = BootEpoch {
        reset_count: 7,
        restart_count: 1,
    };

    fn digest(byte: u8) -> Digest {
        Digest::new(HashAlg::Sha256, &[byte; 32]).unwrap()
    }

    fn record(number: u32) -> AgentRecord {
        AgentRecord {
            id: AgentId::parse(&format!("d432fbb3-d2f1-4a97-9ef7-{number:012x}")).unwrap(),
            group: "fleet".into(),
            path: AgentPath::Native,
            ak_public: vec![7; 88],
            ak_epoch: 1,
            ek_sha256: [2; 32],
            client_key_sha256: [1; 32],
            relay_key_sha256: None,
            baseline: None,
            enrolled_unix_ms: NOW.unix_ms,
        }
    }

    /// That of an agent that attested, as nearly all of a fleet are.
    fn steady() -> AgentState {
        let mut boot_pcrs = PcrValues::new();
        for pcr in 0..10_u8 {
            boot_pcrs.insert(PcrIndex::new(pcr.into()).unwrap(), digest(pcr));
        }
        AgentState {
            boot: Some(BOOT),
            clock: Some(TpmClock {
                clock_ms: 123_456_789,
                safe: true,
                firmware_version: u64::MAX,
                seen_unix_ms: NOW.unix_ms,
            }),
            ima: Some(Committed::new(1_500, vec![(PcrIndex::IMA, digest(10))])),
            passed_under: Some(digest(11)),
            boot_pcrs,
            boot_log_seen: true,
            trusted_until_unix_ms: NOW.unix_ms + 30_000,
            verdict: Some(LastVerdict {
                kind: VerdictKind::Trusted,
                code: None,
                detail: String::new(),
                policy: Some(digest(11)),
                challenged_unix_ms: NOW.unix_ms,
                at_unix_ms: NOW.unix_ms,
                held: Some(QuoteRules {
                    pcr_policy: None,
                    bank: HashAlg::Sha256,
                    boot_log: true,
                    allow_sha1: false,
                    measured_boot: None,
                }),
            }),
            attestations: 9_000,
            passed: 9_000,
            last_passed_unix_ms: NOW.unix_ms,
            ..AgentState::default()
        }
    }

    fn agent(number: u32, state: AgentState) -> Agent {
        Agent::new(record(number), state, None, NOW, 30_000)
    }

    fn pass(agent: AgentId) -> Passed {
        let parts = KeptParts {
            quote: vec![1; 145],
            signature: vec![2; 72],
            pcr_values: PcrValues::new(),
            tied: Tied {
                challenge: Challenge {
                    id: ChallengeId([3; 16]),
                    nonce: Nonce([4; 32]),
                    selection: PcrSelection::new([]).unwrap(),
                    ima_from_entry: None,
                    boot_log: false,
                    deadline_ms: 5,
                },
                binding: Binding::Channel([6; 32]),
                ak_name: Arc::from([7; 34]),
                agent,
            },
            boot_log: None,
        };
        Passed::new(parts, 12, NOW)
    }

    /// One of which everything is another than at the start, as far as it may rest.
    fn eventful() -> Agent {
        let mut state = steady();
        state.failure = Some(Box::new(Failure {
            code: Code::ImaPcrMismatch,
            detail: "not as the quote has it".into(),
            entry: Some(12),
            path: Some(b"/usr/bin/\xff".to_vec()),
            digest: Some("sha256:00".into()),
            at_unix_ms: 5,
            under_policy: Some(digest(11)),
            group: Some("fleet".into()),
        }));
        let mut agent = agent(1, state);
        agent.session = Some(Live {
            id: SessionId(u64::MAX),
            via: Via::Relay,
            proved: Some(BOOT),
            claimed: BOOT,
            instance: Instance([3; 16]),
            gap_ms: Some(4),
            heard_ms: 5,
        });
        agent.due_ms = NOW.mono_ms + 60_000;
        agent.trusted_until_ms = 1;
        agent.trusted_until_unix_ms = 2;
        agent.seen_ms = Some(6);
        agent.shown = EffectiveStatus::Untrusted;
        for number in 0..3 {
            agent.remember_answered(ChallengeId([number; 16]));
        }
        agent.stored_list = StoredList::Unusable;
        agent.list_waits_since_ms = 7;
        agent.rejudge_tries = 3;
        agent.second_look = Some(Code::ImaTruncated);
        agent.wrong_boot_rounds = 1;
        agent.stalled_rounds = 2;
        agent.faults = 3;
        let instances = [Instance([1; 16]), Instance([2; 16])];
        agent
            .turns
            .taken(instances[0], instances[1], 8, &Settings::default());
        agent.strayed = Some(Strayed {
            clock_ms: 9,
            issued: NOW,
        });
        agent.left_ms = Some(10);
        agent.directly_until_ms = 11;
        agent.timer_ms = Some(NOW.mono_ms + 60_000);
        agent.key = Key::Unusable;
        agent.last_pass = Some(Box::new(pass(agent.record.id.clone())));
        agent
    }

    fn rests(roster: &Roster, place: u32) -> bool {
        roster.entry(place).is_some() && roster.awake().count() == 0
    }

    #[test]
    fn agents_that_rested_are_what_they_were() {
        for agent in [
            agent(1, AgentState::default()),
            agent(1, steady()),
            eventful(),
        ] {
            let before = format!("{agent:?}");
            let id = agent.record.id.clone();
            let mut roster = Roster::default();
            let place = roster.put(agent).unwrap();
            roster.rest(NOW.mono_ms);
            assert!(rests(&roster, place));
            assert_eq!(roster.place(&id), Some(place));
            assert_eq!(roster.group(place), Some("fleet"));
            let seen = roster.agent(place).unwrap();
            let AgentRef::Resting(mut seen) = seen else {
                unreachable!("it rests");
            };
            assert!(rests(&roster, place), "looking wakes nobody");
            let awake = roster.agent_mut(place).unwrap();
            assert_eq!(format!("{awake:?}"), before);
            (seen.key, seen.last_pass) = (awake.key.clone(), awake.last_pass.clone());
            assert_eq!(format!("{seen:?}"), before);
        }
    }

    #[test]
    fn nobody_rests_to_whom_something_is_to_happen() {
        let busy: [fn(&mut Agent); 8] = [
            |agent| agent.phase = Phase::Ready,
            |agent| agent.phase = Phase::Committing,
            |agent| agent.share = Some(Share::direct(Slot::Open)),
            |agent| agent.stored_list = StoredList::Wanted,
            |agent| agent.stored_list = StoredList::Delayed,
            |agent| agent.stored_list = StoredList::Queued,
            |agent| agent.is_to_be_cleared = true,
            |agent| agent.due_ms = NOW.mono_ms + 4_999,
        ];
        for (nth, makes_busy) in busy.iter().enumerate() {
            let mut agent = eventful();
            makes_busy(&mut agent);
            let mut roster = Roster::default();
            let place = roster.put(agent).unwrap();
            roster.rest(NOW.mono_ms);
            assert!(!rests(&roster, place), "{nth}");
        }
        // One that is not connected is not asked, however long it is due.
        let mut absent = eventful();
        (absent.session, absent.due_ms) = (None, 0);
        let mut roster = Roster::default();
        let place = roster.put(absent).unwrap();
        roster.rest(NOW.mono_ms);
        assert!(rests(&roster, place));
    }

    #[test]
    fn an_agent_at_rest_is_small() {
        let mut roster = Roster::default();
        let place = roster.put(agent(1, steady())).unwrap();
        roster.rest(NOW.mono_ms);
        let Some(Entry::Resting(resting)) = roster.entry(place) else {
            unreachable!("it rests");
        };
        assert!(resting.packed_bytes() <= 800, "{}", resting.packed_bytes());
        assert!(size_of::<Entry>() <= 40, "{}", size_of::<Entry>());
    }

    proptest! {
        #[test]
        fn everybody_is_found_where_it_is_whoever_comes_goes_and_rests(
            steps in prop::collection::vec((0_u32..12, 0_u8..4), 0..200),
        ) {
            let mut roster = Roster::default();
            let mut model = std::collections::BTreeMap::<u32, u32>::new();
            for (number, what) in steps {
                let id = record(number).id;
                match (what, model.get(&number).copied()) {
                    (0, None) => {
                        let place = roster.put(agent(number, AgentState::default())).unwrap();
                        model.insert(number, place);
                    }
                    (1, Some(place)) => {
                        let taken = roster.take(place).unwrap();
                        prop_assert_eq!(&taken.record.id, &id);
                        model.remove(&number);
                    }
                    (2, Some(place)) => {
                        let agent = roster.agent_mut(place).unwrap();
                        prop_assert_eq!(&agent.record.id, &id);
                    }
                    _ => roster.rest(NOW.mono_ms),
                }
                prop_assert_eq!(roster.len(), model.len());
                for number in 0..12 {
                    let place = model.get(&number).copied();
                    prop_assert_eq!(roster.place(&record(number).id), place);
                }
                let ids = roster.agents().map(|agent| agent.record.id.clone());
                prop_assert_eq!(ids.count(), model.len());
            }
        }
    }
}
