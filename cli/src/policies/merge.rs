//! `rat policies merge`: one policy of several.

use anyhow::Result;
use rat_engine::policy::PolicyDraft;

use super::{malformed, write};
use crate::Outcome;
use crate::arguments::MergeArguments;
use crate::input;
use crate::output::Terminal;

/// Reads all of them before anything is written.
pub(super) fn run(options: &MergeArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let mut merged = PolicyDraft::new();
    for path in &options.files {
        let fault = |error| malformed("FILE", path, &error);
        let text = input::read("FILE", path, "POLICY_BYTES_MAX")?;
        let draft = PolicyDraft::read(&text).map_err(fault)?;
        merged.merge(&draft).map_err(fault)?;
    }
    write::out(options.out.as_deref(), &write::text(&merged)?, terminal)?;
    write::say(&merged)?;
    Ok(Outcome::Passed)
}
