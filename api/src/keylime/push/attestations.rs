//! Attestations as resources: begun by an agent, which is told what to prove, and ended by its
//! evidence.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use rat_engine::calendar::rfc3339;
use rat_engine::evidence::{Answer, Binding, Challenge, Refusal, push_challenge, qualifying_data};
use rat_engine::shard::EffectiveStatus;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::envelope;
use super::capabilities::{Begun, Document, Offered};
use super::choice::{self, Requested};
use super::conversation::{Conversation, NotAsked};
use super::errors::{JSON_API, JsonApi, Links, Refused, malformed};
use super::evidence::Collected;
use super::sessions::Proven;
use super::{Known, Push, is_version_3};

use crate::clock::unix_ms;
use crate::error::json_response;
use crate::limits::PUSH_AWAITED_MAX;
use crate::metrics;

/// How long an answer to evidence waits for the verdict, which says when the agent is to come back.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// An attestation whose evidence is to come.
pub(super) struct Awaited {
    index: u64,
    conversation: Conversation,
    challenge: Challenge,
    binding: Binding,
    requested: Vec<Requested>,
    expires: Instant,
}

/// Those of all agents, one each.
#[derive(Default)]
pub(super) struct AllAwaited(Mutex<HashMap<AgentId, Awaited>>);

impl AllAwaited {
    /// No code panics while it holds the lock, so what a poisoned one guards is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Awaited>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one in place of the one before, which ends.
    fn put(&self, agent: AgentId, awaited: Awaited) -> Result<(), Refused> {
        let mut all = self.lock();
        if all.len() >= PUSH_AWAITED_MAX && !all.contains_key(&agent) {
            let now = Instant::now();
            all.retain(|_, awaited| awaited.expires > now);
        }
        if all.len() >= PUSH_AWAITED_MAX && !all.contains_key(&agent) {
            metrics::limit_rejected("PUSH_AWAITED_MAX");
            return Err(busy(1));
        }
        all.insert(agent, awaited);
        Ok(())
    }

    fn take(&self, agent: &AgentId) -> Option<Awaited> {
        self.lock().remove(agent)
    }

    /// Its number, if one is awaited.
    pub(super) fn index(&self, agent: &AgentId) -> Option<u64> {
        self.lock().get(agent).map(|awaited| awaited.index)
    }
}

fn busy(seconds: u64) -> Refused {
    let detail = "The verifier has too much to do; try again later.";
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(seconds)
}

#[derive(Serialize)]
struct Resource<A> {
    #[serde(rename = "type")]
    kind: &'static str,
    attributes: A,
    links: OwnLinks,
}

#[derive(Serialize)]
struct OwnLinks {
    #[serde(rename = "self")]
    itself: String,
}

#[derive(Serialize)]
struct Answered<'a, A> {
    data: Resource<A>,
    links: Links<'a>,
    jsonapi: JsonApi,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Meta>,
}

#[derive(Serialize)]
struct Meta {
    seconds_to_next_attestation: u64,
}

#[derive(Serialize)]
struct SystemInfo {
    boot_time: String,
}

#[derive(Serialize)]
struct Awaiting<'r> {
    stage: &'static str,
    evidence_requested: &'r [Requested],
    #[serde(skip_serializing_if = "Option::is_none")]
    system_info: Option<SystemInfo>,
    capabilities_received_at: String,
    challenges_expire_at: String,
}

/// Agents read `evidence` as a list that may be empty: megabytes are not sent back to whom they came
/// from.
#[derive(Serialize)]
struct Evaluating {
    stage: &'static str,
    evidence: [(); 0],
    evidence_received_at: String,
}

/// A time as Keylime writes it: six digits of a second, and an offset.
pub(super) fn keylime_time(unix_ms: u64) -> String {
    let text = rfc3339(unix_ms).unwrap_or_default();
    let seconds = text.split(['.', 'Z']).next().unwrap_or_default();
    let ms = unix_ms % 1_000;
    format!("{seconds}.{ms:03}000+00:00")
}

