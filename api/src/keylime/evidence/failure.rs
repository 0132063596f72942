//! What is wrong with evidence, under the names that Keylime gives to it.
//!
//! `type` is Keylime's where Keylime has one for the same fault. `context` has Keylime's `message`,
//! and our own stable code, which is finer. Where many entries of a list fail in one way, the first
//! is shown and the rest is counted: Keylime lists each, so that an answer grows with the list.
//!
//! Source: Keylime 7.14 `keylime/failure.py`, `keylime/tpm/tpm_main.py`, `keylime/ima/ima.py`.

use std::borrow::Cow;

use rat_engine::ima::boot_aggregate::BootAggregateFault;
use rat_engine::ima::judge::Denial;
use rat_engine::ima::{ImaError, Offence};
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::pcr_policy::PcrPolicyViolation;
use rat_engine::quote::QuoteError;
use rat_engine::uefi::UefiPcrMismatch;
use rat_engine::uefi::policy::{Breach, BreachRule};
use rat_engine::verdict::{Code, Finding, Reason};
use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    #[serde(rename = "type")]
    kind: Cow<'static, str>,
    context: Box<Context>,
}

/// What is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Context {
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Data {
    Text(String),
    Pcrs(Vec<u8>),
}

/// Characters of a hash algorithm's name that are repeated.
const NAME_SHOWN_MAX: usize = 32;

impl Failure {
    fn new(kind: impl Into<Cow<'static, str>>, code: &'static str, message: String) -> Self {
        Self {
            kind: kind.into(),
            context: Box::new(Context {
                message,
                code,
                ..Context::default()
            }),
        }
    }

    /// The stable code, which is a metric's label.
    pub(super) fn code(&self) -> &'static str {
        self.context.code
    }

    /// What is known of it, as JSON: how `verify/identity` gives its reasons.
    pub(super) fn context(&self) -> String {
        // Serialising our own types of texts and numbers cannot fail.
        serde_json::to_string(&self.context).unwrap_or_default()
    }

    /// A parameter that must be there.
    pub(super) fn missing_parameter(name: &str) -> Self {
        let message = format!("missing parameter \"{name}\"");
        Self::new("default.missing_param", "missing_param", message)
    }

    /// There is nothing to hold the evidence against.
    pub(super) fn missing_policy() -> Self {
        let message =
            "at least one policy (tpm_policy, runtime_policy, or mb_policy) must be provided";
        Self::new(
            "default.missing_policy",
            "missing_policy",
            message.to_owned(),
        )
    }

    /// A hash algorithm that no quote is signed with.
    pub(super) fn unknown_hash(name: &str) -> Self {
        let shown: String = name.chars().take(NAME_SHOWN_MAX).collect();
        let message = format!("TPM Quote is using an unrecognized hash algorithm: {shown}");
        let code = Code::QuoteAlgNotAllowed.as_str();
        let mut failure = Self::new("qoute_validation.invalid_hash_alg", code, message);
        failure.context.data = Some(Data::Text(shown));
        failure
    }

    /// The attestation key, or what came before the quote was looked at.
    pub(super) fn of_key(code: Code, detail: &str) -> Self {
        let message = format!("Quote validation failed: {detail}");
        Self::new("qoute_validation.invalid_quote", code.as_str(), message)
    }

    /// The quote.
    pub(super) fn of_quote(code: Code, detail: String) -> Self {
        let message = "Quote data validation".to_owned();
        let mut failure = Self::new("qoute_validation.quote_validation", code.as_str(), message);
        failure.context.error = Some(detail);
        failure
    }

    /// The quote covers IMA's PCR, and nothing explains its value.
    pub(super) fn unexplained_list() -> Self {
        let message = "IMA measurement list does not match TPM PCR: none was given";
        let code = Code::ImaLogMissing.as_str();
        Self::new("ima.pcr_mismatch", code, message.to_owned())
    }

    /// The engine judged, and did not say what is wrong: still it is not valid.
    pub(super) fn untrusted() -> Self {
        let message = "the evidence is not trusted".to_owned();
        Self::new("internal.verifier.untrusted", "", message)
    }

    fn missing_pcrs(code: Code, pcrs: impl IntoIterator<Item = PcrIndex>) -> Self {
        let message = "PCRs are missing in quote".to_owned();
        let mut failure = Self::new("pcr_validation.missing_pcrs", code.as_str(), message);
        let pcrs = pcrs.into_iter().map(PcrIndex::get).collect();
        failure.context.data = Some(Data::Pcrs(pcrs));
        failure
    }
}

