//! Lists that come in pieces: whose turn it is, and when one is given up.

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{ChallengeId, SessionId, ToAgent};
use rat_engine::shard::{Abandon, Input, Task};
use rat_engine::time::Now;

use super::Worker;
use crate::lanes::Work;
use crate::measures;
use crate::store_thread::{Job, Piece};
use crate::upload::{Step, Upload};

impl Worker {
    /// A quote was found genuine, and its list is to follow.
    pub(super) fn begun(&mut self, task: Box<Task>, now: Now) {
        self.turn.queued.push_back((now.mono_ms, task));
        self.open_uploads(now);
    }

    fn open_uploads(&mut self, now: Now) {
        while self.turn.uploads.len() < self.settings.uploads_per_worker_max {
            let Some((_, task)) = self.turn.queued.pop_front() else {
                return;
            };
            let agent = task.agent().clone();
            let upload = Upload::new(task);
            if !self.turn.peers.contains_key(&upload.session) {
                self.abandon(agent, upload.challenge, Abandon::Incomplete, now);
                continue;
            }
            // An agent has one open challenge, so an older upload is one that was abandoned.
            self.turn.uploads.insert(agent.clone(), upload);
            self.advance(&agent, now);
        }
        if !self.turn.queued.is_empty() {
            measures::limit_rejection("uploads_per_worker_max");
        }
    }

    /// Does what an upload wants done next.
    fn advance(&mut self, agent: &AgentId, now: Now) {
        let piece_ms_max = self.settings.piece_ms_max;
        while let Some(upload) = self.turn.uploads.get_mut(agent) {
            let (session, challenge) = (upload.session, upload.challenge);
            match upload.step(now.mono_ms, piece_ms_max) {
                None => return,
                Some(Step::Ask) => {
                    if let Some(peer) = self.turn.peers.get(&session) {
                        peer.send(ToAgent::More(challenge));
                    }
                }
                Some(Step::Feed(task, piece)) => {
                    self.lanes.give(Work::Feed(task, piece), &self.mailbox);
                }
                Some(Step::Finish(task)) => {
                    self.turn.uploads.remove(agent);
                    self.lanes.give(Work::Finish(task), &self.mailbox);
                    self.open_uploads(now);
                    return;
                }
            }
        }
    }

    /// A piece arrived. One that was not asked for changes nothing for others; its upload ends.
    pub(super) fn piece(
        &mut self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        piece: Vec<u8>,
        now: Now,
    ) {
        let piece_ms_max = self.settings.piece_ms_max;
        let upload = self.turn.uploads.get_mut(agent);
        let upload = upload.filter(|it| it.session == session && it.challenge == challenge);
        let Some(upload) = upload else {
            measures::protocol_fault("piece_without_upload");
            return;
        };
        if upload.arrived(piece, now.mono_ms, piece_ms_max).is_err() {
            measures::protocol_fault("piece_not_asked");
            self.give_up(agent, challenge, Abandon::Incomplete, now);
            return;
        }
        self.advance(agent, now);
    }

    /// A lane judged a piece: it is staged, so that the commit can name it.
    pub(super) fn fed(&mut self, task: Box<Task>, piece: Vec<u8>, overran: bool, now: Now) {
        let agent = task.agent().clone();
        let challenge = task.challenge().id;
        let upload = self.turn.uploads.get_mut(&agent);
        // It may have been given up while its piece was in the lane.
        let Some(upload) = upload.filter(|upload| upload.challenge == challenge) else {
            return;
        };
        if overran {
            measures::protocol_fault("list_overrun");
            self.give_up(&agent, challenge, Abandon::Incomplete, now);
            return;
        }
        let nth = upload.fed(task);
        self.store.give(Job::Stage(Piece {
            agent: agent.clone(),
            challenge,
            piece: nth,
            bytes: piece,
            mailbox: std::sync::Arc::clone(&self.mailbox),
        }));
        self.advance(&agent, now);
    }

