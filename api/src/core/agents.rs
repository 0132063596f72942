//! R1: every enrolled agent, in pages, and one of them.

use axum::http::Uri;
use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentPath, EffectiveStatus, Glance};
use rat_store::{AgentFilter, Registration, StoredRecord, Unreadable, key_sha256};

use super::fleet::Seen;
use super::request::{AgentInPath, Answered, Parameters, Reply, next_page, policy_id, wrong};
use super::wire::agent as wire;
use super::wire::agent::Status;
use super::{Core, State};
use crate::clock::{from_rfc3339, rfc3339};
use crate::error::ApiError;
use crate::limits::{AGENTS_SCANNED_MAX, HOSTNAME_CHARACTERS_MAX, PAGE_ITEMS_MAX};

/// Lists agents by id.
///
/// A page ends at its limit, or where a filter has left out so many agents that the request has
/// looked at enough of them; as long as `Link` names a next page there may be more.
#[utoipa::path(
    get, path = "/agents/", tag = "agents",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("after" = Option<String>, Query, description = "Agents after this id."),
        ("group" = Option<String>, Query, description = "Agents of this policy group."),
        ("status" = Option<String>, Query, description = "Agents of this status or effective status."),
        ("hostname" = Option<String>, Query, description = "Agents with this host name, in any case."),
        ("since" = Option<String>, Query, format = DateTime, description = "Agents that registered or attested at this time or later."),
    ),
    responses((status = 200, body = Vec<wire::Agent>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn list(
    state: State,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::Agent>> {
    parameters.only(&["limit", "after", "group", "status", "hostname", "since"])?;
    let wanted = Wanted::read(&parameters)?;
    let limit = usize::try_from(parameters.limit()?).unwrap_or(PAGE_ITEMS_MAX);
    let found = page(
        &state.0,
        &wanted,
        parameters.text("after").unwrap_or(""),
        limit,
    )
    .await?;
    let next = found
        .last
        .map(|last| next_page(uri.path(), &parameters, &last));
    Ok(Reply::ok(found.items).with_next(next))
}

/// Shows one agent.
#[utoipa::path(
    get, path = "/agents/{agent_id}", tag = "agents",
    params(("agent_id" = String, Path)),
    responses((status = 200, body = wire::AgentDetail)),
)]
pub(super) async fn show(
    state: State,
    AgentInPath(id): AgentInPath,
) -> Answered<wire::AgentDetail> {
    detail(&state.0, &id).await.map(Reply::ok)
}

/// What is known of one agent, but for its evidence.
pub(super) async fn detail(core: &Core, id: &AgentId) -> Result<wire::AgentDetail, ApiError> {
    let stored = core.store.agent(id).await?;
    let stored = stored.ok_or(ApiError::NotFound("agent"))?;
    let seen = core.fleet.seen(id.clone()).await.unwrap_or_default();
    let record = &stored.record;
    let baseline = match &record.baseline {
        Some(baseline) => {
            let version = core.store.policy_of_digest(&record.group, &baseline.policy);
            version.await?
        }
        None => None,
    };
    let proposed = core.store.proposed_ak(id).await?;
    Ok(wire::AgentDetail {
        agent: item(&stored, seen.as_ref().map(Seen::glance)),
        ak_epoch: record.ak_epoch,
        ak_proposed: proposed.is_some(),
        ak_proposed_sha256: proposed.map(|proposed| hex::encode(key_sha256(&proposed.ak_public))),
        ek_sha256: hex::encode(record.ek_sha256),
        client_key_sha256: hex::encode(record.client_key_sha256),
        relay_key_sha256: record.relay_key_sha256.map(hex::encode),
        path: match record.path {
            AgentPath::Native => wire::Path::Native,
            AgentPath::KeylimePull => wire::Path::KeylimePull,
            AgentPath::KeylimePush => wire::Path::KeylimePush,
        },
        mode: core.mode.as_str(),
        baseline_policy_id: baseline.map(|policy| policy_id(&policy.group, policy.version)),
    })
}

/// Which agents a list is to show.
#[derive(Debug)]
struct Wanted<'a> {
    filter: AgentFilter<'a>,
    status: Option<&'a str>,
    since_unix_ms: u64,
}

