//! `rat status`: the fleet in numbers.

use std::io::Write;

use anyhow::Result;
use serde::Deserialize;

use super::pages;
use crate::Outcome;
use crate::arguments::RemoteArguments;
use crate::client::Address;
use crate::output::{Column, Format, Item, Look, Record, Terminal, table};

const GROUPS: [Column; 5] = [
    Column("GROUP", "policy_group_id"),
    Column("AGENTS", "agents"),
    Column("ACTIVE", "active"),
    Column("FAILED", "failed"),
    Column("ENFORCED", "enforced_policy_id"),
];

/// R11.
#[derive(Debug, Deserialize)]
pub(super) struct Health {
    /// `ok`.
    pub(super) status: String,
    /// The server's version.
    pub(super) version: String,
    /// Seconds since it started.
    pub(super) uptime: u64,
}

/// What the server has counted.
#[derive(Deserialize)]
struct Counted {
    agents: u64,
    by_effective_status: Record,
    /// Those that have agents.
    groups: Vec<GroupCounted>,
}

#[derive(Deserialize)]
struct GroupCounted {
    policy_group_id: String,
    agents: u64,
    by_status: ByStatus,
}

#[derive(Deserialize)]
struct ByStatus {
    active: u64,
    failed: u64,
}

#[derive(Deserialize)]
struct Group {
    policy_group_id: String,
    enforced_policy_id: Option<String>,
}

/// Shows how many agents stand how, in all and by group, as the server has counted them.
pub(crate) fn run(remote: &RemoteArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let client = remote.client()?;
    let health: Health = client.get(&Address::new("/health"))?.read()?;
    let counted: Counted = client.get(&Address::new("/status"))?.read()?;
    let groups: Vec<Group> = pages(&client, Address::new("/groups/"), None)?;
    let shown: Vec<Item> = groups
        .iter()
        .map(|group| Item::Record(shown(group, &counted.groups)))
        .collect();
    let summary = |statuses: Record| {
        Record::new()
            .with("server", client.server())
            .with("status", health.status.as_str())
            .with("version", health.version.as_str())
            .with("uptime_seconds", health.uptime)
            .with("agents", counted.agents)
            .with("by_effective_status", statuses)
    };
    match remote.output {
        Format::Table => {
            let mut statuses = Record::new();
            for (status, agents) in counted.by_effective_status.iter() {
                if *agents != Item::Number(0) {
                    statuses.push(status, agents.clone());
                }
            }
            write!(terminal, "{}", summary(statuses))?;
            if !shown.is_empty() {
                let heading = terminal.styled(Look::Bold, "Groups");
                writeln!(terminal, "\n{heading}")?;
                table(terminal, &GROUPS, &shown)?;
            }
        }
        format => {
            let summary = summary(counted.by_effective_status.clone());
            terminal.document(format, &summary.with("groups", shown))?;
        }
    }
    Ok(Outcome::Passed)
}

fn shown(group: &Group, counted: &[GroupCounted]) -> Record {
    let slug = group.policy_group_id.as_str();
    let counted = counted.iter().find(|it| it.policy_group_id == slug);
    let of = |count: fn(&GroupCounted) -> u64| counted.map_or(0, count);
    Record::new()
        .with("policy_group_id", slug)
        .with("agents", of(|group| group.agents))
        .with("active", of(|group| group.by_status.active))
        .with("failed", of(|group| group.by_status.failed))
        .with("enforced_policy_id", group.enforced_policy_id.clone())
}
