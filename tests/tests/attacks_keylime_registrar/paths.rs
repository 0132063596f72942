//! S15: one id has one path, and so has one machine.

use std::sync::atomic::{AtomicU32, Ordering};

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentPath, AgentRecord};
use rat_store::{Answered, Conflict, GroupSettings, NewGroup, NewPending, Registration};
use rat_tests::fleet;
use rat_tests::registrar::{Agent, Served, Settings};

use super::told;

/// Activations that were begun.
static ACTIVATIONS: AtomicU32 = AtomicU32::new(0);

fn record(agent: &Agent, path: AgentPath) -> AgentRecord {
    AgentRecord {
        id: AgentId::parse(&agent.id).unwrap(),
        path,
        ek_sha256: agent.ek.sha256(),
        ..fleet::record(1)
    }
}

/// What enrolling an agent on this path comes to.
fn try_to_enrol(served: &Served, agent: &Agent, path: AgentPath) -> Result<(), Conflict> {
    let record = record(agent, path);
    served.wait(async {
        let store = &served.store;
        if store.group(&record.group).await.unwrap().is_none() {
            let group = NewGroup {
                slug: record.group.clone(),
                hex_id: "00".repeat(16),
                settings: GroupSettings::default(),
            };
            store.create_group(&group, "test", 1).await.unwrap();
        }
        let id = ACTIVATIONS.fetch_add(1, Ordering::Relaxed).to_string();
        let pending = NewPending {
            id: &id,
            agent: &record.id,
            body: b"x",
            expires_unix_ms: 1 << 42,
        };
        store.put_pending(pending, 1).await.unwrap();
        let answered = Answered::new(&id, "test");
        let registration = Registration {
            hostname: "h".to_owned(),
            ip: "192.0.2.1".to_owned(),
            registered_unix_ms: 5,
        };
        let enrolled = store.activate(&answered, &record, &registration).await;
        enrolled.unwrap().map(drop)
    })
}

/// Enrols an agent on this path.
#[track_caller]
pub(crate) fn enrol(served: &Served, agent: &Agent, path: AgentPath) {
    try_to_enrol(served, agent, path).unwrap();
}

#[test]
fn s15_what_is_enrolled_natively_does_not_register() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("native");
    enrol(&served, &agent, AgentPath::Native);
    let expected = (403, "This agent is enrolled on another path".to_owned());
    let answer = served.json("POST", &agent.path(), &agent.body());
    assert_eq!(told(&answer), expected);
    // Nor does another machine under its id, or the machine under another id.
    let other = Agent::new("native");
    let answer = served.json("POST", &other.path(), &other.body());
    assert_eq!(told(&answer), expected);
    let renamed = Agent {
        id: "renamed".to_owned(),
        ..agent
    };
    let answer = served.json("POST", &renamed.path(), &renamed.body());
    assert_eq!(told(&answer), expected);
    assert!(served.registration("native").is_none());
    assert!(served.registration("renamed").is_none());
}

#[test]
fn s15_what_is_enrolled_natively_meanwhile_is_not_activated() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    let asked = served.json("POST", &agent.path(), &agent.body()).json();
    enrol(&served, &agent, AgentPath::Native);
    let answer = served.json("PUT", &agent.path(), &agent.answer(&asked));
    assert_eq!(answer.status, 403);
}

#[test]
fn s15_what_registered_does_not_enrol_natively_until_it_is_removed() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    served.register(&agent);
    let refused = try_to_enrol(&served, &agent, AgentPath::Native);
    assert_eq!(refused, Err(Conflict::OtherPath));
    let other = Agent::new("a");
    let refused = try_to_enrol(&served, &other, AgentPath::Native);
    assert!(refused.is_err());
    let renamed = Agent {
        id: "b".to_owned(),
        ..agent.clone()
    };
    let refused = try_to_enrol(&served, &renamed, AgentPath::Native);
    assert_eq!(refused, Err(Conflict::OtherPath));
    assert_eq!(served.ask("DELETE", "/v2.6/agents/a").status, 200);
    enrol(&served, &renamed, AgentPath::Native);
}
