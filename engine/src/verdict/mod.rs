//! What an appraisal concludes.
//!
//! # Security
//! [`Verdict::Trusted`] holds a [`Trusted`], whose one constructor takes the proof of every
//! stage. Errors, missing evidence and missing policies have no way to make one.

mod code;
mod finding;
pub mod severity;

pub use code::{Attribution, Code};
pub use finding::{Finding, Reason};

use crate::hash::Digest;
use crate::ima::ImaProof;
use crate::pcr_policy::PcrPolicyProof;
use crate::quote::{BoundQuote, QuotedPcrs};
use crate::uefi::ExplainedBoot;
use crate::uefi::policy::MeasuredBootProof;

/// A stage whose reference values may be absent: then there is nothing to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand<Proof> {
    /// The appraisal has no reference values for this stage.
    NotDemanded,
    /// It has, and they hold.
    Proven(Proof),
}

/// The conclusion of one appraisal.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Every check passed, and a runtime policy allows everything that was measured.
    Trusted(Trusted),
    /// Every cryptographic check passed, and there was no runtime policy to hold against it.
    Authentic,
    /// Something failed or is missing.
    Untrusted,
}

impl Verdict {
    /// One lower-case word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Trusted(_) => "trusted",
            Self::Authentic => "authentic",
            Self::Untrusted => "untrusted",
        }
    }
}

/// Shows that every stage of an appraisal was passed.
///
/// Nothing outside this crate can make one:
///
/// ```compile_fail
/// use rat_engine::hash::{Digest, HashAlg};
/// use rat_engine::verdict::Trusted;
/// let forged = Trusted { policy: Digest::zero(HashAlg::Sha256), cut: 0 };
/// ```
#[derive(Debug, Clone)]
pub struct Trusted {
    policy: Digest,
    cut: u64,
}

impl Trusted {
    /// The only way to trust: one proof of every stage, the runtime policy's among them.
    ///
    /// `None` when the measurement list was proven and did not pass under this policy.
    pub(crate) fn new(
        _quote: &BoundQuote,
        _pcrs: &QuotedPcrs,
        _pcr_policy: Demand<PcrPolicyProof>,
        _boot: Demand<ExplainedBoot>,
        _measured_boot: Demand<MeasuredBootProof>,
        ima: &ImaProof,
        policy: Digest,
    ) -> Option<Self> {
        let passed = ima.passed_under() == Some(&policy);
        passed.then_some(Self {
            policy,
            cut: ima.cut(),
        })
    }

    /// SHA-256 of the policy that was held.
    pub const fn policy(&self) -> &Digest {
        &self.policy
    }

    /// Entries of the measurement list that were proven and judged.
    pub const fn cut(&self) -> u64 {
        self.cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stage_dot_fault_and_each_once() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            let (stage, fault) = text.split_once('.').unwrap();
            assert!(
                [
                    "ak", "quote", "time", "identity", "path", "pcr", "uefi", "ima", "policy"
                ]
                .contains(&stage),
                "{text}"
            );
            let word = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(fault.chars().all(word), "{text}");
            assert!(seen.insert(text), "{text} twice");
            assert_eq!(Code::from_text(text), Some(*code));
            assert!(
                code.cause().ends_with('.') && code.remedy().ends_with('.'),
                "{text}"
            );
        }
    }
}
