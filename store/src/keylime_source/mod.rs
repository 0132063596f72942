//! Keylime's own databases, read and never written: its verifier's and its registrar's, in SQLite or
//! PostgreSQL.
//!
//! What is in them was written by another program, and perhaps by others. A row is given as texts
//! with names; a column that is too long, or no text, is a fault of that column alone. Everything is
//! read in one transaction, so that it fits together also beside a Keylime that runs.
//!
//! Source: Keylime 7.14.3 `keylime/db`, `keylime/migrations/versions`.

mod row;
mod url;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _};
use thiserror::Error;

pub use row::{ColumnError, ColumnFault, SourceRow};
pub use url::{SourceUrl, SourceUrlError};

use crate::error::DatabaseError;
use crate::limits::{KEYLIME_FACTS_BYTES_MAX, KEYLIME_SOURCE_ROWS_MAX, POLICY_BYTES_MAX};
use row::Cell;

/// How long a server may take to let somebody in, and to answer one statement.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which of Keylime's two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeylimeService {
    /// The verifier's: agents and policies.
    Verifier,
    /// The registrar's.
    Registrar,
}

impl KeylimeService {
    /// The file that `sqlite` alone stands for, in Keylime's folder.
    pub const fn default_file(self) -> &'static str {
        match self {
            Self::Verifier => "cv_data.sqlite",
            Self::Registrar => "reg_data.sqlite",
        }
    }

    const fn version_table(self) -> &'static str {
        match self {
            Self::Verifier => "alembic_version_cloud_verifier",
            Self::Registrar => "alembic_version_registrar",
        }
    }

    const fn tables(self) -> &'static [KeylimeTable] {
        match self {
            Self::Verifier => &[
                KeylimeTable::RuntimePolicies,
                KeylimeTable::BootPolicies,
                KeylimeTable::Agents,
            ],
            Self::Registrar => &[KeylimeTable::Registrations],
        }
    }
}

/// A table that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeylimeTable {
    /// `allowlists`.
    RuntimePolicies,
    /// `mbpolicies`.
    BootPolicies,
    /// `verifiermain`.
    Agents,
    /// `registrarmain`.
    Registrations,
}

/// A column: its name, the longest text that is taken from it, and whether databases of older
/// versions do without it.
type Column = (&'static str, usize, bool);

const SHORT: usize = 4_096;
const FACTS: usize = KEYLIME_FACTS_BYTES_MAX;
const fn short(name: &'static str) -> Column {
    (name, SHORT, false)
}
const fn later(name: &'static str) -> Column {
    (name, SHORT, true)
}

impl KeylimeTable {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RuntimePolicies => "allowlists",
            Self::BootPolicies => "mbpolicies",
            Self::Agents => "verifiermain",
            Self::Registrations => "registrarmain",
        }
    }

    /// The column that names a row; a text where it is not a number.
    const fn key(self) -> (&'static str, bool) {
        match self {
            Self::RuntimePolicies | Self::BootPolicies => ("id", false),
            Self::Agents | Self::Registrations => ("agent_id", true),
        }
    }

    const fn columns(self) -> &'static [Column] {
        const RUNTIME: &[Column] = &[
            short("id"),
            short("name"),
            short("generator"),
            ("tpm_policy", FACTS, false),
            ("ima_policy", POLICY_BYTES_MAX, false),
        ];
        const BOOT: &[Column] = &[
            short("id"),
            short("name"),
            ("mb_policy", POLICY_BYTES_MAX, false),
        ];
        const AGENTS: &[Column] = &[
            short("agent_id"),
            short("v"),
            short("ip"),
            short("port"),
            short("verifier_id"),
            short("verifier_ip"),
            short("verifier_port"),
            short("operational_state"),
            ("tpm_policy", FACTS, false),
            ("meta_data", FACTS, false),
            short("ima_policy_id"),
            ("ima_sign_verification_keys", FACTS, false),
            short("mb_policy_id"),
            ("revocation_key", FACTS, false),
            short("accept_tpm_hash_algs"),
            short("accept_tpm_encryption_algs"),
            short("accept_tpm_signing_algs"),
            short("severity_level"),
            short("last_event_id"),
            short("supported_version"),
            short("ak_tpm"),
            ("mtls_cert", 64 << 10, false),
            short("attestation_count"),
            later("last_received_quote"),
            later("last_successful_attestation"),
            later("accept_attestations"),
            later("consecutive_attestation_failures"),
        ];
        const REGISTRATIONS: &[Column] = &[
            short("agent_id"),
            short("aik_tpm"),
            ("ekcert", 64 << 10, false),
            short("ek_tpm"),
            short("iak_tpm"),
            short("idevid_tpm"),
            ("iak_cert", 64 << 10, false),
            ("idevid_cert", 64 << 10, false),
            ("mtls_cert", 64 << 10, false),
            short("virtual"),
            short("ip"),
            short("port"),
            short("active"),
            ("provider_keys", FACTS, false),
            short("regcount"),
        ];
        match self {
            Self::RuntimePolicies => RUNTIME,
            Self::BootPolicies => BOOT,
            Self::Agents => AGENTS,
            Self::Registrations => REGISTRATIONS,
        }
    }
}

