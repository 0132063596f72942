//! `rat policies convert`: a policy of a list that an older tool made.

use anyhow::Result;
use rat_engine::policy::PolicyDraft;
use rat_engine::policy::sources::allowlist::read_allowlist;

use super::write;
use crate::Outcome;
use crate::arguments::ConvertArguments;
use crate::input::{self, InputError};
use crate::output::Terminal;

/// Reads the list and what goes with it, and writes the policy.
pub(super) fn run(options: &ConvertArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let path = &options.file;
    let text = input::read("FILE", path, "ALLOWLIST_BYTES_MAX")?;
    let mut draft = PolicyDraft::new();
    read_allowlist(&text, &mut draft).map_err(|error| InputError::new("FILE", path, &error))?;
    for path in &options.exclude_list {
        write::add_exclude_list(&mut draft, path)?;
    }
    for path in &options.verification_key {
        write::add_key(&mut draft, path)?;
    }
    write::out(options.out.as_deref(), &write::text(&draft)?, terminal)?;
    write::say(&draft)?;
    Ok(Outcome::Passed)
}
