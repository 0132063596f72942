//! Changes of agents against shards that take their time: a double of the fleet, beside the
//! product's store and surface.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rat_api::auth::Gate;
use rat_api::auth::credential::{Credential, CredentialKind};
use rat_api::clock::{rfc3339, unix_ms};
use rat_api::core::fleet::{Answer, Fleet, Seen};
use rat_api::core::relays::Relays;
use rat_api::core::webhooks::{ShownWebhook, Test, Webhooks};
use rat_api::core::{self, Addresses, AgentMode, Core, InMemory};
use rat_api::listen::{Listener, Security, Stop};
use rat_api::surface::{Shared, join};
use rat_api::tls::{Acceptor, Material, ServerCertificate};
use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentState, Coverage, Demands, EffectiveStatus, Glance, StatusCounts};
use rat_identity::ca::Ca;
use rat_identity::ek::EkTrust;
use rat_identity::relay_certificate::RelayName;
use rat_store::{
    Activated, Answered, GroupSettings, KeylimeKind, NewApiToken, NewGroup, NewPending,
    Registration, Store, StoredAgent,
};
use rat_tests::fleet;
use rat_tests::http_client::{Answer as Response, Client};
use rat_tests::stage::group_of;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::machine::Machine;
use crate::operating::policy;
use crate::process::eventually;

/// What the shards were told. A change that they are told of is taken in only after the next one of
/// the same kind, if anything lets that come first.
struct Double {
    served: Mutex<HashMap<AgentId, StoredAgent>>,
    someone_waits: AtomicBool,
    taken: watch::Sender<u64>,
    /// The group whose agents nobody can count now.
    hanging: watch::Sender<Option<&'static str>>,
    /// Groups whose agents were to be counted, in that order.
    counts: Mutex<Vec<String>>,
}

/// What the double calls a count of all groups.
const EVERY_GROUP: &str = "*";

/// How long the double waits for another change to come first. Only what is wrong is found by it.
const SLOW: Duration = Duration::from_millis(300);

impl Double {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            served: Mutex::default(),
            someone_waits: AtomicBool::new(false),
            taken: watch::Sender::new(0),
            hanging: watch::Sender::new(None),
            counts: Mutex::default(),
        })
    }

    fn takes(&self) {
        self.taken.send_modify(|taken| *taken += 1);
    }
}

impl Fleet for Double {
    fn enrolled(&self, agent: StoredAgent) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut taken = self.taken.subscribe();
            let before = *taken.borrow_and_update();
            if !self.someone_waits.swap(true, Ordering::SeqCst) {
                let _ = timeout(SLOW, taken.wait_for(|taken| *taken > before)).await;
                self.someone_waits.store(false, Ordering::SeqCst);
            }
            let mut served = self.served.lock().unwrap();
            served.insert(agent.record.id.clone(), agent);
            self.takes();
            Ok(())
        })
    }

    fn seen(&self, agent: AgentId) -> Answer<'_, Option<Seen>> {
        let served = self.served.lock().unwrap();
        let seen = served.get(&agent).map(|stored| Seen {
            record: Arc::new(stored.record.clone()),
            terms: None,
            status: EffectiveStatus::Pending,
            state: AgentState::default(),
            trusted_until_unix_ms: 0,
        });
        Box::pin(async move { Ok(seen) })
    }

    fn glances(&self, agents: Vec<AgentId>) -> Answer<'_, Vec<Option<Glance>>> {
        let served = self.served.lock().unwrap();
        let state = AgentState::default();
        let glance = Glance::new(EffectiveStatus::Pending, &state);
        let glances = agents.iter().map(|agent| served.get(agent).map(|_| glance));
        let glances = glances.collect();
        Box::pin(async move { Ok(glances) })
    }

    fn group_changed(&self, _: String) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn keylime_changed(&self, _: AgentId) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn keylime_policy_changed(&self, _: KeylimeKind, _: String) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear(&self, _: AgentId) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn remove(&self, agent: AgentId) -> Answer<'_, ()> {
        Box::pin(async move {
            self.served.lock().unwrap().remove(&agent);
            self.takes();
            Ok(())
        })
    }

    fn set_aside(&self, agent: AgentId) -> Answer<'_, ()> {
        Box::pin(async move {
            self.served.lock().unwrap().remove(&agent);
            Ok(())
        })
    }

    fn coverage(&self, slug: String) -> Answer<'_, Option<Coverage>> {
        self.counts.lock().unwrap().push(slug.clone());
        Box::pin(async move {
            let mut hanging = self.hanging.subscribe();
            let answers = |hanging: &Option<&str>| *hanging != Some(slug.as_str());
            hanging.wait_for(answers).await.unwrap();
            let demands = group_of(&rat_tests::evidence::Machine::valid()).demands();
            // As of a group that has no policy yet.
            let by = Demands {
                list: None,
                ..demands
            };
            Ok(Some(Coverage {
                judged: 2,
                agents: 3,
                by: Some(by),
            }))
        })
    }

    fn status_counts(&self) -> Answer<'_, StatusCounts> {
        self.counts.lock().unwrap().push(EVERY_GROUP.to_owned());
        Box::pin(async {
            let mut hanging = self.hanging.subscribe();
            let answers = |hanging: &Option<&str>| *hanging != Some(EVERY_GROUP);
            hanging.wait_for(answers).await.unwrap();
            Ok(StatusCounts::default())
        })
    }
}

