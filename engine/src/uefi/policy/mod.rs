//! Measured boot policies: what the content of an event log may be.
//!
//! [`MeasuredBootPolicy`] is one of Keylime's built-in policies with the reference state that it is
//! given. It judges events that a quote proves ([`BootProof`]), and its proof can be made in no
//! other way.
//!
//! # Security
//! Keylime judges the text that a tool prints of a log. Here an event counts by its digest in the
//! banks that were quoted, and its content only where the digest is made of it (attack E02):
//!
//! - the digest of variables, separators, actions and GRUB's commands is that of their content;
//! - the path of a file that GRUB measured, and the name of a list that shim measured, are labels
//!   beside a digest of something else. They choose the rule, as the event's type does, and the
//!   rule then holds the digest. Only for the types and labels of which the reference state has no
//!   digest (boot variables, GRUB's own files, drivers, tables) everything is accepted, as in
//!   Keylime: whoever writes the log can give such a label to an event. (E01)
//!
//! Source: Keylime 7.14 `keylime/mba/elchecking/example.py`; PFP 1.06, section 10.4; GRUB manual,
//! "Measuring Boot Components"; shim `mok.c`.

mod breach;
mod chain;
mod create;
mod example;
mod keys;
mod lint;
mod read;
mod seen;

#[cfg(test)]
mod tests;

pub use breach::{Breach, BreachRule};
pub use create::{CreateError, Created, Incomplete, reference_state};
pub use lint::MbLint;

use std::fmt;
use std::str::FromStr;

use crate::crypto::{Hasher, digest};
use crate::hash::{Digest, HashAlg};
use crate::pcr::PcrSet;
use crate::policy::exclude::Pattern;
use crate::policy::{PolicyError, Warning};

use self::breach::Breaches;
use self::seen::Seen;
use super::decode::guid::Guid;
use super::log::EventLog;
use super::replay::BootProof;

/// Which of Keylime's policies judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PolicyName {
    /// Any content; the log must replay to the quoted values all the same.
    #[default]
    AcceptAll,
    /// No log.
    RejectAll,
    /// What the reference state lists.
    Example,
}

impl PolicyName {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::AcceptAll, Self::RejectAll, Self::Example];

    /// Keylime's name for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AcceptAll => "accept-all",
            Self::RejectAll => "reject-all",
            Self::Example => "example",
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PolicyName {
    type Err = UnknownPolicyName;

    fn from_str(text: &str) -> Result<Self, UnknownPolicyName> {
        let found = Self::ALL.into_iter().find(|name| name.as_str() == text);
        found.ok_or(UnknownPolicyName)
    }
}

/// A name that none of the policies has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a measured boot policy is accept-all, reject-all or example")]
pub struct UnknownPolicyName;

/// A measured boot policy, compiled.
#[derive(Debug, Clone)]
pub struct MeasuredBootPolicy {
    digest: Digest,
    identity: Digest,
    rules: Rules,
    warnings: Vec<Warning>,
}

#[derive(Debug, Clone)]
enum Rules {
    AcceptAll,
    RejectAll,
    Example(Box<RefState>),
}

/// The PCRs that `example` judges: 0-9 and 14.
const EXAMPLE_PCRS: PcrSet = match PcrSet::from_bits(0b0100_0011_1111_1111) {
    Some(pcrs) => pcrs,
    None => PcrSet::EMPTY,
};

impl MeasuredBootPolicy {
    /// Reads Keylime's `mb_refstate` JSON for this policy; `None` when it asks for nothing: an
    /// empty text, or one whose value is empty (`{}`), as Keylime has it.
    ///
    /// Members that are not known are warned of. Only `example` looks at members; for the other
    /// policies the text must be JSON.
    ///
    /// # Errors
    /// [`PolicyError`]. Keylime fails the machine where the reference state cannot be used.
    pub fn parse(name: PolicyName, text: &[u8]) -> Result<Option<Self>, PolicyError> {
        if text.is_empty() {
            return Ok(None);
        }
        let (state, warnings) = match name {
            PolicyName::Example => {
                let read = read::state(text)?;
                let Some((state, warnings)) = read else {
                    return Ok(None);
                };
                (Rules::Example(Box::new(state)), warnings)
            }
            _ if read::is_empty(text)? => return Ok(None),
            PolicyName::AcceptAll => (Rules::AcceptAll, Vec::new()),
            PolicyName::RejectAll => (Rules::RejectAll, Vec::new()),
        };
        Ok(Some(Self {
            digest: digest(HashAlg::Sha256, text),
            identity: identity(name, text),
            rules: state,
            warnings,
        }))
    }

