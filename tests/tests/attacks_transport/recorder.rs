//! The other side of the `Intake`: it records what arrives, and answers as a test tells it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{
    Answer, Busy, Challenge, ChallengeId, Hello, Intake, Nonce, Peer, Refusal, SessionId,
    Submission, ToAgent,
};
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;
use rat_engine::shard::EffectiveStatus;
use rat_engine::tpm::PcrSelection;
use tokio::sync::watch;

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Connected(SessionId, Hello),
    Evidence(SessionId, AgentId, Box<Submission>),
    Piece(SessionId, AgentId, ChallengeId, Vec<u8>),
    Disconnected(SessionId, AgentId),
}

impl Event {
    pub(crate) fn agent(&self) -> &AgentId {
        match self {
            Self::Connected(_, hello) => &hello.agent,
            Self::Evidence(_, agent, _)
            | Self::Piece(_, agent, ..)
            | Self::Disconnected(_, agent) => agent,
        }
    }
}

/// Records, and answers at once unless it is told to hold back.
pub(crate) struct Recorder {
    state: Mutex<State>,
    /// How many events there are.
    count: watch::Sender<usize>,
    /// Connections are answered with Busy.
    pub(crate) busy_for_connections: AtomicBool,
    /// Evidence is answered with Busy.
    pub(crate) busy_for_evidence: AtomicBool,
    /// Pieces are answered with Busy.
    pub(crate) busy_for_pieces: AtomicBool,
    /// Nobody is welcomed.
    pub(crate) silent: AtomicBool,
    /// Pieces are asked for only by [`Recorder::more`].
    pub(crate) hold_more: AtomicBool,
    /// Verdicts are sent only by [`Recorder::verdict`].
    pub(crate) hold_verdicts: AtomicBool,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    peers: HashMap<SessionId, Box<dyn Peer>>,
    /// Bytes of lists still to come.
    left: HashMap<ChallengeId, u64>,
    challenges: u8,
}

/// The delay in every Busy.
pub(crate) const BUSY_MS: u32 = 1000;

