//! Stored lists on their way to be judged again: read piece by piece, by a thread of its own, so
//! that neither workers nor commits wait for them. (L07)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rat_engine::shard::{ListOnRecord, Rejudge, RejudgeTask, Unusable};
use rat_store::{LogReader, Store, StoreError};
use tokio::sync::mpsc;
use tokio::time::sleep;

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

    /// When the thread is gone the attempt ends by its time limit, and the agent is asked instead.
    pub(crate) fn give(&self, job: ReadJob) {
        let _ = self.0.send(job);
    }
}

/// The thread's state.
pub(crate) struct ListReader {
    pub(crate) store: Store,
    /// Set when the process stops.
    pub(crate) stops: Arc<AtomicBool>,
}

impl ListReader {
    async fn run(self, mut jobs: mpsc::UnboundedReceiver<ReadJob>) {
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
            Ok(task) => self.next(Reread { task, reader }).await,
            Err(ended) => Notice::Rejudged(ended),
        }
    }

    async fn next(&self, mut reread: Reread) -> Notice {
        let mut tries = 0;
        loop {
            match reread.reader.next().await {
                Ok(piece) => {
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

/// Runs the thread to its end.
pub(crate) fn run(reader: ListReader, jobs: mpsc::UnboundedReceiver<ReadJob>) {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match built {
        Ok(runtime) => runtime.block_on(reader.run(jobs)),
        Err(error) => tracing::error!(%error, "the thread that reads lists cannot start"),
    }
}
