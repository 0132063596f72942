//! A tenant adds an agent.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{AgentRecord, KEYLIME_GROUP};
use rat_engine::tpm::Public;
use rat_store::{
    Conflict, KeylimeKind, KeylimeStanding, NewKeylimeAgent, NewKeylimePolicy, PolicyOfAgent,
    RowName, Store, StoreError,
};

use super::asked::{PolicyText, Refused, Wanted};
use super::{Named, State, Verifier, agent, failed};
use crate::auth::Peer;
use crate::clock::unix_ms;
use crate::error::ApiError;
use crate::keylime::{Identity, envelope};

/// The policy of an agent whose tenant gave none: it demands nothing, and says so.
pub(in crate::keylime) const EMPTY_POLICY: &[u8] = br#"{"meta":{"version":1,"generator":1},"release":0,"digests":{},"excludes":[],"keyrings":{},"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":""}"#;

/// Adds an agent, which attests from now on.
pub(super) async fn add(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    let id = match agent(&named) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let actor = Identity::of(&peer).actor();
    // Reading a policy takes its time.
    let reading = {
        let verifier = std::sync::Arc::clone(&verifier);
        tokio::task::spawn_blocking(move || Wanted::read(&body, &verifier))
    };
    let wanted = match reading.await {
        Ok(Ok(wanted)) => wanted,
        Ok(Err(refused)) => return refused.answer(),
        Err(_) => return failed(ApiError::Unavailable("the request could not be read")),
    };
    let _turn = verifier.turn().await;
    match verifier.add(&id, &wanted, &actor).await {
        Ok(()) => {
            verifier.serve(&id).await;
            match verifier.poll(&id).await {
                Ok(()) => envelope::bare(StatusCode::OK, "Success"),
                Err(error) => {
                    // What cannot be asked is not there.
                    verifier.forget(&id, &actor).await;
                    Refused::request(error.to_string()).answer()
                }
            }
        }
        Err(NotAdded::Refused(refused)) => refused.answer(),
        Err(NotAdded::Failed(error)) => failed(error),
    }
}

enum NotAdded {
    Refused(Refused),
    Failed(ApiError),
}

impl From<Refused> for NotAdded {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for NotAdded {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Exists(RowName::KeylimePolicy(name)) => {
                let text = format!("Policy with name {} already exists", shown(name));
                Self::Refused(Refused(StatusCode::CONFLICT, text))
            }
            StoreError::Missing(RowName::KeylimePolicy(name)) => {
                let text = format!("Could not find policy with name {}!", shown(name));
                Self::Refused(Refused(StatusCode::NOT_FOUND, text))
            }
            _ => Self::Failed(error.into()),
        }
    }
}

/// A name as texts show it. (X07)
pub(in crate::keylime) fn shown(name: &str) -> String {
    let name: String = name.chars().take(80).collect();
    name.escape_debug().to_string()
}

impl Verifier {
    async fn add(&self, id: &AgentId, wanted: &Wanted, actor: &str) -> Result<(), NotAdded> {
        let ek_sha256 = machine(&self.store, id, &wanted.ak_public).await?;
        let ek_sha256 = ek_sha256.map_err(Refused::request)?;
        let now = unix_ms();
        let record = AgentRecord {
            id: id.clone(),
            group: KEYLIME_GROUP.to_owned(),
            path: wanted.path,
            ak_public: wanted.ak_public.clone(),
            ak_epoch: 1,
            ek_sha256,
            client_key_sha256: sha256(&wanted.ak_public),
            relay_key_sha256: None,
            baseline: None,
            enrolled_unix_ms: now,
        };
        let added = self
            .store
            .add_keylime_agent(
                NewKeylimeAgent {
                    record: &record,
                    facts: &wanted.facts,
                    runtime_policy: runtime_policy(id, wanted),
                    mb_policy: mb_policy(id, wanted),
                    actor,
                },
                now,
            )
            .await?;
        let conflict = match added {
            Ok(_) => return Ok(()),
            Err(conflict) => conflict,
        };
        let text = match conflict {
            Conflict::IdTaken | Conflict::OtherPath => {
                format!("Agent of uuid {id} already exists. Please use delete or update.")
            }
            other => format!("Agent of uuid {id} cannot be added: {other}"),
        };
        Err(Refused(StatusCode::CONFLICT, text).into())
    }
}

