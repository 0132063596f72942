//! From an appraisal to what it means for the agent.

use super::agent::{Agent, Asks, Judging, Phase, Via};
use super::commit::{Cause, LastPass, Provisional, Way};
use super::epoch::{Follows, Seen, Strayed, follows};
use super::failing::{is_of_list, is_of_policy};
use super::input::{Action, Event};
use super::kept::Passed;
use super::machine::Shard;
use super::record::{AgentPath, Group};
use super::settings::Settings;
use super::settle::{describe, entries_proven, keep, settle};
use super::state::{AgentState, BootEpoch, Denied, Failure, VerdictKind};
use super::task::{Judged, QuoteFacts};
use super::tick::{Outcome, Retention};
use crate::hash::Digest;
use crate::time::Now;
use crate::verdict::{Attribution, Code, Finding};

/// Rounds in which an agent may answer about another boot than it was asked about.
const WRONG_BOOT_ROUNDS_MAX: u32 = 3;

/// What an appraisal means.
pub(super) enum Conclusion {
    /// Every check passed, or all that its group enforces.
    Passed,
    /// There is no policy to hold against it.
    NoPolicy,
    /// Every check passed, and that earns nothing yet: its list is judged with what came before,
    /// when the stored one is; or its group demands something else by now.
    Later,
    /// It is the sender's or the operator's doing: recorded, and nothing about the agent changes.
    NotTheAgents(Said),
    /// The log did not fit; it is asked for once more, from entry 0. (I20)
    OnceMore(Said),
    /// What came through a relay does not fit what the agent's key signed, or is not signed by it:
    /// it may be the relay's doing, so the agent is asked directly. (Q16)
    Mismatch(Said),
    /// It is the agent's doing.
    Failed(Said),
}

impl Conclusion {
    const fn said(&self) -> Option<&Said> {
        match self {
            Self::NotTheAgents(said)
            | Self::OnceMore(said)
            | Self::Mismatch(said)
            | Self::Failed(said) => Some(said),
            Self::Passed | Self::NoPolicy | Self::Later => None,
        }
    }

    /// What is recorded of it, when the appraisal itself ended in `verdict`.
    fn recorded(&self, verdict: VerdictKind) -> (VerdictKind, Option<Code>, String) {
        match (self, self.said()) {
            (_, Some(said)) => (VerdictKind::Untrusted, Some(said.code), said.detail.clone()),
            (Self::NoPolicy, None) => {
                let code = Code::PolicyMissing;
                (VerdictKind::Authentic, Some(code), code.cause().to_owned())
            }
            (_, None) => (verdict, None, String::new()),
        }
    }
}

/// The machine booted since it said hello; it is asked again about this boot.
struct OtherBoot;

/// What to say of it.
pub(super) struct Said {
    pub(super) code: Code,
    /// One printable line.
    pub(super) detail: String,
    pub(super) entry: Option<u64>,
    pub(super) path: Option<Vec<u8>>,
    pub(super) digest: Option<String>,
}

impl Said {
    pub(super) fn finding(finding: &Finding) -> Self {
        Self {
            code: finding.code,
            detail: describe(finding),
            entry: finding.entry(),
            path: finding.path().map(<[u8]>::to_vec),
            digest: finding.digest().map(str::to_owned),
        }
    }

    pub(super) fn code(code: Code) -> Self {
        Self {
            code,
            detail: code.cause().to_owned(),
            entry: None,
            path: None,
            digest: None,
        }
    }

    /// What was said before.
    pub(super) fn again(failure: &Failure) -> Self {
        Self {
            code: failure.code,
            detail: failure.detail.clone(),
            entry: failure.entry,
            path: failure.path.clone(),
            digest: failure.digest.clone(),
        }
    }

    /// The failure that this is in a group, under this policy if a policy is why.
    pub(super) fn failure(&self, group: &Group, under_policy: Option<Digest>, now: Now) -> Failure {
        Failure {
            code: self.code,
            detail: self.detail.clone(),
            entry: self.entry,
            path: self.path.clone(),
            digest: self.digest.clone(),
            at_unix_ms: now.unix_ms,
            under_policy,
            group: Some(group.slug.clone()),
        }
    }
}

