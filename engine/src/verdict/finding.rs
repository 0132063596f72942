//! One thing that a verdict says: its code, the typed reason, and where.

use std::fmt;

use super::Code;
use crate::crypto::{KeyError, SignatureError};
use crate::ima::boot_aggregate::BootAggregateFault;
use crate::ima::judge::Denial;
use crate::ima::{EntryFault, ImaError, Offence};
use crate::malformed::{Fault, Malformed};
use crate::pcr::{PcrIndex, PcrSet};
use crate::pcr_policy::PcrPolicyViolation;
use crate::quote::{PcrError, QuoteError};
use crate::tpm::attributes::KeyAttributeError;
use crate::tpm::{AttestError, SignatureFormatError};
use crate::uefi::policy::{Breach, BreachRule};
use crate::uefi::{UefiError, UefiPcrMismatch};

/// The typed reason behind a finding. Its text carries no evidence, key or nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The attestation key's attributes.
    AkAttributes(KeyAttributeError),
    /// The attestation key came without its attributes.
    AkAttributesUnknown,
    /// The attestation key itself.
    AkKey(KeyError),
    /// The attestation key has the ROCA fingerprint.
    AkRoca,
    /// The quote.
    Quote(QuoteError),
    /// The PCR values.
    Pcrs(PcrError),
    /// The PCR policy.
    PcrPolicy(PcrPolicyViolation),
    /// PCRs of a bank at reset values.
    Unextended(crate::hash::HashAlg, PcrSet),
    /// A bank that was not quoted.
    BankNotPinned(crate::hash::HashAlg),
    /// Boot PCRs that were not quoted.
    BootNotQuoted(PcrSet),
    /// The boot log.
    Uefi(UefiError),
    /// The boot log against the quote.
    UefiCompare(UefiPcrMismatch),
    /// What the boot log holds.
    MeasuredBoot(Breach),
    /// The measurement list.
    Ima(ImaError),
    /// boot_aggregate could not be checked.
    BootAggregate(BootAggregateFault),
    /// boot_aggregate was checked against a bank of the boot log that nobody quoted.
    BootAggregateReplayed,
    /// PCRs are to be explained by a boot log, and none was given.
    BootLogMissing,
    /// Events that fail.
    Offence(Offence),
    /// No measurement list was judged under the policy.
    ImaLogMissing,
    /// The policy is empty.
    PolicyEmpty,
}

/// One finding of an appraisal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The stable code.
    pub code: Code,
    /// The typed reason; its `Display` is the detail.
    pub reason: Reason,
}

impl Finding {
    /// The finding of this reason.
    pub fn new(reason: Reason) -> Self {
        Self {
            code: reason.code(),
            reason,
        }
    }

    /// Position of the first offending entry or event in its log.
    pub fn entry(&self) -> Option<u64> {
        match &self.reason {
            Reason::Offence(offence) => Some(offence.entry),
            Reason::Ima(error) => match error {
                ImaError::Decode(decode) => Some(decode.entry),
                ImaError::TemplateHash { entry }
                | ImaError::TemplateData { entry, .. }
                | ImaError::TemplateNotAccepted { entry, .. }
                | ImaError::WrongPcr { entry, .. }
                | ImaError::BanksDisagree { entry, .. }
                | ImaError::BootAggregate { entry, .. } => Some(*entry),
                _ => None,
            },
            Reason::BootAggregate(_) | Reason::BootAggregateReplayed => Some(0),
            Reason::Uefi(error) => error
                .place()
                .and_then(|place| u64::try_from(place.index).ok()),
            Reason::MeasuredBoot(breach) => breach
                .place
                .and_then(|place| u64::try_from(place.index).ok()),
            _ => None,
        }
    }

    /// The path, as the bytes that the list holds.
    pub fn path(&self) -> Option<&[u8]> {
        match &self.reason {
            Reason::Offence(offence) => offence.path.as_deref(),
            _ => None,
        }
    }

    /// The measured digest of the first offending entry, `sha256:` and hexadecimal.
    pub fn digest(&self) -> Option<&str> {
        match &self.reason {
            Reason::Offence(offence) => offence.digest.as_deref(),
            _ => None,
        }
    }

    /// The PCR concerned.
    pub fn pcr(&self) -> Option<PcrIndex> {
        match &self.reason {
            Reason::PcrPolicy(
                PcrPolicyViolation::NotAttested { pcr }
                | PcrPolicyViolation::NotAllowed { pcr, .. },
            )
            | Reason::Pcrs(PcrError::NotCovered { pcr, .. })
            | Reason::Ima(
                ImaError::PcrMismatch { pcr, .. }
                | ImaError::NotQuoted { pcr }
                | ImaError::Resettable { pcr }
                | ImaError::BanksDisagree { pcr, .. },
            ) => Some(*pcr),
            Reason::Pcrs(PcrError::Missing(missing)) => Some(missing.pcr),
            Reason::UefiCompare(error) => error.pcr(),
            Reason::MeasuredBoot(breach) => breach.pcr(),
            _ => None,
        }
    }
}

