//! What operators and enrolment say of an agent and its group.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::state::{AgentState, ListRules, QuoteRules};
use crate::agent_id::AgentId;
use crate::hash::{Digest, HashAlg};
use crate::ima::Committed;
use crate::ima::judge::Judge;
use crate::pcr::PcrSet;
use crate::pcr_policy::PcrPolicy;
use crate::uefi::policy::MeasuredBootPolicy;

/// By which way an agent's evidence comes. One agent has one. (S15)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AgentPath {
    /// Our agent, over QUIC.
    Native,
    /// Keylime's agent, polled by us.
    KeylimePull,
    /// Keylime's agent, which pushes.
    KeylimePush,
}

/// The group of every agent on Keylime's paths. What is demanded of such an agent is not demanded of
/// its group but of itself: see [`KeylimeTerms`].
pub const KEYLIME_GROUP: &str = "keylime";

/// What enrolment bound to an agent's id; only an operator changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The id.
    pub id: AgentId,
    /// The slug of its policy group.
    pub group: String,
    /// How its evidence comes.
    pub path: AgentPath,
    /// The attestation key: `TPMT_PUBLIC`.
    pub ak_public: Vec<u8>,
    /// Counts the attestation keys that this id had; 1 for the first.
    pub ak_epoch: u32,
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo: the machine's identity.
    pub ek_sha256: [u8; 32],
    /// SHA-256 of the client certificate's SubjectPublicKeyInfo; of one of Keylime's agents, that of
    /// `ak_public`.
    pub client_key_sha256: [u8; 32],
    /// SHA-256 of the public key of the relay that it speaks through, if through one. (Q16)
    pub relay_key_sha256: Option<[u8; 32]>,
    /// The policy that its first covering quote makes its group's. (L08)
    pub baseline: Option<BaselineCandidate>,
    /// When it enrolled.
    pub enrolled_unix_ms: u64,
}

impl AgentRecord {
    /// Whether both are the same machine with the same attestation key.
    pub fn has_same_keys(&self, other: &Self) -> bool {
        self.ek_sha256 == other.ek_sha256
            && self.ak_epoch == other.ak_epoch
            && self.ak_public == other.ak_public
    }
}

/// A policy made from the list that an agent enrolled with, not proven yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineCandidate {
    /// SHA-256 of the policy.
    pub policy: Digest,
    /// Where that list ended when it was replayed: a list that proves it passes through here.
    pub covers: Committed,
}

/// A policy version, ready to judge; its text is immutable.
#[derive(Debug, Clone)]
pub struct PolicyRef {
    /// Its number within the group.
    pub version: u64,
    /// The compiled policy. Its digest is the policy's identity.
    pub judge: Arc<Judge>,
}

/// A policy group: what is demanded of its agents.
#[derive(Debug, Clone)]
pub struct Group {
    /// The slug.
    pub slug: String,
    /// Counts the group's changes: of two, the one with the greater number is the newer.
    pub row_version: u64,
    /// The version that is enforced; without one nobody is trusted. (L01)
    pub enforced: Option<PolicyRef>,
    /// Values that quoted PCRs must have.
    pub pcr_policy: Option<Arc<PcrPolicy>>,
    /// What the boot log must hold, which is demanded then.
    pub measured_boot: Option<Arc<MeasuredBootPolicy>>,
    /// The bank that quotes must cover. (P07)
    pub bank: HashAlg,
    /// False: detection mode, in which violations are reported and not held against the agent.
    pub protected: bool,
    /// True: the runtime policy is skipped.
    pub bypass: bool,
    /// True: every agent is reported as blocked.
    pub block: bool,
    /// Whether a boot must be explained by a boot log before anything of it is trusted. (T02)
    pub require_boot_log: bool,
    /// Whether violations of the measurement list are accepted.
    pub accept_violations: bool,
    /// Whether a failed agent that passes again is trusted again without an operator. (S09)
    pub auto_recover: bool,
    /// From one challenge of its agents to the next; `None` for the server's own interval.
    pub interval_ms: Option<u64>,
    /// Whether SHA-1 is accepted as the hash of a quote's signature and as a quoted bank. (Q09)
    pub allow_sha1: bool,
    /// Whether a file whose signature does not verify fails, also when its digest is listed.
    pub require_valid_ima_sig: bool,
    /// Set when this is what is demanded of one of Keylime's agents.
    pub keylime: Option<Arc<KeylimeTerms>>,
}

