//! One pass over a measurement list: decode, replay, judge, in constant memory.

use std::sync::Arc;

use super::batch::{Batch, Known, Row};
use super::boot_aggregate::{BootAggregateFault, BootAggregates, Evidence};
use super::caches::ImaCaches;
use super::decoder::Decoder;
use super::error::ImaError;
use super::hashes::{Algorithms, Hashes};
use super::judge::{Asking, Denial, Judge, Pass, Read, check_form};
use super::keyring::LearnedKeys;
use super::outcome::{ImaOptions, ImaOutcome, ImaProof, ImaReport, Offence, Start};
use super::recall::Recall;
use super::replay::{Extended, Replay};
use super::template::{Event, Template};
use super::verdicts::{Answers, Kept};
use super::{DecodeError, Entry};
use crate::agent_id::AgentId;
use crate::malformed::Malformed;
use crate::pcr::PcrValues;
use crate::policy::exclude::StepBudget;
use crate::policy::{BOOT_AGGREGATE, PathRule};

/// Appraises a list that arrives in pieces: make one, feed it, finish it.
///
/// # Cost
/// Constant memory: one incomplete entry, one batch of entries, running values, counts and learned
/// keys; with caches, what the list will add to them, within its machine's quota.
#[derive(Debug)]
pub struct ImaAppraiser {
    decoder: Decoder,
    batch: Batch,
    pass: Appraisal,
}

#[derive(Debug)]
struct Appraisal {
    options: ImaOptions,
    replay: Replay,
    /// What each entry is hashed in: for the log, and for the quoted banks.
    algorithms: Algorithms,
    start: Start,
    first_position: u64,
    boot: BootAggregates,
    judge: Option<Arc<Judge>>,
    learned: LearnedKeys,
    exclude_steps: StepBudget,
    boot_aggregate: Option<Result<Evidence, BootAggregateFault>>,
    report: ImaReport,
    error: Option<ImaError>,
    /// Replays the list as if it continued the proven one, to recognise one lost at a kexec.
    after_kexec: Option<Replay>,
    /// Whether the list begins with the one proven before.
    holds_previous: bool,
    recall: Option<Recall>,
}

impl ImaAppraiser {
    /// An appraiser of one list against quoted PCR values.
    ///
    /// Without `judge` the list is replayed and its form checked, and nothing is approved.
    ///
    /// # Errors
    /// [`ImaError::NotQuoted`] when an IMA PCR was not quoted.
    ///
    /// # Security
    /// `quoted` must have been compared with the quote's digest.
    pub fn new(
        quoted: &PcrValues,
        options: ImaOptions,
        start: Start,
        boot: BootAggregates,
        judge: Option<Arc<Judge>>,
    ) -> Result<Self, ImaError> {
        let committed = match &start {
            Start::Continue { committed, .. } => Some(committed),
            _ => None,
        };
        let replay = Replay::new(quoted, options.pcrs, options.scheme, committed)?;
        let after_kexec = match &start {
            Start::AgainInBoot(previous) => {
                Replay::new(quoted, options.pcrs, options.scheme, Some(previous)).ok()
            }
            _ => None,
        };
        let learned = match &start {
            Start::Continue { learned, .. } => learned.clone(),
            _ => LearnedKeys::default(),
        };
        let holds_previous = match &start {
            Start::AgainInBoot(previous) => replay.is_at(previous),
            _ => false,
        };
        let decoder = Decoder::new(options.format, options.log_hash, options.limit_bytes);
        let pass = Appraisal {
            first_position: replay.position(),
            algorithms: replay.algorithms().with(options.log_hash),
            options,
            replay,
            start,
            boot,
            judge,
            learned,
            exclude_steps: StepBudget::default(),
            boot_aggregate: None,
            report: ImaReport::default(),
            error: None,
            after_kexec,
            holds_previous,
            recall: None,
        };
        let batch = Batch::default();
        Ok(Self {
            decoder,
            batch,
            pass,
        })
    }

    /// The same, which uses what lists of a fleet have in common, and adds to it what this list of
    /// `agent` proves. The outcome is the same as without.
    ///
    /// # Security
    /// Only for evidence that an enrolled agent's channel or quote authenticates: a bare
    /// verification must leave nothing behind. (S15, I19)
    pub fn with_caches(mut self, caches: Arc<ImaCaches>, agent: &AgentId) -> Self {
        self.pass.recall = Some(Recall::new(caches, agent, self.pass.algorithms));
        self
    }

