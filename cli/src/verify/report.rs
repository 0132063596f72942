//! What a verification found, and its JSON form.

use rat_engine::appraisal::Appraised;
use rat_engine::ima::ImaReport;
use rat_engine::ima::boot_aggregate::{Evidence, Form};
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::quote::BoundQuote;
use rat_engine::tpm::Signature;
use rat_engine::uefi::EventLog;
use rat_engine::verdict::{Code, Finding, Reason, Verdict};

use crate::Outcome;
use crate::arguments::VerifyArguments;
use crate::output::{Item, Record};

use super::files::Files;

/// A verdict and what led to it.
pub(super) struct Report {
    pub(super) verdict: Verdict,
    /// What failed, in the order of the stages.
    pub(super) findings: Vec<Objection>,
    /// What a stricter rule would not accept.
    pub(super) warnings: Vec<Objection>,
    pub(super) quote: QuoteFacts,
    pub(super) ima: ImaFacts,
    pub(super) boot: BootFacts,
    /// Whether there was a runtime policy, and its digest.
    pub(super) policy: Option<String>,
}

/// Something that a verdict objects to.
pub(super) struct Objection {
    pub(super) code: Code,
    pub(super) detail: String,
    pub(super) entry: Option<u64>,
    pub(super) path: Option<Vec<u8>>,
    pub(super) pcr: Option<PcrIndex>,
    /// How many entries of the measurement list it stands for.
    pub(super) count: u64,
    /// What happened, in a sentence.
    pub(super) cause: &'static str,
    /// What to do about it.
    pub(super) remedy: &'static str,
}

/// The quote.
pub(super) struct QuoteFacts {
    /// The form of the key's file.
    pub(super) ak_form: &'static str,
    /// Type and size of the key.
    pub(super) key: Option<&'static str>,
    pub(super) scheme: Option<&'static str>,
    pub(super) nonce: Vec<u8>,
    /// What the TPM says; nothing until signature, nonce and PCR values were found right.
    pub(super) proven: Option<ProvenQuote>,
}

/// Fields of a quote that is genuine.
pub(super) struct ProvenQuote {
    pub(super) hash: &'static str,
    pub(super) selection: Vec<(&'static str, PcrSet)>,
    pub(super) clock_ms: u64,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    pub(super) safe: bool,
    pub(super) firmware_version: u64,
}

/// The measurement list.
pub(super) struct ImaFacts {
    pub(super) given: bool,
    pub(super) pcrs: PcrSet,
    /// The counts, when it was proven.
    pub(super) counts: Option<ImaReport>,
    /// Entries proven, when it was.
    pub(super) cut: Option<u64>,
    /// What showed that boot_aggregate is right.
    pub(super) boot_aggregate: Option<&'static str>,
}

/// The boot log.
pub(super) struct BootFacts {
    pub(super) given: bool,
    /// Its events, when it could be parsed.
    pub(super) events: Option<usize>,
    /// The PCRs of which it explains every quoted value, when it does.
    pub(super) explained: Option<PcrSet>,
}

impl Report {
    /// What is known before anything was judged.
    pub(super) fn of(files: &Files<'_>, options: &VerifyArguments, ima_given: bool) -> Self {
        let signature = Signature::parse(&files.signature).ok();
        Self {
            verdict: Verdict::Untrusted,
            findings: Vec::new(),
            warnings: Vec::new(),
            quote: QuoteFacts {
                ak_form: files.ak.form,
                key: files
                    .ak
                    .key
                    .as_ref()
                    .ok()
                    .map(|key| key.material().type_name()),
                scheme: signature.map(|signature| signature.scheme()),
                nonce: options.nonce.0.clone(),
                proven: None,
            },
            ima: ImaFacts {
                given: ima_given,
                pcrs: options.ima_pcrs,
                counts: None,
                cut: None,
                boot_aggregate: None,
            },
            boot: BootFacts::of(files.boot_log.as_deref()),
            policy: files
                .policy
                .as_ref()
                .map(|policy| policy.compiled().digest().to_string()),
        }
    }

    /// Takes what the engine concluded.
    pub(super) fn conclude(&mut self, appraised: Appraised) {
        self.verdict = appraised.verdict;
        self.findings
            .extend(appraised.findings.iter().map(Objection::new));
        self.warnings
            .extend(appraised.warnings.iter().map(Objection::new));
        self.quote.proven = appraised.quote.as_ref().map(ProvenQuote::of);
        self.boot.explained = appraised.boot_pcrs;
        if let Some(state) = appraised.ima {
            self.ima.cut = Some(state.committed.position());
            self.ima.boot_aggregate = state.boot_aggregate.map(evidence_text);
        }
    }

    /// The exit code's meaning.
    pub(super) const fn outcome(&self) -> Outcome {
        match self.verdict {
            Verdict::Trusted(_) | Verdict::Authentic => Outcome::Passed,
            Verdict::Untrusted => Outcome::Failed,
        }
    }

