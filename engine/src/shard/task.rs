//! One piece of evidence on its way to a verdict: everything it needs, owned, so that it can wait
//! for a measurement list to arrive and be worked on by any thread.

mod list;

use std::sync::Arc;

use thiserror::Error;

use super::kept::{KeptParts, Tied};
use super::record::Group;
use super::state::{BootEpoch, VerdictKind};
use super::tick::KeptLog;
use crate::agent_id::AgentId;
use crate::appraisal::{Appraisal, Appraised, ImaState, Reference, Rules};
use crate::crypto::{BatchItem, KeyMaterial, Verified, VerifyingKey, verify_batch};
use crate::evidence::{
    Binding, Challenge, ImaUpload, SessionId, Submission, extra_data, qualifying_data,
};
use crate::hash::{Digest, HashAlg};
use crate::ima::judge::Judge;
use crate::ima::{
    Committed, DecodeError, EntryFault, ImaCaches, ImaError, ImaOptions, ImaReport, Start,
};
use crate::pcr::{PcrSet, PcrValues};
use crate::pcr_policy::PcrPolicy;
use crate::quote::{BoundQuote, Quote, QuoteError, QuotedPcrs};
use crate::time::Now;
use crate::tpm::{ClockInfo, Signature};
use crate::uefi::policy::MeasuredBootPolicy;
use crate::verdict::{Finding, Reason, Verdict};
use list::{Ended, List};

/// Evidence that answers an open challenge, and all that it is to be held against.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Whose evidence it is.
    pub agent: AgentId,
    /// The connection it came over.
    pub session: SessionId,
    /// The challenge it answers.
    pub challenge: Challenge,
    /// When that was issued.
    pub issued: Now,
    /// The agent's attestation key, whose attributes were found right when it enrolled.
    pub key: Arc<VerifyingKey>,
    /// The Name of that key.
    pub ak_name: Arc<[u8]>,
    /// Rules of the agent's group.
    pub rules: Rules,
    /// The PCR policy of the group.
    pub pcr_policy: Option<Arc<PcrPolicy>>,
    /// The PCRs that a boot log must explain; `None` when none is demanded.
    pub boot_pcrs: Option<PcrSet>,
    /// What judges the content of a boot log that came.
    pub measured_boot: Option<Arc<MeasuredBootPolicy>>,
    /// The runtime policy.
    pub judge: Option<Arc<Judge>>,
    /// How the agent's list is made; the format is the upload's.
    pub ima: ImaOptions,
    /// Where the list starts that was asked for.
    pub start: Start,
    /// The boot in which `start` was proven; `None` when nothing was proven yet.
    pub boot: Option<BootEpoch>,
    /// What the agent sent.
    pub submission: Submission,
}

/// More bytes of a measurement list came than were announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("more bytes of the measurement list came than the {announced} that were announced")]
pub struct Overrun {
    /// Bytes announced.
    pub announced: u64,
}

/// What a genuine quote says beside its PCRs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuoteFacts {
    /// The TPM's clock and counters.
    pub clock: ClockInfo,
    /// The vendor's number of the TPM's firmware.
    pub firmware_version: u64,
    /// Whether its signature is over SHA-1, or it covers a SHA-1 bank. (Q09)
    pub has_sha1: bool,
}

