//! `ratd backup` and `ratd restore`: everything that a server needs to go on elsewhere.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rat_api::clock::unix_ms;
use rat_identity::ca::Ca;
use rat_identity::keylime::{CA_FILES, CA_FOLDER};
use rat_store::{Restored, Store};

use crate::config::Config;
use crate::data_dir::{
    CA_KEY, FIRST_PASSWORD, RestoreState, begin_restore, ca_in, end_restore, keylime_ca_in,
    make_private, require_whole, restore_state, write_private,
};
use crate::failure::{Exit, Failure, Means};

/// What a backup holds beside the database, as paths in the data directory. Without the first
/// nothing of the rest is of use: agents believe no other CA.
const FILES: [&str; 3] = [CA_KEY, "ca/ca.pem", FIRST_PASSWORD];

/// The same with what agents and tenants of Keylime believe, if there is any of it.
fn files() -> impl Iterator<Item = PathBuf> {
    let of_keylime = CA_FILES.iter().map(|file| Path::new(CA_FOLDER).join(file));
    FILES.iter().map(PathBuf::from).chain(of_keylime)
}
/// The database in a backup.
const DATABASE: &str = "database";

/// Copies the data directory into a new folder, consistently, beside a running server or not.
pub(super) async fn backup(config: &Config, path: &Path) -> Result<(), Failure> {
    let directory = &config.data_dir;
    require(!path.exists(), path, "exists; a backup never overwrites")?;
    require_whole(directory)?;
    let key = directory.join(CA_KEY);
    require(key.exists(), &key, "is missing; agents believe no other CA")?;
    let store = Store::open_shared(directory).await.means(Exit::Unusable)?;
    make_private(&ca_in(path))?;
    let made = store.backup(&path.join(DATABASE)).await;
    store.close().await;
    let copied = made
        .map_err(Failure::from)
        .and_then(|()| Ok(copy(directory, path)?));
    if copied.is_err() {
        // A part of a backup is none.
        fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    copied
}

/// Fills an empty data directory: whole, or not at all.
///
/// The CA comes first and the database last, under a mark that no server starts with: a restore
/// that was cut short is begun anew, and never taken for a server without a CA or without agents.
pub(super) async fn restore(config: &Config, path: &Path) -> Result<(), Failure> {
    let directory = &config.data_dir;
    for needed in [CA_KEY, DATABASE] {
        let needed = path.join(needed);
        require(
            needed.exists(),
            &needed,
            "is missing; this is no whole backup",
        )?;
    }
    let is_empty = match restore_state(directory)? {
        RestoreState::CutShort => {
            forget(directory)?;
            true
        }
        RestoreState::None => {
            let has = |file: PathBuf| directory.join(file).exists();
            !files().any(has) && !Store::is_in(directory)?
        }
    };
    let otherwise = "is in use; restore into an empty data directory";
    require(is_empty, directory, otherwise)?;
    begin_restore(directory)?;
    match fill(directory, path).await {
        Ok(restored) => {
            end_restore(directory)?;
            Ok(report(&restored)?)
        }
        Err(failure) => {
            forget(directory)?;
            end_restore(directory)?;
            Err(failure)
        }
    }
}

async fn fill(directory: &Path, backup: &Path) -> Result<Restored, Failure> {
    make_private(&ca_in(directory))?;
    copy(backup, directory)?;
    Ca::open(&ca_in(directory), unix_ms())
        .with_context(|| format!("the CA in {}", backup.display()))
        .means(Exit::Unusable)?;
    Store::restore(directory, &backup.join(DATABASE))
        .await
        .means(Exit::Unusable)
}

/// Removes what a restore that did not come to its end has brought. The database is not among it:
/// it comes last.
fn forget(directory: &Path) -> anyhow::Result<()> {
    for file in files() {
        let path = directory.join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
    }
    // Should something else be in it, it stays, and the next restore says so.
    let _ = fs::remove_dir(ca_in(directory));
    let _ = fs::remove_dir(keylime_ca_in(directory));
    Ok(())
}

fn report(restored: &Restored) -> io::Result<()> {
    let mut out = io::stderr();
    writeln!(
        out,
        "ratd: restored {} verdicts and {} audit entries; the audit log ends with {}",
        restored.outcomes,
        restored.audit_entries,
        hex::encode(restored.audit_head.0)
    )?;
    if restored.unreadable_ticks > 0 {
        writeln!(
            out,
            "ratd: {} ticks could not be read when they were recorded, and are lost",
            restored.unreadable_ticks
        )?;
    }
    Ok(())
}

fn require(condition: bool, path: &Path, otherwise: &str) -> anyhow::Result<()> {
    ensure!(condition, "{} {otherwise}", path.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    for file in files() {
        let source = from.join(&file);
        if !source.exists() {
            continue;
        }
        if file.starts_with(CA_FOLDER) {
            make_private(&keylime_ca_in(to))?;
        }
        let contents = fs::read(&source).with_context(|| source.display().to_string())?;
        let target = to.join(file);
        write_private(&target, &contents).with_context(|| target.display().to_string())?;
    }
    Ok(())
}
