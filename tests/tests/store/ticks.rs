//! Commit, fold, load, and the chain.

use rat_engine::shard::{ChainHash, Epoch, Tick};
use rat_store::{ChainFault, CommitResult, Fault, RetentionPolicy, RowName, StoreError};
use rat_tests::fleet;

use super::{Fixture, head};

const ONE: u64 = 1;

#[tokio::test]
async fn s03_a_committed_tick_is_there_before_and_after_the_fold_and_a_restart() {
    let fixture = Fixture::with_agents(1..4).await;
    for attestation in 1..4 {
        fixture.commit(vec![fleet::outcome(ONE, attestation)]).await;
    }
    let expected = fleet::state(ONE, 3);
    let state_of = |loaded: rat_store::Loaded| {
        let agent = fleet::agent(ONE);
        assert_eq!(loaded.unreadable, []);
        assert_eq!(loaded.agents.len(), 3);
        let found = loaded.agents.into_iter().find(|a| a.record.id == agent);
        found.unwrap().state
    };
    assert_eq!(state_of(fixture.load().await), expected);
    fixture.fold_all().await;
    assert_eq!(state_of(fixture.load().await), expected);
    let fixture = fixture.reopen().await;
    assert_eq!(state_of(fixture.load().await), expected);
}

#[tokio::test]
async fn s03_a_retried_commit_changes_nothing() {
    let fixture = Fixture::with_agents(1..2).await;
    let tick = fixture.commit(vec![fleet::outcome(ONE, 1)]).await;
    let before = head(&fixture.store, tick.shard).await;
    for _ in 0..2 {
        let again = fixture.store.commit(std::slice::from_ref(&tick)).await;
        assert_eq!(again.unwrap(), [CommitResult::AlreadyCommitted]);
        assert_eq!(head(&fixture.store, tick.shard).await, before);
        fixture.fold_all().await;
    }
    // Another tick of the same number is not the same tick.
    let shard = tick.shard;
    let other = Tick::new(
        shard,
        fixture.epoch,
        1,
        ChainHash::default(),
        vec![fleet::outcome(ONE, 9)],
    );
    let refused = fixture.store.commit(&[other]).await.unwrap();
    assert_eq!(refused, [CommitResult::OutOfOrder]);
    assert_eq!(head(&fixture.store, shard).await, before);
}

#[tokio::test]
async fn s04_a_stale_owner_changes_nothing_and_does_not_hold_up_others() {
    let fixture = Fixture::with_agents(1..3).await;
    let stale = fixture.tick(vec![fleet::outcome(1, 1)]).await;
    let newer = fixture.store.take_ownership("other").await.unwrap();
    assert!(newer > fixture.epoch);
    let own = {
        let tick = fixture.tick(vec![fleet::outcome(2, 1)]).await;
        Tick {
            epoch: newer,
            ..tick
        }
    };
    let from_the_future = Tick {
        epoch: Epoch(newer.0 + 1),
        ..stale.clone()
    };
    let ticks = [stale.clone(), own.clone(), from_the_future];
    let results = fixture.store.commit(&ticks).await.unwrap();
    use CommitResult::{Committed, Fenced};
    assert_eq!(results, [Fenced, Committed, Fenced]);
    assert_eq!(head(&fixture.store, stale.shard).await.seq, 0);
    assert_eq!(head(&fixture.store, own.shard).await.seq, 1);
    let loaded = fixture.load().await;
    let attestations: Vec<u64> = loaded.agents.iter().map(|a| a.state.attestations).collect();
    assert_eq!(attestations.iter().sum::<u64>(), 1);
}

#[tokio::test]
async fn ticks_that_do_not_follow_are_refused() {
    let fixture = Fixture::with_agents(1..2).await;
    let good = fixture.tick(vec![fleet::outcome(ONE, 1)]).await;
    let mut unchained = good.clone();
    unchained.after = ChainHash([7; 32]);
    let mut elsewhere = good.clone();
    elsewhere.before = ChainHash([7; 32]);
    let ahead = Tick {
        seq: 2,
        ..good.clone()
    };
    let stranger = (2..)
        .find(|n| fleet::agent(*n).shard() != good.shard)
        .unwrap();
    let foreign = Tick::new(
        good.shard,
        fixture.epoch,
        1,
        ChainHash::default(),
        vec![fleet::outcome(stranger, 1)],
    );
    for tick in [unchained, elsewhere, ahead, foreign] {
        let results = fixture.store.commit(&[tick]).await.unwrap();
        assert_eq!(results, [CommitResult::OutOfOrder]);
        assert_eq!(head(&fixture.store, good.shard).await.seq, 0);
    }
    let results = fixture.store.commit(&[good]).await.unwrap();
    assert_eq!(results, [CommitResult::Committed]);
}

