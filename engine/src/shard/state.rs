//! What attestations have shown of an agent.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::{Digest, HashAlg};
use crate::ima::boot_aggregate::Form;
use crate::ima::{BankScheme, Committed};
use crate::pcr::PcrValues;
use crate::verdict::Code;

/// One boot of one machine: the TPM's counters. (T05)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct BootEpoch {
    /// resetCount.
    pub reset_count: u32,
    /// restartCount.
    pub restart_count: u32,
}

/// The TPM's clock, as the last accepted quote had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmClock {
    /// Milliseconds.
    pub clock_ms: u64,
    /// Whether the TPM vouches that it never showed a greater one; recorded, not judged. (T06)
    pub safe: bool,
    /// firmwareVersion.
    pub firmware_version: u64,
    /// When we saw it.
    pub seen_unix_ms: u64,
}

/// What one attestation concluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VerdictKind {
    /// Every check passed under the enforced policy.
    Trusted,
    /// Every cryptographic check passed, and no policy was held against it.
    Authentic,
    /// Something failed or is missing.
    Untrusted,
}

/// The newest verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerdict {
    /// Its kind.
    pub kind: VerdictKind,
    /// The first thing that failed.
    pub code: Option<Code>,
    /// What it is, in a sentence.
    pub detail: String,
    /// SHA-256 of the policy that was held.
    pub policy: Option<Digest>,
    /// When its challenge was issued. (Q14)
    pub challenged_unix_ms: u64,
    /// When it was concluded.
    pub at_unix_ms: u64,
    /// What the quote was held against; `None` in old records, which count for no demand.
    pub held: Option<QuoteRules>,
}

/// Why an agent failed. It stays until an operator clears it, or the policy that it failed
/// under changes. (S09, S16)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed first.
    pub code: Code,
    /// What it is, in a sentence.
    pub detail: String,
    /// Position of the first offending entry.
    pub entry: Option<u64>,
    /// Path of the first offending entry, as the list has it.
    pub path: Option<Vec<u8>>,
    /// Its measured digest, `sha256:` and hexadecimal.
    pub digest: Option<String>,
    /// When it failed.
    pub at_unix_ms: u64,
    /// The policy that it failed under, when the policy is why: a change of it clears this. For
    /// values of PCRs it is the PCR policy's digest, otherwise the runtime policy's.
    pub under_policy: Option<Digest>,
    /// The group that it failed in: what that group demands later may clear this, and what another
    /// group demands does not. `None` when only an operator clears it: in old records, and when
    /// something came that another change would have cleared. (S16)
    pub group: Option<String>,
}

/// All that the judgement of a measurement list depends on, beside the list. (L07)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListRules {
    /// SHA-256 of the runtime policy.
    pub policy: Digest,
    /// Whether violations are accepted.
    pub accept_violations: bool,
    /// Whether a file whose signature does not verify fails, also when its digest is listed.
    pub require_valid_ima_sig: bool,
}

/// All that the judgement of a quote depends on, beside the quote and the list. (L07)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QuoteRules {
    /// The digest of the PCR policy, where there is one.
    pub pcr_policy: Option<Digest>,
    /// The bank that is quoted.
    pub bank: HashAlg,
    /// Whether a boot log must explain the boot. What a verdict was held against says so too when
    /// one did without being demanded.
    pub boot_log: bool,
    /// Whether SHA-1 is accepted. What a verdict was held against says so only when SHA-1 was used:
    /// by the key, the signature or the bank. (Q09)
    pub allow_sha1: bool,
    /// The identity of the policy that what the boot log holds is judged by, where there is one.
    pub measured_boot: Option<Digest>,
}

impl QuoteRules {
    /// Whether what was held against these was held against all that `demanded` names.
    pub fn cover(&self, demanded: &Self) -> bool {
        self.bank == demanded.bank
            && (demanded.pcr_policy.is_none() || self.pcr_policy == demanded.pcr_policy)
            && (self.boot_log || !demanded.boot_log)
            && (demanded.allow_sha1 || !self.allow_sha1)
            && (demanded.measured_boot.is_none() || self.measured_boot == demanded.measured_boot)
    }
}

/// A proven list that these rules do not allow. What is appended to it cannot change that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The rules.
    pub under: ListRules,
    /// The first entry that they do not allow.
    pub first: Failure,
}

/// What is known of the proven list beside the policy that it passed under. (L07)
///
/// The default says that nothing is known, as of agents whose state was stored before this was
/// kept: their lists are judged again where it matters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListFacts {
    /// Violations in it; `None` when they were not counted.
    pub violations: Option<u64>,
    /// Entries that passed because an exclude pattern matches; `None` when not all were judged.
    pub excluded: Option<u64>,
    /// Set when the whole list was judged, and denied.
    pub denied: Option<Box<Denied>>,
    /// Whether an operator took back a failure since the agent sent the list: it would only bring
    /// the failure back, so that the agent must send it again. (S09)
    pub is_dismissed: bool,
    /// Whether all of what passed was judged with valid signatures demanded.
    pub require_valid_ima_sig: bool,
}