impl Shard {
    /// Takes the end of an appraisal: an outcome to be committed, or another challenge.
    pub(super) fn judged(&mut self, mut judged: Judged, now: Now) {
        let Some(place) = self.place(&judged.agent) else {
            return;
        };
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let judging = match std::mem::replace(&mut agent.phase, Phase::Committing) {
            Phase::Judging(judging) if judging.challenge == judged.challenge.id => judging,
            // It was abandoned, or belongs to an earlier enrolment.
            other => {
                agent.phase = other;
                return;
            }
        };
        match self.conclude(place, &judging, &judged, now) {
            Err(OtherBoot) => self.ask_again(place, &judged, now),
            Ok((conclusion, follows)) => {
                if judging.asks == Asks::Denied
                    && let Some(denied) = self.denied(place, &judging)
                {
                    judged.policy = Some(denied.under.policy);
                }
                let conclusion = self.tell(&judged, conclusion);
                self.record(place, &judging, judged, conclusion, follows, now);
            }
        }
    }

    fn conclude(
        &mut self,
        place: u32,
        judging: &Judging,
        judged: &Judged,
        now: Now,
    ) -> Result<(Conclusion, Follows), OtherBoot> {
        let settings = self.settings;
        let first = gravest(&judged.findings).map(Said::finding);
        // A list that is denied already stays denied for what was found first.
        let is_denied = |said: &Said| judging.asks == Asks::Denied && is_of_list(said.code);
        let first = first.filter(|said| !is_denied(said));
        let (Some(agent), Some(facts)) = (self.agent_mut(place), &judged.quote) else {
            let said = first.unwrap_or_else(|| Said::code(Code::QuoteMalformed));
            return Ok((of_nobody(judging.via, said), Follows::First));
        };
        let failed = |code, follows| Ok((Conclusion::Failed(Said::code(code)), follows));
        let follows = match step(agent, judging, facts, &settings, now) {
            Ok(follows) => follows,
            Err((code, follows)) => return failed(code, follows),
        };
        if follows == Follows::LaterBoot && judging.from_entry.is_some_and(|from| from > 0) {
            agent.wrong_boot_rounds = agent.wrong_boot_rounds.saturating_add(1);
            if agent.wrong_boot_rounds <= WRONG_BOOT_ROUNDS_MAX {
                return Err(OtherBoot);
            }
            let said = Said::code(Code::ImaOffsetMismatch);
            return Ok((Conclusion::NotTheAgents(said), follows));
        }
        agent.wrong_boot_rounds = 0;
        if !judged.has_proven_values(&judging.group) {
            // Without the values that were quoted nothing more can be said.
            let said = first.unwrap_or_else(|| Said::code(Code::PcrDigestMismatch));
            return Ok((self.weigh(place, judging.via, said), follows));
        }
        let is_known = follows == Follows::SameBoot && agent.state.knows_bank(judging.group.bank);
        let is_explained = is_known && judging.group.allows_boot(&agent.state);
        if !is_explained && judging.group.demands_boot_log() && !judging.has_boot_log {
            let said = Said::code(Code::UefiLogMissing);
            return Ok((self.weigh(place, judging.via, said), follows));
        }
        if is_known && judged.contradicts(&agent.state.boot_pcrs) {
            return failed(Code::PcrBootChanged, follows);
        }
        let conclusion = match first {
            Some(said) => self.weigh(place, judging.via, said),
            None if self.stalls(place, judged) => {
                let said = Said::code(Code::ImaNoProgress);
                match judging.via {
                    Via::Itself => Conclusion::Failed(said),
                    // Entries beyond the cut are nobody's but the sender's.
                    Via::Relay => Conclusion::Mismatch(said),
                }
            }
            None if judging.asks == Asks::Later => Conclusion::Later,
            None if judging.asks == Asks::Denied => match self.denied(place, judging) {
                Some(denied) => Conclusion::Failed(Said::again(&denied.first)),
                None => Conclusion::Later,
            },
            None if judged.verdict == VerdictKind::Authentic && judging.group.needs_policy() => {
                Conclusion::NoPolicy
            }
            None if !self.is_as_demanded(place, &judging.group) => Conclusion::Later,
            None => Conclusion::Passed,
        };
        Ok((conclusion, follows))
    }

    /// Whether what was judged by a group is judged by what the agent's group demands now. (L05)
    pub(super) fn is_as_demanded(&self, place: u32, by: &Group) -> bool {
        let group = self.group_at(place);
        group.is_some_and(|group| group.demands() == by.demands())
    }

