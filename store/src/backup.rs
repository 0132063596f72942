//! Backup of a running store, and restore into an empty data directory.

use std::fs;
use std::path::Path;

use rat_engine::agent_id::ShardIndex;
use rat_engine::shard::ChainHash;
use sqlx::Connection as _;
use thiserror::Error;

use crate::chain::ChainFault;
use crate::database::{Pools, Use};
use crate::directory;
use crate::error::{DirectoryError, SchemaError, StoreError};
use crate::{Store, schema};

/// The database while it is being restored: nothing opens it before it is whole.
const RESTORING: &str = "ratd.db.restoring";

/// What a restored database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Outcomes whose hash chain was verified.
    pub outcomes: u64,
    /// Ticks that the server had set aside because they cannot be read. Their place in the chain
    /// was verified, their outcomes are lost.
    pub unreadable_ticks: u64,
    /// Entries of the audit log.
    pub audit_entries: u64,
    /// The audit log's head: compare it with one that was noted elsewhere.
    pub audit_head: ChainHash,
}

/// Why a backup is not restored. The data directory is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The file or the directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The history of a shard was edited.
    #[error("shard {}: {fault}", .shard.get())]
    Chain {
        /// The shard.
        shard: ShardIndex,
        /// What is wrong with it.
        fault: ChainFault,
    },
    /// The audit log was edited.
    #[error("the audit log is broken at entry {seq}")]
    Audit {
        /// The first entry that does not fit.
        seq: u64,
    },
}

impl From<DirectoryError> for RestoreError {
    fn from(error: DirectoryError) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Writes all that is committed to a new file (0600), while the store goes on working.
    ///
    /// # Errors
    /// [`DirectoryError::Occupied`] when the file exists.
    ///
    /// # Cost
    /// Reads and writes the whole database. Commits go on; the log cannot shrink until it ends.
    pub async fn backup(&self, path: &Path) -> Result<(), StoreError> {
        directory::create_private(path)?;
        let written = self.vacuum_into(path).await;
        if written.is_err() {
            // A part of a backup is none.
            fs::remove_file(path).map_err(DirectoryError::at(path))?;
        }
        written
    }

    async fn vacuum_into(&self, path: &Path) -> Result<(), StoreError> {
        let name = path.to_str().ok_or_else(|| DirectoryError::Io {
            path: path.to_owned(),
            source: std::io::ErrorKind::InvalidFilename.into(),
        })?;
        let mut connection = self.pools().connect().await?;
        sqlx::query("VACUUM INTO $1")
            .bind(name)
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        directory::sync(path)?;
        if let Some(parent) = path
            .parent()
            .filter(|parent| parent.components().count() > 0)
        {
            directory::sync(parent)?;
        }
        Ok(())
    }

    /// Brings a backup into a data directory that holds no database, after checking the file,
    /// its schema, every hash chain and the audit log.
    ///
    /// # Errors
    /// [`RestoreError`]. Nothing is ever overwritten.
    pub async fn restore(directory: &Path, backup: &Path) -> Result<Restored, RestoreError> {
        let lock = directory::lock(directory)?;
        let database = directory::database_in(directory);
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut path = database.clone().into_os_string();
            path.push(suffix);
            if directory::exists(path.as_ref())? {
                return Err(DirectoryError::Occupied(path.into()).into());
            }
        }
        let copy = directory.join(RESTORING);
        if directory::exists(&copy)? {
            // What an interrupted restore left; nothing else uses the name.
            fs::remove_file(&copy).map_err(DirectoryError::at(&copy))?;
        }
        directory::create_private(&copy)?;
        let checked = copy_and_check(backup, &copy).await;
        match checked {
            Ok(restored) => {
                fs::rename(&copy, &database).map_err(DirectoryError::at(&database))?;
                directory::sync(directory)?;
                drop(lock);
                Ok(restored)
            }
            Err(error) => {
                fs::remove_file(&copy).map_err(DirectoryError::at(&copy))?;
                Err(error)
            }
        }
    }
}

async fn copy_and_check(backup: &Path, copy: &Path) -> Result<Restored, RestoreError> {
    {
        let mut from = fs::File::open(backup).map_err(DirectoryError::at(backup))?;
        let mut to = fs::OpenOptions::new()
            .write(true)
            .open(copy)
            .map_err(DirectoryError::at(copy))?;
        std::io::copy(&mut from, &mut to)
            .and_then(|_| to.sync_all())
            .map_err(DirectoryError::at(copy))?;
    }
    let store = Store::new(Pools::open_sqlite(copy, Use::Inspect).await?, None);
    let restored = check(&store).await;
    store.close().await;
    restored
}

async fn check(store: &Store) -> Result<Restored, RestoreError> {
    schema::check_readable(store.pools()).await?;
    for pragma in ["PRAGMA integrity_check(1)", "PRAGMA foreign_key_check"] {
        let found: Option<String> = sqlx::query_scalar(pragma)
            .fetch_optional(store.pools().read())
            .await
            .map_err(StoreError::from)?;
        if let Some(found) = found.filter(|found| found != "ok") {
            return Err(StoreError::from(SchemaError::Damaged(found)).into());
        }
    }
    let (mut outcomes, mut unreadable_ticks) = (0_u64, 0_u64);
    for shard in ShardIndex::all() {
        match store.verify_chain(shard).await? {
            Ok(chain) => {
                outcomes = outcomes.saturating_add(chain.outcomes);
                unreadable_ticks = unreadable_ticks.saturating_add(chain.unreadable);
            }
            Err(fault) => return Err(RestoreError::Chain { shard, fault }),
        }
    }
    let (audit_entries, audit_head) = store
        .verify_audit()
        .await?
        .map_err(|seq| RestoreError::Audit { seq })?;
    Ok(Restored {
        outcomes,
        unreadable_ticks,
        audit_entries,
        audit_head,
    })
}