/// What an assignment ended with.
#[derive(Debug)]
pub struct Judged {
    /// Whose evidence it was.
    pub agent: AgentId,
    /// The connection it came over.
    pub session: SessionId,
    /// The challenge it answered.
    pub challenge: Challenge,
    /// When that was issued.
    pub issued: Now,
    /// The conclusion.
    pub verdict: VerdictKind,
    /// The policy that was held.
    pub policy: Option<Digest>,
    /// What failed, in the order of the stages.
    pub findings: Vec<Finding>,
    /// What a stricter rule would not accept.
    pub warnings: Vec<Finding>,
    /// What the quote says; only when it is genuine and bound to the challenge. The PCR values that
    /// came along may be others than it covers.
    pub quote: Option<QuoteFacts>,
    /// The bank that its group pins, when the values that came along are the quoted ones.
    proven_bank: Option<HashAlg>,
    /// Whether a boot log explains what it was to explain.
    pub boot_log_explained: bool,
    /// The identity of the measured boot policy that allows what that log holds.
    pub measured_boot: Option<Digest>,
    /// What the measurement list left behind, when it was proven.
    pub ima: Option<ImaState>,
    /// The counts of the list, when it was proven.
    pub report: Option<ImaReport>,
    /// SHA-256 over quote, signature, PCR values and qualifying data.
    pub evidence_sha256: [u8; 32],
    /// The evidence itself.
    pub evidence: KeptParts,
    /// The entries of the list that the quote proves.
    pub log: Option<KeptLog>,
}

impl Judged {
    /// What failed first.
    pub fn first(&self) -> Option<&Finding> {
        self.findings.first()
    }

    /// The quoted values of PCR 0-9 in the pinned bank; empty when the values that came along are
    /// not the quoted ones.
    pub fn boot_pcrs(&self) -> PcrValues {
        let values = &self.evidence.pcr_values;
        self.proven_bank
            .map_or_else(PcrValues::new, |bank| values.of_boot(bank))
    }

    /// Whether the values that came along are the quoted ones, and those of boot PCRs are among them
    /// where they must be.
    pub(super) fn has_proven_values(&self, group: &Group) -> bool {
        let values = &self.evidence.pcr_values;
        let of_boot = |bank| values.pcrs(bank).intersection(PcrSet::BOOT);
        self.proven_bank
            .is_some_and(|bank| group.keylime.is_some() || !of_boot(bank).is_empty())
    }

    /// Whether a boot PCR that is quoted, and was in this boot before, holds another value than
    /// then.
    pub(super) fn contradicts(&self, known: &PcrValues) -> bool {
        let values = &self.evidence.pcr_values;
        !self.has_these_boot_pcrs(known)
            && known.iter().any(|(bank, pcr, value)| {
                let quoted = values.get(bank, pcr);
                self.proven_bank == Some(bank) && quoted.is_some_and(|quoted| quoted != value)
            })
    }

    /// Whether they are these.
    pub(super) fn has_these_boot_pcrs(&self, known: &PcrValues) -> bool {
        let values = &self.evidence.pcr_values;
        match self.proven_bank {
            Some(bank) => known.are_of_boot(values, bank),
            None => known.is_empty(),
        }
    }
}

/// An assignment under way: [`begin`](Self::begin), [`feed`](Self::feed) while bytes
/// [`remain`](Self::remaining), [`finish`](Self::finish).
///
/// # Cost
/// `begin` verifies a signature and replays a boot log and a list that came whole; `feed` replays
/// one piece. Memory is constant in the length of a list that comes in pieces. To finish what was
/// not begun allocates nothing for a quote that passes and brings no new entries of the list.
#[derive(Debug)]
pub struct Task {
    assignment: Assignment,
    /// What a batch proved of the quote's signature.
    verified: Option<Verified>,
    /// What the lists of the fleet have in common.
    caches: Option<Arc<ImaCaches>>,
    begun: Option<Box<Begun>>,
}

#[derive(Debug)]
struct Begun {
    appraisal: Appraisal,
    list: Option<List>,
    /// What the quote's `extraData` has to be made of.
    nonce: [u8; 32],
}

impl Task {
    /// The task that this assignment gives.
    pub const fn new(assignment: Assignment) -> Self {
        Self {
            assignment,
            verified: None,
            caches: None,
            begun: None,
        }
    }

    /// The same, whose list is judged with what lists of the fleet have in common, and adds to it
    /// what the quote proves. The outcome is the same as without. (I19)
    pub fn with_caches(mut self, caches: Arc<ImaCaches>) -> Self {
        self.caches = Some(caches);
        self
    }

