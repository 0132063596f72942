//! `rat evidence`: why an agent is trusted or not, then what is known of it.

use std::io::{self, Write};

use anyhow::Result;

use super::agents::address;
use crate::Outcome;
use crate::arguments::RemoteArguments;
use crate::output::{Format, Item, Look, Record, Terminal, printable, status_look};

/// Shows an agent's evidence; fails unless it is trusted, by what `rat verify` calls so.
pub(crate) fn run(
    agent: &str,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let at = address(agent)?.child("evidence")?;
    let evidence: Item = remote.client()?.get(&at)?.read()?;
    match remote.output {
        Format::Table => {
            write_why(&evidence, terminal)?;
            for (heading, member) in [
                ("Agent", "agent"),
                ("Attestation", "attestation"),
                ("Policy", "policy"),
            ] {
                write_block(heading, evidence.get(member), terminal)?;
            }
        }
        format => terminal.document(format, &evidence)?,
    }
    let agent = evidence.get("agent").unwrap_or(&Item::Absent);
    // A status that we do not know is no trust.
    Ok(match agent.text("effective_status") {
        Some("trusted" | "authentic") => Outcome::Passed,
        _ => Outcome::Failed,
    })
}

/// What an operator wants to know first: the status, what caused it, and what to do.
fn write_why(evidence: &Item, terminal: &mut Terminal) -> io::Result<()> {
    let agent = evidence.get("agent").unwrap_or(&Item::Absent);
    let status = agent.text("effective_status").unwrap_or("unverified");
    let status = match status_look(status) {
        Some(look) => terminal.styled(look, &printable(status)),
        None => printable(status),
    };
    let offence = evidence.get("first_offence").unwrap_or(&Item::Absent);
    match offence.text("code") {
        Some(code) => writeln!(terminal, "{status}: {}", printable(code))?,
        None => writeln!(terminal, "{status}")?,
    }
    let mut why = Record::new();
    let mut tell = |label: &str, item: Option<&Item>| {
        if let Some(item) = item.filter(|item| **item != Item::Absent) {
            why.push(label, item.clone());
        }
    };
    for (label, member) in [
        ("what", "detail"),
        ("entry", "entry"),
        ("path", "path"),
        ("digest", "digest"),
        ("since", "at"),
    ] {
        tell(label, offence.get(member));
    }
    tell("warning", evidence.get("warning"));
    tell("what_to_do", evidence.get("what_to_do"));
    let attestation = evidence.get("attestation");
    tell(
        "trusted_until",
        attestation.and_then(|attestation| attestation.get("trusted_until")),
    );
    write!(terminal, "{why}")
}

fn write_block(heading: &str, block: Option<&Item>, terminal: &mut Terminal) -> io::Result<()> {
    let heading = terminal.styled(Look::Bold, heading);
    writeln!(terminal, "\n{heading}")?;
    match block {
        // The failure stands above.
        Some(Item::Record(block)) => write!(terminal, "{}", block.clone().without("failure")),
        _ => writeln!(terminal, "(none)"),
    }
}
