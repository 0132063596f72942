//! One submission from quote to verdict.
//!
//! Make an [`Appraisal`] of the quote, give it the boot log, stream the measurement list through
//! the [`ImaAppraiser`] it hands out, then [`conclude`](Appraisal::conclude). Every surface that
//! judges evidence makes these calls in this order.
//!
//! A quote that fails ends the appraisal: nothing else is looked at, because nothing else could
//! be compared with anything. Otherwise all stages run, so that a person sees every fault at once.
//!
//! ```
//! use rat_engine::appraisal::{Appraisal, Reference, Rules};
//! use rat_engine::crypto::VerifyingKey;
//! use rat_engine::pcr::PcrValues;
//! use rat_engine::verdict::{Code, Verdict};
//!
//! let pem = "-----BEGIN PUBLIC KEY-----\n\
//! MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEtS+UeHHk+JuvKxGA6WwiH2zrF8et\n\
//! aDO2RvXi/cYjfpAScBL8jei3xWWXf/1VsEgdC6lzVk+IRaqvv1zqDFVqtw==\n\
//! -----END PUBLIC KEY-----";
//! let key = VerifyingKey::from_pem(pem.as_bytes())?;
//! let reference = Reference {
//!     key: key.into(),
//!     key_attributes: None,
//!     nonce: b"what the TPM was given"[..].into(),
//!     challenged: None,
//!     pcr_policy: None,
//!     boot_pcrs: None,
//!     measured_boot: None,
//!     judge: None,
//! };
//! let quote = b"not made by a TPM";
//! let appraisal =
//!     Appraisal::of_quote(reference, Rules::default(), quote, &[], PcrValues::new());
//! let appraised = appraisal.conclude();
//! assert!(matches!(appraised.verdict, Verdict::Untrusted));
//! assert_eq!(appraised.findings[0].code, Code::QuoteWrongType);
//! # Ok::<(), rat_engine::crypto::KeyError>(())
//! ```

mod boot;
mod rules;

#[cfg(test)]
mod tests;

pub use rules::{ExtraData, Reference, Rules};

use boot::{BootStage, Judged, replay_boot_log};

use crate::crypto::Verified;
use crate::hash::Digest;
use crate::ima::boot_aggregate::{BootAggregateFault, BootAggregates, Evidence};
use crate::ima::judge::Judge;
use crate::ima::{Committed, ImaAppraiser, ImaError, ImaOptions, ImaOutcome, ImaProof, Start};
use crate::ima::{ImaReport, LearnedKeys};
use crate::pcr::{PcrIndex, PcrSet, PcrValues};
use crate::pcr_policy::PcrPolicyProof;
use crate::quote::{BoundQuote, PcrRules, Quote, QuoteError, QuotedPcrs};
use crate::tpm::Signature;
use crate::uefi::policy::MeasuredBootProof;
use crate::verdict::{Demand, Finding, Reason, Trusted, Verdict};

/// An appraisal under way. It borrows nothing: it can wait for evidence that arrives in pieces,
/// and be taken up by another thread.
#[derive(Debug)]
pub struct Appraisal {
    reference: Reference,
    rules: Rules,
    findings: Vec<Finding>,
    warnings: Vec<Finding>,
    signed: Option<BoundQuote>,
    proven: Option<Proven>,
    unproven: PcrValues,
}

/// What a genuine quote opened.
#[derive(Debug)]
struct Proven {
    quote: BoundQuote,
    pcrs: QuotedPcrs,
    pcr_policy: Option<Demand<PcrPolicyProof>>,
    boot: Option<BootStage>,
    measured_boot: Option<MeasuredBootProof>,
    ima: Option<ImaStage>,
}

#[derive(Debug)]
struct ImaStage {
    proof: ImaProof,
    state: ImaState,
}

