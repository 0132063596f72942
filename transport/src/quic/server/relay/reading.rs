//! What a relay sends for its agents.

use std::sync::Arc;
use std::time::Duration;

use rat_engine::evidence::{
    Binding, Busy, ChallengeId, Hello, ImaUpload, Refusal, SessionId, Submission,
};
use rat_engine::shard::AgentPath;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout};

use super::Shares;
use super::agents::Relayed;
use super::hellos::Hellos;
use super::writing::{ThroughRelay, Told};
use crate::limits;
use crate::measures;
use crate::memory::Held;
use crate::quic::parcels::{ITSELF, Parcels};
use crate::quic::server::end::End;
use crate::quic::server::renewal;
use crate::quic::wire::{AgentHello, Evidence, Frame, Refused, WireError};
use crate::quic::{Reason, RenewRefused};

/// Parcels of one relay that are taken before others have a turn.
const PARCELS_PER_TURN: u32 = 64;

/// The reading half of a relay's connection.
pub(super) struct Reading<'s, 'a> {
    shares: &'s Shares<'a>,
    parcels: Parcels,
    hellos: Hellos,
    /// Requests for certificates that wait for the CA.
    renewals: JoinSet<()>,
    /// How often the relay itself asked for one over this connection.
    own_renewals: usize,
}

impl<'s, 'a> Reading<'s, 'a> {
    pub(super) fn new(shares: &'s Shares<'a>, parcels: Parcels) -> Self {
        let per_second_max = shares.server.limits.relay_hellos_per_second_max;
        Self {
            shares,
            parcels,
            hellos: Hellos::new(per_second_max, Instant::now()),
            renewals: JoinSet::new(),
            own_renewals: 0,
        }
    }

    /// Takes parcels until the connection is to end.
    pub(super) async fn run(mut self) -> End {
        let mut turn: u32 = 0;
        loop {
            let (number, frame) = match self.parcels.next().await {
                Ok(Some(parcel)) => parcel,
                Ok(None) => return End::refused(Reason::Done, 0),
                Err(fault) => return fault.into(),
            };
            if let Err(end) = self.take(number, frame).await {
                return end;
            }
            turn = turn.saturating_add(1);
            if turn >= PARCELS_PER_TURN {
                turn = 0;
                yield_now().await;
            }
        }
    }

