//! Sessions of agents that push: a challenge that the attestation key answers, and then a token.
//!
//! They are in memory: after a restart every agent is told that its token is not known, and proves
//! its key again.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rat_engine::agent_id::AgentId;
use rat_engine::crypto::{constant_time_eq, digest};
use rat_engine::hash::HashAlg;
use tokio::time::Instant;

use crate::limits::{
    PUSH_CHALLENGE_MS, PUSH_CHALLENGES_MAX, PUSH_CHALLENGES_PER_AGENT_MAX, PUSH_SESSIONS_MAX,
    duration,
};

/// The id of a session, as its agent writes it: a UUID.
pub(super) type SessionName = String;

/// A challenge that an agent has yet to answer.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) agent: AgentId,
    pub(super) challenge: [u8; 16],
    pub(super) created_unix_ms: u64,
    pub(super) expires_unix_ms: u64,
    expires: Instant,
}

impl Pending {
    /// Whether it is too late to answer.
    pub(super) fn is_over(&self) -> bool {
        self.expires <= Instant::now()
    }
}

/// An agent that proved its attestation key.
#[derive(Clone)]
pub struct Proven {
    /// The agent.
    pub agent: AgentId,
    /// SHA-256 of the session's id.
    pub(super) session_sha256: [u8; 32],
    /// The Name of the key that it proved.
    pub(super) ak_name: Arc<[u8]>,
    /// SHA-256 of its public area: what the shard knows the agent by.
    pub(super) ak_sha256: [u8; 32],
}

impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proven")
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenFault {
    /// It is no token of ours, or of none that is known.
    Unknown,
    /// Its session is over.
    Expired,
}

struct Open {
    proven: Proven,
    token_sha256: [u8; 32],
    expires: Instant,
}

#[derive(Default)]
struct Inner {
    pending: HashMap<SessionName, Pending>,
    /// In the order in which they end.
    pending_order: VecDeque<SessionName>,
    pending_of: HashMap<AgentId, usize>,
    open: HashMap<SessionName, Open>,
    /// The one session that an agent has.
    of_agent: HashMap<AgentId, SessionName>,
}

/// All sessions.
pub(crate) struct Sessions {
    inner: Mutex<Inner>,
    lifetime: Duration,
}

/// There is no room for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) limit: &'static str,
}

/// A token, and until when it serves.
pub(super) struct Granted {
    pub(super) token: String,
    pub(super) expires_unix_ms: u64,
}