impl<'a> Wanted<'a> {
    fn read(parameters: &'a Parameters) -> Result<Self, ApiError> {
        let status = parameters.text("status");
        let is_status = |text: &str| {
            Status::ALL.iter().any(|status| status.as_str() == text)
                || EffectiveStatus::ALL
                    .iter()
                    .any(|status| status.as_str() == text)
        };
        if status.is_some_and(|status| !is_status(status)) {
            return Err(wrong("status", "is no status".to_owned()));
        }
        let hostname = parameters.text("hostname");
        if hostname.is_some_and(|name| name.len() > HOSTNAME_CHARACTERS_MAX) {
            return Err(wrong("hostname", "is longer than a host name".to_owned()));
        }
        let since_unix_ms = match parameters.text("since") {
            None => 0,
            Some(text) => from_rfc3339(text).ok_or_else(|| {
                let example = "must be a time such as 2026-01-31T23:59:59Z";
                wrong("since", example.to_owned())
            })?,
        };
        Ok(Self {
            filter: AgentFilter {
                group: parameters.text("group"),
                hostname,
            },
            status,
            since_unix_ms,
        })
    }

    fn takes(&self, agent: &wire::Agent, registered_unix_ms: u64, glance: Option<Glance>) -> bool {
        let status = self.status.is_none_or(|status| {
            agent.identity.status.as_str() == status || agent.effective_status == status
        });
        let checked_in = glance.map_or(0, |glance| glance.challenged_unix_ms);
        status && registered_unix_ms.max(checked_in) >= self.since_unix_ms
    }
}

struct Page {
    items: Vec<wire::Agent>,
    /// The last id that was looked at, when there may be more.
    last: Option<String>,
}

async fn page(
    core: &Core,
    wanted: &Wanted<'_>,
    after: &str,
    limit: usize,
) -> Result<Page, ApiError> {
    let mut found = Page {
        items: Vec::new(),
        last: Some(after.to_owned()),
    };
    let mut scanned: usize = 0;
    while found.items.len() < limit && scanned < AGENTS_SCANNED_MAX {
        let missing = limit.saturating_sub(found.items.len());
        let most = if wanted.status.is_none() && wanted.since_unix_ms == 0 {
            missing
        } else {
            PAGE_ITEMS_MAX
        };
        let from = found.last.clone().unwrap_or_default();
        let max = u32::try_from(most).unwrap_or(u32::MAX);
        let rows = core.store.agents_of(wanted.filter, &from, max).await?;
        scanned = scanned.saturating_add(rows.len());
        let is_last = rows.len() < most;
        let ids = rows.iter().flatten().map(|row| row.record.id.clone());
        let glances = core.fleet.glances(ids.collect()).await?;
        let mut glances = glances.into_iter();
        for row in &rows {
            if found.items.len() >= limit {
                return Ok(found);
            }
            let (id, item, is_taken) = match row {
                Ok(stored) => {
                    let glance = glances.next().flatten();
                    let item = item(stored, glance);
                    let registered = stored.registration.registered_unix_ms;
                    let is_taken = wanted.takes(&item, registered, glance);
                    (stored.record.id.as_str(), item, is_taken)
                }
                Err(unreadable) => {
                    let item = unreadable_item(unreadable);
                    let is_taken = wanted.takes(&item, u64::MAX, None);
                    (unreadable.agent.as_str(), item, is_taken)
                }
            };
            found.last = Some(id.to_owned());
            if is_taken {
                found.items.push(item);
            }
        }
        if is_last {
            found.last = None;
            return Ok(found);
        }
    }
    Ok(found)
}

