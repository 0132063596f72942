//! Compares how agents stand with what was told of them.

use std::sync::Arc;
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentPath, AgentView, EffectiveStatus, Event, KEYLIME_GROUP, VerdictKind};
use rat_engine::verdict::Code;
use rat_engine::verdict::severity::{NOT_REACHABLE, Severity, event_id};
use rat_store::limits::MESSAGE_BYTES_MAX;
use rat_store::{
    Halted, KeylimeFacts, NewMessage, NotedStanding, StoreError, StoredKeylimeAgent, ToldFailure,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::message::{Happened, Kind, envelope, message};
use super::{Parts, measures};
use crate::webhook::{FleetUnavailable, new_id};

/// From one look at all agents to the next, when nothing is known to be missed.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// From one try to the next, while the store or the shards fail, and at least between two looks.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Agents that one query lists.
const AGENTS_PER_PAGE: u32 = 1_000;

/// Watches until the runtime ends.
pub(super) struct Watch {
    parts: Parts,
    started: Instant,
    /// When all agents are looked at next.
    look_at: Instant,
    gives_up: CancellationToken,
}

/// An agent could not be looked at now.
#[derive(Debug)]
enum NotNow {
    Store(StoreError),
    Fleet,
}

impl From<StoreError> for NotNow {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FleetUnavailable> for NotNow {
    fn from(_: FleetUnavailable) -> Self {
        Self::Fleet
    }
}

/// What is not noted of an agent yet.
struct News<'a> {
    /// A failure that was not told, or that became graver.
    failed: Option<&'a Found>,
    /// What is noted of its failure from now on.
    failure: Option<ToldFailure>,
    is_silent: bool,
    /// Whether it fell silent since it was noted last.
    fell_silent: bool,
}

/// What is to be done about polling an agent.
enum Step {
    /// The failure that stopped it is over.
    Resume,
    /// It failed at this time, and is not to be asked again.
    Halt(u64),
}

/// The gravest of what is wrong with an agent.
struct Found {
    code: Code,
    detail: String,
    severity: Severity,
    /// When the agent failed.
    failed_unix_ms: u64,
    /// When something of the gravest severity was found last, if it was.
    grave_unix_ms: Option<u64>,
}

impl Watch {
    pub(super) fn new(parts: Parts, gives_up: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            parts,
            started: now,
            look_at: now,
            gives_up,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.gives_up.cancelled() => return,
                next = self.parts.events.next() => match next {
                    None => return,
                    Some(Ok(event)) => self.happened_to(event).await,
                    Some(Err(lost)) => {
                        tracing::debug!(events = lost.0, "failures may have been missed");
                        self.look_soon(RETRY_EVERY);
                    }
                },
                () = sleep_until(self.look_at) => {
                    self.look_at = after(LOOK_EVERY);
                    if let Err(error) = self.look().await {
                        self.again(&error);
                    }
                }
            }
        }
    }

    async fn happened_to(&mut self, event: Event) {
        if let Some(agent) = concerned(event)
            && let Err(error) = self.consider(&agent).await
        {
            self.again(&error);
        }
    }

    fn look_soon(&mut self, pause: Duration) {
        self.look_at = self.look_at.min(after(pause));
    }

    /// What could not be looked at is looked at again, with all others.
    fn again(&mut self, error: &NotNow) {
        match error {
            NotNow::Store(error) => tracing::warn!(%error, "revocations wait for the store"),
            NotNow::Fleet => tracing::warn!("revocations wait for the shards"),
        }
        self.look_soon(RETRY_EVERY);
    }

    /// Looks at every agent of Keylime's. A page is read whole, with what is noted of its agents; only
    /// of those that are not as it was noted more is read, because a page grows old while it is
    /// gone through.
    async fn look(&mut self) -> Result<(), NotNow> {
        let mut next = None;
        loop {
            let store = &self.parts.store;
            let page = store.keylime_agents(next, AGENTS_PER_PAGE).await?;
            // One that cannot be read is reported by whoever serves agents.
            for agent in page.agents.into_iter().flatten() {
                let view = self.parts.fleet.view(agent.id.clone()).await?;
                if view.is_some_and(|view| self.differs(&agent.standing, &view)) {
                    self.consider(&agent.id).await?;
                }
            }
            next = page.end;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    async fn consider(&mut self, agent: &AgentId) -> Result<(), NotNow> {
        let view = self.parts.fleet.view(agent.clone()).await?;
        let Some(view) = view.filter(|view| view.record.path != AgentPath::Native) else {
            return Ok(());
        };
        match self.parts.store.keylime_agent(agent).await {
            Ok(Some(stored)) => self.compare(&stored, &view).await,
            Ok(None) => Ok(()),
            Err(error) if error.is_lasting() => {
                tracing::error!(%agent, %error, "nobody is told of this agent");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether something is to be told of an agent, or decided about it.
    fn differs(&self, noted: &NotedStanding, view: &AgentView) -> bool {
        let found = self.found(view);
        let found = found.as_ref();
        self.news(view, noted, found).is_some() || self.step(view, noted, found).is_some()
    }

    /// Tells what was not told of an agent, and decides whether it is polled on.
    async fn compare(
        &mut self,
        agent: &StoredKeylimeAgent,
        view: &AgentView,
    ) -> Result<(), NotNow> {
        let noted = &agent.standing;
        let found = self.found(view);
        if let Some(news) = self.news(view, noted, found.as_ref()) {
            self.tell(agent, news).await?;
        }
        match self.step(view, noted, found.as_ref()) {
            Some(step) => self.decide(&agent.id, step).await,
            None => Ok(()),
        }
    }

    /// What is wrong with an agent: the failure that sticks to it, or what its last evidence showed,
    /// if that is graver.
    fn found(&self, view: &AgentView) -> Option<Found> {
        let severities = &self.parts.severities;
        let failure = view.state.failure.as_deref()?;
        let mut found = Found {
            code: failure.code,
            detail: failure.detail.clone(),
            severity: severities.of(failure.code),
            failed_unix_ms: failure.at_unix_ms,
            grave_unix_ms: None,
        };
        let is_top = |severity| severity == severities.top();
        if is_top(found.severity) {
            found.grave_unix_ms = Some(failure.at_unix_ms);
        }
        let last = view.state.verdict.as_ref();
        let last = last.filter(|last| last.kind == VerdictKind::Untrusted);
        if let Some((last, code)) = last.and_then(|last| Some((last, last.code?))) {
            let severity = severities.of(code);
            if is_top(severity) {
                found.grave_unix_ms = found.grave_unix_ms.max(Some(last.at_unix_ms));
            }
            if severity > found.severity {
                found.code = code;
                found.detail.clone_from(&last.detail);
                found.severity = severity;
            }
        }
        Some(found)
    }

    /// What of it was not noted; `None` when all is.
    fn news<'a>(
        &self,
        view: &AgentView,
        noted: &NotedStanding,
        found: Option<&'a Found>,
    ) -> Option<News<'a>> {
        let told = noted.failure.as_ref();
        let known = |found: &Found| {
            told.filter(|told| told.failed_unix_ms == found.failed_unix_ms)
                .map(|told| told.severity)
        };
        // Once for each rise.
        let failed =
            found.filter(|found| known(found).is_none_or(|it| it < found.severity.level()));
        let is_silent = self.is_silent(view, noted);
        let failure = match (failed, found) {
            (Some(found), _) => Some(ToldFailure {
                failed_unix_ms: found.failed_unix_ms,
                severity: found.severity.level(),
                event_id: event_id(found.code).to_owned(),
            }),
            (None, Some(_)) => told.cloned(),
            (None, None) => None,
        };
        let is_noted = failure.as_ref() == told && is_silent == noted.is_silent;
        (!is_noted).then_some(News {
            failed,
            failure,
            is_silent,
            fell_silent: is_silent && !noted.is_silent,
        })
    }

    async fn tell(&self, agent: &StoredKeylimeAgent, news: News<'_>) -> Result<(), NotNow> {
        let at_unix_ms = self.parts.clock.now().unix_ms;
        let happened = self.happened(news.failed, news.fell_silent, at_unix_ms);
        let (failure, is_silent) = (news.failure, news.is_silent);
        let messages = match &happened {
            Some(happened) => self.messages(agent, happened).await,
            None => Vec::new(),
        };
        let (store, id) = (&self.parts.store, &agent.id);
        let noting =
            store.note_keylime_told(id, failure.as_ref(), is_silent, &messages, at_unix_ms);
        if !noting.await? {
            return Ok(());
        }
        for message in &messages {
            self.parts.webhooks.queued(&message.webhook);
        }
        if let Some(happened) = happened {
            let (kind, event) = (happened.kind, happened.event_id);
            measures::told(match kind {
                Kind::Revocation => "revocation",
                Kind::CommError => "comm_error",
            });
            tracing::warn!(agent = %id, event, ?kind, "who is to know of it is told");
        }
        Ok(())
    }

    /// What is to be told, if something is.
    fn happened<'a>(
        &'a self,
        failed: Option<&'a Found>,
        is_silent: bool,
        at_unix_ms: u64,
    ) -> Option<Happened<'a>> {
        let severities = &self.parts.severities;
        let silent = || Happened {
            kind: Kind::CommError,
            event_id: NOT_REACHABLE,
            severity_label: severities.label(severities.top()),
            detail: "nothing is heard of the agent",
            at_unix_ms,
        };
        match failed {
            Some(found) => Some(Happened {
                kind: Kind::Revocation,
                event_id: event_id(found.code),
                severity_label: severities.label(found.severity),
                detail: &found.detail,
                at_unix_ms,
            }),
            None => is_silent.then(silent),
        }
    }

    /// Whether nothing is heard of an agent whose evidence passed last. One whose failure was taken
    /// back is overdue, too, and is to pass first; one that nobody asks has nothing to say; and after
    /// a start, all must have been asked.
    fn is_silent(&self, view: &AgentView, noted: &NotedStanding) -> bool {
        let last = view.state.verdict.as_ref();
        let passed = last.is_some_and(|last| last.kind != VerdictKind::Untrusted);
        let is_overdue = view.status == EffectiveStatus::Overdue && noted.halted == Halted::Not;
        let was_asked = self.started.elapsed() >= self.parts.silence_after;
        is_overdue && (noted.is_silent || (passed && was_asked))
    }

    /// A message for each who is told.
    async fn messages(
        &self,
        agent: &StoredKeylimeAgent,
        happened: &Happened<'_>,
    ) -> Vec<NewMessage> {
        let told = self.parts.webhooks.told_of_revocations();
        if told.is_empty() {
            return Vec::new();
        }
        let mut body = self.signed(agent, &agent.facts, happened).await;
        if body.len() > MESSAGE_BYTES_MAX {
            measures::shortened();
            tracing::warn!(agent = %agent.id, "its tpm_policy and metadata are too long to be told");
            let facts = KeylimeFacts {
                tpm_policy: "{}".to_owned(),
                metadata: "{}".to_owned(),
                ..agent.facts.clone()
            };
            body = self.signed(agent, &facts, happened).await;
        }
        let messages = told.into_iter().filter_map(|webhook| {
            // Without random numbers no agent is challenged either.
            let id = new_id()?;
            let body = body.clone();
            Some(NewMessage { webhook, id, body })
        });
        messages.collect()
    }

    async fn signed(
        &self,
        agent: &StoredKeylimeAgent,
        facts: &KeylimeFacts,
        happened: &Happened<'_>,
    ) -> String {
        let message = message(&agent.id, facts, happened);
        if facts.revocation_key.is_empty() {
            return envelope(&message, "");
        }
        let (sign, key) = (Arc::clone(&self.parts.sign), facts.revocation_key.clone());
        let signed = message.clone();
        let signing = tokio::task::spawn_blocking(move || sign(&key, signed.as_bytes()));
        let signature = signing.await.ok().flatten();
        if signature.is_none() {
            measures::unsigned();
            tracing::error!(agent = %agent.id, "its revocation_key cannot be used: the message is not signed");
        }
        envelope(&message, &signature.unwrap_or_default())
    }

    /// What follows for polling it; `None` when it goes on as it is.
    fn step(&self, view: &AgentView, noted: &NotedStanding, found: Option<&Found>) -> Option<Step> {
        if view.record.path != AgentPath::KeylimePull {
            return None;
        }
        if found.is_none() && noted.halted == Halted::ByFailure {
            return Some(Step::Resume);
        }
        let grave = found.and_then(|found| found.grave_unix_ms);
        let grave = grave.filter(|at| noted.halted == Halted::Not && *at > noted.resumed_unix_ms);
        grave.filter(|_| !self.parts.auto_recover).map(Step::Halt)
    }

    async fn decide(&self, id: &AgentId, step: Step) -> Result<(), NotNow> {
        let (store, polling) = (&self.parts.store, &self.parts.polling);
        let grave_unix_ms = match step {
            Step::Halt(at_unix_ms) => at_unix_ms,
            Step::Resume => {
                let now = self.parts.clock.now().unix_ms;
                if store.resume_keylime_agent(id, now).await? {
                    polling.go_on(id.clone());
                }
                return Ok(());
            }
        };
        if !store.halt_keylime_agent(id, grave_unix_ms).await? {
            return Ok(());
        }
        tracing::warn!(agent = %id, "an agent failed and is not polled any more");
        polling.stop(id);
        // A tenant may have taken it up again in between.
        if store.keylime_standing(id).await?.halted == Halted::Not {
            polling.go_on(id.clone());
        }
        Ok(())
    }
}

/// The agent whose standing may have changed in what is told of it.
fn concerned(event: Event) -> Option<AgentId> {
    match event {
        Event::Status { agent, group, .. } if group == KEYLIME_GROUP => Some(agent),
        Event::Attested {
            agent,
            code: Some(_),
            ..
        }
        | Event::Rejudged {
            agent,
            code: Some(_),
            ..
        }
        | Event::Cleared { agent } => Some(agent),
        _ => None,
    }
}

fn after(pause: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(pause).unwrap_or(now)
}
