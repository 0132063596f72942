//! `/agents/{id}/activate`: the proof that a machine's keys are in one TPM, and its certificate.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentPath, AgentRecord};
use rat_identity::ca::{IssueError, IssuedToAgent};
use rat_identity::ek::EkVouch;
use rat_identity::enrolment;
use rat_identity::limits::ACTIVATION_TRIES_MAX;
use rat_identity::pem;
use rat_store::{
    Activated, Answered, Conflict as StoreConflict, Registration, StoredAgent, StoredGroup,
    TryResult,
};

use super::enrolment::{Admission, actor, answer, approve, not_approved, refused};
use super::pending::PendingEnrolment;
use super::wire::{enrolment as wire, request as asked};
use super::{Core, State};
use crate::auth::Peer;
use crate::clock::unix_ms;
use crate::error::{ApiError, Conflict, MemberFault};
use crate::json::Object;
use crate::limits::{ACTIVATION_ID_CHARACTERS_MAX, PROOF_CHARACTERS_MAX};

/// Takes the answer to a pending activation.
#[utoipa::path(
    post, path = "/agents/{agent_id}/activate", tag = "enrolment",
    params(("agent_id" = String, Path)),
    request_body = asked::Activate,
    responses((status = 200, body = wire::Activated)),
)]
pub(super) async fn activate(
    state: State,
    agent: Result<Path<String>, PathRejection>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    // What is not UTF-8 names no agent, as an empty text does not.
    let agent = agent.map_or_else(|_| String::new(), |Path(agent)| agent);
    answer("activate", activated(&state.0, &peer, &agent, &body).await)
}

/// One text for whatever is not pending: never begun, over, answered, dropped, another agent's.
const NOT_PENDING: ApiError = ApiError::NotFound("pending activation");

async fn activated(
    core: &Arc<Core>,
    peer: &Peer,
    agent: &str,
    body: &[u8],
) -> Result<wire::Activated, ApiError> {
    let request = Object::parse(body)?;
    let id = request.text("activation_id", ACTIVATION_ID_CHARACTERS_MAX)?;
    let proof = request.text("proof", PROOF_CHARACTERS_MAX)?;
    let proof = hex::decode(proof)
        .map_err(|_| ApiError::member("proof", MemberFault::Encoding("hexadecimal digits")))?;
    let agent = AgentId::parse(agent).map_err(|_| NOT_PENDING)?;
    let enrolment = proven(core, &agent, id, &proof).await?;
    let group = admitted(core, &enrolment).await?;
    // The certificate comes first, because it may fail and the record may not come alone: a
    // record without a certificate would be an agent that nobody can be. The other way round
    // nothing is lost: shards refuse a certificate whose key no record names.
    let issued = issue(core, &enrolment).await?;
    let turn = core.turn(&agent).await;
    let stored = store(core, peer, id, &enrolment).await?;
    turn.serve(stored).await;
    drop(turn);
    Ok(wire::Activated {
        certificate: to_pem(&issued.chain_der),
        ca: core
            .ca
            .certificates()
            .iter()
            .map(|der| pem::encode("CERTIFICATE", der))
            .collect(),
        evidence: wire::EvidenceListener {
            addresses: core.addresses.evidence.clone(),
            server_name: core.addresses.server_name.clone(),
        },
        settings: wire::AgentSettings {
            interval_ms: group.settings.interval_ms.unwrap_or(core.interval_ms),
            mode: core.mode.as_str(),
        },
    })
}

/// The pending enrolment that this proof answers.
///
/// # Security
/// A try is counted before the proof is looked at, so that no number of requests side by side
/// gets more than [`ACTIVATION_TRIES_MAX`] looks at it. (N05)
async fn proven(
    core: &Core,
    agent: &AgentId,
    id: &str,
    proof: &[u8],
) -> Result<PendingEnrolment, ApiError> {
    let stored = core.store.pending(id, unix_ms()).await?;
    let stored = stored.filter(|stored| stored.agent == *agent);
    let enrolment = stored.and_then(|stored| PendingEnrolment::unpack(&stored.body));
    let enrolment = enrolment.ok_or(NOT_PENDING)?;
    // One more than is allowed: the store drops the record at its last try, and the last allowed
    // one must find it still there.
    let tries = u64::try_from(ACTIVATION_TRIES_MAX).unwrap_or(0);
    let left = match core.store.count_try(id, tries.saturating_add(1)).await? {
        TryResult::Left(left) => left,
        TryResult::Dropped | TryResult::Unknown => return Err(NOT_PENDING),
    };
    if enrolment::verify(&enrolment.pending, proof) {
        return Ok(enrolment);
    }
    if left <= 1 {
        core.store.drop_pending(id).await?;
    }
    Err(ApiError::Refused {
        code: "activation.proof_wrong",
        detail: "the proof does not answer this activation".to_owned(),
    })
}

