//! One agent, as its shard holds it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::epoch::{Over, Strayed};
use super::failing::is_of_policy;
use super::kept::Passed;
use super::pacing::Share;
use super::record::{AgentPath, AgentRecord, BaselineCandidate, Group};
use super::rejudge::RejudgeId;
use super::resting;
use super::state::{AgentState, BootEpoch, EffectiveStatus, LastVerdict, QuoteRules, VerdictKind};
use super::turns::Turns;
use crate::crypto::VerifyingKey;
use crate::evidence::{Challenge, ChallengeId, Instance, SessionId};
use crate::ima::judge::Judge;
use crate::time::Now;
use crate::tpm::Public;
use crate::tpm::attributes::rests_on_sha1;
use crate::verdict::Code;

/// What is remembered of an agent between two inputs.
///
/// What is skipped here is not packed with an agent that rests: such a one has none of it, or it is
/// kept beside the packed bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Agent {
    /// First, because it begins with the id, by which agents at rest are found.
    #[serde(with = "resting::record")]
    pub(super) record: Arc<AgentRecord>,
    /// As it is committed. Nothing else is shown, challenged from or restarted with. (S17)
    pub(super) state: AgentState,
    #[serde(skip)]
    pub(super) candidate: Option<Arc<Judge>>,
    #[serde(skip)]
    pub(super) key: Key,
    pub(super) session: Option<Live>,
    #[serde(skip)]
    pub(super) phase: Phase,
    /// What its challenge counts as with the pacer, until it is over.
    #[serde(skip)]
    pub(super) share: Option<Share>,
    /// When the next challenge is due, on the monotonic clock.
    pub(super) due_ms: u64,
    /// The end of trust on the monotonic clock.
    pub(super) trusted_until_ms: u64,
    /// The same on the wall clock, for people. It may be earlier than the committed one: a shorter
    /// interval ends trust earlier that was earned before. (S14)
    pub(super) trusted_until_unix_ms: u64,
    /// When the challenge of the last accepted quote was issued, on the monotonic clock; `None`
    /// when that was before this process.
    pub(super) seen_ms: Option<u64>,
    /// The status that was last told to listeners.
    pub(super) shown: EffectiveStatus,
    /// Challenges that were answered last. (Q02)
    pub(super) answered: [Option<ChallengeId>; 4],
    /// Whether its stored list is to be judged by other rules. (L07)
    pub(super) stored_list: StoredList,
    /// Since when it is, on the monotonic clock.
    pub(super) list_waits_since_ms: u64,
    /// Attempts in a row to do so that did not end.
    pub(super) rejudge_tries: u32,
    /// What did not fit, when the agent is being asked once more. (I20)
    pub(super) second_look: Option<Code>,
    /// Challenges in a row whose evidence was of another boot than they asked about.
    pub(super) wrong_boot_rounds: u32,
    /// Quotes in a row that left entries beyond an unmoved cut. (I04)
    pub(super) stalled_rounds: u32,
    /// Faults of the sender in a row. (S13)
    pub(super) faults: u32,
    /// How its connections replaced each other. (T03)
    pub(super) turns: Turns,
    /// Its newest quote whose clock had gone back, if it is of the proven boot. (T09)
    pub(super) strayed: Option<Strayed>,
    /// When it was last heard of over a connection that is gone and that proved something, on the
    /// monotonic clock; `None` when that was before this process. (T08)
    pub(super) left_ms: Option<u64>,
    /// Until when it is to come directly, on the monotonic clock: what came through its relay did
    /// not fit what its key signed. (Q16)
    pub(super) directly_until_ms: u64,
    /// An operator took back its failure while an outcome was on its way.
    #[serde(skip)]
    pub(super) is_to_be_cleared: bool,
    /// Kept in case the next attestation fails.
    #[serde(skip)]
    pub(super) last_pass: Option<Box<Passed>>,
    /// The timer that counts; others of this agent are ignored when they fire.
    pub(super) timer_ms: Option<u64>,
}

/// The attestation key: parsed when it is first needed, because parsing costs more than verifying.
#[derive(Debug, Clone, Default)]
pub(super) enum Key {
    #[default]
    NotParsed,
    Usable(Box<UsableKey>),
    Unusable,
}

/// An attestation key that can be used.
#[derive(Debug, Clone)]
pub(super) struct UsableKey {
    pub(super) key: Arc<VerifyingKey>,
    pub(super) name: Arc<[u8]>,
    /// Whether its scheme or its Name rests on SHA-1. (Q09)
    pub(super) has_sha1: bool,
}