    /// Whose evidence it is.
    pub const fn agent(&self) -> &AgentId {
        &self.assignment.agent
    }

    /// The connection it came over.
    pub const fn session(&self) -> SessionId {
        self.assignment.session
    }

    /// The challenge it answers.
    pub const fn challenge(&self) -> &Challenge {
        &self.assignment.challenge
    }

    /// Bytes of logs that came with the evidence, which [`begin`](Self::begin) replays.
    pub fn begin_bytes(&self) -> usize {
        let submission = &self.assignment.submission;
        let whole = submission.ima.as_ref().and_then(|ima| ima.whole.as_ref());
        let boot_log = submission.boot_log.as_ref();
        let length = |bytes: Option<&Vec<u8>>| bytes.map_or(0, Vec::len);
        length(whole).saturating_add(length(boot_log))
    }

    /// Verifies the quotes' signatures of tasks that were not begun, many at once. Every task goes
    /// on as it would without: a signature that is not proved here is verified when it begins.
    ///
    /// # Cost
    /// That of [`verify_batch`]; the more tasks, the less for each.
    pub fn verify_signatures(tasks: &mut [Self]) {
        let mut items = Vec::with_capacity(tasks.len());
        let mut places = Vec::with_capacity(tasks.len());
        for (place, task) in tasks.iter().enumerate() {
            if let Some(item) = task.signature() {
                items.push(item);
                places.push(place);
            }
        }
        let mut verdicts = Vec::with_capacity(items.len());
        verify_batch(&items, &mut verdicts);
        for (place, verdict) in places.into_iter().zip(verdicts) {
            if let Some(task) = tasks.get_mut(place) {
                task.verified = verdict.ok();
            }
        }
    }

    /// Tasks whose signatures can be verified together have the same.
    pub fn signature_kind(&self) -> impl Ord + use<> {
        match self.assignment.key.material() {
            KeyMaterial::Rsa { modulus, .. } => (0, modulus.len()),
            KeyMaterial::Ecc { curve, .. } => (1, curve.field_size()),
        }
    }

    /// The signature that beginning would verify, if it can be read.
    fn signature(&self) -> Option<BatchItem<'_>> {
        let Assignment {
            key,
            rules,
            submission,
            ..
        } = &self.assignment;
        Some(BatchItem {
            key,
            signature: Signature::parse(&submission.signature).ok()?,
            message: &submission.quote,
            allow_sha1: rules.allow_sha1,
        })
    }

    /// Runs the quote's stages, the boot log, and a list that came whole. A second call does
    /// nothing.
    pub fn begin(&mut self) {
        if self.begun.is_none() {
            let verified = self.verified.take();
            let caches = self.caches.take();
            let begun = begin(&mut self.assignment, verified, caches);
            self.begun = Some(Box::new(begun));
        }
    }

    /// Whether bytes of the list follow the evidence; before [`begin`](Self::begin), as far as its
    /// sender says.
    pub fn is_streamed(&self) -> bool {
        let upload = self.assignment.submission.ima.as_ref();
        let announced = upload.filter(|upload| upload.whole.is_none());
        announced.is_some_and(|upload| upload.length > 0) || self.remaining() > 0
    }

    /// Bytes of the list that are still to come; 0 before [`begin`](Self::begin), and as soon as
    /// nothing that may follow can change the outcome.
    pub fn remaining(&self) -> u64 {
        let begun = self.begun.as_ref();
        let list = begun.and_then(|begun| begun.list.as_ref());
        list.map_or(0, List::remaining)
    }

    /// Takes the next piece of the list.
    ///
    /// # Errors
    /// [`Overrun`]: more than was announced. The piece is not read, and the task can only end
    /// untrusted.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Overrun> {
        let begun = self.begun.as_mut();
        match begun.and_then(|begun| begun.list.as_mut()) {
            Some(list) => list.feed(piece),
            None => Err(Overrun { announced: 0 }),
        }
    }

    /// Concludes. What is missing makes it untrusted.
    pub fn finish(self) -> Judged {
        let Self {
            mut assignment,
            verified,
            caches,
            begun,
        } = self;
        let begun = match begun {
            Some(begun) => *begun,
            None => begin(&mut assignment, verified, caches),
        };
        let Begun {
            mut appraisal,
            list,
            nonce,
        } = begun;
        let ended = list.and_then(|list| list.finish(&mut appraisal));
        judged(assignment, appraisal.conclude(), ended, &nonce)
    }
}

