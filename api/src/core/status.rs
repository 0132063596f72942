//! The fleet in numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use rat_engine::shard::{EffectiveStatus, StatusCounts};

use super::agents::status_of;
use super::fleet::FleetUnavailable;
use super::request::{Answered, Parameters, Reply};
use super::wire::agent::Status;
use super::wire::status as wire;
use super::{Core, State};

/// What the shards counted, if they did.
pub(super) type Counted = Result<Arc<StatusCounts>, FleetUnavailable>;

/// Counts agents by status, in all and by group.
///
/// Groups without agents are not listed. Agents that change while they are counted are counted as
/// they were, or as they are then.
#[utoipa::path(
    get, path = "/status", tag = "agents",
    responses((status = 200, body = wire::FleetStatus)),
)]
pub(super) async fn show(state: State, parameters: Parameters) -> Answered<wire::FleetStatus> {
    parameters.only(&[])?;
    let counts = counts(&state.0).await?;
    let mut all: BTreeMap<EffectiveStatus, u64> = BTreeMap::new();
    let mut groups = Vec::new();
    for (group, statuses) in counts.groups() {
        for (status, agents) in statuses {
            let count = all.entry(*status).or_default();
            *count = count.saturating_add(*agents);
        }
        groups.push(wire::GroupStatus {
            policy_group_id: group.to_owned(),
            standing: standing(statuses),
        });
    }
    let standing = standing(&all);
    Ok(Reply::ok(wire::FleetStatus { standing, groups }))
}

async fn counts(core: &Core) -> Counted {
    let fleet = Arc::clone(&core.fleet);
    let counting = async move { fleet.status_counts().await.map(Arc::new) };
    let counted = core.in_memory.counts.or_count(|_| true, counting).await;
    counted.unwrap_or(Err(FleetUnavailable))
}

fn standing(statuses: &BTreeMap<EffectiveStatus, u64>) -> wire::Standing {
    let mut standing = wire::Standing::default();
    for (effective, agents) in statuses {
        let (by_status, by_effective) =
            (&mut standing.by_status, &mut standing.by_effective_status);
        let of_status = match status_of(*effective) {
            Status::Pending => &mut by_status.pending,
            Status::Active => &mut by_status.active,
            Status::Failed => &mut by_status.failed,
            Status::Stale => &mut by_status.stale,
        };
        let of_effective = match effective {
            EffectiveStatus::Trusted => &mut by_effective.trusted,
            EffectiveStatus::TrustedUnenforced => &mut by_effective.trusted_unenforced,
            EffectiveStatus::Authentic => &mut by_effective.authentic,
            EffectiveStatus::Pending => &mut by_effective.pending,
            EffectiveStatus::Unverified => &mut by_effective.unverified,
            EffectiveStatus::Overdue => &mut by_effective.overdue,
            EffectiveStatus::Untrusted => &mut by_effective.untrusted,
            EffectiveStatus::Blocked => &mut by_effective.blocked,
        };
        for count in [&mut standing.agents, of_status, of_effective] {
            *count = count.saturating_add(*agents);
        }
    }
    standing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_is_counted_once_by_each_of_its_statuses() {
        let mut counts = StatusCounts::default();
        for (nth, status) in EffectiveStatus::ALL.into_iter().enumerate() {
            for _ in 0..=nth {
                counts.add("web", status);
            }
        }
        let (_, statuses) = counts.groups().next().unwrap();
        let shown = serde_json::to_value(standing(statuses)).unwrap();
        assert_eq!(shown["agents"], 36);
        for (count, status) in (1..).zip(EffectiveStatus::ALL) {
            assert_eq!(shown["by_effective_status"][status.as_str()], count);
        }
        let mut by_status = BTreeMap::new();
        for (count, status) in (1_u64..).zip(EffectiveStatus::ALL) {
            *by_status.entry(status_of(status).as_str()).or_insert(0) += count;
        }
        for (status, count) in by_status {
            assert_eq!(shown["by_status"][status], count);
        }
    }
}