#[tokio::test]
async fn one_call_takes_several_ticks_of_one_shard() {
    let fixture = Fixture::with_agents(1..2).await;
    let first = fixture.tick(vec![fleet::outcome(ONE, 1)]).await;
    let second = Tick::new(
        first.shard,
        fixture.epoch,
        2,
        first.after,
        vec![fleet::outcome(ONE, 2)],
    );
    let ticks = [first, second.clone()];
    let results = fixture.store.commit(&ticks).await.unwrap();
    assert_eq!(results, [CommitResult::Committed; 2]);
    let results = fixture.store.commit(&ticks).await.unwrap();
    assert_eq!(results, [CommitResult::AlreadyCommitted; 2]);
    let head = head(&fixture.store, second.shard).await;
    assert_eq!((head.seq, head.head), (2, second.after));
}

#[tokio::test]
async fn any_number_of_ticks_is_committed_whole_and_folded_whole() {
    // Statements take so many rows, filled up: around each of these numbers, and beyond the last.
    let fixture = Fixture::new().await;
    let mut agents: Vec<u64> = (0..20_000).collect();
    agents.sort_by_key(|number| fleet::agent(*number).shard());
    agents.dedup_by_key(|number| fleet::agent(*number).shard());
    let counts = [1, 2, 3, 5, 63, 64, 65, 255, 256, 257, 600];
    for (attestation, count) in (1..).zip(counts) {
        let heads = fixture.store.heads().await.unwrap();
        let ticks: Vec<Tick> = agents[..count]
            .iter()
            .map(|number| {
                let outcome = fleet::outcome(*number, attestation);
                let head = heads[usize::from(outcome.agent.shard().get())];
                let (seq, outcomes) = (head.seq + 1, vec![outcome]);
                Tick::new(head.shard, fixture.epoch, seq, head.head, outcomes)
            })
            .collect();
        // One that does not follow keeps no other from being committed, and its head where it is.
        let mut with_bad = ticks.clone();
        with_bad[count / 2].before = ChainHash([7; 32]);
        let results = fixture.store.commit(&with_bad).await.unwrap();
        let refused = |result: &&CommitResult| **result == CommitResult::OutOfOrder;
        assert_eq!(results[count / 2], CommitResult::OutOfOrder);
        assert_eq!(results.iter().filter(refused).count(), 1);
        let bad = &ticks[count / 2];
        assert_eq!(
            head(&fixture.store, bad.shard).await.seq,
            heads[usize::from(bad.shard.get())].seq
        );
        let results = fixture.store.commit(&ticks).await.unwrap();
        assert_eq!(results[count / 2], CommitResult::Committed);
        let now = fixture.store.heads().await.unwrap();
        for tick in &ticks {
            let now = now[usize::from(tick.shard.get())];
            assert_eq!((now.seq, now.head), (tick.seq, tick.after));
        }
        let mut folded = 0;
        loop {
            let step = fixture.store.fold(4_096).await.unwrap();
            folded += step.ticks;
            if !step.more {
                break;
            }
        }
        assert_eq!(folded, count as u64);
    }
    let heads = fixture.store.heads().await.unwrap();
    for number in agents[..600].iter().step_by(50) {
        let shard = fleet::agent(*number).shard();
        let chain = fixture.store.verify_chain(shard).await.unwrap();
        let seq = heads[usize::from(shard.get())].seq;
        assert_eq!(chain.unwrap().outcomes, seq);
    }
}

#[tokio::test]
async fn more_ticks_than_a_commit_takes_are_refused_before_anything_is_done() {
    let fixture = Fixture::with_agents(1..2).await;
    let tick = fixture.tick(vec![fleet::outcome(ONE, 1)]).await;
    let ticks = vec![tick.clone(); rat_store::limits::COMMIT_TICKS_MAX + 1];
    let refused = fixture.store.commit(&ticks).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    assert_eq!(head(&fixture.store, tick.shard).await.seq, 0);
}

/// Two agents of the same shard, and one of another.
fn neighbours() -> (u64, u64, u64) {
    let shard = |number| fleet::agent(number).shard();
    let next = (2..).find(|n| shard(*n) == shard(1)).unwrap();
    let far = (2..).find(|n| shard(*n) != shard(1)).unwrap();
    (1, next, far)
}

