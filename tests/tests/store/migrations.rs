//! Steps of the schema, applied to a database that has been lived in.

use std::path::Path;

use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use rat_store::{
    NewPolicy, NewToken, Precondition, RolledBack, SchemaError, Slot, Store, StoreError, TokenKind,
};
use rat_tests::fleet;
use sqlx::{Connection, Row, SqliteConnection};

use super::{Fixture, connect, load};

const FIRST: &str = include_str!("../../../store/src/schema/sqlite/001_first.sql");

/// A database with the first step of the schema alone, as the program of then made it, and with the
/// rows of another one.
async fn of_the_first_schema(path: &Path, rows_of: &Path) {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(false)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    let steps = "CREATE TABLE schema_step (
    version    INTEGER NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    sha256     BLOB    NOT NULL,
    applied_by TEXT    NOT NULL
) STRICT;
PRAGMA application_id = 1380013124;";
    sqlx::raw_sql(steps).execute(&mut old).await.unwrap();
    sqlx::raw_sql(FIRST).execute(&mut old).await.unwrap();
    sqlx::query("INSERT INTO schema_step VALUES (1, 'first', $1, 'ratd 0.1.0')")
        .bind(digest(HashAlg::Sha256, FIRST.as_bytes()).as_bytes())
        .execute(&mut old)
        .await
        .unwrap();
    let tables = sqlx::query(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'schema_step'
         AND name NOT LIKE 'sqlite_%'",
    );
    let tables = tables.fetch_all(&mut old).await.unwrap();
    sqlx::query("ATTACH $1 AS lived_in")
        .bind(rows_of.to_str().unwrap())
        .execute(&mut old)
        .await
        .unwrap();
    for table in tables {
        let name: String = table.get(0);
        // Later steps add columns, which this one does not know.
        let columns = sqlx::query_scalar("SELECT name FROM pragma_table_info($1, 'main')");
        let columns: Vec<String> = columns.bind(&name).fetch_all(&mut old).await.unwrap();
        let columns = columns.join(", ");
        let copy = format!(
            "DELETE FROM main.{name};
             INSERT INTO main.{name} ({columns}) SELECT {columns} FROM lived_in.{name}"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(copy))
            .execute(&mut old)
            .await
            .unwrap();
    }
    old.close().await.unwrap();
}

async fn lived_in() -> Fixture {
    let fixture = Fixture::with_agents(1..4).await;
    for attestation in 1..4 {
        for number in 1..4 {
            fixture
                .commit(vec![fleet::outcome(number, attestation)])
                .await;
        }
        if attestation == 2 {
            fixture.fold_all().await;
        }
    }
    let token = NewToken {
        id: "0123456789abcdef".to_owned(),
        sha256: [3; 32],
        kind: TokenKind::Enrol,
        group: fleet::GROUP.to_owned(),
        uses_max: Some(5),
        expires_unix_ms: Some(1 << 40),
        created_by: "test".to_owned(),
        created_unix_ms: 4,
    };
    fixture.store.put_token(&token).await.unwrap();
    for text in ["{\"first\":1}", "{\"second\":2}"] {
        let policy = NewPolicy {
            group: fleet::GROUP,
            text: text.as_bytes(),
            name: "release",
            origin: "test",
            actor: "test",
            now_unix_ms: 4,
        };
        fixture.store.put_policy(policy).await.unwrap();
    }
    enforce(&fixture.store, 1).await;
    fixture
}

async fn enforce(store: &Store, version: u64) {
    let (slot, always) = (Slot::Enforced, Precondition::Always);
    let enforcing = store.activate_policy(fleet::GROUP, version, slot, always, "test", 5);
    assert!(enforcing.await.unwrap());
}

#[tokio::test]
async fn s06_a_database_of_the_first_schema_is_brought_on_with_all_that_is_in_it() {
    let fixture = lived_in().await;
    let before = load(&fixture.store).await;
    let token = fixture.store.token("0123456789abcdef").await.unwrap();
    let heads = fixture.store.heads().await.unwrap();
    let groups_before = fixture.store.groups().await.unwrap();
    let audit = fixture.store.verify_audit().await.unwrap().unwrap();
    let Fixture {
        directory, store, ..
    } = fixture;
    store.close().await;

    let old = tempfile::tempdir().unwrap();
    let path = old.path().join("ratd.db");
    of_the_first_schema(&path, &directory.path().join("ratd.db")).await;
    set_private(&path);
    set_private_folder(old.path());
    match Store::open_shared(old.path()).await {
        Err(StoreError::Schema(SchemaError::Older { found: 1, .. })) => {}
        other => panic!("{other:?}"),
    }
    let store = Store::open(old.path()).await.unwrap();
    let after = load(&store).await;
    assert_eq!(after.agents.len(), 3);
    assert_eq!(
        format!("{:?}", after.agents),
        format!("{:?}", before.agents)
    );
    assert!(after.unreadable.is_empty());
    assert_eq!(store.heads().await.unwrap(), heads);
    assert_eq!(store.token("0123456789abcdef").await.unwrap(), token);
    assert_eq!(store.verify_audit().await.unwrap().unwrap(), audit);
    assert!(store.users().await.unwrap().is_empty());
    let groups = store.groups().await.unwrap();
    assert_eq!(groups, groups_before, "new settings are neutral");
    // What the next steps brought can be used, and the rest goes on.
    let user = rat_store::NewUser {
        id: "1".to_owned(),
        username: "admin".to_owned(),
        email: String::new(),
        password: rat_store::PasswordHash::new("$argon2id$".to_owned()),
        roles: vec!["admin".to_owned()],
        must_change: true,
        created_unix_ms: 5,
    };
    assert!(store.put_first_user(&user, "ratd").await.unwrap());
    assert_eq!(store.verify_audit().await.unwrap().unwrap().0, audit.0 + 1);
    super::registrations::activated(&store, "keylime").await;
    // What was enforced before anybody kept a history of that can be returned to.
    enforce(&store, 2).await;
    let rolled_back = store.roll_back_policy(fleet::GROUP, "test", 6).await;
    assert_eq!(rolled_back.unwrap(), RolledBack::To(1));
    store.close().await;
    // A second start applies nothing again.
    let store = Store::open(old.path()).await.unwrap();
    assert_eq!(store.users().await.unwrap().len(), 1);
    store.close().await;
    let mut database = connect(&path).await;
    let steps = sqlx::query("SELECT version FROM schema_step ORDER BY version");
    let steps = steps.fetch_all(&mut database).await.unwrap();
    let versions: Vec<i64> = steps.iter().map(|row| row.get(0)).collect();
    let expected: Vec<i64> = (1..=i64::try_from(versions.len()).unwrap()).collect();
    assert!(versions.len() >= 2 && versions == expected, "{versions:?}");
}

fn set_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for suffix in ["", "-wal", "-shm"] {
        let file = path.with_file_name(format!("ratd.db{suffix}"));
        if file.exists() {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

fn set_private_folder(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}
