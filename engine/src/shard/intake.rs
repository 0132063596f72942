//! What agents send: connections and evidence.

use super::agent::{Agent, Asks, Judging, Live, Outstanding, Phase, Via};
use super::input::{Action, Event};
use super::machine::{Driver, Shard};
use super::record::{AgentPath, BaselineCandidate, Group};
use super::state::{AgentState, BootEpoch, ListRules};
use super::task::Assignment;
use crate::agent_id::AgentId;
use crate::appraisal::Rules;
use crate::evidence::{
    Answer, Binding, ChallengeId, Hello, ImaUpload, Refusal, SessionId, Submission, ToAgent,
};
use crate::ima::judge::Judge;
use crate::ima::{Committed, ImaOptions, LearnedKeys, Start};
use crate::pcr::PcrSet;
use crate::quote::Quote;
use crate::time::Now;
use crate::verdict::Code;

impl Outstanding {
    pub(super) fn deadline_ms(&self) -> u64 {
        let within = u64::from(self.challenge.deadline_ms);
        self.arriving_until_ms
            .unwrap_or_else(|| self.issued.mono_ms.saturating_add(within))
    }
}

impl Shard {
    /// Checks who connects; whoever may stay is greeted at the next poll.
    pub(super) fn connected(&mut self, session: SessionId, hello: &Hello, now: Now) {
        let retry = self.settings.retry_after_ms;
        if self.is_draining {
            return self.refuse(session, Refusal::Draining, retry);
        }
        // An id that is not known, or not by this certificate, is not known a moment later either.
        let (place, via) = match self.admissible(hello, now) {
            Ok(admitted) => admitted,
            Err(code) => return self.refuse(session, code, retry.saturating_mul(12)),
        };
        // How connections replace each other has nothing to do with a group's interval.
        let settings = self.settings;
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let claimed = claimed_boot(agent, hello);
        let old = agent.session.take();
        // Two machines that share a key take turns; one that lost its connection does not prove
        // anything over the lost one. (T03)
        // Which instance speaks, and when one is gone, a relay may say as it likes. (Q16)
        let by_itself = |live: &Live| live.via == Via::Itself && via == Via::Itself;
        if let Some(old) = old.filter(|old| old.proved.is_some() && by_itself(old)) {
            let new = hello.instance;
            agent.turns.taken(old.instance, new, now.mono_ms, &settings);
            agent.left_ms = Some(old.heard_ms);
        }
        agent.session = Some(Live {
            id: session,
            via,
            proved: None,
            claimed,
            instance: hello.instance,
            gap_ms: agent
                .left_ms
                .map(|left_ms| now.mono_ms.saturating_sub(left_ms)),
            heard_ms: now.mono_ms,
        });
        if let Some(old) = old {
            self.refuse(old.id, Refusal::Superseded, retry);
            self.greetings.retain(|(waiting, _)| *waiting != old.id);
            self.withdraw(place, now);
        }
        self.greetings.push_back((session, place));
    }

    fn admissible(&self, hello: &Hello, now: Now) -> Result<(u32, Via), Refusal> {
        let place = self.place(&hello.agent).ok_or(Refusal::UnknownAgent)?;
        let agent = self.agent(place).ok_or(Refusal::UnknownAgent)?;
        let record = &agent.record;
        let relay = hello.relay_key_sha256.as_ref();
        let via = agent
            .admits(relay, now.mono_ms)
            .filter(|_| record.path == hello.path)
            .ok_or(Refusal::PathNotEnrolled)?;
        if record.client_key_sha256 != hello.client_key_sha256 {
            return Err(Refusal::CertificateNotCurrent);
        }
        Ok((place, via))
    }

    /// Admits connections at the pacer's rate. (S08)
    pub(super) fn greet(&mut self, now: Now, driver: &mut Driver<'_>) {
        while let Some((session, place)) = self.greetings.pop_front() {
            let retry_after_ms = self.settings.retry_after_ms;
            let admitted = driver.pacer.admit(now.mono_ms);
            let Some(agent) = self.agent_mut(place) else {
                continue;
            };
            if agent.session.is_none_or(|live| live.id != session) {
                continue;
            }
            if !admitted {
                agent.session = None;
                let jitter = jitter_ms(driver, u64::from(retry_after_ms));
                let jitter = u32::try_from(jitter).unwrap_or(0);
                self.refuse(
                    session,
                    Refusal::Busy,
                    retry_after_ms.saturating_add(jitter),
                );
                continue;
            }
            let wait = agent.due_ms.saturating_sub(now.mono_ms);
            let next_after_ms = u32::try_from(wait).unwrap_or(u32::MAX);
            let message = ToAgent::Welcome { next_after_ms };
            self.actions.push_back(Action::Send { session, message });
            self.arm(place);
        }
    }