    /// Takes the next piece of the list, of any size.
    ///
    /// Faults are kept for [`finish`](Self::finish), so that a caller may stream on; returns
    /// whether more of the list can still matter.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        let Self {
            decoder,
            batch,
            pass,
        } = self;
        if pass.error.is_some() || pass.report.pending_malformed {
            return false;
        }
        let decoded = decoder.feed(piece, &mut |entry| pass.take(batch, &entry));
        pass.entries(batch);
        if let Err(error) = decoded {
            pass.decode_failed(error);
        }
        pass.error.is_none() && !pass.report.pending_malformed
    }

    /// Entries decoded so far.
    pub const fn entries(&self) -> u64 {
        self.decoder.entries()
    }

    /// Ends the list.
    ///
    /// # Errors
    /// [`ImaError`] when the list does not prove the quoted values, or proves less than before.
    pub fn finish(mut self) -> Result<ImaOutcome, ImaError> {
        let Self {
            decoder,
            batch,
            pass,
        } = &mut self;
        if pass.error.is_none() && !pass.report.pending_malformed {
            let decoded = decoder.finish(&mut |entry| pass.take(batch, &entry));
            pass.entries(batch);
            if let Err(error) = decoded {
                pass.decode_failed(error);
            }
        }
        self.pass.finish()
    }
}

impl Appraisal {
    /// Puts an entry with those that wait, and takes them all when they are enough.
    fn take(&mut self, batch: &mut Batch, entry: &Entry<'_>) {
        batch.push(entry);
        if batch.is_full() {
            self.entries(batch);
        }
    }

    /// Takes the entries that wait, in order.
    fn entries(&mut self, batch: &mut Batch) {
        let matters = self.replay.cut().is_none() && self.error.is_none();
        if matters && let Some(recall) = &mut self.recall {
            recall.look_up(batch);
        }
        if matters {
            batch.hash(self.algorithms);
        }
        let read = match &self.judge {
            Some(judge) if matters => judge.look_ahead(batch.events()),
            _ => Vec::new(),
        };
        let mut read = read.into_iter();
        for (entry, row) in batch.entries() {
            let read = read.next().flatten();
            if self.replay.cut().is_some() {
                self.report.pending = self.report.pending.saturating_add(1);
            } else if self.error.is_none()
                && let Err(error) = self.before_cut(&entry, row, batch, read)
            {
                self.error = Some(error);
            }
        }
        batch.clear();
    }

    /// `read` is the event, if it was read already, and what the policy says of its path.
    fn before_cut(
        &mut self,
        entry: &Entry<'_>,
        row: &Row,
        batch: &Batch,
        read: Option<Read<'_>>,
    ) -> Result<(), ImaError> {
        let position = self.replay.position();
        if !self.options.templates.contains(&entry.template) {
            return Err(ImaError::TemplateNotAccepted {
                entry: position,
                template: entry.template,
            });
        }
        if entry.is_violation() {
            self.extend(entry, Extended::Violation)?;
            return self.violation(position, entry);
        }
        let hashes = Hashes::remembered(self.algorithms, batch.hashes(row), entry.data);
        self.extend(entry, Extended::Event(&hashes))?;
        if !hashes.is(self.options.log_hash, entry.template_hash) {
            return Err(ImaError::TemplateHash { entry: position });
        }
        match &row.known {
            Some(known) => self.known_event(position, entry, known),
            None => {
                let (event, listed) = match read {
                    Some(read) => {
                        let (event, listed) = read.map_err(|fault| unread(position, fault))?;
                        (event, Some(listed))
                    }
                    None => (parsed(position, entry)?, None),
                };
                self.event(position, &event, listed, row.hash, &hashes)
            }
        }
    }

    fn extend(&mut self, entry: &Entry<'_>, event: Extended<'_>) -> Result<(), ImaError> {
        self.replay.extend_with(entry.pcr, event)?;
        if let Some(other) = &mut self.after_kexec {
            other.extend_with(entry.pcr, event)?;
        }
        if let Start::AgainInBoot(previous) | Start::AfterBoot(previous) = &self.start {
            self.holds_previous |= self.replay.is_at(previous);
        }
        self.report.entries = self.report.entries.saturating_add(1);
        self.report.proven_bytes = entry.end_bytes;
        Ok(())
    }

