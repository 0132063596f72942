//! A runtime over a real store, and machines in software that are enrolled in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::evidence::{
    Answer, Busy, Challenge, ChallengeId, Hello, Instance, Peer, SessionId, Submission, ToAgent,
};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::shard::{AgentPath, AgentRecord, AgentView, Event};
use rat_runtime::{Drained, EventStream, Runtime, Settings, SystemClock};
use rat_store::{
    Activated, Answered, GroupSettings, NewGroup, NewPending, NewPolicy, Precondition,
    Registration, Slot, Store,
};
use tempfile::TempDir;

use crate::assignment::{BOOT, answer_as};
use crate::evidence::Machine;
use crate::software_tpm::Attest;

/// The group of every machine.
pub const GROUP: &str = "driven";
/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A data directory and the runtime over it.
pub struct Driven {
    /// The data directory.
    pub directory: TempDir,
    /// The store that the runtime uses.
    pub store: Store,
    /// The runtime.
    pub runtime: Runtime,
}

/// Two workers, without lanes, whose agents are due often.
pub fn settings() -> Settings {
    let mut settings = Settings::for_processors(2);
    settings.shard = rat_engine::shard::Settings::with_interval(600_000);
    settings
}

/// An agent id whose shard the first or the second of two workers drives.
pub fn agent_of(worker: u16, nth: usize) -> AgentId {
    let ids = (0..).map(|n| AgentId::parse(&format!("machine-{n}")).unwrap());
    let mut of_worker = ids.filter(|id| id.shard().get() % 2 == worker);
    of_worker.nth(nth).unwrap()
}

fn unix_ms() -> u64 {
    use rat_runtime::Clock as _;
    SystemClock::start().now().unix_ms
}

/// What enrolment binds to a machine.
pub fn record(machine: &Machine, agent: &AgentId) -> AgentRecord {
    let of = |word: &str| -> [u8; 32] {
        let text = format!("{word} {agent}");
        let digest = rat_engine::crypto::digest(HashAlg::Sha256, text.as_bytes());
        digest.as_bytes().try_into().unwrap()
    };
    AgentRecord {
        id: agent.clone(),
        group: GROUP.to_owned(),
        path: AgentPath::Native,
        ak_public: machine.ak.public(),
        ak_epoch: 1,
        ek_sha256: of("ek"),
        client_key_sha256: of("client"),
        relay_key_sha256: None,
        baseline: None,
        enrolled_unix_ms: unix_ms(),
    }
}

impl Driven {
    /// A new data directory, with a group that enforces the policy of this machine.
    pub async fn new(machine: &Machine, settings: Settings) -> Self {
        let (directory, store) = group_without_policy().await;
        let version = put_policy(&store, &machine.policy()).await;
        activate(&store, version, Precondition::Always).await;
        store.close().await;
        Self::open(directory, settings).await
    }

    /// A new data directory, with a group that has no policy.
    pub async fn without_policy(settings: Settings) -> Self {
        let (directory, store) = group_without_policy().await;
        store.close().await;
        Self::open(directory, settings).await
    }

    /// A directory that is there already, as after the end of the process that used it.
    pub async fn open(directory: TempDir, settings: Settings) -> Self {
        let store = Store::open(&data(&directory)).await.unwrap();
        let clock = Arc::new(SystemClock::start());
        let runtime = Runtime::start(store.clone(), settings, clock)
            .await
            .unwrap();
        Self {
            directory,
            store,
            runtime,
        }
    }

    /// The process ends in order, and another one starts.
    pub async fn restart(self, settings: Settings) -> Self {
        let Self {
            directory,
            store,
            runtime,
        } = self;
        assert_eq!(runtime.drain(PATIENCE).await, Drained::Finished);
        store.close().await;
        Self::open(directory, settings).await
    }

    /// Enrols a machine in the store, and tells the runtime.
    pub async fn enrol(&self, machine: &Machine, agent: &AgentId) {
        self.enrol_with(machine, agent, |_| {}).await;
    }

    /// The same with a change to its record.
    pub async fn enrol_with(
        &self,
        machine: &Machine,
        agent: &AgentId,
        change: impl FnOnce(&mut AgentRecord),
    ) {
        let mut record = record(machine, agent);
        change(&mut record);
        let id = format!("pending-{agent}");
        let pending = NewPending {
            id: &id,
            agent,
            body: b"checked",
            expires_unix_ms: unix_ms() + 600_000,
        };
        self.store.put_pending(pending, unix_ms()).await.unwrap();
        let registration = Registration {
            hostname: "host".to_owned(),
            ip: "127.0.0.1".to_owned(),
            registered_unix_ms: unix_ms(),
        };
        let activated = self
            .store
            .activate(&Answered::new(&id, "test"), &record, &registration)
            .await;
        let Ok(Ok(Activated::New(stored))) = activated else {
            panic!("{activated:?}");
        };
        let enrolled = self.runtime.enrolled(stored.record, stored.state);
        enrolled.await.unwrap();
    }

    /// What the runtime shows of an agent.
    pub async fn view(&self, agent: &AgentId) -> AgentView {
        self.runtime.view(agent.clone()).await.unwrap().unwrap()
    }

    /// Waits until what the runtime shows of an agent is like this.
    pub async fn until_view(&self, agent: &AgentId, is_so: impl Fn(&AgentView) -> bool) {
        let looking = async {
            while !is_so(&self.view(agent).await) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, looking).await.is_err() {
            panic!("after {PATIENCE:?}: {:?}", self.view(agent).await);
        }
    }

