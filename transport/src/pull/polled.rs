//! One agent that is polled: what is known of it, and where it stands.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rat_engine::evidence::{Answer as Verdict, ChallengeId, Hello, Instance, SessionId};
use rat_engine::hash::Digest;
use rat_engine::ima::LogFormat;
use rat_engine::shard::{AgentPath, EffectiveStatus};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::answer::Answer;
use super::connection::{Asked, Line};
use super::contact::Known;
use super::failure::Failure;
use super::poller::{News, Shared, Standing, lock};
use super::v_key;
use super::version::{AgentVersion, common_version};
use crate::limits;
use crate::measures;

/// An agent that is polled, until it is let go of. One that is put anew is another one.
pub(super) struct Polled {
    pub(super) known: Known,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Another one took its place, or it is polled no more.
    is_gone: bool,
    /// A task asks whether it is there.
    is_reached_for: bool,
    session: Option<SessionId>,
    /// The last failure of those in a row, and how many they are.
    silent: Option<(Failure, u32)>,
    has_answered: bool,
    version: Option<AgentVersion>,
    /// It may offer none that is older than this.
    attested_by: Option<AgentVersion>,
    has_attested: bool,
    /// How many entries its list had; `None` when it never said.
    entries: Option<u64>,
    kept: Option<Kept>,
    open: Option<Open>,
    key: Key,
}

/// A connection between two polls.
struct Kept {
    line: Line,
    _place: OwnedSemaphorePermit,
}