    pub(super) fn disconnected(&mut self, session: SessionId, agent: &AgentId, now: Now) {
        let Some(place) = self.place(agent) else {
            return;
        };
        self.greetings.retain(|(waiting, _)| *waiting != session);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        if let Some(live) = agent.session.take_if(|live| live.id == session) {
            if live.proved.is_some() && live.via == Via::Itself {
                agent.left_ms = Some(live.last_there_ms(now.mono_ms));
            }
            self.withdraw(place, now);
        }
    }

    /// Takes back what was asked over a connection that is gone. Evidence that arrived is judged
    /// to its end.
    pub(super) fn withdraw(&mut self, place: u32, now: Now) {
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        match &agent.phase {
            Phase::Challenged(outstanding) => {
                let id = outstanding.challenge.id;
                agent.due_ms = now.mono_ms;
                agent.phase = Phase::Idle;
                self.open.remove(&id);
                self.end_challenge(place, None);
            }
            Phase::Ready => {
                agent.phase = Phase::Idle;
                self.not_ready(place);
            }
            Phase::Idle
            | Phase::Judging(_)
            | Phase::Committing
            | Phase::Clearing
            | Phase::Rejudging { .. } => {}
        }
        self.arm(place);
    }

    /// Gives logs that are on their way the time that they need, once, when their evidence came in
    /// time. (X04)
    pub(super) fn logs_arrive(
        &mut self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        bytes: u64,
        now: Now,
    ) {
        let Some(place) = self.place(agent) else {
            return;
        };
        let settings = self.settings_of(place);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let is_its_own = agent.session.is_some_and(|live| live.id == session);
        let Phase::Challenged(outstanding) = &mut agent.phase else {
            return;
        };
        let is_open = outstanding.challenge.id == challenge
            && outstanding.arriving_until_ms.is_none()
            && now.mono_ms <= outstanding.deadline_ms();
        if !is_its_own || !is_open {
            return;
        }
        let needed = settings
            .upload_ms(bytes)
            .saturating_add(u64::from(settings.challenge_deadline_ms));
        outstanding.arriving_until_ms = Some(now.mono_ms.saturating_add(needed));
        self.arriving.push(place);
        self.arm(place);
    }

    /// Takes evidence up if it answers the agent's open challenge, over the connection that the
    /// challenge went to, in time. The nonce is used up by that. (Q01-Q03, Q05)
    pub(super) fn evidence(
        &mut self,
        session: SessionId,
        agent: &AgentId,
        submission: Submission,
        now: Now,
    ) {
        let retry = self.settings.retry_after_ms;
        let Some(place) = self.place(agent) else {
            return self.refuse(session, Refusal::UnknownAgent, retry);
        };
        let id = submission.challenge;
        let taken = if self.came_as_enrolled(place, &submission, now) {
            self.take_challenge(place, session, id, now)
        } else {
            Err(Code::PathNotEnrolled)
        };
        match taken {
            Ok(outstanding) => self.appraise(place, session, *outstanding, submission, now),
            Err(code) => self.turn_away(place, session, id, code, now),
        }
    }

    /// Whether the evidence came by the path that the record names: directly, or through the relay
    /// that it names. (S15, Q16)
    fn came_as_enrolled(&self, place: u32, submission: &Submission, now: Now) -> bool {
        let relay = match &submission.binding {
            Binding::Relay(key) => Some(key),
            Binding::Channel(_) | Binding::KeylimePush(_) | Binding::KeylimePull(_) => None,
        };
        self.agent(place).is_some_and(|agent| {
            agent.record.path == submission.binding.path()
                && agent.admits(relay, now.mono_ms).is_some()
        })
    }