/// Whether what was true when the enrolment began still is: the token was not revoked, the group
/// is there and takes this machine and its key, and its TPM is known. (N08, Q09, S10)
async fn admitted(core: &Core, enrolment: &PendingEnrolment) -> Result<StoredGroup, ApiError> {
    let token = core.store.token(&enrolment.token_id).await?;
    if token.is_none_or(|token| token.revoked_unix_ms.is_some()) {
        return Err(ApiError::NotAuthenticated);
    }
    let pending = &enrolment.pending;
    // It may have begun before a restart with other lists and CAs.
    if !core.trust.vouches_still(pending.vouch, &pending.ek_sha256) {
        return Err(ApiError::Refused {
            code: "ek.not_listed",
            detail: "the TPM is not one that an operator names any more".to_owned(),
        });
    }
    let group = core.store.group(&pending.group).await?;
    let group = group.ok_or(ApiError::NotFound("group"))?;
    let checked = pending.check_ak(group.settings.allow_sha1);
    checked.map_err(|error| refused(&error))?;
    match approve(&group, pending.vouch)? {
        Admission::Admitted => Ok(group),
        Admission::Waits => Err(not_approved(&pending.ek_sha256)),
    }
}

/// Why the CA issued nothing. Requests of agents were checked when their enrolment began.
pub(super) fn not_issued(error: IssueError) -> ApiError {
    match error {
        IssueError::Request(error) => ApiError::Refused {
            code: "csr.malformed",
            detail: error.to_string(),
        },
        error => {
            tracing::error!(%error, "the CA cannot issue");
            ApiError::Unavailable("the CA cannot issue certificates now")
        }
    }
}

async fn issue(core: &Core, enrolment: &PendingEnrolment) -> Result<IssuedToAgent, ApiError> {
    let ca = Arc::clone(&core.ca);
    let (csr, agent) = (
        enrolment.pending.csr.clone(),
        enrolment.pending.agent.clone(),
    );
    super::compute(move || {
        let issued = ca.issue_agent(&csr, &agent, unix_ms());
        issued.map_err(not_issued)
    })
    .await
}

async fn store(
    core: &Core,
    peer: &Peer,
    activation_id: &str,
    enrolment: &PendingEnrolment,
) -> Result<StoredAgent, ApiError> {
    let now = unix_ms();
    let pending = &enrolment.pending;
    let record = AgentRecord {
        id: pending.agent.clone(),
        group: pending.group.clone(),
        path: AgentPath::Native,
        ak_public: pending.ak_public.clone(),
        ak_epoch: 1,
        ek_sha256: pending.ek_sha256,
        client_key_sha256: pending.client_key_sha256,
        relay_key_sha256: None,
        baseline: enrolment.baseline.clone(),
        enrolled_unix_ms: now,
    };
    let registration = Registration {
        hostname: enrolment.hostname.clone(),
        ip: peer.address.ip().to_canonical().to_string(),
        registered_unix_ms: now,
    };
    let answered = Answered {
        activation_id,
        actor: &actor(&enrolment.token_id),
        token_id: Some(&enrolment.token_id),
        needs_approval: pending.vouch == EkVouch::Approved,
    };
    match core
        .store
        .activate(&answered, &record, &registration)
        .await?
    {
        Ok(Activated::New(stored) | Activated::SameAgain(stored)) => Ok(stored),
        Ok(Activated::NewAkNeedsOperator) => Err(ApiError::Conflict(Conflict::NewAk)),
        Err(StoreConflict::NotPending) => Err(NOT_PENDING),
        Err(StoreConflict::EkEnrolled(_)) => Err(ApiError::Conflict(Conflict::EkTaken)),
        Err(StoreConflict::IdTaken | StoreConflict::OtherPath) => {
            Err(ApiError::Conflict(Conflict::IdTaken))
        }
        Err(StoreConflict::OtherGroup) => Err(ApiError::Conflict(Conflict::OtherGroup)),
        Err(StoreConflict::TokenRevoked) => Err(ApiError::NotAuthenticated),
        Err(StoreConflict::NotApproved) => Err(not_approved(&pending.ek_sha256)),
    }
}

fn to_pem(chain_der: &[Vec<u8>]) -> String {
    let blocks = chain_der.iter();
    blocks.map(|der| pem::encode("CERTIFICATE", der)).collect()
}
