//! What the tests of the whole workspace share.

use std::path::{Path, PathBuf};

/// The folder that holds the workspace.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}
