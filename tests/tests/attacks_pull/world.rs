//! A runtime, a poller over it, and agents that are added as a tenant adds them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentView, EffectiveStatus, Event};
use rat_engine::uefi::policy::PolicyName;
use rat_engine::verdict::Code;
use rat_identity::v_key::seal_v_key;
use rat_runtime::{EventStream, KeylimeSettings, Settings};
use rat_store::{KeylimeKind, KeylimePut, NewKeylimePolicy};
use rat_tests::driven::{self, Driven, PATIENCE};
use rat_tests::evidence::Machine;
use rat_tests::pull_agent::{Device, PullAgent, Reply};
use rat_tests::pulled::{contact, enrol, make_group};
use rat_transport::pull::{self, Contact, News, Options, Poller, Standing, Watcher};

/// From one poll to the next.
pub(crate) const INTERVAL: Duration = Duration::from_millis(400);

/// What the poller told.
#[derive(Default)]
pub(crate) struct Told(Mutex<Vec<(AgentId, News)>>);

impl Watcher for Told {
    fn told(&self, agent: &AgentId, news: News) {
        self.0.lock().unwrap().push((agent.clone(), news));
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) driven: Driven,
    pub(crate) poller: Poller,
    pub(crate) told: Arc<Told>,
    pub(crate) contacts: Mutex<Vec<Contact>>,
    pub(crate) events: tokio::sync::Mutex<EventStream>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        keylime: KeylimeSettings {
            interval_ms: INTERVAL.as_millis() as u64,
            answer_ms: 1_000,
            boot_policy: PolicyName::Example,
            boot_log_always: false,
            ..KeylimeSettings::default()
        },
        ..driven::settings()
    }
}

pub(crate) fn polling() -> pull::Settings {
    pull::Settings {
        interval_ms: INTERVAL.as_millis() as u64,
        answer_ms: 1_000,
        retry_interval_seconds: 1,
        retry_ms_max: 300,
        ..pull::Settings::default()
    }
}

