//! `rat policies`, as far as the server is asked.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use rat_engine::policy::dsse::is_envelope;
use rat_engine::verdict::Code;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::{list, show};
use crate::Outcome;
use crate::arguments::RemoteArguments;
use crate::client::{Address, AddressError};
use crate::input::{self, InputError};
use crate::output::{Column, Format, Item, Look, Terminal, printable};
use crate::policies;

const COLUMNS: [Column; 7] = [
    Column("ID", "id"),
    Column("NAME", "name"),
    Column("GROUP", "policy_group_id"),
    Column("STATUS", "status"),
    Column("CREATED", "created_at"),
    Column("BY", "created_by"),
    Column("ORIGIN", "origin"),
];

fn address(policy: &str) -> Result<Address, AddressError> {
    Address::new("/policies").child(policy)
}

fn of_group(group: &str, what: &str) -> Result<Address, AddressError> {
    Address::new("/policies/groups").child(group)?.child(what)
}

/// Lists versions.
pub(crate) fn run_list(
    group: Option<&str>,
    limit: Option<usize>,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let versions = Address::new("/policies/").with("group", group);
    list(remote, versions, limit, &COLUMNS, terminal)
}

/// Which version to show.
pub(crate) enum Wanted<'a> {
    /// This one.
    Policy(&'a str),
    /// The one that this group enforces.
    ActiveOf(&'a str),
}

/// How much of it to show.
pub(crate) enum Part<'a> {
    /// What is said about it.
    About,
    /// Its own text.
    Content,
    /// Its own text, into a file.
    ContentInto(&'a Path),
}

/// A version: its text, and what is said about it.
#[derive(Deserialize)]
struct Version {
    content: Box<RawValue>,
    #[serde(flatten)]
    about: Item,
}

/// Shows a version, or writes its text.
pub(crate) fn run_show(
    wanted: &Wanted<'_>,
    part: &Part<'_>,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let at = match wanted {
        Wanted::Policy(policy) => address(policy)?,
        Wanted::ActiveOf(group) => of_group(group, "active-policy")?,
    };
    let version: Version = remote.client()?.get(&at)?.read()?;
    match part {
        Part::About => return show(terminal, remote.output, &version.about),
        Part::Content => terminal.json_text(version.content.get())?,
        Part::ContentInto(path) => std::fs::write(path, version.content.get())
            .map_err(|error| InputError::new("--out", path, &error))?,
    }
    Ok(Outcome::Passed)
}

/// A new version; its text goes over the wire byte for byte, because its digest is its name in
/// verdicts.
#[derive(Serialize)]
struct NewPolicy<'a> {
    policy_group_id: &'a str,
    name: &'a str,
    content: &'a RawValue,
}

/// What becomes a version.
pub(crate) struct New<'a> {
    /// The policy.
    pub(crate) file: &'a Path,
    /// Who must have signed it.
    pub(crate) key: Option<&'a Path>,
    /// Its group.
    pub(crate) group: &'a str,
    /// What people call it.
    pub(crate) name: Option<&'a str>,
}

/// Adds a version. Of a signed policy it is the policy itself that the server gets, after its
/// signature was found to be good here.
pub(crate) fn run_add(
    new: &New<'_>,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let New {
        file, group, name, ..
    } = *new;
    let malformed = |reason: &dyn std::fmt::Display| {
        InputError::new("FILE", file, reason).with_code(Code::PolicyMalformed)
    };
    let limit = new.key.map_or("POLICY_BYTES_MAX", |_| "DSSE_BYTES_MAX");
    let text = input::read("FILE", file, limit)?;
    // The server says best what is wrong with a plain policy.
    let text = match new.key {
        None if !is_envelope(&text) => Cow::Borrowed(text.as_slice()),
        key => policies::read_signed("FILE", file, &text, key.map(|key| ("--key", key)))?.text,
    };
    let content: &RawValue = serde_json::from_slice(&text).map_err(|error| malformed(&error))?;
    let stem = file.file_stem().map(|stem| stem.to_string_lossy());
    let name = name.map_or_else(|| stem.unwrap_or_default(), Into::into);
    let new = NewPolicy {
        policy_group_id: group,
        name: &name,
        content,
    };
    let added = remote
        .client()?
        .post(&Address::new("/policies/"), &new)?
        .read::<Item>()?;
    let Item::Record(record) = &added else {
        return show(terminal, remote.output, &added);
    };
    if remote.output != Format::Table {
        return show(terminal, remote.output, &added);
    }
    let about = record.clone().without("warnings");
    write!(terminal, "{about}")?;
    write_findings(added.list("warnings"), terminal)?;
    if let Some(id) = added.text("id") {
        let id = printable(id);
        writeln!(terminal, "\nto enforce it: rat policies activate {id}")?;
    }
    Ok(Outcome::Passed)
}

