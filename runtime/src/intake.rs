//! Where transports deliver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Busy, ChallengeId, Hello, Intake, Peer, SessionId, Submission};

use crate::mailbox::{Mailbox, NotTaken, Request};
use crate::measures;

/// The workers' mailboxes, as transports see them.
pub(crate) struct Doors {
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    pub(crate) retry_after_ms: u32,
    pub(crate) is_draining: Arc<AtomicBool>,
}

/// Which worker drives a shard.
pub(crate) fn worker_of(shard: rat_engine::agent_id::ShardIndex, workers: usize) -> usize {
    usize::from(shard.get()).checked_rem(workers).unwrap_or(0)
}

impl Doors {
    fn mailbox(&self, agent: &AgentId) -> Option<&Arc<Mailbox>> {
        let worker = worker_of(agent.shard(), self.mailboxes.len());
        self.mailboxes.get(worker)
    }

    fn ask(&self, agent: &AgentId, request: Request) -> Result<(), Busy> {
        let asked = self.mailbox(agent).map(|mailbox| mailbox.ask(request));
        let limit = match asked {
            Some(Ok(())) => return Ok(()),
            Some(Err(NotTaken::Full)) => "mailbox_messages_max",
            Some(Err(NotTaken::SessionFull)) => "requests_per_session_max",
            Some(Err(NotTaken::Dead)) | None => "worker_dead",
        };
        measures::limit_rejection(limit);
        Err(self.busy())
    }

    const fn busy(&self) -> Busy {
        Busy {
            retry_after_ms: self.retry_after_ms,
        }
    }
}

impl Intake for Doors {
    fn connected(&self, session: SessionId, hello: Hello, peer: Box<dyn Peer>) -> Result<(), Busy> {
        if self.is_draining.load(Ordering::Acquire) {
            return Err(self.busy());
        }
        let agent = hello.agent.clone();
        let hello = Box::new(hello);
        self.ask(
            &agent,
            Request::Connected {
                session,
                hello,
                peer,
            },
        )
    }

    fn evidence(
        &self,
        session: SessionId,
        agent: &AgentId,
        submission: Submission,
    ) -> Result<(), Busy> {
        self.ask(
            agent,
            Request::Evidence {
                session,
                agent: agent.clone(),
                submission: Box::new(submission),
            },
        )
    }

    fn logs_arrive(
        &self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        bytes: u64,
    ) -> Result<(), Busy> {
        self.ask(
            agent,
            Request::Arriving {
                session,
                agent: agent.clone(),
                challenge,
                bytes,
            },
        )
    }

    fn log_piece(
        &self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        piece: Vec<u8>,
    ) -> Result<(), Busy> {
        self.ask(
            agent,
            Request::Piece {
                session,
                agent: agent.clone(),
                challenge,
                piece,
            },
        )
    }

    fn disconnected(&self, session: SessionId, agent: &AgentId) {
        if let Some(mailbox) = self.mailbox(agent) {
            mailbox.disconnected(session, agent.clone());
        }
    }
}