    /// What the list of an agent was denied for under the rules that its evidence is judged by.
    fn denied(&self, place: u32, judging: &Judging) -> Option<Denied> {
        let rules = judging.group.list_rules()?;
        self.agent(place)?.state.denied_under(&rules).cloned()
    }

    /// Tells listeners what is not in the outcome, and counts faults.
    fn tell(&mut self, judged: &Judged, conclusion: Conclusion) -> Conclusion {
        let Some(place) = self.place(&judged.agent) else {
            return conclusion;
        };
        match &conclusion {
            Conclusion::OnceMore(said) => {
                let (agent, code) = (judged.agent.clone(), said.code);
                let event = Event::SecondLook { agent, code };
                self.actions.push_back(Action::Event(event));
            }
            Conclusion::NotTheAgents(said) if said.code.attribution() == Attribution::Operator => {}
            // What is the agent's only where its key or its channel stands behind it is the
            // sender's here. (ADR 002)
            Conclusion::NotTheAgents(said) => self.report_fault(place, said.code, None),
            Conclusion::Mismatch(said) => {
                if let Some(agent) = self.agent_mut(place) {
                    agent.second_look = None;
                }
                if let Some(relay) = self.agent(place).and_then(|it| it.record.relay_key_sha256) {
                    let (agent, code) = (judged.agent.clone(), said.code);
                    let event = Event::RelayMismatch { agent, relay, code };
                    self.actions.push_back(Action::Event(event));
                }
            }
            Conclusion::Passed
            | Conclusion::NoPolicy
            | Conclusion::Later
            | Conclusion::Failed(_) => {
                if let Some(agent) = self.agent_mut(place) {
                    agent.faults = 0;
                    agent.second_look = None;
                }
            }
        }
        conclusion
    }

    /// Whose doing a finding is. The channel is the agent's own where its certificate was checked.
    fn weigh(&mut self, place: u32, via: Via, said: Said) -> Conclusion {
        let Some(agent) = self.agent_mut(place) else {
            return Conclusion::NotTheAgents(said);
        };
        match said.code.attribution() {
            Attribution::Sender | Attribution::Operator => of_nobody(via, said),
            Attribution::Channel | Attribution::Agent => {
                if deserves_second_look(said.code) && agent.second_look.is_none() {
                    agent.second_look = Some(said.code);
                    Conclusion::OnceMore(said)
                } else if via == Via::Relay && said.code.attribution() == Attribution::Channel {
                    Conclusion::Mismatch(said)
                } else {
                    Conclusion::Failed(said)
                }
            }
        }
    }

    /// Whether entries have stayed beyond an unmoved cut for too many quotes. (I04)
    fn stalls(&mut self, place: u32, judged: &Judged) -> bool {
        let most = self.settings.no_progress_rounds_max;
        let Some(agent) = self.agent_mut(place) else {
            return false;
        };
        let cut = judged.ima.as_ref().map(|ima| ima.committed.position());
        let before = agent.state.ima.as_ref().map(|ima| ima.position());
        let has_pending = judged
            .report
            .as_ref()
            .is_some_and(|report| report.pending > 0);
        agent.stalled_rounds = if has_pending && cut.is_some() && cut == before {
            agent.stalled_rounds.saturating_add(1)
        } else {
            0
        };
        agent.stalled_rounds > most
    }

    /// Asks again, about the boot that the machine is in now.
    fn ask_again(&mut self, place: u32, judged: &Judged, now: Now) {
        self.end_challenge(place, None);
        if let (Some(agent), Some(facts)) = (self.agent_mut(place), &judged.quote) {
            agent.phase = Phase::Idle;
            agent.due_ms = now.mono_ms;
            // Keylime's agents do not say in which boot they are when they come back.
            if agent.record.path != AgentPath::Native {
                agent.second_look = Some(Code::ImaOffsetMismatch);
            }
            if let Some(live) = &mut agent.session {
                live.claimed = epoch_of(facts);
            }
        }
        self.arm(place);
    }

