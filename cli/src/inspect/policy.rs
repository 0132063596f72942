//! A runtime policy in numbers.

use std::path::Path;

use rat_engine::policy::lint;

use crate::input::InputError;
use crate::output::Record;
use crate::policies;

use super::FILE;

/// Reads a policy, and counts what it holds.
pub(super) fn read(path: &Path) -> Result<Record, InputError> {
    let runtime = policies::read(FILE, path, None)?;
    let compiled = runtime.compiled();
    let digests: usize = compiled.paths().map(|(_, digests)| digests.count()).sum();
    let patterns = compiled.excludes().iter();
    let patterns: Vec<String> = patterns
        .map(|pattern| pattern.source().to_owned())
        .collect();
    let references = compiled.reference_boot_aggregates().iter();
    let references: Vec<String> = references.map(ToString::to_string).collect();
    let meta = runtime.meta();
    Ok(Record::new()
        .with("digest", compiled.digest().to_string())
        .with("version", meta.version)
        .with("generator", meta.generator)
        .with("timestamp", meta.timestamp.clone())
        .with("release", runtime.release())
        .with("empty", runtime.is_empty())
        .with("paths", compiled.path_count())
        .with("digests", digests)
        .with("excludes", patterns)
        .with("ignored_keyrings", compiled.ignored_keyrings().to_vec())
        .with("verification_keys", compiled.verification_keys().len())
        .with("boot_aggregates", references)
        .with("log_hash_alg", compiled.log_hash_alg().name())
        .with("lint", policies::lint_summary(&lint(&runtime))))
}
