//! Where appraisals are computed: on rayon's threads, or by the worker itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rat_engine::agent_id::AgentId;
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
    Begin(Box<Task>),
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

    /// Has work done elsewhere if there is an elsewhere; the worker is told when it is done.
    pub(crate) fn give(&self, work: Work, mailbox: &Arc<Mailbox>) {
        match &self.pool {
            Some(pool) => {
                let mailbox = Arc::clone(mailbox);
                pool.spawn(move || mailbox.tell(run(work)));
            }
            None => mailbox.tell(run(work)),
        }
    }
}

/// What is left to say of a task that panicked.
enum Of {
    Challenge(AgentId, ChallengeId),
    StoredList(Box<Rejudge>),
}

/// Does one step. A panic ends this task and nothing else. (S01)
pub(crate) fn run(work: Work) -> Notice {
    let of = match &work {
        Work::Begin(task) | Work::Feed(task, _) | Work::Finish(task) => {
            Of::Challenge(task.agent().clone(), task.challenge().id)
        }
        Work::Rejudge(reread, _) => Of::StoredList(Box::new(reread.task.rejudge().clone())),
    };
    contained(of, || step(work))
}

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

fn step(work: Work) -> Notice {
    match work {
        Work::Begin(mut task) => {
            task.begin();
            if task.remaining() > 0 {
                return Notice::Begun(task);
            }
            Notice::Finished(Box::new(task.finish()))
        }
        Work::Feed(mut task, piece) => {
            let overran = task.feed(&piece).is_err();
            Notice::Fed {
                task,
                piece,
                overran,
            }
        }
        Work::Finish(task) => Notice::Finished(Box::new(task.finish())),
        Work::Rejudge(mut reread, piece) => match piece {
            Some(piece) if reread.task.feed(&piece) => Notice::ReadOn(reread),
            _ => Notice::Rejudged(reread.task.finish()),
        },
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
