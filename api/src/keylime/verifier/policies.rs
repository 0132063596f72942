//! Policies under names: what may run (`allowlists`) and how machines may boot (`mbpolicies`).

use axum::Extension;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use rat_engine::uefi::policy::PolicyName;
use rat_store::{
    KeylimeKind, KeylimePolicy, KeylimePut, KeylimeRemoved, NewKeylimePolicy, StoreError,
};
use serde::Serialize;

use super::add::shown;
use super::asked::{self, PolicyText, Refused, runtime_policy};
use super::{Named, State, Verifier, check, failed, success};
use crate::auth::Peer;
use crate::clock::unix_ms;
use crate::error::ApiError;
use crate::json::Object;
use crate::keylime::{Identity, envelope};
use crate::limits::KEYLIME_TEXT_CHARACTERS_MAX;

/// Names that one query lists.
const PAGE: u32 = 1_000;
/// Characters of a policy's name in Keylime's database.
pub(in crate::keylime) const NAME_CHARACTERS_MAX: usize = 255;

#[derive(Serialize)]
struct RuntimeNames {
    #[serde(rename = "runtimepolicy names")]
    names: Vec<String>,
}

#[derive(Serialize)]
struct BootNames {
    #[serde(rename = "mbpolicy names")]
    names: Vec<String>,
}

/// A misspelt member is Keylime's; the right one stands beside it.
#[derive(Serialize)]
struct Runtime {
    name: String,
    tmp_policy: Option<String>,
    tpm_policy: Option<String>,
    runtime_policy: String,
}

#[derive(Serialize)]
struct Boot {
    name: String,
    mb_policy: String,
}

pub(super) async fn list_runtime(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
) -> Response {
    match verifier.names(&named, KeylimeKind::Runtime).await {
        Ok(names) => success(&RuntimeNames { names }),
        Err(refusal) => refusal,
    }
}

pub(super) async fn list_boot(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
) -> Response {
    match verifier.names(&named, KeylimeKind::MeasuredBoot).await {
        Ok(names) => success(&BootNames { names }),
        Err(refusal) => refusal,
    }
}

pub(super) async fn show_runtime(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
) -> Response {
    match verifier.policy(&named, KeylimeKind::Runtime).await {
        Ok(policy) => success(&Runtime {
            runtime_policy: text(&policy),
            name: policy.name,
            tmp_policy: None,
            tpm_policy: None,
        }),
        Err(refusal) => refusal,
    }
}

pub(super) async fn show_boot(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
) -> Response {
    match verifier.policy(&named, KeylimeKind::MeasuredBoot).await {
        Ok(policy) => success(&Boot {
            mb_policy: text(&policy),
            name: policy.name,
        }),
        Err(refusal) => refusal,
    }
}

pub(super) async fn create_runtime(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    let kind = KeylimeKind::Runtime;
    verifier
        .write(&named, &peer, body, (kind, KeylimePut::Create))
        .await
}

pub(super) async fn replace_runtime(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    let kind = KeylimeKind::Runtime;
    verifier
        .write(&named, &peer, body, (kind, KeylimePut::Replace))
        .await
}

pub(super) async fn create_boot(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    let kind = KeylimeKind::MeasuredBoot;
    verifier
        .write(&named, &peer, body, (kind, KeylimePut::Create))
        .await
}

pub(super) async fn replace_boot(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    let kind = KeylimeKind::MeasuredBoot;
    verifier
        .write(&named, &peer, body, (kind, KeylimePut::Replace))
        .await
}

pub(super) async fn remove_runtime(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
) -> Response {
    verifier
        .remove_policy(&named, &peer, KeylimeKind::Runtime)
        .await
}

pub(super) async fn remove_boot(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
) -> Response {
    verifier
        .remove_policy(&named, &peer, KeylimeKind::MeasuredBoot)
        .await
}

fn text(policy: &KeylimePolicy) -> String {
    String::from_utf8_lossy(&policy.text).into_owned()
}

const fn title(kind: KeylimeKind) -> &'static str {
    match kind {
        KeylimeKind::Runtime => "Runtime policy",
        KeylimeKind::MeasuredBoot => "Measured boot policy",
    }
}

fn missing(kind: KeylimeKind, name: &str) -> Response {
    let text = format!("{} {} not found", title(kind), shown(name));
    envelope::bare(StatusCode::NOT_FOUND, &text)
}

/// What a body brings, by this measured boot policy, and signed if it must be.
fn read(
    kind: KeylimeKind,
    (boot, is_signed): (PolicyName, bool),
    body: &[u8],
) -> Result<PolicyText, Refused> {
    if body.is_empty() {
        return Err(Refused::request("Expected non zero content length"));
    }
    let object = Object::parse(body)?;
    match kind {
        KeylimeKind::Runtime => {
            let text = runtime_policy(&object, is_signed)?;
            let text = text.ok_or_else(|| Refused::request("Exception error: 'runtime_policy'"))?;
            Ok(text)
        }
        KeylimeKind::MeasuredBoot => {
            let text = object.optional_text("mb_policy", KEYLIME_TEXT_CHARACTERS_MAX)?;
            let text = text.ok_or_else(|| Refused::request("Exception error: 'mb_policy'"))?;
            asked::boot_policy(text, boot)
        }
    }
}

