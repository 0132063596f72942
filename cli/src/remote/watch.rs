//! `rat agents watch`: statuses as they change.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use tokio::time::Instant;

use super::agents::{address, filtered};
use super::pages;
use crate::Outcome;
use crate::arguments::{Filter, Watch};
use crate::client::{Client, ClientError};
use crate::output::{Format, Record, Terminal, printable, status_look};

/// How an agent stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Standing {
    id: String,
    status: String,
    effective_status: String,
}

/// Looks at agents again and again: at all of them, because trust ends by time, too, which no filter
/// of the server finds.
pub(super) fn run(options: &Watch, terminal: &mut Terminal) -> Result<Outcome> {
    let client = options.remote.client()?;
    let end = options.timeout.map(Duration::from_secs);
    let end = end.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut known: BTreeMap<String, Standing> = BTreeMap::new();
    let mut is_cut_off = false;
    loop {
        let begun = Instant::now();
        match look(&client, options) {
            Ok(found) => {
                is_cut_off = false;
                let found: BTreeMap<_, _> = found
                    .into_iter()
                    .map(|standing| (standing.id.clone(), standing))
                    .collect();
                tell(terminal, options.remote.output, &known, &found)?;
                known = found;
                if options
                    .until
                    .as_deref()
                    .is_some_and(|until| all(&known, until))
                {
                    return Ok(Outcome::Passed);
                }
            }
            // A server that restarts comes back.
            Err(error) if error.is_passing() => {
                if !is_cut_off {
                    let said = printable(&error.to_string());
                    writeln!(io::stderr(), "rat: {said}; still watching")?;
                }
                is_cut_off = true;
            }
            Err(error) => return Err(error.into()),
        }
        terminal.flush()?;
        if terminal.is_closed() {
            return Ok(Outcome::Passed);
        }
        // A large fleet is not asked for more than half of the time.
        let pause = Duration::from_secs(options.interval).max(begun.elapsed());
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        match left {
            Some(left) if left.is_zero() => {
                let unfulfilled = options.until.is_some();
                return Ok(if unfulfilled {
                    Outcome::Failed
                } else {
                    Outcome::Passed
                });
            }
            Some(left) => sleep(pause.min(left)),
            None => sleep(pause),
        }
    }
}

fn look(client: &Client, options: &Watch) -> Result<Vec<Standing>, ClientError> {
    if let Some(agent) = &options.agent {
        let standing = client.get(&address(agent)?)?.read()?;
        return Ok(vec![standing]);
    }
    let filter = Filter {
        group: options.group.clone(),
        status: None,
        hostname: None,
        since: None,
    };
    pages(client, filtered(&filter), None)
}

fn all(known: &BTreeMap<String, Standing>, status: &str) -> bool {
    let has =
        |standing: &Standing| standing.status == status || standing.effective_status == status;
    !known.is_empty() && known.values().all(has)
}

/// Says what is not as it was.
fn tell(
    terminal: &mut Terminal,
    format: Format,
    known: &BTreeMap<String, Standing>,
    found: &BTreeMap<String, Standing>,
) -> io::Result<()> {
    for (id, now) in found {
        let before = known.get(id);
        if before != Some(now) {
            let before = before.map(|before| before.effective_status.as_str());
            line(terminal, format, id, before, Some(&now.effective_status))?;
        }
    }
    for (id, before) in known {
        if !found.contains_key(id) {
            line(terminal, format, id, Some(&before.effective_status), None)?;
        }
    }
    Ok(())
}

fn line(
    terminal: &mut Terminal,
    format: Format,
    id: &str,
    before: Option<&str>,
    now: Option<&str>,
) -> io::Result<()> {
    if format != Format::Table {
        let change = Record::new()
            .with("id", id)
            .with("before", before)
            .with("effective_status", now);
        return terminal.document_of_many(format, &change);
    }
    let word = |terminal: &Terminal, word: &str| match status_look(word) {
        Some(look) => terminal.styled(look, &printable(word)),
        None => printable(word),
    };
    let now = word(terminal, now.unwrap_or("gone"));
    let before = before.map(|before| format!("{} -> ", word(terminal, before)));
    let id = printable(id);
    writeln!(terminal, "{id}  {}{now}", before.unwrap_or_default())
}
