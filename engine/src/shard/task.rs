//! stopgap types
use super::state::VerdictKind;
use super::tick::KeptLog;
use crate::agent_id::AgentId;
use crate::appraisal::{ImaState, Rules};
use crate::crypto::VerifyingKey;
use crate::evidence::{Challenge, SessionId, Submission};
use crate::hash::Digest;
use crate::ima::judge::Judge;
use crate::ima::{ImaOptions, ImaReport, Start};
use crate::pcr::{PcrSet, PcrValues};
use crate::pcr_policy::PcrPolicy;
use crate::time::Now;
use crate::tpm::ClockInfo;
use crate::verdict::Finding;
use std::sync::Arc;
/// a
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Assignment {
    pub agent: AgentId,
    pub session: SessionId,
    pub challenge: Challenge,
    pub issued: Now,
    pub key: Arc<VerifyingKey>,
    pub ak_name: Arc<[u8]>,
    pub rules: Rules,
    pub pcr_policy: Option<Arc<PcrPolicy>>,
    pub boot_pcrs: Option<PcrSet>,
    pub judge: Option<Arc<Judge>>,
    pub ima: ImaOptions,
    pub start: Start,
    pub submission: Submission,
}
/// b
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Judged {
    pub agent: AgentId,
    pub session: SessionId,
    pub challenge: Challenge,
    pub issued: Now,
    pub verdict: VerdictKind,
    pub policy: Option<Digest>,
    pub findings: Vec<Finding>,
    pub warnings: Vec<Finding>,
    pub quote: Option<QuoteFacts>,
    pub boot_pcrs: PcrValues,
    pub boot_log_explained: bool,
    pub ima: Option<ImaState>,
    pub report: Option<ImaReport>,
    pub evidence_sha256: [u8; 32],
    pub evidence: KeptParts,
    pub log: Option<KeptLog>,
}
/// c
#[derive(Debug)]
#[allow(missing_docs)]
pub struct QuoteFacts {
    pub clock: ClockInfo,
    pub firmware_version: u64,
}
/// d
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct KeptParts {
    pub quote: Vec<u8>,
    pub signature: Vec<u8>,
    pub pcr_values: PcrValues,
    pub preimage: Vec<u8>,
    pub boot_log: Option<Vec<u8>>,
}