/// An item of R1.
pub(super) fn item(stored: &StoredRecord, glance: Option<Glance>) -> wire::Agent {
    let shown = Shown::of(glance);
    wire::Agent {
        identity: identity(stored, glance),
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
            status: Status::Stale,
            registered_at: None,
            last_checkin: None,
        },
        policy_group_id: None,
        effective_status: EffectiveStatus::Unverified.as_str(),
        warning: Some("the stored record cannot be read"),
    }
}

/// What R1 and R2 say of an agent.
pub(super) fn identity(stored: &StoredRecord, glance: Option<Glance>) -> wire::Identity {
    let Registration {
        hostname,
        ip,
        registered_unix_ms,
    } = &stored.registration;
    wire::Identity {
        id: stored.record.id.as_str().to_owned(),
        hostname: hostname.clone(),
        ip_address: ip.clone(),
        status: Shown::of(glance).status,
        registered_at: rfc3339(*registered_unix_ms),
        last_checkin: glance.and_then(|glance| rfc3339(glance.challenged_unix_ms)),
    }
}

/// An effective status in the words of the Core API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) status: Status,
    pub(super) effective: &'static str,
    pub(super) warning: Option<&'static str>,
}

impl Shown {
    /// An agent that no shard serves is shown as stale: nothing is known of it now. (S14)
    pub(super) fn of(glance: Option<Glance>) -> Self {
        let Some(glance) = glance else {
            return Self {
                status: Status::Stale,
                effective: EffectiveStatus::Unverified.as_str(),
                warning: Some("no shard serves this agent"),
            };
        };
        let lacks_policy = matches!(
            glance.status,
            EffectiveStatus::Authentic | EffectiveStatus::Unverified
        );
        Self {
            status: status_of(glance.status),
            effective: glance.status.as_str(),
            warning: lacks_policy.then_some("policy.missing"),
        }
    }
}

/// The summary of an effective status.
pub(super) const fn status_of(effective: EffectiveStatus) -> Status {
    match effective {
        EffectiveStatus::Trusted
        | EffectiveStatus::TrustedUnenforced
        | EffectiveStatus::Authentic => Status::Active,
        EffectiveStatus::Pending => Status::Pending,
        EffectiveStatus::Unverified | EffectiveStatus::Overdue => Status::Stale,
        EffectiveStatus::Untrusted | EffectiveStatus::Blocked => Status::Failed,
    }
}

#[cfg(test)]
mod tests {
    use rat_engine::shard::{AgentState, LastVerdict, VerdictKind};

    use super::*;

    #[test]
    fn l07_a_list_that_is_judged_again_is_no_check_in() {
        let verdict = |at_unix_ms| LastVerdict {
            kind: VerdictKind::Trusted,
            code: None,
            detail: String::new(),
            policy: None,
            challenged_unix_ms: 5_000,
            at_unix_ms,
            held: None,
        };
        let glance = |state: &AgentState| Glance::new(EffectiveStatus::Trusted, state);
        for at_unix_ms in [5_100, 9_000_000] {
            let state = AgentState {
                verdict: Some(verdict(at_unix_ms)),
                ..AgentState::default()
            };
            assert_eq!(glance(&state).challenged_unix_ms, 5_000);
        }
        assert_eq!(glance(&AgentState::default()).challenged_unix_ms, 0);
    }

    #[test]
    fn only_agents_that_are_genuine_now_are_active() {
        let active = [
            EffectiveStatus::Trusted,
            EffectiveStatus::TrustedUnenforced,
            EffectiveStatus::Authentic,
        ];
        for status in EffectiveStatus::ALL {
            let glance = Glance::new(status, &AgentState::default());
            let shown = Shown::of(Some(glance));
            assert_eq!(
                shown.status == Status::Active,
                active.contains(&status),
                "{status}"
            );
            assert_eq!(shown.effective, status.as_str());
        }
        assert_eq!(Shown::of(None).status, Status::Stale);
    }
}