/// The challenge that is being answered.
struct Open {
    challenge: ChallengeId,
    more: Arc<Semaphore>,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of the key that the agent wants its V key encrypted for.
#[derive(Default)]
struct Key {
    /// What PCR 16 held when the V key was taken: the agent that was started since has another key.
    taken_under: Option<Digest>,
    /// What the agent showed with the evidence of this challenge, which is being judged.
    shown: Option<Shown>,
}

struct Shown {
    challenge: ChallengeId,
    public_key: String,
    data_pcr: Digest,
}

/// Permission to exchange something with an agent.
pub(super) struct Permits {
    _exchange: OwnedSemaphorePermit,
    _suspect: Option<OwnedSemaphorePermit>,
}

impl Polled {
    pub(super) fn new(known: Known) -> Self {
        let state = State {
            attested_by: known.contact.attested_by,
            ..State::default()
        };
        Self {
            known,
            state: Mutex::new(state),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let state = lock(&self.state);
        match state.silent {
            Some((failure, times)) => Standing::Silent { failure, times },
            None if state.has_answered => Standing::Answers,
            None => Standing::New,
        }
    }

    /// Waits for its turn. Those that gave no evidence twice have turns of their own, so that the time
    /// that they take is not taken from others.
    pub(super) async fn permits(&self, shared: &Shared) -> Result<Permits, Failure> {
        let silent = lock(&self.state).silent;
        let is_suspect = silent.is_some_and(|(_, times)| times > 1);
        let acquire = |from: &Arc<Semaphore>| Arc::clone(from).acquire_owned();
        let suspect = match is_suspect {
            true => Some(acquire(&shared.suspects).await.map_err(|_| Failure::Busy)?),
            false => None,
        };
        let exchange = acquire(&shared.exchanges).await;
        Ok(Permits {
            _exchange: exchange.map_err(|_| Failure::Busy)?,
            _suspect: suspect,
        })
    }

    /// Asks whether the agent is there, and by which version; then its shard hears that it is
    /// connected.
    pub(super) fn reach(self: &Arc<Self>, shared: &Arc<Shared>) {
        {
            let mut state = lock(&self.state);
            let is_under_way = state.is_reached_for || state.session.is_some();
            if state.is_gone || is_under_way || shared.is_stopping() {
                return;
            }
            state.is_reached_for = true;
        }
        let (polled, of) = (Arc::clone(self), Arc::clone(shared));
        shared.spawn(async move {
            let permits = polled.permits(&of).await;
            let within = limits::PULL_REACH_MS_MAX.min(of.settings.answer_ms);
            let within = Duration::from_millis(within);
            let begun = Instant::now();
            let reached = match permits {
                Ok(_) => timeout(within, polled.greet(&of)).await,
                Err(failure) => Ok(Err(failure)),
            };
            drop(permits);
            lock(&polled.state).is_reached_for = false;
            match reached.unwrap_or(Err(Failure::Timeout)) {
                Ok(()) => polled.connect(&of),
                Err(failure) => {
                    measures::poll(failure.as_str(), begun.elapsed());
                    polled.failed(&of, None, failure);
                }
            }
        });
    }

    /// Asks for the agent's versions, over a connection that is kept for what comes next.
    async fn greet(&self, shared: &Shared) -> Result<(), Failure> {
        let mut line = self.open_line(shared).await?;
        let version = self.ask_version(shared, &mut line).await?;
        self.speaks(shared, version);
        if let Some(line) = line.reusable().await {
            self.keep(shared, line);
        }
        Ok(())
    }

    pub(super) async fn open_line(&self, shared: &Shared) -> Result<Line, Failure> {
        let line = Line::open(&self.known, &shared.tls(), shared.settings.plain_http).await?;
        measures::count(measures::POLL_CONNECTIONS, 1);
        Ok(line)
    }

    /// The version that the agent and this server speak.
    pub(super) async fn ask_version(
        &self,
        shared: &Shared,
        line: &mut Line,
    ) -> Result<AgentVersion, Failure> {
        let asked = Asked::get("/version".to_owned(), false);
        let most = limits::PULL_VERSION_BYTES_MAX;
        let answered = line.ask(asked, &self.known, &shared.memory, most).await?;
        let least = lock(&self.state).attested_by;
        match answered.status {
            200 => common_version(&answered.body, least),
            status @ 300..=399 => Err(Failure::Redirect(status)),
            status => Err(Failure::Status(status)),
        }
    }

    /// The version that is spoken from now on.
    pub(super) fn speaks(&self, shared: &Shared, version: AgentVersion) {
        let before = lock(&self.state).version.replace(version);
        if before != Some(version) {
            shared
                .watcher
                .told(&self.known.contact.agent, News::Speaks(version));
        }
    }

    pub(super) fn version(&self) -> Option<AgentVersion> {
        lock(&self.state).version
    }

    /// Tells the shard that the agent is connected.
    fn connect(self: &Arc<Self>, shared: &Arc<Shared>) {
        let session = shared.next_session();
        let entries = {
            let mut state = lock(&self.state);
            if state.is_gone || shared.is_stopping() {
                return;
            }
            state.session = Some(session);
            state.entries
        };
        let hello = Hello {
            agent: self.known.contact.agent.clone(),
            path: AgentPath::KeylimePull,
            client_key_sha256: self.known.ak_sha256,
            log_formats: vec![LogFormat::Ascii],
            banks: Vec::new(),
            reset_count: 0,
            restart_count: 0,
            entry_count: entries.unwrap_or(u64::MAX),
            // It is this server that connects, and never two at once.
            instance: Instance([0; 16]),
            relay_key_sha256: None,
        };
        let ear = super::peer::Ear {
            shared: Arc::clone(shared),
            polled: Arc::clone(self),
            session,
        };
        // When nothing is taken, the ear is dropped, and the agent is connected again later.
        let _ = shared.intake.connected(session, hello, Box::new(ear));
        let is_gone = lock(&self.state).is_gone;
        if is_gone {
            shared
                .intake
                .disconnected(session, &self.known.contact.agent);
        }
    }

    /// The session is over for the shard. False when another one is open, or none.
    pub(super) fn ended(&self, session: SessionId) -> bool {
        let mut state = lock(&self.state);
        if state.is_gone || state.session != Some(session) {
            return false;
        }
        state.session = None;
        state.open = None;
        true
    }

    /// It is polled no more.
    pub(super) fn forget(&self, shared: &Shared) {
        let (session, was_silent) = {
            let mut state = lock(&self.state);
            state.is_gone = true;
            state.open = None;
            state.kept = None;
            (state.session.take(), state.silent.take().is_some())
        };
        if was_silent {
            measures::unreachable_agents(-1.0);
        }
        if let Some(session) = session {
            shared
                .intake
                .disconnected(session, &self.known.contact.agent);
        }
    }

    /// There is no evidence of it: its shard hears that it is not connected, and it is asked again
    /// after a while.
    pub(super) fn failed(
        self: &Arc<Self>,
        shared: &Shared,
        session: Option<SessionId>,
        failure: Failure,
    ) {
        let agent = &self.known.contact.agent;
        let times = {
            let mut state = lock(&self.state);
            if state.is_gone || state.session != session {
                return;
            }
            state.session = None;
            state.kept = None;
            state.key.shown = None;
            // The task that says so may be the open one: aborted, it ends after this.
            state.open = None;
            match failure.is_of_agent() {
                true => {
                    let before = state.silent.map_or(0, |(_, times)| times);
                    let times = before.saturating_add(1);
                    state.silent = Some((failure, times));
                    times
                }
                false => 0,
            }
        };
        if let Some(session) = session {
            shared.intake.disconnected(session, agent);
        }
        let pause = match times {
            0 => Duration::from_millis(limits::BUSY_RETRY_MS.into()),
            times => shared.pause(times),
        };
        if times == 1 {
            measures::unreachable_agents(1.0);
            tracing::warn!(%agent, %failure, "an agent gives no evidence");
        }
        if times > 0 {
            shared.watcher.told(agent, News::Silent { failure, times });
        }
        if let Failure::Bank(bank) = failure {
            shared.watcher.told(agent, News::Quotes(bank));
        }
        shared.retries.put(self, shared.jittered(pause, agent));
    }

    /// A challenge came for this session: `task` answers it, and ends whatever answered before.
    pub(super) fn challenged(
        &self,
        session: SessionId,
        challenge: ChallengeId,
        start: impl FnOnce(Arc<Semaphore>) -> AbortHandle,
    ) {
        let mut state = lock(&self.state);
        if state.is_gone || state.session != Some(session) {
            return;
        }
        let more = Arc::new(Semaphore::new(0));
        let task = start(Arc::clone(&more));
        state.open = Some(Open {
            challenge,
            more,
            task,
        });
    }

    /// The shard is ready for one more piece of the list.
    pub(super) fn more(&self, id: ChallengeId) {
        let state = lock(&self.state);
        if let Some(open) = state.open.as_ref().filter(|open| open.challenge == id) {
            open.more.add_permits(1);
        }
    }

    /// Whether the agent is to show the key for its V key.
    pub(super) fn is_to_show_key(&self) -> bool {
        let has_v_key = self.known.contact.v_key.is_some();
        has_v_key && lock(&self.state).key.taken_under.is_none()
    }

    /// The agent answered, before anybody judged what. False when the session is another one.
    pub(super) fn answered(&self, shared: &Shared, session: SessionId, answer: &Answer) -> bool {
        let agent = &self.known.contact.agent;
        let bound = answer.bound_key();
        let is_unbound = answer.public_key.is_some() && bound.is_none();
        let was_silent = {
            let mut state = lock(&self.state);
            if state.is_gone || state.session != Some(session) {
                return false;
            }
            state.has_answered = true;
            state.entries = answer.entries.or(state.entries);
            if state
                .key
                .taken_under
                .is_some_and(|under| Some(under) != answer.data_pcr)
            {
                state.key.taken_under = None;
            }
            state.key.shown = bound.map(|(public_key, data_pcr)| Shown {
                challenge: answer.submission.challenge,
                public_key,
                data_pcr,
            });
            state.silent.take().is_some()
        };
        if was_silent {
            measures::unreachable_agents(-1.0);
            tracing::info!(%agent, "an agent answers again");
            shared.watcher.told(agent, News::Answers);
        }
        if is_unbound {
            shared.watcher.told(agent, News::KeyNotBound);
        }
        true
    }

    /// The shard judged what the agent answered.
    ///
    /// # Security
    /// The values of a passing verdict are those that were quoted, PCR 16 among them: the key that it
    /// shows is the agent's. Any other verdict, and no verdict, sends no key.
    pub(super) fn verdict(self: &Arc<Self>, shared: &Arc<Shared>, id: ChallengeId, of: &Verdict) {
        let passes = of.code.is_none()
            && matches!(
                of.status,
                EffectiveStatus::Trusted
                    | EffectiveStatus::TrustedUnenforced
                    | EffectiveStatus::Authentic
            );
        let (shown, attested) = {
            let mut state = lock(&self.state);
            if state.open.as_ref().is_some_and(|open| open.challenge == id) {
                state.open = None;
            }
            let shown = state.key.shown.take().filter(|shown| shown.challenge == id);
            if state.is_gone || !passes {
                return;
            }
            let before = state.attested_by;
            state.attested_by = before.max(state.version);
            let is_first = !std::mem::replace(&mut state.has_attested, true);
            let is_news = is_first || state.attested_by > before;
            (shown, state.version.filter(|_| is_news))
        };
        if let Some(version) = attested {
            let agent = &self.known.contact.agent;
            shared.watcher.told(agent, News::Attested(version));
        }
        if let Some(Shown {
            public_key,
            data_pcr,
            ..
        }) = shown
        {
            v_key::send(shared, self, public_key, data_pcr);
        }
    }

    /// The agent took its V key.
    pub(super) fn took_v_key(&self, under: Digest) {
        lock(&self.state).key.taken_under = Some(under);
    }

    /// The connection that was kept, unless the agent closes it any moment, or was shown a certificate
    /// that was renewed since.
    pub(super) fn kept_line(&self, shared: &Shared) -> Option<Line> {
        let kept = lock(&self.state).kept.take()?;
        let most = Duration::from_millis(limits::PULL_KEPT_MS_MAX);
        (kept.line.idle_for() < most && kept.line.is_of(&shared.tls())).then_some(kept.line)
    }

    /// Keeps a connection for the next request, if there is room.
    pub(super) fn keep(&self, shared: &Shared, line: Line) {
        let Ok(place) = Arc::clone(&shared.kept).try_acquire_owned() else {
            return;
        };
        let mut state = lock(&self.state);
        if !state.is_gone {
            state.kept = Some(Kept {
                line,
                _place: place,
            });
        }
    }
}