async fn enrolled_neighbours() -> (Fixture, u64, u64, u64) {
    let fixture = Fixture::new().await;
    let (one, next, far) = neighbours();
    for number in [one, next, far] {
        fixture.enrol(&fleet::record(number)).await.unwrap();
        fixture.commit(vec![fleet::outcome(number, 1)]).await;
    }
    (fixture, one, next, far)
}

#[tokio::test]
async fn s06_one_damaged_row_is_one_unreadable_agent() {
    for (table, key) in [("agent", "id"), ("agent_state", "agent")] {
        let (fixture, one, _, _) = enrolled_neighbours().await;
        fixture.fold_all().await;
        let id = fleet::agent(one);
        // One bit of the content, past version, encoding and checksum.
        let damage = format!(
            "UPDATE {table} SET packed = CAST(substr(packed, 1, 30) || x'a5' || substr(packed, 32) AS BLOB)
             WHERE {key} = $1"
        );
        let damage = sqlx::query(sqlx::AssertSqlSafe(damage)).bind(id.as_str().to_owned());
        damage.execute(&mut fixture.vandal().await).await.unwrap();
        let loaded = fixture.load().await;
        assert_eq!(loaded.agents.len(), 2);
        assert_eq!(loaded.unreadable.len(), 1);
        let unreadable = &loaded.unreadable[0];
        assert_eq!(unreadable.agent, id.as_str());
        assert_eq!(unreadable.fault, Fault::Checksum);
        let expected = match table {
            "agent" => RowName::Agent(id.as_str().to_owned()),
            _ => RowName::State(id.as_str().to_owned()),
        };
        assert_eq!(unreadable.row, expected);
    }
}

#[tokio::test]
async fn s06_a_damaged_shard_refuses_its_own_ticks_for_good_and_takes_no_others_along() {
    let (fixture, one, _, far) = enrolled_neighbours().await;
    let bad = fixture.tick(vec![fleet::outcome(one, 2)]).await;
    let good = fixture.tick(vec![fleet::outcome(far, 2)]).await;
    let mut vandal = fixture.vandal().await;
    let shard = i64::from(bad.shard.get());
    let damage = sqlx::query("UPDATE shard SET epoch = -1 WHERE id = $1").bind(shard);
    damage.execute(&mut vandal).await.unwrap();
    for ticks in [vec![bad.clone(), good.clone()], vec![bad]] {
        let refused = fixture.store.commit(&ticks).await.unwrap_err();
        assert!(refused.is_lasting(), "{refused}");
    }
    let results = fixture.store.commit(std::slice::from_ref(&good)).await;
    assert_eq!(results.unwrap(), [CommitResult::Committed]);
    let mend = sqlx::query("UPDATE shard SET epoch = $2 WHERE id = $1");
    let mend = mend.bind(shard).bind(fixture.epoch.0 as i64);
    mend.execute(&mut vandal).await.unwrap();
    // A row that breaks a constraint stays one; a database that is gone may come back.
    sqlx::query("INSERT INTO tick VALUES ($1, $2, 1, zeroblob(32), zeroblob(32), x'00')")
        .bind(i64::from(good.shard.get()))
        .bind(good.seq as i64 + 1)
        .execute(&mut vandal)
        .await
        .unwrap();
    let next = fixture.tick(vec![fleet::outcome(far, 3)]).await;
    let refused = fixture.store.commit(std::slice::from_ref(&next)).await;
    let refused = refused.unwrap_err();
    assert!(refused.is_lasting(), "{refused}");
    fixture.store.clone().close().await;
    let gone = fixture.store.commit(&[next]).await.unwrap_err();
    assert!(!gone.is_lasting(), "{gone}");
}

#[tokio::test]
async fn s06_an_unknown_version_is_named() {
    let (fixture, one, _, _) = enrolled_neighbours().await;
    fixture.fold_all().await;
    sqlx::query(
        "UPDATE agent_state SET packed = CAST(x'09' || substr(packed, 2) AS BLOB) WHERE agent = $1",
    )
    .bind(fleet::agent(one).as_str().to_owned())
    .execute(&mut fixture.vandal().await)
    .await
    .unwrap();
    let loaded = fixture.load().await;
    assert_eq!(loaded.unreadable[0].fault, Fault::Version(9));
    assert_eq!(loaded.agents.len(), 2);
}