fn write_findings(findings: &[Item], terminal: &mut Terminal) -> io::Result<()> {
    for finding in findings {
        let severity = finding.text("severity").unwrap_or("note");
        let look = match severity {
            "danger" => Look::Red,
            "warning" => Look::Yellow,
            _ => Look::Bold,
        };
        let severity = terminal.styled(look, &printable(severity));
        let id = printable(finding.text("id").unwrap_or("-"));
        let text = printable(finding.text("text").unwrap_or("-"));
        writeln!(terminal, "{severity}  {id}: {text}")?;
    }
    Ok(())
}

/// Puts a version into a slot.
pub(crate) fn run_activate(
    policy: &str,
    shadow: bool,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let at = address(policy)?.child("activate")?;
    let body = json!({ "slot": if shadow { "shadow" } else { "enforced" } });
    let activated: Item = remote.client()?.post(&at, &body)?.read()?;
    show(terminal, remote.output, &activated)
}

/// Goes back to the version before.
pub(crate) fn run_rollback(
    group: &str,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let at = of_group(group, "rollback")?;
    let activated: Item = remote.client()?.post(&at, &json!({}))?.read()?;
    show(terminal, remote.output, &activated)
}

/// Compares two versions.
pub(crate) fn run_diff(
    old: &str,
    new: &str,
    remote: &RemoteArguments,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let at = address(new)?.child("diff")?.with("against", Some(old));
    let diff: Item = remote.client()?.get(&at)?.read()?;
    match remote.output {
        Format::Table => write_diff(&diff, terminal)?,
        format => terminal.document(format, &diff)?,
    }
    Ok(Outcome::Passed)
}

fn write_diff(diff: &Item, terminal: &mut Terminal) -> io::Result<()> {
    for (sign, member) in [("---", "from"), ("+++", "to")] {
        let version = diff.get(member).unwrap_or(&Item::Absent);
        let said = |member| printable(version.text(member).unwrap_or("-"));
        let (id, name) = (said("id"), said("name"));
        let (by, at) = (said("created_by"), said("created_at"));
        writeln!(terminal, "{sign} {id}  {name}  by {by} at {at}")?;
    }
    write_changes(diff, terminal)
}

/// The lines below the heading, of any two policies.
pub(crate) fn write_changes(diff: &Item, terminal: &mut Terminal) -> io::Result<()> {
    let digests = |item: &Item, member| joined(item.list(member));
    for (sign, look, member) in [
        ('+', Look::Green, "added_paths"),
        ('-', Look::Red, "removed_paths"),
    ] {
        for item in diff.list(member) {
            let line = format!("{sign} {}  {}", path(item), digests(item, "digests"));
            writeln!(terminal, "{}", terminal.styled(look, &line))?;
        }
        write_rest(diff, member, terminal)?;
    }
    for item in diff.list("changed") {
        let mut line = format!("~ {}", path(item));
        for (sign, member) in [('+', "digests_added"), ('-', "digests_removed")] {
            if !item.list(member).is_empty() {
                line.push_str(&format!("  {sign} {}", digests(item, member)));
            }
        }
        writeln!(terminal, "{}", terminal.styled(Look::Yellow, &line))?;
    }
    write_rest(diff, "changed", terminal)?;
    for (sign, member) in [('+', "excludes_added"), ('-', "excludes_removed")] {
        for pattern in diff.list(member) {
            writeln!(terminal, "{sign} exclude {pattern}")?;
        }
    }
    for member in diff.list("other_members") {
        writeln!(terminal, "~ member {member}")?;
    }
    Ok(())
}

fn path(item: &Item) -> String {
    printable(item.text("path").unwrap_or("-"))
}

fn joined(items: &[Item]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Says how many more there are than the server names.
fn write_rest(diff: &Item, member: &str, terminal: &mut Terminal) -> io::Result<()> {
    let named = u64::try_from(diff.list(member).len()).unwrap_or(u64::MAX);
    let all = diff.number(&format!("{member}_count")).unwrap_or(named);
    match all.saturating_sub(named) {
        0 => Ok(()),
        more => writeln!(terminal, "  and {more} more ({})", member.replace('_', " ")),
    }
}
