//! `rat agents approve`: what waits under an id is shown, and what was shown is approved.
//!
//! An id is whatever a machine calls itself, so that "whoever waits under it" may be an attacker's.
//! The request names the machine, and the key, that this run has shown. (N12)

use std::io::{self, Write};

use anyhow::Result;
use rat_engine::agent_id::AgentId;
use serde_json::{Value, json};

use super::agents::address;
use super::{pages, prompt, show};
use crate::Outcome;
use crate::arguments::{Approve, Fingerprint};
use crate::client::{Address, Client, ClientError};
use crate::output::{Item, Record, Terminal};

/// What waits for an approval.
struct Candidate {
    what: &'static str,
    shown: Record,
    /// What approves this, and nothing else.
    request: Value,
}

/// Shows what waits, and approves it.
pub(super) fn run(options: &Approve, terminal: &mut Terminal) -> Result<Outcome> {
    let client = options.remote.client()?;
    let wanted = options.ek_sha256.map(Fingerprint::to_hex);
    let candidate = match key(&client, &options.agent, wanted.as_deref())? {
        Some(key) => key,
        None => machine(&client, &options.agent, wanted.as_deref())?,
    };
    let (what, shown) = (candidate.what, &candidate.shown);
    write!(io::stderr(), "This {what} waits:\n{shown}")?;
    if wanted.is_none() && !options.yes {
        prompt::confirm(
            &format!("Approve this {what}?"),
            "give --ek-sha256 or --yes",
        )?;
    }
    let at = address(&options.agent)?.child("approve")?;
    let approved: Item = client.post(&at, &candidate.request)?.read()?;
    show(terminal, options.remote.output, &approved)
}

/// The attestation key that an enrolled agent changed to.
fn key(
    client: &Client,
    agent: &str,
    wanted: Option<&str>,
) -> Result<Option<Candidate>, ClientError> {
    let enrolled: Item = match client.get(&address(agent)?) {
        Ok(answer) => answer.read()?,
        Err(error) if error.status() == Some(404) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (Some(ek), Some(ak)) = (
        enrolled.text("ek_sha256"),
        enrolled.text("ak_proposed_sha256"),
    ) else {
        return Ok(None);
    };
    if wanted.is_some_and(|wanted| wanted != ek) {
        return Ok(None);
    }
    let members = [
        "id",
        "hostname",
        "ip_address",
        "policy_group_id",
        "ek_sha256",
        "registered_at",
        "ak_epoch",
        "ak_proposed_sha256",
    ];
    let mut shown = Record::new();
    for member in members {
        shown.push(member, enrolled.get(member).cloned());
    }
    let request = json!({ "ek_sha256": ek, "ak_proposed_sha256": ak });
    Ok(Some(Candidate {
        what: "attestation key",
        shown,
        request,
    }))
}

/// The one machine that wants to enrol under this id.
fn machine(client: &Client, agent: &str, wanted: Option<&str>) -> Result<Candidate, ClientError> {
    // The server writes UUIDs in lower case.
    let id = AgentId::parse(agent).map_or_else(|_| agent.to_owned(), |id| id.to_string());
    let mut waiting: Vec<Record> = pages(client, Address::new("/agents/pending"), None)?;
    waiting.retain(|machine| {
        let is = |member: &str, text: &str| machine.get(member) == Some(&Item::from(text));
        is("agent_id", &id) && wanted.is_none_or(|wanted| is("ek_sha256", wanted))
    });
    let refused = |detail: &str, code: &str| ClientError::Refused {
        status: 409,
        detail: detail.to_owned(),
        code: Some(code.to_owned()),
    };
    let shown = match <[Record; 1]>::try_from(waiting) {
        Ok([shown]) => shown,
        Err(none) if none.is_empty() => {
            let detail = match wanted {
                Some(_) => "nothing waits for an approval under this agent id, of this machine",
                None => "nothing waits for an approval under this agent id",
            };
            return Err(refused(detail, "agent.nothing_waits"));
        }
        Err(several) => {
            for machine in several {
                // Nobody reads it where this fails.
                let _ = writeln!(io::stderr(), "{machine}");
            }
            let detail = match wanted {
                Some(_) => {
                    "this machine waits in several groups: let it into one with \
                     `rat ek add GROUP HEX`"
                }
                None => "several machines ask for this agent id: name one with --ek-sha256",
            };
            return Err(refused(detail, "agent.several_wait"));
        }
    };
    let request = json!({ "ek_sha256": shown.get("ek_sha256").unwrap_or(&Item::Absent) });
    Ok(Candidate {
        what: "machine",
        shown,
        request,
    })
}