fn begin(
    assignment: &mut Assignment,
    verified: Option<Verified>,
    caches: Option<Arc<ImaCaches>>,
) -> Begun {
    let upload = assignment.submission.ima.take();
    let values = std::mem::take(&mut assignment.submission.pcr_values);
    let Assignment {
        rules, submission, ..
    } = &*assignment;
    let nonce = assignment.nonce(&submission.binding);
    let reference = Reference {
        key: Arc::clone(&assignment.key),
        key_attributes: Some(Ok(())),
        nonce: extra_data(&submission.binding, nonce),
        challenged: Some(assignment.challenge.selection),
        pcr_policy: assignment.pcr_policy.clone(),
        boot_pcrs: assignment.boot_pcrs,
        measured_boot: assignment.measured_boot.clone(),
        judge: assignment.judge.clone(),
    };
    let mut appraisal = if assignment.is_bound_elsewhere(&nonce) {
        let reason = Reason::Quote(QuoteError::ChannelMismatch);
        Appraisal::refused(reference, *rules, values, reason)
    } else {
        let (quote, signature) = (&submission.quote, &submission.signature);
        let verified = verified.as_ref();
        Appraisal::of_verified_quote(reference, *rules, quote, signature, values, verified)
    };
    if let Some(log) = &submission.boot_log {
        appraisal.boot_log(log);
    }
    let list = upload.and_then(|upload| assignment.open_list(&mut appraisal, upload, caches));
    Begun {
        appraisal,
        list,
        nonce,
    }
}

impl Assignment {
    fn nonce(&self, binding: &Binding) -> [u8; 32] {
        qualifying_data(&self.challenge, binding, &self.ak_name, &self.agent)
    }

    /// Whether the quote answers this challenge over the connection that its sender names, and
    /// not over the one that it came by. (Q13)
    fn is_bound_elsewhere(&self, expected: &[u8; 32]) -> bool {
        let Some(claimed) = self.submission.claimed_binding else {
            return false;
        };
        let Ok(quote) = Quote::parse(&self.submission.quote) else {
            return false;
        };
        let found = quote.unverified_attest().extra_data;
        let is_of = |binding: &Binding| found == self.nonce(binding);
        found != expected
            && [Binding::Channel(claimed), Binding::Relay(claimed)]
                .iter()
                .any(is_of)
    }

    /// The list that was uploaded, begun; `None` when it cannot be, or there is no genuine quote
    /// to hold it against.
    fn open_list(
        &mut self,
        appraisal: &mut Appraisal,
        upload: ImaUpload,
        caches: Option<Arc<ImaCaches>>,
    ) -> Option<List> {
        let quote = *appraisal.quote()?;
        let limit_bytes = self.ima.limit_bytes;
        let checked =
            self.start_of(&upload, &quote)
                .and_then(|start| match upload.length <= limit_bytes {
                    true => Ok(start),
                    false => Err(ImaError::Decode(DecodeError {
                        entry: upload.from_entry,
                        offset_bytes: 0,
                        fault: EntryFault::LogTooLong { limit_bytes },
                    })),
                });
        let start = match checked {
            Ok(start) => start,
            Err(error) => {
                appraisal.fail(Reason::Ima(error));
                return None;
            }
        };
        let options = ImaOptions {
            format: upload.format,
            ..self.ima.clone()
        };
        // Entries that were not announced are never looked at.
        let is_unchanged = upload.length == 0 && matches!(start, Start::Continue { .. });
        let mut appraiser = match is_unchanged {
            true => appraisal.ima_unchanged(options, start)?,
            false => appraisal.ima(options, start)?,
        };
        if let Some(caches) = caches {
            appraiser = appraiser.with_caches(caches, &self.agent);
        }
        Some(List::begin(appraiser, upload))
    }