impl Sessions {
    /// None yet; each is to last so long after the last attestation that passed.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            lifetime,
        }
    }

    /// Keeps a challenge for an agent, which nobody has authenticated: its oldest one goes when it
    /// has as many as it may, so that nobody keeps it from getting one.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) fn challenge(
        &self,
        name: SessionName,
        agent: AgentId,
        challenge: [u8; 16],
        now_unix_ms: u64,
    ) -> Result<Pending, Full> {
        let mut inner = self.lock();
        inner.forget_old();
        if inner.pending.len() >= PUSH_CHALLENGES_MAX {
            return Err(Full {
                limit: "PUSH_CHALLENGES_MAX",
            });
        }
        if inner.pending_of.get(&agent).copied().unwrap_or(0) >= PUSH_CHALLENGES_PER_AGENT_MAX {
            inner.forget_oldest_of(&agent);
        }
        let now = Instant::now();
        let lasts = duration(PUSH_CHALLENGE_MS);
        let lasts_ms = u64::try_from(PUSH_CHALLENGE_MS).unwrap_or(u64::MAX);
        let pending = Pending {
            agent: agent.clone(),
            challenge,
            created_unix_ms: now_unix_ms,
            expires_unix_ms: now_unix_ms.saturating_add(lasts_ms),
            expires: now.checked_add(lasts).unwrap_or(now),
        };
        inner.pending.insert(name.clone(), pending.clone());
        inner.pending_order.push_back(name);
        let count = inner.pending_of.entry(agent).or_default();
        *count = count.saturating_add(1);
        Ok(pending)
    }

    /// The challenge of this session, which is taken by that: an answer is looked at once.
    pub(super) fn answered(&self, name: &str) -> Option<Pending> {
        self.lock().take_pending(name)
    }

    /// Opens a session for an agent that proved its key, and ends the one that it had.
    ///
    /// # Errors
    /// [`Full`].
    ///
    /// # Security
    /// `secret` is 32 random bytes, so that one SHA-256 of the token is all that has to be kept.
    pub(super) fn open(
        &self,
        name: SessionName,
        proven: Proven,
        secret: &[u8; 32],
        now_unix_ms: u64,
    ) -> Result<Granted, Full> {
        let token = format!("{name}.{}", URL_SAFE_NO_PAD.encode(secret));
        let mut inner = self.lock();
        if let Some(old) = inner.of_agent.remove(&proven.agent) {
            inner.open.remove(&old);
        }
        if inner.open.len() >= PUSH_SESSIONS_MAX {
            inner.forget_expired();
        }
        if inner.open.len() >= PUSH_SESSIONS_MAX {
            return Err(Full {
                limit: "PUSH_SESSIONS_MAX",
            });
        }
        inner.of_agent.insert(proven.agent.clone(), name.clone());
        let open = Open {
            proven,
            token_sha256: sha256(token.as_bytes()),
            expires: self.ends(),
        };
        inner.open.insert(name, open);
        Ok(Granted {
            token,
            expires_unix_ms: now_unix_ms.saturating_add(self.lifetime_ms()),
        })
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`TokenFault`].
    pub(crate) fn of_token(&self, token: &str) -> Result<Proven, TokenFault> {
        let (name, _) = token.split_once('.').ok_or(TokenFault::Unknown)?;
        let mut inner = self.lock();
        let open = inner.open.get(name).ok_or(TokenFault::Unknown)?;
        if !constant_time_eq(&sha256(token.as_bytes()), &open.token_sha256) {
            return Err(TokenFault::Unknown);
        }
        if open.expires <= Instant::now() {
            let agent = open.proven.agent.clone();
            inner.open.remove(name);
            inner.of_agent.remove(&agent);
            return Err(TokenFault::Expired);
        }
        Ok(open.proven.clone())
    }

    /// An attestation of this agent passed: its session lasts as long again.
    pub(super) fn extend(&self, proven: &Proven) {
        let ends = self.ends();
        let mut inner = self.lock();
        let Inner { open, of_agent, .. } = &mut *inner;
        if let Some(open) = of_agent
            .get(&proven.agent)
            .and_then(|name| open.get_mut(name))
            && open.proven.session_sha256 == proven.session_sha256
        {
            open.expires = ends;
        }
    }

    /// Ends the session of an agent whose key is not the one that is known any more.
    pub(super) fn end(&self, agent: &AgentId) {
        let mut inner = self.lock();
        if let Some(name) = inner.of_agent.remove(agent) {
            inner.open.remove(&name);
        }
    }

    fn ends(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.lifetime).unwrap_or(now)
    }

    fn lifetime_ms(&self) -> u64 {
        u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX)
    }

    /// No code panics while it holds the lock, so what a poisoned one guards is whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take_pending(&mut self, name: &str) -> Option<Pending> {
        let pending = self.pending.remove(name)?;
        if let Some(count) = self.pending_of.get_mut(&pending.agent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.pending_of.remove(&pending.agent);
            }
        }
        Some(pending)
    }

    /// Forgets challenges that are over, and names of those that were taken.
    fn forget_old(&mut self) {
        while let Some(name) = self.pending_order.front() {
            match self.pending.get(name) {
                Some(pending) if !pending.is_over() => return,
                _ => {
                    let name = name.clone();
                    self.take_pending(&name);
                    self.pending_order.pop_front();
                }
            }
        }
    }

    fn forget_oldest_of(&mut self, agent: &AgentId) {
        let is_its = |name: &&SessionName| {
            let pending = self.pending.get(*name);
            pending.is_some_and(|pending| pending.agent == *agent)
        };
        if let Some(oldest) = self.pending_order.iter().find(is_its).cloned() {
            self.take_pending(&oldest);
        }
    }

    fn forget_expired(&mut self) {
        let now = Instant::now();
        let Self { open, of_agent, .. } = self;
        open.retain(|_, open| {
            let lasts = open.expires > now;
            if !lasts {
                of_agent.remove(&open.proven.agent);
            }
            lasts
        });
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest(HashAlg::Sha256, bytes);
    // SHA-256 has 32 bytes; the zeros are never reached.
    digest.as_bytes().try_into().unwrap_or([0; 32])
}