/// What the next attestation of the same machine continues from.
#[derive(Debug)]
pub struct ImaState {
    /// Position and running values at the cut.
    pub committed: Committed,
    /// Keys learned before it.
    pub learned: LearnedKeys,
    /// What showed that boot_aggregate is right.
    pub boot_aggregate: Option<Evidence>,
    /// The policy under which everything up to there passed; `None` when not everything did.
    pub passed_under: Option<Digest>,
}

/// A finished appraisal.
#[derive(Debug)]
pub struct Appraised {
    /// The conclusion.
    pub verdict: Verdict,
    /// What failed, in the order of the stages.
    pub findings: Vec<Finding>,
    /// What a stricter rule would not accept.
    pub warnings: Vec<Finding>,
    /// What the attestation key signed for this challenge, whether or not the values that came
    /// along are those that it signed for.
    pub signed: Option<BoundQuote>,
    /// The quote, when it is genuine and its values came along.
    pub quote: Option<BoundQuote>,
    /// The PCR values that it proves.
    pub pcrs: Option<QuotedPcrs>,
    /// The values that came along, when nothing proves them.
    pub unproven: PcrValues,
    /// The PCRs whose quoted values the boot log explains, in every bank that is quoted with
    /// boot PCRs.
    pub boot_pcrs: Option<PcrSet>,
    /// The proof that the measured boot policy allows what the boot log holds.
    pub measured_boot: Option<MeasuredBootProof>,
    /// What the measurement list left behind, when it was proven.
    pub ima: Option<ImaState>,
}

impl Appraisal {
    /// Checks the quote: form, nonce, signature, selection, PCR values, PCR policy.
    ///
    /// # Security
    /// `quote`, `signature` and `values` may be anybody's bytes.
    pub fn of_quote(
        reference: Reference,
        rules: Rules,
        quote: &[u8],
        signature: &[u8],
        values: PcrValues,
    ) -> Self {
        Self::of_verified_quote(reference, rules, quote, signature, values, None)
    }

    /// The same with what a batch proved about the signature, if it did.
    ///
    /// # Security
    /// What was proved of another key or quote counts for nothing: see
    /// [`Quote::authenticate_verified`].
    pub fn of_verified_quote(
        reference: Reference,
        rules: Rules,
        quote: &[u8],
        signature: &[u8],
        values: PcrValues,
        verified: Option<&Verified>,
    ) -> Self {
        let mut appraisal = Self {
            reference,
            rules,
            findings: Vec::new(),
            warnings: Vec::new(),
            signed: None,
            proven: None,
            unproven: values,
        };
        appraisal.check_key();
        match appraisal.prove(quote, signature, verified) {
            Ok(proven) => appraisal.proven = Some(proven),
            Err(reason) => appraisal.fail(reason),
        }
        appraisal.check_pcr_policy();
        appraisal.check_banks();
        appraisal
    }

    /// An appraisal that this reason ends before it begins.
    pub(crate) fn refused(
        reference: Reference,
        rules: Rules,
        values: PcrValues,
        reason: Reason,
    ) -> Self {
        Self {
            reference,
            rules,
            findings: vec![Finding::new(reason)],
            warnings: Vec::new(),
            signed: None,
            proven: None,
            unproven: values,
        }
    }

    /// The quote, when it is genuine.
    pub fn quote(&self) -> Option<&BoundQuote> {
        self.proven.as_ref().map(|proven| &proven.quote)
    }

    /// Checks a boot log: form, order, event digests, replay against the quoted values and, where
    /// those agree, its content against the measured boot policy.
    pub fn boot_log(&mut self, log: &[u8]) {
        let Some(proven) = &mut self.proven else {
            return;
        };
        let Reference {
            boot_pcrs,
            measured_boot: policy,
            ..
        } = &self.reference;
        let Judged { stage, content } =
            match replay_boot_log(log, &proven.pcrs, *boot_pcrs, policy.as_deref()) {
                Ok(judged) => judged,
                Err(reasons) => return reasons.into_iter().for_each(|reason| self.fail(reason)),
            };
        proven.boot = Some(stage);
        match content {
            None => {}
            Some(Ok(proof)) => proven.measured_boot = Some(proof),
            Some(Err(breaches)) => breaches
                .into_iter()
                .for_each(|breach| self.fail(Reason::MeasuredBoot(breach))),
        }
    }

