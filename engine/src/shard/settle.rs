//! What a conclusion changes: state, trust, cadence, and what is kept of the evidence.

use std::cmp::Ordering;

use super::agent::{Asks, EndsBy, Judging, ends_by, enforced_digest, is_of_list, is_of_policy};
use super::conclude::{Conclusion, Said, epoch_of};
use super::epoch::Follows;
use super::record::Group;
use super::settings::Settings;
use super::state::{
    AgentState, Denied, Failure, LastVerdict, ListFacts, ListRules, TpmClock, VerdictKind,
};
use super::task::Judged;
use super::tick::{KeptEvidence, Retention};
use crate::hash::Digest;
use crate::ima::boot_aggregate::Evidence;
use crate::pcr_policy::PcrPolicy;
use crate::time::Now;
use crate::verdict::{Code, Finding};

/// What an outcome changes beside the agent's records.
pub(super) struct Settled {
    pub(super) state: AgentState,
    pub(super) kept: Vec<KeptEvidence>,
    /// Whether boot, clock and position advanced.
    pub(super) is_advanced: bool,
    /// Whether it failed otherwise than last time, or became failed: then its evidence is kept.
    pub(super) is_news: bool,
    pub(super) trusted_until_ms: Option<u64>,
    pub(super) due_ms: u64,
}

/// What follows from a conclusion for state, trust, cadence and what is kept.
pub(super) fn settle(
    state: &AgentState,
    judging: &Judging,
    judged: &Judged,
    conclusion: &Conclusion,
    follows: Follows,
    settings: &Settings,
    now: Now,
) -> Settled {
    let issued_ms = judging.issued.mono_ms;
    let ends_ms = issued_ms.saturating_add(settings.max_age_ms);
    let mut settled = Settled {
        state: state.clone(),
        kept: Vec::new(),
        is_advanced: false,
        is_news: false,
        trusted_until_ms: None,
        due_ms: issued_ms.saturating_add(settings.interval_ms),
    };
    match conclusion {
        Conclusion::NotTheAgents(_) => {}
        Conclusion::OnceMore(_) => settled.due_ms = now.mono_ms,
        Conclusion::Passed => {
            settled.advance(judged, judging, follows, now);
            pass(&mut settled.state, judged, judging, now);
            // A failure outlives a pass; only the two ways in `pass` end it. (S09)
            settled.trusted_until_ms = settled.state.failure.is_none().then_some(ends_ms);
            if follows != Follows::SameBoot {
                let kept = keep(judged, follows, Retention::FirstPass, now);
                settled.kept.push(kept);
            }
        }
        Conclusion::NoPolicy => {
            settled.advance(judged, judging, follows, now);
            let said = Said::code(Code::PolicyMissing);
            note(
                &mut settled.state,
                VerdictKind::Authentic,
                Some(&said),
                judged,
                now,
            );
        }
        Conclusion::Later => {
            settled.advance(judged, judging, follows, now);
            note(&mut settled.state, judged.verdict, None, judged, now);
        }
        Conclusion::Failed(said) => {
            let is_genuine = is_of_policy(said.code);
            let last = state.verdict.as_ref();
            settled.is_news =
                last.is_none_or(|last| last.code != Some(said.code) || last.detail != said.detail);
            if is_genuine {
                settled.advance(judged, judging, follows, now);
            }
            note(
                &mut settled.state,
                VerdictKind::Untrusted,
                Some(said),
                judged,
                now,
            );
            if is_genuine && !judging.group.protected {
                // Detection mode: reported, and not held against it. (L12)
                settled.trusted_until_ms = Some(ends_ms);
                settled.state.passed = settled.state.passed.saturating_add(1);
            } else {
                fail(&mut settled.state, said, &judging.group, now);
                settled.is_news |= settled.state.failure != state.failure;
                settled.trusted_until_ms = Some(0);
                settled.due_ms = issued_ms.saturating_add(settings.failed_interval_ms);
            }
        }
    }
    settled
}

impl Settled {
    /// Takes over what a genuine quote proved: boot, clock, position, pinned values.
    fn advance(&mut self, judged: &Judged, judging: &Judging, follows: Follows, now: Now) {
        let Some(facts) = &judged.quote else { return };
        self.is_advanced = true;
        let state = &mut self.state;
        state.boot = Some(epoch_of(facts));
        state.clock = Some(TpmClock {
            clock_ms: facts.clock.clock_ms,
            safe: facts.clock.safe,
            firmware_version: facts.firmware_version,
            seen_unix_ms: judging.issued.unix_ms,
        });
        let is_known = follows == Follows::SameBoot && state.knows_bank(judging.group.bank);
        state.boot_log_seen = judged.boot_log_explained || (is_known && state.boot_log_seen);
        state.boot_pcrs = judged.boot_pcrs.clone();
        let Some(ima) = &judged.ima else { return };
        state.ima = Some(ima.committed.clone());
        state.keep_learned(&ima.learned);
        state.passed_under = ima.passed_under;
        state.list.advance(judged, judging, now);
        if let Some(Evidence::QuotedPcrs(form) | Evidence::ReplayedPcrs(form)) = ima.boot_aggregate
        {
            state.boot_aggregate = Some(form);
        }
    }
}

fn pass(state: &mut AgentState, judged: &Judged, judging: &Judging, now: Now) {
    note(state, judged.verdict, None, judged, now);
    let group = &judging.group;
    let ends = |failure: &Failure| match ends_by(failure.code) {
        _ if !is_of(failure, group) => false,
        _ if group.auto_recover => true,
        EndsBy::Waiver => !group.require_boot_log,
        // Without a runtime policy no list was judged; without a PCR policy no value is demanded.
        EndsBy::OtherPolicy => failure
            .under_policy
            .is_some_and(|under| match failure.code {
                Code::PcrValueNotAllowed => policy_of(failure.code, group) != Some(under),
                // The rule that it failed by does not hold any more.
                Code::ImaViolation if group.accept_violations => judged.policy.is_some(),
                _ => judged.policy.is_some_and(|policy| policy != under),
            }),
        EndsBy::Nothing => false,
    };
    if state.failure.as_ref().is_some_and(ends) {
        state.failure = None;
    }
    state.passed = state.passed.saturating_add(1);
    state.last_passed_unix_ms = now.unix_ms;
}

