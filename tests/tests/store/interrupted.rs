//! Interrupted work: what a process that is killed between any two statements leaves behind.
//!
//! A call's future is polled step by step; a step ends where it waits for the database to answer
//! a statement. After each the directory's files are copied, which is what a kill at that moment
//! would leave, and the copy is opened. A statement that is answered at once ends no step: which
//! moments are seen differs from run to run, and the crash test sees others.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use rat_engine::shard::{KeptLog, Outcome};
use rat_store::{Activated, Answered, LogPiece, NewPending, OnRemoval, RetentionPolicy, Store};
use rat_tests::fleet;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::{Fixture, load, registration};

struct Signal(Notify);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// Runs a call to its end, and gives a copy of the directory at each of its steps.
async fn at_each_step<T>(directory: &Path, call: impl Future<Output = T>) -> (T, Vec<TempDir>) {
    let signal = Arc::new(Signal(Notify::new()));
    let waker = Waker::from(Arc::clone(&signal));
    let mut call = pin!(call);
    let mut images = Vec::new();
    loop {
        if let Poll::Ready(result) = call.as_mut().poll(&mut Context::from_waker(&waker)) {
            images.push(image(directory));
            return (result, images);
        }
        signal.0.notified().await;
        images.push(image(directory));
    }
}

fn image(directory: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        // SQLite makes its index of the log anew.
        if path
            .extension()
            .is_none_or(|extension| extension != "db-shm")
        {
            fs::copy(&path, image.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    image
}

/// All that can be asked of a store, as text.
async fn contents(store: &Store) -> String {
    let mut loaded = load(store).await;
    loaded.agents.sort_by(|a, b| a.record.id.cmp(&b.record.id));
    let mut text = format!("{loaded:?} {:?}", store.agents("", 100).await.unwrap());
    for head in store.heads().await.unwrap() {
        if head.seq > 0 {
            let chain = store.verify_chain(head.shard).await.unwrap().unwrap();
            text += &format!("{:?} {:?}", chain.seq, chain.head);
        }
    }
    for number in 1..4 {
        let agent = fleet::agent(number);
        text += &format!("{:?}", store.history(&agent, None, 100).await.unwrap());
        text += &format!("{:?}", store.evidence(&agent, None, 100).await.unwrap());
        if let Some(mut log) = store.log_of(&agent).await.unwrap() {
            while let Some(piece) = log.next().await.unwrap() {
                text += &hex::encode(piece);
            }
        }
    }
    text += &format!("{:?}", store.verify_audit().await.unwrap().unwrap());
    text
}

/// What each image holds: every one is as before the call, or as after it, and once it is as
/// after it stays so.
async fn all_or_nothing(before: &str, after: &str, images: Vec<TempDir>) {
    let mut done = false;
    for image in images {
        let store = Store::open(image.path()).await.unwrap();
        let found = contents(&store).await;
        store.close().await;
        done |= found == after;
        assert!(
            found == if done { after } else { before },
            "neither before nor after"
        );
    }
    assert!(done);
}

fn with_log(number: u64, attestation: u64, log: KeptLog) -> Outcome {
    Outcome {
        log: Some(log),
        ..fleet::outcome(number, attestation)
    }
}

async fn busy_fixture() -> Fixture {
    let fixture = Fixture::with_agents(1..4).await;
    for attestation in 1..4 {
        for number in 1..4 {
            let entry = fleet::whole_log(attestation - 1, attestation, b"an entry");
            fixture
                .commit(vec![with_log(number, attestation, entry)])
                .await;
        }
    }
    fixture
}

#[tokio::test]
async fn s05_a_kill_during_the_fold_changes_no_answer() {
    let fixture = busy_fixture().await;
    let before = contents(&fixture.store).await;
    let call = fixture.store.fold(5);
    let (folded, images) = at_each_step(fixture.directory.path(), call).await;
    assert_eq!(folded.unwrap().ticks, 5);
    // Before and after the fold, the answers are the same.
    all_or_nothing(&before, &before, images).await;
}

#[tokio::test]
async fn s05_a_kill_during_a_commit_leaves_all_of_it_or_nothing() {
    let fixture = busy_fixture().await;
    let store = &fixture.store;
    let list = fleet::list_bytes(1, 100_000);
    let (agent, upload) = (fleet::agent(1), fleet::challenge(1));
    let pieces: Vec<LogPiece<'_>> = (0..)
        .zip(list.chunks(65_536))
        .map(|(piece, bytes)| LogPiece {
            agent: &agent,
            upload,
            piece,
            bytes,
        })
        .collect();
    store.stage_log(&pieces, 1).await.unwrap();
    let before = contents(store).await;
    let staged = fleet::staged_log(3, 900, 90_000, upload);
    let ticks = [
        fixture.tick(vec![with_log(1, 4, staged)]).await,
        fixture.tick(vec![fleet::failed_outcome(2, 4)]).await,
    ];
    let call = store.commit(&ticks);
    let (results, images) = at_each_step(fixture.directory.path(), call).await;
    results.unwrap();
    let after = contents(store).await;
    assert_ne!(before, after);
    all_or_nothing(&before, &after, images).await;
}

#[tokio::test]
async fn n07_a_kill_during_an_activation_enrols_or_does_not() {
    let fixture = busy_fixture().await;
    let store = &fixture.store;
    fixture.commit(vec![fleet::failed_outcome(1, 4)]).await;
    let keep = OnRemoval::KeepFailure;
    store
        .remove_agent(&fleet::agent(1), keep, "ann", 1)
        .await
        .unwrap();
    let record = fleet::record(1);
    let pending = NewPending {
        id: "p",
        agent: &record.id,
        body: b"",
        expires_unix_ms: 50,
    };
    store.put_pending(pending, 1).await.unwrap();
    let before = contents(store).await;
    let registration = registration();
    let answered = Answered::new("p", "test");
    let call = store.activate(&answered, &record, &registration);
    let (activated, images) = at_each_step(fixture.directory.path(), call).await;
    assert!(matches!(activated.unwrap(), Ok(Activated::New(_))));
    let after = contents(store).await;
    all_or_nothing(&before, &after, images).await;
}

#[tokio::test]
async fn s16_a_kill_during_a_removal_loses_no_failure() {
    let fixture = busy_fixture().await;
    let store = &fixture.store;
    fixture.commit(vec![fleet::failed_outcome(1, 4)]).await;
    let before = contents(store).await;
    let agent = fleet::agent(1);
    let call = store.remove_agent(&agent, OnRemoval::KeepFailure, "ann", 1);
    let (removed, images) = at_each_step(fixture.directory.path(), call).await;
    assert!(removed.unwrap().unwrap().failure.is_some());
    let after = contents(store).await;
    all_or_nothing(&before, &after, images).await;
}

#[tokio::test]
async fn a_kill_during_retention_drops_only_what_was_due() {
    let fixture = busy_fixture().await;
    let store = &fixture.store;
    for number in 1..4 {
        let new_list = fleet::whole_log(0, 1, b"after a reboot");
        fixture.commit(vec![with_log(number, 4, new_list)]).await;
    }
    fixture.fold_all().await;
    let before = load(store).await;
    let policy = RetentionPolicy {
        history_ms: 0,
        ..RetentionPolicy::default()
    };
    let call = store.retention(u64::MAX / 4, &policy);
    let (dropped, images) = at_each_step(fixture.directory.path(), call).await;
    let dropped = dropped.unwrap();
    assert!(dropped.history > 0 && dropped.logs > 0);
    for image in images {
        let store = Store::open(image.path()).await.unwrap();
        // Chains verify, newest lists are whole, states are as they were.
        contents(&store).await;
        assert_eq!(load(&store).await, before);
        store.close().await;
    }
}

#[tokio::test]
async fn s17_a_call_that_is_given_up_leaves_nothing_and_can_be_made_again() {
    let fixture = busy_fixture().await;
    let before = contents(&fixture.store).await;
    let tick = fixture.tick(vec![fleet::outcome(1, 4)]).await;
    // A call surely waits while another process writes; else it may be done before it is given up.
    let mut other = fixture.vandal().await;
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let mut call = Box::pin(fixture.store.commit(std::slice::from_ref(&tick)));
    let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    drop(call);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(contents(&fixture.store).await, before);
    for steps in 0.. {
        let signal = Arc::new(Signal(Notify::new()));
        let waker = Waker::from(Arc::clone(&signal));
        let mut call = Box::pin(fixture.store.commit(std::slice::from_ref(&tick)));
        let mut done = false;
        for _ in 0..=steps {
            if call
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
            {
                done = true;
                break;
            }
            signal.0.notified().await;
        }
        drop(call);
        if done {
            break;
        }
        let seq = super::head(&fixture.store, tick.shard).await.seq;
        if seq == tick.seq {
            // Given up while the answer was on its way: the next try says so.
            break;
        }
        assert_eq!(contents(&fixture.store).await, before);
    }
    fixture
        .store
        .commit(std::slice::from_ref(&tick))
        .await
        .unwrap();
    let loaded = fixture.load().await;
    let agent = loaded
        .agents
        .iter()
        .find(|a| a.record.id == fleet::agent(1));
    assert_eq!(agent.unwrap().state, fleet::state(1, 4));
}
