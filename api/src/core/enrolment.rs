//! R4 and R5: a machine's claims, checked, and the secret that it must release to prove them.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use rat_engine::shard::BaselineCandidate;
use rat_identity::approval::{self, Decision};
use rat_identity::ek::{self, EkVouch};
use rat_identity::enrolment::{self as identity, Applicant, Challenged, EnrolmentError};
use rat_identity::limits::ACTIVATION_TTL_MS;
use rat_store::{Approval, NewPending, NewPolicy, NewWaiting, StoreError, StoredGroup, TokenKind};

use super::baseline::{self, Baseline};
use super::claims::{self, Claims};
use super::pending::PendingEnrolment;
use super::request::policy_id;
use super::tokens::{self, Presented};
use super::wire::{enrolment as wire, request as asked};
use super::{Core, State, SystemRandom, compute};
use crate::auth::Peer;
use crate::auth::account::TOKEN_ACTOR;
use crate::clock::{rfc3339, unix_ms};
use crate::error::{ApiError, Conflict, MemberFault, json_response};
use crate::json::Object;
use crate::limits::BASELINE_BODY_BYTES_MAX;
use crate::metrics;

/// R4: enrols a machine into the group of its token.
#[utoipa::path(
    post, path = "/agents/enroll", tag = "enrolment",
    request_body = asked::Enrol,
    responses((status = 200, body = wire::Enrolled)),
)]
pub(super) async fn enrol(state: State, Extension(peer): Extension<Peer>, body: Bytes) -> Response {
    let result = enrolled(&state.0, &peer, &body).await;
    answer("enrol", result)
}

/// R5: the same with a baseline token, and the machine's list as a candidate policy.
///
/// The machine's first quote that covers the list makes the candidate the group's policy. Without
/// keys nobody can prove that the list is a machine's: then an operator activates the candidate, or
/// does not.
#[utoipa::path(
    post, path = "/agents/enroll-baseline", tag = "enrolment",
    request_body = asked::EnrolBaseline,
    responses((status = 200, body = wire::BaselineEstablished)),
)]
pub(super) async fn enrol_baseline(
    state: State,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    let result = baseline_established(&state.0, &peer, &body).await;
    answer("baseline", result)
}

pub(super) fn answer<T: serde::Serialize>(
    step: &'static str,
    result: Result<T, ApiError>,
) -> Response {
    let label = match &result {
        Ok(_) => "done",
        Err(ApiError::Refused { code, .. }) => code,
        Err(ApiError::NotAuthenticated) => "token",
        Err(ApiError::Conflict(_)) => "conflict",
        Err(ApiError::Unavailable(_)) => "unavailable",
        Err(_) => "request",
    };
    let labels = [("step", step), ("result", label)];
    ::metrics::counter!(metrics::ENROLMENTS, &labels).increment(1);
    match result {
        Ok(body) => json_response(StatusCode::OK, &body),
        Err(error) => error.into_response(),
    }
}

async fn enrolled(core: &Core, peer: &Peer, body: &[u8]) -> Result<wire::Enrolled, ApiError> {
    let request = Object::parse(body)?;
    let presented = tokens::authenticate(core, &request, peer.address.ip()).await?;
    require_kind(&presented, TokenKind::Enrol)?;
    let claims = Claims::read(&request)?;
    let group = group_of(core, &presented).await?;
    let applicant = check(core, peer, &group, claims.clone()).await?;
    let challenged = challenge(&presented, &group, applicant).await?;
    let activation = activation(&challenged);
    keep(core, peer, &presented, &claims, challenged, None).await?;
    Ok(wire::Enrolled {
        status: "success",
        verifier_ip: core.addresses.host.clone(),
        verifier_port: core.addresses.verifier_port,
        activation,
    })
}