#[tokio::test]
async fn s06_a_damaged_tick_hides_its_shard_until_newer_ticks_say_more() {
    let (fixture, one, next, _) = enrolled_neighbours().await;
    fixture.fold_all().await;
    fixture.commit(vec![fleet::outcome(one, 2)]).await;
    sqlx::query("UPDATE tick SET packed = substr(packed, 1, 20)")
        .execute(&mut fixture.vandal().await)
        .await
        .unwrap();
    // Nobody knows whom the tick was about: neither of the shard's agents is served, and that
    // is so before and after the folder has seen it.
    for fold in [false, true] {
        if fold {
            let folded = fixture.store.fold(100).await.unwrap();
            assert_eq!((folded.ticks, folded.unreadable), (1, 1));
        }
        let loaded = fixture.load().await;
        assert_eq!(loaded.agents.len(), 1);
        let mut hidden: Vec<&str> = loaded.unreadable.iter().map(|u| u.agent.as_str()).collect();
        hidden.sort_unstable();
        let mut expected = [fleet::agent(one), fleet::agent(next)];
        expected.sort();
        assert_eq!(hidden, [expected[0].as_str(), expected[1].as_str()]);
        let seq = head(&fixture.store, fleet::agent(one).shard()).await.seq;
        assert_eq!(loaded.unreadable[0].fault, Fault::NewerTick { seq });
    }
    // The damaged tick is kept, and the chain goes on around it, and says so.
    let shard = fleet::agent(one).shard();
    let chain = fixture.store.verify_chain(shard).await.unwrap().unwrap();
    assert_eq!(chain.unreadable, 1);
    // A newer outcome of an agent says all about it.
    fixture.commit(vec![fleet::outcome(one, 3)]).await;
    for fold in [false, true] {
        if fold {
            fixture.fold_all().await;
        }
        let loaded = fixture.load().await;
        assert_eq!(loaded.unreadable.len(), 1);
        assert_eq!(loaded.unreadable[0].agent, fleet::agent(next).as_str());
    }
}

#[tokio::test]
async fn s18_an_edited_or_missing_verdict_breaks_the_chain() {
    let edits = [
        "UPDATE history SET after = zeroblob(32) WHERE from_seq = 1",
        "UPDATE history SET before = CAST(x'01' || substr(before, 2) AS BLOB) WHERE from_seq = 1",
        "UPDATE history SET packed = zeroblob(40) WHERE from_seq = 1",
        "UPDATE history SET to_seq = to_seq + 1 WHERE from_seq = 1",
        "DELETE FROM history WHERE from_seq = 1",
        "DELETE FROM history WHERE from_seq = (SELECT max(from_seq) FROM history)",
        "UPDATE tick SET packed = (SELECT packed FROM tick ORDER BY seq LIMIT 1)",
        "UPDATE tick SET after = zeroblob(32)",
        "DELETE FROM tick WHERE seq = (SELECT max(seq) FROM tick)",
        "DELETE FROM tick WHERE seq = (SELECT min(seq) FROM tick)",
        "UPDATE shard SET head = zeroblob(32)",
        "UPDATE shard SET seq = seq - 1 WHERE seq > 0",
        "UPDATE shard SET kept_seq = 2 WHERE seq > 0",
    ];
    for edit in edits {
        let fixture = Fixture::with_agents(1..2).await;
        let shard = fleet::agent(ONE).shard();
        for attestation in 1..9 {
            fixture.commit(vec![fleet::outcome(ONE, attestation)]).await;
            if attestation % 3 == 0 {
                fixture.fold_all().await;
            }
        }
        let whole = fixture.store.verify_chain(shard).await.unwrap().unwrap();
        assert_eq!((whole.kept_seq, whole.seq, whole.outcomes), (0, 8, 8));
        sqlx::query(edit)
            .execute(&mut fixture.vandal().await)
            .await
            .unwrap();
        let broken = fixture.store.verify_chain(shard).await.unwrap();
        assert!(broken.is_err(), "{edit}: {broken:?}");
    }
}

