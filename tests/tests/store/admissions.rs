//! What an enrolment stands on when it is concluded: its entry in the audit log, the token, the
//! operator's approval, and the key that it proposes.

use rat_engine::shard::AgentRecord;
use rat_store::{
    Activated, Answered, Conflict, NewPending, NewToken, Store, TokenKind, key_sha256,
};
use rat_tests::fleet::{self, GROUP};

use super::{ANSWERED, Fixture, registration};

async fn pend(store: &Store, record: &AgentRecord) {
    let pending = NewPending {
        id: "activation",
        agent: &record.id,
        body: b"",
        expires_unix_ms: 50,
    };
    store.put_pending(pending, 1).await.unwrap();
}

async fn conclude(
    store: &Store,
    answered: &Answered<'_>,
    record: &AgentRecord,
) -> Result<Activated, Conflict> {
    store
        .activate(answered, record, &registration())
        .await
        .unwrap()
}

#[tokio::test]
async fn s12_an_enrolment_without_its_entry_in_the_audit_log_is_none() {
    let fixture = Fixture::new().await;
    let (store, record) = (&fixture.store, fleet::record(1));
    pend(store, &record).await;
    let mut vandal = fixture.vandal().await;
    sqlx::raw_sql(
        "CREATE TRIGGER full BEFORE INSERT ON audit
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    )
    .execute(&mut vandal)
    .await
    .unwrap();
    let refused = store.activate(&ANSWERED, &record, &registration()).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(store.agent_count().await.unwrap(), 0);
    assert_eq!(store.agent(&record.id).await.unwrap(), None);
    // It was not used up, so that the machine's next try can be taken.
    sqlx::raw_sql("DROP TRIGGER full")
        .execute(&mut vandal)
        .await
        .unwrap();
    let answered = Answered {
        actor: "token 0123456789abcdef",
        ..ANSWERED
    };
    assert!(conclude(store, &answered, &record).await.is_ok());
    pend(store, &record).await;
    assert!(conclude(store, &ANSWERED, &record).await.is_ok());
    let entries = store.audit_entries(0, 1000).await.unwrap();
    let enrolled = entries
        .iter()
        .filter(|entry| entry.target == record.id.as_str());
    let enrolled: Vec<_> = enrolled
        .map(|entry| (&*entry.actor, &*entry.action, &*entry.detail))
        .collect();
    assert_eq!(
        enrolled,
        [
            ("token 0123456789abcdef", "agent.enrol", GROUP),
            ("test", "agent.enrol_again", GROUP),
        ]
    );
    assert!(store.verify_audit().await.unwrap().is_ok());
}

#[tokio::test]
async fn n08_what_was_revoked_or_withdrawn_before_the_transaction_lets_nobody_in() {
    let fixture = Fixture::new().await;
    let (store, record) = (&fixture.store, fleet::record(1));
    pend(store, &record).await;
    let token = NewToken {
        id: "0123456789abcdef".to_owned(),
        sha256: [3; 32],
        kind: TokenKind::Enrol,
        group: GROUP.to_owned(),
        uses_max: None,
        expires_unix_ms: Some(1 << 40),
        created_by: "ann".to_owned(),
        created_unix_ms: 1,
    };
    let of_token = Answered {
        token_id: Some(&token.id),
        ..ANSWERED
    };
    let refused = conclude(store, &of_token, &record).await;
    assert_eq!(refused, Err(Conflict::TokenRevoked), "there is none");
    store.put_token(&token).await.unwrap();
    store.revoke_token(&token.id, "ann", 2).await.unwrap();
    let refused = conclude(store, &of_token, &record).await;
    assert_eq!(refused, Err(Conflict::TokenRevoked));
    let by_approval = Answered {
        needs_approval: true,
        ..ANSWERED
    };
    let ek = &record.ek_sha256;
    store.approve_ek(GROUP, ek, "ann", 2).await.unwrap();
    store.withdraw_ek(GROUP, ek, "ann", 3).await.unwrap();
    let refused = conclude(store, &by_approval, &record).await;
    assert_eq!(refused, Err(Conflict::NotApproved));
    assert_eq!(store.agent_count().await.unwrap(), 0);
    store.approve_ek(GROUP, ek, "ann", 4).await.unwrap();
    assert!(conclude(store, &by_approval, &record).await.is_ok());
}

#[tokio::test]
async fn n06_a_key_is_approved_as_it_was_seen_and_withdrawn_by_enrolling_with_the_old_one() {
    let fixture = Fixture::with_agents(1..2).await;
    let (store, old) = (&fixture.store, fleet::record(1));
    let with_key = |key: u8| AgentRecord {
        ak_public: vec![key; 90],
        ..old.clone()
    };
    let propose = async |key: u8| {
        let proposed = fixture.enrol(&with_key(key)).await;
        assert_eq!(proposed, Ok(Activated::NewAkNeedsOperator));
    };
    propose(8).await;
    propose(9).await;
    // The operator saw the one before.
    let seen = key_sha256(&with_key(8).ak_public);
    let approve = async |key: &[u8; 32]| {
        let approved = store.approve_ak(&old.id, Some(key), "ann", 3).await;
        approved.unwrap()
    };
    assert_eq!(approve(&seen).await, None);
    let waiting = store.proposed_ak(&old.id).await.unwrap().unwrap();
    assert_eq!(waiting.ak_public, with_key(9).ak_public);
    // The machine is back with the key that it had.
    let again = fixture.enrol(&old).await;
    assert!(matches!(again, Ok(Activated::SameAgain(_))));
    assert_eq!(store.proposed_ak(&old.id).await.unwrap(), None);
    let seen = key_sha256(&with_key(9).ak_public);
    assert_eq!(approve(&seen).await, None);
    propose(9).await;
    let approved = approve(&seen).await.unwrap();
    assert_eq!(approved.record.ak_public, with_key(9).ak_public);
}
