//! A worker's mailbox: what others ask of it, bounded, and what it is told by those who work for
//! it, never refused.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::evidence::{ChallengeId, Hello, Peer, SessionId, Submission};
use rat_engine::shard::{AgentView, Coverage, Glance, Input, StatusCounts, Task};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::limits::{CONTROL_REQUESTS_MAX, REQUESTS_PER_SESSION_MAX};
use crate::list_reader::Reread;

/// What somebody asks of a worker.
pub(crate) enum Request {
    Connected {
        session: SessionId,
        hello: Box<Hello>,
        peer: Box<dyn Peer>,
    },
    Evidence {
        session: SessionId,
        agent: AgentId,
        submission: Box<Submission>,
    },
    Arriving {
        session: SessionId,
        agent: AgentId,
        challenge: ChallengeId,
        bytes: u64,
    },
    Piece {
        session: SessionId,
        agent: AgentId,
        challenge: ChallengeId,
        piece: Vec<u8>,
    },
    /// An operator's input for one agent; answered when it was taken.
    Input {
        shard: ShardIndex,
        input: Box<Input>,
        taken: oneshot::Sender<()>,
    },
    Disconnected {
        session: SessionId,
        agent: AgentId,
    },
    Look(Look),
}

/// What somebody wants to see of a worker's shards. Nothing changes by it.
pub(crate) enum Look {
    View {
        agent: AgentId,
        found: oneshot::Sender<Option<AgentView>>,
    },
    /// Agents of any of the worker's shards; the answers are in their order.
    Glances {
        agents: Vec<AgentId>,
        found: oneshot::Sender<Vec<Option<Glance>>>,
    },
    Views {
        shard: ShardIndex,
        found: oneshot::Sender<Vec<AgentView>>,
    },
    /// How many agents of a group were judged, in the worker's shards at these places.
    Coverage {
        group: Arc<str>,
        places: Range<usize>,
        found: oneshot::Sender<Vec<Coverage>>,
    },
    /// How the agents of the worker's shards at these places stand.
    StatusCounts {
        places: Range<usize>,
        found: oneshot::Sender<StatusCounts>,
    },
}

impl Request {
    /// The connection that it came by.
    const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Connected { session, .. }
            | Self::Evidence { session, .. }
            | Self::Arriving { session, .. }
            | Self::Piece { session, .. } => Some(*session),
            _ => None,
        }
    }
}

/// What a worker is told. There is never more of it than was begun: one for each tick, task, piece
/// and stored list on its way, and one for each change of a group.
pub(crate) enum Notice {
    /// For every shard of the worker.
    Group(Arc<rat_engine::shard::Group>),
    Drain,
    /// Nothing but a turn.
    Look,
    Stop,
    Begun(Box<Task>),
    Fed {
        task: Box<Task>,
        piece: Vec<u8>,
        overran: bool,
    },
    Finished(Box<rat_engine::shard::Judged>),
    Panicked {
        agent: AgentId,
        challenge: ChallengeId,
    },
    Staged {
        agent: AgentId,
        challenge: ChallengeId,
    },
    Committed {
        shard: ShardIndex,
        seq: u64,
    },
    CommitFailed {
        shard: ShardIndex,
        seq: u64,
    },
    /// The next piece of a stored list; `None` at its end.
    Read {
        reread: Box<Reread>,
        piece: Option<Vec<u8>>,
    },
    /// More of a stored list is wanted.
    ReadOn(Box<Reread>),
    Rejudged(Box<rat_engine::shard::Rejudged>),
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// Too many wait.
    Full,
    /// Too many of the same connection wait.
    SessionFull,
    /// The worker is gone.
    Dead,
}

pub(crate) struct Mailbox {
    queues: Mutex<Queues>,
    arrived: Condvar,
    requests_max: usize,
}

struct Waiting {
    request: Request,
    since: Instant,
}

impl Waiting {
    fn new(request: Request) -> Self {
        Self {
            request,
            since: Instant::now(),
        }
    }
}

#[derive(Default)]
struct Queues {
    requests: VecDeque<Waiting>,
    /// How many of them each connection has.
    by_session: HashMap<SessionId, usize>,
    notices: VecDeque<Notice>,
    is_dead: bool,
}

/// What a worker took out at once.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) requests: Vec<Request>,
    /// How long the oldest of the requests waited.
    pub(crate) waited: Option<Duration>,
}

impl Mailbox {
    pub(crate) fn new(requests_max: usize) -> Self {
        Self {
            queues: Mutex::new(Queues::default()),
            arrived: Condvar::new(),
            requests_max,
        }
    }

    /// Puts a request, unless too many wait, or too many of the same connection: who floods is
    /// refused before others are. (S07)
    pub(crate) fn ask(&self, request: Request) -> Result<(), NotTaken> {
        let mut queues = self.lock();
        if queues.is_dead {
            return Err(NotTaken::Dead);
        }
        // Operators' requests find room when agents' do not.
        let room = match request.session() {
            Some(_) => self.requests_max,
            None => self.requests_max.saturating_add(CONTROL_REQUESTS_MAX),
        };
        if queues.requests.len() >= room {
            return Err(NotTaken::Full);
        }
        if let Some(session) = request.session() {
            let waiting = queues.by_session.entry(session).or_default();
            if *waiting >= REQUESTS_PER_SESSION_MAX {
                return Err(NotTaken::SessionFull);
            }
            *waiting = waiting.saturating_add(1);
        }
        queues.requests.push_back(Waiting::new(request));
        drop(queues);
        self.arrived.notify_one();
        Ok(())
    }