impl UsableKey {
    /// Lets go of what a library made of the key, until it is needed again.
    pub(super) fn forget_parsed(&mut self) {
        if let Some(key) = Arc::get_mut(&mut self.key) {
            key.forget_parsed();
        }
    }
}

/// By whom an agent's bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Via {
    /// By the agent itself: its certificate was checked.
    Itself,
    /// By the relay that its record names, which may alter what no key has signed. (Q16)
    Relay,
}

/// The agent's connection.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) via: Via,
    /// The boot epoch that evidence over this connection proved.
    pub(super) proved: Option<BootEpoch>,
    /// The boot epoch that the agent says it is in.
    pub(super) claimed: BootEpoch,
    /// The life of the agent's program, as it says.
    pub(super) instance: Instance,
    /// From the last that was heard of the agent before, to its Hello; `None` when that is not
    /// known.
    pub(super) gap_ms: Option<u64>,
    /// When its Hello or its newest evidence arrived, on the monotonic clock.
    pub(super) heard_ms: u64,
}

/// A connection that was heard of this short a time before its end was closed: transports wait
/// longer before they give up a silent one.
const CLOSED_WITHIN_MS: u64 = 30_000;

impl Live {
    /// When its agent was certainly there last, when the connection ends now.
    pub(super) const fn last_there_ms(&self, now_ms: u64) -> u64 {
        if now_ms.saturating_sub(self.heard_ms) <= CLOSED_WITHIN_MS {
            now_ms
        } else {
            self.heard_ms
        }
    }
}

/// What is to be done with the list that the store keeps of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StoredList {
    /// Nothing.
    Settled,
    /// It is to be judged when nothing else is under way.
    Wanted,
    /// What was found could not be stored: it is to be judged again when the agent is due.
    Delayed,
    /// It waits for its turn to be judged.
    Queued,
    /// It does not count: the agent is asked for its list from entry 0.
    Unusable,
}

/// What the entries of a challenge are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// To be judged: what came before passed, or all of it is asked for.
    Judgement,
    /// To be judged later, with what came before, when the stored list is judged.
    Later,
    /// For the record: what came before is denied by the same rules already.
    Denied,
}

impl Asks {
    /// What is done with a list that begins with this entry: one from entry 0 is judged, whatever
    /// was asked for.
    pub(super) const fn of_list(self, from_entry: Option<u64>) -> Self {
        match from_entry {
            Some(from) if from > 0 => self,
            _ => Self::Judgement,
        }
    }
}

/// Where an agent is in the life of one attestation.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Waiting until it is due.
    #[default]
    Idle,
    /// Due, and waiting for its turn.
    Ready,
    /// Challenged.
    Challenged(Box<Outstanding>),
    /// Its evidence is being judged.
    Judging(Box<Judging>),
    /// Its outcome is waiting for a commit, or in one.
    Committing,
    /// Taking back its failure is waiting for a commit, or in one.
    Clearing,
    /// Its stored list is being judged.
    Rejudging {
        /// This attempt.
        id: RejudgeId,
        /// When it has taken too long.
        ends_ms: u64,
    },
}

/// A challenge that was not answered yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) challenge: Challenge,
    pub(super) issued: Now,
    pub(super) jitter_ms: u64,
    /// When logs that are on their way must have arrived.
    pub(super) arriving_until_ms: Option<u64>,
    /// What it will be judged by, whatever happens to the group meanwhile. (L05)
    pub(super) group: Arc<Group>,
    pub(super) judge: Option<Arc<Judge>>,
    pub(super) asks: Asks,
}

/// An appraisal under way.
#[derive(Debug)]
pub(super) struct Judging {
    pub(super) challenge: ChallengeId,
    pub(super) issued: Now,
    pub(super) arrived_ms: u64,
    /// When it has taken too long.
    pub(super) ends_ms: u64,
    pub(super) jitter_ms: u64,
    pub(super) from_entry: Option<u64>,
    /// Whether it began with the list that the agent's baseline was made of.
    pub(super) covers_baseline: bool,
    pub(super) has_boot_log: bool,
    pub(super) via: Via,
    /// The connection that the evidence came over, as it was then. (T08)
    pub(super) over: Over,
    pub(super) asks: Asks,
    pub(super) group: Arc<Group>,
    /// Whether the attestation key rests on SHA-1.
    pub(super) has_sha1_key: bool,
}

