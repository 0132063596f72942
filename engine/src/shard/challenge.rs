//! Whom to ask next, and what.

use super::agent::{Agent, Asks, Outstanding, Phase};
use super::input::Action;
use super::intake::jitter_ms;
use super::machine::{Driver, Shard};
use super::pacing::Pacer;
use super::record::Group;
use crate::evidence::{Challenge, ChallengeId, Nonce, ToAgent};
use crate::hash::HashAlg;
use crate::pcr::{PcrIndex, PcrSet};
use crate::time::Now;
use crate::tpm::PcrSelection;

/// Agents of relays that are looked at before a shard lets another one go first.
const LOOKED_AT_MAX: usize = 16;

impl Shard {
    /// Challenges the agent that has been due for longest, while the pacer allows it.
    pub(super) fn next_challenge(&mut self, now: Now, driver: &mut Driver<'_>) -> Option<Action> {
        while driver.pacer.may_open() {
            let place = self.next_ready(driver.pacer)?;
            let action = self.challenge(place, now, driver);
            self.arm(place);
            if action.is_some() {
                if let Some(agent) = self.agent_mut(place) {
                    agent.share = Some(driver.pacer.opened(agent.relay()));
                }
                return action;
            }
        }
        None
    }

    /// Whoever has been due for longest: by turns one that speaks for itself and one that a relay
    /// speaks for, while that relay has a share left. (Q16)
    fn next_ready(&mut self, pacer: &Pacer) -> Option<u32> {
        self.relays_are_next = !self.relays_are_next;
        if self.relays_are_next {
            self.next_relayed(pacer).or_else(|| self.ready.pop_front())
        } else {
            let direct = self.ready.pop_front();
            direct.or_else(|| self.next_relayed(pacer))
        }
    }

    fn next_relayed(&mut self, pacer: &Pacer) -> Option<u32> {
        for _ in 0..self.ready_relayed.len().min(LOOKED_AT_MAX) {
            let place = self.ready_relayed.pop_front()?;
            let relay = self.agent(place).and_then(|agent| agent.relay().copied());
            if relay.is_none_or(|relay| pacer.may_open_through(&relay)) {
                return Some(place);
            }
            self.ready_relayed.push_back(place);
        }
        None
    }

    /// An agent is due, and waits for its turn.
    pub(super) fn is_ready(&mut self, place: u32) {
        let is_relayed = self
            .agent(place)
            .is_some_and(|agent| agent.relay().is_some());
        if is_relayed {
            self.ready_relayed.push_back(place);
        } else {
            self.ready.push_back(place);
        }
    }

    /// It does not wait any more.
    pub(super) fn not_ready(&mut self, place: u32) {
        self.ready.retain(|waiting| *waiting != place);
        self.ready_relayed.retain(|waiting| *waiting != place);
    }

    fn challenge(&mut self, place: u32, now: Now, driver: &mut Driver<'_>) -> Option<Action> {
        let settings = self.settings_of(place);
        let group = self.group_of_place(place);
        let agent = self.agent_mut(place)?;
        if !matches!(agent.phase, Phase::Ready) {
            return None;
        }
        agent.phase = Phase::Idle;
        // Without a group there is nothing to ask for; without randomness nothing may be asked.
        agent.due_ms = now.mono_ms.saturating_add(settings.interval_ms);
        let session = agent.session?.id;
        let group = group?;
        let judge = agent.judge(&group);
        let jitter_ms = jitter_ms(driver, settings.jitter_ms_max());
        let mut id = [0; 16];
        let mut nonce = [0; 32];
        driver.nonces.fill(&mut id)?;
        driver.nonces.fill(&mut nonce)?;
        let waits = agent.waits_for_rejudging(now.mono_ms, settings.max_age_ms);
        let (from_entry, asks) = next_entry(agent, &group, waits);
        let challenge = Challenge {
            id: ChallengeId(id),
            nonce: Nonce(nonce),
            selection: selection(&group)?,
            ima_from_entry: wants_list(&group).then_some(from_entry),
            boot_log: wants_boot_log(agent, &group),
            deadline_ms: settings.challenge_deadline_ms,
        };
        agent.phase = Phase::Challenged(Box::new(Outstanding {
            challenge,
            issued: now,
            jitter_ms,
            arriving_until_ms: None,
            group,
            judge,
            asks,
        }));
        self.open.insert(challenge.id, place);
        let message = ToAgent::Challenge(challenge);
        Some(Action::Send { session, message })
    }
}

/// The PCRs that a quote must cover: boot, IMA, and what the PCR policy and the measured boot policy
/// ask for, in the pinned bank. `None` for a bank that the group itself does not accept: nobody fails by its answer then.
/// (P06, P07, Q09)
fn selection(group: &Group) -> Option<PcrSelection> {
    if group.bank == HashAlg::Sha1 && !group.allow_sha1 {
        return None;
    }
    let mut pcrs = PcrSet::BOOT;
    pcrs.insert(PcrIndex::IMA);
    if let Some(terms) = &group.keylime {
        pcrs = terms.pcrs;
        // Their agents quote it with whatever is asked for. Nothing is judged by what it holds.
        pcrs.insert(PcrIndex::KEYLIME_DATA);
    }
    if let Some(policy) = &group.pcr_policy {
        pcrs = pcrs.union(policy.demanded());
    }
    if let Some(policy) = &group.measured_boot {
        pcrs = pcrs.union(policy.relevant_pcrs());
    }
    PcrSelection::new([(group.bank, pcrs)])
}

/// Of one of Keylime's agents only where a policy judges it.
fn wants_list(group: &Group) -> bool {
    match &group.keylime {
        Some(terms) => terms.list,
        None => true,
    }
}

/// From which entry the list is asked for, and what for: the first that was not proven yet, when
/// what came before was judged, or soon will be from what is stored; otherwise 0, as when nothing
/// shows that it is still the same list.
fn next_entry(agent: &Agent, group: &Group, waits: bool) -> (u64, Asks) {
    let state = &agent.state;
    let whole = (0, Asks::Judgement);
    let is_continued = agent.unproven_baseline(group).is_none()
        && is_known_boot(agent, group)
        && agent.second_look.is_none()
        && state.learned_keys().is_ok();
    let Some(committed) = state.ima.as_ref().filter(|_| is_continued) else {
        return whole;
    };
    let asks = match group.list_rules() {
        None => Asks::Judgement,
        Some(rules) if state.has_passed(&rules) => Asks::Judgement,
        Some(rules) if state.denied_under(&rules).is_some() => Asks::Denied,
        Some(_) if waits => Asks::Later,
        Some(_) => return whole,
    };
    (committed.position(), asks)
}

/// Until one explained the boot PCRs of this boot, and is what is demanded of it, and whenever the
/// agent is asked once more. Of one of Keylime's agents only where it is demanded, and then perhaps
/// always.
fn wants_boot_log(agent: &Agent, group: &Group) -> bool {
    if let Some(terms) = &group.keylime {
        if !group.demands_boot_log() {
            return false;
        }
        if terms.boot_log_always {
            return true;
        }
    }
    let is_explained = is_known_boot(agent, group) && group.allows_boot(&agent.state);
    !is_explained || agent.second_look.is_some()
}

/// Whether the machine says that it is still in the boot that is known of it, in this bank.
fn is_known_boot(agent: &Agent, group: &Group) -> bool {
    let state = &agent.state;
    let claimed = agent.session.map(|live| live.claimed);
    state.boot.is_some() && state.boot == claimed && state.knows_bank(group.bank)
}