pub(crate) fn start(
    driven: &Driven,
    settings: pull::Settings,
    identity: Option<pull::ClientIdentity>,
) -> (Poller, Arc<Told>) {
    let told = Arc::new(Told::default());
    let options = Options {
        settings,
        identity,
        seal: Arc::new(|key, secret| seal_v_key(key, secret).ok()),
        watcher: Arc::clone(&told) as Arc<dyn Watcher>,
    };
    let poller = Poller::start(options, driven.runtime.intake()).unwrap();
    (poller, told)
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(polling(), None).await
    }

    pub(crate) async fn with(
        polling: pull::Settings,
        identity: Option<pull::ClientIdentity>,
    ) -> Self {
        let driven = Driven::without_policy(settings()).await;
        make_group(&driven.store).await;
        let (poller, told) = start(&driven, polling, identity);
        let events = tokio::sync::Mutex::new(driven.runtime.events());
        Self {
            events,
            driven,
            poller,
            told,
            contacts: Mutex::default(),
        }
    }

    /// A machine in software and its agent, added with the policy that lists what it ran.
    pub(crate) async fn machine(&self, id: &str) -> (Machine, AgentId, PullAgent) {
        let machine = Machine::valid();
        let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
        let id = self
            .add(id, &agent, &machine.ak.public(), &machine.keylime_policy())
            .await;
        (machine, id, agent)
    }

    /// The same, with what it answers to requests for evidence changed from the first on.
    pub(crate) async fn bent(
        &self,
        id: &str,
        bend: impl Fn(&Machine, &str, Reply) -> Reply + Send + Sync + 'static,
    ) -> (AgentId, PullAgent) {
        let machine = Machine::valid();
        let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
        let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
        agent.bend(move |target, reply| match target.contains("/quotes/") {
            false => reply,
            true => bend(&machine, target, reply),
        });
        (self.add(id, &agent, &ak, &policy).await, agent)
    }

    /// Adds an agent as a tenant does, and polls it.
    pub(crate) async fn add(
        &self,
        id: &str,
        agent: &PullAgent,
        ak_public: &[u8],
        policy: &str,
    ) -> AgentId {
        self.add_with(id, agent, ak_public, policy, |_| {}).await
    }

    /// The same with a change to where and how it is polled.
    pub(crate) async fn add_with(
        &self,
        id: &str,
        agent: &PullAgent,
        ak_public: &[u8],
        policy: &str,
        change: impl FnOnce(&mut Contact),
    ) -> AgentId {
        let id = AgentId::parse(id).unwrap();
        enrol(&self.driven, &id, ak_public, policy).await;
        let mut contact = contact_of(&id, agent, ak_public);
        change(&mut contact);
        self.contacts.lock().unwrap().push(contact.clone());
        self.poller.put(contact).unwrap();
        id
    }

    /// Replaces the reference state that an agent's boot is judged by, as a tenant does.
    pub(crate) async fn demand_boot(&self, id: &AgentId, text: &str) {
        let kind = KeylimeKind::MeasuredBoot;
        let policy = NewKeylimePolicy {
            kind,
            name: id.as_str(),
            text: text.as_bytes(),
            judges: Some(text.as_bytes()),
        };
        let store = &self.driven.store;
        let put = store.put_keylime_policy(policy, KeylimePut::Replace, "test", 2);
        put.await.unwrap();
        let runtime = &self.driven.runtime;
        runtime
            .keylime_policy_changed(kind, id.as_str())
            .await
            .unwrap();
    }

    pub(crate) async fn status(&self, id: &AgentId) -> EffectiveStatus {
        self.driven.view(id).await.status
    }

    /// Waits until an agent has this status.
    pub(crate) async fn until(&self, id: &AgentId, status: EffectiveStatus) -> AgentView {
        self.driven
            .until_view(id, |view| view.status == status)
            .await;
        self.driven.view(id).await
    }

    /// What was told of an agent so far.
    pub(crate) fn news(&self, id: &AgentId) -> Vec<News> {
        let told = self.told.0.lock().unwrap();
        let of = told.iter().filter(|(agent, _)| agent == id);
        of.map(|(_, news)| *news).collect()
    }

    /// Waits until something like this was told of an agent.
    pub(crate) async fn until_told(&self, id: &AgentId, is_it: impl Fn(&News) -> bool) -> News {
        let looking = async {
            loop {
                if let Some(news) = self.news(id).into_iter().find(&is_it) {
                    return news;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("{:?}", self.news(id)))
    }

    /// Waits until an agent is silent for a reason with this word.
    pub(crate) async fn until_silent(&self, id: &AgentId, why: &str) {
        self.until_told(
            id,
            |news| matches!(news, News::Silent { failure, .. } if failure.as_str() == why),
        )
        .await;
    }

    /// Waits until this holds of how an agent stands with the poller.
    pub(crate) async fn until_standing(&self, id: &AgentId, is_so: impl Fn(Standing) -> bool) {
        driven::until(|| self.poller.standing(id).is_some_and(&is_so)).await;
    }

    /// Waits until so many more requests for evidence were made.
    pub(crate) async fn more_quotes(&self, agent: &PullAgent, more: usize) {
        let wanted = agent.quotes_asked().len() + more;
        driven::until(|| agent.quotes_asked().len() >= wanted).await;
    }

    /// Waits until evidence of an agent was turned away for this.
    pub(crate) async fn until_turned_away(&self, id: &AgentId, why: Code) {
        let mut events = self.events.lock().await;
        let is_it = |event: &Event| matches!(event, Event::TurnedAway { agent, code, .. } if agent == id && *code == why);
        driven::event(&mut events, is_it).await;
    }

    /// The code of the last verdict, if it says one.
    pub(crate) async fn last_code(&self, id: &AgentId) -> Option<&'static str> {
        let view = self.driven.view(id).await;
        let verdict = view.state.verdict.as_ref();
        verdict.and_then(|it| it.code).map(|code| code.as_str())
    }
}

/// Where an agent is, and what is accepted of it.
pub(crate) fn contact_of(id: &AgentId, agent: &PullAgent, ak_public: &[u8]) -> Contact {
    let certificate = Some(agent.certificate.clone()).filter(|it| !it.is_empty());
    contact(id, agent.address, certificate, ak_public)
}