    /// Connects a machine, which answers its first challenge.
    pub fn attest(&self, session: u64, machine: &Machine, agent: &AgentId) -> (Connected, Answer) {
        let connected = self.connect(session, machine, agent);
        let challenge = connected.challenged();
        let answer = self.answer(&connected, &challenge);
        (connected, answer)
    }

    /// Delivers the truthful answer to a challenge, and reads the verdict.
    pub fn answer(&self, connected: &Connected, challenge: &Challenge) -> Answer {
        let submission = connected.answer(challenge);
        self.deliver(connected, submission).unwrap();
        connected.verdict(challenge.id)
    }

    /// Connects a machine.
    pub fn connect(&self, session: u64, machine: &Machine, agent: &AgentId) -> Connected {
        let (sender, messages) = channel();
        let connected = Connected {
            session: SessionId(session),
            agent: agent.clone(),
            machine: machine.clone(),
            messages,
        };
        self.greet(&connected, Box::new(Wire(sender))).unwrap();
        connected
    }

    /// Connects a machine by a peer of the test's own.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn greet(&self, connected: &Connected, peer: Box<dyn Peer>) -> Result<(), Busy> {
        let record = record(&connected.machine, &connected.agent);
        let hello = Hello {
            path: AgentPath::Native,
            agent: connected.agent.clone(),
            client_key_sha256: record.client_key_sha256,
            log_formats: vec![LogFormat::Ascii],
            banks: vec![HashAlg::Sha256],
            reset_count: BOOT.reset_count,
            restart_count: BOOT.restart_count,
            entry_count: connected.machine.list.len() as u64,
            instance: Instance([1; 16]),
            relay_key_sha256: None,
        };
        let intake = self.runtime.intake();
        intake.connected(connected.session, hello, peer)
    }

    /// Delivers a machine's evidence.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn deliver(&self, from: &Connected, submission: Submission) -> Result<(), Busy> {
        let intake = self.runtime.intake();
        intake.evidence(from.session, &from.agent, submission)
    }

    /// The agents of an agent's shard, as they stand in the store.
    pub async fn stored(&self, shard: ShardIndex) -> Vec<rat_store::StoredAgent> {
        let shared = Store::open_shared(&data(&self.directory)).await;
        shared.unwrap().load(shard..=shard).await.unwrap().agents
    }
}

/// The data directory.
pub fn data(directory: &TempDir) -> PathBuf {
    directory.path().join("data")
}

async fn group_without_policy() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&data(&directory)).await.unwrap();
    let group = NewGroup {
        slug: GROUP.to_owned(),
        hex_id: "00ff".to_owned(),
        settings: GroupSettings::default(),
    };
    store.create_group(&group, "test", unix_ms()).await.unwrap();
    (directory, store)
}

/// Keeps a policy as the group's next version, which is returned.
pub async fn put_policy(store: &Store, text: &str) -> u64 {
    let policy = NewPolicy {
        group: GROUP,
        text: text.as_bytes(),
        name: "policy",
        origin: "test",
        actor: "test",
        now_unix_ms: unix_ms(),
    };
    store.put_policy(policy).await.unwrap().version
}

/// Has the group enforce this version from its next load.
pub async fn activate(store: &Store, version: u64, when: Precondition) {
    let slot = Slot::Enforced;
    let activating = store.activate_policy(GROUP, version, slot, when, "test", unix_ms());
    assert!(activating.await.unwrap());
}

/// The next event of this kind, whatever comes before it.
pub async fn event(events: &mut EventStream, wanted: impl Fn(&Event) -> bool) -> Event {
    let search = async {
        loop {
            match events.next().await {
                Some(Ok(event)) if wanted(&event) => return event,
                Some(_) => {}
                None => panic!("the runtime stopped"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .expect("an event")
}

/// Waits until this holds.
pub async fn until(holds: impl Fn() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .expect("in time");
}

/// Passes on what the runtime says.
pub struct Wire(pub Sender<ToAgent>);

impl Peer for Wire {
    fn send(&self, message: ToAgent) {
        let _ = self.0.send(message);
    }
}

/// A connected machine.
pub struct Connected {
    /// Its connection.
    pub session: SessionId,
    /// Its id.
    pub agent: AgentId,
    /// The machine.
    pub machine: Machine,
    /// What the runtime said to it.
    pub messages: Receiver<ToAgent>,
}

impl Connected {
    /// The next message.
    #[track_caller]
    pub fn next(&self) -> ToAgent {
        self.messages.recv_timeout(PATIENCE).expect("a message")
    }

    /// Reads the welcome and the challenge after it.
    #[track_caller]
    pub fn challenged(&self) -> Challenge {
        let welcome = self.next();
        assert!(matches!(welcome, ToAgent::Welcome { .. }), "{welcome:?}");
        self.next_challenge()
    }

    /// Reads the next challenge.
    #[track_caller]
    pub fn next_challenge(&self) -> Challenge {
        match self.next() {
            ToAgent::Challenge(challenge) => challenge,
            other => panic!("no challenge: {other:?}"),
        }
    }

    /// Its answer.
    pub fn answer(&self, challenge: &Challenge) -> Submission {
        self.answer_with(challenge, |_| {})
    }

    /// Its answer after a change to what is signed.
    pub fn answer_with(
        &self,
        challenge: &Challenge,
        change: impl FnOnce(&mut Attest),
    ) -> Submission {
        let from = challenge.ima_from_entry.unwrap() as usize;
        answer_as(&self.machine, &self.agent, challenge, from, change)
    }

    /// Reads the verdict of this challenge.
    #[track_caller]
    pub fn verdict(&self, of: ChallengeId) -> Answer {
        match self.next() {
            ToAgent::Verdict(id, answer) if id == of => answer,
            other => panic!("no verdict: {other:?}"),
        }
    }
}
