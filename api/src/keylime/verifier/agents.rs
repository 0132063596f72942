//! Agents: read, removed, and taken up again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentPath, is_of_policy};
use rat_store::{AgentFilter, KeylimeKind, OnRemoval, StoredKeylimeAgent, StoredRecord};
use serde::{Deserialize, Serialize};

use super::status::Shown;
use super::{Named, NotPolled, State, Verifier, agent, check, failed, success};
use crate::auth::Peer;
use crate::clock::unix_ms;
use crate::core::fleet::Seen;
use crate::error::ApiError;
use crate::keylime::{Identity, KeylimeCaller, envelope};

#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    bulk: Option<String>,
    verifier: Option<String>,
}

/// Each id stands in a list of its own, as Keylime writes rows of its database.
#[derive(Serialize)]
struct Ids {
    uuids: Vec<[String; 1]>,
}

/// Agents that one query lists.
const PAGE: u32 = 1_000;

/// Lists the ids of all agents, or tells how each stands.
pub(super) async fn list(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Query(filter): Query<Filter>,
) -> Response {
    if let Err(refusal) = check(&named) {
        return refusal;
    }
    // Another verifier's agents are nobody's here.
    let is_ours = filter
        .verifier
        .is_none_or(|id| id.is_empty() || id == verifier.id);
    if filter.bulk.is_some() {
        let all = match is_ours {
            true => verifier.all_shown().await,
            false => Ok(BTreeMap::new()),
        };
        return all.map_or_else(failed, |all| success(&all));
    }
    let listed = match is_ours {
        true => verifier.listed().await,
        false => Ok(Vec::new()),
    };
    let records = match listed {
        Ok(records) => records,
        Err(error) => return failed(error),
    };
    let uuids = records
        .into_iter()
        .map(|it| [it.record.id.as_str().to_owned()]);
    success(&Ids {
        uuids: uuids.collect(),
    })
}

/// Tells how an agent stands.
pub(super) async fn show(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(caller): Extension<KeylimeCaller>,
) -> Response {
    let id = match agent(&named) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    if let Some(refusal) = caller.refuse_other_than(&id) {
        return refusal;
    }
    match verifier.shown(&id).await {
        Ok(Some(shown)) => success(&shown),
        Ok(None) => not_found(),
        Err(error) => failed(error),
    }
}

/// Removes an agent. An administrator who removes it and adds it again has looked at its failure.
/// (S16)
pub(super) async fn remove(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
) -> Response {
    let id = match agent(&named) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let actor = Identity::of(&peer).actor();
    let _turn = verifier.turn().await;
    match verifier.found(&id).await {
        Ok(Some(_)) => {}
        Ok(None) => return not_found(),
        Err(error) => return failed(error),
    }
    if let Some(polls) = &verifier.polls {
        polls.remove(&id);
    }
    if let Err(error) = verifier.fleet.remove(id.clone()).await {
        return failed(ApiError::from(error));
    }
    let store = &verifier.store;
    let removed = store
        .remove_agent(&id, OnRemoval::ClearFailure, &actor, unix_ms())
        .await;
    match removed {
        Ok(Some(_)) => envelope::bare(StatusCode::OK, "Success"),
        Ok(None) => not_found(),
        Err(error) => {
            // The store has it still: it is served on.
            verifier.serve(&id).await;
            if let Err(error) = verifier.poll(&id).await {
                tracing::error!(agent = %id, %error, "an agent is not polled before the next start");
            }
            failed(error)
        }
    }
}

