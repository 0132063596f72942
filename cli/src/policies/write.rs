//! Where a policy that was made goes.

use std::io::{self, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use rat_engine::policy::{Listing, PolicyDraft};

use crate::input::{self, InputError};
use crate::output::Terminal;

/// Adds the patterns of an exclude list.
pub(super) fn add_exclude_list(draft: &mut PolicyDraft, path: &Path) -> Result<(), InputError> {
    const OPTION: &str = "--exclude-list";
    let text = input::read(OPTION, path, "ALLOWLIST_BYTES_MAX")?;
    let patterns = rat_engine::policy::sources::allowlist::read_exclude_list(&text)
        .map_err(|error| InputError::new(OPTION, path, &error))?;
    for pattern in patterns {
        draft.exclude(pattern);
    }
    Ok(())
}

/// Adds a key that signs files.
pub(super) fn add_key(draft: &mut PolicyDraft, path: &Path) -> Result<(), InputError> {
    const OPTION: &str = "--verification-key";
    let file = input::read(OPTION, path, "KEY_FILE_BYTES_MAX")?;
    let added = draft.add_key(&file);
    added.map_err(|error| InputError::new(OPTION, path, &error))
}

/// The draft as a policy, made now.
pub(super) fn text(draft: &PolicyDraft) -> Result<String> {
    let now = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    Ok(format!("{}\n", draft.write(&timestamp(now))?))
}

/// Writes a text into the file that `--out` names, or to standard output.
pub(super) fn out(path: Option<&Path>, text: &str, terminal: &mut Terminal) -> Result<()> {
    match path {
        Some(path) => std::fs::write(path, text)
            .map_err(|error| InputError::new("--out", path, &error).into()),
        None => Ok(terminal.write_all(text.as_bytes())?),
    }
}

/// Says on stderr what a policy holds.
pub(super) fn say(draft: &PolicyDraft) -> io::Result<()> {
    writeln!(
        io::stderr(),
        "rat: {} file digests, {} keys, {} buffers, {} excludes, {} verification keys",
        draft.count(Listing::Digests),
        draft.count(Listing::Keyrings),
        draft.count(Listing::Buffers),
        draft.excludes().len(),
        draft.key_count(),
    )
}

/// `2026-01-31 23:59:59Z`, of seconds since 1970.
fn timestamp(seconds: u64) -> String {
    let part = |unit: u64, size: u64| {
        let units = seconds.checked_div(unit).unwrap_or(0);
        units.checked_rem(size).unwrap_or(0)
    };
    let mut days = seconds.checked_div(86_400).unwrap_or(0);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    // A loop over years and months: a policy is made once, and its author may read this.
    let mut year = 1970;
    while let Some(rest) = days.checked_sub(if is_leap(year) { 366 } else { 365 }) {
        days = rest;
        year = year.saturating_add(1);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1_u64;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        let Some(rest) = days.checked_sub(length) else {
            break;
        };
        days = rest;
        month = month.saturating_add(1);
    }
    let day = days.saturating_add(1);
    let (hour, minute, second) = (part(3600, 24), part(60, 60), part(1, 60));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_709_251_199, "2024-02-29 23:59:59Z"),
            (1_735_689_599, "2024-12-31 23:59:59Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }
}
