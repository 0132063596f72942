//! Databases of Keylime, as Keylime's own code made them (`tests/vectors/keylime-databases`).

use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

/// Where they are kept as SQL, in a folder for each version.
pub fn folder() -> PathBuf {
    crate::workspace_root().join("tests/vectors/keylime-databases")
}

/// Writes `cv_data.sqlite` and `reg_data.sqlite` of a version into a folder.
pub fn write(into: &Path, version: &str) {
    for name in ["cv_data", "reg_data"] {
        let path = folder().join(version).join(name).with_extension("sql");
        let sql = std::fs::read_to_string(path).unwrap();
        run_sql(&into.join(name).with_extension("sqlite"), &sql);
    }
}

/// Has a SQLite file, which is made if it is not there, run statements.
pub fn run_sql(path: &Path, statements: &str) {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut connection = options.connect().await.unwrap();
        let statements = AssertSqlSafe(statements.to_owned());
        sqlx::raw_sql(statements)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    });
}