    /// The JSON form.
    pub(super) fn to_record(&self) -> Record {
        let objections = |list: &[Objection]| {
            list.iter()
                .map(Objection::to_record)
                .collect::<Vec<Record>>()
        };
        Record::new()
            .with("verdict", self.verdict.as_str())
            .with("codes", objections(&self.findings))
            .with("warnings", objections(&self.warnings))
            .with("quote", self.quote.to_record())
            .with("ima", self.ima.to_record())
            .with("boot", self.boot.to_record())
            .with("policy", self.policy.clone())
    }
}

impl Objection {
    /// What the engine found.
    pub(super) fn new(finding: &Finding) -> Self {
        let count = match &finding.reason {
            Reason::Offence(offence) => offence.count,
            _ => 1,
        };
        let objection = Self {
            entry: finding.entry(),
            path: finding.path().map(<[u8]>::to_vec),
            pcr: finding.pcr(),
            count,
            ..Self::of(finding.code, &finding.reason.to_string())
        };
        match &finding.reason {
            // Nothing is known to be wrong with the key, so the code's own words would mislead.
            Reason::AkAttributesUnknown => Self {
                cause: "The attestation key was given as PEM, which does not say whether the key \
                        is restricted to quotes of its own TPM.",
                remedy: "Give the key as TPM2B_PUBLIC, as tpm2_createak -u and \
                         tpm2_readpublic -o write it.",
                ..objection
            },
            _ => objection,
        }
    }

    /// Something found before the engine was asked.
    pub(super) fn of(code: Code, detail: &str) -> Self {
        Self {
            code,
            detail: detail.to_owned(),
            entry: None,
            path: None,
            pcr: None,
            count: 1,
            cause: code.cause(),
            remedy: code.remedy(),
        }
    }

    fn to_record(&self) -> Record {
        Record::new()
            .with("code", self.code.as_str())
            .with("detail", self.detail.as_str())
            .with("entry", self.entry)
            .with("path", self.path.clone().map(Item::Name))
            .with("pcr", self.pcr.map(PcrIndex::get))
            .with("count", self.count)
            .with("attribution", self.code.attribution().as_str())
            .with("cause", self.cause)
            .with("remedy", self.remedy)
    }
}

impl ProvenQuote {
    fn of(quote: &BoundQuote) -> Self {
        let banks = quote.selection().banks();
        let clock = quote.clock();
        Self {
            hash: quote.hash().name(),
            selection: banks.map(|(bank, pcrs)| (bank.name(), pcrs)).collect(),
            clock_ms: clock.clock_ms,
            reset_count: clock.reset_count,
            restart_count: clock.restart_count,
            safe: clock.safe,
            firmware_version: quote.firmware_version(),
        }
    }
}

impl QuoteFacts {
    fn to_record(&self) -> Record {
        let record = Record::new()
            .with("proven", self.proven.is_some())
            .with("key", self.key)
            .with("ak_form", self.ak_form)
            .with("scheme", self.scheme)
            .with("nonce", hex::encode(&self.nonce));
        let Some(proven) = &self.proven else {
            return record;
        };
        let mut selection = Record::new();
        for (bank, pcrs) in &proven.selection {
            selection.push(*bank, pcr_list(*pcrs));
        }
        record
            .with("hash", proven.hash)
            .with("selection", selection)
            .with("clock_ms", proven.clock_ms)
            .with("reset_count", proven.reset_count)
            .with("restart_count", proven.restart_count)
            .with("safe", proven.safe)
            .with(
                "firmware_version",
                format!("{:#018x}", proven.firmware_version),
            )
    }
}

impl ImaFacts {
    fn to_record(&self) -> Record {
        let count = |of: fn(&ImaReport) -> u64| self.counts.as_ref().map(of);
        let pcrs = self.given.then(|| pcr_list(self.pcrs));
        Record::new()
            .with("given", self.given)
            .with("proven", self.cut.is_some())
            .with("entries", count(|counts| counts.entries))
            .with("violations", count(|counts| counts.violations))
            .with("cut", self.cut)
            .with(
                "pcr",
                self.pcrs
                    .iter()
                    .next()
                    .filter(|_| self.given)
                    .map(PcrIndex::get),
            )
            .with("pcrs", pcrs)
            .with("pending", count(|counts| counts.pending))
            .with("excluded", count(|counts| counts.excluded))
            .with("signed", count(|counts| counts.signed))
            .with("denied", count(|counts| counts.denied))
            .with("boot_aggregate", self.boot_aggregate)
    }
}

impl BootFacts {
    fn of(log: Option<&[u8]>) -> Self {
        let parsed = log.and_then(|log| EventLog::parse(log).ok());
        Self {
            given: log.is_some(),
            events: parsed.as_ref().map(|log| log.events().len()),
            explained: None,
        }
    }

    fn to_record(&self) -> Record {
        Record::new()
            .with("given", self.given)
            .with("proven", self.explained.is_some())
            .with("events", self.events)
            .with("pcrs", self.explained.map(pcr_list))
    }
}

fn pcr_list(pcrs: PcrSet) -> Vec<u8> {
    pcrs.iter().map(PcrIndex::get).collect()
}

const fn evidence_text(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::QuotedPcrs(Form::Pcr0To7) => "the hash of quoted PCR 0-7",
        Evidence::QuotedPcrs(Form::Pcr0To9) => "the hash of quoted PCR 0-9",
        Evidence::ReplayedPcrs(Form::Pcr0To7) => "the hash of PCR 0-7 as the boot log replays them",
        Evidence::ReplayedPcrs(Form::Pcr0To9) => "the hash of PCR 0-9 as the boot log replays them",
        Evidence::ReferenceValue => "a reference value of the policy",
    }
}