    /// The open challenge with this id, which is open no more.
    fn take_challenge(
        &mut self,
        place: u32,
        session: SessionId,
        id: ChallengeId,
        now: Now,
    ) -> Result<Box<Outstanding>, Code> {
        let owner = self.open.get(&id).copied();
        let agent = self.agent_mut(place).ok_or(Code::QuoteStale)?;
        if owner.is_some_and(|owner| owner != place) {
            return Err(Code::QuoteSignerMismatch);
        }
        if agent.has_answered(id) {
            return Err(Code::QuoteNonceConsumed);
        }
        let on_time = match &agent.phase {
            Phase::Challenged(outstanding) if outstanding.challenge.id == id => {
                now.mono_ms <= outstanding.deadline_ms()
            }
            _ => return Err(Code::QuoteStale),
        };
        if agent.session.is_none_or(|live| live.id != session) {
            return Err(Code::QuoteChannelMismatch);
        }
        let phase = std::mem::replace(&mut agent.phase, Phase::Idle);
        let Phase::Challenged(outstanding) = phase else {
            return Err(Code::QuoteStale);
        };
        if !on_time {
            agent.due_ms = now.mono_ms;
            self.open.remove(&id);
            self.end_challenge(place, None);
            self.arm(place);
            return Err(Code::QuoteStale);
        }
        agent.remember_answered(id);
        self.open.remove(&id);
        Ok(outstanding)
    }

    /// Says that evidence does not count. Nothing about the agent changes. (S13)
    fn turn_away(
        &mut self,
        place: u32,
        session: SessionId,
        challenge: ChallengeId,
        code: Code,
        now: Now,
    ) {
        let other = self.open.get(&challenge).copied();
        let other = other
            .filter(|owner| *owner != place)
            .and_then(|owner| self.agent(owner))
            .map(|owner| owner.record.id.clone());
        self.report_fault(place, code, other);
        let Some(agent) = self.agent(place) else {
            return;
        };
        let wait = agent.due_ms.saturating_sub(now.mono_ms);
        let answer = Answer {
            status: agent.status(self.group_of(&agent), now.mono_ms),
            code: Some(code),
            detail: code.cause().to_owned(),
            next_after_ms: u32::try_from(wait).unwrap_or(u32::MAX),
        };
        let message = ToAgent::Verdict(challenge, answer);
        self.actions.push_back(Action::Send { session, message });
        self.end_faulty_session(place);
    }

    /// Counts a fault of whoever sends under this agent's name.
    pub(super) fn report_fault(&mut self, place: u32, code: Code, other: Option<AgentId>) {
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        agent.faults = agent.faults.saturating_add(1);
        let event = Event::TurnedAway {
            agent: agent.record.id.clone(),
            code,
            other,
        };
        self.actions.push_back(Action::Event(event));
    }

    /// Sends away for a while whoever did nothing but faults.
    pub(super) fn end_faulty_session(&mut self, place: u32) {
        let (most, retry) = (
            self.settings.sender_faults_max,
            self.settings.retry_after_ms.saturating_mul(12),
        );
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        if agent.faults >= most {
            agent.faults = 0;
            self.refuse_session(place, Refusal::Protocol, retry);
        }
    }

    fn appraise(
        &mut self,
        place: u32,
        session: SessionId,
        outstanding: Outstanding,
        submission: Submission,
        now: Now,
    ) {
        let settings = self.settings_of(place);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let Outstanding {
            challenge,
            issued,
            jitter_ms,
            arriving_until_ms: _,
            group,
            judge,
            asks,
        } = outstanding;
        let Some(key) = agent.key_in(&group) else {
            // Enrolment refuses such keys: a record that holds one was damaged, or its group accepts
            // SHA-1 no more.
            agent.due_ms = now.mono_ms.saturating_add(settings.interval_ms);
            self.end_challenge(place, None);
            return self.turn_away(place, session, challenge.id, Code::AkNotAllowed, now);
        };
        let baseline = agent.unproven_baseline(&group);
        let from_entry = submission.ima.as_ref().map(|ima| ima.from_entry);
        let covers_baseline = baseline.is_some() && from_entry == Some(0);
        let asks = asks.of_list(from_entry);
        let start = start_of(&agent.state, &group, baseline, &submission);
        let to_come = bytes_to_come(&submission);
        let list = submission.ima.as_ref();
        let options = options(&agent.state, &group, judge.as_deref(), list);
        let judge = judge.filter(|_| asks == Asks::Judgement);
        let has_boot_log = submission.boot_log.is_some();
        let (via, over) = agent.hears(now.mono_ms);
        agent.phase = Phase::Judging(Box::new(Judging {
            challenge: challenge.id,
            issued,
            arrived_ms: now.mono_ms,
            ends_ms: now
                .mono_ms
                .saturating_add(settings.longest_appraisal_ms(to_come)),
            jitter_ms,
            from_entry,
            covers_baseline,
            has_boot_log,
            via,
            over,
            asks,
            group: std::sync::Arc::clone(&group),
            has_sha1_key: key.has_sha1,
        }));
        let assignment = Assignment {
            agent: agent.record.id.clone(),
            session,
            challenge,
            issued,
            key: key.key,
            ak_name: key.name,
            rules: rules(&group),
            pcr_policy: group.pcr_policy.clone(),
            boot_pcrs: has_boot_log.then_some(PcrSet::FIRMWARE),
            measured_boot: group.measured_boot.clone().filter(|_| has_boot_log),
            judge,
            ima: options,
            start,
            boot: agent.state.boot,
            submission,
        };
        self.actions
            .push_back(Action::Appraise(Box::new(assignment)));
        if to_come > 0 {
            self.arriving.push(place);
        }
        self.arm(place);
    }
}