impl Agent {
    pub(super) fn new(
        record: AgentRecord,
        state: AgentState,
        candidate: Option<Arc<Judge>>,
        now: Now,
        max_age_ms: u64,
    ) -> Self {
        // A clock that was set must not lengthen trust: one that is before what it saw says nothing
        // about how long ago that was. (S14)
        let is_behind = |verdict: &LastVerdict| now.unix_ms < verdict.at_unix_ms;
        let left = match &state.verdict {
            Some(verdict) if is_behind(verdict) => 0,
            _ => state.trusted_until_unix_ms.saturating_sub(now.unix_ms),
        };
        let trusted_until_ms = now.mono_ms.saturating_add(left.min(max_age_ms));
        let mut agent = Self {
            record: Arc::new(record),
            trusted_until_unix_ms: state.trusted_until_unix_ms,
            state,
            candidate,
            key: Key::NotParsed,
            session: None,
            phase: Phase::Idle,
            share: None,
            due_ms: now.mono_ms,
            trusted_until_ms,
            seen_ms: None,
            shown: EffectiveStatus::Pending,
            answered: [None; 4],
            stored_list: StoredList::Settled,
            list_waits_since_ms: 0,
            rejudge_tries: 0,
            second_look: None,
            wrong_boot_rounds: 0,
            stalled_rounds: 0,
            faults: 0,
            turns: Turns::default(),
            strayed: None,
            left_ms: None,
            directly_until_ms: 0,
            is_to_be_cleared: false,
            last_pass: None,
            timer_ms: None,
        };
        agent.limit_trust(max_age_ms, now);
        agent
    }

    /// Ends trust no later than this long after the challenge of the newest verdict; never later
    /// than it would have ended. (Q14, S14)
    pub(super) fn limit_trust(&mut self, max_age_ms: u64, now: Now) {
        let Some(verdict) = &self.state.verdict else {
            return;
        };
        let ago_ms = match self.seen_ms {
            Some(seen_ms) => now.mono_ms.saturating_sub(seen_ms),
            None => now.unix_ms.saturating_sub(verdict.challenged_unix_ms),
        };
        let until_ms = now
            .mono_ms
            .saturating_add(max_age_ms.saturating_sub(ago_ms));
        self.trusted_until_ms = self.trusted_until_ms.min(until_ms);
        let until_unix_ms = verdict.challenged_unix_ms.saturating_add(max_age_ms);
        self.trusted_until_unix_ms = self.trusted_until_unix_ms.min(until_unix_ms);
    }

    /// Its interval became shorter: what is left until it is due shrinks as much, so that a group's
    /// agents stay spread over the interval.
    pub(super) fn hasten(&mut self, from_ms: u64, to_ms: u64, now: Now) {
        let left_ms = self.due_ms.saturating_sub(now.mono_ms);
        let left_ms = left_ms.saturating_mul(to_ms).checked_div(from_ms);
        let due_ms = now.mono_ms.saturating_add(left_ms.unwrap_or(0));
        self.due_ms = self.due_ms.min(due_ms);
    }

    /// The attestation key; `None` when the record's bytes are not a usable one, or one that this
    /// group does not accept.
    pub(super) fn key_in(&mut self, group: &Group) -> Option<UsableKey> {
        if matches!(self.key, Key::NotParsed) {
            let parsed = Public::parse(&self.record.ak_public)
                .ok()
                .and_then(|public| {
                    let key = VerifyingKey::from_tpm(&public).ok()?;
                    Some(UsableKey {
                        key: Arc::new(key),
                        name: public.name().to_bytes().into(),
                        has_sha1: rests_on_sha1(&public),
                    })
                });
            self.key = parsed.map_or(Key::Unusable, |key| Key::Usable(Box::new(key)));
        }
        match &self.key {
            Key::Usable(key) if group.allow_sha1 || !key.has_sha1 => Some(UsableKey::clone(key)),
            _ => None,
        }
    }

    /// The judge of the next challenge: the group's, or the baseline candidate's while there is
    /// none. (L08)
    pub(super) fn judge(&self, group: &Group) -> Option<Arc<Judge>> {
        if group.bypass {
            return None;
        }
        match &group.enforced {
            Some(policy) => Some(Arc::clone(&policy.judge)),
            None => self.candidate.clone(),
        }
    }

    /// The list that this agent enrolled with, while the group has no policy of its own: every
    /// challenge asks for it from the start, until a quote proves it. (L08)
    pub(super) fn unproven_baseline(&self, group: &Group) -> Option<&BaselineCandidate> {
        let candidate = self.record.baseline.as_ref();
        candidate.filter(|_| group.enforced.is_none() && !group.bypass)
    }