impl Reason {
    fn code(&self) -> Code {
        match self {
            Self::AkAttributes(_) | Self::AkAttributesUnknown => Code::AkAttributes,
            Self::AkKey(_) => Code::AkNotAllowed,
            Self::AkRoca => Code::AkRoca,
            Self::Quote(error) => quote_code(error),
            Self::Pcrs(error) => pcr_code(error),
            Self::PcrPolicy(PcrPolicyViolation::NotAttested { .. }) => Code::PcrNotAttested,
            Self::PcrPolicy(PcrPolicyViolation::NotAllowed { .. }) => Code::PcrValueNotAllowed,
            Self::Unextended(..) => Code::PcrBankUnextended,
            Self::BankNotPinned(_) => Code::PcrBankNotPinned,
            Self::BootNotQuoted(_) => Code::PcrBootNotQuoted,
            Self::Uefi(error) => uefi_code(error),
            Self::UefiCompare(error) => compare_code(error),
            Self::MeasuredBoot(breach) => breach_code(breach.rule),
            Self::Ima(error) => ima_code(error),
            Self::BootAggregate(fault) => aggregate_code(*fault),
            Self::BootAggregateReplayed => Code::ImaBootAggregateUnverifiable,
            Self::BootLogMissing => Code::UefiLogMissing,
            Self::Offence(offence) => offence
                .denial
                .as_ref()
                .map_or(Code::ImaViolation, denial_code),
            Self::ImaLogMissing => Code::ImaLogMissing,
            Self::PolicyEmpty => Code::PolicyMissing,
        }
    }
}

fn quote_code(error: &QuoteError) -> Code {
    match error {
        QuoteError::Attest(AttestError::NotGenerated | AttestError::Type(_))
        | QuoteError::NotAQuote { .. } => Code::QuoteWrongType,
        QuoteError::Attest(AttestError::Malformed(malformed)) => attest_code(malformed),
        QuoteError::SignatureFormat(
            SignatureFormatError::AlgNotAllowed(_) | SignatureFormatError::HashNotAllowed(_),
        ) => Code::QuoteAlgNotAllowed,
        QuoteError::SignatureFormat(SignatureFormatError::Malformed(_))
        | QuoteError::PcrDigestSize(_) => Code::QuoteMalformed,
        QuoteError::Signature(SignatureError::Invalid { .. } | SignatureError::Library) => {
            Code::QuoteSignature
        }
        QuoteError::Signature(_) => Code::QuoteAlgNotAllowed,
        QuoteError::NonceMismatch { .. } => Code::QuoteNonceMismatch,
        QuoteError::ChannelMismatch => Code::QuoteChannelMismatch,
    }
}

/// A selection that no TPM writes (repeated bank, wrong size) is a selection fault. (P01)
fn attest_code(malformed: &Malformed) -> Code {
    let ends_early = matches!(malformed.fault, Fault::Truncated { .. });
    if malformed.field.starts_with("pcrSelect") && !ends_early {
        Code::PcrSelectionMismatch
    } else {
        Code::QuoteMalformed
    }
}

fn pcr_code(error: &PcrError) -> Code {
    match error {
        PcrError::SelectionEmpty | PcrError::SelectionMismatch { .. } => Code::PcrSelectionMismatch,
        PcrError::BankNotAllowed { .. } => Code::PcrBankNotAllowed,
        PcrError::Missing(_) | PcrError::NotCovered { .. } | PcrError::DigestMismatch { .. } => {
            Code::PcrDigestMismatch
        }
        PcrError::Quote(error) => quote_code(error),
    }
}

const fn uefi_code(error: &UefiError) -> Code {
    match error {
        UefiError::Empty => Code::UefiEmpty,
        UefiError::Malformed(_) => Code::UefiMalformed,
        UefiError::Limit { .. } => Code::UefiLimit,
        UefiError::Order { .. } => Code::UefiOrder,
        UefiError::EventDigest { .. } => Code::UefiEventDigest,
        UefiError::BankMissing { .. } => Code::UefiBankMissing,
    }
}

const fn compare_code(error: &UefiPcrMismatch) -> Code {
    match error {
        UefiPcrMismatch::Differs { .. } => Code::UefiPcrMismatch,
        UefiPcrMismatch::NotQuoted { .. } | UefiPcrMismatch::NoPcr => Code::PcrNotAttested,
    }
}

const fn breach_code(rule: BreachRule) -> Code {
    match rule {
        BreachRule::NotProven => Code::PcrNotAttested,
        BreachRule::Rejected => Code::UefiPolicyRejected,
        BreachRule::Event => Code::UefiPolicyEvent,
        BreachRule::Unbound => Code::UefiPolicyUnbound,
        BreachRule::Firmware => Code::UefiPolicyFirmware,
        BreachRule::SecureBoot => Code::UefiPolicySecureBoot,
        BreachRule::Keys => Code::UefiPolicyKeys,
        BreachRule::Dbx => Code::UefiPolicyDbx,
        BreachRule::Mok => Code::UefiPolicyMok,
        BreachRule::Kernel => Code::UefiPolicyKernel,
    }
}