/// Versions of the schema whose tables are as they are read here, the newest last: from the one that
/// has measured boot policies under names to that of Keylime 7.14.3.
const REVISIONS: [&str; 8] = [
    "9d2f6fab52b1",
    "330024be7bef",
    "57b24ee21dfa",
    "870c218abd9a",
    "460d7adda633",
    "517a2d6b5cd3",
    "5a8b2c3d4e6f",
    "a59cc9366774",
];

/// Why a database of Keylime cannot be read.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Its file cannot be read.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing is in its file.
    #[error("{}: the file is empty", .0.display())]
    Empty(PathBuf),
    /// Its file is none of SQLite's.
    #[error("{}: this is no SQLite database", .0.display())]
    NoDatabase(PathBuf),
    /// Changes lie beside the file that only its own program may put into it.
    #[error("{} was not closed: stop the program that uses it, or start and stop it once", .0.display())]
    NotClosed(PathBuf),
    /// The server does not answer in time.
    #[error("the database does not answer")]
    Silent,
    /// The database refuses, or is damaged.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// It is no database of this service.
    #[error("there is no table {0}: is this a database of Keylime's {1}?")]
    Table(&'static str, &'static str),
    /// A column is missing that every version of the schema has.
    #[error("table {0} has no column {1}")]
    Column(&'static str, &'static str),
    /// It says nothing of its version, or more than one thing.
    #[error("{0} does not hold one version")]
    NoVersion(&'static str),
    /// Its schema is another one.
    #[error(
        "the schema has the version {found:?}, which is not known here: start Keylime 7.14.3 on it \
         once, which brings it to {newest}"
    )]
    Version {
        /// What it says.
        found: String,
        /// What this program knows best.
        newest: &'static str,
    },
    /// There are more rows than any fleet has.
    #[error("table {0} has more than {KEYLIME_SOURCE_ROWS_MAX} rows")]
    TooMany(&'static str),
}

impl From<sqlx::Error> for SourceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

enum Link {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// One of Keylime's databases, opened for reading.
pub struct KeylimeSource {
    link: Link,
    /// Of each table: columns that are there.
    present: Vec<(KeylimeTable, Vec<bool>)>,
}

impl std::fmt::Debug for KeylimeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeylimeSource").finish_non_exhaustive()
    }
}

/// Where a page of rows ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKey {
    /// At this number.
    Number(i64),
    /// At this text.
    Text(String),
}

/// The same statement for whichever database it is.
macro_rules! on {
    ($link:expr, $connection:ident => $work:expr) => {
        match $link {
            Link::Sqlite($connection) => $work,
            Link::Postgres($connection) => $work,
        }
    };
}

