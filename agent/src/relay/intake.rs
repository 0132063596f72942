//! What agents send to the relay, passed on as it comes.

use std::sync::Arc;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Busy, ChallengeId, Hello, Intake, Peer, SessionId, Submission};
use rat_transport::quic::client::{self, AgentHello, Evidence, ForAgent, ListHead};

use super::roster::{Roster, number};

/// What one message takes beside its logs.
const MESSAGE_BYTES: usize = 1024;

/// Where the transport delivers.
pub(super) struct Door(pub(super) Arc<Roster>);

impl Intake for Door {
    fn connected(&self, session: SessionId, hello: Hello, peer: Box<dyn Peer>) -> Result<(), Busy> {
        let told = AgentHello {
            client_key_sha256: hello.client_key_sha256,
            hello: client::Hello {
                agent: hello.agent,
                log_formats: hello.log_formats,
                banks: hello.banks,
                reset_count: hello.reset_count,
                restart_count: hello.restart_count,
                entry_count: hello.entry_count,
                instance: hello.instance,
            },
        };
        self.0.connected(number(session), told, peer)
    }

    fn logs_arrive(
        &self,
        session: SessionId,
        _: &AgentId,
        challenge: ChallengeId,
        bytes: u64,
    ) -> Result<(), Busy> {
        let said = ForAgent::Arriving(challenge, bytes);
        self.0.say(number(session), said, MESSAGE_BYTES)
    }

    fn evidence(
        &self,
        session: SessionId,
        _: &AgentId,
        submission: Submission,
    ) -> Result<(), Busy> {
        let boot_log_bytes = submission.boot_log.as_ref().map(Vec::len);
        let list_bytes = submission.ima.as_ref().map_or(0, |list| list.length);
        if !self.0.takes(boot_log_bytes.unwrap_or(0), list_bytes) {
            tracing::warn!(session = session.0, "logs that the server does not take");
            return Err(Busy {
                retry_after_ms: 60_000,
            });
        }
        let head = submission.ima.as_ref().map(|list| ListHead {
            from_entry: list.from_entry,
            // Hints that the server has no use for.
            count: 0,
            format: list.format,
            length: list.length,
        });
        let list = submission.ima.and_then(|list| list.whole);
        let logs = [submission.boot_log.as_ref(), list.as_ref()];
        let log_bytes: usize = logs.into_iter().flatten().map(Vec::len).sum();
        let said = ForAgent::Evidence {
            evidence: Evidence {
                challenge: submission.challenge,
                claimed_binding: submission.claimed_binding,
                quote: submission.quote,
                signature: submission.signature,
                pcr_values: submission.pcr_values,
                reset_count: 0,
                restart_count: 0,
                ima: head,
                boot_log_bytes: boot_log_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            },
            boot_log: submission.boot_log,
            list,
        };
        let bytes = MESSAGE_BYTES.saturating_add(log_bytes);
        self.0.say(number(session), said, bytes)
    }

    fn log_piece(
        &self,
        session: SessionId,
        _: &AgentId,
        challenge: ChallengeId,
        piece: Vec<u8>,
    ) -> Result<(), Busy> {
        let bytes = MESSAGE_BYTES.saturating_add(piece.len());
        let said = ForAgent::Piece(challenge, piece);
        self.0.say(number(session), said, bytes)
    }

    fn disconnected(&self, session: SessionId, _: &AgentId) {
        self.0.left(number(session));
    }
}
