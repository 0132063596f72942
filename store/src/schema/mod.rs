//! The schema: numbered steps, each applied once, in one transaction, and remembered by checksum.

use rat_engine::crypto;
use rat_engine::hash::HashAlg;
use sqlx::{Row, SqliteConnection};

use crate::database::{Pools, number};
use crate::error::{SchemaError, StoreError};

struct Step {
    version: u64,
    name: &'static str,
    sql: &'static str,
}

/// The steps for SQLite, in order. A step that was released is never edited: add another.
const SQLITE: &[Step] = &[
    Step {
        version: 1,
        name: "first",
        sql: include_str!("sqlite/001_first.sql"),
    },
    Step {
        version: 2,
        name: "accounts",
        sql: include_str!("sqlite/002_accounts.sql"),
    },
    Step {
        version: 3,
        name: "operations",
        sql: include_str!("sqlite/003_operations.sql"),
    },
    Step {
        version: 4,
        name: "webhooks",
        sql: include_str!("sqlite/004_webhooks.sql"),
    },
    Step {
        version: 5,
        name: "group_rules",
        sql: include_str!("sqlite/005_group_rules.sql"),
    },
    Step {
        version: 6,
        name: "relays",
        sql: include_str!("sqlite/006_relays.sql"),
    },
    Step {
        version: 7,
        name: "keylime_registrar",
        sql: include_str!("sqlite/007_keylime_registrar.sql"),
    },
    Step {
        version: 8,
        name: "keylime_verifier",
        sql: include_str!("sqlite/008_keylime_verifier.sql"),
    },
    Step {
        version: 9,
        name: "keylime_standing",
        sql: include_str!("sqlite/009_keylime_standing.sql"),
    },
];

/// "RATD": what `PRAGMA application_id` of our files says.
const APPLICATION_ID: i64 = 0x5241_5444;

const CREATE_STEPS: &str = "CREATE TABLE schema_step (
    version    INTEGER NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    sha256     BLOB    NOT NULL,
    applied_by TEXT    NOT NULL
) STRICT;
PRAGMA application_id = 1380013124;";

impl Step {
    fn checksum(&self) -> Vec<u8> {
        crypto::digest(HashAlg::Sha256, self.sql.as_bytes())
            .as_bytes()
            .to_vec()
    }
}

/// The newest schema that this program knows.
fn known() -> u64 {
    SQLITE.last().map_or(0, |step| step.version)
}

/// Brings the schema to the newest version.
///
/// # Errors
/// [`SchemaError`] when the database is newer, changed or foreign: then nothing was applied.
pub(crate) async fn migrate(pools: &Pools) -> Result<(), StoreError> {
    loop {
        let mut tx = pools.write().await?;
        let applied = applied(&mut tx).await?;
        let Some(step) = SQLITE.iter().find(|step| step.version > applied) else {
            return Ok(());
        };
        if applied == 0 {
            sqlx::raw_sql(CREATE_STEPS).execute(&mut *tx).await?;
        }
        sqlx::raw_sql(step.sql).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO schema_step (version, name, sha256, applied_by) VALUES ($1, $2, $3, $4)",
        )
        .bind(number(step.version)?)
        .bind(step.name)
        .bind(step.checksum())
        .bind(concat!("ratd ", env!("CARGO_PKG_VERSION")))
        .execute(&mut *tx)
        .await?;
        if applied == 0 {
            sqlx::query("INSERT INTO meta (name, value) VALUES ('created_by', $1)")
                .bind(concat!("ratd ", env!("CARGO_PKG_VERSION")))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        tracing::info!(
            version = step.version,
            name = step.name,
            "schema step applied"
        );
    }
}

/// Refuses a schema that this program could not bring to its newest; changes nothing.
///
/// # Errors
/// [`SchemaError`].
pub(crate) async fn check_readable(pools: &Pools) -> Result<(), StoreError> {
    let mut connection = pools.read().acquire().await?;
    match applied(&mut connection).await? {
        0 => Err(SchemaError::Foreign.into()),
        _ => Ok(()),
    }
}

/// Refuses every schema but the newest; changes nothing.
///
/// # Errors
/// [`SchemaError`].
pub(crate) async fn check(pools: &Pools) -> Result<(), StoreError> {
    let mut connection = pools.read().acquire().await?;
    let found = applied(&mut connection).await?;
    let known = known();
    if found < known {
        return Err(SchemaError::Older { found, known }.into());
    }
    Ok(())
}

/// The newest step that was applied, when all of them are ours; 0 in an empty database.
async fn applied(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *connection)
        .await?;
    if tables == 0 {
        return Ok(0);
    }
    let id: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    if id != APPLICATION_ID {
        return Err(SchemaError::Foreign.into());
    }
    let rows = sqlx::query("SELECT version, sha256 FROM schema_step ORDER BY version")
        .fetch_all(&mut *connection)
        .await?;
    let mut newest = 0;
    for row in rows {
        let version = u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(u64::MAX);
        let sha256: Vec<u8> = row.try_get(1)?;
        if version > known() {
            return Err(SchemaError::Newer {
                found: version,
                known: known(),
            }
            .into());
        }
        let ours = SQLITE.iter().find(|step| step.version == version);
        if ours.is_none_or(|step| step.checksum() != sha256) {
            return Err(SchemaError::Changed { version }.into());
        }
        newest = version;
    }
    Ok(newest)
}