impl KeylimeSource {
    /// Opens a database and looks whether it is this service's, in a version that is known here.
    /// `folder` is where Keylime keeps its own, for `sqlite` alone.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn open(
        url: &SourceUrl,
        service: KeylimeService,
        folder: &Path,
    ) -> Result<Self, SourceError> {
        let link = match url {
            SourceUrl::Default => open_sqlite(&folder.join(service.default_file())).await?,
            SourceUrl::Sqlite(path) => open_sqlite(path).await?,
            SourceUrl::Postgres(options) => {
                let opening = tokio::time::timeout(PATIENCE, open_postgres(options)).await;
                opening.map_err(|_| SourceError::Silent)??
            }
        };
        let mut source = Self {
            link,
            present: Vec::new(),
        };
        source.check(service).await?;
        Ok(source)
    }

    async fn check(&mut self, service: KeylimeService) -> Result<(), SourceError> {
        let name = match service {
            KeylimeService::Verifier => "verifier",
            KeylimeService::Registrar => "registrar",
        };
        let table = service.version_table();
        if self.columns_of(table).await?.is_empty() {
            return Err(SourceError::Table(table, name));
        }
        let sql = format!("SELECT CAST(version_num AS TEXT) FROM {table} LIMIT 2");
        let versions: Vec<Option<String>> = on!(&mut self.link, connection => {
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await?
        });
        let [Some(version)] = versions.as_slice() else {
            return Err(SourceError::NoVersion(table));
        };
        if !REVISIONS.contains(&version.as_str()) {
            return Err(SourceError::Version {
                found: version.chars().take(40).collect(),
                newest: REVISIONS.last().copied().unwrap_or_default(),
            });
        }
        for table in service.tables() {
            let found = self.columns_of(table.name()).await?;
            if found.is_empty() {
                return Err(SourceError::Table(table.name(), name));
            }
            let mut present = Vec::new();
            for (column, _, is_later) in table.columns() {
                let is_there = found.iter().any(|found| found == column);
                if !is_there && !is_later {
                    return Err(SourceError::Column(table.name(), column));
                }
                present.push(is_there);
            }
            self.present.push((*table, present));
        }
        Ok(())
    }

    async fn columns_of(&mut self, table: &str) -> Result<Vec<String>, SourceError> {
        Ok(match &mut self.link {
            Link::Sqlite(connection) => {
                sqlx::query_scalar("SELECT name FROM pragma_table_info($1) LIMIT 1000")
                    .bind(table)
                    .fetch_all(connection)
                    .await?
            }
            Link::Postgres(connection) => {
                sqlx::query_scalar(
                    "SELECT CAST(column_name AS TEXT) FROM information_schema.columns
                     WHERE table_name = $1 AND table_schema = ANY (current_schemas(false))
                     LIMIT 1000",
                )
                .bind(table)
                .fetch_all(connection)
                .await?
            }
        })
    }

    /// How many rows a table has.
    ///
    /// # Errors
    /// [`SourceError`], also when they are more than are read.
    pub async fn count(&mut self, table: KeylimeTable) -> Result<u64, SourceError> {
        let sql = format!("SELECT count(*) FROM {}", table.name());
        let found: i64 = on!(&mut self.link, connection => {
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?
        });
        let found = u64::try_from(found).unwrap_or(u64::MAX);
        match found <= KEYLIME_SOURCE_ROWS_MAX {
            true => Ok(found),
            false => Err(SourceError::TooMany(table.name())),
        }
    }

    /// The row after the one with this key, and its own key.
    ///
    /// # Errors
    /// [`SourceError`]; what is wrong with a column is said when the column is asked for.
    pub async fn next(
        &mut self,
        table: KeylimeTable,
        after: Option<&SourceKey>,
    ) -> Result<Option<(SourceKey, SourceRow)>, SourceError> {
        let present = self.present.iter().find(|(known, _)| *known == table);
        let present = present.map(|(_, present)| present.clone());
        let present = present.ok_or(SourceError::Table(table.name(), "database"))?;
        let (key, is_text) = table.key();
        // In SQLite a column may hold what its type does not say; the number of a row cannot.
        let is_text = is_text && matches!(self.link, Link::Postgres(_));
        let key = match &self.link {
            Link::Sqlite(_) => "rowid",
            Link::Postgres(_) => key,
        };
        let sql = select(table, &present, (key, is_text), after.is_some());
        match &mut self.link {
            Link::Sqlite(connection) => {
                let query = sqlx::query(AssertSqlSafe(sql)).bind(number_of(after));
                let row = query.fetch_optional(connection).await?;
                row.map(|row| read(&row, table, &present, false))
                    .transpose()
            }
            Link::Postgres(connection) => {
                let query = sqlx::query(AssertSqlSafe(sql));
                let query = match is_text {
                    true => query.bind(text_of(after)),
                    false => query.bind(number_of(after)),
                };
                let row = query.fetch_optional(connection).await?;
                row.map(|row| read(&row, table, &present, is_text))
                    .transpose()
            }
        }
    }

    /// Ends the connection.
    ///
    /// # Errors
    /// [`SourceError`]; nothing that was read is any the worse.
    pub async fn close(self) -> Result<(), SourceError> {
        on!(self.link, connection => Ok(connection.close().await?))
    }
}