/// Whether it failed in this group. Another one may be laxer: moving there ends nothing. (S16)
fn is_of(failure: &Failure, group: &Group) -> bool {
    failure.group.as_ref() == Some(&group.slug)
}

fn note(state: &mut AgentState, kind: VerdictKind, said: Option<&Said>, judged: &Judged, now: Now) {
    state.attestations = state.attestations.saturating_add(1);
    state.verdict = Some(LastVerdict {
        kind,
        code: said.map(|said| said.code),
        detail: said.map(|said| said.detail.clone()).unwrap_or_default(),
        policy: judged.policy,
        challenged_unix_ms: judged.issued.unix_ms,
        at_unix_ms: now.unix_ms,
    });
}

impl ListFacts {
    /// Takes over what is known of a list that was proven further.
    fn advance(&mut self, judged: &Judged, judging: &Judging, now: Now) {
        let Some(report) = &judged.report else { return };
        // Unless it continues a list of which this is known, this is all of it.
        let is_whole = judging.from_entry == Some(0);
        self.is_dismissed &= !is_whole;
        let count = |before: Option<u64>, more: u64| match is_whole {
            true => Some(more),
            false => before.map(|before| before.saturating_add(more)),
        };
        self.violations = count(self.violations, report.violations);
        let is_judged = judging.asks == Asks::Judgement && judged.policy.is_some();
        self.excluded = count(self.excluded, report.excluded).filter(|_| is_judged);
        let offence = judged.findings.iter().find(|it| is_of_list(it.code));
        match (offence, judged.policy) {
            (Some(offence), Some(policy)) if judging.asks == Asks::Judgement => {
                let accept_violations = judging.group.accept_violations;
                self.denied = Some(Denied {
                    under: ListRules {
                        policy,
                        accept_violations,
                    },
                    first: Said::finding(offence).failure(&judging.group, Some(policy), now),
                });
            }
            // What was denied is of another list, or passes now.
            _ if is_whole || judging.asks == Asks::Judgement => self.denied = None,
            _ => {}
        }
    }
}

/// The first failure stays: what comes after it is a consequence, or another attack.
pub(super) fn fail(state: &mut AgentState, said: &Said, group: &Group, now: Now) {
    // What PCRs hold says nothing about the list, and is checked with every quote.
    if said.code != Code::PcrValueNotAllowed {
        state.passed_under = None;
    }
    state.trusted_until_unix_ms = 0;
    // A failure is replaced only by one that is harder to end, and, when the next pass would end
    // it because its policy has changed, by one that would stand. A pass ends no failure of
    // another group.
    let stays = |known: &Failure| match ends_by(known.code).cmp(&ends_by(said.code)) {
        Ordering::Less => false,
        Ordering::Equal if known.under_policy.is_some() && is_of(known, group) => {
            known.under_policy == policy_of(known.code, group)
        }
        Ordering::Equal | Ordering::Greater => true,
    };
    if state.failure.as_ref().is_some_and(stays) {
        return;
    }
    state.failure = Some(said.failure(group, policy_of(said.code, group), now));
}

/// The policy of the group that is why something fails with this code, if one is.
fn policy_of(code: Code, group: &Group) -> Option<Digest> {
    match code {
        Code::PcrValueNotAllowed => group.pcr_policy.as_deref().map(PcrPolicy::digest),
        code if is_of_policy(code) => enforced_digest(group),
        _ => None,
    }
}

/// The most characters of a detail or path that are kept and shown.
const DETAIL_CHARS_MAX: usize = 512;

/// One printable, bounded line. Paths come from the machine: control characters are escaped. (X07)
pub(super) fn describe(finding: &Finding) -> String {
    let mut text = finding.reason.to_string();
    if let Some(path) = finding.path() {
        text.push_str(": ");
        text.push_str(&path.escape_ascii().to_string());
    }
    if let Some(digest) = finding.digest() {
        text.push(' ');
        text.push_str(digest);
    }
    if let Some(entry) = finding.entry() {
        text.push_str(&format!(" (entry {entry})"));
    }
    text.chars()
        .flat_map(|c| c.is_control().then_some('\u{fffd}').or(Some(c)))
        .take(DETAIL_CHARS_MAX)
        .collect()
}

/// The evidence, to be kept for this reason.
pub(super) fn keep(judged: &Judged, follows: Follows, reason: Retention, now: Now) -> KeptEvidence {
    let parts = &judged.evidence;
    // One that nobody asked for is of use when it explains a boot that nobody knew of.
    let explains_boot = judged.boot_log_explained && follows != Follows::SameBoot;
    let is_of_use = judged.challenge.boot_log || explains_boot;
    KeptEvidence {
        reason,
        at_unix_ms: now.unix_ms,
        quote: parts.quote.clone(),
        signature: parts.signature.clone(),
        pcr_values: parts
            .pcr_values
            .iter()
            .map(|(bank, pcr, value)| (bank.tpm_id(), pcr.get(), value.as_bytes().to_vec()))
            .collect(),
        preimage: parts.preimage.clone(),
        boot_log: parts.boot_log.clone().filter(|_| is_of_use),
        ima_entries: judged
            .ima
            .as_ref()
            .map_or(0, |ima| ima.committed.position()),
    }
}
