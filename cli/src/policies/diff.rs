//! `rat policies diff --files`: two policies compared without a server.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use rat_engine::policy::{PathDigests, compare};

use super::malformed;
use crate::Outcome;
use crate::input::{self, InputError};
use crate::output::{Format, Item, Record, Terminal, printable};
use crate::remote::policies::write_changes;

/// As many items of a kind as the server names.
const ITEMS_MAX: usize = 1000;

/// Shows what the file `new` has that `old` has not, in the form in which the server says it.
pub(super) fn run(
    old: &Path,
    new: &Path,
    format: Format,
    terminal: &mut Terminal,
) -> Result<Outcome> {
    let read = |option, path: &Path| -> Result<Vec<u8>, InputError> {
        let text = input::read(option, path, "POLICY_BYTES_MAX")?;
        super::read(option, path, None)?;
        Ok(text)
    };
    let texts = (read("OLD", old)?, read("NEW", new)?);
    let difference =
        compare(&texts.0, &texts.1, ITEMS_MAX).map_err(|error| malformed("NEW", new, &error))?;
    let changed = difference.changed.items.into_iter();
    let changed = changed.map(|changed| {
        Record::new()
            .with("path", changed.path)
            .with("digests_added", changed.digests_added)
            .with("digests_removed", changed.digests_removed)
    });
    let record = Record::new()
        .with("from", old.to_string_lossy().into_owned())
        .with("to", new.to_string_lossy().into_owned())
        .with("added_paths", paths(difference.added.items))
        .with("added_paths_count", difference.added.count)
        .with("removed_paths", paths(difference.removed.items))
        .with("removed_paths_count", difference.removed.count)
        .with("changed", changed.collect::<Vec<_>>())
        .with("changed_count", difference.changed.count)
        .with("excludes_added", difference.excludes_added)
        .with("excludes_removed", difference.excludes_removed)
        .with("other_members", difference.other_members);
    match format {
        Format::Table => {
            for (sign, path) in [("---", old), ("+++", new)] {
                writeln!(terminal, "{sign} {}", printable(&path.to_string_lossy()))?;
            }
            write_changes(&Item::from(record), terminal)?;
        }
        format => terminal.document(format, &record)?,
    }
    Ok(Outcome::Passed)
}

fn paths(items: Vec<PathDigests>) -> Vec<Record> {
    let items = items.into_iter();
    let item = |item: PathDigests| {
        Record::new()
            .with("path", item.path)
            .with("digests", item.digests)
    };
    items.map(item).collect()
}