/// A server without webhooks.
struct NoRelays;

impl Relays for NoRelays {
    fn named(&self, _: &RelayName, _: [u8; 32]) {}

    fn taken_back(&self, _: &[u8; 32]) {}
}

struct NoWebhooks;

impl Webhooks for NoWebhooks {
    fn shown(&self) -> Vec<ShownWebhook> {
        Vec::new()
    }

    fn queued(&self, _: &str) {}

    fn test(&self, _: &str) -> Option<Test<'_>> {
        None
    }
}

/// The Core API in this process, with the double for its shards.
struct World {
    folder: tempfile::TempDir,
    store: Store,
    shards: Arc<Double>,
    address: SocketAddr,
    admin: String,
    stop: Stop,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn knowing(machines: &[&Machine]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let data = folder.path().join("data");
        let store = runtime.block_on(Store::open(&data)).unwrap();
        let ca = Ca::open(folder.path(), unix_ms()).unwrap();
        let names = ["127.0.0.1".to_owned()];
        let issued = ca.issue_server(&names, unix_ms()).unwrap();
        let material = Material {
            chain: issued.chain_der,
            key_pkcs8: issued.key_pkcs8_der,
            not_after_unix_ms: issued.not_after_unix_ms,
        };
        let certificate = Arc::new(ServerCertificate::new(material, unix_ms()).unwrap());
        let acceptor = Arc::new(Acceptor::new(certificate, &[]).unwrap());
        let bound = Listener::bind(
            "test",
            "127.0.0.1:0".parse().unwrap(),
            Security::Tls(acceptor),
        );
        let listener = runtime.block_on(bound).unwrap();
        let (address, stop, shards) = (listener.local_addr(), Stop::default(), Double::new());
        let shared = Shared::new(Gate::new(store.clone()), 10_000);
        let core = Core {
            store: store.clone(),
            ca: Arc::new(ca),
            trust: Arc::new(trust(folder.path(), machines)),
            fleet: Arc::clone(&shards) as Arc<dyn Fleet>,
            addresses: Addresses {
                host: "127.0.0.1".to_owned(),
                verifier_port: address.port(),
                core_url: format!("https://{address}"),
                evidence: Vec::new(),
                server_name: "127.0.0.1".to_owned(),
            },
            interval_ms: 10_000,
            interval_ms_min: 2_500,
            mode: AgentMode::Stay,
            shared: Arc::clone(&shared),
            started: runtime.block_on(async { tokio::time::Instant::now() }),
            in_memory: InMemory::default(),
            relays: Arc::new(NoRelays),
            webhooks: Arc::new(NoWebhooks),
        };
        let router = core::surface(Arc::clone(&shared)).into_router(Arc::new(core));
        runtime.spawn(listener.serve(join(&shared, [router]), stop.clone()));
        let admin = runtime.block_on(admin(&store));
        let world = Self {
            folder,
            store,
            shards,
            address,
            admin,
            stop,
            runtime,
        };
        for group in ["web", "db", "lab"] {
            world.group(group);
        }
        world
    }

    fn group(&self, slug: &str) {
        let group = NewGroup {
            slug: slug.to_owned(),
            hex_id: hex::encode(slug),
            settings: GroupSettings::default(),
        };
        let made = self.store.create_group(&group, "test", 1);
        self.runtime.block_on(made).unwrap();
    }

    fn client(&self) -> Client {
        Client::new(self.address, &self.folder.path().join("ca.pem"))
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        self.client().send(method, path, Some(&self.admin), body)
    }

