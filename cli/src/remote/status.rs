//! `rat status`: the fleet in numbers.

use std::collections::BTreeMap;
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

#[derive(Deserialize)]
struct Agent {
    status: String,
    effective_status: String,
    policy_group_id: Option<String>,
}

#[derive(Deserialize)]
struct Group {
    policy_group_id: String,
    enforced_policy_id: Option<String>,
}

/// Agents of one group.
#[derive(Default)]
struct Counts {
    agents: u64,
    active: u64,
    failed: u64,
}

/// Counts agents by status, and by group.
pub(crate) fn run(remote: &RemoteArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let client = remote.client()?;
    let health: Health = client.get(&Address::new("/health"))?.read()?;
    let agents: Vec<Agent> = pages(&client, Address::new("/agents/"), None)?;
    let groups: Vec<Group> = pages(&client, Address::new("/groups/"), None)?;
    let mut by_status: BTreeMap<&str, u64> = BTreeMap::new();
    let mut by_group: BTreeMap<&str, Counts> = BTreeMap::new();
    for agent in &agents {
        count(by_status.entry(&agent.effective_status).or_default());
        let group = agent.policy_group_id.as_deref().unwrap_or("-");
        let counts = by_group.entry(group).or_default();
        count(&mut counts.agents);
        match agent.status.as_str() {
            "active" => count(&mut counts.active),
            "failed" => count(&mut counts.failed),
            _ => {}
        }
    }
    let mut statuses = Record::new();
    for (status, agents) in by_status {
        statuses.push(status, agents);
    }
    let shown: Vec<Item> = groups
        .iter()
        .map(|group| {
            let slug = group.policy_group_id.as_str();
            let counts = by_group.remove(slug).unwrap_or_default();
            let record = Record::new()
                .with("policy_group_id", slug)
                .with("agents", counts.agents)
                .with("active", counts.active)
                .with("failed", counts.failed)
                .with("enforced_policy_id", group.enforced_policy_id.clone());
            Item::Record(record)
        })
        .collect();
    let summary = Record::new()
        .with("server", client.server())
        .with("status", health.status)
        .with("version", health.version)
        .with("uptime_seconds", health.uptime)
        .with("agents", agents.len())
        .with("by_effective_status", statuses);
    match remote.output {
        Format::Table => {
            write!(terminal, "{summary}")?;
            if !shown.is_empty() {
                let heading = terminal.styled(Look::Bold, "Groups");
                writeln!(terminal, "\n{heading}")?;
                table(terminal, &GROUPS, &shown)?;
            }
        }
        format => terminal.document(format, &summary.with("groups", shown))?,
    }
    Ok(Outcome::Passed)
}

fn count(number: &mut u64) {
    *number = number.saturating_add(1);
}