async fn baseline_established(
    core: &Core,
    peer: &Peer,
    body: &[u8],
) -> Result<wire::BaselineEstablished, ApiError> {
    let request = Object::parse(body)?;
    let presented = tokens::authenticate(core, &request, peer.address.ip()).await?;
    require_kind(&presented, TokenKind::Baseline)?;
    let list = request.text("ima_log", BASELINE_BODY_BYTES_MAX);
    // Without keys it is a machine that ratd cannot ask for a proof: what it sends is a list.
    let claims = match claims::has_keys(&request) {
        true => Some(Claims::read(&request)?),
        false => claims::named(&request).map(|_| None)?,
    };
    let list = list?.to_owned();
    let group = group_of(core, &presented).await?;
    if group.enforced.is_some() {
        return Err(ApiError::Conflict(Conflict::PolicyActive));
    }
    let applicant = match &claims {
        Some(claims) => Some(check(core, peer, &group, claims.clone()).await?),
        None => None,
    };
    let timestamp = rfc3339(unix_ms()).unwrap_or_default();
    let baseline = compute(move || {
        baseline::from_ascii(list.as_bytes(), &timestamp)
            .map_err(|error| ApiError::member("ima_log", MemberFault::Value(error.to_string())))
    })
    .await?;
    let challenged = match applicant {
        Some(applicant) => Some(challenge(&presented, &group, applicant).await?),
        None => None,
    };
    let activation = challenged.as_ref().map(activation);
    // Everything that can be at fault was checked: what is written from here on is written for a
    // request that succeeds, unless the token is used elsewhere in this very moment. Then the
    // group has a version more, which nothing points to.
    let version = put_candidate(core, &group, &presented, &baseline).await?;
    match claims.zip(challenged) {
        None => use_token(core, peer, &presented).await?,
        Some((claims, challenged)) => {
            let candidate = BaselineCandidate {
                policy: digest(HashAlg::Sha256, baseline.policy.as_bytes()),
                covers: baseline.covers,
            };
            keep(core, peer, &presented, &claims, challenged, Some(candidate)).await?;
        }
    }
    Ok(wire::BaselineEstablished {
        status: "baseline_established",
        policy_id: policy_id(&group.slug, version),
        activation,
    })
}

fn require_kind(presented: &Presented, wanted: TokenKind) -> Result<(), ApiError> {
    match (presented.token.kind(), wanted) {
        (TokenKind::Baseline, TokenKind::Enrol) => Err(ApiError::TokenKind {
            found: "baseline",
            hint: "send it to /agents/enroll-baseline, with a measurement list",
        }),
        (TokenKind::Enrol, TokenKind::Baseline) => Err(ApiError::TokenKind {
            found: "standard",
            hint: "send it to /agents/enroll",
        }),
        _ => Ok(()),
    }
}

async fn group_of(core: &Core, presented: &Presented) -> Result<StoredGroup, ApiError> {
    let group = core.store.group(&presented.stored.token.group).await?;
    group.ok_or(ApiError::NotFound("group"))
}

/// The applicant that these claims are of, if they fit together and the group takes its TPM.
async fn check(
    core: &Core,
    peer: &Peer,
    group: &StoredGroup,
    claims: Claims,
) -> Result<Applicant, ApiError> {
    let hostname = claims.hostname.clone();
    let ek_public = claims.ek_public.clone();
    let machine = compute(move || {
        let machine = ek::machine_of(&ek_public);
        machine.map_err(|error| refused(&error.into()))
    })
    .await?;
    let is_approved = core.store.is_ek_approved(&group.slug, &machine).await?;
    let trust = Arc::clone(&core.trust);
    let allow_sha1 = group.settings.allow_sha1;
    let applicant = compute(move || {
        let request = identity::Request {
            agent: claims.agent,
            ek_certificate: claims.ek_certificate.as_deref(),
            ek_public: &claims.ek_public,
            ak_public: &claims.ak_public,
            csr: &claims.csr,
            approved_ek_sha256: is_approved.then_some(&machine),
            allow_sha1,
        };
        identity::check(&trust, &request, unix_ms()).map_err(|error| refused(&error))
    })
    .await?;
    // The transaction at activation decides; this saves the machine the work, and a token that
    // serves once. (N06, S16)
    if let Some(known) = core.store.agent(&applicant.agent).await? {
        if known.record.ek_sha256 != applicant.ek_sha256 {
            return Err(ApiError::Conflict(Conflict::IdTaken));
        }
        if known.record.group != group.slug {
            return Err(ApiError::Conflict(Conflict::OtherGroup));
        }
    }
    let ek_sha256 = applicant.ek_sha256;
    match approve(group, applicant.vouch)? {
        Admission::Admitted => Ok(applicant),
        Admission::Waits => {
            let ip = peer.address.ip().to_canonical().to_string();
            let waiting = NewWaiting {
                group: &group.slug,
                ek_sha256: &ek_sha256,
                agent: &applicant.agent,
                hostname: &hostname,
                ip: &ip,
            };
            remember(core, waiting).await;
            Err(not_approved(&ek_sha256))
        }
    }
}

/// Shows the machine to operators. What cannot be remembered changes nothing for the machine: it is
/// refused all the same, and asks again.
async fn remember(core: &Core, waiting: NewWaiting<'_>) {
    match core.store.put_waiting(waiting, unix_ms()).await {
        Ok(()) => {}
        Err(StoreError::TooLarge { .. }) => metrics::limit_rejected("WAITING_MAX"),
        Err(error) => tracing::error!(%error, "a machine that waits cannot be remembered"),
    }
}

