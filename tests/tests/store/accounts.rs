//! Accounts, sessions and API tokens: what was ended stays ended, and only hashes are at rest.

use rat_store::{
    NewApiToken, NewSession, NewUser, PasswordChange, PasswordHash, Standing, Store, StoreError,
    TokenRefusal, UserChange, UserRefusal, limits,
};
use sqlx::Row;

use super::Fixture;

const HOUR_MS: u64 = 60 * 60 * 1000;

fn hash(text: &str) -> PasswordHash {
    PasswordHash::new(format!("$argon2id$v=19$m=19456,t=2,p=1${text}"))
}

fn user(name: &str, role: &str) -> NewUser {
    NewUser {
        id: format!("id-of-{}", name.to_lowercase()),
        username: name.to_owned(),
        email: String::new(),
        password: hash(name),
        roles: vec![role.to_owned()],
        must_change: false,
        created_unix_ms: 1,
    }
}

fn session(user: &str, number: u8, created_unix_ms: u64) -> NewSession {
    NewSession {
        id: format!("session-{user}-{number:03}"),
        sha256: [number; 32],
        user: format!("id-of-{user}"),
        created_unix_ms,
        expires_unix_ms: created_unix_ms + 24 * HOUR_MS,
    }
}

fn token(id: &str, owner: Option<&str>) -> NewApiToken {
    NewApiToken {
        id: id.to_owned(),
        sha256: [7; 32],
        name: "scrape".to_owned(),
        owner: owner.map(|owner| format!("id-of-{owner}")),
        role: "viewer".to_owned(),
        created_by: "test".to_owned(),
        created_unix_ms: 10,
        expires_unix_ms: 10 + HOUR_MS,
    }
}

async fn with_users(users: &[(&str, &str)]) -> Fixture {
    let fixture = Fixture::new().await;
    for (name, role) in users {
        fixture
            .store
            .put_user(&user(name, role), "test")
            .await
            .unwrap();
    }
    fixture
}

/// Opens a session with the user's first password.
async fn open(store: &Store, name: &str, number: u8, now: u64) -> bool {
    let new = session(name, number, now);
    store.open_session(&new, &hash(name)).await.unwrap()
}

async fn is_open(store: &Store, name: &str, number: u8) -> bool {
    let id = session(name, number, 0).id;
    store.session(&id).await.unwrap().is_some()
}