    /// Which policy this is.
    pub const fn name(&self) -> PolicyName {
        match self.rules {
            Rules::AcceptAll => PolicyName::AcceptAll,
            Rules::RejectAll => PolicyName::RejectAll,
            Rules::Example(_) => PolicyName::Example,
        }
    }

    /// SHA-256 of the text that it was read from.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// SHA-256 of its name and its text: the same reference state demands something else of another
    /// policy.
    pub const fn identity(&self) -> &Digest {
        &self.identity
    }

    /// What its author should know, in the order of the document.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The PCRs whose events it judges: all of them must be proven in one bank.
    pub const fn relevant_pcrs(&self) -> PcrSet {
        match self.rules {
            Rules::AcceptAll | Rules::RejectAll => PcrSet::EMPTY,
            Rules::Example(_) => EXAMPLE_PCRS,
        }
    }

    /// Judges a log by what `proofs` prove of it. They are of one quote and of this log.
    ///
    /// # Errors
    /// Every breach of a rule, up to [`crate::limits::MB_POLICY_FINDINGS_MAX`]; never none.
    ///
    /// # Security
    /// Digests of banks that no proof covers are not looked at. An event of a PCR that no proof
    /// covers can only be a breach.
    pub fn judge(
        &self,
        log: &EventLog<'_>,
        proofs: &[BootProof<'_>],
    ) -> Result<MeasuredBootProof, Vec<Breach>> {
        let mut breaches = Breaches::default();
        match &self.rules {
            Rules::AcceptAll => {}
            Rules::RejectAll => breaches.push(Breach::rejected()),
            Rules::Example(state) => {
                let relevant = self.relevant_pcrs();
                let covering = |proof: &&BootProof<'_>| proof.pcrs().contains_all(relevant);
                let judged: Vec<_> = proofs.iter().filter(covering).collect();
                let seen = if judged.is_empty() {
                    None
                } else {
                    Seen::of_log(log, &judged)
                };
                match seen {
                    Some(events) => example::judge(state, &events, &mut breaches),
                    None => breaches.push(Breach::not_proven(unproven(relevant, proofs))),
                }
            }
        }
        breaches.into_result().map(|()| MeasuredBootProof {
            policy: self.identity,
        })
    }
}

fn identity(name: PolicyName, text: &[u8]) -> Digest {
    let mut hasher = Hasher::new(HashAlg::Sha256);
    for part in [b"ratd measured boot policy v1", name.as_str().as_bytes()] {
        hasher.update(part);
        hasher.update(b"\0");
    }
    hasher.update(text);
    hasher.finish()
}

/// What the nearest of the proofs lacks of these PCRs.
fn unproven(relevant: PcrSet, proofs: &[BootProof<'_>]) -> PcrSet {
    let lacking = proofs.iter().map(|proof| relevant.difference(proof.pcrs()));
    let nearest = lacking.min_by_key(|missing| missing.len());
    nearest
        .filter(|missing| !missing.is_empty())
        .unwrap_or(relevant)
}

/// The proof that a policy allows what a log holds. Made by [`MeasuredBootPolicy::judge`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasuredBootProof {
    policy: Digest,
}

impl MeasuredBootProof {
    /// The identity of the policy that was held.
    pub const fn policy(&self) -> &Digest {
        &self.policy
    }
}

/// Keylime's reference state for `example`.
#[derive(Debug, Clone, Default)]
struct RefState {
    has_secureboot: bool,
    firmware: Vec<Firmware>,
    pk: Keys,
    kek: Keys,
    db: Keys,
    dbx: Keys,
    vendor_db: Keys,
    mok: Vec<Digest>,
    mokx: Vec<Digest>,
    kernels: Vec<Kernel>,
}

/// One thing's digests, of one algorithm each.
type Alternatives = Vec<Digest>;

/// One element of `scrtm_and_bios`.
#[derive(Debug, Clone, Default)]
struct Firmware {
    scrtm: Alternatives,
    blobs: Vec<Alternatives>,
}

/// One element of `kernels`.
#[derive(Debug, Clone)]
struct Kernel {
    shim: Digest,
    grub: Digest,
    initrd: Digest,
    /// The image as firmware measures it, or as GRUB reads it where Secure Boot is off.
    image: Digest,
    /// `kernel_cmdline: ` and what the reference state has, for a full match.
    command_line: Pattern,
}

/// The signatures of one variable.
#[derive(Debug, Clone, Default)]
struct Keys(Vec<(Guid, Box<[u8]>)>);