fn number_of(after: Option<&SourceKey>) -> i64 {
    match after {
        Some(SourceKey::Number(number)) => *number,
        _ => i64::MIN,
    }
}

fn text_of(after: Option<&SourceKey>) -> &str {
    match after {
        Some(SourceKey::Text(text)) => text,
        _ => "",
    }
}

/// The row after a key. Each column is two: how long it is, and its text unless that is too long.
fn select(
    table: KeylimeTable,
    present: &[bool],
    (key, is_text): (&str, bool),
    goes_on: bool,
) -> String {
    // The least of all keys is one, too.
    let beyond = if goes_on { ">" } else { ">=" };
    let number = if is_text { "TEXT" } else { "BIGINT" };
    let mut sql = format!("SELECT CAST({key} AS {number})");
    for ((column, bytes_max, _), is_there) in table.columns().iter().zip(present) {
        if *is_there {
            // Writing to a String cannot fail.
            let _ = write!(
                sql,
                ", CAST(octet_length(CAST({column} AS TEXT)) AS BIGINT), \
                 CASE WHEN octet_length(CAST({column} AS TEXT)) <= {bytes_max} \
                 THEN CAST({column} AS TEXT) END"
            );
        }
    }
    let _ = write!(
        sql,
        " FROM {} WHERE {key} {beyond} $1 ORDER BY {key} LIMIT 1",
        table.name()
    );
    sql
}

/// Reads what [`select`] asked for.
fn read<'r, R: sqlx::Row>(
    row: &'r R,
    table: KeylimeTable,
    present: &[bool],
    is_text: bool,
) -> Result<(SourceKey, SourceRow), SourceError>
where
    usize: sqlx::ColumnIndex<R>,
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    let key = match is_text {
        true => SourceKey::Text(row.try_get(0)?),
        false => SourceKey::Number(row.try_get(0)?),
    };
    let mut cells = Vec::new();
    let mut at: usize = 1;
    for ((column, _, _), is_there) in table.columns().iter().zip(present) {
        let cell = if *is_there {
            let bytes: Option<i64> = row.try_get(at)?;
            let text: Result<Option<String>, _> = row.try_get(at.saturating_add(1));
            at = at.saturating_add(2);
            match (bytes, text) {
                (None, _) => Cell::Null,
                (_, Ok(Some(text))) => Cell::Text(text),
                (Some(bytes), Ok(None)) => Cell::TooLong(u64::try_from(bytes).unwrap_or(u64::MAX)),
                (_, Err(_)) => Cell::NoText,
            }
        } else {
            Cell::Null
        };
        cells.push((*column, cell));
    }
    Ok((key, SourceRow::new(table, cells)))
}

/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes of its header that say how changes are written, and where: 2 is a log of its own.
const VERSIONS_AT: std::ops::Range<usize> = 18..20;

async fn open_sqlite(path: &Path) -> Result<Link, SourceError> {
    let failed = |source| SourceError::File {
        path: path.to_owned(),
        source,
    };
    let mut header = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(100).read_to_end(&mut header).map_err(failed)?;
    if header.is_empty() {
        return Err(SourceError::Empty(path.to_owned()));
    }
    let is_logged = match header.get(VERSIONS_AT) {
        Some(versions) if header.starts_with(MAGIC) => versions.contains(&2),
        _ => return Err(SourceError::NoDatabase(path.to_owned())),
    };
    // A log of changes cannot be read without writing beside it.
    let beside = |suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(PathBuf::from(name)).is_ok_and(|found| found.len() > 0)
    };
    if beside("-wal") || beside("-journal") {
        return Err(SourceError::NotClosed(path.to_owned()));
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .immutable(is_logged)
        .foreign_keys(false)
        .busy_timeout(PATIENCE)
        // A damaged or hostile file must not make the library run what it says.
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .pragma("query_only", "ON");
    let mut connection = options.connect().await?;
    sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
    Ok(Link::Sqlite(connection))
}

async fn open_postgres(options: &PgConnectOptions) -> Result<Link, SourceError> {
    let mut connection = options.connect().await?;
    for sql in [
        "SET statement_timeout = 60000",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    ] {
        sqlx::raw_sql(sql).execute(&mut connection).await?;
    }
    Ok(Link::Postgres(connection))
}
