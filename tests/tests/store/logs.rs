//! Measurement lists and kept evidence.

use rat_engine::shard::{Failure, KeptEvidence, KeptLog, Outcome, Retention};
use rat_store::{
    CommitResult, Dropped, LogPiece, LogReader, OnRemoval, RetentionPolicy, Staged, StoreError,
    limits,
};
use rat_tests::fleet;

use super::Fixture;

const CHUNK: usize = 64 << 10;

pub(super) async fn bytes_of(mut reader: LogReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await.unwrap() {
        assert!(piece.len() <= CHUNK);
        bytes.extend(piece);
    }
    bytes
}

pub(super) fn with_log(number: u64, attestation: u64, log: KeptLog) -> Outcome {
    Outcome {
        log: Some(log),
        ..fleet::outcome(number, attestation)
    }
}

async fn stage(fixture: &Fixture, upload: u64, bytes: &[u8], piece_bytes: usize) -> Vec<Staged> {
    stage_as(fixture, upload, upload, bytes, piece_bytes).await
}

async fn stage_as(
    fixture: &Fixture,
    number: u64,
    upload: u64,
    bytes: &[u8],
    piece_bytes: usize,
) -> Vec<Staged> {
    let agent = fleet::agent(number);
    let pieces: Vec<LogPiece<'_>> = (0..)
        .zip(bytes.chunks(piece_bytes))
        .map(|(piece, bytes)| LogPiece {
            agent: &agent,
            upload: fleet::challenge(upload),
            piece,
            bytes,
        })
        .collect();
    fixture.store.stage_log(&pieces, 1_000).await.unwrap()
}