#[tokio::test]
async fn s18_a_tick_set_aside_hides_no_edit() {
    // Whoever moves a verdict aside must leave it as it was, or break the chain.
    let edits = [
        ("UPDATE unreadable_tick SET before = zeroblob(32)", false),
        ("UPDATE unreadable_tick SET after = zeroblob(32)", false),
        ("DELETE FROM unreadable_tick", false),
        ("UPDATE unreadable_tick SET seq = seq + 1", false),
        (
            "UPDATE unreadable_tick SET packed = (SELECT packed FROM tick)",
            false,
        ),
        ("UPDATE unreadable_tick SET packed = x'02'", true),
    ];
    for (edit, is_whole) in edits {
        let (fixture, one, _, _) = enrolled_neighbours().await;
        let shard = fleet::agent(one).shard();
        fixture.fold_all().await;
        fixture.commit(vec![fleet::outcome(one, 2)]).await;
        sqlx::query("UPDATE tick SET packed = x'01'")
            .execute(&mut fixture.vandal().await)
            .await
            .unwrap();
        fixture.fold_all().await;
        fixture.commit(vec![fleet::outcome(one, 3)]).await;
        fixture.fold_all().await;
        fixture.commit(vec![fleet::outcome(one, 4)]).await;
        let chain = fixture.store.verify_chain(shard).await.unwrap().unwrap();
        assert_eq!((chain.unreadable, chain.outcomes), (1, 4), "{edit}");
        sqlx::query(edit)
            .execute(&mut fixture.vandal().await)
            .await
            .unwrap();
        let chain = fixture.store.verify_chain(shard).await.unwrap();
        assert_eq!(chain.is_ok(), is_whole, "{edit}: {chain:?}");
    }
}

#[tokio::test]
async fn s18_history_is_as_it_was_committed() {
    let fixture = Fixture::with_agents(1..2).await;
    for attestation in 1..9 {
        fixture.commit(vec![fleet::outcome(ONE, attestation)]).await;
        if attestation == 5 {
            fixture.fold_all().await;
        }
    }
    let agent = fleet::agent(ONE);
    let history = fixture.store.history(&agent, None, 100).await.unwrap();
    let seqs: Vec<u64> = history.iter().map(|outcome| outcome.seq).collect();
    assert_eq!(seqs, [8, 7, 6, 5, 4, 3, 2, 1]);
    for outcome in &history {
        let expected = fleet::outcome(ONE, outcome.seq);
        assert_eq!(outcome.evidence_sha256, expected.evidence_sha256);
        assert_eq!(outcome.at_unix_ms, expected.at_unix_ms);
        assert_eq!(outcome.policy, expected.policy);
    }
    let older = fixture.store.history(&agent, Some(4), 100).await.unwrap();
    assert_eq!(older.len(), 3);
}

#[tokio::test]
async fn s18_retention_drops_the_oldest_history_and_the_chain_still_verifies() {
    let fixture = Fixture::with_agents(1..2).await;
    let shard = fleet::agent(ONE).shard();
    for attestation in 1..9 {
        fixture.commit(vec![fleet::outcome(ONE, attestation)]).await;
        fixture.fold_all().await;
    }
    let policy = RetentionPolicy {
        history_ms: 0,
        rows_max: 2,
        ..RetentionPolicy::default()
    };
    let now = fleet::outcome(ONE, 5).at_unix_ms + 1;
    let dropped = fixture.store.retention(now, &policy).await.unwrap();
    assert_eq!((dropped.history, dropped.more), (2, true));
    while fixture.store.retention(now, &policy).await.unwrap().more {}
    let chain = fixture.store.verify_chain(shard).await.unwrap().unwrap();
    assert_eq!((chain.kept_seq, chain.seq, chain.outcomes), (5, 8, 3));
    // A hole that somebody made does not become the beginning.
    sqlx::query("DELETE FROM history WHERE from_seq = 6")
        .execute(&mut fixture.vandal().await)
        .await
        .unwrap();
    let dropped = fixture
        .store
        .retention(u64::MAX / 4, &policy)
        .await
        .unwrap();
    assert_eq!(dropped.history, 0);
    let broken = fixture.store.verify_chain(shard).await.unwrap();
    assert_eq!(broken, Err(ChainFault::Sequence { seq: 7 }));
}

#[tokio::test]
async fn the_folder_goes_round_all_shards() {
    let fixture = Fixture::with_agents(1..20).await;
    for number in 1..20 {
        fixture.commit(vec![fleet::outcome(number, 1)]).await;
    }
    let mut folded = 0;
    loop {
        // New ticks of low shards do not keep the folder from the high ones.
        let step = fixture.store.fold(3).await.unwrap();
        folded += step.ticks;
        if !step.more {
            break;
        }
    }
    assert_eq!(folded, 19);
    let loaded = fixture.load().await;
    assert!(
        loaded
            .agents
            .iter()
            .all(|agent| agent.state.attestations == 1)
    );
}
