//! R1: every enrolled agent.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::channel::{Channel, Sender};
use rat_engine::shard::{AgentState, EffectiveStatus};
use rat_store::{Registration, StoreError, StoredRecord, Unreadable};
use serde::Serialize;
use thiserror::Error;

use super::fleet::{FleetUnavailable, Seen};
use super::{Core, State, wire};
use crate::clock::rfc3339;
use crate::error::json_body;
use crate::limits::PAGE_AGENTS;

/// All agents, as one JSON array, written page by page: a million of them are never in memory at
/// once, here or in the store's transaction.
///
/// A failure in the middle breaks the answer off, so that a client does not take a part for the
/// whole.
pub(super) async fn list(state: State) -> Response {
    let (sender, body) = Channel::<Bytes, ListError>::new(2);
    tokio::spawn(write_all(Arc::clone(&state.0), sender));
    json_body(StatusCode::OK, Body::new(body))
}

#[derive(Debug, Error)]
enum ListError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Fleet(#[from] FleetUnavailable),
    #[error("an agent cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

async fn write_all(core: Arc<Core>, mut sender: Sender<Bytes, ListError>) {
    let mut after = String::new();
    let mut first = true;
    loop {
        let page = match page(&core, &after).await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "the list of agents broke off");
                return sender.abort(error);
            }
        };
        let last = page.last.is_none();
        let mut text = String::with_capacity(page.text.len().saturating_add(2));
        text.push_str(match (first, page.text.is_empty()) {
            (true, _) => "[",
            (false, false) => ",",
            (false, true) => "",
        });
        text.push_str(&page.text);
        if last {
            text.push(']');
        }
        // The client went away, or there is nothing more to send.
        if sender.send_data(Bytes::from(text)).await.is_err() {
            return;
        }
        let Some(id) = page.last else {
            return;
        };
        after = id;
        first = false;
    }
}

struct Page {
    /// Items, with commas between them.
    text: String,
    /// The last id, when there may be more.
    last: Option<String>,
}

async fn page(core: &Core, after: &str) -> Result<Page, ListError> {
    let max = u32::try_from(PAGE_AGENTS).unwrap_or(u32::MAX);
    let rows = core.store.agents(after, max).await?;
    let ids = rows.iter().flatten().map(|row| row.record.id.clone());
    let mut seen = core.fleet.seen(ids.collect()).await?.into_iter();
    let mut text = String::new();
    for row in &rows {
        let item = match row {
            Ok(stored) => item(stored, seen.next().flatten().as_ref()),
            Err(unreadable) => unreadable_item(unreadable),
        };
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&to_json(&item)?);
    }
    let last = rows.last().filter(|_| rows.len() >= PAGE_AGENTS);
    let last = last.map(|row| match row {
        Ok(stored) => stored.record.id.as_str().to_owned(),
        Err(unreadable) => unreadable.agent.clone(),
    });
    Ok(Page { text, last })
}

fn to_json(item: &impl Serialize) -> Result<String, ListError> {
    Ok(serde_json::to_string(item)?)
}

fn item(stored: &StoredRecord, seen: Option<&Seen>) -> wire::Agent {
    let shown = Shown::of(seen);
    wire::Agent {
        identity: identity(stored, seen),
        policy_group_id: Some(stored.record.group.clone()),
        effective_status: shown.effective,
        warning: shown.warning,
    }
}

/// An agent whose row is damaged: it is listed, because it is enrolled, and it is not trusted.
fn unreadable_item(unreadable: &Unreadable) -> wire::Agent {
    wire::Agent {
        identity: wire::Identity {
            id: unreadable.agent.clone(),
            hostname: String::new(),
            ip_address: String::new(),
            status: "stale",
            registered_at: None,
            last_checkin: None,
        },
        policy_group_id: None,
        effective_status: EffectiveStatus::Unverified.as_str(),
        warning: Some("the stored record cannot be read"),
    }
}

/// What R1 and R2 say of an agent.
pub(super) fn identity(stored: &StoredRecord, seen: Option<&Seen>) -> wire::Identity {
    let Registration {
        hostname,
        ip,
        registered_unix_ms,
    } = &stored.registration;
    wire::Identity {
        id: stored.record.id.as_str().to_owned(),
        hostname: hostname.clone(),
        ip_address: ip.clone(),
        status: Shown::of(seen).status,
        registered_at: rfc3339(*registered_unix_ms),
        last_checkin: seen.and_then(|seen| rfc3339(last_checkin(&seen.state))),
    }
}

/// When an attestation was last concluded; 0 for never.
fn last_checkin(state: &AgentState) -> u64 {
    state
        .verdict
        .as_ref()
        .map_or(0, |verdict| verdict.at_unix_ms)
}

/// An effective status in the words of the Core API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) status: &'static str,
    pub(super) effective: &'static str,
    pub(super) warning: Option<&'static str>,
}

impl Shown {
    /// An agent that no shard serves is shown as stale: nothing is known of it now. (S14)
    pub(super) fn of(seen: Option<&Seen>) -> Self {
        let Some(seen) = seen else {
            return Self {
                status: "stale",
                effective: EffectiveStatus::Unverified.as_str(),
                warning: Some("no shard serves this agent"),
            };
        };
        let (status, warning) = match seen.status {
            EffectiveStatus::Trusted | EffectiveStatus::TrustedUnenforced => ("active", None),
            EffectiveStatus::Authentic => ("active", Some("policy.missing")),
            EffectiveStatus::Pending => ("pending", None),
            EffectiveStatus::Unverified => ("stale", Some("policy.missing")),
            EffectiveStatus::Overdue => ("stale", None),
            EffectiveStatus::Untrusted | EffectiveStatus::Blocked => ("failed", None),
        };
        Self {
            status,
            effective: seen.status.as_str(),
            warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agents_that_are_genuine_now_are_active() {
        let active = [
            EffectiveStatus::Trusted,
            EffectiveStatus::TrustedUnenforced,
            EffectiveStatus::Authentic,
        ];
        for status in EffectiveStatus::ALL {
            let seen = Seen {
                status,
                state: AgentState::default(),
            };
            let shown = Shown::of(Some(&seen));
            assert_eq!(
                shown.status == "active",
                active.contains(&status),
                "{status}"
            );
            assert_eq!(shown.effective, status.as_str());
        }
        assert_eq!(Shown::of(None).status, "stale");
    }
}