    /// Makes the outcome. The agent keeps its committed state until the outcome is durable.
    fn record(
        &mut self,
        place: u32,
        judging: &Judging,
        judged: Judged,
        conclusion: Conclusion,
        follows: Follows,
        now: Now,
    ) {
        let baseline = self.proven_baseline(place, judging, &conclusion, &judged);
        let is_as_demanded = self.is_as_demanded(place, &judging.group);
        let settings = self.settings_of(place);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        let mut settled = settle(
            &agent.state,
            judging,
            &judged,
            &conclusion,
            follows,
            &settings,
            now,
        );
        let mut last_pass = LastPass::Stays;
        if settled.is_news {
            // What passed before goes with the failure that it came before, and with no other.
            settled
                .kept
                .extend(agent.last_pass.as_deref().map(Passed::kept));
            let kept = keep(&judged, follows, Retention::Failure, now);
            settled.kept.push(kept);
            last_pass = LastPass::Gone;
        }
        if !is_as_demanded {
            settled.trusted_until_ms = settled.trusted_until_ms.filter(|until_ms| *until_ms == 0);
        }
        if let Some(until_ms) = settled.trusted_until_ms {
            let left = until_ms.saturating_sub(now.mono_ms);
            settled.state.trusted_until_unix_ms = match left {
                0 => 0,
                left => now.unix_ms.saturating_add(left),
            };
        }
        let (verdict, code, detail) = conclusion.recorded(judged.verdict);
        if matches!(conclusion, Conclusion::Passed) {
            let ima_entries = entries_proven(&judged);
            last_pass = LastPass::Is(Box::new(Passed::new(judged.evidence, ima_entries, now)));
        }
        self.provisional.push(Provisional {
            place,
            cause: Cause::Evidence(judged.session, judged.challenge.id),
            detail,
            proved: judged.quote.as_ref().map(epoch_of),
            seen_ms: settled.is_advanced.then_some(judging.issued.mono_ms),
            trusted_until_ms: settled.trusted_until_ms,
            due_ms: settled.due_ms.saturating_add(judging.jitter_ms),
            arrived_ms: judging.arrived_ms,
            entries: judged.report.as_ref().map_or(0, |report| report.entries),
            judged_by: Some(std::sync::Arc::clone(&judging.group)),
            way: Way::of(&conclusion, judging.via),
            last_pass,
            baseline,
            outcome: Outcome {
                agent: judged.agent,
                at_unix_ms: now.unix_ms,
                verdict,
                code,
                policy: judged.policy,
                evidence_sha256: judged.evidence_sha256,
                state: settled.state,
                kept: settled.kept,
                log: judged.log.filter(|_| settled.is_advanced),
            },
        });
    }

    /// The candidate that this pass makes its group's policy. (L08)
    ///
    /// Only where the list began with the one that it was made of: its judge alone would pass any
    /// list that the candidate happens to cover.
    fn proven_baseline(
        &self,
        place: u32,
        judging: &Judging,
        conclusion: &Conclusion,
        judged: &Judged,
    ) -> Option<Digest> {
        let is_passed = matches!(conclusion, Conclusion::Passed) && judging.covers_baseline;
        let agent = self.agent(place)?;
        let candidate = agent.record.baseline.as_ref()?;
        let has_policy = self
            .group_of(&agent)
            .and_then(Group::enforced_digest)
            .is_some();
        (is_passed && !has_policy && judged.policy == Some(candidate.policy))
            .then_some(candidate.policy)
    }

    /// Takes back a failure, as an outcome like any other. What was judged counts no more: the
    /// agent must pass from entry 0. (S09)
    pub(super) fn clear(&mut self, place: u32, now: Now) {
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        // Evidence that is being judged was asked for before the operator acted: it is dropped, or
        // what it finds would bring the failure back unseen. What is on its way to the store goes
        // first.
        if agent.state.failure.is_none() {
            return;
        }
        match &agent.phase {
            Phase::Committing | Phase::Clearing => {
                agent.is_to_be_cleared = true;
                return;
            }
            Phase::Challenged(outstanding) => {
                let id = outstanding.challenge.id;
                self.open.remove(&id);
            }
            Phase::Judging(_) | Phase::Idle | Phase::Ready | Phase::Rejudging { .. } => {}
        }
        self.end_challenge(place, None);
        self.end_rejudging(place, Phase::Clearing);
        let Some(agent) = self.agent_mut(place) else {
            return;
        };
        agent.phase = Phase::Clearing;
        agent.turns.forgive();
        agent.strayed = None;
        let mut state = agent.state.clone();
        state.failure = None;
        state.passed_under = None;
        state.list.denied = None;
        state.list.is_dismissed = true;
        state.trusted_until_unix_ms = 0;
        let outcome = Outcome {
            agent: agent.record.id.clone(),
            at_unix_ms: now.unix_ms,
            verdict: VerdictKind::Untrusted,
            code: None,
            policy: None,
            evidence_sha256: [0; 32],
            state,
            kept: Vec::new(),
            log: None,
        };
        self.ready.retain(|waiting| *waiting != place);
        self.provisional.push(Provisional {
            trusted_until_ms: Some(0),
            ..Provisional::without_evidence(place, Cause::Clearing, outcome, now)
        });
    }
}