    /// An appraiser for the measurement list; `None` when the quote failed or does not cover IMA,
    /// and there is nothing that a list could be compared with.
    ///
    /// Give the boot log first: it may be needed to check boot_aggregate.
    pub fn ima(&mut self, options: ImaOptions, start: Start) -> Option<ImaAppraiser> {
        let proven = self.proven.as_ref()?;
        let quoted = proven.pcrs.values();
        let mut boot = BootAggregates::from_quoted(quoted);
        if let Some(stage) = &proven.boot {
            boot = boot.with_replayed(&stage.replayed);
        }
        if let Some(judge) = &self.reference.judge {
            boot = boot.with_references(
                judge
                    .policy()
                    .compiled()
                    .reference_boot_aggregates()
                    .iter()
                    .copied(),
            );
        }
        if let Some(form) = options.boot_aggregate {
            boot = boot.pinned_to(form);
        }
        self.appraiser(options, start, boot)
    }

    /// The same for a list that continues one and of which no byte comes. Should an entry come all
    /// the same: nothing is known of the aggregates that would be right, so that none is.
    pub(crate) fn ima_unchanged(
        &mut self,
        options: ImaOptions,
        start: Start,
    ) -> Option<ImaAppraiser> {
        self.appraiser(options, start, BootAggregates::default())
    }

    fn appraiser(
        &mut self,
        options: ImaOptions,
        start: Start,
        boot: BootAggregates,
    ) -> Option<ImaAppraiser> {
        let proven = self.proven.as_ref()?;
        let quoted = proven.pcrs.values();
        let judge = self.reference.judge.clone();
        let not_passed = not_passed_before(&start, judge.as_deref());
        let pinned = proven.pcrs.selection().pcrs(self.rules.bank);
        let missing = PcrSet::BOOT.difference(pinned);
        // A quote without any PCR of the bank was noticed when it was checked.
        let unpinned = !pinned.is_empty() && !pinned.contains_all(options.pcrs);
        let appraiser = ImaAppraiser::new(quoted, options, start, boot, judge);
        if let Some(error) = not_passed {
            self.fail(Reason::Ima(error));
        }
        if self.rules.needs_boot_pcrs && !missing.is_empty() {
            self.group_rule(Reason::BootNotQuoted(missing));
        }
        match appraiser {
            Ok(appraiser) => {
                if unpinned {
                    self.group_rule(Reason::BankNotPinned(self.rules.bank));
                }
                Some(appraiser)
            }
            Err(error) => {
                self.fail(Reason::Ima(error));
                None
            }
        }
    }