    /// A violation is an event of unknown content: its path is not authenticated, so no exclude
    /// pattern excuses it. (I09, I30)
    fn violation(&mut self, position: u64, entry: &Entry<'_>) -> Result<(), ImaError> {
        self.expect_boot_aggregate(position, false)?;
        self.report.violations = self.report.violations.saturating_add(1);
        if self.judge.is_some() && !self.options.accept_violations {
            let claimed = Event::parse(entry.template, entry.data).ok();
            self.deny(position, None, claimed.as_ref());
        }
        Ok(())
    }

    fn event(
        &mut self,
        position: u64,
        event: &Event<'_>,
        listed: Option<PathRule>,
        hash: u64,
        hashes: &Hashes<'_>,
    ) -> Result<(), ImaError> {
        let is_aggregate = event.name == BOOT_AGGREGATE && event.template != Template::ImaBuf;
        self.expect_boot_aggregate(position, is_aggregate)?;
        if let Err(denial) = check_form(event) {
            self.deny(position, Some(denial), Some(event));
            return Ok(());
        }
        if is_aggregate {
            return self.check_boot_aggregate(position, event);
        }
        let kept = self.judged(position, event, listed);
        if let Some(recall) = &mut self.recall {
            let require_valid_ima_sig = self.options.require_valid_ima_sig;
            let answers = kept.map(|kept| Answers::of_event(kept, require_valid_ima_sig));
            recall.note_entry(event.template, hash, hashes, answers.unwrap_or_default());
        }
        Ok(())
    }

    /// An event that another list, or this machine's, has proven before: it is no boot_aggregate,
    /// and its form is right.
    fn known_event(
        &mut self,
        position: u64,
        entry: &Entry<'_>,
        known: &Known,
    ) -> Result<(), ImaError> {
        self.expect_boot_aggregate(position, false)?;
        let Some(judge) = &self.judge else {
            return Ok(());
        };
        let require_valid_ima_sig = self.options.require_valid_ima_sig;
        match judge.verdicts().event(known.number, require_valid_ima_sig) {
            Some(Kept::Allow(pass)) => self.pass(pass),
            Some(Kept::Deny(denial)) => {
                self.deny(position, Some(denial), Some(&parsed(position, entry)?));
            }
            Some(Kept::NeedsAgentState) => {
                self.judged(position, &parsed(position, entry)?, None);
            }
            None => {
                let kept = self.judged(position, &parsed(position, entry)?, None);
                if let (Some(judge), Some(kept)) = (&self.judge, kept) {
                    let answers = Answers::of_event(kept, require_valid_ima_sig);
                    judge.verdicts().keep(known.number, answers);
                }
            }
        }
        Ok(())
    }

    /// Judges an event, if there is a policy; says what can be kept of the answer.
    fn judged(
        &mut self,
        position: u64,
        event: &Event<'_>,
        listed: Option<PathRule>,
    ) -> Option<Kept> {
        let judge = self.judge.as_ref()?;
        let mut asking = Asking::new(
            self.options.require_valid_ima_sig,
            &mut self.learned,
            &mut self.exclude_steps,
            self.recall.as_mut(),
        )
        .listed_as(listed);
        let (result, kept) = judge.judge_for(event, &mut asking);
        match result {
            Ok(pass) => self.pass(pass),
            Err(denial) => self.deny(position, Some(denial), Some(event)),
        }
        Some(kept)
    }

    fn pass(&mut self, pass: Pass) {
        let report = &mut self.report;
        match pass {
            Pass::Excluded => report.excluded = report.excluded.saturating_add(1),
            Pass::Signed => report.signed = report.signed.saturating_add(1),
            Pass::Listed | Pass::KeyringIgnored | Pass::KeyLearned => {}
        }
    }

    fn expect_boot_aggregate(&self, position: u64, is_aggregate: bool) -> Result<(), ImaError> {
        if position == 0 && !is_aggregate {
            let fault = BootAggregateFault::NotFirst;
            return Err(ImaError::BootAggregate {
                entry: position,
                fault,
            });
        }
        Ok(())
    }