    /// Where the uploaded list starts, now that the quote says in which boot. What it continues is
    /// taken out of the assignment.
    fn start_of(&mut self, upload: &ImaUpload, quote: &BoundQuote) -> Result<Start, ImaError> {
        let from = upload.from_entry;
        let Some(expected) = self.challenge.ima_from_entry else {
            return Err(ImaError::NotAsked);
        };
        if from != 0 && from != expected {
            return Err(ImaError::OffsetMismatch { from, expected });
        }
        let is_same_boot = self
            .boot
            .is_none_or(|boot| boot == BootEpoch::of(quote.clock()));
        let whole = |previous: &Committed| match is_same_boot {
            true => Start::AgainInBoot(previous.clone()),
            false => Start::AfterBoot(previous.clone()),
        };
        match &self.start {
            Start::First if from == 0 => Ok(Start::First),
            Start::AgainInBoot(previous) | Start::AfterBoot(previous) if from == 0 => {
                Ok(whole(previous))
            }
            Start::Continue { committed, .. } if from == 0 => Ok(whole(committed)),
            // Another boot's list begins anew: nothing of it was proven.
            Start::Continue { committed, .. } if is_same_boot && committed.position() == from => {
                Ok(std::mem::replace(&mut self.start, Start::First))
            }
            _ => Err(ImaError::OffsetMismatch { from, expected: 0 }),
        }
    }
}

fn judged(
    assignment: Assignment,
    appraised: Appraised,
    ended: Option<Ended>,
    nonce: &[u8; 32],
) -> Judged {
    let Assignment {
        agent,
        session,
        challenge,
        issued,
        ak_name,
        rules,
        judge,
        submission,
        ..
    } = assignment;
    let is_unterminated =
        |finding: &Finding| matches!(finding.reason, Reason::Ima(ImaError::Unterminated));
    let keeps_log = !appraised.findings.iter().any(is_unterminated);
    let (report, log) = match (ended, &appraised.ima) {
        (Some(ended), Some(state)) => {
            let (report, log) = ended.kept(state, challenge.id);
            (Some(report), log.filter(|_| keeps_log))
        }
        _ => (None, None),
    };
    let proven_bank = appraised.pcrs.as_ref().map(|_| rules.bank);
    let evidence = KeptParts {
        quote: submission.quote,
        signature: submission.signature,
        pcr_values: appraised
            .pcrs
            .map_or(appraised.unproven, QuotedPcrs::into_values),
        tied: Tied {
            challenge,
            binding: submission.binding,
            ak_name,
            agent: agent.clone(),
        },
        boot_log: submission.boot_log,
    };
    Judged {
        agent,
        session,
        challenge,
        issued,
        verdict: match appraised.verdict {
            Verdict::Trusted(_) => VerdictKind::Trusted,
            Verdict::Authentic => VerdictKind::Authentic,
            Verdict::Untrusted => VerdictKind::Untrusted,
        },
        policy: judge.map(|judge| judge.policy().compiled().digest()),
        findings: appraised.findings,
        warnings: appraised.warnings,
        quote: appraised.signed.map(|quote| QuoteFacts {
            clock: *quote.clock(),
            firmware_version: quote.firmware_version(),
            has_sha1: quote.hash() == HashAlg::Sha1
                || !quote.selection().pcrs(HashAlg::Sha1).is_empty(),
        }),
        proven_bank,
        boot_log_explained: appraised.boot_pcrs.is_some(),
        measured_boot: appraised.measured_boot.map(|proof| *proof.policy()),
        ima: appraised.ima,
        report,
        evidence_sha256: evidence.digest(nonce),
        evidence,
        log,
    }
}