/// A key that the kernel added to a keyring, as the measurement list showed it. (I23)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLearnedKey {
    /// The keyring.
    pub keyring: Vec<u8>,
    /// The key as it was measured.
    pub measured: Vec<u8>,
}

/// Everything that is remembered between two attestations. Only committed ones change it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentState {
    /// The boot epoch of the last accepted quote.
    pub boot: Option<BootEpoch>,
    /// Its clock.
    pub clock: Option<TpmClock>,
    /// How far the measurement list was proven in this epoch.
    pub ima: Option<Committed>,
    /// Keys learned up to there.
    pub learned: Vec<KeptLearnedKey>,
    /// Under which policy everything up to there passed. (L07)
    pub passed_under: Option<Digest>,
    /// What the kernel extends into its banks: pinned at the first full list. (I22)
    pub scheme: BankScheme,
    /// The form of boot_aggregate: pinned at the first full list. (I24)
    pub boot_aggregate: Option<Form>,
    /// The boot PCRs of this epoch. (P06)
    pub boot_pcrs: PcrValues,
    /// Whether a boot log explained them.
    pub boot_log_seen: bool,
    /// Trust ends here: when the challenge was issued, plus the longest age. (Q14, S14)
    pub trusted_until_unix_ms: u64,
    /// The newest verdict.
    pub verdict: Option<LastVerdict>,
    /// Set while the agent is failed.
    pub failure: Option<Box<Failure>>,
    /// Attestations concluded: the index of the newest.
    pub attestations: u64,
    /// Those that passed.
    pub passed: u64,
    /// When the newest passed.
    pub last_passed_unix_ms: u64,
    /// More of the proven list.
    pub list: ListFacts,
    /// The identity of the measured boot policy that allows what the boot log of this epoch holds.
    pub measured_boot: Option<Digest>,
}

impl AgentState {
    /// Whether boot PCRs or list were proven in this bank; another one has to be proven anew. Of our
    /// agents' it is always both; of Keylime's it is what their policies ask for.
    pub fn knows_bank(&self, bank: HashAlg) -> bool {
        let running = self.ima.iter().flat_map(|committed| committed.running());
        self.boot_pcrs.iter().any(|(known, ..)| known == bank)
            || running.into_iter().any(|(_, digest)| digest.alg() == bank)
    }

    /// Whether the whole proven list passed under these rules. One with violations, or of which
    /// nobody counted them, passes only where they are accepted; one whose signatures were not
    /// demanded to be valid, only where they need not be.
    pub fn has_passed(&self, rules: &ListRules) -> bool {
        self.passed_under == Some(rules.policy)
            && (rules.accept_violations || self.list.violations == Some(0))
            && (self.list.require_valid_ima_sig || !rules.require_valid_ima_sig)
    }

    /// Whether the whole proven list was judged under these rules, however that ended.
    pub fn is_judged_under(&self, rules: &ListRules) -> bool {
        self.has_passed(rules) || self.denied_under(rules).is_some()
    }

    /// How the proven list failed under these rules, if it did.
    pub fn denied_under(&self, rules: &ListRules) -> Option<&Denied> {
        let denied = self.list.denied.as_deref();
        denied.filter(|denied| denied.under == *rules)
    }
}

/// What relying parties see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EffectiveStatus {
    /// Passed under the enforced policy, recently enough.
    Trusted,
    /// Genuine, in a group that does not enforce its policy. (L12)
    TrustedUnenforced,
    /// Genuine, without a policy; agents of the Keylime API only.
    Authentic,
    /// Enrolled, not attested yet.
    Pending,
    /// Genuine, and nothing to hold against it: its group has no policy. (L01)
    Unverified,
    /// Was trusted, and nothing recent shows that it still is.
    Overdue,
    /// Failed.
    Untrusted,
    /// Its group is blocked.
    Blocked,
}

impl EffectiveStatus {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Trusted,
        Self::TrustedUnenforced,
        Self::Authentic,
        Self::Pending,
        Self::Unverified,
        Self::Overdue,
        Self::Untrusted,
        Self::Blocked,
    ];

    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::TrustedUnenforced => "trusted_unenforced",
            Self::Authentic => "authentic",
            Self::Pending => "pending",
            Self::Unverified => "unverified",
            Self::Overdue => "overdue",
            Self::Untrusted => "untrusted",
            Self::Blocked => "blocked",
        }
    }
}

impl fmt::Display for EffectiveStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