/// How quotes are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteScheme {
    /// `TPM_ALG_RSASSA`.
    RsaSsa,
    /// `TPM_ALG_RSAPSS`.
    RsaPss,
    /// `TPM_ALG_ECDSA`.
    Ecdsa,
}

impl QuoteScheme {
    /// Keylime's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RsaSsa => "rsassa",
            Self::RsaPss => "rsapss",
            Self::Ecdsa => "ecdsa",
        }
    }

    /// The scheme of this name; `None` for one that is not verified here.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::RsaSsa, Self::RsaPss, Self::Ecdsa];
        all.into_iter().find(|scheme| scheme.name() == name)
    }
}

/// What a tenant accepts of an agent, each in the order in which it is preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Hash algorithms, of quotes and of banks.
    pub hashes: Box<[HashAlg]>,
    /// Signature schemes.
    pub schemes: Box<[QuoteScheme]>,
}

/// How one of Keylime's agents is asked, which is enrolled with policies of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeylimeTerms {
    /// What an agent may choose of that says by itself how it quotes.
    pub accepted: Accepted,
    /// The PCRs that its quotes must cover. What those of them that are boot PCRs hold in a boot is
    /// pinned, as of every machine.
    pub pcrs: PcrSet,
    /// Whether its measurement list is asked for.
    pub list: bool,
    /// Whether its boot log is asked for with every quote, where one is demanded, and not once in a
    /// boot.
    pub boot_log_always: bool,
    /// How long it may take to answer, in milliseconds.
    pub answer_ms: u32,
}

/// All that a group demands before it trusts an agent; what was judged by other demands earns
/// nothing. (L05, L07)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demands {
    /// Of the list; `None` while nothing is enforced.
    pub list: Option<ListRules>,
    /// Of the quote.
    pub quote: QuoteRules,
    /// Whether violations of it are held against an agent.
    pub is_enforced: bool,
}

impl Group {
    /// Whether evidence that passes without a runtime policy amounts to nothing. An operator who
    /// skips it wants no more; nor does one who adds an agent over Keylime's API without one, whose
    /// agent is `authentic` then.
    pub fn needs_policy(&self) -> bool {
        !self.bypass && self.keylime.is_none()
    }

    /// What is demanded of its agents now.
    pub fn demands(&self) -> Demands {
        Demands {
            list: self.list_rules(),
            quote: self.quote_rules(),
            is_enforced: self.protected,
        }
    }

    /// The policy that is enforced.
    pub fn enforced_digest(&self) -> Option<Digest> {
        let policy = self.enforced.as_ref()?;
        Some(policy.judge.policy().compiled().digest())
    }

    /// What lists are judged by; `None` while nothing is enforced.
    pub fn list_rules(&self) -> Option<ListRules> {
        let policy = self.enforced_digest().filter(|_| !self.bypass)?;
        Some(ListRules {
            policy,
            accept_violations: self.accept_violations,
            require_valid_ima_sig: self.require_valid_ima_sig,
        })
    }

    /// Whether a boot must be explained by a boot log.
    pub const fn demands_boot_log(&self) -> bool {
        self.require_boot_log || self.measured_boot.is_some()
    }

    /// The identity of the measured boot policy.
    pub fn boot_policy(&self) -> Option<Digest> {
        let policy = self.measured_boot.as_deref()?;
        Some(*policy.identity())
    }

    /// Whether what is known of a boot that was explained is all that is demanded of its log.
    pub(super) fn allows_boot(&self, state: &AgentState) -> bool {
        state.boot_log_seen
            && (self.measured_boot.is_none() || state.measured_boot == self.boot_policy())
    }

    /// What quotes are judged by.
    pub fn quote_rules(&self) -> QuoteRules {
        QuoteRules {
            pcr_policy: self.pcr_policy.as_deref().map(PcrPolicy::digest),
            bank: self.bank,
            boot_log: self.demands_boot_log(),
            measured_boot: self.boot_policy(),
            allow_sha1: self.allow_sha1,
        }
    }
}