    /// Puts the end of a connection, behind what came by it. There is one for each connection.
    pub(crate) fn disconnected(&self, session: SessionId, agent: AgentId) {
        let mut queues = self.lock();
        if queues.is_dead {
            return;
        }
        let request = Request::Disconnected { session, agent };
        queues.requests.push_back(Waiting::new(request));
        drop(queues);
        self.arrived.notify_one();
    }

    /// Puts a notice; a dead worker needs none.
    pub(crate) fn tell(&self, notice: Notice) {
        self.tell_all([notice]);
    }

    /// Puts notices, in order, so that one turn finds them all.
    pub(crate) fn tell_all(&self, notices: impl IntoIterator<Item = Notice>) {
        let mut queues = self.lock();
        if queues.is_dead {
            return;
        }
        queues.notices.extend(notices);
        drop(queues);
        self.arrived.notify_one();
    }

    /// Every notice and at most `requests_max` requests; waits for one, at most this long.
    pub(crate) fn take(&self, requests_max: usize, wait: Duration) -> Batch {
        let mut queues = self.lock();
        if queues.requests.is_empty() && queues.notices.is_empty() && !wait.is_zero() {
            let woken = self.arrived.wait_timeout(queues, wait);
            queues = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = queues.requests.len().min(requests_max);
        let waited = queues.requests.front().map(|oldest| oldest.since.elapsed());
        let taken = queues.requests.drain(..count);
        let requests: Vec<Request> = taken.map(|waiting| waiting.request).collect();
        for session in requests.iter().filter_map(Request::session) {
            let waiting = queues.by_session.get_mut(&session);
            let left = waiting.map_or(0, |waiting| {
                *waiting = waiting.saturating_sub(1);
                *waiting
            });
            if left == 0 {
                queues.by_session.remove(&session);
            }
        }
        Batch {
            notices: std::mem::take(&mut queues.notices),
            requests,
            waited,
        }
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().requests.len()
    }

    /// Marks the worker as gone: whoever asked is told so by the loss of the answer's sender.
    pub(crate) fn close(&self) {
        let mut queues = self.lock();
        queues.is_dead = true;
        let lost = (
            std::mem::take(&mut queues.requests),
            std::mem::take(&mut queues.notices),
        );
        drop(queues);
        drop(lost);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.lock().is_dead
    }

    /// No code panics while it holds the lock, so what a poisoned one guards is whole.
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(session: u64) -> Request {
        Request::Piece {
            session: SessionId(session),
            agent: AgentId::parse("machine-1").unwrap(),
            challenge: ChallengeId([0; 16]),
            piece: Vec::new(),
        }
    }

    fn view() -> (Request, oneshot::Receiver<Option<AgentView>>) {
        let (found, answer) = oneshot::channel();
        let agent = AgentId::parse("machine-1").unwrap();
        (Request::Look(Look::View { agent, found }), answer)
    }

    #[test]
    fn s07_one_connection_cannot_fill_a_mailbox() {
        let mailbox = Mailbox::new(1_000);
        for _ in 0..REQUESTS_PER_SESSION_MAX {
            assert_eq!(mailbox.ask(piece(1)), Ok(()));
        }
        assert_eq!(mailbox.ask(piece(1)), Err(NotTaken::SessionFull));
        assert_eq!(mailbox.ask(piece(2)), Ok(()));
        let batch = mailbox.take(1, Duration::ZERO);
        assert_eq!(batch.requests.len(), 1);
        assert_eq!(mailbox.ask(piece(1)), Ok(()));
        assert_eq!(mailbox.ask(piece(1)), Err(NotTaken::SessionFull));
    }

    #[test]
    fn s07_operators_find_room_in_a_mailbox_that_agents_filled() {
        let mailbox = Mailbox::new(3);
        for session in 0..3 {
            assert_eq!(mailbox.ask(piece(session)), Ok(()));
        }
        assert_eq!(mailbox.ask(piece(3)), Err(NotTaken::Full));
        for _ in 0..CONTROL_REQUESTS_MAX {
            assert_eq!(mailbox.ask(view().0), Ok(()));
        }
        assert_eq!(mailbox.ask(view().0), Err(NotTaken::Full));
        // The end of a connection always finds room, behind what came by it.
        mailbox.disconnected(SessionId(0), AgentId::parse("machine-1").unwrap());
        let batch = mailbox.take(usize::MAX, Duration::ZERO);
        assert_eq!(batch.requests.len(), 3 + CONTROL_REQUESTS_MAX + 1);
        assert!(matches!(
            batch.requests.first(),
            Some(Request::Piece { .. })
        ));
        assert!(matches!(
            batch.requests.last(),
            Some(Request::Disconnected { .. })
        ));
    }

    #[test]
    fn s01_whoever_waits_for_a_dead_worker_is_told() {
        let mailbox = Mailbox::new(3);
        let (request, mut answer) = view();
        assert_eq!(mailbox.ask(request), Ok(()));
        mailbox.close();
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(mailbox.ask(view().0), Err(NotTaken::Dead));
        mailbox.tell(Notice::Look);
        assert!(mailbox.take(usize::MAX, Duration::ZERO).notices.is_empty());
    }
}