/// `POST /v3.0/agents/{agent_id}/attestations`.
pub(super) async fn begin(
    State(push): State<Push>,
    Extension(proven): Extension<Proven>,
    uri: Uri,
    Path((version, agent)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().trim_end_matches('/');
    let Ok(agent) = admit(&version, &agent, &proven) else {
        return not_its_own(&version, &agent, &proven);
    };
    if let Err(response) = check_kind(&headers) {
        return response;
    }
    let Some(document) = Document::<Begun<'_>>::read(&body) else {
        return malformed();
    };
    if document.data.kind != "attestation" {
        return malformed();
    }
    let begun = document.data.attributes;
    match push.begin(&proven, &agent, &begun).await {
        Ok((index, requested, offered, challenge)) => {
            created(path, index, &requested, &offered, &challenge)
        }
        Err(refused) => {
            push.count("begin", refused.code());
            refused.answer(path)
        }
    }
}

fn created(
    path: &str,
    index: u64,
    requested: &[Requested],
    offered: &Offered,
    challenge: &Challenge,
) -> Response {
    let now = unix_ms();
    let itself = format!("{path}/{index}");
    let expires = now.saturating_add(u64::from(challenge.deadline_ms));
    let mut response = json_response(
        StatusCode::CREATED,
        &Answered {
            data: Resource {
                kind: "attestation",
                attributes: Awaiting {
                    stage: "awaiting_evidence",
                    evidence_requested: requested,
                    system_info: offered.boot_unix_ms.map(|unix_ms| SystemInfo {
                        boot_time: keylime_time(unix_ms),
                    }),
                    capabilities_received_at: keylime_time(now),
                    challenges_expire_at: keylime_time(expires),
                },
                links: OwnLinks {
                    itself: itself.clone(),
                },
            },
            links: Links { itself: path },
            jsonapi: JSON_API,
            meta: None,
        },
    );
    if let Ok(location) = HeaderValue::from_str(&itself) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// `PATCH /v3.0/agents/{agent_id}/attestations/{index}`, or `latest`.
pub(super) async fn answer(
    State(push): State<Push>,
    Extension(proven): Extension<Proven>,
    uri: Uri,
    Path((version, agent, index)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path();
    let Ok(agent) = admit(&version, &agent, &proven) else {
        return not_its_own(&version, &agent, &proven);
    };
    if let Err(response) = check_kind(&headers) {
        return response;
    }
    let Some(document) = Document::<Collected<'_>>::read(&body) else {
        return malformed();
    };
    if document.data.kind != "attestation" {
        return malformed();
    }
    match push
        .answer(&proven, &agent, &index, &document.data.attributes)
        .await
    {
        Ok(seconds) => accepted(path, seconds),
        Err(refused) => {
            push.count("answer", refused.code());
            refused.answer(path)
        }
    }
}

fn accepted(path: &str, seconds: u64) -> Response {
    json_response(
        StatusCode::ACCEPTED,
        &Answered {
            data: Resource {
                kind: "attestation",
                attributes: Evaluating {
                    stage: "evaluating_evidence",
                    evidence: [],
                    evidence_received_at: keylime_time(unix_ms()),
                },
                links: OwnLinks {
                    itself: path.to_owned(),
                },
            },
            links: Links { itself: path },
            jsonapi: JSON_API,
            meta: Some(Meta {
                seconds_to_next_attestation: seconds,
            }),
        },
    )
}

/// The path's agent is the session's own.
fn admit(version: &str, agent: &str, proven: &Proven) -> Result<AgentId, ()> {
    let is_its_own = is_version_3(version) && proven.agent.as_str() == agent;
    is_its_own.then(|| proven.agent.clone()).ok_or(())
}

fn not_its_own(version: &str, agent: &str, proven: &Proven) -> Response {
    if !is_version_3(version) {
        return envelope::without_body(StatusCode::NOT_FOUND);
    }
    let shown: String = agent.chars().take(80).collect();
    let shown = shown.escape_debug();
    let detail = format!(
        "Agent {} cannot access resource {shown} (ownership required)",
        proven.agent
    );
    envelope::titled(StatusCode::FORBIDDEN, "Forbidden", detail)
}

fn check_kind(headers: &HeaderMap) -> Result<(), Response> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    match kind.eq_ignore_ascii_case("application/vnd.api+json") {
        true => Ok(()),
        false => Err(envelope::without_body(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
    }
}

type BegunAttestation = (u64, Vec<Requested>, Offered, Challenge);

impl super::Inner {
    async fn begin(
        &self,
        proven: &Proven,
        agent: &AgentId,
        begun: &Begun<'_>,
    ) -> Result<BegunAttestation, Refused> {
        let known = self.known(agent).await?;
        let known = known.ok_or_else(|| Refused::not_found(agent.as_str()))?;
        self.check_key(&known, proven)?;
        let entries = |offered: &Offered| {
            let list = offered.ima_log.as_ref();
            list.and_then(|list| list.entry_count).unwrap_or(0)
        };
        let offered = begun.offered();
        let count = offered.as_ref().map_or(0, entries);
        // Whether it comes too soon is said before what it says is looked at.
        let (conversation, challenge) = self.ask(proven, count).await?;
        let offered = offered?;
        let chosen = choice::choose(
            &offered.quote,
            &known.terms.accepted,
            &known.record.ak_public,
        )?;
        let is_of_bank = !challenge.selection.pcrs(chosen.hash).is_empty();
        let (conversation, challenge) = match is_of_bank {
            true => (conversation, challenge),
            false => {
                drop(conversation);
                self.change_bank(agent, chosen.hash).await?;
                self.ask(proven, count).await?
            }
        };
        let binding = Binding::KeylimePush(proven.session_sha256);
        let data = qualifying_data(&challenge, &binding, &proven.ak_name, agent);
        let sent = push_challenge(&data);
        let requested = choice::requested(&offered, chosen, &challenge, &sent)?;
        let index = known.attestations;
        let now = Instant::now();
        let lasts = Duration::from_millis(u64::from(challenge.deadline_ms));
        let awaited = Awaited {
            index,
            conversation,
            challenge,
            binding,
            requested: requested.clone(),
            expires: now.checked_add(lasts).unwrap_or(now),
        };
        self.awaited.put(agent.clone(), awaited)?;
        Ok((index, requested, offered, challenge))
    }

    /// Asks the shards what the agent is to prove.
    async fn ask(
        &self,
        proven: &Proven,
        entries: u64,
    ) -> Result<(Conversation, Challenge), Refused> {
        let session = self.next_session();
        let begun = Conversation::begin(self.intake.clone(), session, proven, entries).await;
        let seconds = |ms: u32| u64::from(ms.div_ceil(1_000)).max(1);
        begun.map_err(|not_asked| match not_asked {
            NotAsked::Early(ms) => {
                let seconds = seconds(ms);
                let detail = format!(
                    "Cannot create attestation for agent '{}' before the configured interval has \
                     elapsed. Wait {seconds} seconds before trying again.",
                    proven.agent
                );
                Refused::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "premature_attestation",
                    detail,
                )
                .retry_after(seconds)
            }
            NotAsked::Busy(ms) => busy(seconds(ms)),
            NotAsked::Refused(Refusal::CertificateNotCurrent) => self.other_key(proven),
            NotAsked::Refused(_) => Refused::not_found(proven.agent.as_str()),
        })
    }

    /// The session was opened with the key that is enrolled now.
    fn check_key(&self, known: &Known, proven: &Proven) -> Result<(), Refused> {
        match known.record.client_key_sha256 == proven.ak_sha256 {
            true => Ok(()),
            false => Err(self.other_key(proven)),
        }
    }

    fn other_key(&self, proven: &Proven) -> Refused {
        self.sessions.end(&proven.agent);
        let detail = "The session was opened with another attestation key.";
        Refused::new(StatusCode::UNAUTHORIZED, "session_outdated", detail)
    }

    async fn answer(
        &self,
        proven: &Proven,
        agent: &AgentId,
        index: &str,
        collected: &Collected<'_>,
    ) -> Result<u64, Refused> {
        let awaited = match self.awaited.take(agent) {
            Some(awaited) => awaited,
            None => return Err(self.not_awaited(agent, index).await?),
        };
        let is_it = index == "latest" || index.parse() == Ok(awaited.index);
        if !is_it {
            let refused = not_newest(agent, index);
            self.awaited.put(agent.clone(), awaited)?;
            return Err(refused);
        }
        if awaited.expires <= Instant::now() {
            let detail = "The challenges of this attestation have expired.";
            return Err(Refused::new(
                StatusCode::FORBIDDEN,
                "challenges_expired",
                detail,
            ));
        }
        let read = collected.read(&awaited.requested, &awaited.challenge, awaited.binding);
        let read = match read {
            Ok(read) => read,
            Err(refused) => {
                // It may be sent again, until its time is over.
                self.awaited.put(agent.clone(), awaited)?;
                return Err(refused);
            }
        };
        if let Err(full) = awaited.conversation.submit(read.submission) {
            let seconds = u64::from(full.retry_after_ms.div_ceil(1_000));
            self.awaited.put(agent.clone(), awaited)?;
            return Err(busy(seconds.max(1)));
        }
        let Awaited {
            conversation,
            challenge,
            ..
        } = awaited;
        let (done, verdict) = oneshot::channel();
        let (sessions, of) = (self.sessions.clone(), proven.clone());
        // It goes on when the agent does not wait for it.
        tokio::spawn(async move {
            let answer = conversation.conclude(challenge.id, &read.list).await;
            if answer.as_ref().is_some_and(is_pass) {
                sessions.extend(&of);
            }
            let _ = done.send(answer);
        });
        let answer = tokio::time::timeout(ANSWERED_WITHIN, verdict).await;
        Ok(match answer {
            Ok(Ok(Some(answer))) => u64::from(answer.next_after_ms.div_ceil(1_000)),
            // It is asked again at once.
            Ok(Ok(None) | Err(_)) => 0,
            Err(_) => self.interval_seconds,
        })
    }

    /// Why evidence is not taken that nobody waits for.
    async fn not_awaited(&self, agent: &AgentId, index: &str) -> Result<Refused, Refused> {
        let known = self.known(agent).await?;
        let known = known.ok_or_else(|| Refused::not_found(agent.as_str()))?;
        let newest = known.attestations.checked_sub(1);
        Ok(match (newest, index.parse::<u64>()) {
            (Some(newest), Ok(index)) if index < newest => not_newest(agent, &index.to_string()),
            (Some(newest), Ok(index)) if index == newest => immutable(newest),
            (Some(newest), Err(_)) if index == "latest" => immutable(newest),
            _ => {
                let detail = format!("Agent '{agent}' has no such attestation.");
                Refused::new(StatusCode::NOT_FOUND, "not_found", detail)
            }
        })
    }
}

fn is_pass(answer: &Answer) -> bool {
    let passes = matches!(
        answer.status,
        EffectiveStatus::Trusted | EffectiveStatus::TrustedUnenforced | EffectiveStatus::Authentic
    );
    passes && answer.code.is_none()
}

fn not_newest(agent: &AgentId, index: &str) -> Refused {
    let index: String = index.chars().take(20).collect();
    let detail = format!(
        "Attestation {} is not the latest for agent '{agent}'. Only evidence for the most recent \
         attestation may be updated.",
        index.escape_debug()
    );
    Refused::new(StatusCode::FORBIDDEN, "old_attestation", detail)
}

fn immutable(index: u64) -> Refused {
    let detail = format!(
        "Cannot alter evidence for attestation {index} which has already been received and accepted."
    );
    Refused::new(StatusCode::FORBIDDEN, "evidence_immutable", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_keylimes() {
        assert_eq!(
            keylime_time(1_795_333_849_000),
            "2026-11-22T07:50:49.000000+00:00"
        );
        assert_eq!(
            keylime_time(1_795_333_849_044),
            "2026-11-22T07:50:49.044000+00:00"
        );
    }
}
