//! Where appraisals are computed: on rayon's threads, or by the worker itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use rat_engine::agent_id::AgentId;
use rat_engine::crypto::{LANES, VectorUnit, vector_unit};
use rat_engine::evidence::ChallengeId;
use rat_engine::shard::{Rejudge, Task, Unusable};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::list_reader::Reread;
use crate::mailbox::{Mailbox, Notice};
use crate::measures;

/// Threads for arithmetic, shared by all workers.
#[derive(Clone)]
pub(crate) struct Lanes {
    pool: Option<Arc<ThreadPool>>,
}

/// One step of an appraisal.
pub(crate) enum Work {
    /// Tasks whose signatures are verified together.
    Begin(Vec<Task>),
    Feed(Box<Task>, Vec<u8>),
    Finish(Box<Task>),
    /// The next piece of a stored list, or its end.
    Rejudge(Box<Reread>, Option<Vec<u8>>),
}

impl Lanes {
    /// This many threads; none means that workers compute for themselves.
    pub(crate) fn start(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        if threads == 0 {
            return Ok(Self { pool: None });
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|nth| format!("lane-{nth}"))
            .build()?;
        Ok(Self {
            pool: Some(Arc::new(pool)),
        })
    }

    pub(crate) const fn are_there(&self) -> bool {
        self.pool.is_some()
    }

    /// Has tasks begun elsewhere, every thread with its share of them, each in batches of one kind
    /// as far as there are enough.
    pub(crate) fn begin(&self, mut tasks: Vec<Task>, mailbox: &Arc<Mailbox>) {
        tasks.sort_by_cached_key(|task| task.signature_kind());
        let threads = self.pool.as_ref().map_or(1, |it| it.current_num_threads());
        let share = tasks.len().div_ceil(threads.max(1));
        let share = share.next_multiple_of(LANES);
        while !tasks.is_empty() {
            let rest = tasks.split_off(share.min(tasks.len()));
            self.give(Work::Begin(tasks), mailbox);
            tasks = rest;
        }
    }

    /// Has work done elsewhere if there is an elsewhere; the worker is told when it is done.
    pub(crate) fn give(&self, work: Work, mailbox: &Arc<Mailbox>) {
        match &self.pool {
            Some(pool) => {
                let mailbox = Arc::clone(mailbox);
                pool.spawn(move || run(work, &mailbox));
            }
            None => run(work, mailbox),
        }
    }
}

/// What is left to say of a task that panicked.
enum Of {
    Challenge(AgentId, ChallengeId),
    StoredList(Box<Rejudge>),
}

impl Of {
    fn challenge(task: &Task) -> Self {
        Self::Challenge(task.agent().clone(), task.challenge().id)
    }
}

/// Does one step; the worker is told what came of it.
pub(crate) fn run(work: Work, mailbox: &Mailbox) {
    match work {
        Work::Begin(mut tasks) => {
            verify_signatures(&mut tasks);
            for task in tasks {
                mailbox.tell(contained(Of::challenge(&task), || begin(task)));
            }
        }
        Work::Feed(task, piece) => {
            mailbox.tell(contained(Of::challenge(&task), || feed(task, piece)));
        }
        Work::Finish(task) => {
            mailbox.tell(contained(Of::challenge(&task), || finish(*task)));
        }
        Work::Rejudge(reread, piece) => {
            let of = Of::StoredList(Box::new(reread.task.rejudge().clone()));
            mailbox.tell(contained(of, || rejudge(reread, piece)));
        }
    }
}

/// After a panic here each signature is verified by itself.
fn verify_signatures(tasks: &mut [Task]) {
    if tasks.is_empty() {
        return;
    }
    measures::signatures_per_batch(tasks.len());
    let batch = AssertUnwindSafe(|| Task::verify_signatures(tasks));
    if catch_unwind(batch).is_err() {
        measures::lane_panicked();
        tracing::error!("a batch of signatures panicked");
    }
    if vector_unit() == VectorUnit::Distrusted {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            measures::vector_unit(VectorUnit::Distrusted);
            tracing::error!(
                "the vector unit gave a wrong answer about a signature; it is not used any more: \
                 the processor or this program is broken"
            );
        });
    }
}

/// Does one step. A panic ends this task and nothing else. (S01)
fn contained(of: Of, step: impl FnOnce() -> Notice) -> Notice {
    // A task that panicked is dropped, so nobody sees what it left behind.
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        measures::lane_panicked();
        match of {
            Of::Challenge(agent, challenge) => {
                tracing::error!(%agent, "an appraisal panicked");
                Notice::Panicked { agent, challenge }
            }
            Of::StoredList(rejudge) => {
                tracing::error!(agent = %rejudge.agent, "judging a stored list panicked");
                Notice::Rejudged(rejudge.unusable(Unusable::Panicked))
            }
        }
    })
}

fn begin(mut task: Task) -> Notice {
    if task.is_streamed() {
        task.begin();
        if task.remaining() > 0 {
            return Notice::Begun(Box::new(task));
        }
    }
    finish(task)
}

fn feed(mut task: Box<Task>, piece: Vec<u8>) -> Notice {
    let overran = task.feed(&piece).is_err();
    Notice::Fed {
        task,
        piece,
        overran,
    }
}

fn finish(task: Task) -> Notice {
    Notice::Finished(Box::new(task.finish()))
}

fn rejudge(mut reread: Box<Reread>, piece: Option<Vec<u8>>) -> Notice {
    match piece {
        Some(piece) if reread.task.feed(&piece) => Notice::ReadOn(reread),
        _ => Notice::Rejudged(reread.task.finish()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s01_a_panic_in_a_lane_is_an_abandoned_appraisal() {
        let agent = AgentId::parse("machine-1").unwrap();
        let challenge = ChallengeId([7; 16]);
        let of = Of::Challenge(agent.clone(), challenge);
        let notice = contained(of, || panic!("in a test"));
        let Notice::Panicked {
            agent: of,
            challenge: open,
        } = notice
        else {
            panic!("not contained");
        };
        assert_eq!((of, open), (agent, challenge));
    }
}