    pub(super) fn staged(&mut self, agent: &AgentId, challenge: ChallengeId, now: Now) {
        let upload = self.turn.uploads.get_mut(agent);
        if let Some(upload) = upload.filter(|upload| upload.challenge == challenge) {
            upload.staged();
            self.advance(agent, now);
        }
    }

    /// A connection ended: what it has not brought will not come.
    pub(super) fn upload_lost_session(&mut self, session: SessionId, agent: &AgentId, now: Now) {
        let upload = self.turn.uploads.get(agent);
        let upload = upload.filter(|upload| upload.session == session);
        if let Some(upload) = upload
            && upload.needs_its_session()
        {
            let challenge = upload.challenge;
            self.give_up(agent, challenge, Abandon::Incomplete, now);
        }
    }

    /// Gives up uploads whose next piece is late, so that their places go to others. (X04)
    pub(super) fn end_stale_uploads(&mut self, now: Now) {
        let is_late = |upload: &Upload| upload.deadline_ms() <= now.mono_ms;
        let late: Vec<_> = self
            .turn
            .uploads
            .iter()
            .filter(|(_, upload)| is_late(upload))
            .map(|(agent, upload)| (agent.clone(), upload.challenge))
            .collect();
        for (agent, challenge) in late {
            measures::protocol_fault("piece_late");
            self.give_up(&agent, challenge, Abandon::Timeout, now);
        }
    }

    /// When lists have waited for their turn for too long, as many of those that arrive more slowly
    /// than the least rate give theirs up, the slowest first. (S07)
    pub(super) fn end_slow_uploads(&mut self, now: Now) {
        let least = self.settings.shard.upload_bytes_per_second_min;
        let turn_ms_max = self.settings.turn_ms_max;
        let has_waited = |since_ms: u64| now.mono_ms.saturating_sub(since_ms) >= turn_ms_max;
        let queued = self.turn.queued.iter();
        let waiting = queued
            .take_while(|(since_ms, _)| has_waited(*since_ms))
            .count();
        if waiting == 0 {
            return;
        }
        let uploads = self.turn.uploads.iter();
        let rates =
            uploads.map(|(agent, upload)| (upload.rate(now.mono_ms), agent, upload.challenge));
        let mut slow: Vec<_> = rates.filter(|(rate, ..)| *rate < least).collect();
        slow.sort_unstable();
        let slow = slow.into_iter().take(waiting);
        let slow: Vec<_> = slow.map(|(_, agent, id)| (agent.clone(), id)).collect();
        for (agent, challenge) in slow {
            measures::protocol_fault("list_slow");
            self.give_up(&agent, challenge, Abandon::Timeout, now);
        }
    }

    fn give_up(&mut self, agent: &AgentId, challenge: ChallengeId, why: Abandon, now: Now) {
        self.forget_upload(agent, challenge, now);
        self.abandon(agent.clone(), challenge, why, now);
    }

    pub(super) fn forget_upload(&mut self, agent: &AgentId, challenge: ChallengeId, now: Now) {
        let upload = self.turn.uploads.get(agent);
        if upload.is_some_and(|upload| upload.challenge == challenge) {
            self.turn.uploads.remove(agent);
            self.open_uploads(now);
        }
    }

    /// The shard abandoned what it had of this agent.
    pub(super) fn drop_upload_of(&mut self, agent: &AgentId, now: Now) {
        self.turn.queued.retain(|(_, task)| task.agent() != agent);
        if self.turn.uploads.remove(agent).is_some() {
            self.open_uploads(now);
        }
    }

    pub(super) fn abandon(
        &mut self,
        agent: AgentId,
        challenge: ChallengeId,
        why: Abandon,
        now: Now,
    ) {
        let shard = agent.shard();
        let input = Input::Abandoned {
            agent,
            challenge,
            why,
        };
        self.give(shard, input, now);
    }
}
