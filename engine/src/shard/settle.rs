//! What a conclusion changes: state, trust, cadence, and what is kept of the evidence.

use super::agent::{Asks, Judging};
use super::conclude::{Conclusion, Said, epoch_of};
use super::epoch::Follows;
use super::failing::{fail, is_ended_by_pass, is_of_list, is_of_policy};
use super::settings::Settings;
use super::state::{
    AgentState, Denied, LastVerdict, ListFacts, ListRules, QuoteRules, TpmClock, VerdictKind,
};
use super::task::Judged;
use super::tick::{KeptEvidence, Retention};
use crate::ima::boot_aggregate::Evidence;
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
        Conclusion::Mismatch(_) => settled.trusted_until_ms = Some(0),
        Conclusion::OnceMore(_) => settled.due_ms = now.mono_ms,
        Conclusion::Passed => {
            settled.advance(judged, judging, follows, now);
            settled.pass(judged, judging, now);
            // A failure outlives a pass, with the exceptions in `is_ended_by_pass`. (S09)
            settled.trusted_until_ms = settled.state.failure.is_none().then_some(ends_ms);
            settled.keep_first_pass(judged, follows, now);
        }
        Conclusion::NoPolicy => {
            settled.advance(judged, judging, follows, now);
            let said = Said::code(Code::PolicyMissing);
            let kind = VerdictKind::Authentic;
            settled.note(kind, Some(&said), judged, judging, now);
        }
        Conclusion::Later => {
            settled.advance(judged, judging, follows, now);
            settled.note(judged.verdict, None, judged, judging, now);
            settled.keep_first_pass(judged, follows, now);
        }
        Conclusion::Failed(said) => {
            let is_genuine = is_of_policy(said.code);
            let last = state.verdict.as_ref();
            settled.is_news =
                last.is_none_or(|last| last.code != Some(said.code) || last.detail != said.detail);
            if is_genuine {
                settled.advance(judged, judging, follows, now);
            }
            let kind = VerdictKind::Untrusted;
            settled.note(kind, Some(said), judged, judging, now);
            if is_genuine && !judging.group.protected {
                // Detection mode: reported, and not held against it; other failures are. (L12)
                let known = settled.state.failure.as_ref();
                let is_held = known.is_some_and(|known| !is_of_policy(known.code));
                settled.trusted_until_ms = (!is_held).then_some(ends_ms);
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
        if !is_known {
            // Nothing that was proven in another boot or bank says anything about this one, whose
            // list may not have come. (P06, L07)
            state.boot_log_seen = false;
            state.measured_boot = None;
            state.ima = None;
            state.learned.clear();
            state.passed_under = None;
            state.list = ListFacts::default();
        }
        state.boot_log_seen |= judged.boot_log_explained;
        // What the newest log holds counts, also where an older one was allowed.
        if judging.has_boot_log && judging.group.measured_boot.is_some() {
            state.measured_boot = judged.measured_boot;
        }
        if !judged.has_these_boot_pcrs(&state.boot_pcrs) {
            state.boot_pcrs = judged.boot_pcrs();
        }
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

    fn pass(&mut self, judged: &Judged, judging: &Judging, now: Now) {
        self.note(judged.verdict, None, judged, judging, now);
        let state = &mut self.state;
        let (group, policy) = (&judging.group, judged.policy);
        state
            .failure
            .take_if(|failure| is_ended_by_pass(failure, group, policy));
        state.passed = state.passed.saturating_add(1);
        state.last_passed_unix_ms = now.unix_ms;
    }

    /// Notes the verdict, when everything else is as it will be.
    fn note(
        &mut self,
        kind: VerdictKind,
        said: Option<&Said>,
        judged: &Judged,
        judging: &Judging,
        now: Now,
    ) {
        let state = &mut self.state;
        let demanded = judging.group.quote_rules();
        let is_boot_judged = judging.has_boot_log && demanded.measured_boot.is_some();
        let has_sha1 = judged.quote.is_some_and(|quote| quote.has_sha1);
        state.attestations = state.attestations.saturating_add(1);
        state.verdict = Some(LastVerdict {
            kind,
            code: said.map(|said| said.code),
            detail: said.map(|said| said.detail.clone()).unwrap_or_default(),
            policy: judged.policy,
            challenged_unix_ms: judged.issued.unix_ms,
            at_unix_ms: now.unix_ms,
            held: Some(QuoteRules {
                boot_log: demanded.boot_log || state.boot_log_seen,
                allow_sha1: has_sha1 || judging.has_sha1_key,
                measured_boot: match is_boot_judged {
                    true => demanded.measured_boot,
                    false => state.measured_boot,
                },
                ..demanded
            }),
        });
    }

    /// Keeps the first pass of a boot, and every later one that explains it with a boot log again.
    /// So what waits in memory for a failure has no boot log.
    fn keep_first_pass(&mut self, judged: &Judged, follows: Follows, now: Now) {
        if follows != Follows::SameBoot || has_log_of_use(judged, follows) {
            let kept = keep(judged, follows, Retention::FirstPass, now);
            self.kept.push(kept);
        }
    }
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
        let require_valid_ima_sig = judging.group.require_valid_ima_sig;
        self.require_valid_ima_sig =
            require_valid_ima_sig && (is_whole || self.require_valid_ima_sig);
        let offence = judged.findings.iter().find(|it| is_of_list(it.code));
        match (offence, judged.policy) {
            (Some(offence), Some(policy)) if judging.asks == Asks::Judgement => {
                let accept_violations = judging.group.accept_violations;
                self.denied = Some(Box::new(Denied {
                    under: ListRules {
                        policy,
                        accept_violations,
                        require_valid_ima_sig,
                    },
                    first: Said::finding(offence).failure(&judging.group, Some(policy), now),
                }));
            }
            // What was denied is of another list, or passes now.
            _ if is_whole || judging.asks == Asks::Judgement => self.denied = None,
            _ => {}
        }
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

/// Whether a boot log came that is worth keeping: one that nobody asked for is of use when it
/// explains a boot that nobody knew of.
fn has_log_of_use(judged: &Judged, follows: Follows) -> bool {
    let explains_boot = judged.boot_log_explained && follows != Follows::SameBoot;
    judged.evidence.boot_log.is_some() && (judged.challenge.boot_log || explains_boot)
}

/// The evidence, to be kept for this reason.
pub(super) fn keep(judged: &Judged, follows: Follows, reason: Retention, now: Now) -> KeptEvidence {
    let mut parts = judged.evidence.clone();
    parts.boot_log = parts.boot_log.filter(|_| has_log_of_use(judged, follows));
    parts.into_kept(reason, now.unix_ms, entries_proven(judged))
}

/// Entries of the measurement list that evidence proves.
pub(super) fn entries_proven(judged: &Judged) -> u64 {
    let ima = judged.ima.as_ref();
    ima.map_or(0, |ima| ima.committed.position())
}