/// A random UUID, version 4.
///
/// # Errors
/// `None` when the system has no random numbers.
pub(super) fn draw_name() -> Option<SessionName> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    // RFC 9562, 5.4: version and variant.
    if let Some(byte) = bytes.get_mut(6) {
        *byte = (*byte & 0x0f) | 0x40;
    }
    if let Some(byte) = bytes.get_mut(8) {
        *byte = (*byte & 0x3f) | 0x80;
    }
    let mut text = hex::encode(bytes);
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_760_000_000_000;

    fn agent(number: usize) -> AgentId {
        AgentId::parse(&format!("machine-{number}")).unwrap()
    }

    fn proven(number: usize, name: &str) -> Proven {
        Proven {
            agent: agent(number),
            session_sha256: sha256(name.as_bytes()),
            ak_name: Arc::from([7; 34]),
            ak_sha256: [8; 32],
        }
    }

    #[test]
    fn a_challenge_is_answered_once() {
        let sessions = Sessions::new(Duration::from_secs(180));
        let name = draw_name().unwrap();
        let kept = sessions.challenge(name.clone(), agent(1), [1; 16], NOW_MS);
        assert_eq!(kept.unwrap().expires_unix_ms, NOW_MS + 60_000);
        assert!(sessions.answered("another").is_none());
        assert_eq!(sessions.answered(&name).unwrap().challenge, [1; 16]);
        assert!(sessions.answered(&name).is_none());
    }

    #[test]
    fn a01_a_token_is_its_agents_until_it_ends_and_no_other_text_is() {
        let sessions = Sessions::new(Duration::from_secs(180));
        let granted = sessions.open("one".into(), proven(1, "one"), &[3; 32], NOW_MS);
        let granted = granted.unwrap_or_else(|full| panic!("{full:?}"));
        assert_eq!(granted.expires_unix_ms, NOW_MS + 180_000);
        // 32 bytes in base64 without padding.
        assert_eq!(granted.token.len(), "one.".len() + 43);
        assert_eq!(sessions.of_token(&granted.token).unwrap().agent, agent(1));
        let last = granted.token.len() - 1;
        let mut other = granted.token.clone();
        other.replace_range(last.., "_");
        for text in ["", "one", "one.", "two.x", other.as_str()] {
            assert_eq!(
                sessions.of_token(text).unwrap_err(),
                TokenFault::Unknown,
                "{text}"
            );
        }
        // Another session of the same agent ends this one.
        let next = sessions.open("two".into(), proven(1, "two"), &[4; 32], NOW_MS);
        let next = next.unwrap_or_else(|full| panic!("{full:?}"));
        assert_eq!(
            sessions.of_token(&granted.token).unwrap_err(),
            TokenFault::Unknown
        );
        assert!(sessions.of_token(&next.token).is_ok());
        sessions.end(&agent(1));
        assert_eq!(
            sessions.of_token(&next.token).unwrap_err(),
            TokenFault::Unknown
        );
    }

    #[test]
    fn a03_a_session_ends_by_itself_and_lasts_with_each_pass() {
        let sessions = Sessions::new(Duration::from_millis(30));
        let it = proven(1, "one");
        let granted = sessions.open("one".into(), it.clone(), &[3; 32], NOW_MS);
        let token = granted.unwrap_or_else(|full| panic!("{full:?}")).token;
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(10));
            // One of another session lengthens nothing.
            sessions.extend(&proven(1, "another"));
            sessions.extend(&it);
            assert!(sessions.of_token(&token).is_ok());
        }
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(sessions.of_token(&token).unwrap_err(), TokenFault::Expired);
        assert_eq!(sessions.of_token(&token).unwrap_err(), TokenFault::Unknown);
    }

    #[test]
    fn x04_an_agent_that_others_ask_for_gets_its_challenge_all_the_same() {
        let sessions = Sessions::new(Duration::from_secs(180));
        let ask = |nth: usize| {
            let name = format!("session-{nth}");
            sessions.challenge(name, agent(1), [1; 16], NOW_MS).unwrap()
        };
        for nth in 0..PUSH_CHALLENGES_PER_AGENT_MAX * 3 {
            ask(nth);
        }
        let inner = sessions.lock();
        assert_eq!(inner.pending.len(), PUSH_CHALLENGES_PER_AGENT_MAX);
        assert_eq!(inner.pending_of[&agent(1)], PUSH_CHALLENGES_PER_AGENT_MAX);
        drop(inner);
        let newest = PUSH_CHALLENGES_PER_AGENT_MAX * 3 - 1;
        assert!(sessions.answered(&format!("session-{newest}")).is_some());
        assert!(sessions.answered("session-0").is_none());
    }
}
