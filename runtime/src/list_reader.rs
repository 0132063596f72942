//! Stored lists on their way to be judged again: read piece by piece, by a thread of its own, so
//! that neither workers nor commits wait for them. (L07)

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rat_engine::ima::ImaCaches;
use rat_engine::shard::{ListOnRecord, Rejudge, RejudgeTask, Unusable};
use rat_store::{LogReader, Store, StoreError};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::health::ReaderPulse;
use crate::limits::{READ_TRIES_MAX, RETRY_MS_MIN};
use crate::mailbox::{Mailbox, Notice};
use crate::measures;

/// What a worker wants read. There is never more of it than lists that its pacer lets through.
pub(crate) enum ReadJob {
    /// The first piece of the list that this asks for.
    Open(Box<Rejudge>, Arc<Mailbox>),
    /// The next piece.
    Next(Box<Reread>, Arc<Mailbox>),
    Stop,
}

impl ReadJob {
    /// Nobody does it: its attempt ends.
    fn refuse(self) {
        let (rejudged, mailbox) = match self {
            Self::Open(rejudge, mailbox) => (rejudge.unusable(Unusable::StoreFailed), mailbox),
            Self::Next(reread, mailbox) => (reread.task.unusable(Unusable::StoreFailed), mailbox),
            Self::Stop => return,
        };
        mailbox.tell(Notice::Rejudged(rejudged));
    }
}

/// A list that is being judged, and the rest of it.
pub(crate) struct Reread {
    pub(crate) task: RejudgeTask,
    reader: LogReader,
}

/// How to reach the thread that reads lists.
#[derive(Clone)]
pub(crate) struct ReaderDoor(mpsc::UnboundedSender<ReadJob>);

impl ReaderDoor {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<ReadJob>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// When the thread is gone the attempt ends at once.
    pub(crate) fn give(&self, job: ReadJob) {
        if let Err(mpsc::error::SendError(job)) = self.0.send(job) {
            job.refuse();
        }
    }
}

/// The thread's state.
pub(crate) struct ListReader {
    pub(crate) store: Store,
    pub(crate) caches: Arc<ImaCaches>,
    /// Set when the process stops.
    pub(crate) stops: Arc<AtomicBool>,
}

impl ListReader {
    async fn run(self, jobs: &mut mpsc::UnboundedReceiver<ReadJob>) {
        while let Some(job) = jobs.recv().await {
            if self.stops.load(Ordering::Acquire) {
                return;
            }
            match job {
                ReadJob::Open(rejudge, mailbox) => mailbox.tell(self.open(*rejudge).await),
                ReadJob::Next(reread, mailbox) => mailbox.tell(self.next(*reread).await),
                ReadJob::Stop => return,
            }
        }
    }

    async fn open(&self, rejudge: Rejudge) -> Notice {
        let mut tries = 0;
        let found = loop {
            match self.store.log_of(&rejudge.agent).await {
                Ok(found) => break found,
                Err(error) => match self.pause(&mut tries, &error).await {
                    None => {}
                    Some(why) => return Notice::Rejudged(rejudge.unusable(why)),
                },
            }
        };
        let Some(reader) = found else {
            return Notice::Rejudged(rejudge.unusable(Unusable::Missing));
        };
        let log = reader.log();
        let list = ListOnRecord {
            format: log.format,
            boot: log.boot,
            entries: log.entries,
            gap_at_entry: log.gap_at_entry,
        };
        match rejudge.begin(&list) {
            Ok(task) => {
                let task = task.with_caches(Arc::clone(&self.caches));
                self.next(Reread { task, reader }).await
            }
            Err(ended) => Notice::Rejudged(ended),
        }
    }

    async fn next(&self, mut reread: Reread) -> Notice {
        let mut tries = 0;
        loop {
            match reread.reader.next().await {
                Ok(piece) => {
                    measures::list_piece_read();
                    let reread = Box::new(reread);
                    return Notice::Read { reread, piece };
                }
                Err(error) => match self.pause(&mut tries, &error).await {
                    None => {}
                    Some(why) => return Notice::Rejudged(reread.task.unusable(why)),
                },
            }
        }
    }