/// What nobody answers for, but the one who sent it.
fn of_nobody(via: Via, said: Said) -> Conclusion {
    let is_senders = said.code.attribution() != Attribution::Operator;
    match via {
        Via::Relay if is_senders => Conclusion::Mismatch(said),
        _ => Conclusion::NotTheAgents(said),
    }
}

/// How a genuine quote's clock and counters follow what was seen before; or why this cannot be the
/// one machine that it was. (T01, T03, T08, T09)
fn step(
    agent: &mut Agent,
    judging: &Judging,
    facts: &QuoteFacts,
    settings: &Settings,
    now: Now,
) -> Result<Follows, (Code, Follows)> {
    let before = seen_before(&agent.state, agent.seen_ms, now);
    let follows = match follows(before, judging.over, &facts.clock, settings) {
        Ok(follows) => follows,
        Err(code) => {
            if code == Code::TimeRollback && agent.state.boot == Some(epoch_of(facts)) {
                agent.strayed = Some(Strayed {
                    clock_ms: facts.clock.clock_ms,
                    issued: judging.issued,
                });
            }
            return Err((code, Follows::SameBoot));
        }
    };
    if follows == Follows::LaterBoot {
        agent.strayed = None;
    }
    let strayed = agent.strayed;
    let are_two = strayed.is_some_and(|strayed| strayed.is_of_another(&facts.clock, now));
    if are_two || agent.turns.are_too_many(now.mono_ms, settings) {
        return Err((Code::IdentityCloneSuspected, follows));
    }
    Ok(follows)
}

/// The finding that counts: the first. But what shows that evidence is not genuine comes before
/// what a policy does not allow, because an operator can allow that.
fn gravest(findings: &[Finding]) -> Option<&Finding> {
    let first = findings.first()?;
    let is_against_agent = |finding: &&Finding| {
        let attribution = finding.code.attribution();
        !is_of_policy(finding.code)
            && matches!(attribution, Attribution::Channel | Attribution::Agent)
    };
    let graver = || findings.iter().find(is_against_agent);
    Some(match is_of_policy(first.code) {
        true => graver().unwrap_or(first),
        false => first,
    })
}

/// A log may not fit its quote because of a race between the two; once, that is looked into.
const fn deserves_second_look(code: Code) -> bool {
    matches!(
        code,
        Code::ImaPcrMismatch
            | Code::ImaBanksDisagree
            | Code::ImaTruncated
            | Code::PcrDigestMismatch
    )
}

pub(super) fn epoch_of(facts: &QuoteFacts) -> BootEpoch {
    BootEpoch {
        reset_count: facts.clock.reset_count,
        restart_count: facts.clock.restart_count,
    }
}

/// What the last accepted quote said. How long ago that was is told by both of our clocks, and the
/// longer time counts: one of them stands still while a virtual machine is paused. Nothing is known
/// of a quote before this process, because the time may have been set since. (T04)
fn seen_before(state: &AgentState, seen_ms: Option<u64>, now: Now) -> Option<Seen> {
    let (boot, clock) = (state.boot?, state.clock?);
    let by_unix_ms = now.unix_ms.saturating_sub(clock.seen_unix_ms);
    let ago_ms = seen_ms.and_then(|seen_ms| {
        let by_mono_ms = now.mono_ms.checked_sub(seen_ms)?;
        Some(by_mono_ms.max(by_unix_ms))
    });
    Some(Seen {
        boot,
        clock_ms: clock.clock_ms,
        ago_ms,
    })
}
