//! `ratd backup` and `ratd restore`: everything that a server needs to go on elsewhere.

use std::path::Path;

use anyhow::{Context, ensure};
use rat_store::Store;

use crate::config::Config;
use crate::data_dir::{admin_token_in, ca_in, make_private, write_private};
use crate::failure::{Exit, Failure, Means};

/// What a backup holds beside the database, as paths in the data directory.
const FILES: [&str; 3] = ["ca/ca.key", "ca/ca.pem", "admin.token"];
/// The database in a backup.
const DATABASE: &str = "database";

/// Copies the data directory into a new folder, consistently, beside a running server or not.
pub(super) async fn backup(config: &Config, path: &Path) -> Result<(), Failure> {
    require(!path.exists(), path, "exists; a backup never overwrites")?;
    let store = Store::open_shared(&config.data_dir)
        .await
        .means(Exit::Unusable)?;
    make_private(&ca_in(path))?;
    store.backup(&path.join(DATABASE)).await?;
    store.close().await;
    copy(&config.data_dir, path)?;
    Ok(())
}

/// Fills an empty data directory.
pub(super) async fn restore(config: &Config, path: &Path) -> Result<(), Failure> {
    let occupied = admin_token_in(&config.data_dir).exists() || ca_in(&config.data_dir).exists();
    let directory = &config.data_dir;
    require(
        !occupied,
        directory,
        "is in use; restore into an empty data directory",
    )?;
    Store::restore(&config.data_dir, &path.join(DATABASE))
        .await
        .means(Exit::Unusable)?;
    make_private(&ca_in(&config.data_dir))?;
    copy(path, &config.data_dir)?;
    Ok(())
}

fn require(condition: bool, path: &Path, otherwise: &str) -> anyhow::Result<()> {
    ensure!(condition, "{} {otherwise}", path.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    for file in FILES {
        let source = from.join(file);
        if !source.exists() {
            continue;
        }
        let contents = std::fs::read(&source).with_context(|| source.display().to_string())?;
        let target = to.join(file);
        write_private(&target, &contents).with_context(|| target.display().to_string())?;
    }
    Ok(())
}