fn ima_code(error: &ImaError) -> Code {
    match error {
        ImaError::Decode(decode) => match decode.fault {
            EntryFault::Malformed(_) => Code::ImaMalformed,
            EntryFault::TemplateUnsupported(_) => Code::ImaTemplateUnsupported,
            EntryFault::LogTooLong { .. } => Code::ImaLimit,
        },
        ImaError::TemplateData { .. } => Code::ImaMalformed,
        ImaError::TemplateNotAccepted { .. } => Code::ImaTemplateUnsupported,
        ImaError::TemplateHash { .. } => Code::ImaTemplateHash,
        ImaError::WrongPcr { .. } => Code::ImaWrongPcr,
        ImaError::PcrMismatch { .. } => Code::ImaPcrMismatch,
        ImaError::BanksDisagree { .. } => Code::ImaBanksDisagree,
        ImaError::Truncated { .. } => Code::ImaTruncated,
        ImaError::Diverged { .. } => Code::IdentityCloneSuspected,
        ImaError::OffsetMismatch { .. } | ImaError::NotAsked => Code::ImaOffsetMismatch,
        ImaError::Incomplete { .. } | ImaError::Unterminated => Code::ImaIncomplete,
        ImaError::KexecLogLost => Code::ImaKexecLogLost,
        ImaError::Hibernated => Code::ImaHibernated,
        ImaError::NotQuoted { .. } => Code::PcrNotAttested,
        // Declared by the operator, as a policy is.
        ImaError::Resettable { .. } => Code::PolicyResettablePcr,
        ImaError::BootAggregate { fault, .. } => aggregate_code(*fault),
    }
}

const fn aggregate_code(fault: BootAggregateFault) -> Code {
    match fault {
        BootAggregateFault::Unverifiable => Code::ImaBootAggregateUnverifiable,
        BootAggregateFault::NotFirst
        | BootAggregateFault::NothingProven
        | BootAggregateFault::AllZero
        | BootAggregateFault::Mismatch
        | BootAggregateFault::NotListed
        | BootAggregateFault::FormChanged => Code::ImaBootAggregate,
    }
}

const fn denial_code(denial: &Denial) -> Code {
    match denial {
        Denial::PathNotListed => Code::ImaPathNotListed,
        Denial::DigestNotListed => Code::ImaDigestNotListed,
        Denial::SignatureMalformed(_) => Code::ImaSigMalformed,
        Denial::SignatureInvalid => Code::ImaSigInvalid,
        Denial::BufferDigest => Code::ImaBufDigest,
        Denial::BufferNotListed => Code::ImaBufNotListed,
        Denial::BufferDigestNotListed => Code::ImaBufDigestNotListed,
        Denial::KeyNotListed => Code::ImaKeyNotListed,
        Denial::KeyUnusable => Code::ImaKeyUnusable,
        Denial::KeysTooMany => Code::ImaKeysTooMany,
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AkAttributes(error) => error.fmt(f),
            Self::AkAttributesUnknown => f.write_str(
                "the key was given without its TPM attributes, which say whether it is restricted",
            ),
            Self::AkKey(error) => error.fmt(f),
            Self::AkRoca => f.write_str("the modulus has the ROCA fingerprint"),
            Self::Quote(error) => error.fmt(f),
            Self::Pcrs(error) => error.fmt(f),
            Self::PcrPolicy(violation) => violation.fmt(f),
            Self::Unextended(bank, pcrs) => {
                write!(f, "PCR {pcrs} of bank {bank} hold reset values")
            }
            Self::BankNotPinned(bank) => write!(f, "the quote has no IMA PCR of bank {bank}"),
            Self::BootNotQuoted(pcrs) => write!(f, "PCR {pcrs} are not in the quote"),
            Self::Uefi(error) => error.fmt(f),
            Self::UefiCompare(error) => error.fmt(f),
            Self::MeasuredBoot(breach) => breach.fmt(f),
            Self::Ima(error) => error.fmt(f),
            Self::BootAggregate(fault) => fault.fmt(f),
            Self::BootAggregateReplayed => f.write_str(
                "boot_aggregate agrees with the boot log in a bank that was not quoted, so \
                 nothing authenticates the log's digests of that bank",
            ),
            Self::BootLogMissing => {
                f.write_str("PCRs are to be explained and no boot log was given")
            }
            Self::Offence(offence) => {
                match &offence.denial {
                    Some(denial) => denial.fmt(f)?,
                    None => f.write_str("a violation: the file's content is unknown")?,
                }
                if offence.count > 1 {
                    write!(f, " (and {} more)", offence.count.saturating_sub(1))?;
                }
                Ok(())
            }
            Self::ImaLogMissing => f.write_str(
                "a runtime policy was given, and no measurement list was judged under it",
            ),
            Self::PolicyEmpty => f.write_str("the runtime policy allows nothing"),
        }
    }
}
