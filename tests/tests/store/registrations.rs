//! Registrations of agents of Keylime: written over what was read, or not at all.

use rat_engine::agent_id::AgentId;
use rat_store::limits::KEYLIME_PENDING_PER_ADDRESS_MAX;
use rat_store::{
    KeylimeActivated, KeylimeChallenge, KeylimeConflict, KeylimeDetails, KeylimeMtlsCertificate,
    KeylimeRegistration, KeylimeStanding, KeylimeVouch, NewKeylimeRegistration, Revision, Store,
    StoreError,
};
use rat_tests::fleet::hash;

use super::Fixture;

const EXPIRES: u64 = 1_000;

fn id(text: &str) -> AgentId {
    AgentId::parse(text).unwrap()
}

fn registration(name: &str) -> KeylimeRegistration {
    KeylimeRegistration {
        id: id(name),
        ek_sha256: hash(
            "keylime ek",
            name.len() as u64 + u64::from(name.as_bytes()[0]),
        ),
        ek_public: vec![1; 300],
        ak_public: vec![2; 300],
        details: KeylimeDetails {
            ek_certificate: None,
            vouch: KeylimeVouch::List,
            device: None,
            ip: Some("192.0.2.1".to_owned()),
            port: Some(9002),
            mtls_cert: KeylimeMtlsCertificate::Disabled,
        },
        regcount: 1,
        standing: KeylimeStanding::Pending {
            expires_unix_ms: EXPIRES,
        },
        challenge: Some(KeylimeChallenge {
            answer_sha256: [7; 32],
            expires_unix_ms: EXPIRES,
            staged: None,
        }),
        proposed: None,
        registered_unix_ms: 3,
    }
}

async fn put(
    store: &Store,
    registration: &KeylimeRegistration,
    over: Option<Revision>,
) -> Result<(), KeylimeConflict> {
    let new = NewKeylimeRegistration {
        registration,
        over,
        source: "192.0.2.9",
        shares_ek: false,
    };
    store.put_keylime_registration(new, 5).await.unwrap()
}

async fn read(store: &Store, name: &str) -> Option<(KeylimeRegistration, Revision)> {
    store.keylime_registration(&id(name), 5).await.unwrap()
}

/// An agent that has registered and answered.
pub(crate) async fn activated(store: &Store, name: &str) {
    put(store, &registration(name), None).await.unwrap();
    let (_, revision) = read(store, name).await.unwrap();
    let id = id(name);
    let activated = store.activate_keylime_registration(&id, revision, false, 6);
    assert_eq!(activated.await.unwrap(), Ok(KeylimeActivated::New));
}

#[tokio::test]
async fn n07_what_was_decided_on_an_older_record_is_not_written() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let first = registration("a");
    put(store, &first, None).await.unwrap();
    assert_eq!(
        put(store, &first, None).await,
        Err(KeylimeConflict::Changed)
    );
    let (kept, revision) = read(store, "a").await.unwrap();
    assert_eq!(kept, first);
    let mut second = first.clone();
    second.details.port = Some(1);
    put(store, &second, Some(revision)).await.unwrap();
    let stale = put(store, &first, Some(revision)).await;
    assert_eq!(stale, Err(KeylimeConflict::Changed));
    let id = id("a");
    let activated = store.activate_keylime_registration(&id, revision, false, 6);
    assert_eq!(activated.await.unwrap(), Err(KeylimeConflict::Changed));
    let refused = store.refuse_keylime_answer(&id, revision, 6);
    assert_eq!(refused.await.unwrap(), Err(KeylimeConflict::Changed));
    assert_eq!(read(store, "a").await.unwrap().0, second);
}

#[tokio::test]
async fn n05_a_registration_that_was_not_proven_ends_and_makes_room() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    for number in 0..KEYLIME_PENDING_PER_ADDRESS_MAX {
        put(store, &registration(&format!("a{number}")), None)
            .await
            .unwrap();
    }
    let full = put(store, &registration("b"), None).await;
    let limit = "KEYLIME_PENDING_PER_ADDRESS_MAX";
    assert_eq!(full, Err(KeylimeConflict::TooMany { limit }));
    let later = KeylimeRegistration {
        standing: KeylimeStanding::Pending {
            expires_unix_ms: EXPIRES + 5,
        },
        ..registration("b")
    };
    let new = NewKeylimeRegistration {
        registration: &later,
        over: None,
        source: "192.0.2.9",
        shares_ek: false,
    };
    let put = store.put_keylime_registration(new, EXPIRES).await.unwrap();
    assert_eq!(put, Ok(()));
    let ids = store.keylime_registration_ids(EXPIRES).await.unwrap();
    assert_eq!(ids, ["b"]);
    let entries = store.audit_entries(1, 10).await.unwrap();
    assert!(entries.is_empty(), "anybody can do this: {entries:?}");
    assert!(
        !store
            .remove_keylime_registration(&id("b"), "op", EXPIRES + 5)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn n10_a_wrong_answer_ends_what_was_never_active_and_of_others_the_question() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    put(store, &registration("a"), None).await.unwrap();
    let (_, revision) = read(store, "a").await.unwrap();
    let refused = store.refuse_keylime_answer(&id("a"), revision, 6).await;
    assert!(matches!(
        refused.unwrap(),
        Ok(KeylimeStanding::Pending { .. })
    ));
    assert_eq!(read(store, "a").await, None);
    activated(store, "a").await;
    let (active, revision) = read(store, "a").await.unwrap();
    let asked = KeylimeRegistration {
        challenge: registration("a").challenge,
        ..active.clone()
    };
    put(store, &asked, Some(revision)).await.unwrap();
    let (_, revision) = read(store, "a").await.unwrap();
    let refused = store.refuse_keylime_answer(&id("a"), revision, 6).await;
    assert_eq!(refused.unwrap(), Ok(KeylimeStanding::Active));
    assert_eq!(read(store, "a").await.unwrap().0, active);
    assert!(
        store
            .remove_keylime_registration(&id("a"), "op", 7)
            .await
            .unwrap()
    );
    assert!(
        !store
            .remove_keylime_registration(&id("a"), "op", 7)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn s06_a_damaged_registration_is_refused_and_can_be_removed() {
    let fixture = Fixture::new().await;
    activated(&fixture.store, "a").await;
    activated(&fixture.store, "b").await;
    let mut vandal = fixture.vandal().await;
    sqlx::query("UPDATE keylime_registration SET packed = x'04000102' WHERE id = 'a'")
        .execute(&mut vandal)
        .await
        .unwrap();
    let store = &fixture.store;
    let refused = store.keylime_registration(&id("a"), 5).await;
    assert!(matches!(refused, Err(StoreError::Unreadable { .. })));
    assert!(read(store, "b").await.is_some());
    assert!(
        store
            .remove_keylime_registration(&id("a"), "op", 7)
            .await
            .unwrap()
    );
    activated(store, "a").await;
}