/// Takes an agent up again: its failure is taken back, and it is asked from the beginning.
pub(super) async fn reactivate(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
) -> Response {
    let id = match agent(&named) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let _turn = verifier.turn().await;
    match verifier.found(&id).await {
        Ok(Some(_)) => {}
        // Keylime's answer to one that is not there.
        Ok(None) => return envelope::bare(StatusCode::BAD_REQUEST, "agent id not found"),
        Err(error) => return failed(error),
    }
    if let Err(error) = verifier.fleet.clear(id.clone()).await {
        return failed(ApiError::from(error));
    }
    let (store, actor) = (&verifier.store, Identity::of(&peer).actor());
    if let Err(error) = store
        .stop_keylime_agent(&id, false, &actor, unix_ms())
        .await
    {
        return failed(error);
    }
    match verifier.poll(&id).await {
        Ok(()) => envelope::bare(StatusCode::OK, "Success"),
        Err(error) => envelope::bare(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

/// Polls an agent no more, until it is reactivated, also after a restart. One that pushes is not
/// polled, so there is nothing to stop.
pub(super) async fn stop(
    axum::extract::State(verifier): State,
    Path(named): Path<Named>,
    Extension(peer): Extension<Peer>,
) -> Response {
    let id = match agent(&named) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let _turn = verifier.turn().await;
    match verifier.found(&id).await {
        Ok(Some(record)) if record.record.path == AgentPath::KeylimePull => {
            let (store, actor) = (&verifier.store, Identity::of(&peer).actor());
            if let Err(error) = store.stop_keylime_agent(&id, true, &actor, unix_ms()).await {
                return failed(error);
            }
            if let Some(polls) = &verifier.polls {
                polls.remove(&id);
            }
            envelope::bare(StatusCode::OK, "Success")
        }
        Ok(Some(_)) => {
            let text = "agents that push cannot be stopped: remove it";
            envelope::bare(StatusCode::NOT_IMPLEMENTED, text)
        }
        Ok(None) => envelope::bare(StatusCode::BAD_REQUEST, "agent id not found"),
        Err(error) => failed(error),
    }
}

fn not_found() -> Response {
    envelope::bare(StatusCode::NOT_FOUND, "agent id not found")
}

impl Verifier {
    /// One of Keylime's agents; `None` for everybody else.
    pub(super) async fn found(&self, id: &AgentId) -> Result<Option<StoredRecord>, ApiError> {
        let record = self.store.agent(id).await?;
        Ok(record.filter(|it| it.record.path != AgentPath::Native))
    }

    /// All of them, by id. One that cannot be read is passed over, as it is not served.
    async fn listed(&self) -> Result<Vec<StoredRecord>, ApiError> {
        let mut all: Vec<StoredRecord> = Vec::new();
        let filter = AgentFilter {
            group: Some(rat_engine::shard::KEYLIME_GROUP),
            hostname: None,
        };
        let mut after = String::new();
        loop {
            let page = self.store.agents_of(filter, &after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(all);
            };
            after = match last {
                Ok(record) => record.record.id.as_str().to_owned(),
                Err(unreadable) => unreadable.agent.clone(),
            };
            all.extend(page.into_iter().flatten());
        }
    }

    /// How all of them stand, by id, read a page at a time. One that cannot be read is passed over,
    /// as it is not served.
    async fn all_shown(&self) -> Result<BTreeMap<String, Shown>, ApiError> {
        let mut all = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.store.keylime_agents(after, PAGE).await?;
            for agent in page.agents.into_iter().flatten() {
                let id = agent.id.as_str().to_owned();
                let seen = self.fleet.seen(agent.id.clone()).await?;
                if let Some(shown) = self.told(agent, seen).await? {
                    all.insert(id, shown);
                }
            }
            after = page.end;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    async fn shown(&self, id: &AgentId) -> Result<Option<Shown>, ApiError> {
        let kept = self.store.keylime_agent(id);
        match tokio::join!(kept, self.fleet.seen(id.clone())) {
            (Ok(Some(agent)), seen) => self.told(agent, seen?).await,
            (kept, _) => Ok(kept.map(|_| None)?),
        }
    }

    async fn told(
        &self,
        agent: StoredKeylimeAgent,
        seen: Option<Seen>,
    ) -> Result<Option<Shown>, ApiError> {
        let record = match &seen {
            Some(seen) => Arc::clone(&seen.record),
            // One that is not served.
            None => match self.found(&agent.id).await? {
                Some(stored) => Arc::new(stored.record),
                None => return Ok(None),
            },
        };
        Ok(Some(Shown::of(self, &record, agent, seen.as_ref())))
    }

    /// Has an agent polled that has an address.
    pub(super) async fn poll(&self, id: &AgentId) -> Result<(), NotPolled> {
        match &self.polls {
            Some(polls) => polls.put(id.clone()).await,
            None => Ok(()),
        }
    }

    /// Has agents polled again that failed so gravely that they were stopped, and whose failure a
    /// change of this policy may end.
    pub(super) async fn resume(&self, kind: KeylimeKind, policy: &str) -> Result<(), ApiError> {
        let mut after = String::new();
        loop {
            let store = &self.store;
            let page = store.keylime_agents_halted_under(kind, policy, &after, PAGE);
            let page = page.await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for id in page.iter().filter_map(|id| AgentId::parse(id).ok()) {
                let seen = self.fleet.seen(id.clone()).await?;
                let failure = seen.and_then(|seen| seen.state.failure);
                let may_end = failure.is_none_or(|failure| is_of_policy(failure.code));
                if !may_end || !store.resume_keylime_agent(&id, unix_ms()).await? {
                    continue;
                }
                if let Err(error) = self.poll(&id).await {
                    tracing::error!(agent = %id, %error, "an agent is not polled again");
                }
            }
        }
    }

    /// Takes back what was just added.
    pub(super) async fn forget(&self, id: &AgentId, actor: &str) {
        let forgotten = async {
            self.fleet.remove(id.clone()).await.ok()?;
            let kept = OnRemoval::KeepFailure;
            self.store
                .remove_agent(id, kept, actor, unix_ms())
                .await
                .ok()
        };
        if forgotten.await.is_none() {
            tracing::error!(agent = %id, "an agent that cannot be polled stays until it is removed");
        }
    }

    /// Has the shards serve an agent as the store has it; later, when they do not answer now.
    pub(super) async fn serve(&self, id: &AgentId) {
        let served = async {
            self.fleet.keylime_changed(id.clone()).await.ok()?;
            let stored = self.store.enrolled_agent(id).await.ok()??;
            self.fleet.enrolled(stored).await.ok()
        };
        if served.await.is_none() {
            tracing::error!(agent = %id, "an agent is not served before the next start");
        }
    }
}
