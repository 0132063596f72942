//! Programs in Python that serve as other implementations.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace_root;

/// A virtual environment under `target` with these packages in it, made once.
///
/// `requirements` is a file of the workspace that pins every package.
pub fn with_packages(requirements: &str) -> PathBuf {
    let requirements = workspace_root().join(requirements);
    let pinned = fs::read(&requirements).unwrap();
    let name = hex::encode(&openssl::sha::sha256(&pinned)[..8]);
    let folder = workspace_root().join("target/python");
    let whole = folder.join(&name);
    // Written last: what has it, is whole.
    let done = whole.join("done");
    if done.exists() {
        return whole;
    }
    fs::create_dir_all(&folder).unwrap();
    // Tests run side by side in processes of their own: one of them makes it, the others wait.
    let lock = fs::File::create(folder.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if done.exists() {
        return whole;
    }
    let python = std::env::var("RAT_PYTHON").unwrap_or_else(|_| "python3".into());
    ran(
        Command::new(&python)
            .args(["-m", "venv", "--clear"])
            .arg(&whole),
        &whole,
    );
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
    ];
    ran(
        Command::new(whole.join("bin/python"))
            .args(pip)
            .arg(&requirements),
        &whole,
    );
    fs::write(&done, "").unwrap();
    whole
}

/// The programs of Keylime that `scripts/keylime` installs from PyPI.
pub fn keylime() -> PathBuf {
    let pinned = fs::read(workspace_root().join("benches/keylime.txt")).unwrap();
    let name = hex::encode(&openssl::sha::sha256(&pinned)[..8]);
    let folder = workspace_root().join(format!("target/python/keylime-{name}"));
    assert!(folder.join("done").exists(), "run scripts/keylime first");
    folder.join("bin")
}

/// Runs a step; what was begun is removed when it fails.
fn ran(command: &mut Command, made: &Path) {
    let output = command.output().unwrap();
    if !output.status.success() {
        let _ = fs::remove_dir_all(made);
        panic!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