    async fn take(&mut self, number: u64, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::AgentHello(hello) if number != ITSELF => self.hello(number, hello),
            Frame::Evidence(evidence) => self.evidence(number, evidence).await,
            Frame::Arriving(challenge, bytes) => {
                self.arriving(number, challenge, bytes);
                Ok(())
            }
            Frame::Piece(challenge, bytes) => self.piece(number, challenge, bytes).await,
            Frame::Left => {
                self.shares.agents.disconnect(number);
                Ok(())
            }
            Frame::Renew(csr) => {
                self.renew(number, csr);
                Ok(())
            }
            other => {
                let found = other.frame_type();
                Err(WireError::Unexpected { found }.into())
            }
        }
    }

    fn hello(&mut self, number: u64, hello: AgentHello) -> Result<(), End> {
        let Shares {
            server,
            relay,
            agents,
            outbox,
        } = self.shares;
        let session = server.next_session();
        let is_full = agents.len() >= server.limits.relay_agents_max;
        if is_full || !self.hellos.take(Instant::now()) {
            measures::limit(match is_full {
                true => "RELAY_AGENTS_MAX",
                false => "RELAY_HELLOS_PER_SECOND_MAX",
            });
            self.refuse(number, Refusal::Busy.into(), session, limits::BUSY_RETRY_MS);
            return Ok(());
        }
        let AgentHello {
            client_key_sha256,
            hello,
        } = hello;
        let relayed = Relayed::new(session, hello.agent.clone(), client_key_sha256);
        if agents.add(number, relayed).is_err() {
            tracing::warn!(relay = %relay.name, "a relay gave two agents one number");
            return Err(End::refused(Reason::Malformed, 0));
        }
        let hello = Hello {
            path: AgentPath::Native,
            agent: hello.agent,
            client_key_sha256,
            log_formats: hello.log_formats,
            banks: hello.banks,
            reset_count: hello.reset_count,
            restart_count: hello.restart_count,
            entry_count: hello.entry_count,
            instance: hello.instance,
            relay_key_sha256: Some(relay.key_sha256),
        };
        let outbox = Arc::clone(outbox);
        let peer = Box::new(ThroughRelay { number, outbox });
        if let Err(Busy { retry_after_ms }) = server.intake.connected(session, hello, peer) {
            agents.forget(number);
            self.refuse(number, Refusal::Busy.into(), session, retry_after_ms);
        }
        Ok(())
    }

    /// Evidence that was asked for, with its logs. What was not is dropped: it answers a challenge
    /// that was withdrawn, or none.
    async fn evidence(&mut self, number: u64, evidence: Evidence) -> Result<(), End> {
        let list = evidence.ima;
        let most = &self.shares.server.limits;
        let boot_log_bytes = evidence.boot_log_bytes.unwrap_or(0);
        let boot_log_bytes_max = u64::try_from(most.boot_log_bytes_max).unwrap_or(u64::MAX);
        let list_bytes = list.map_or(0, |list| list.length);
        // The relay was told, and takes no more from its agents.
        if boot_log_bytes > boot_log_bytes_max || list_bytes > most.list_bytes_max {
            measures::limit("LIST_BYTES_MAX");
            return Err(End::refused(Reason::Limit, 0));
        }
        let is_whole = list_bytes <= limits::WHOLE_LIST_BYTES_MAX;
        let (boot_log, _held_boot_log) = match evidence.boot_log_bytes {
            Some(bytes) => self
                .collect(bytes)
                .await
                .map(|(log, held)| (Some(log), held))?,
            None => (None, Vec::new()),
        };
        let (whole, _held_list) = match list {
            Some(list) if is_whole => {
                let collected = self.collect(list.length).await;
                collected.map(|(log, held)| (Some(log), held))?
            }
            _ => (None, Vec::new()),
        };
        let Shares {
            server,
            relay,
            agents,
            ..
        } = self.shares;
        let challenge = evidence.challenge;
        let bytes_to_come = if is_whole { 0 } else { list_bytes };
        let Some((session, agent)) = agents.answers(number, challenge, bytes_to_come) else {
            measures::count(measures::RELAY_UNASKED, 1);
            return Ok(());
        };
        let logs = [boot_log.as_ref(), whole.as_ref()];
        let log_bytes: usize = logs.into_iter().flatten().map(Vec::len).sum();
        let submission = Submission {
            challenge,
            binding: Binding::Relay(relay.key_sha256),
            claimed_binding: evidence.claimed_binding,
            quote: evidence.quote,
            signature: evidence.signature,
            pcr_values: evidence.pcr_values,
            boot_log,
            ima: list.map(|list| ImaUpload {
                from_entry: list.from_entry,
                format: list.format,
                length: list.length,
                whole,
            }),
        };
        let taken = server.intake.evidence(session, &agent, submission);
        self.taken(number, session, taken);
        measures::count(measures::EVIDENCE, 1);
        measures::count(measures::LOG_BYTES, u64::try_from(log_bytes).unwrap_or(0));
        Ok(())
    }

    fn arriving(&self, number: u64, challenge: ChallengeId, bytes: u64) {
        let Shares { server, agents, .. } = self.shares;
        let Some((session, agent)) = agents.announces(number, challenge) else {
            return measures::count(measures::RELAY_UNASKED, 1);
        };
        // No more time than the longest logs need that come before their evidence is taken up.
        let most = u64::try_from(server.limits.boot_log_bytes_max).unwrap_or(u64::MAX);
        let bytes = bytes.min(most.saturating_add(limits::WHOLE_LIST_BYTES_MAX));
        let taken = server.intake.logs_arrive(session, &agent, challenge, bytes);
        self.taken(number, session, taken);
    }

    async fn piece(
        &mut self,
        number: u64,
        challenge: ChallengeId,
        bytes: usize,
    ) -> Result<(), End> {
        let (piece, held) = self.raw(bytes).await?;
        let Shares { server, agents, .. } = self.shares;
        let Some((session, agent)) = agents.sends_piece(number, challenge, bytes) else {
            measures::count(measures::RELAY_UNASKED, 1);
            return Ok(());
        };
        let taken = server.intake.log_piece(session, &agent, challenge, piece);
        drop(held);
        self.taken(number, session, taken);
        measures::count(measures::LOG_BYTES, u64::try_from(bytes).unwrap_or(0));
        Ok(())
    }

    /// What a full shard says to an agent: come back later.
    fn taken(&self, number: u64, session: SessionId, taken: Result<(), Busy>) {
        if let Err(Busy { retry_after_ms }) = taken {
            self.shares.agents.disconnect(number);
            self.refuse(number, Refusal::Busy.into(), session, retry_after_ms);
        }
    }

    fn refuse(&self, number: u64, reason: Reason, session: SessionId, retry_after_ms: u32) {
        let retry_after_ms = self.shares.server.jittered(retry_after_ms, session);
        let refused = Refused {
            reason,
            retry_after_ms,
        };
        self.shares.outbox.put(number, Told::Refused(refused));
    }

    /// Has the CA sign for an agent, or for the relay itself.
    fn renew(&mut self, number: u64, csr: Vec<u8>) {
        while self.renewals.try_join_next().is_some() {}
        let Shares {
            server,
            relay,
            agents,
            outbox,
        } = self.shares;
        let outbox = Arc::clone(outbox);
        let refused = |refused, retry_after_ms| {
            let reason = Reason::Renew(refused);
            measures::refusal(reason);
            Told::Renewed(Err(Refused {
                reason,
                retry_after_ms,
            }))
        };
        if self.renewals.len() >= limits::RELAY_RENEWALS_MAX {
            measures::limit("RELAY_RENEWALS_MAX");
            let told = refused(RenewRefused::Unavailable, limits::BUSY_RETRY_MS);
            return outbox.put(number, told);
        }
        let whose = match (number, agents.get(number)) {
            (ITSELF, _) if self.own_renewals >= limits::RENEWALS_PER_HOUR_MAX => {
                measures::limit("RENEWALS_PER_HOUR_MAX");
                let told = refused(RenewRefused::TooOften, limits::BUSY_RETRY_MS);
                return outbox.put(number, told);
            }
            (ITSELF, _) => {
                self.own_renewals = self.own_renewals.saturating_add(1);
                renewal::Whose::Relay(relay.clone())
            }
            (_, Some(relayed)) if relayed.is_welcome => {
                renewal::Whose::Agent(relayed.agent, relayed.client_key_sha256)
            }
            _ => return measures::count(measures::RELAY_UNASKED, 1),
        };
        let signing = renewal::Signing::of(server, whose);
        self.renewals.spawn(async move {
            let told = match signing.run(csr).await {
                Ok(chain) => {
                    measures::count(measures::RENEWALS, 1);
                    Told::Renewed(Ok(chain))
                }
                Err((reason, retry_after_ms)) => refused(reason, retry_after_ms),
            };
            outbox.put(number, told);
        });
    }

    /// A log of this length, and the memory that it holds.
    async fn collect(&mut self, length: u64) -> Result<(Vec<u8>, Vec<Held>), End> {
        let mut log = Vec::new();
        let mut all_held = Vec::new();
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        while left > 0 {
            let (piece, held) = self.raw(left.min(limits::PIECE_BYTES_MAX)).await?;
            left = left.saturating_sub(piece.len());
            log.extend_from_slice(&piece);
            all_held.push(held);
        }
        Ok((log, all_held))
    }

    /// Raw bytes, when there is memory for them, no slower than the least rate.
    async fn raw(&mut self, bytes: usize) -> Result<(Vec<u8>, Held), End> {
        let server = self.shares.server;
        let grace_ms = server.limits.upload_grace_ms;
        let grace = Duration::from_millis(grace_ms);
        let Ok(Some(held)) = timeout(grace, server.memory.hold(bytes)).await else {
            measures::limit("BUFFERED_BYTES_MAX");
            return Err(End::refused(Refusal::Busy.into(), limits::BUSY_RETRY_MS));
        };
        let counted = u64::try_from(bytes).unwrap_or(u64::MAX);
        let at_least_rate_ms = counted
            .saturating_mul(1000)
            .checked_div(server.limits.upload_bytes_per_second_min)
            .unwrap_or(0);
        let limit = Duration::from_millis(grace_ms.saturating_add(at_least_rate_ms));
        let Ok(raw) = timeout(limit, self.parcels.raw(bytes)).await else {
            measures::limit("UPLOAD_BYTES_PER_SECOND_MIN");
            return Err(End::refused(Reason::TooSlow, limits::BUSY_RETRY_MS));
        };
        Ok((raw?, held))
    }
}