    /// After a kexec a further aggregate stands within the list; it is checked like the first.
    fn check_boot_aggregate(&mut self, position: u64, event: &Event<'_>) -> Result<(), ImaError> {
        match self.boot.check(&event.digest) {
            // Within the list it may be a file: the kernel names one that it cannot reach from the
            // root by its last component. With a policy, what cannot be checked must not pass.
            Err(fault @ (BootAggregateFault::Unverifiable | BootAggregateFault::NotListed))
                if position == 0 || self.judge.is_none() =>
            {
                self.boot_aggregate = Some(Err(fault));
            }
            Err(fault) => {
                return Err(ImaError::BootAggregate {
                    entry: position,
                    fault,
                });
            }
            Ok(evidence) => {
                self.boot_aggregate.get_or_insert(Ok(evidence));
            }
        }
        Ok(())
    }

    fn deny(&mut self, entry: u64, denial: Option<Denial>, event: Option<&Event<'_>>) {
        self.report.denied = self.report.denied.saturating_add(1);
        let same_kind = |offence: &&mut Offence| match (&offence.denial, &denial) {
            (Some(a), Some(b)) => std::mem::discriminant(a) == std::mem::discriminant(b),
            (None, None) => true,
            _ => false,
        };
        match self.report.offences.iter_mut().find(same_kind) {
            Some(offence) => offence.count = offence.count.saturating_add(1),
            None => {
                let path = event.map(|event| event.name.into());
                let digest = event.map(|event| event.digest.to_string().into());
                self.report.offences.push(Offence {
                    denial,
                    entry,
                    path,
                    digest,
                    count: 1,
                });
            }
        }
    }

    fn decode_failed(&mut self, mut error: DecodeError) {
        if self.replay.cut().is_some() {
            self.report.pending_malformed = true;
        } else {
            error.entry = error.entry.saturating_add(self.first_position);
            self.error.get_or_insert(ImaError::Decode(error));
        }
    }

    fn finish(self) -> Result<ImaOutcome, ImaError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let committed = self.replay.finish().map_err(|error| self.explain(error))?;
        if let Start::AgainInBoot(previous) = &self.start
            && committed.position() < previous.position()
        {
            return Err(ImaError::Truncated {
                proven: committed.position(),
                committed: previous.position(),
            });
        }
        if let Start::AgainInBoot(previous) = &self.start
            && !self.holds_previous
        {
            let committed = previous.position();
            return Err(ImaError::Diverged { committed });
        }
        // A list from entry 0 that proves nothing would leave everything pending.
        let continues = matches!(self.start, Start::Continue { .. });
        if !continues && committed.position() == 0 {
            let fault = BootAggregateFault::NothingProven;
            return Err(ImaError::BootAggregate { entry: 0, fault });
        }
        let policy = self
            .judge
            .as_ref()
            .map(|judge| judge.policy().compiled().digest());
        let passed_before = match &self.start {
            Start::Continue { passed_under, .. } => *passed_under == policy,
            _ => true,
        };
        let judged = policy.filter(|_| passed_before && self.report.denied == 0);
        let proof = ImaProof::new(committed.position(), judged);
        if let Some(recall) = self.recall {
            recall.learn(self.judge.as_ref().map(|judge| judge.verdicts()));
        }
        Ok(ImaOutcome {
            committed,
            learned: self.learned,
            boot_aggregate: self.boot_aggregate,
            report: self.report,
            proof,
        })
    }

    /// Says why a list did not match, where what is known of the machine tells more.
    fn explain(&self, error: ImaError) -> ImaError {
        match (&error, &self.start) {
            (ImaError::PcrMismatch { .. }, Start::AgainInBoot(previous)) => {
                let committed = previous.position();
                let cut = self.after_kexec.as_ref().and_then(Replay::cut);
                if cut.is_some_and(|cut| cut > committed) {
                    // What was sent follows what was proven, boot_aggregate at least.
                    return ImaError::KexecLogLost;
                }
                let proven = self.replay.position();
                if proven < committed {
                    ImaError::Truncated { proven, committed }
                } else {
                    error
                }
            }
            (ImaError::PcrMismatch { .. }, Start::AfterBoot(_)) if self.holds_previous => {
                ImaError::Hibernated
            }
            _ => error,
        }
    }
}

/// The event of an entry that is no violation.
fn parsed<'e>(position: u64, entry: &Entry<'e>) -> Result<Event<'e>, ImaError> {
    Event::parse(entry.template, entry.data).map_err(|fault| unread(position, fault))
}

const fn unread(entry: u64, fault: Malformed) -> ImaError {
    ImaError::TemplateData { entry, fault }
}
