//! Connections, and numbers on their way into the database and out of it.

use std::path::Path;
use std::time::Duration;

use rat_engine::agent_id::ShardIndex;
use rat_engine::shard::ChainHash;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, Transaction};

use crate::error::StoreError;
use crate::packed::Fault;

/// How long a statement waits for another process's transaction, such as `ratd token create`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
const READERS_MAX: u32 = 4;
const STATEMENTS_MAX: usize = 256;
/// Rows that a reader's thread may be ahead of who asked: a page, so that the two need not take
/// turns for it.
const ROWS_BUFFERED_MAX: usize = 1_024;

/// A transaction that may write.
pub(crate) type Writing = Transaction<'static, Sqlite>;
/// One connection, inside a transaction or not.
pub(crate) type Connection = sqlx::SqliteConnection;

/// Connections to the database in use.
#[derive(Debug)]
pub(crate) enum Pools {
    /// One file. SQLite has one writer at a time, so there is one connection that writes.
    Sqlite {
        options: Box<SqliteConnectOptions>,
        writer: SqlitePool,
        readers: SqlitePool,
    },
}

/// What a database file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Serve,
    Inspect,
}

impl Pools {
    /// Opens an existing SQLite file.
    pub(crate) async fn open_sqlite(path: &Path, used_for: Use) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(STATEMENTS_MAX)
            // A damaged or hostile file must not make the library run what it says.
            .pragma("trusted_schema", "OFF")
            .pragma("cell_size_check", "ON")
            .pragma("temp_store", "MEMORY")
            .pragma("cache_size", "-32768");
        let options = match used_for {
            Use::Serve => options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .pragma("wal_autocheckpoint", "4000")
                .pragma("journal_size_limit", "67108864"),
            Use::Inspect => options.read_only(true),
        };
        let pool = || {
            SqlitePoolOptions::new()
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        // The writer first: it makes the WAL that readers need.
        let writer = pool()
            .max_connections(1)
            .min_connections(1)
            .connect_with(options.clone())
            .await?;
        let readers = pool()
            .max_connections(READERS_MAX)
            .connect_with(
                options
                    .clone()
                    .pragma("query_only", "ON")
                    .row_buffer_size(ROWS_BUFFERED_MAX),
            )
            .await?;
        Ok(Self::Sqlite {
            options: Box::new(options),
            writer,
            readers,
        })
    }

    /// Begins the one transaction that may write. It is rolled back unless it is committed.
    pub(crate) async fn write(&self) -> Result<Writing, StoreError> {
        let Self::Sqlite { writer, .. } = self;
        // Not deferred: a transaction that reads first could not become the writer later.
        Ok(writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Where to read outside a transaction.
    pub(crate) const fn read(&self) -> &SqlitePool {
        let Self::Sqlite { readers, .. } = self;
        readers
    }

    /// Opens a connection of its own, for work that takes long.
    pub(crate) async fn connect(&self) -> Result<Connection, StoreError> {
        let Self::Sqlite { options, .. } = self;
        let options = options.as_ref().clone().row_buffer_size(ROWS_BUFFERED_MAX);
        Ok(options.connect().await?)
    }

    /// Closes every connection; SQLite then folds its log into the file.
    pub(crate) async fn close(&self) {
        let Self::Sqlite {
            writer, readers, ..
        } = self;
        readers.close().await;
        writer.close().await;
    }
}

/// A number as the database takes it.
pub(crate) fn number(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Number(value))
}

/// A time as the database takes it: one that cannot be is the latest, and refuses nothing.
pub(crate) fn time(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

/// A count as the database takes it.
pub(crate) fn count(value: usize) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Number(u64::MAX))
}

/// A number that the database gave.
pub(crate) fn natural(value: i64) -> Result<u64, Fault> {
    u64::try_from(value).map_err(|_| Fault::Content)
}

/// A shard that the database gave.
pub(crate) fn shard_index(value: i64) -> Result<ShardIndex, StoreError> {
    u16::try_from(value)
        .ok()
        .and_then(ShardIndex::new)
        .ok_or(StoreError::unreadable(
            crate::error::RowName::Shard(value),
            Fault::Content,
        ))
}

/// 32 bytes that the database gave.
pub(crate) fn array(bytes: &[u8]) -> Result<[u8; 32], Fault> {
    bytes.try_into().map_err(|_| Fault::Content)
}

/// A chain's head that the database gave.
pub(crate) fn chain_hash(bytes: &[u8]) -> Result<ChainHash, Fault> {
    array(bytes).map(ChainHash)
}