#[tokio::test]
async fn a_username_is_taken_in_every_case() {
    let fixture = with_users(&[("Alice", "admin")]).await;
    let store = &fixture.store;
    for name in ["alice", "ALICE", "Alice"] {
        let mut other = user(name, "viewer");
        other.id = "another".to_owned();
        let refused = store.put_user(&other, "test").await;
        assert!(matches!(refused, Err(StoreError::Exists(_))), "{name}");
        let found = store.user_named(name).await.unwrap().unwrap();
        assert_eq!(
            (found.id.as_str(), found.username.as_str()),
            ("id-of-alice", "Alice")
        );
    }
    assert_eq!(store.users().await.unwrap().len(), 1);
    assert!(
        !store
            .put_first_user(&user("bob", "admin"), "test")
            .await
            .unwrap()
    );
    assert!(store.user_named("bob").await.unwrap().is_none());
    // The group of the fixture, and one user.
    assert_eq!(store.audit_entries(0, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_first_user_is_made_where_there_is_none() {
    let fixture = Fixture::new().await;
    let first = user("admin", "admin");
    assert!(fixture.store.put_first_user(&first, "ratd").await.unwrap());
    let stored = fixture.store.user("id-of-admin").await.unwrap().unwrap();
    assert_eq!(stored.password, first.password);
    assert_eq!(stored.standing, Standing::Active);
    assert_eq!(stored.auth_provider, "local");
}

#[tokio::test]
async fn a03_a_session_ends_by_logout_password_disabling_and_time() {
    let fixture = with_users(&[("alice", "admin"), ("bob", "admin")]).await;
    let store = &fixture.store;
    for number in 1..=3 {
        assert!(open(store, "alice", number, 100).await);
    }
    assert!(open(store, "bob", 1, 100).await);
    let found = store.session("session-alice-001").await.unwrap().unwrap();
    assert_eq!(found.admits(&[1; 32], 101), Ok(()));
    assert_eq!(found.admits(&[2; 32], 101), Err(TokenRefusal::Unknown));
    assert_eq!(
        found.admits(&[1; 32], 100 + 24 * HOUR_MS),
        Err(TokenRefusal::Expired)
    );
    assert_eq!(found.user.last_login_unix_ms, Some(100));

    let end = async || store.end_session("session-alice-001", "alice", 9).await;
    assert!(end().await.unwrap());
    assert!(!end().await.unwrap());
    let entries = store.audit_entries(0, 1000).await.unwrap();
    let ended = entries.iter().filter(|entry| entry.action == "session.end");
    let ended: Vec<_> = ended.map(|entry| (&*entry.actor, &*entry.target)).collect();
    assert_eq!(ended, [("alice", "session-alice-001")]);
    assert!(!is_open(store, "alice", 1).await);

    let change = PasswordChange {
        hash: &hash("new"),
        replacing: None,
        must_change: false,
        keep_session: Some("session-alice-003"),
    };
    assert!(
        store
            .set_password("id-of-alice", &change, "alice", 110)
            .await
            .unwrap()
    );
    assert!(!is_open(store, "alice", 2).await);
    assert!(is_open(store, "alice", 3).await && is_open(store, "bob", 1).await);

    let disable = UserChange {
        disabled: Some(true),
        ..UserChange::default()
    };
    let disabled = store
        .change_user("id-of-alice", &disable, "admin", "bob", 120)
        .await;
    assert_eq!(disabled.unwrap().unwrap().standing, Standing::Disabled);
    assert!(!is_open(store, "alice", 3).await);
    let refused = store
        .open_session(&session("alice", 4, 130), &hash("new"))
        .await;
    assert!(!refused.unwrap(), "disabled");
    assert!(is_open(store, "bob", 1).await);
}

#[tokio::test]
async fn a03_a_password_that_was_changed_while_it_was_verified_opens_nothing() {
    let fixture = with_users(&[("alice", "admin")]).await;
    let store = &fixture.store;
    let (new, replacing) = (hash("new"), hash("alice"));
    let change = PasswordChange {
        hash: &new,
        replacing: Some(&replacing),
        must_change: true,
        keep_session: None,
    };
    assert!(
        store
            .set_password("id-of-alice", &change, "alice", 5)
            .await
            .unwrap()
    );
    assert!(!open(store, "alice", 1, 6).await, "with the old password");
    assert!(!is_open(store, "alice", 1).await);
    let late = PasswordChange {
        hash: &hash("late"),
        ..change
    };
    assert!(
        !store
            .set_password("id-of-alice", &late, "alice", 7)
            .await
            .unwrap()
    );
    let stored = store.user("id-of-alice").await.unwrap().unwrap();
    assert_eq!(stored.password, new);
    assert_eq!(stored.standing, Standing::MustChangePassword);
    assert_eq!(stored.last_login_unix_ms, None);
}

#[tokio::test]
async fn x05_one_login_too_many_ends_the_oldest_and_expired_ones_go() {
    let fixture = with_users(&[("alice", "admin"), ("bob", "admin")]).await;
    let store = &fixture.store;
    let most = u8::try_from(limits::SESSIONS_PER_USER_MAX).unwrap();
    assert!(open(store, "bob", 1, 1).await);
    for number in 0..=most {
        assert!(open(store, "alice", number, 100 + u64::from(number)).await);
    }
    assert!(!is_open(store, "alice", 0).await);
    for number in 1..=most {
        assert!(is_open(store, "alice", number).await, "{number}");
    }
    assert!(is_open(store, "bob", 1).await, "of somebody else");
    assert!(open(store, "bob", 2, 48 * HOUR_MS).await);
    for number in 1..=most {
        assert!(!is_open(store, "alice", number).await, "expired");
    }
}

#[tokio::test]
async fn the_last_who_can_log_in_with_a_role_keeps_it() {
    let fixture = with_users(&[("alice", "admin"), ("bob", "admin"), ("eve", "viewer")]).await;
    let store = &fixture.store;
    let change = |id: &'static str, change: UserChange| async move {
        let changed = store.change_user(id, &change, "admin", "test", 9).await;
        changed.unwrap().map(|user| user.standing)
    };
    let disable = |disabled| UserChange {
        disabled: Some(disabled),
        ..UserChange::default()
    };
    let demote = UserChange {
        roles: Some(vec!["viewer".to_owned()]),
        ..UserChange::default()
    };
    assert_eq!(
        change("id-of-alice", disable(true)).await,
        Ok(Standing::Disabled)
    );
    for taken in [disable(true), demote.clone()] {
        assert_eq!(
            change("id-of-bob", taken).await,
            Err(UserRefusal::LastOfRole)
        );
    }
    let bob = store.user("id-of-bob").await.unwrap().unwrap();
    assert_eq!(
        (bob.standing, bob.roles),
        (Standing::Active, vec!["admin".to_owned()])
    );
    assert_eq!(
        change("id-of-alice", disable(false)).await,
        Ok(Standing::Active)
    );
    assert_eq!(change("id-of-bob", demote).await, Ok(Standing::Active));
    assert_eq!(
        change("id-of-eve", disable(true)).await,
        Ok(Standing::Disabled)
    );
    assert_eq!(
        change("nobody", disable(true)).await,
        Err(UserRefusal::Unknown)
    );
}

#[tokio::test]
async fn a03_an_api_token_ends_by_revocation_time_and_its_owner() {
    let fixture = with_users(&[("alice", "admin"), ("bob", "admin")]).await;
    let store = &fixture.store;
    store
        .put_api_token(&token("a", Some("alice")))
        .await
        .unwrap();
    store.put_api_token(&token("z", None)).await.unwrap();
    let taken = store.put_api_token(&token("z", None)).await;
    assert!(matches!(taken, Err(StoreError::Exists(_))));
    let of_nobody = store.put_api_token(&token("n", Some("nobody"))).await;
    assert!(of_nobody.is_err());

    let stored = store.api_token("a").await.unwrap().unwrap();
    assert_eq!(stored.admits(&[7; 32], 11), Ok(()));
    assert_eq!(stored.admits(&[8; 32], 11), Err(TokenRefusal::Unknown));
    assert_eq!(
        stored.admits(&[7; 32], 10 + HOUR_MS),
        Err(TokenRefusal::Expired)
    );

    let disable = UserChange {
        disabled: Some(true),
        ..UserChange::default()
    };
    let disabled = store
        .change_user("id-of-alice", &disable, "admin", "bob", 12)
        .await;
    disabled.unwrap().unwrap();
    let stored = store.api_token("a").await.unwrap().unwrap();
    assert_eq!(stored.admits(&[7; 32], 13), Err(TokenRefusal::Revoked));

    assert!(store.revoke_api_token("z", "test", 14).await.unwrap());
    assert!(!store.revoke_api_token("z", "test", 15).await.unwrap());
    assert!(!store.revoke_api_token("nothing", "test", 15).await.unwrap());
    let stored = store.api_token("z").await.unwrap().unwrap();
    assert_eq!(stored.admits(&[7; 32], 16), Err(TokenRefusal::Revoked));
    assert_eq!(stored.revoked_unix_ms, Some(14));
}

#[tokio::test]
async fn the_use_of_an_api_token_is_noted_once_a_minute() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    store.put_api_token(&token("z", None)).await.unwrap();
    let minute = limits::LAST_USED_EVERY_MS;
    let now = 10 * minute;
    for (at, noted) in [
        (now, now),
        (now + minute - 1, now),
        (now + minute, now + minute),
    ] {
        let stored = store.api_token("z").await.unwrap().unwrap();
        store.note_api_token_use(&stored, at).await.unwrap();
        let stored = store.api_token("z").await.unwrap().unwrap();
        assert_eq!(stored.last_used_unix_ms, Some(noted));
    }
}

#[tokio::test]
async fn x05_an_owner_has_so_many_api_tokens_and_ended_ones_go() {
    let fixture = with_users(&[("alice", "admin")]).await;
    let store = &fixture.store;
    for number in 0..limits::API_TOKENS_PER_OWNER_MAX {
        store
            .put_api_token(&token(&format!("a{number:04}"), Some("alice")))
            .await
            .unwrap();
    }
    let refused = store.put_api_token(&token("more", Some("alice"))).await;
    assert!(
        matches!(refused, Err(StoreError::TooLarge { .. })),
        "{refused:?}"
    );
    store.put_api_token(&token("other", None)).await.unwrap();
    assert!(store.revoke_api_token("a0000", "test", 11).await.unwrap());
    store
        .put_api_token(&token("more", Some("alice")))
        .await
        .unwrap();
    let listed = store
        .api_tokens(Some("id-of-alice"), "", 9999)
        .await
        .unwrap();
    let most = usize::try_from(limits::API_TOKENS_PER_OWNER_MAX).unwrap();
    assert_eq!(
        listed.len(),
        most + 1,
        "a revoked one is listed for a while"
    );
    let mut later = token("later", None);
    later.created_unix_ms = 10 + 2 * HOUR_MS + limits::API_TOKEN_KEPT_MS;
    later.expires_unix_ms = later.created_unix_ms + HOUR_MS;
    store.put_api_token(&later).await.unwrap();
    let left = store.api_tokens(None, "", 9999).await.unwrap();
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn a03_at_rest_there_are_only_hashes() {
    let fixture = with_users(&[("alice", "admin")]).await;
    assert!(open(&fixture.store, "alice", 1, 100).await);
    fixture
        .store
        .put_api_token(&token("a", None))
        .await
        .unwrap();
    let mut vandal = fixture.vandal().await;
    for (table, column) in [("session", "sha256"), ("api_token", "sha256")] {
        let sql = format!("SELECT {column} FROM {table}");
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .fetch_all(&mut vandal)
            .await
            .unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].get::<Vec<u8>, _>(0).len(), 32);
    }
}

#[tokio::test]
async fn a_user_that_cannot_be_read_is_an_error_and_nobody() {
    let fixture = with_users(&[("alice", "admin")]).await;
    assert!(open(&fixture.store, "alice", 1, 100).await);
    let mut vandal = fixture.vandal().await;
    sqlx::raw_sql("UPDATE account SET roles = '[1'")
        .execute(&mut vandal)
        .await
        .unwrap();
    for refused in [
        fixture.store.user_named("alice").await.map(drop),
        fixture.store.session("session-alice-001").await.map(drop),
    ] {
        assert!(
            matches!(refused, Err(StoreError::Unreadable { .. })),
            "{refused:?}"
        );
    }
}