async fn count(fixture: &Fixture, sql: &'static str) -> i64 {
    let mut connection = fixture.vandal().await;
    sqlx::query_scalar(sql)
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

const CHUNKS: &str = "SELECT count(*) FROM chunk";

fn all_due(rows_max: u32) -> RetentionPolicy {
    RetentionPolicy {
        history_ms: 0,
        evidence_ms: 0,
        staged_ms: 0,
        removed_ms: 0,
        rows_max,
    }
}

#[tokio::test]
async fn entries_that_come_bit_by_bit_are_read_back_as_they_were() {
    let fixture = Fixture::with_agents(1..2).await;
    let list = fleet::list_bytes(1, 3 * CHUNK + 777);
    let mut from = 0;
    for (attestation, piece) in (1..).zip(list.chunks(9_000)) {
        let to = from + 90;
        let log = fleet::whole_log(from, to, piece);
        fixture.commit(vec![with_log(1, attestation, log)]).await;
        from = to;
    }
    let agent = fleet::agent(1);
    let reader = fixture.store.log_of(&agent).await.unwrap().unwrap();
    assert_eq!(reader.log().entries, from);
    assert_eq!(reader.log().raw_bytes, list.len() as u64);
    assert_eq!(reader.log().gap_at_entry, None);
    assert_eq!(reader.log().boot, fleet::state(1, 1).boot);
    assert_eq!(bytes_of(reader).await, list);
    assert_eq!(count(&fixture, CHUNKS).await, 3);
    let tail = count(&fixture, "SELECT coalesce(sum(raw_bytes), 0) FROM log_tail").await;
    assert_eq!(tail, 777);
    assert!(
        fixture
            .store
            .log_of(&fleet::agent(2))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn staged_lists_are_kept_once_for_the_fleet_and_cut_where_they_were_proven() {
    let fixture = Fixture::with_agents(1..4).await;
    let list = fleet::list_bytes(1, 4 * CHUNK + 500);
    for number in 1..4 {
        stage(&fixture, number, &list, CHUNK).await;
        // What was proven ends inside the fourth piece.
        let proven = 3 * CHUNK as u64 + 99;
        let log = fleet::staged_log(0, 2_000, proven, fleet::challenge(number));
        fixture.commit(vec![with_log(number, 1, log)]).await;
    }
    assert_eq!(count(&fixture, "SELECT count(*) FROM staged").await, 0);
    for number in 1..4 {
        let reader = fixture.store.log_of(&fleet::agent(number)).await.unwrap();
        assert_eq!(bytes_of(reader.unwrap()).await, list[..3 * CHUNK + 99]);
    }
    // Chunks of the whole pieces, shared; those beyond the proof go.
    assert_eq!(count(&fixture, CHUNKS).await, 5);
    let mut chunks = 0;
    loop {
        let dropped = fixture.store.retention(2_000, &all_due(1)).await.unwrap();
        assert!(dropped.chunks <= 1);
        chunks += dropped.chunks;
        if !dropped.more {
            break;
        }
    }
    assert_eq!((chunks, count(&fixture, CHUNKS).await), (2, 3));
    let reader = fixture.store.log_of(&fleet::agent(2)).await.unwrap();
    assert_eq!(bytes_of(reader.unwrap()).await, list[..3 * CHUNK + 99]);
}

#[tokio::test]
async fn a_long_delta_follows_a_tail() {
    let fixture = Fixture::with_agents(1..2).await;
    let list = fleet::list_bytes(1, 3 * CHUNK);
    let log = fleet::whole_log(0, 50, &list[..5_000]);
    fixture.commit(vec![with_log(1, 1, log)]).await;
    stage(&fixture, 7, &list[5_000..], 40_000).await;
    let rest = list.len() as u64 - 5_000;
    let log = fleet::staged_log(50, 2_000, rest, fleet::challenge(7));
    fixture.commit(vec![with_log(1, 2, log)]).await;
    let log = fleet::whole_log(2_000, 2_001, b"one more");
    fixture.commit(vec![with_log(1, 3, log)]).await;
    let reader = fixture.store.log_of(&fleet::agent(1)).await.unwrap();
    let expected = [list.as_slice(), b"one more"].concat();
    assert_eq!(bytes_of(reader.unwrap()).await, expected);
}

#[tokio::test]
async fn a_list_that_lacks_entries_says_from_where() {
    let cases: [KeptLog; 3] = [
        fleet::whole_log(51, 60, b"a gap"),
        fleet::staged_log(50, 60, 10, fleet::challenge(404)),
        KeptLog {
            length: 6,
            ..fleet::whole_log(50, 60, b"short")
        },
    ];
    for log in cases {
        let fixture = Fixture::with_agents(1..2).await;
        let first = fleet::whole_log(0, 50, b"the first entries");
        fixture.commit(vec![with_log(1, 1, first)]).await;
        // The verdict is committed all the same.
        fixture.commit(vec![with_log(1, 2, log)]).await;
        fixture
            .commit(vec![with_log(1, 3, fleet::whole_log(60, 61, b"late"))])
            .await;
        let reader = fixture
            .store
            .log_of(&fleet::agent(1))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (reader.log().entries, reader.log().gap_at_entry),
            (50, Some(50))
        );
        assert!(bytes_of(reader).await.starts_with(b"the first entries"));
        // A new list begins without the gap.
        fixture
            .commit(vec![with_log(1, 4, fleet::whole_log(0, 3, b"new"))])
            .await;
        let reader = fixture
            .store
            .log_of(&fleet::agent(1))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reader.log().gap_at_entry, None);
        assert_eq!(bytes_of(reader).await, b"new");
    }
}

#[tokio::test]
async fn s06_a_damaged_list_holds_up_no_verdict() {
    let fixture = Fixture::with_agents(1..2).await;
    let list = fleet::list_bytes(1, CHUNK - 10);
    let log = fleet::whole_log(0, 50, &list);
    fixture.commit(vec![with_log(1, 1, log)]).await;
    sqlx::query("UPDATE log_tail SET packed = x'01'")
        .execute(&mut fixture.vandal().await)
        .await
        .unwrap();
    // These entries would fill a chunk, so the damaged tail has to be read.
    let log = fleet::whole_log(50, 60, &list);
    fixture.commit(vec![with_log(1, 2, log)]).await;
    let mut reader = fixture
        .store
        .log_of(&fleet::agent(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reader.log().gap_at_entry, Some(50));
    let read = reader.next().await;
    assert!(matches!(read, Err(StoreError::Unreadable { .. })));
    assert_eq!(fixture.load().await.agents[0].state, fleet::state(1, 2));
}

#[tokio::test]
async fn s06_a_damaged_row_of_a_list_holds_up_no_verdict_and_no_evidence() {
    for damage in [
        "UPDATE log SET format = 'torn' WHERE agent = $1",
        "UPDATE log SET to_entry = -1 WHERE agent = $1",
    ] {
        let fixture = Fixture::with_agents(1..3).await;
        for number in 1..3 {
            let log = fleet::whole_log(0, 50, b"the first entries");
            fixture.commit(vec![with_log(number, 1, log)]).await;
        }
        sqlx::query(damage)
            .bind(fleet::agent(1).as_str().to_owned())
            .execute(&mut fixture.vandal().await)
            .await
            .unwrap();
        let mut ticks = Vec::new();
        for number in 1..3 {
            let mut outcome = with_log(number, 2, fleet::whole_log(50, 60, b"more"));
            outcome.kept = vec![kept(Retention::Failure, 2, 60)];
            ticks.push(fixture.tick(vec![outcome]).await);
        }
        let results = fixture.store.commit(&ticks).await.unwrap();
        assert_eq!(results, [CommitResult::Committed; 2], "{damage}");
        let evidence = async |number| {
            let agent = fleet::agent(number);
            let found = fixture.store.evidence(&agent, None, 10).await;
            found.unwrap().pop().unwrap()
        };
        let of_damaged = evidence(1).await;
        assert_eq!(of_damaged.evidence, kept(Retention::Failure, 2, 60));
        assert_eq!(of_damaged.log, None);
        assert_eq!(evidence(2).await.log.unwrap().entries, 60);
        // A list from its beginning needs nothing of the damaged one.
        let log = fleet::whole_log(0, 3, b"new");
        fixture.commit(vec![with_log(1, 3, log)]).await;
        let reader = fixture.store.log_of(&fleet::agent(1)).await.unwrap();
        assert_eq!(bytes_of(reader.unwrap()).await, b"new");
    }
}

#[tokio::test]
async fn pieces_have_limits() {
    let fixture = Fixture::new().await;
    let long = vec![0; CHUNK + 1];
    let agent = fleet::agent(1);
    for (piece, bytes) in [(0, &long[..]), (0, &[][..]), (16_384, &[1][..])] {
        let piece = LogPiece {
            agent: &agent,
            upload: fleet::challenge(1),
            piece,
            bytes,
        };
        let refused = fixture.store.stage_log(&[piece], 1).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    }
    assert_eq!(count(&fixture, "SELECT count(*) FROM staged").await, 0);
}

#[tokio::test]
async fn a_piece_that_is_staged_twice_is_replaced_and_counted_once() {
    let fixture = Fixture::with_agents(1..2).await;
    let agent = fleet::agent(1);
    let piece = |piece, bytes| LogPiece {
        agent: &agent,
        upload: fleet::challenge(1),
        piece,
        bytes,
    };
    // In one call, and in the next one.
    let pieces = [
        piece(0, &[1; 10][..]),
        piece(1, &[2; 20]),
        piece(0, &[3; 30]),
    ];
    let results = fixture.store.stage_log(&pieces, 1).await.unwrap();
    assert_eq!(results, [Staged::Kept; 3]);
    assert_eq!(staged_use(&fixture, agent.as_str()).await, 50);
    let results = fixture.store.stage_log(&[piece(1, &[4; 5])], 1).await;
    assert_eq!(results.unwrap(), [Staged::Kept]);
    for name in [agent.as_str(), ""] {
        assert_eq!(staged_use(&fixture, name).await, 35);
    }
    // No chunk is left that nobody would look for.
    let lost = "SELECT count(*) FROM chunk WHERE digest NOT IN (SELECT digest FROM staged)
        AND digest NOT IN (SELECT digest FROM orphan)";
    assert_eq!(count(&fixture, lost).await, 0);
    let staged = "SELECT count(*) FROM staged";
    assert_eq!(count(&fixture, staged).await, 2);
}

/// What the store counts as staged under this name.
async fn staged_use(fixture: &Fixture, agent: &str) -> i64 {
    let used = sqlx::query_scalar("SELECT raw_bytes FROM staged_use WHERE agent = $1");
    let used = used.bind(agent.to_owned());
    let mut connection = fixture.vandal().await;
    used.fetch_optional(&mut connection)
        .await
        .unwrap()
        .unwrap_or(0)
}

#[tokio::test]
async fn s07_who_stages_too_much_is_refused_and_others_are_not() {
    let cases = [
        (
            fleet::agent(1).as_str().to_owned(),
            limits::STAGED_AGENT_BYTES_MAX,
            Staged::AgentFull,
            Staged::Kept,
        ),
        (
            String::new(),
            limits::STAGED_BYTES_MAX,
            Staged::Full,
            Staged::Full,
        ),
    ];
    for (name, max, refusal, others) in cases {
        let fixture = Fixture::with_agents(1..3).await;
        let list = fleet::list_bytes(1, 3 * CHUNK);
        stage_as(&fixture, 1, 1, &list[..CHUNK], CHUNK).await;
        // As if it had staged so much more that one piece, but not two, has room.
        sqlx::query("UPDATE staged_use SET raw_bytes = $1 WHERE agent = $2")
            .bind(i64::try_from(max).unwrap() - CHUNK as i64)
            .bind(name.clone())
            .execute(&mut fixture.vandal().await)
            .await
            .unwrap();
        let staged = stage_as(&fixture, 1, 2, &list, CHUNK).await;
        assert_eq!(staged, [Staged::Kept, refusal, refusal]);
        assert_eq!(
            staged_use(&fixture, &name).await,
            i64::try_from(max).unwrap()
        );
        let other = stage_as(&fixture, 2, 3, &list[..CHUNK], CHUNK).await;
        assert_eq!(other, [others]);
        // The verdict is committed all the same; its list says what it lacks.
        let log = fleet::staged_log(0, 300, list.len() as u64, fleet::challenge(2));
        fixture.commit(vec![with_log(1, 1, log)]).await;
        let reader = fixture.store.log_of(&fleet::agent(1)).await.unwrap();
        assert_eq!(reader.unwrap().log().gap_at_entry, Some(0));
    }
}

#[tokio::test]
async fn s07_what_is_staged_is_counted_until_it_goes() {
    let fixture = Fixture::with_agents(1..3).await;
    let list = fleet::list_bytes(1, 3 * CHUNK);
    let (agent, other) = (fleet::agent(1), fleet::agent(2));
    stage_as(&fixture, 1, 1, &list, CHUNK).await;
    stage_as(&fixture, 1, 1, &list[..CHUNK], CHUNK).await;
    stage_as(&fixture, 2, 2, &list[..100], CHUNK).await;
    let all = 3 * CHUNK as i64;
    assert_eq!(staged_use(&fixture, agent.as_str()).await, all);
    assert_eq!(staged_use(&fixture, other.as_str()).await, 100);
    assert_eq!(staged_use(&fixture, "").await, all + 100);
    let log = fleet::staged_log(0, 300, 3 * CHUNK as u64, fleet::challenge(1));
    fixture.commit(vec![with_log(1, 1, log)]).await;
    assert_eq!(staged_use(&fixture, agent.as_str()).await, 0);
    assert_eq!(staged_use(&fixture, "").await, 100);
    fixture.store.retention(2_000, &all_due(100)).await.unwrap();
    assert_eq!(count(&fixture, "SELECT count(*) FROM staged_use").await, 0);
}

#[tokio::test]
async fn pieces_whose_verdict_never_comes_are_dropped() {
    let fixture = Fixture::new().await;
    stage(&fixture, 1, &fleet::list_bytes(1, 3 * CHUNK), CHUNK).await;
    stage(&fixture, 1, &fleet::list_bytes(2, CHUNK), CHUNK).await;
    let policy = RetentionPolicy::default();
    let dropped = fixture.store.retention(1_000, &policy).await.unwrap();
    // The replaced piece's chunk goes at once.
    assert_eq!((dropped.staged, dropped.chunks), (0, 1));
    let late = 1_000 + policy.staged_ms + 1;
    let dropped = fixture.store.retention(late, &policy).await.unwrap();
    assert_eq!((dropped.staged, dropped.chunks), (3, 3));
    assert_eq!(count(&fixture, CHUNKS).await, 0);
}

pub(super) fn kept(reason: Retention, at_unix_ms: u64, ima_entries: u64) -> KeptEvidence {
    KeptEvidence {
        reason,
        at_unix_ms,
        quote: vec![1; 145],
        signature: vec![2; 262],
        pcr_values: vec![(11, 10, vec![3; 32])],
        preimage: vec![4; 180],
        boot_log: Some(vec![5; 20_000]),
        ima_entries,
    }
}

/// A boot whose list is 3 chunks long when it first passes, and 5 when the next boot begins.
async fn boot(fixture: &Fixture, number: u64, seed: u64, attestation: u64) -> Vec<u8> {
    let list = fleet::list_bytes(seed, 5 * CHUNK);
    stage(fixture, seed, &list[..3 * CHUNK], CHUNK).await;
    let log = fleet::staged_log(0, 300, 3 * CHUNK as u64, fleet::challenge(seed));
    let mut outcome = with_log(number, attestation, log);
    outcome.kept = vec![kept(Retention::FirstPass, attestation, 300)];
    fixture.commit(vec![outcome]).await;
    let log = fleet::whole_log(300, 500, &list[3 * CHUNK..]);
    fixture
        .commit(vec![with_log(number, attestation + 1, log)])
        .await;
    list
}

#[tokio::test]
async fn earlier_boots_keep_what_their_evidence_needs() {
    let fixture = Fixture::with_agents(1..2).await;
    let agent = fleet::agent(1);
    let first = boot(&fixture, 1, 1, 1).await;
    let second = boot(&fixture, 1, 2, 3).await;
    assert_eq!(count(&fixture, CHUNKS).await, 10);
    let never = RetentionPolicy {
        evidence_ms: u64::MAX / 4,
        ..all_due(100)
    };
    while fixture.store.retention(10, &never).await.unwrap().more {}
    // The newest list is whole; of the first, what its evidence proves.
    assert_eq!(count(&fixture, CHUNKS).await, 8);
    let newest = fixture.store.log_of(&agent).await.unwrap().unwrap();
    assert_eq!(bytes_of(newest).await, second);
    let evidence = fixture.store.evidence(&agent, None, 10).await.unwrap();
    assert_eq!(evidence.len(), 2);
    assert_eq!(evidence[1].evidence, kept(Retention::FirstPass, 1, 300));
    let list = fixture.store.read_log(evidence[1].log.unwrap());
    assert_eq!(bytes_of(list).await, first[..3 * CHUNK]);
    // When that evidence goes, so does the rest; the newest boot's stays.
    while fixture.store.retention(10, &all_due(1)).await.unwrap().more {}
    assert_eq!(count(&fixture, CHUNKS).await, 5);
    assert_eq!(count(&fixture, "SELECT count(*) FROM log").await, 1);
    let evidence = fixture.store.evidence(&agent, None, 10).await.unwrap();
    assert_eq!(evidence.len(), 1);
    let newest = fixture.store.log_of(&agent).await.unwrap().unwrap();
    assert_eq!(bytes_of(newest).await, second);
    let rest = fixture.store.retention(10, &all_due(100)).await.unwrap();
    assert_eq!(rest, Dropped::default());
}

/// Commits that an agent failed otherwise than before, and holds its first failure against it.
pub(super) async fn fails_again(fixture: &Fixture, attestation: u64, first: Option<Failure>) {
    let mut outcome = fleet::outcome(1, attestation);
    outcome.state.failure = first.map(Box::new);
    outcome.kept = vec![
        kept(Retention::BeforeFailure, attestation, 10),
        kept(Retention::Failure, attestation, 10),
    ];
    fixture.commit(vec![outcome]).await;
}

/// Nothing new was judged when a stored list was denied: what passed before goes with it.
#[tokio::test]
async fn s07_l07_what_shows_a_list_that_was_denied_is_kept_while_the_failure_holds() {
    let fixture = Fixture::with_agents(1..2).await;
    let max = u64::from(limits::EVIDENCE_PER_REASON_MAX);
    let failure = Failure {
        at_unix_ms: 1,
        ..fleet::failure()
    };
    let mut denied = fleet::outcome(1, 1);
    denied.state.failure = Some(failure.clone().into());
    denied.kept = vec![kept(Retention::BeforeFailure, 1, 10)];
    fixture.commit(vec![denied]).await;
    for attestation in 2..=max + 2 {
        fails_again(&fixture, attestation, Some(failure.clone())).await;
    }
    let stored = fixture.store.evidence(&fleet::agent(1), None, 100).await;
    let stored = stored.unwrap();
    let all = stored.iter().map(|stored| &stored.evidence);
    let before = all.filter(|kept| kept.reason == Retention::BeforeFailure);
    let times: Vec<u64> = before.map(|kept| kept.at_unix_ms).collect();
    let mut expected: Vec<u64> = (3..=max + 2).rev().collect();
    expected.push(1);
    assert_eq!(times, expected);
}

#[tokio::test]
async fn s07_the_newest_evidence_and_that_of_the_failure_that_holds_is_kept() {
    let fixture = Fixture::with_agents(1..3).await;
    let max = u64::from(limits::EVIDENCE_PER_REASON_MAX);
    let failure = || {
        Some(Failure {
            at_unix_ms: 1,
            ..fleet::failure()
        })
    };
    // An earlier boot's list, which nothing but the first evidence needs.
    let list = fleet::list_bytes(1, CHUNK);
    for (attestation, list) in [(1, &list[..]), (2, b"the next boot's")] {
        let log = fleet::whole_log(0, 10, list);
        let mut outcome = with_log(1, attestation, log);
        outcome.state.failure = failure().map(Box::new);
        outcome.kept = vec![
            kept(Retention::BeforeFailure, attestation, 10),
            kept(Retention::Failure, attestation, 10),
        ];
        fixture.commit(vec![outcome]).await;
    }
    let mut other = fleet::outcome(2, 1);
    other.kept = vec![kept(Retention::Failure, 1, 0)];
    fixture.commit(vec![other]).await;
    let mut first = fleet::outcome(1, 3);
    first.state.failure = failure().map(Box::new);
    first.kept = vec![kept(Retention::FirstPass, 3, 10)];
    fixture.commit(vec![first]).await;
    for attestation in 4..=max + 3 {
        fails_again(&fixture, attestation, failure()).await;
    }
    let of = async |reason| {
        let evidence = fixture.store.evidence(&fleet::agent(1), None, 100).await;
        let evidence = evidence.unwrap();
        let all = evidence.iter().map(|stored| &stored.evidence);
        let of_reason = all.filter(|kept| kept.reason == reason);
        of_reason.map(|kept| kept.at_unix_ms).collect::<Vec<_>>()
    };
    let mut expected: Vec<u64> = (4..=max + 3).rev().collect();
    expected.push(1);
    assert_eq!(of(Retention::Failure).await, expected);
    assert_eq!(of(Retention::BeforeFailure).await, expected);
    assert_eq!(of(Retention::FirstPass).await, [3]);
    // When it was taken back, its evidence is one of the oldest.
    fails_again(&fixture, max + 4, None).await;
    let newest: Vec<u64> = (5..=max + 4).rev().collect();
    assert_eq!(of(Retention::Failure).await, newest);
    assert_eq!(of(Retention::BeforeFailure).await, newest);
    let others = fixture.store.evidence(&fleet::agent(2), None, 100).await;
    assert_eq!(others.unwrap().len(), 1);
    // What only the dropped evidence needed goes with it.
    assert_eq!(count(&fixture, "SELECT count(*) FROM log").await, 2);
    while fixture
        .store
        .retention(5, &all_due(100))
        .await
        .unwrap()
        .more
    {}
    assert_eq!(count(&fixture, "SELECT count(*) FROM log").await, 1);
}

#[tokio::test]
async fn n08_a_removed_agents_list_is_not_its_successors() {
    let fixture = Fixture::with_agents(1..2).await;
    let agent = fleet::agent(1);
    let log = fleet::whole_log(0, 10, b"old");
    let mut outcome = with_log(1, 1, log);
    outcome.kept = vec![kept(Retention::Failure, 1, 10)];
    fixture.commit(vec![outcome]).await;
    let keep = OnRemoval::KeepFailure;
    fixture
        .store
        .remove_agent(&agent, keep, "ann", 2)
        .await
        .unwrap();
    assert!(fixture.store.log_of(&agent).await.unwrap().is_none());
    // Its evidence can still be looked at.
    assert_eq!(
        fixture
            .store
            .evidence(&agent, None, 10)
            .await
            .unwrap()
            .len(),
        1
    );
    fixture.enrol(&fleet::record(1)).await.unwrap();
    assert!(fixture.store.log_of(&agent).await.unwrap().is_none());
}
