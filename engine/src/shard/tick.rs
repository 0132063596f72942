//! What a shard commits: the outcomes of one tick, chained to the tick before.

use serde::{Deserialize, Serialize};

use super::state::{AgentState, VerdictKind};
use crate::agent_id::{AgentId, ShardIndex};
use crate::crypto::Hasher;
use crate::evidence::ChallengeId;
use crate::hash::{Digest, HashAlg};
use crate::ima::LogFormat;
use crate::verdict::Code;

/// A shard's ownership, numbered: a write under an older number changes nothing. (S04)
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// The head of a shard's hash chain. (S18)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// The head after one more outcome: SHA-256 over the head before, the agent, evidence digest,
    /// verdict, code and policy digest.
    pub fn after(&self, outcome: &Outcome) -> Self {
        let mut hasher = Hasher::new(HashAlg::Sha256);
        hasher.update(b"ratd tick v1\0");
        hasher.update(&self.0);
        let agent = outcome.agent.as_str().as_bytes();
        hasher.update(&[u8::try_from(agent.len()).unwrap_or(u8::MAX)]);
        hasher.update(agent);
        hasher.update(&outcome.at_unix_ms.to_be_bytes());
        hasher.update(&outcome.evidence_sha256);
        let verdict = match outcome.verdict {
            VerdictKind::Trusted => 1,
            VerdictKind::Authentic => 2,
            VerdictKind::Untrusted => 3,
        };
        let code = outcome.code.map_or("", Code::as_str);
        hasher.update(&[verdict, u8::try_from(code.len()).unwrap_or(u8::MAX)]);
        hasher.update(code.as_bytes());
        hasher.update(&[u8::from(outcome.policy.is_some())]);
        if let Some(policy) = &outcome.policy {
            hasher.update(policy.as_bytes());
        }
        Self(hasher.finish().as_bytes().try_into().unwrap_or([0; 32]))
    }
}

/// Why evidence is kept whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Retention {
    /// The first pass of a boot epoch.
    FirstPass,
    /// A failure.
    Failure,
    /// The pass before a failure.
    BeforeFailure,
}

/// Evidence kept so that a verdict can be checked again later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptEvidence {
    /// Why it is kept.
    pub reason: Retention,
    /// When it was judged.
    pub at_unix_ms: u64,
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The PCR values: bank's TPM id, index, value.
    pub pcr_values: Vec<(u16, u8, Vec<u8>)>,
    /// Everything that the qualifying data was made of, so that it can be made again.
    pub preimage: Vec<u8>,
    /// The boot log, when one was sent.
    pub boot_log: Option<Vec<u8>>,
    /// Entries of the measurement list that it proves; the list itself is in the kept log.
    pub ima_entries: u64,
}

/// New entries of an agent's measurement list, proven by a quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLog {
    /// The position of the first entry. 0 begins the list again.
    pub from_entry: u64,
    /// One past the last.
    pub to_entry: u64,
    /// The format.
    pub format: LogFormat,
    /// How many bytes they are.
    pub length: u64,
    /// The challenge that they answered: staged pieces are found by it.
    pub upload: ChallengeId,
    /// The bytes; `None` when they were staged in pieces while they were judged.
    pub whole: Option<Vec<u8>>,
}

/// What one attestation changes, to be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The agent.
    pub agent: AgentId,
    /// When it was concluded.
    pub at_unix_ms: u64,
    /// The verdict.
    pub verdict: VerdictKind,
    /// The first thing that failed.
    pub code: Option<Code>,
    /// The policy that was held.
    pub policy: Option<Digest>,
    /// SHA-256 over quote, signature, PCR values and qualifying data.
    pub evidence_sha256: [u8; 32],
    /// The agent's state from now on.
    pub state: AgentState,
    /// Evidence to keep.
    pub kept: Vec<KeptEvidence>,
    /// Log entries to keep.
    pub log: Option<KeptLog>,
}

/// One commit of a shard: outcomes in order, the chain's head before and after them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The shard.
    pub shard: ShardIndex,
    /// The ownership under which it was made.
    pub epoch: Epoch,
    /// One more than the tick before it; the first is 1.
    pub seq: u64,
    /// The chain's head before.
    pub before: ChainHash,
    /// The chain's head after.
    pub after: ChainHash,
    /// The outcomes. An agent occurs at most once.
    pub outcomes: Vec<Outcome>,
}

impl Tick {
    /// The tick that follows `before` with these outcomes.
    pub fn new(
        shard: ShardIndex,
        epoch: Epoch,
        seq: u64,
        before: ChainHash,
        outcomes: Vec<Outcome>,
    ) -> Self {
        let after = outcomes
            .iter()
            .fold(before, |head, outcome| head.after(outcome));
        Self {
            shard,
            epoch,
            seq,
            before,
            after,
            outcomes,
        }
    }

    /// Whether the heads are those of the outcomes.
    pub fn is_chained(&self) -> bool {
        let after = self
            .outcomes
            .iter()
            .fold(self.before, |head, outcome| head.after(outcome));
        after == self.after
    }
}