    /// Waits before another try; says why there is none.
    async fn pause(&self, tries: &mut u32, error: &StoreError) -> Option<Unusable> {
        measures::store_failed("read_list");
        if error.is_lasting() {
            tracing::error!(%error, "a stored list cannot be read");
            return Some(Unusable::Unreadable);
        }
        *tries = tries.saturating_add(1);
        if *tries >= READ_TRIES_MAX || self.stops.load(Ordering::Acquire) {
            return Some(Unusable::StoreFailed);
        }
        let pause_ms = RETRY_MS_MIN.saturating_mul(u64::from(*tries));
        sleep(Duration::from_millis(pause_ms)).await;
        None
    }
}

/// Runs the thread to its end. What waits for it then is told so; the attempt in hand, if it was
/// one that panicked, ends by its time limit.
pub(crate) fn run(
    reader: ListReader,
    mut jobs: mpsc::UnboundedReceiver<ReadJob>,
    pulse: &ReaderPulse,
) {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match built {
        Ok(runtime) => {
            let run = AssertUnwindSafe(|| runtime.block_on(reader.run(&mut jobs)));
            if catch_unwind(run).is_err() {
                tracing::error!("the thread that reads lists panicked");
            }
        }
        Err(error) => tracing::error!(%error, "the thread that reads lists cannot start"),
    }
    pulse.is_dead.store(true, Ordering::Release);
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        job.refuse();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use rat_engine::agent_id::AgentId;
    use rat_engine::hash::{Digest, HashAlg};
    use rat_engine::ima::judge::Judge;
    use rat_engine::ima::{Committed, ImaOptions};
    use rat_engine::pcr::PcrValues;
    use rat_engine::policy::RuntimePolicy;
    use rat_engine::shard::{BootEpoch, ListRules, RejudgeId, Rejudgement};

    use rat_engine::ima::CacheLimits;

    use super::*;
    use crate::health::ListsHealth;

    fn rejudge(id: u64) -> Box<Rejudge> {
        let text = br#"{"meta": {"version": 1}, "digests": {"/x": ["00"]}}"#;
        let text = String::from_utf8_lossy(text).replace("00", &"00".repeat(32));
        let policy = RuntimePolicy::parse(text.as_bytes()).unwrap();
        let judge = Judge::new(Arc::new(policy)).unwrap();
        Box::new(Rejudge {
            agent: AgentId::parse("machine-1").unwrap(),
            id: RejudgeId(id),
            rules: ListRules {
                policy: Digest::zero(HashAlg::Sha256),
                accept_violations: false,
                require_valid_ima_sig: false,
            },
            judge: Arc::new(judge),
            committed: Committed::new(0, Vec::new()),
            boot: BootEpoch {
                reset_count: 1,
                restart_count: 0,
            },
            boot_pcrs: PcrValues::new(),
            ima: ImaOptions::default(),
        })
    }

    #[tokio::test]
    async fn s14_a_reader_that_is_gone_is_noticed_and_holds_up_no_agent() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("data")).await.unwrap();
        let (door, jobs) = ReaderDoor::new();
        let mailbox = Arc::new(Mailbox::new(1));
        let pulse = ReaderPulse::default();
        assert_eq!(pulse.health(), ListsHealth::Alive);
        // It ends with a job that waits, and then comes another one.
        door.give(ReadJob::Stop);
        door.give(ReadJob::Open(rejudge(1), Arc::clone(&mailbox)));
        let stops = Arc::new(AtomicBool::new(false));
        let caches = Arc::new(ImaCaches::new(CacheLimits::default(), 1));
        let reader = ListReader {
            store,
            caches,
            stops,
        };
        let pulse = std::thread::spawn(move || {
            run(reader, jobs, &pulse);
            pulse
        });
        let pulse = pulse.join().unwrap();
        assert_eq!(pulse.health(), ListsHealth::Dead);
        door.give(ReadJob::Open(rejudge(2), Arc::clone(&mailbox)));
        let told = mailbox.take(1, Duration::ZERO).notices;
        let told: Vec<_> = told
            .into_iter()
            .map(|notice| match notice {
                Notice::Rejudged(ended) => match ended.result {
                    Rejudgement::Unusable(why) => (ended.id, why),
                    other => panic!("{other:?}"),
                },
                _ => panic!("another notice"),
            })
            .collect();
        let expected = [1, 2].map(|id| (RejudgeId(id), Unusable::StoreFailed));
        assert_eq!(told, expected);
    }
}