pub(crate) fn answer(detail: &str) -> Answer {
    Answer {
        status: EffectiveStatus::Trusted,
        code: None,
        detail: detail.to_owned(),
        next_after_ms: 777,
    }
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            count: watch::Sender::new(0),
            busy_for_connections: AtomicBool::new(false),
            busy_for_evidence: AtomicBool::new(false),
            busy_for_pieces: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            hold_more: AtomicBool::new(false),
            hold_verdicts: AtomicBool::new(false),
        }
    }

    fn record(&self, event: Event) {
        self.state.lock().unwrap().events.push(event);
        self.count.send_modify(|count| *count += 1);
    }

    /// Everything that was heard of an agent, in order.
    pub(crate) fn events(&self, agent: &str) -> Vec<Event> {
        let state = self.state.lock().unwrap();
        let of_agent = |event: &&Event| event.agent().as_str() == agent;
        state.events.iter().filter(of_agent).cloned().collect()
    }

    /// Waits until an agent's events satisfy a condition.
    pub(crate) async fn until<T>(&self, agent: &str, found: impl Fn(&[Event]) -> Option<T>) -> T {
        let mut count = self.count.subscribe();
        let wait = async {
            loop {
                if let Some(found) = found(&self.events(agent)) {
                    return found;
                }
                count.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        waited.unwrap_or_else(|_| panic!("{agent}: {:?}", self.events(agent)))
    }

    /// The newest session of an agent.
    pub(crate) async fn session(&self, agent: &str) -> SessionId {
        let newest = |events: &[Event]| {
            events.iter().rev().find_map(|event| match event {
                Event::Connected(session, _) => Some(*session),
                _ => None,
            })
        };
        self.until(agent, newest).await
    }

    /// Waits until an agent's connection is gone.
    pub(crate) async fn gone(&self, agent: &str) {
        let last =
            |events: &[Event]| matches!(events.last(), Some(Event::Disconnected(..))).then_some(());
        self.until(agent, last).await;
    }

    /// The evidence that came first after `skip` others.
    pub(crate) async fn evidence(&self, agent: &str, skip: usize) -> Submission {
        let nth = |events: &[Event]| {
            let evidence = events.iter().filter_map(|event| match event {
                Event::Evidence(_, _, submission) => Some((**submission).clone()),
                _ => None,
            });
            evidence.skip(skip).collect::<Vec<_>>().into_iter().next()
        };
        self.until(agent, nth).await
    }

    /// The pieces of a list that came so far.
    pub(crate) fn pieces(&self, agent: &str) -> Vec<Vec<u8>> {
        let events = self.events(agent);
        let pieces = events.into_iter().filter_map(|event| match event {
            Event::Piece(.., piece) => Some(piece),
            _ => None,
        });
        pieces.collect()
    }

    pub(crate) fn send(&self, session: SessionId, message: ToAgent) {
        self.state.lock().unwrap().peers[&session].send(message);
    }

    /// Forgets a session, as a driver does that was stopped.
    pub(crate) fn forget(&self, session: SessionId) {
        self.state.lock().unwrap().peers.remove(&session);
    }

    /// Challenges an agent.
    pub(crate) async fn challenge(&self, agent: &str) -> Challenge {
        self.challenge_within(agent, 30_000).await
    }

    pub(crate) async fn challenge_within(&self, agent: &str, deadline_ms: u32) -> Challenge {
        let session = self.session(agent).await;
        let number = {
            let mut state = self.state.lock().unwrap();
            state.challenges += 1;
            state.challenges
        };
        let pcrs = PcrSet::from_bits(0x07ff).unwrap();
        let challenge = Challenge {
            id: ChallengeId([number; 16]),
            nonce: Nonce([number; 32]),
            selection: PcrSelection::new([(HashAlg::Sha256, pcrs)]).unwrap(),
            ima_from_entry: Some(0),
            boot_log: true,
            deadline_ms,
        };
        self.send(session, ToAgent::Challenge(challenge));
        challenge
    }

    pub(crate) fn more(&self, session: SessionId, challenge: ChallengeId) {
        self.send(session, ToAgent::More(challenge));
    }

    pub(crate) fn verdict(&self, session: SessionId, challenge: ChallengeId, detail: &str) {
        self.send(session, ToAgent::Verdict(challenge, answer(detail)));
    }

    pub(crate) fn refuse(&self, session: SessionId, code: Refusal, retry_after_ms: u32) {
        let refused = ToAgent::Refused {
            code,
            retry_after_ms,
        };
        self.send(session, refused);
    }

    /// Goes on with an upload: asks for a piece, or concludes.
    fn go_on(&self, session: SessionId, challenge: ChallengeId) {
        let left = self.state.lock().unwrap().left.get(&challenge).copied();
        if left.unwrap_or(0) > 0 {
            if !self.hold_more.load(Ordering::SeqCst) {
                self.more(session, challenge);
            }
        } else if !self.hold_verdicts.load(Ordering::SeqCst) {
            self.verdict(session, challenge, "taken");
        }
    }
}

fn busy(flag: &AtomicBool) -> Result<(), Busy> {
    let retry_after_ms = BUSY_MS;
    match flag.load(Ordering::SeqCst) {
        true => Err(Busy { retry_after_ms }),
        false => Ok(()),
    }
}

impl Intake for Recorder {
    fn connected(&self, session: SessionId, hello: Hello, peer: Box<dyn Peer>) -> Result<(), Busy> {
        busy(&self.busy_for_connections)?;
        if !self.silent.load(Ordering::SeqCst) {
            peer.send(ToAgent::Welcome { next_after_ms: 5 });
        }
        self.state.lock().unwrap().peers.insert(session, peer);
        self.record(Event::Connected(session, hello));
        Ok(())
    }

    fn logs_arrive(&self, _: SessionId, _: &AgentId, _: ChallengeId, _: u64) -> Result<(), Busy> {
        Ok(())
    }

    fn evidence(
        &self,
        session: SessionId,
        agent: &AgentId,
        submission: Submission,
    ) -> Result<(), Busy> {
        busy(&self.busy_for_evidence)?;
        let challenge = submission.challenge;
        if let Some(list) = &submission.ima
            && list.whole.is_none()
        {
            let mut state = self.state.lock().unwrap();
            state.left.insert(challenge, list.length);
        }
        self.record(Event::Evidence(
            session,
            agent.clone(),
            Box::new(submission),
        ));
        self.go_on(session, challenge);
        Ok(())
    }

    fn log_piece(
        &self,
        session: SessionId,
        agent: &AgentId,
        challenge: ChallengeId,
        piece: Vec<u8>,
    ) -> Result<(), Busy> {
        busy(&self.busy_for_pieces)?;
        {
            let mut state = self.state.lock().unwrap();
            let left = state
                .left
                .get_mut(&challenge)
                .expect("a piece without evidence");
            *left = left
                .checked_sub(piece.len() as u64)
                .expect("more than announced");
        }
        self.record(Event::Piece(session, agent.clone(), challenge, piece));
        self.go_on(session, challenge);
        Ok(())
    }

    fn disconnected(&self, session: SessionId, agent: &AgentId) {
        self.forget(session);
        self.record(Event::Disconnected(session, agent.clone()));
    }
}
