//! Backup while running, and restore.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rat_engine::agent_id::AgentId;
use rat_store::{DirectoryError, RestoreError, SchemaError, Store, StoreError};
use rat_tests::fleet;
use sqlx::Connection;

use super::{Fixture, connect, load, registrations};

async fn lived_in() -> Fixture {
    let fixture = Fixture::with_agents(1..6).await;
    registrations::activated(&fixture.store, "keylime").await;
    for attestation in 1..5 {
        for number in 1..6 {
            fixture
                .commit(vec![fleet::outcome(number, attestation)])
                .await;
        }
        if attestation == 3 {
            fixture.fold_all().await;
        }
    }
    fixture
}

#[tokio::test]
async fn a_backup_made_under_load_is_restored_whole() {
    let fixture = lived_in().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("backup.db");
    let store = fixture.store.clone();
    let (backup, ()) = tokio::join!(store.backup(&file), async {
        for attestation in 5..9 {
            fixture.commit(vec![fleet::outcome(1, attestation)]).await;
        }
    });
    backup.unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let directory = elsewhere.path().join("new");
    let restored = Store::restore(&directory, &file).await.unwrap();
    assert!((20..=24).contains(&restored.outcomes));
    // The group, five enrolments, and an agent of Keylime.
    assert_eq!(restored.audit_entries, 7);
    let store = Store::open(&directory).await.unwrap();
    let id = AgentId::parse("keylime").unwrap();
    let registered = store.keylime_registration(&id, 9).await.unwrap();
    let before = fixture.store.keylime_registration(&id, 9).await.unwrap();
    assert!(registered.is_some());
    assert_eq!(registered, before);
    let loaded = load(&store).await;
    assert_eq!(loaded.agents.len(), 5);
    for agent in &loaded.agents {
        let number = (1..6)
            .find(|n| fleet::agent(*n) == agent.record.id)
            .unwrap();
        assert_eq!(agent.state, fleet::state(number, agent.state.attestations));
        assert!(agent.state.attestations >= 4);
    }
    // Of two owners with the same past, each fences by its own epochs.
    assert!(store.take_ownership("restored").await.unwrap() > fixture.epoch);
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let fixture = lived_in().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("backup.db");
    fixture.store.backup(&file).await.unwrap();
    let before = fs::read(&file).unwrap();
    let again = fixture.store.backup(&file).await;
    assert!(matches!(
        again,
        Err(StoreError::Directory(DirectoryError::Occupied(_)))
    ));
    assert_eq!(fs::read(&file).unwrap(), before);

    let running = Store::restore(fixture.directory.path(), &file).await;
    assert!(matches!(
        running,
        Err(RestoreError::Store(StoreError::Directory(
            DirectoryError::Held { .. }
        )))
    ));
    let Fixture {
        directory, store, ..
    } = fixture;
    store.close().await;
    let database = fs::read(directory.path().join("ratd.db")).unwrap();
    let occupied = Store::restore(directory.path(), &file).await;
    assert!(matches!(
        occupied,
        Err(RestoreError::Store(StoreError::Directory(
            DirectoryError::Occupied(_)
        )))
    ));
    assert_eq!(
        fs::read(directory.path().join("ratd.db")).unwrap(),
        database
    );
}

#[tokio::test]
async fn s06_a_tick_that_was_set_aside_keeps_no_backup_from_being_restored() {
    let fixture = lived_in().await;
    sqlx::query("UPDATE tick SET packed = x'01' WHERE shard = (SELECT min(shard) FROM tick)")
        .execute(&mut fixture.vandal().await)
        .await
        .unwrap();
    fixture.fold_all().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("backup.db");
    fixture.store.backup(&file).await.unwrap();
    let directory = elsewhere.path().join("new");
    let restored = Store::restore(&directory, &file).await.unwrap();
    assert!(restored.unreadable_ticks >= 1);
    assert_eq!(restored.outcomes + restored.unreadable_ticks, 20);
}

#[tokio::test]
async fn s18_an_edited_backup_is_not_restored() {
    type Expected = fn(&RestoreError) -> bool;
    let edits: [(&str, Expected); 6] = [
        ("UPDATE history SET after = zeroblob(32)", |error| {
            matches!(error, RestoreError::Chain { .. })
        }),
        ("DELETE FROM tick", |error| {
            matches!(error, RestoreError::Chain { .. })
        }),
        (
            "DROP TRIGGER audit_is_append_only; UPDATE audit SET actor = 'bob'",
            |error| matches!(error, RestoreError::Audit { seq: 1 }),
        ),
        (
            "INSERT INTO schema_step VALUES (99, 'x', zeroblob(32), 'ratd 9')",
            |error| is_schema(error, |e| matches!(e, SchemaError::Newer { found: 99, .. })),
        ),
        ("PRAGMA application_id = 5", |error| {
            is_schema(error, |e| *e == SchemaError::Foreign)
        }),
        (
            "PRAGMA foreign_keys = OFF; DELETE FROM agent WHERE true; \
             INSERT INTO agent_state VALUES (1, 'x', 0, 0, x'00')",
            |error| is_schema(error, |e| matches!(e, SchemaError::Damaged(_))),
        ),
    ];
    for (edit, expected) in edits {
        let fixture = lived_in().await;
        let elsewhere = tempfile::tempdir().unwrap();
        let file = elsewhere.path().join("backup.db");
        fixture.store.backup(&file).await.unwrap();
        let mut vandal = connect(&file).await;
        sqlx::raw_sql(edit).execute(&mut vandal).await.unwrap();
        vandal.close().await.unwrap();
        let directory = elsewhere.path().join("new");
        let refused = Store::restore(&directory, &file).await.unwrap_err();
        assert!(expected(&refused), "{edit}: {refused:?}");
        let left: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["lock"], "{edit}");
    }
}

fn is_schema(error: &RestoreError, expected: fn(&SchemaError) -> bool) -> bool {
    match error {
        RestoreError::Store(StoreError::Schema(schema)) => expected(schema),
        _ => false,
    }
}

#[tokio::test]
async fn what_is_no_database_is_not_restored() {
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("backup.db");
    for bytes in [&b""[..], b"not a database at all, however long it may be"] {
        fs::write(&file, bytes).unwrap();
        let directory = elsewhere.path().join("new");
        let refused = Store::restore(&directory, &file).await;
        assert!(
            matches!(refused, Err(RestoreError::Store(_))),
            "{refused:?}"
        );
        assert!(!directory.join("ratd.db").exists());
    }
}
