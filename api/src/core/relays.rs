//! Relays: machines that carry the evidence of others, and which agents they speak for. (Q16)

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use rat_identity::ca::IssuedToRelay;
use rat_identity::limits::REQUEST_BYTES_MAX;
use rat_identity::pem;
use rat_identity::relay_certificate::RelayName;
use rat_store::{RecordChange, StoreError, StoredRelay};

use super::activation::not_issued;
use super::request::{AgentInPath, Answered, Parameters, RelayInPath, Reply};
use super::{Core, State, agents, wire};
use crate::auth::Caller;
use crate::clock::{rfc3339, unix_ms};
use crate::error::{ApiError, Conflict, MemberFault};
use crate::json::{Form, Object};

use super::wire::relay as shown;
use super::wire::request as asked;

const UNKNOWN: ApiError = ApiError::NotFound("relay");
/// A longer text is refused by the name's own rule, which says what a name is.
const NAME_CHARACTERS_MAX: usize = 256;

/// Whoever lets relays connect.
pub trait Relays: Send + Sync {
    /// The relay with this key may connect from now on.
    fn named(&self, name: &RelayName, key_sha256: [u8; 32]);

    /// It may no more, and is connected no more.
    fn taken_back(&self, key_sha256: &[u8; 32]);
}

/// Lists relays by name.
#[utoipa::path(
    get, path = "/relays/", tag = "relays",
    responses((status = 200, body = Vec<shown::Relay>)),
)]
pub(super) async fn list(state: State, parameters: Parameters) -> Answered<Vec<shown::Relay>> {
    parameters.only(&[])?;
    let relays = state.0.store.relays().await?;
    Ok(Reply::ok(
        relays.into_iter().map(shown::Relay::from).collect(),
    ))
}

/// Names a relay, and issues the certificate that it shows to the server and to its agents. The
/// request comes from `rat-agent relay request`. The same name with the same key is given another
/// certificate, for one that has expired.
#[utoipa::path(
    post, path = "/relays/", tag = "relays",
    request_body = asked::AddRelay,
    responses((status = 201, body = shown::NewRelay)),
)]
pub(super) async fn add(
    state: State,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<shown::NewRelay> {
    let form = Form {
        members: &["name", "csr"],
        document: None,
    };
    let request = Object::of_form(&body, &form)?;
    let name = relay_name(request.text("name", NAME_CHARACTERS_MAX)?)?;
    let csr = request.optional_bytes("csr", REQUEST_BYTES_MAX)?;
    let csr = csr.ok_or_else(|| ApiError::member("csr", MemberFault::Missing))?;
    let core = &state.0;
    let issued = issue(core, name.clone(), csr).await?;
    let relay = StoredRelay {
        name: name.as_str().to_owned(),
        key_sha256: issued.key_sha256,
        created_by: caller.actor().to_owned(),
        created_unix_ms: unix_ms(),
    };
    match core.store.put_relay(&relay).await {
        Ok(()) => {}
        Err(StoreError::Exists(_)) => return Err(ApiError::Conflict(Conflict::RelayExists)),
        Err(StoreError::TooLarge { .. }) => return Err(ApiError::Conflict(Conflict::RelaysFull)),
        Err(error) => return Err(error.into()),
    }
    core.relays.named(&name, issued.key_sha256);
    let as_pem = |certificates: &[Vec<u8>]| -> String {
        certificates
            .iter()
            .map(|der| pem::encode("CERTIFICATE", der))
            .collect()
    };
    Ok(Reply::created(shown::NewRelay {
        name: relay.name,
        key_sha256: hex::encode(issued.key_sha256),
        certificate: as_pem(&issued.chain_der),
        expires_at: rfc3339(issued.not_after_unix_ms),
        ca: core
            .ca
            .certificates()
            .iter()
            .map(|der| pem::encode("CERTIFICATE", der))
            .collect(),
        evidence: wire::enrolment::EvidenceListener {
            addresses: core.addresses.evidence.clone(),
            server_name: core.addresses.server_name.clone(),
        },
    }))
}

fn relay_name(text: &str) -> Result<RelayName, ApiError> {
    RelayName::parse(text)
        .map_err(|error| ApiError::member("name", MemberFault::Value(error.to_string())))
}

async fn issue(core: &Core, name: RelayName, csr: Vec<u8>) -> Result<IssuedToRelay, ApiError> {
    let ca = Arc::clone(&core.ca);
    super::compute(move || {
        let issued = ca.issue_relay(&csr, &name, unix_ms());
        issued.map_err(not_issued)
    })
    .await
}

/// Takes a relay back: it is connected no more when this is answered. Its agents' records still name
/// it, so nobody speaks for them until they are told to come directly or through another.
#[utoipa::path(
    delete, path = "/relays/{relay_name}", tag = "relays",
    params(("relay_name" = String, Path)),
    responses((status = 200, body = shown::Relay)),
)]
pub(super) async fn remove(
    state: State,
    RelayInPath(name): RelayInPath,
    Extension(caller): Extension<Caller>,
) -> Answered<shown::Relay> {
    let core = &state.0;
    let removed = core
        .store
        .remove_relay(name.as_str(), caller.actor(), unix_ms())
        .await?;
    let removed = removed.ok_or(UNKNOWN)?;
    core.relays.taken_back(&removed.key_sha256);
    Ok(Reply::ok(removed.into()))
}

/// Says through which relay an agent speaks from now on, or that it comes directly (`null`). What
/// comes by another way is refused.
#[utoipa::path(
    post, path = "/agents/{agent_id}/relay", tag = "agents",
    params(("agent_id" = String, Path)),
    request_body = asked::Relay,
    responses((status = 200, body = wire::agent::AgentDetail)),
)]
pub(super) async fn of_agent(
    state: State,
    AgentInPath(id): AgentInPath,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered<wire::agent::AgentDetail> {
    const NO_AGENT: ApiError = ApiError::NotFound("agent");
    let form = Form {
        members: &["relay"],
        document: None,
    };
    let request = Object::of_form(&body, &form)?;
    if !request.names("relay") {
        return Err(ApiError::member("relay", MemberFault::Missing));
    }
    let named = request.optional_text("relay", NAME_CHARACTERS_MAX)?;
    let core = &state.0;
    core.store.agent(&id).await?.ok_or(NO_AGENT)?;
    let relay = match named {
        Some(name) => core.store.relay(name).await?.ok_or(UNKNOWN).map(Some)?,
        None => None,
    };
    let turn = core.turn(&id).await;
    let changing = async {
        let change = RecordChange::Relay(relay.map(|relay| relay.key_sha256));
        let (actor, now) = (caller.actor(), unix_ms());
        let changed = core.store.change_agent(&id, change, actor, now).await?;
        changed.ok_or(NO_AGENT)?;
        core.store.enrolled_agent(&id).await?.ok_or(NO_AGENT)
    };
    turn.apart(changing).await?;
    drop(turn);
    agents::detail(core, &id).await.map(Reply::ok)
}
