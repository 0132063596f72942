//! `rat agents`.

use anyhow::Result;
use serde_json::json;

use super::{approval, list, prompt, show, watch};
use crate::Outcome;
use crate::arguments::{AgentCommand, Filter};
use crate::client::{Address, AddressError};
use crate::output::{Column, Item, Terminal};

const COLUMNS: [Column; 6] = [
    Column("ID", "id"),
    Column("HOSTNAME", "hostname"),
    Column("GROUP", "policy_group_id"),
    Column("STATUS", "status"),
    Column("EFFECTIVE", "effective_status"),
    Column("LAST CHECK-IN", "last_checkin"),
];

const WAITING: [Column; 7] = [
    Column("ID", "agent_id"),
    Column("HOSTNAME", "hostname"),
    Column("IP", "ip_address"),
    Column("GROUP", "policy_group_id"),
    Column("EK SHA-256", "ek_sha256"),
    Column("LAST SEEN", "last_seen"),
    Column("TRIES", "tries"),
];

/// Runs one of the commands on agents.
pub(crate) fn run(command: &AgentCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        AgentCommand::List {
            filter,
            limit,
            remote,
        } => list(remote, filtered(filter), *limit, &COLUMNS, terminal),
        AgentCommand::Show { agent, remote } => {
            let shown: Item = remote.client()?.get(&address(agent)?)?.read()?;
            show(terminal, remote.output, &shown)
        }
        AgentCommand::Watch(options) => watch::run(options, terminal),
        AgentCommand::Pending { remote } => {
            let waiting = Address::new("/agents/pending");
            list(remote, waiting, None, &WAITING, terminal)
        }
        AgentCommand::SyncStatus { agent, remote } => {
            let at = address(agent)?.child("sync-status")?;
            let status: Item = remote.client()?.post_empty(&at)?.read()?;
            show(terminal, remote.output, &status)
        }
        AgentCommand::Approve(options) => approval::run(options, terminal),
        AgentCommand::Clear {
            agent,
            reason,
            remote,
        } => {
            let at = address(agent)?.child("clear")?;
            let body = json!({ "reason": reason });
            let cleared: Item = remote.client()?.post(&at, &body)?.read()?;
            show(terminal, remote.output, &cleared)
        }
        AgentCommand::Remove { agent, yes, remote } => {
            let at = address(agent)?;
            if !yes {
                prompt::confirm(&format!("Remove agent {agent}?"), "give --yes")?;
            }
            let removed: Item = remote.client()?.delete(&at)?.read()?;
            show(terminal, remote.output, &removed)
        }
        AgentCommand::Move {
            agent,
            group,
            remote,
        } => {
            let at = address(agent)?.child("move")?;
            let body = json!({ "policy_group_id": group });
            let moved: Item = remote.client()?.post(&at, &body)?.read()?;
            show(terminal, remote.output, &moved)
        }
        AgentCommand::Relay {
            agent,
            relay,
            direct: _,
            remote,
        } => {
            let at = address(agent)?.child("relay")?;
            // Without a relay it comes directly.
            let body = json!({ "relay": relay });
            let changed: Item = remote.client()?.post(&at, &body)?.read()?;
            show(terminal, remote.output, &changed)
        }
    }
}

/// Where an agent is.
pub(super) fn address(agent: &str) -> Result<Address, AddressError> {
    Address::new("/agents").child(agent)
}

/// Where the agents are that pass a filter.
pub(super) fn filtered(filter: &Filter) -> Address {
    Address::new("/agents/")
        .with("group", filter.group.as_deref())
        .with("status", filter.status.as_deref())
        .with("hostname", filter.hostname.as_deref())
        .with("since", filter.since.as_deref())
}