/// What Keylime would call these findings.
pub(super) fn of_findings<'f>(findings: impl IntoIterator<Item = &'f Finding>) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut missing = PcrSet::EMPTY;
    for finding in findings {
        match &finding.reason {
            Reason::PcrPolicy(PcrPolicyViolation::NotAttested { pcr }) => {
                missing.insert(*pcr);
            }
            Reason::UefiCompare(UefiPcrMismatch::Differs { all, .. }) => {
                failures.extend(all.iter().map(|pcr| boot_pcr(finding, pcr)));
            }
            reason => failures.push(of_reason(finding, reason)),
        }
    }
    if !missing.is_empty() {
        failures.push(Failure::missing_pcrs(Code::PcrNotAttested, missing.iter()));
    }
    failures
}

fn boot_pcr(finding: &Finding, pcr: PcrIndex) -> Failure {
    let kind = format!("measured_boot.invalid_pcr_{pcr}");
    Failure::new(kind, finding.code.as_str(), finding.reason.to_string())
}

fn of_reason(finding: &Finding, reason: &Reason) -> Failure {
    let code = finding.code;
    let detail = reason.to_string();
    let plain = |kind: &'static str| Failure::new(kind, code.as_str(), detail.clone());
    match reason {
        Reason::AkAttributes(_)
        | Reason::AkAttributesUnknown
        | Reason::AkKey(_)
        | Reason::AkRoca => Failure::of_key(code, &detail),
        Reason::Quote(QuoteError::NonceMismatch { .. }) => {
            let detail = "The nonce from the attestation differs from the expected nonce";
            Failure::of_quote(code, detail.to_owned())
        }
        Reason::Quote(_) | Reason::Pcrs(_) => Failure::of_quote(code, detail),
        Reason::PcrPolicy(PcrPolicyViolation::NotAllowed { pcr, found }) => {
            let message = "PCR value is not in allowlist".to_owned();
            let kind = format!("pcr_validation.invalid_pcr_{pcr}");
            let mut failure = Failure::new(kind, code.as_str(), message);
            failure.context.got = Some(found.to_hex());
            failure
        }
        Reason::PcrPolicy(PcrPolicyViolation::NotAttested { pcr }) => {
            Failure::missing_pcrs(code, [*pcr])
        }
        Reason::BootNotQuoted(pcrs) => Failure::missing_pcrs(code, pcrs.iter()),
        Reason::UefiCompare(UefiPcrMismatch::NotQuoted { all, .. }) => {
            Failure::missing_pcrs(code, all.iter())
        }
        Reason::UefiCompare(_) => Failure::missing_pcrs(code, []),
        Reason::MeasuredBoot(breach) => of_breach(breach, finding),
        Reason::Unextended(..) => plain("pcr_validation.bank_unextended"),
        Reason::BankNotPinned(_) => plain("pcr_validation.bank_not_quoted"),
        Reason::Uefi(_) | Reason::BootLogMissing => {
            plain("measured_boot.parser.tpm2_eventlog.error")
        }
        Reason::Ima(error) => {
            let mut failure = of_list(error, code, detail);
            failure.context.entry = finding.entry();
            failure
        }
        Reason::BootAggregate(fault) => plain(aggregate_kind(*fault)),
        Reason::BootAggregateReplayed => plain("ima.validation.ima-ng.not_in_allowlist"),
        Reason::Offence(offence) => of_offence(offence, code, detail),
        Reason::ImaLogMissing => plain("pcr_validation.unused_pcr_10"),
        Reason::PolicyEmpty => plain("ima.validation.runtime_policy_empty"),
        // A reason of a newer engine: a failure all the same.
        _ => plain("internal.verifier.untrusted"),
    }
}

