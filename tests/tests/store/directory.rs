//! The data directory: modes, the lock, and the schema.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rat_store::{DirectoryError, SchemaError, Store, StoreError};

use sqlx::Connection;

use super::{Fixture, connect};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn the_directory_and_its_files_are_private() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let store = Store::open(&directory).await.unwrap();
    store.take_ownership("test").await.unwrap();
    assert_eq!(mode(&directory), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    // Database, its two side files, and the lock.
    assert_eq!(files, 4);
}

#[tokio::test]
async fn what_others_can_write_or_read_is_refused() {
    let fixture = Fixture::new().await;
    let directory = fixture.directory.path().to_owned();
    fixture.store.close().await;
    let database = directory.join("ratd.db");
    for (path, bad, good) in [
        (&directory, 0o720, 0o700),
        (&directory, 0o702, 0o700),
        (&database, 0o660, 0o600),
        (&database, 0o640, 0o600),
        (&database, 0o604, 0o600),
    ] {
        set_mode(path, bad);
        let found = match Store::open(&directory).await {
            Err(StoreError::Directory(
                DirectoryError::WritableByOthers { mode, .. }
                | DirectoryError::ReadableByOthers { mode, .. },
            )) => mode,
            other => panic!("{bad:o}: {other:?}"),
        };
        assert_eq!(found, bad);
        assert!(Store::open_shared(&directory).await.is_err(), "{bad:o}");
        set_mode(path, good);
    }
    assert!(Store::open(&directory).await.is_ok());
}

#[tokio::test]
async fn a_file_is_no_directory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = Store::open(file.path()).await;
    assert!(matches!(refused, Err(StoreError::Directory(_))));
}

#[tokio::test]
async fn a_second_server_is_refused_and_told_who_is_there() {
    let fixture = Fixture::new().await;
    match Store::open(fixture.directory.path()).await {
        Err(StoreError::Directory(DirectoryError::Held { pid, path })) => {
            assert_eq!(pid, Some(std::process::id()));
            assert_eq!(path, fixture.directory.path());
        }
        other => panic!("{other:?}"),
    }
    // The first goes on, and its lock ends with it.
    fixture.store.take_ownership("test").await.unwrap();
    let Fixture {
        directory, store, ..
    } = fixture;
    store.close().await;
    assert!(Store::open(directory.path()).await.is_ok());
}

#[tokio::test]
async fn a_command_works_beside_a_running_server() {
    let fixture = Fixture::new().await;
    let beside = Store::open_shared(fixture.directory.path()).await.unwrap();
    assert_eq!(beside.groups().await.unwrap().len(), 1);
    beside.close().await;
    // The server's own connections are none the worse for it.
    fixture.store.take_ownership("test").await.unwrap();

    let empty = tempfile::tempdir().unwrap();
    let refused = Store::open_shared(empty.path()).await;
    assert!(matches!(
        refused,
        Err(StoreError::Directory(DirectoryError::Empty(_)))
    ));
}

async fn opened_after(change: &'static str) -> StoreError {
    let fixture = Fixture::new().await;
    let directory = fixture.directory;
    fixture.store.close().await;
    let mut vandal = connect(&directory.path().join("ratd.db")).await;
    sqlx::raw_sql(change).execute(&mut vandal).await.unwrap();
    vandal.close().await.unwrap();
    let before = fs::read(directory.path().join("ratd.db")).unwrap();
    let refused = Store::open(directory.path()).await.unwrap_err();
    let shared = Store::open_shared(directory.path()).await.unwrap_err();
    assert_eq!(format!("{refused}"), format!("{shared}"));
    let after = fs::read(directory.path().join("ratd.db")).unwrap();
    assert_eq!(before, after, "{change}");
    refused
}

#[tokio::test]
async fn s06_a_newer_schema_is_refused_and_not_touched() {
    let refused = opened_after(
        "INSERT INTO schema_step VALUES (99, 'next', zeroblob(32), 'ratd 9'); PRAGMA user_version = 1",
    )
    .await;
    match refused {
        StoreError::Schema(SchemaError::Newer { found, known }) => {
            assert_eq!(found, 99);
            assert!((1..99).contains(&known), "{known}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_changed_or_foreign_schema_is_refused() {
    let changed = opened_after("UPDATE schema_step SET sha256 = zeroblob(32)").await;
    assert!(matches!(
        changed,
        StoreError::Schema(SchemaError::Changed { version: 1 })
    ));
    let foreign = opened_after("PRAGMA application_id = 7").await;
    assert!(matches!(foreign, StoreError::Schema(SchemaError::Foreign)));
}