    fn token(&self, group: &str) -> String {
        let body = json!({ "policy_group_id": group });
        let issued = self.send("POST", "/tokens/generate", Some(&body)).json();
        issued["token"].as_str().unwrap().to_owned()
    }

    fn moves(&self, id: &str, group: &str) -> u16 {
        let body = json!({ "policy_group_id": group });
        let path = format!("/agents/{id}/move");
        self.send("POST", &path, Some(&body)).status
    }

    /// What the shard has of an agent must be what the store has.
    #[track_caller]
    fn is_one(&self, id: &str, what: &str) {
        let id = AgentId::parse(id).unwrap();
        let stored = self.store.enrolled_agent(&id);
        let stored = self.runtime.block_on(stored).unwrap();
        let served = self.shards.served.lock().unwrap().get(&id).cloned();
        let records = [&served, &stored].map(|of| of.as_ref().map(|of| &of.record));
        assert_eq!(records[0], records[1], "{what}: the shard, and the store");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.force.cancel();
    }
}

fn trust(folder: &std::path::Path, machines: &[&Machine]) -> EkTrust {
    if machines.is_empty() {
        return EkTrust::default();
    }
    let list = folder.join("ek-list");
    let lines: Vec<String> = machines.iter().map(|machine| machine.listed()).collect();
    std::fs::write(&list, lines.join("\n")).unwrap();
    EkTrust::load(&[], &[list]).unwrap()
}

async fn admin(store: &Store) -> String {
    let credential = Credential::generate(CredentialKind::ApiToken).unwrap();
    let token = NewApiToken {
        id: credential.id().to_owned(),
        sha256: credential.sha256(),
        name: "test".to_owned(),
        owner: None,
        role: "admin".to_owned(),
        created_by: "test".to_owned(),
        created_unix_ms: unix_ms(),
        expires_unix_ms: unix_ms() + 3_600_000,
    };
    store.put_api_token(&token).await.unwrap();
    credential.as_str().to_owned()
}

/// Both at the same time.
fn side_by_side(one: impl FnOnce() -> u16 + Send, other: impl FnOnce() -> u16 + Send) -> [u16; 2] {
    std::thread::scope(|scope| {
        let (one, other) = (scope.spawn(one), scope.spawn(other));
        [one.join().unwrap(), other.join().unwrap()]
    })
}

#[test]
fn s16_n08_changes_of_one_agent_side_by_side_leave_the_shard_as_the_store() {
    let machine = Machine::new("m1");
    let world = World::knowing(&[&machine]);
    for round in 0..3 {
        let enrol = |machine: &Machine| {
            let group = "web";
            let token = world.token(group);
            machine.enrol(&world.client(), &token, group).status
        };
        assert_eq!(enrol(&machine), 200, "round {round}");
        world.is_one("m1", "enrolled");
        let moved = side_by_side(|| world.moves("m1", "lab"), || world.moves("m1", "db"));
        assert_eq!(moved, [200, 200]);
        world.is_one("m1", "two moves");
        assert_eq!(world.moves("m1", "web"), 200);

        // Another attestation key, approved while the agent is moved.
        let renewed = Machine {
            ak: Machine::new("m1").ak,
            ..machine.clone()
        };
        assert_eq!(enrol(&renewed), 409);
        let approved = side_by_side(
            || world.send("POST", "/agents/m1/approve", None).status,
            || world.moves("m1", "db"),
        );
        assert_eq!(approved, [200, 200]);
        world.is_one("m1", "a key and a move");
        assert_eq!(world.moves("m1", "web"), 200);

        // It enrols again while it is moved: one of them may be refused, and both agree.
        side_by_side(|| world.moves("m1", "web"), || enrol(&renewed));
        world.is_one("m1", "a move and another certificate");

        let remove = || world.send("DELETE", "/agents/m1", None).status;
        let removed = side_by_side(|| world.moves("m1", "lab"), remove);
        assert_eq!(removed[1], 200);
        world.is_one("m1", "a move and a removal");
        assert_eq!(enrol(&machine), 200);
        let removed = side_by_side(|| enrol(&machine), remove);
        assert_eq!(removed[1], 200);
        world.is_one("m1", "an enrolment and a removal");
        remove();
        world.is_one("m1", "removed");
    }
}