pub(super) fn refused(error: &EnrolmentError) -> ApiError {
    match error.code() {
        "internal" => {
            tracing::error!(%error, "an enrolment could not be checked");
            ApiError::Unavailable("the enrolment could not be checked")
        }
        code => ApiError::Refused {
            code,
            detail: error.to_string(),
        },
    }
}

/// What a group says to a machine whose TPM is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may enrol.
    Admitted,
    /// An operator has to approve it first.
    Waits,
}

/// Whether the group takes a machine whose TPM is known in this way. (N12)
pub(super) fn approve(group: &StoredGroup, vouch: EkVouch) -> Result<Admission, ApiError> {
    let wanted = match group.settings.approval {
        Approval::Auto => approval::Approval::Auto,
        Approval::List => approval::Approval::List,
        Approval::Manual => approval::Approval::Manual,
    };
    match approval::decide(wanted, vouch) {
        Decision::Admit => Ok(Admission::Admitted),
        Decision::NotListed => Err(ApiError::Refused {
            code: "ek.not_listed",
            detail: "this group takes only TPMs that an operator named".to_owned(),
        }),
        Decision::AskOperator => Ok(Admission::Waits),
    }
}

pub(super) fn not_approved(ek_sha256: &[u8; 32]) -> ApiError {
    let ek = hex::encode(ek_sha256);
    ApiError::Refused {
        code: "ek.not_approved",
        detail: format!("this group takes machines that an operator approves one by one, by {ek}"),
    }
}

async fn challenge(
    presented: &Presented,
    group: &StoredGroup,
    applicant: Applicant,
) -> Result<Challenged, ApiError> {
    let (token_sha256, group) = (presented.token.sha256(), group.slug.clone());
    compute(move || {
        let challenged = identity::challenge(&applicant, &token_sha256, &group, &mut SystemRandom);
        challenged.map_err(|error| {
            tracing::error!(%error, "no credential could be made");
            ApiError::Unavailable("no credential could be made")
        })
    })
    .await
}

fn activation(challenged: &Challenged) -> wire::Activation {
    wire::Activation {
        id: challenged.pending.activation_id.clone(),
        blob: BASE64.encode(&challenged.credential.blob),
        secret: BASE64.encode(&challenged.credential.encrypted_secret),
    }
}

/// Who enrols with a token, for the audit log. No username begins like this.
pub(super) fn actor(token_id: &str) -> String {
    format!("{TOKEN_ACTOR}{token_id}")
}

async fn put_candidate(
    core: &Core,
    group: &StoredGroup,
    presented: &Presented,
    baseline: &Baseline,
) -> Result<u64, ApiError> {
    let policy = NewPolicy {
        group: &group.slug,
        text: baseline.policy.as_bytes(),
        name: &format!("Baseline::{}", group.slug),
        origin: "baseline",
        // Not the id that the machine claims: it could be anybody's name.
        actor: &actor(presented.token.id()),
        now_unix_ms: unix_ms(),
    };
    Ok(core.store.put_policy(policy).await?.version)
}

/// Records the pending enrolment, and uses the token.
///
/// The activation's id leaves the server only after both: of two requests that use the last use
/// of a token, one has nothing to answer with.
async fn keep(
    core: &Core,
    peer: &Peer,
    presented: &Presented,
    claims: &Claims,
    challenged: Challenged,
    baseline: Option<BaselineCandidate>,
) -> Result<(), ApiError> {
    let enrolment = PendingEnrolment {
        token_id: presented.token.id().to_owned(),
        hostname: claims.hostname.clone(),
        baseline,
        pending: challenged.pending,
    };
    let body = enrolment.pack()?;
    let id = &enrolment.pending.activation_id;
    let now = unix_ms();
    let ttl_ms = u64::try_from(ACTIVATION_TTL_MS).unwrap_or(0);
    let pending = NewPending {
        id,
        agent: &claims.agent,
        body: &body,
        expires_unix_ms: now.saturating_add(ttl_ms),
    };
    core.store
        .put_pending(pending, now)
        .await
        .map_err(|error| match error {
            StoreError::TooLarge { .. } => ApiError::limited("PENDING_MAX", 60),
            other => other.into(),
        })?;
    // Whether the token was used or not, the activation is of no use to anybody without it.
    let used = use_token(core, peer, presented).await;
    if used.is_err() {
        let _ = core.store.drop_pending(id).await;
    }
    used
}

/// Uses the token once.
async fn use_token(core: &Core, peer: &Peer, presented: &Presented) -> Result<(), ApiError> {
    let (id, sha256) = (presented.token.id(), presented.token.sha256());
    match core.store.use_token(id, &sha256, unix_ms()).await? {
        Ok(_) => Ok(()),
        Err(_) => Err(tokens::refused(core, peer.address.ip())),
    }
}