/// The boot that an agent says it is in. Keylime's do not say: such an agent is taken to be in the
/// boot that is known of it, unless its list is shorter than it was. Its quote shows which it is.
fn claimed_boot(agent: &Agent, hello: &Hello) -> BootEpoch {
    if hello.path == AgentPath::Native {
        return BootEpoch {
            reset_count: hello.reset_count,
            restart_count: hello.restart_count,
        };
    }
    let known = agent.state.boot.unwrap_or_default();
    let position = agent.state.ima.as_ref().map_or(0, Committed::position);
    match hello.entry_count < position {
        true => BootEpoch {
            reset_count: known.reset_count.wrapping_add(1),
            ..known
        },
        false => known,
    }
}

/// How quotes of a group's agents are read.
const fn rules(group: &Group) -> Rules {
    Rules {
        allow_sha1: group.allow_sha1,
        strict: true,
        bank: group.bank,
        needs_boot_pcrs: group.keylime.is_none(),
    }
}

/// Bytes of the list that follow the evidence.
fn bytes_to_come(submission: &Submission) -> u64 {
    let list = submission.ima.as_ref();
    let list = list.filter(|list| list.whole.is_none());
    list.map_or(0, |list| list.length)
}

/// How the list is read and judged.
pub(super) fn options(
    state: &AgentState,
    group: &Group,
    judge: Option<&Judge>,
    list: Option<&ImaUpload>,
) -> ImaOptions {
    let usual = ImaOptions::default();
    ImaOptions {
        format: list.map_or(usual.format, |list| list.format),
        scheme: state.scheme,
        boot_aggregate: state.boot_aggregate,
        accept_violations: group.accept_violations,
        require_valid_ima_sig: group.require_valid_ima_sig,
        log_hash: judge.map_or(usual.log_hash, |judge| {
            judge.policy().compiled().log_hash_alg()
        }),
        ..usual
    }
}

/// What the list in a submission continues, going by what the quote says of its boot. That is not
/// authenticated yet; a false claim fails with the signature, or with the clock's rules.
fn start_of(
    state: &AgentState,
    group: &Group,
    baseline: Option<&BaselineCandidate>,
    submission: &Submission,
) -> Start {
    let claimed = Quote::parse(&submission.quote).ok().map(|quote| {
        let clock = quote.unverified_attest().clock;
        BootEpoch {
            reset_count: clock.reset_count,
            restart_count: clock.restart_count,
        }
    });
    let from = submission.ima.as_ref().map_or(0, |ima| ima.from_entry);
    if let (Some(candidate), 0) = (baseline, from) {
        // The list that a baseline was made of must be the beginning of this one. (L08)
        return Start::AgainInBoot(candidate.covers.clone());
    }
    let bank = group.bank;
    let known = state.ima.clone().filter(|_| state.knows_bank(bank));
    let Some(committed) = known else {
        return Start::First;
    };
    let is_same_boot = state.boot.is_some() && state.boot == claimed;
    match (from, is_same_boot) {
        (0, true) => Start::AgainInBoot(committed),
        (0, false) => Start::AfterBoot(committed),
        _ => continued(state, group, committed),
    }
}

fn continued(state: &AgentState, group: &Group, committed: Committed) -> Start {
    let passes = |rules: &ListRules| state.has_passed(rules);
    let passed_under = group.list_rules().filter(passes).map(|rules| rules.policy);
    // Without the keys that it learned, a list cannot be judged from here: nothing passes.
    let (learned, passed_under) = match state.learned_keys() {
        Ok(learned) => (learned, passed_under),
        Err(_) => (LearnedKeys::default(), None),
    };
    Start::Continue {
        committed,
        learned,
        passed_under,
    }
}

/// A random time below `most`; none when there is no randomness, which also means no challenges.
pub(super) fn jitter_ms(driver: &mut Driver<'_>, most: u64) -> u64 {
    let mut bytes = [0; 8];
    match driver.nonces.fill(&mut bytes) {
        Some(()) => u64::from_le_bytes(bytes).checked_rem(most).unwrap_or(0),
        None => 0,
    }
}