/// Keylime stops at the first breach, and names all of them after the policy.
fn of_breach(breach: &Breach, finding: &Finding) -> Failure {
    let (kind, message) = match breach.rule {
        BreachRule::NotProven => (
            "measured_boot.missing_pcrs",
            "PCRs are missing in quote".to_owned(),
        ),
        BreachRule::Rejected => (
            "measured_boot.policy_reject-all",
            "Boot attestation failed".to_owned(),
        ),
        _ => (
            "measured_boot.policy_example",
            format!("Boot attestation failed: {breach}"),
        ),
    };
    let mut failure = Failure::new(kind, finding.code.as_str(), message);
    let context = &mut failure.context;
    context.entry = finding.entry();
    if !breach.pcrs.is_empty() {
        let pcrs = breach.pcrs.iter().map(PcrIndex::get).collect();
        context.data = Some(Data::Pcrs(pcrs));
    }
    failure
}

fn of_list(error: &ImaError, code: Code, detail: String) -> Failure {
    let kind = match error {
        ImaError::Decode(_)
        | ImaError::TemplateData { .. }
        | ImaError::TemplateNotAccepted { .. } => "ima.parser.entry",
        ImaError::TemplateHash { .. } => "ima.validation.ima_hash",
        ImaError::WrongPcr { .. } => "ima.validation.ima_pcr",
        ImaError::BootAggregate { fault, .. } => aggregate_kind(*fault),
        ImaError::NotQuoted { pcr } => return Failure::missing_pcrs(code, [*pcr]),
        _ => "ima.pcr_mismatch",
    };
    Failure::new(kind, code.as_str(), detail)
}

/// Keylime looks boot_aggregate up in the policy like a path.
const fn aggregate_kind(fault: BootAggregateFault) -> &'static str {
    match fault {
        BootAggregateFault::Unverifiable | BootAggregateFault::NotListed => {
            "ima.validation.ima-ng.not_in_allowlist"
        }
        _ => "ima.validation.ima-ng.runtime_policy_hash",
    }
}

fn of_offence(offence: &Offence, code: Code, detail: String) -> Failure {
    let path = offence.path.as_deref().map(String::from_utf8_lossy);
    let (kind, message) = match &offence.denial {
        None => (
            "ima.validation.tomtou",
            "hash validation was skipped".to_owned(),
        ),
        Some(Denial::PathNotListed | Denial::BufferNotListed | Denial::KeyNotListed) => {
            let path = path.as_deref().unwrap_or_default();
            let message = format!("File not found in allowlist: {path}");
            ("ima.validation.ima-ng.not_in_allowlist", message)
        }
        Some(Denial::DigestNotListed | Denial::BufferDigestNotListed) => {
            let message = "Hash not found in runtime policy".to_owned();
            ("ima.validation.ima-ng.runtime_policy_hash", message)
        }
        // Keylime takes it for absent, so that the entry's hash is not right.
        Some(Denial::SignatureMalformed(_)) => ("ima.validation.ima_hash", detail),
        Some(Denial::SignatureInvalid) => ("ima.validator.ima-sig.invalid_signature", detail),
        Some(Denial::BufferDigest) => ("ima.validation.ima-buf.digest", detail),
        Some(Denial::KeyUnusable | Denial::KeysTooMany) => ("ima.invalid_key", detail),
    };
    let mut failure = Failure::new(kind, code.as_str(), message);
    let digest = offence.digest.as_deref();
    failure.context.got = digest.map(|text| text.rsplit(':').next().unwrap_or(text).to_owned());
    failure.context.path = path.map(Cow::into_owned);
    failure.context.entry = Some(offence.entry);
    failure.context.count = Some(offence.count);
    failure
}