#[test]
fn s14_l07_a_count_that_hangs_is_unknown_in_time_and_holds_up_no_other_group() {
    let world = World::knowing(&[]);
    let coverage = |slug: &str| {
        let shown = world.send("GET", &format!("/groups/{slug}"), None);
        assert_eq!(shown.status, 200, "{}", shown.json());
        shown.json()["coverage"].clone()
    };
    let known = json!({"judged": 2, "agents": 3});
    assert_eq!(coverage("web"), known);
    let counts = |slug: &str| {
        let counts = world.shards.counts.lock().unwrap();
        counts.iter().filter(|counted| *counted == slug).count()
    };
    world.shards.hanging.send_replace(Some("web"));
    std::thread::scope(|scope| {
        let waiting = [(); 3].map(|()| scope.spawn(|| coverage("web")));
        eventually("it hangs", || counts("web") == 2);
        // The count of another group is had while this one hangs.
        assert_eq!(coverage("db"), known);
        let waited = waiting.map(|waiting| waiting.join().unwrap());
        assert_eq!(waited, [Value::Null, Value::Null, Value::Null]);
    });
    // Nor does whoever asks again ask the shards once more.
    assert_eq!(coverage("web"), Value::Null);
    assert_eq!(counts("web"), 2);
    // What was activated meanwhile is, and how far it was judged is not known.
    let body =
        json!({"policy_group_id": "web", "name": "first", "content": policy(&[("/x", '1')])});
    let added = world.send("POST", "/policies/", Some(&body)).json();
    let path = format!("/policies/{}/activate", added["id"].as_str().unwrap());
    let activated = world.send("POST", &path, Some(&json!({})));
    assert_eq!(activated.status, 200);
    assert_eq!(activated.json()["coverage"], Value::Null);
    world.shards.hanging.send_replace(None);
    assert_eq!(coverage("db"), known);
    // And what was counted by no policy does not count for the one that is enforced now.
    assert_eq!(coverage("web"), Value::Null);
    assert_eq!(counts("web"), 3);
}

#[test]
fn a_list_without_a_limit_has_a_thousand_agents_and_since_counts_the_second_that_is_shown() {
    let world = World::knowing(&[]);
    let registered_unix_ms = 1_700_000_000_999;
    world.runtime.block_on(async {
        let group = NewGroup {
            slug: fleet::GROUP.to_owned(),
            hex_id: "0f".to_owned(),
            settings: GroupSettings::default(),
        };
        world.store.create_group(&group, "test", 1).await.unwrap();
        for number in 0..1001 {
            let record = fleet::record(number);
            let pending = NewPending {
                id: "p",
                agent: &record.id,
                body: b"",
                expires_unix_ms: u64::MAX / 4,
            };
            world.store.put_pending(pending, 1).await.unwrap();
            let registration = Registration {
                hostname: "host".to_owned(),
                ip: "192.0.2.1".to_owned(),
                registered_unix_ms: registered_unix_ms + number * 1000,
            };
            let answered = Answered::new("p", "test");
            let activated = world.store.activate(&answered, &record, &registration);
            assert!(matches!(activated.await.unwrap(), Ok(Activated::New(_))));
        }
    });
    let list = |query: &str| world.send("GET", &format!("/agents/{query}"), None);
    let page = list("");
    assert_eq!(page.json().as_array().unwrap().len(), 1000);
    assert!(page.header("link").unwrap().ends_with("; rel=\"next\""));
    let last = page.json()[999]["id"].as_str().unwrap().to_owned();
    let rest = list(&format!("?after={last}"));
    assert_eq!(rest.json().as_array().unwrap().len(), 1);
    assert_eq!(rest.header("link"), None);
    // What was shown of the newest, asked for, finds it; a second later does not.
    let newest = registered_unix_ms + 1000 * 1000;
    for (since, found) in [(newest, 1), (newest - 1000, 2), (newest + 1000, 0)] {
        let since = rfc3339(since).unwrap();
        let listed = list(&format!("?since={since}&group={}", fleet::GROUP));
        assert_eq!(listed.status, 200);
        let listed = listed.json();
        assert_eq!(listed.as_array().unwrap().len(), found, "{since}");
    }
}

#[test]
fn shards_that_hang_are_asked_for_the_fleets_status_once_and_hold_up_nobody_for_long() {
    let world = World::knowing(&[]);
    let status = || world.send("GET", "/status", None).status;
    assert_eq!(status(), 200);
    let counts = || {
        let counts = world.shards.counts.lock().unwrap();
        counts.iter().filter(|it| *it == EVERY_GROUP).count()
    };
    world.shards.hanging.send_replace(Some(EVERY_GROUP));
    assert_eq!(status(), 503);
    assert_eq!(status(), 503);
    assert_eq!(counts(), 2);
    world.shards.hanging.send_replace(None);
    assert_eq!(status(), 200);
    assert_eq!(counts(), 3);
}