    /// Takes what the measurement list's appraiser ended with; returns its counts.
    pub fn ima_finished(&mut self, outcome: Result<ImaOutcome, ImaError>) -> Option<ImaReport> {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                self.fail(Reason::Ima(error));
                return None;
            }
        };
        let ImaOutcome {
            committed,
            learned,
            boot_aggregate,
            report,
            proof,
        } = outcome;
        match boot_aggregate {
            Some(Err(fault @ BootAggregateFault::Unverifiable)) => {
                self.group_rule(Reason::BootAggregate(fault));
            }
            Some(Err(fault)) => self.fail(Reason::BootAggregate(fault)),
            Some(Ok(Evidence::ReplayedPcrs(_))) => self.group_rule(Reason::BootAggregateReplayed),
            Some(Ok(Evidence::QuotedPcrs(_) | Evidence::ReferenceValue)) | None => {}
        }
        self.check_same_quote(&committed);
        for offence in &report.offences {
            self.fail(Reason::Offence(offence.clone()));
        }
        let boot_aggregate = boot_aggregate.and_then(Result::ok);
        let state = ImaState {
            committed,
            learned,
            boot_aggregate,
            passed_under: None,
        };
        if let Some(proven) = &mut self.proven {
            proven.ima = Some(ImaStage { proof, state });
        }
        Some(report)
    }

    /// Concludes. Trusted takes every proof; whatever is missing makes it untrusted.
    pub fn conclude(mut self) -> Appraised {
        let wants_log =
            self.reference.boot_pcrs.is_some() || self.reference.measured_boot.is_some();
        if wants_log
            && self.findings.is_empty()
            && self
                .proven
                .as_ref()
                .is_some_and(|proven| proven.boot.is_none())
        {
            self.fail(Reason::BootLogMissing);
        }
        if let Some(judge) = self.reference.judge.clone() {
            if judge.policy().is_empty() {
                self.fail(Reason::PolicyEmpty);
            }
            let policy = judge.policy().compiled().digest();
            let is_judged = |proven: &Proven| {
                let stage = proven.ima.as_ref();
                stage.is_some_and(|stage| stage.proof.passed_under() == Some(&policy))
            };
            if self.findings.is_empty() && !self.proven.as_ref().is_some_and(is_judged) {
                self.fail(Reason::ImaLogMissing);
            }
        }
        let verdict = self.verdict();
        let Self {
            findings,
            warnings,
            signed,
            proven,
            unproven,
            ..
        } = self;
        let Some(Proven {
            quote,
            pcrs,
            boot,
            measured_boot,
            ima,
            ..
        }) = proven
        else {
            return Appraised {
                verdict,
                findings,
                warnings,
                signed,
                quote: None,
                pcrs: None,
                unproven,
                boot_pcrs: None,
                measured_boot: None,
                ima: None,
            };
        };
        Appraised {
            verdict,
            findings,
            warnings,
            signed,
            quote: Some(quote),
            pcrs: Some(pcrs),
            unproven,
            boot_pcrs: boot.map(|stage| stage.explained.pcrs()),
            measured_boot,
            ima: ima.map(|stage| ImaState {
                passed_under: stage.proof.passed_under().copied(),
                ..stage.state
            }),
        }
    }

    /// The outcome must be of this appraisal's quote: its values are the quoted ones.
    fn check_same_quote(&mut self, committed: &Committed) {
        let Some(proven) = &self.proven else { return };
        let quoted = proven.pcrs.values();
        let foreign =
            |(pcr, digest): &&(PcrIndex, Digest)| quoted.get(digest.alg(), *pcr) != Some(*digest);
        if let Some((pcr, digest)) = committed.running().iter().find(foreign) {
            let (pcr, bank, entries) = (*pcr, digest.alg(), committed.position());
            self.fail(Reason::Ima(ImaError::PcrMismatch { pcr, bank, entries }));
        }
    }

    fn verdict(&self) -> Verdict {
        let Some(proven) = &self.proven else {
            return Verdict::Untrusted;
        };
        let Some(pcr_policy) = proven.pcr_policy else {
            return Verdict::Untrusted;
        };
        if !self.findings.is_empty() {
            return Verdict::Untrusted;
        }
        let measured_boot = match (&self.reference.measured_boot, proven.measured_boot) {
            (None, _) => Demand::NotDemanded,
            (Some(policy), Some(proof)) if proof.policy() == policy.identity() => {
                Demand::Proven(proof)
            }
            (Some(_), _) => return Verdict::Untrusted,
        };
        let Some(judge) = &self.reference.judge else {
            return Verdict::Authentic;
        };
        let Some(ima) = &proven.ima else {
            return Verdict::Untrusted;
        };
        let boot = match &proven.boot {
            Some(stage) => Demand::Proven(stage.explained),
            None => Demand::NotDemanded,
        };
        let policy = judge.policy().compiled().digest();
        Trusted::new(
            &proven.quote,
            &proven.pcrs,
            pcr_policy,
            boot,
            measured_boot,
            &ima.proof,
            policy,
        )
        .map_or(Verdict::Untrusted, Verdict::Trusted)
    }

    fn check_key(&mut self) {
        match &self.reference.key_attributes {
            Some(Ok(())) => {}
            Some(Err(error)) => self.fail(Reason::AkAttributes(*error)),
            None => self.group_rule(Reason::AkAttributesUnknown),
        }
        if self.reference.key.has_roca_fingerprint() {
            self.fail(Reason::AkRoca);
        }
    }

    fn prove(
        &mut self,
        quote: &[u8],
        signature: &[u8],
        verified: Option<&Verified>,
    ) -> Result<Proven, Reason> {
        let Reference { key, nonce, .. } = &self.reference;
        let nonce = nonce.as_bytes();
        let allow_sha1 = self.rules.allow_sha1;
        let parsed = Quote::parse(quote).map_err(Reason::Quote)?;
        let signature = Signature::parse(signature)
            .map_err(|error| Reason::Quote(QuoteError::SignatureFormat(error)))?;
        let quote = match verified {
            Some(it) => parsed.authenticate_verified(key, &signature, allow_sha1, nonce, it),
            None => parsed.authenticate(key, &signature, allow_sha1, nonce),
        };
        let quote = quote.map_err(Reason::Quote)?;
        self.signed = Some(quote.facts());
        let rules = PcrRules {
            challenged: self.reference.challenged,
            allow_sha1,
        };
        let values = std::mem::take(&mut self.unproven);
        let pcrs = match quote.prove_pcrs_or_return(values, &rules) {
            Ok(pcrs) => pcrs,
            Err((error, values)) => {
                self.unproven = values;
                return Err(Reason::Pcrs(error));
            }
        };
        Ok(Proven {
            quote: quote.facts(),
            pcrs,
            pcr_policy: None,
            boot: None,
            measured_boot: None,
            ima: None,
        })
    }

    fn check_pcr_policy(&mut self) {
        let Some(proven) = &mut self.proven else {
            return;
        };
        match self
            .reference
            .pcr_policy
            .as_deref()
            .map(|policy| policy.check(proven.pcrs.values()))
        {
            None => proven.pcr_policy = Some(Demand::NotDemanded),
            Some(Ok(proof)) => proven.pcr_policy = Some(Demand::Proven(proof)),
            Some(Err(violations)) => {
                violations
                    .into_iter()
                    .for_each(|it| self.fail(Reason::PcrPolicy(it)));
            }
        }
    }

    fn check_banks(&mut self) {
        let Some(proven) = &self.proven else { return };
        let pinned = self.rules.bank;
        let mut reasons = Vec::new();
        if proven.pcrs.selection().pcrs(pinned).is_empty() {
            reasons.push(Reason::BankNotPinned(pinned));
        }
        for (bank, _) in proven.pcrs.selection().banks() {
            let unextended = proven.pcrs.unextended(bank);
            if !unextended.is_empty() {
                reasons.push(Reason::Unextended(bank, unextended));
            }
        }
        reasons
            .into_iter()
            .for_each(|reason| self.group_rule(reason));
    }

    /// Takes a fault of the conversation that brought the evidence: there is no trust in it.
    pub(crate) fn fail(&mut self, reason: Reason) {
        self.findings.push(Finding::new(reason));
    }

    /// A rule that a machine's group decides; without a group it warns unless asked to be strict.
    fn group_rule(&mut self, reason: Reason) {
        let target = if self.rules.strict {
            &mut self.findings
        } else {
            &mut self.warnings
        };
        target.push(Finding::new(reason));
    }
}

/// A list that continues entries which did not pass under the policy that judges now. (L07)
fn not_passed_before(start: &Start, judge: Option<&Judge>) -> Option<ImaError> {
    let policy = judge?.policy().compiled().digest();
    match start {
        Start::Continue {
            committed,
            passed_under,
            ..
        } if *passed_under != Some(policy) => Some(ImaError::OffsetMismatch {
            from: committed.position(),
            expected: 0,
        }),
        _ => None,
    }
}