/// The machine: its endorsement key where this server's registrar knows it, by which a failure
/// sticks to it; else its attestation key, whose tenant vouches for it. The inner error says why its
/// agent is not added.
///
/// # Security
/// An agent that this registrar knows by another attestation key is not added: its tenant was
/// told of a key that its TPM never proved here.
pub(in crate::keylime) async fn machine(
    store: &Store,
    id: &AgentId,
    ak_public: &[u8],
) -> Result<Result<[u8; 32], &'static str>, StoreError> {
    let found = store.keylime_registration(id, unix_ms()).await?;
    let Some((registration, _)) = found else {
        return Ok(Ok(machine_of_key(ak_public)));
    };
    let is_same = Public::parse(&registration.ak_public)
        .ok()
        .zip(Public::parse(ak_public).ok())
        .is_some_and(|(ours, theirs)| ours.name().to_bytes() == theirs.name().to_bytes());
    if !is_same || registration.standing != KeylimeStanding::Active {
        return Ok(Err(OTHER_KEY));
    }
    Ok(Ok(registration.ek_sha256))
}

/// Why an agent with another key than it registered with is not added.
pub(in crate::keylime) const OTHER_KEY: &str =
    "ak_tpm is not the key that is registered and activated under this id";

/// The machine of which nothing is known but its attestation key.
pub(in crate::keylime) fn machine_of_key(ak_public: &[u8]) -> [u8; 32] {
    sha256(&[b"keylime ak\0", ak_public].concat())
}

pub(in crate::keylime) fn sha256(bytes: &[u8]) -> [u8; 32] {
    // SHA-256 has 32 bytes; the zeros are never reached.
    digest(HashAlg::Sha256, bytes)
        .as_bytes()
        .try_into()
        .unwrap_or([0; 32])
}

fn new<'a>(kind: KeylimeKind, name: &'a str, policy: &'a PolicyText) -> NewKeylimePolicy<'a> {
    NewKeylimePolicy {
        kind,
        name,
        text: &policy.text,
        judges: policy.judging(),
    }
}

/// The pairing of name and policy: both make a new one, a name is of one that is kept, a policy is
/// kept under the agent's id, and neither is the one that demands nothing.
fn runtime_policy<'a>(id: &'a AgentId, wanted: &'a Wanted) -> PolicyOfAgent<'a> {
    let kind = KeylimeKind::Runtime;
    match (&wanted.runtime_policy_name, &wanted.runtime_policy) {
        (Some(name), Some(policy)) => PolicyOfAgent::New(new(kind, name, policy)),
        (Some(name), None) => PolicyOfAgent::Kept(name),
        (None, Some(policy)) => PolicyOfAgent::NewUnlessKept(new(kind, id.as_str(), policy)),
        (None, None) => PolicyOfAgent::NewUnlessKept(NewKeylimePolicy {
            kind,
            name: id.as_str(),
            text: EMPTY_POLICY,
            judges: None,
        }),
    }
}

fn mb_policy<'a>(id: &'a AgentId, wanted: &'a Wanted) -> PolicyOfAgent<'a> {
    let kind = KeylimeKind::MeasuredBoot;
    match (&wanted.mb_policy_name, &wanted.mb_policy) {
        (Some(name), Some(policy)) => PolicyOfAgent::New(new(kind, name, policy)),
        (Some(name), None) => PolicyOfAgent::Kept(name),
        (None, Some(policy)) => PolicyOfAgent::New(new(kind, id.as_str(), policy)),
        (None, None) => PolicyOfAgent::NewUnlessKept(NewKeylimePolicy {
            kind,
            name: id.as_str(),
            text: b"",
            judges: None,
        }),
    }
}
