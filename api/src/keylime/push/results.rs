//! What came of attestations, for administrators.

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentState, VerdictKind, is_of_policy};
use rat_engine::verdict::Code;
use serde::Serialize;

use super::super::envelope;
use super::attestations::keylime_time;
use super::errors::{JSON_API, JsonApi, Links, Refused};
use super::{Push, is_version_3};
use crate::error::json_response;

#[derive(Serialize)]
struct Attestation {
    #[serde(rename = "type")]
    kind: &'static str,
    attributes: Attributes,
    links: OwnLinks,
}

#[derive(Serialize)]
struct OwnLinks {
    #[serde(rename = "self")]
    itself: String,
}

#[derive(Serialize)]
struct Attributes {
    stage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_reason: Option<&'static str>,
    /// What failed, by the engine's own name; Keylime has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_code: Option<&'static str>,
    evidence: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities_received_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_completed_at: Option<String>,
}

#[derive(Serialize)]
struct Document<'a, D> {
    data: D,
    links: Links<'a>,
    jsonapi: JsonApi,
}

/// `GET /v3.0/agents/{agent_id}/attestations`.
pub(super) async fn list(
    State(push): State<Push>,
    uri: Uri,
    Path((version, agent)): Path<(String, String)>,
) -> Response {
    let path = uri.path().trim_end_matches('/');
    match push.results(&version, &agent, path).await {
        Ok(Some(data)) => document(path, data),
        Ok(None) => envelope::without_body(StatusCode::NOT_FOUND),
        Err(refused) => refused.answer(path),
    }
}

/// `GET /v3.0/agents/{agent_id}/attestations/{index}`, or `latest`.
pub(super) async fn one(
    State(push): State<Push>,
    uri: Uri,
    Path((version, agent, index)): Path<(String, String, String)>,
) -> Response {
    let path = uri.path();
    let parent = path.rsplit_once('/').map_or(path, |(parent, _)| parent);
    let found = match push.results(&version, &agent, parent).await {
        Ok(Some(all)) => all,
        Ok(None) => return envelope::without_body(StatusCode::NOT_FOUND),
        Err(refused) => return refused.answer(path),
    };
    let wanted = format!("{parent}/{index}");
    let is_it = |it: &Attestation| index == "latest" || it.links.itself == wanted;
    match found.into_iter().find(is_it) {
        Some(attestation) => document(path, attestation),
        None => {
            let detail = "There is no such attestation, or it is not kept any more.";
            Refused::new(StatusCode::NOT_FOUND, "not_found", detail).answer(path)
        }
    }
}

fn document(path: &str, data: impl Serialize) -> Response {
    let document = Document {
        data,
        links: Links { itself: path },
        jsonapi: JSON_API,
    };
    json_response(StatusCode::OK, &document)
}

impl super::Inner {
    /// The newest attestations of an agent, the newest first; `None` for another version of the API.
    async fn results(
        &self,
        version: &str,
        agent: &str,
        path: &str,
    ) -> Result<Option<Vec<Attestation>>, Refused> {
        if !is_version_3(version) {
            return Ok(None);
        }
        let shown = || Refused::not_found(&agent.chars().take(80).collect::<String>());
        let agent = AgentId::parse(agent).map_err(|_| shown())?;
        let known = self.known(&agent).await?.ok_or_else(shown)?;
        let mut results = Vec::with_capacity(2);
        let at = |index: u64| OwnLinks {
            itself: format!("{path}/{index}"),
        };
        if let Some(index) = self.awaited.index(&agent) {
            results.push(Attestation {
                kind: "attestation",
                attributes: Attributes {
                    stage: "awaiting_evidence",
                    evaluation: Some("pending"),
                    failure_reason: None,
                    failure_code: None,
                    evidence: [],
                    capabilities_received_at: None,
                    verification_completed_at: None,
                },
                links: at(index),
            });
        }
        if let Some(newest) = known.attestations.checked_sub(1)
            && let Some(attributes) = concluded(&known.state)
        {
            results.push(Attestation {
                kind: "attestation",
                attributes,
                links: at(newest),
            });
        }
        Ok(Some(results))
    }
}

fn concluded(state: &AgentState) -> Option<Attributes> {
    let verdict = state.verdict.as_ref()?;
    let passes = verdict.kind != VerdictKind::Untrusted && verdict.code.is_none();
    Some(Attributes {
        stage: "verification_complete",
        evaluation: Some(if passes { "pass" } else { "fail" }),
        failure_reason: verdict.code.filter(|_| !passes).map(failure_reason),
        failure_code: verdict.code.map(Code::as_str),
        evidence: [],
        capabilities_received_at: Some(keylime_time(verdict.challenged_unix_ms)),
        verification_completed_at: Some(keylime_time(verdict.at_unix_ms)),
    })
}

/// Keylime's two reasons: the policy does not allow it, or it is not proven.
fn failure_reason(code: Code) -> &'static str {
    match is_of_policy(code) {
        true => "policy_violation",
        false => "broken_evidence_chain",
    }
}
