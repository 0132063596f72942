//! A measurement list on its way through a worker: asked for, judged, staged, piece by piece.

use std::collections::VecDeque;

use rat_engine::evidence::{ChallengeId, SessionId};
use rat_engine::shard::Task;

use crate::limits::{PIECE_BYTES_MAX, PIECES_IN_FLIGHT_MAX};

/// One list that comes in pieces.
///
/// A piece is *asked* for, *waits* for the task, is *fed* to it in a lane, and is *staged* in the
/// store. At most [`PIECES_IN_FLIGHT_MAX`] are somewhere on this way: a slow store or lane slows
/// the sender down, and memory stays bounded.
pub(crate) struct Upload {
    pub(crate) session: SessionId,
    pub(crate) challenge: ChallengeId,
    /// None while it is in a lane.
    task: Option<Box<Task>>,
    waiting: VecDeque<Vec<u8>>,
    asked: usize,
    unstaged: usize,
    /// Bytes that have not arrived.
    to_come: u64,
    next_piece: u64,
    /// When the next piece must have arrived.
    deadline_ms: u64,
    /// Bytes that have arrived, and for how long they were waited for.
    arrived: u64,
    waited_ms: u64,
    /// Since when a piece is being waited for.
    asked_since_ms: u64,
}

/// What an upload wants done next.
pub(crate) enum Step {
    Ask,
    Feed(Box<Task>, Vec<u8>),
    Finish(Box<Task>),
}

/// A piece that was not asked for, or cannot be one.
pub(crate) struct NotAsked;

impl Upload {
    pub(crate) fn new(task: Box<Task>) -> Self {
        Self {
            session: task.session(),
            challenge: task.challenge().id,
            to_come: task.remaining(),
            task: Some(task),
            waiting: VecDeque::new(),
            asked: 0,
            unstaged: 0,
            next_piece: 0,
            deadline_ms: u64::MAX,
            arrived: 0,
            waited_ms: 0,
            asked_since_ms: 0,
        }
    }

    /// When it is given up unless a piece arrives.
    pub(crate) const fn deadline_ms(&self) -> u64 {
        if self.asked > 0 {
            self.deadline_ms
        } else {
            u64::MAX
        }
    }

    /// The rate at which it arrives, in bytes a second, as if what is asked for were here: the time
    /// that its judging takes is not the sender's.
    pub(crate) fn rate(&self, now_ms: u64) -> u64 {
        let bytes = self.arrived.saturating_add(self.asked_bytes());
        let since_ms = if self.asked > 0 {
            now_ms.saturating_sub(self.asked_since_ms)
        } else {
            0
        };
        let waited_ms = self.waited_ms.saturating_add(since_ms);
        let per_second = bytes.saturating_mul(1_000).checked_div(waited_ms);
        per_second.unwrap_or(u64::MAX)
    }

    fn asked_bytes(&self) -> u64 {
        u64::try_from(self.asked)
            .unwrap_or(u64::MAX)
            .saturating_mul(PIECE_BYTES_MAX)
    }

    /// Whether bytes are missing that only the connection can bring.
    pub(crate) const fn needs_its_session(&self) -> bool {
        self.to_come > 0
    }

    pub(crate) fn arrived(
        &mut self,
        piece: Vec<u8>,
        now_ms: u64,
        piece_ms_max: u64,
    ) -> Result<(), NotAsked> {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if self.asked == 0 || length == 0 || length > PIECE_BYTES_MAX {
            return Err(NotAsked);
        }
        self.asked = self.asked.saturating_sub(1);
        self.to_come = self.to_come.saturating_sub(length);
        self.arrived = self.arrived.saturating_add(length);
        let waited_ms = now_ms.saturating_sub(self.asked_since_ms);
        self.waited_ms = self.waited_ms.saturating_add(waited_ms);
        self.asked_since_ms = now_ms;
        self.deadline_ms = now_ms.saturating_add(piece_ms_max);
        self.waiting.push_back(piece);
        Ok(())
    }

    /// The task came back from a lane. The piece that it took is to be staged, at this place.
    pub(crate) fn fed(&mut self, task: Box<Task>) -> u64 {
        if task.remaining() == 0 {
            self.to_come = 0;
            self.waiting.clear();
        }
        self.task = Some(task);
        self.unstaged = self.unstaged.saturating_add(1);
        let piece = self.next_piece;
        self.next_piece = self.next_piece.saturating_add(1);
        piece
    }

    pub(crate) const fn staged(&mut self) {
        self.unstaged = self.unstaged.saturating_sub(1);
    }

    /// The next step, if there is one now; ask until there is none.
    pub(crate) fn step(&mut self, now_ms: u64, piece_ms_max: u64) -> Option<Step> {
        let is_over = |task: &Task| task.remaining() == 0;
        if self.task.as_deref().is_some_and(is_over) && self.unstaged == 0 {
            return self.task.take().map(Step::Finish);
        }
        if self.task.is_some()
            && let Some(piece) = self.waiting.pop_front()
        {
            return self.task.take().map(|task| Step::Feed(task, piece));
        }
        let in_lane = usize::from(self.task.is_none());
        let in_flight = self
            .asked
            .saturating_add(self.waiting.len())
            .saturating_add(in_lane)
            .saturating_add(self.unstaged);
        if in_flight >= PIECES_IN_FLIGHT_MAX || self.asked_bytes() >= self.to_come {
            return None;
        }
        if self.asked == 0 {
            self.asked_since_ms = now_ms;
        }
        self.asked = self.asked.saturating_add(1);
        self.deadline_ms = now_ms.saturating_add(piece_ms_max);
        Some(Step::Ask)
    }
}
