//! Tokens, activations, and machines that failed.

use rat_engine::shard::{AgentPath, AgentRecord, AgentState};
use rat_engine::verdict::Code;
use rat_store::{
    Activated, Answered, Conflict, NewPending, NewToken, OnRemoval, RecordChange, RetentionPolicy,
    Store, StoreError, StoredAgent, TokenKind, TokenRefusal, TryResult,
};
use rat_tests::fleet;

use super::{Fixture, registration};

fn token(id: &str, kind: TokenKind, uses_max: Option<u64>) -> NewToken {
    NewToken {
        id: id.to_owned(),
        sha256: fleet::hash("token", 1),
        kind,
        group: fleet::GROUP.to_owned(),
        uses_max,
        expires_unix_ms: Some(100),
        created_by: "ann".to_owned(),
        created_unix_ms: 1,
    }
}

#[tokio::test]
async fn n03_a_token_is_taken_only_while_it_admits() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let right = fleet::hash("token", 1);
    let wrong = fleet::hash("token", 2);
    store
        .put_token(&token("a", TokenKind::Enrol, Some(2)))
        .await
        .unwrap();
    store
        .put_token(&token("b", TokenKind::Baseline, None))
        .await
        .unwrap();
    store
        .put_token(&token("c", TokenKind::Enrol, None))
        .await
        .unwrap();
    let again = store.put_token(&token("a", TokenKind::Enrol, None)).await;
    assert!(matches!(again, Err(StoreError::Exists(_))));

    let attempt = async |id, hash, now| {
        store
            .use_token(id, hash, now)
            .await
            .unwrap()
            .map(|t| t.uses)
    };
    assert_eq!(attempt("none", &right, 2).await, Err(TokenRefusal::Unknown));
    assert_eq!(attempt("a", &wrong, 2).await, Err(TokenRefusal::Unknown));
    assert_eq!(attempt("a", &right, 100).await, Err(TokenRefusal::Expired));
    assert_eq!(store.token("a").await.unwrap().unwrap().uses, 0);
    assert_eq!(attempt("a", &right, 2).await, Ok(1));
    assert_eq!(attempt("a", &right, 2).await, Ok(2));
    assert_eq!(attempt("a", &right, 2).await, Err(TokenRefusal::Used));
    // A baseline is used once, whatever its maker said.
    assert_eq!(attempt("b", &right, 2).await, Ok(1));
    assert_eq!(attempt("b", &right, 2).await, Err(TokenRefusal::Used));
    assert_eq!(attempt("c", &right, 2).await, Ok(1));
    assert!(store.revoke_token("c", "ann", 3).await.unwrap());
    assert!(!store.revoke_token("c", "ann", 3).await.unwrap());
    assert_eq!(attempt("c", &right, 4).await, Err(TokenRefusal::Revoked));
    assert_eq!(store.tokens("a", 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_token_itself_is_nowhere_in_the_files() {
    let fixture = Fixture::new().await;
    let secret = b"esp_b_this-is-the-whole-secret-token";
    let mut kept = token("a", TokenKind::Enrol, None);
    let digest = rat_engine::crypto::digest(rat_engine::hash::HashAlg::Sha256, secret);
    kept.sha256 = digest.as_bytes().try_into().unwrap();
    fixture.store.put_token(&kept).await.unwrap();
    for entry in std::fs::read_dir(fixture.directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn n07_of_two_uses_of_the_last_one_succeeds() {
    let fixture = Fixture::new().await;
    let once = token("a", TokenKind::Baseline, None);
    fixture.store.put_token(&once).await.unwrap();
    let beside = Store::open_shared(fixture.directory.path()).await.unwrap();
    let (left, right) = tokio::join!(
        fixture.store.use_token("a", &once.sha256, 2),
        beside.use_token("a", &once.sha256, 2),
    );
    let taken = [left.unwrap(), right.unwrap()];
    assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 1);
    assert_eq!(fixture.store.token("a").await.unwrap().unwrap().uses, 1);
}

async fn pend(store: &Store, id: &str, record: &AgentRecord) {
    let pending = NewPending {
        id,
        agent: &record.id,
        body: id.as_bytes(),
        expires_unix_ms: 50,
    };
    store.put_pending(pending, 1).await.unwrap();
}

#[tokio::test]
async fn n07_the_first_of_parallel_enrolments_wins() {
    let fixture = Fixture::new().await;
    let beside = Store::open_shared(fixture.directory.path()).await.unwrap();
    let mine = fleet::record(1);
    let other = AgentRecord {
        id: mine.id.clone(),
        ..fleet::record(2)
    };
    pend(&fixture.store, "mine", &mine).await;
    pend(&fixture.store, "other", &other).await;
    assert_eq!(
        fixture
            .store
            .pending("mine", 2)
            .await
            .unwrap()
            .unwrap()
            .body,
        b"mine"
    );
    let registration = registration();
    let answers = ["mine", "other"].map(|id| Answered::new(id, "test"));
    let (left, right) = tokio::join!(
        fixture.store.activate(&answers[0], &mine, &registration),
        beside.activate(&answers[1], &other, &registration),
    );
    let results = [left.unwrap(), right.unwrap()];
    let won = results
        .iter()
        .filter(|r| matches!(r, Ok(Activated::New(_))));
    assert_eq!(won.count(), 1);
    assert!(results.contains(&Err(Conflict::IdTaken)));
    let stored = fixture.store.agent(&mine.id).await.unwrap().unwrap();
    let winner = if results[0].is_ok() { &mine } else { &other };
    assert_eq!(stored.record, *winner);
    assert_eq!(fixture.store.agent_count().await.unwrap(), 1);
}

#[tokio::test]
async fn an_activation_is_answered_once_in_time_by_its_own_agent() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let record = fleet::record(1);
    let not_pending = Err(Conflict::NotPending);
    let other = fleet::record(2);
    let answer = async |id, record, now| {
        let mut registration = registration();
        registration.registered_unix_ms = now;
        let answered = Answered::new(id, "test");
        store
            .activate(&answered, record, &registration)
            .await
            .unwrap()
    };
    assert_eq!(answer("p", &record, 2).await, not_pending);
    pend(store, "p", &record).await;
    assert_eq!(answer("p", &other, 2).await, not_pending);
    assert_eq!(answer("p", &record, 50).await, not_pending);
    assert_eq!(store.pending("p", 50).await.unwrap(), None);
    assert_eq!(store.agent_count().await.unwrap(), 0);
    assert!(answer("p", &record, 49).await.is_ok());
    assert_eq!(answer("p", &record, 49).await, not_pending);
}

#[tokio::test]
async fn wrong_answers_use_an_activation_up() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    pend(store, "p", &fleet::record(1)).await;
    assert_eq!(store.count_try("p", 3).await.unwrap(), TryResult::Left(2));
    assert_eq!(store.count_try("p", 3).await.unwrap(), TryResult::Left(1));
    assert_eq!(store.pending("p", 2).await.unwrap().unwrap().tries, 2);
    assert_eq!(store.count_try("p", 3).await.unwrap(), TryResult::Dropped);
    assert_eq!(store.count_try("p", 3).await.unwrap(), TryResult::Unknown);
    assert_eq!(store.pending("p", 2).await.unwrap(), None);
    pend(store, "q", &fleet::record(1)).await;
    let dropped = store
        .retention(50, &RetentionPolicy::default())
        .await
        .unwrap();
    assert_eq!(dropped.pending, 1);
    assert!(!store.drop_pending("q").await.unwrap());
}

#[tokio::test]
async fn s16_one_machine_has_one_id_and_one_id_one_machine_path_and_key() {
    let fixture = Fixture::with_agents(1..2).await;
    let mine = fleet::record(1);
    let renamed = AgentRecord {
        id: fleet::agent(2),
        ..mine.clone()
    };
    let enrolled = Conflict::EkEnrolled(mine.id.as_str().to_owned());
    assert_eq!(fixture.enrol(&renamed).await, Err(enrolled));
    let other_machine = AgentRecord {
        ek_sha256: fleet::hash("ek", 2),
        ..mine.clone()
    };
    assert_eq!(fixture.enrol(&other_machine).await, Err(Conflict::IdTaken));
    let other_path = AgentRecord {
        path: AgentPath::KeylimePush,
        ..mine.clone()
    };
    assert_eq!(fixture.enrol(&other_path).await, Err(Conflict::OtherPath));
    let stored = fixture.store.agent(&mine.id).await.unwrap().unwrap();
    assert_eq!(stored.record, mine);
    assert_eq!(fixture.store.agent_count().await.unwrap(), 1);
}

#[tokio::test]
async fn enrolling_again_renews_the_certificate_and_keeps_the_state() {
    let fixture = Fixture::with_agents(1..2).await;
    fixture.commit(vec![fleet::failed_outcome(1, 4)]).await;
    let renewed = AgentRecord {
        client_key_sha256: fleet::hash("client", 9),
        ..fleet::record(1)
    };
    let again = fixture.enrol(&renewed).await;
    let expected = StoredAgent {
        record: renewed.clone(),
        state: fleet::failed_outcome(1, 4).state,
    };
    assert_eq!(again, Ok(Activated::SameAgain(expected.clone())));
    assert_eq!(fixture.load().await.agents, [expected]);
}

async fn other_group(store: &Store) -> String {
    let group = rat_store::NewGroup {
        slug: "other".to_owned(),
        hex_id: "1f".to_owned(),
        settings: Default::default(),
    };
    store.create_group(&group, "ann", 5).await.unwrap();
    group.slug
}

#[tokio::test]
async fn s16_a_token_of_another_group_moves_no_machine_and_ends_no_failure() {
    let fixture = Fixture::with_agents(1..2).await;
    fixture.commit(vec![fleet::failed_outcome(1, 4)]).await;
    let elsewhere = AgentRecord {
        group: other_group(&fixture.store).await,
        ..fleet::record(1)
    };
    let with_new_key = AgentRecord {
        ak_public: vec![9; 90],
        ..elsewhere.clone()
    };
    let before = fixture.load().await;
    for record in [&elsewhere, &with_new_key] {
        let refused = fixture.enrol(record).await;
        assert_eq!(refused, Err(Conflict::OtherGroup));
        assert_eq!(fixture.load().await, before);
    }
    let agent = fleet::agent(1);
    assert_eq!(fixture.store.proposed_ak(&agent).await.unwrap(), None);
    // Nor does a detour over the removal, whenever the failure was committed.
    for is_late in [false, true] {
        let fixture = Fixture::with_agents(1..2).await;
        other_group(&fixture.store).await;
        let tick = fixture.tick(vec![fleet::failed_outcome(1, 4)]).await;
        let remove = async || {
            let keep = OnRemoval::KeepFailure;
            let removed = fixture.store.remove_agent(&agent, keep, "ann", 5).await;
            assert!(removed.unwrap().is_some());
        };
        if is_late {
            remove().await;
        }
        fixture.store.commit(&[tick]).await.unwrap();
        if !is_late {
            remove().await;
        }
        let refused = fixture.enrol(&elsewhere).await;
        assert_eq!(refused, Err(Conflict::OtherGroup), "late: {is_late}");
        assert_eq!(fixture.store.agent_count().await.unwrap(), 0);
        match fixture.enrol(&fleet::record(1)).await {
            Ok(Activated::New(back)) => {
                assert_eq!(back.state.failure.as_deref(), Some(&fleet::failure()))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn s16_enrolling_again_keeps_what_an_operator_bound() {
    let fixture = Fixture::with_agents(1..2).await;
    let (store, agent) = (&fixture.store, fleet::agent(1));
    let candidate = rat_engine::shard::BaselineCandidate {
        policy: rat_engine::crypto::digest(rat_engine::hash::HashAlg::Sha256, b"baseline"),
        covers: fleet::state(1, 1).ima.unwrap(),
    };
    for change in [
        RecordChange::Relay(Some(fleet::hash("relay", 1))),
        RecordChange::Baseline(Some(candidate.clone())),
    ] {
        let changed = store.change_agent(&agent, change, "ann", 5).await;
        assert!(changed.unwrap().is_some());
    }
    let bound = |record: &AgentRecord| (record.relay_key_sha256, record.baseline.clone());
    let expected = (Some(fleet::hash("relay", 1)), Some(candidate.clone()));
    let again = fixture.enrol(&fleet::record(1)).await;
    assert!(matches!(again, Ok(Activated::SameAgain(_))), "{again:?}");
    let kept = store.agent(&agent).await.unwrap().unwrap();
    assert_eq!(bound(&kept.record), expected);
    // A baseline that comes with it is newer.
    let newer = rat_engine::shard::BaselineCandidate {
        policy: rat_engine::crypto::digest(rat_engine::hash::HashAlg::Sha256, b"newer"),
        ..candidate
    };
    let with_newer = AgentRecord {
        baseline: Some(newer.clone()),
        ..fleet::record(1)
    };
    fixture.enrol(&with_newer).await.unwrap();
    let kept = store.agent(&agent).await.unwrap().unwrap();
    assert_eq!(kept.record.baseline, Some(newer.clone()));
    // Nor does a new key undo what was bound before or after it was proposed.
    let new_key = AgentRecord {
        ak_public: vec![9; 90],
        ..fleet::record(1)
    };
    let proposed = fixture.enrol(&new_key).await;
    assert_eq!(proposed, Ok(Activated::NewAkNeedsOperator));
    let there = RecordChange::Group(other_group(store).await);
    store.change_agent(&agent, there, "ann", 6).await.unwrap();
    let approved = store
        .approve_ak(&agent, None, "ann", 7)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(approved.record.group, "other");
    assert_eq!(approved.record.relay_key_sha256, expected.0);
    assert_eq!(approved.record.baseline, Some(newer));
}

#[tokio::test]
async fn a_new_attestation_key_waits_for_an_operator() {
    let fixture = Fixture::with_agents(1..2).await;
    fixture.commit(vec![fleet::failed_outcome(1, 4)]).await;
    let old = fleet::record(1);
    let renewed = AgentRecord {
        ak_public: vec![9; 90],
        ..old.clone()
    };
    let store = &fixture.store;
    assert_eq!(
        store.approve_ak(&old.id, None, "ann", 3).await.unwrap(),
        None
    );
    assert_eq!(
        fixture.enrol(&renewed).await,
        Ok(Activated::NewAkNeedsOperator)
    );
    assert_eq!(fixture.load().await.agents[0].record, old);
    let proposed = store.proposed_ak(&old.id).await.unwrap().unwrap();
    assert_eq!(proposed.ak_public, renewed.ak_public);
    let approved = store
        .approve_ak(&old.id, None, "ann", 3)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(approved.record.ak_epoch, 2);
    assert_eq!(approved.record.ak_public, renewed.ak_public);
    assert_eq!(approved.state.trusted_until_unix_ms, 0);
    assert_eq!(approved.state.failure.as_deref(), Some(&fleet::failure()));
    assert_eq!(fixture.load().await.agents, [approved]);
    assert_eq!(store.proposed_ak(&old.id).await.unwrap(), None);
}

#[tokio::test]
async fn s16_a_failure_stays_with_the_machine() {
    for folded in [false, true] {
        for id in [1, 2] {
            let fixture = Fixture::with_agents(1..2).await;
            fixture.commit(vec![fleet::failed_outcome(1, 4)]).await;
            if folded {
                fixture.fold_all().await;
            }
            let store = &fixture.store;
            let keep = OnRemoval::KeepFailure;
            let removed = store.remove_agent(&fleet::agent(1), keep, "ann", 5).await;
            let removed = removed.unwrap().unwrap();
            assert_eq!(removed.record, Some(fleet::record(1)));
            assert_eq!(removed.failure, Some(fleet::failure()));
            assert_eq!(fixture.load().await.agents, []);
            // Under the same id or another, it comes back failed.
            let record = AgentRecord {
                id: fleet::agent(id),
                ..fleet::record(1)
            };
            let expected = StoredAgent {
                record: record.clone(),
                state: AgentState {
                    failure: Some(fleet::failure().into()),
                    ..AgentState::default()
                },
            };
            let back = fixture.enrol(&record).await;
            assert_eq!(back, Ok(Activated::New(expected.clone())));
            let fixture = fixture.reopen().await;
            assert_eq!(fixture.load().await.agents, [expected]);
        }
    }
}

#[tokio::test]
async fn s16_moving_keeps_the_failure_and_clearing_is_audited() {
    let fixture = Fixture::with_agents(1..2).await;
    fixture.commit(vec![fleet::failed_outcome(1, 4)]).await;
    let store = &fixture.store;
    other_group(store).await;
    let agent = fleet::agent(1);
    let nowhere = RecordChange::Group("none".to_owned());
    let missing = store.change_agent(&agent, nowhere, "ann", 6).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
    let there = RecordChange::Group("other".to_owned());
    let moved = store
        .change_agent(&agent, there, "ann", 6)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(moved.group, "other");
    let loaded = fixture.load().await;
    assert_eq!(loaded.agents[0].record, moved);
    assert_eq!(
        loaded.agents[0].state.failure.as_deref(),
        Some(&fleet::failure())
    );

    let clear = OnRemoval::ClearFailure;
    let removed = store
        .remove_agent(&agent, clear, "ann", 7)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(removed.failure, None);
    let last = store.audit_entries(0, 100).await.unwrap().pop().unwrap();
    assert_eq!(
        (last.actor.as_str(), last.action.as_str()),
        ("ann", "agent.remove")
    );
    assert_eq!(last.detail, "failure cleared");
    match fixture.enrol(&fleet::record(1)).await {
        Ok(Activated::New(agent)) => assert_eq!(agent.state, AgentState::default()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn s16_a_failure_committed_after_the_removal_still_sticks() {
    let fixture = Fixture::with_agents(1..2).await;
    let late = fixture.tick(vec![fleet::failed_outcome(1, 4)]).await;
    let agent = fleet::agent(1);
    let keep = OnRemoval::KeepFailure;
    let removed = fixture.store.remove_agent(&agent, keep, "ann", 5).await;
    assert_eq!(removed.unwrap().unwrap().failure, None);
    fixture.store.commit(&[late]).await.unwrap();
    match fixture.enrol(&fleet::record(1)).await {
        Ok(Activated::New(agent)) => {
            assert_eq!(agent.state.failure.as_deref(), Some(&fleet::failure()));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn n08_what_is_committed_of_a_removed_agent_is_not_the_next_ones() {
    let fixture = Fixture::with_agents(1..2).await;
    fixture.commit(vec![fleet::outcome(1, 7)]).await;
    let agent = fleet::agent(1);
    let keep = OnRemoval::KeepFailure;
    let late = fixture.tick(vec![fleet::outcome(1, 8)]).await;
    fixture
        .store
        .remove_agent(&agent, keep, "ann", 5)
        .await
        .unwrap();
    fixture.store.commit(&[late]).await.unwrap();
    let successor = AgentRecord {
        id: agent.clone(),
        ..fleet::record(2)
    };
    fixture.enrol(&successor).await.unwrap();
    for fold in [false, true] {
        if fold {
            fixture.fold_all().await;
        }
        let loaded = fixture.load().await;
        assert_eq!(loaded.agents[0].record, successor);
        assert_eq!(loaded.agents[0].state, AgentState::default());
    }
}

#[tokio::test]
async fn s16_an_agent_whose_state_cannot_be_read_is_removed_as_failed() {
    for keep in [OnRemoval::KeepFailure, OnRemoval::ClearFailure] {
        let fixture = Fixture::with_agents(1..2).await;
        fixture.commit(vec![fleet::outcome(1, 4)]).await;
        fixture.fold_all().await;
        sqlx::query("UPDATE agent_state SET packed = x'01'")
            .execute(&mut fixture.vandal().await)
            .await
            .unwrap();
        let agent = fleet::agent(1);
        let removed = fixture.store.remove_agent(&agent, keep, "ann", 5).await;
        let kept = removed.unwrap().unwrap().failure;
        assert_eq!(fixture.store.agent_count().await.unwrap(), 0);
        let again = fixture.enrol(&fleet::record(1)).await.unwrap();
        let Activated::New(again) = again else {
            panic!("{again:?}");
        };
        assert_eq!(again.state.failure.as_deref(), kept.as_ref());
        let code = kept.map(|failure| failure.code);
        let expected = match keep {
            OnRemoval::KeepFailure => Some(Code::IdentityHistoryLost),
            OnRemoval::ClearFailure => None,
        };
        assert_eq!(code, expected);
    }
}

#[tokio::test]
async fn agents_are_listed_page_by_page() {
    let fixture = Fixture::with_agents(1..8).await;
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = fixture.store.agents(&after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.as_ref().unwrap().record.id.as_str().to_owned();
        seen.extend(page.into_iter().map(|agent| agent.unwrap().record.id));
    }
    let mut expected: Vec<_> = (1..8).map(fleet::agent).collect();
    expected.sort();
    assert_eq!(seen, expected);
}