    /// What this agent amounts to now.
    pub(super) fn status(&self, group: Option<&Group>, now_ms: u64) -> EffectiveStatus {
        let held = |group: &Group, code: Code| group.protected || !is_of_policy(code);
        let Some(group) = group else {
            return match self.state.failure {
                Some(_) => EffectiveStatus::Untrusted,
                None => EffectiveStatus::Unverified,
            };
        };
        if group.block {
            return EffectiveStatus::Blocked;
        }
        if let Some(failure) = &self.state.failure
            && held(group, failure.code)
        {
            return EffectiveStatus::Untrusted;
        }
        if now_ms < self.directly_until_ms {
            return EffectiveStatus::Unverified;
        }
        let Some(verdict) = &self.state.verdict else {
            return EffectiveStatus::Pending;
        };
        if group.enforced.is_none() && !group.bypass && self.record.path == AgentPath::Native {
            return EffectiveStatus::Unverified;
        }
        if now_ms >= self.trusted_until_ms {
            return match self.state.passed {
                0 => EffectiveStatus::Pending,
                _ => EffectiveStatus::Overdue,
            };
        }
        let is_enforced = group.protected && !group.bypass;
        match verdict.kind {
            _ if !self.was_held_against(&group.quote_rules()) => EffectiveStatus::Pending,
            _ if !is_enforced => EffectiveStatus::TrustedUnenforced,
            VerdictKind::Trusted if self.has_passed_in(group) => EffectiveStatus::Trusted,
            VerdictKind::Authentic if self.record.path != AgentPath::Native => {
                EffectiveStatus::Authentic
            }
            // Judged under another policy than the one that counts now. (L07)
            _ => EffectiveStatus::Pending,
        }
    }

    /// Evidence came over its connection: gives what was known of that before. When an agent
    /// comes and goes is the relay's to say, where it has one.
    pub(super) fn hears(&mut self, now_ms: u64) -> (Via, Over) {
        let Some(live) = self.session.as_mut() else {
            return (Via::Itself, Over::default());
        };
        live.heard_ms = now_ms;
        // Nothing connects one of Keylime's agents between two answers: it may boot in between.
        let is_connected = self.record.path == AgentPath::Native;
        let over = match live.via {
            Via::Itself if is_connected => Over {
                proved: live.proved,
                gap_ms: live.gap_ms,
            },
            Via::Itself | Via::Relay => Over::default(),
        };
        (live.via, over)
    }

    /// The relay that its challenges go through, if they do.
    pub(super) fn relay(&self) -> Option<&[u8; 32]> {
        let live = self.session.filter(|live| live.via == Via::Relay);
        live.and(self.record.relay_key_sha256.as_ref())
    }

    /// Whether it may come by this relay, or by itself. (Q16)
    pub(super) fn admits(&self, relay: Option<&[u8; 32]>, now_ms: u64) -> Option<Via> {
        let comes_directly = now_ms < self.directly_until_ms;
        match (&self.record.relay_key_sha256, relay) {
            (None, None) => Some(Via::Itself),
            (Some(_), None) if comes_directly => Some(Via::Itself),
            (Some(named), Some(relay)) if named == relay && !comes_directly => Some(Via::Relay),
            _ => None,
        }
    }

    fn has_passed_in(&self, group: &Group) -> bool {
        let rules = group.list_rules();
        rules.is_some_and(|rules| self.state.has_passed(&rules))
    }

    /// Whether its newest verdict is of a quote that was held against all of this. (L05, L07)
    fn was_held_against(&self, demanded: &QuoteRules) -> bool {
        let verdict = self.state.verdict.as_ref();
        let held = verdict.and_then(|verdict| verdict.held);
        held.is_some_and(|held| held.cover(demanded))
    }

    /// Whether quote and whole list were judged by what a group demands, however that ended.
    pub(super) fn is_judged_in(&self, group: &Group) -> bool {
        let rules = group.list_rules();
        rules.is_some_and(|rules| self.state.is_judged_under(&rules))
            && self.was_held_against(&group.quote_rules())
    }

    /// Whether its stored list is to be judged, and that has not lasted for longer than this.
    pub(super) const fn waits_for_rejudging(&self, now_ms: u64, most_ms: u64) -> bool {
        let waits = matches!(
            self.stored_list,
            StoredList::Wanted | StoredList::Delayed | StoredList::Queued
        );
        waits && now_ms.saturating_sub(self.list_waits_since_ms) <= most_ms
    }

    /// Whether its stored list is being judged, in this attempt.
    pub(super) fn is_rejudging(&self, id: RejudgeId) -> bool {
        matches!(self.phase, Phase::Rejudging { id: of, .. } if of == id)
    }

    /// Notes that this challenge was answered.
    pub(super) fn remember_answered(&mut self, challenge: ChallengeId) {
        self.answered.rotate_right(1);
        if let Some(newest) = self.answered.first_mut() {
            *newest = Some(challenge);
        }
    }

    pub(super) fn has_answered(&self, challenge: ChallengeId) -> bool {
        self.answered.contains(&Some(challenge))
    }
}