impl Verifier {
    async fn names(&self, named: &Named, kind: KeylimeKind) -> Result<Vec<String>, Response> {
        check(named)?;
        let mut all: Vec<String> = Vec::new();
        loop {
            let after = all.last().map_or("", String::as_str);
            let page = self.store.keylime_policy_names(kind, after, PAGE).await;
            let page = page.map_err(failed)?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    async fn policy(&self, named: &Named, kind: KeylimeKind) -> Result<KeylimePolicy, Response> {
        let name = policy_name(named)?;
        let found = self.store.keylime_policy(kind, name).await;
        found.map_err(failed)?.ok_or_else(|| missing(kind, name))
    }

    async fn write(
        &self,
        named: &Named,
        peer: &Peer,
        body: Bytes,
        (kind, how): (KeylimeKind, KeylimePut),
    ) -> Response {
        let name = match policy_name(named) {
            Ok(name) => name,
            Err(refusal) => return refusal,
        };
        let (boot, signed) = (self.boot_policy, self.require_policy_signatures);
        let reading = tokio::task::spawn_blocking(move || read(kind, (boot, signed), &body));
        let brought = match reading.await {
            Ok(Ok(brought)) => brought,
            Ok(Err(refused)) => return refused.answer(),
            Err(_) => return failed(ApiError::Unavailable("the request could not be read")),
        };
        let new = NewKeylimePolicy {
            kind,
            name,
            text: &brought.text,
            judges: brought.judging(),
        };
        let _turn = self.turn().await;
        let actor = Identity::of(peer).actor();
        match self
            .store
            .put_keylime_policy(new, how, &actor, unix_ms())
            .await
        {
            Ok(()) => {}
            Err(StoreError::Exists(_)) => return taken(kind, name),
            // Keylime's own: a measured boot policy that is not there is a conflict.
            Err(StoreError::Missing(_)) => {
                return match kind {
                    KeylimeKind::Runtime => {
                        let text = format!(
                            "{} {} does not exist; use POST to create it",
                            title(kind),
                            shown(name)
                        );
                        envelope::bare(StatusCode::NOT_FOUND, &text)
                    }
                    KeylimeKind::MeasuredBoot => {
                        let text = format!("{} {} not found", title(kind), shown(name));
                        envelope::bare(StatusCode::CONFLICT, &text)
                    }
                };
            }
            Err(error) => return failed(error),
        }
        if how == KeylimePut::Replace {
            let told = self
                .fleet
                .keylime_policy_changed(kind, name.to_owned())
                .await;
            if let Err(error) = told {
                // The store has it: they are told at the next start, or when it is sent again.
                return failed(ApiError::from(error));
            }
            if let Err(error) = self.resume(kind, name).await {
                return failed(error);
            }
        }
        envelope::bare(StatusCode::CREATED, "Created")
    }

    async fn remove_policy(&self, named: &Named, peer: &Peer, kind: KeylimeKind) -> Response {
        let name = match policy_name(named) {
            Ok(name) => name,
            Err(refusal) => return refusal,
        };
        let _turn = self.turn().await;
        let actor = Identity::of(peer).actor();
        let removed = self
            .store
            .remove_keylime_policy(kind, name, &actor, unix_ms())
            .await;
        match removed {
            Ok(KeylimeRemoved::Gone) => envelope::without_body(StatusCode::NO_CONTENT),
            Ok(KeylimeRemoved::Missing) => missing(kind, name),
            Ok(KeylimeRemoved::InUse(agent)) => {
                let what = match kind {
                    KeylimeKind::Runtime => "allowlist",
                    KeylimeKind::MeasuredBoot => "mb_policy",
                };
                let text = format!("Can't delete {what} as it's currently in use by agent {agent}");
                envelope::bare(StatusCode::CONFLICT, &text)
            }
            Err(error) => failed(error),
        }
    }
}

fn taken(kind: KeylimeKind, name: &str) -> Response {
    let text = format!("{} with name {} already exists", title(kind), shown(name));
    envelope::bare(StatusCode::CONFLICT, &text)
}

fn policy_name(named: &Named) -> Result<&str, Response> {
    check(named)?;
    let name = named.name.as_deref().unwrap_or_default();
    match !name.is_empty() && name.chars().nth(NAME_CHARACTERS_MAX).is_none() {
        true => Ok(name),
        false => Err(envelope::bare(StatusCode::BAD_REQUEST, "Invalid URL")),
    }
}
