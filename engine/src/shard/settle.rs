//! What a conclusion changes: state, trust, cadence, and what is kept of the evidence.

use super::agent::{EndsBy, Judging, ends_by, enforced_digest, is_of_policy};
use super::conclude::{Conclusion, Said, epoch_of};
use super::epoch::Follows;
use super::record::Group;
use super::settings::Settings;
use super::state::{AgentState, Failure, LastVerdict, TpmClock, VerdictKind};
use super::task::Judged;
use super::tick::{KeptEvidence, Retention};
use crate::ima::boot_aggregate::Evidence;
use crate::time::Now;
use crate::verdict::Code;

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
            settled.advance(judged, judging, follows);
            pass(&mut settled.state, judged, judging, now);
            // A failure outlives a pass; only the two ways in `pass` end it. (S09)
            settled.trusted_until_ms = settled.state.failure.is_none().then_some(ends_ms);
            if follows != Follows::SameBoot {
                let kept = keep(judged, follows, Retention::FirstPass, now);
                settled.kept.push(kept);
            }
        }
        Conclusion::NoPolicy => {
            settled.advance(judged, judging, follows);
            let said = Said::code(Code::PolicyMissing);
            note(
                &mut settled.state,
                VerdictKind::Authentic,
                Some(&said),
                judged,
                now,
            );
        }
        Conclusion::Failed(said) => {
            let is_genuine = is_of_policy(said.code);
            let last = state.verdict.as_ref();
            settled.is_news = last
                .is_none_or(|last| last.code != Some(said.code) || last.detail != describe(said));
            if is_genuine {
                settled.advance(judged, judging, follows);
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
    fn advance(&mut self, judged: &Judged, judging: &Judging, follows: Follows) {
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
        if let Some(Evidence::QuotedPcrs(form) | Evidence::ReplayedPcrs(form)) = ima.boot_aggregate
        {
            state.boot_aggregate = Some(form);
        }
    }
}

fn pass(state: &mut AgentState, judged: &Judged, judging: &Judging, now: Now) {
    note(state, judged.verdict, None, judged, now);
    let group = &judging.group;
    // Another group may be laxer: moving there ends nothing. (S16)
    let is_here = |failure: &Failure| failure.group.as_ref() == Some(&group.slug);
    let ends = |failure: &Failure| match ends_by(failure.code) {
        _ if !is_here(failure) => false,
        _ if group.auto_recover => true,
        EndsBy::Waiver => !group.require_boot_log,
        EndsBy::OtherPolicy => {
            // Without a policy nothing was judged.
            let is_other = failure.under_policy != judged.policy;
            failure.under_policy.is_some() && judged.policy.is_some() && is_other
        }
        EndsBy::Nothing => false,
    };
    if state.failure.as_ref().is_some_and(ends) {
        state.failure = None;
    }
    state.passed = state.passed.saturating_add(1);
    state.last_passed_unix_ms = now.unix_ms;
}

fn note(state: &mut AgentState, kind: VerdictKind, said: Option<&Said>, judged: &Judged, now: Now) {
    state.attestations = state.attestations.saturating_add(1);
    state.verdict = Some(LastVerdict {
        kind,
        code: said.map(|said| said.code),
        detail: said.map(describe).unwrap_or_default(),
        policy: judged.policy,
        challenged_unix_ms: judged.issued.unix_ms,
        at_unix_ms: now.unix_ms,
    });
}

/// The first failure stays: what comes after it is a consequence, or another attack.
fn fail(state: &mut AgentState, said: &Said, group: &Group, now: Now) {
    state.passed_under = None;
    state.trusted_until_unix_ms = 0;
    // A failure is replaced by one that is harder to end only.
    let known = state.failure.as_ref();
    if known.is_some_and(|known| ends_by(known.code) >= ends_by(said.code)) {
        return;
    }
    state.failure = Some(Failure {
        code: said.code,
        detail: describe(said),
        entry: said.entry,
        path: said.path.clone(),
        digest: said.digest.clone(),
        at_unix_ms: now.unix_ms,
        under_policy: enforced_digest(group).filter(|_| is_of_policy(said.code)),
        group: Some(group.slug.clone()),
    });
}

/// The most characters of a detail or path that are kept and shown.
const DETAIL_CHARS_MAX: usize = 512;

/// One printable, bounded line. Paths come from the machine: control characters are escaped. (X07)
pub(super) fn describe(said: &Said) -> String {
    let mut text = said.detail.clone();
    if let Some(path) = &said.path {
        text.push_str(": ");
        text.push_str(&path.escape_ascii().to_string());
    }
    if let Some(digest) = &said.digest {
        text.push(' ');
        text.push_str(digest);
    }
    if let Some(entry) = said.entry {
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
