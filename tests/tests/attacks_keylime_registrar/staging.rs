//! N05, N10: answers serve once, and what an active agent has changes only with its TPM's answer.

use rat_engine::agent_id::AgentId;
use rat_store::{KeylimeMtlsCertificate, KeylimeStanding};
use rat_tests::registrar::{Agent, Served, Settings};
use serde_json::json;

use super::told;

fn wrong(served: &Served, agent: &Agent, tag: &str) -> (u16, String) {
    told(&served.json("PUT", &agent.path(), &json!({"auth_tag": tag})))
}

#[test]
fn n05_an_answer_serves_once_and_a_wrong_one_ends_the_question() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    let first = served.json("POST", &agent.path(), &agent.body()).json();
    let second = served.json("POST", &agent.path(), &agent.body()).json();
    assert_ne!(first, second, "each question is another");
    // Of the question before, the answer is wrong.
    let (status, text) = wrong(&served, &agent, &agent.auth_tag(&first));
    assert_eq!(status, 400);
    assert!(
        text.contains("has been deleted from the database"),
        "{text}"
    );
    // CVE-2023-38201: nothing of the right answer is told.
    let right = agent.auth_tag(&second);
    assert!(!text.contains(&right));
    assert!(served.registration("a").is_none());
    assert_eq!(wrong(&served, &agent, &right).0, 404);

    let asked = served.json("POST", &agent.path(), &agent.body()).json();
    let right = agent.auth_tag(&asked);
    assert_eq!(wrong(&served, &agent, &right).0, 200);
    assert_eq!(wrong(&served, &agent, &right).0, 400, "it was used");
    assert_eq!(served.ask("GET", &agent.path()).status, 200);
}

#[test]
fn n05_an_answer_is_no_other_agents() {
    let served = Served::start(Settings::open(), &[]);
    let (one, two) = (Agent::new("one"), Agent::new("two"));
    let asked = served.json("POST", &one.path(), &one.body()).json();
    served.json("POST", &two.path(), &two.body());
    let tag = one.auth_tag(&asked);
    assert_eq!(wrong(&served, &two, &tag).0, 400);
    assert_eq!(wrong(&served, &one, &tag).0, 200);
    for tag in [&tag.to_uppercase(), &tag[..95], &format!("{tag}0")] {
        served.json("POST", &two.path(), &two.body());
        assert_eq!(wrong(&served, &two, tag).0, 400);
    }
}

#[test]
fn n10_a_wrong_answer_never_ends_an_active_registration() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    served.register(&agent);
    let before = served.registration("a").unwrap();
    // Without a question, and with one that an outsider has made.
    let (status, text) = wrong(&served, &agent, "00");
    assert_eq!(status, 400);
    let begin = "Auth tag '00' for agent 'a' does not match expected value. ";
    assert!(
        text.starts_with(begin) && !text.contains("deleted"),
        "{text}"
    );
    assert_eq!(
        served.json("POST", &agent.path(), &agent.body()).status,
        200
    );
    assert_eq!(wrong(&served, &agent, &"0".repeat(96)).0, 400);
    assert_eq!(served.registration("a").unwrap(), before);
    served.register(&agent);
}

#[test]
fn n10_address_and_certificate_change_only_with_the_answer_to_their_own_question() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    served.register(&agent);
    let before = served.ask("GET", &agent.path()).json();
    // An outsider, who knows the keys, which are public.
    let mut forged = agent.body();
    forged["ip"] = "192.0.2.66".into();
    forged["port"] = 6666.into();
    forged["mtls_cert"] = json!(null);
    assert_eq!(served.json("POST", &agent.path(), &forged).status, 200);
    assert_eq!(served.ask("GET", &agent.path()).json(), before);
    // The agent comes back: its question takes the place of the other, with what it brought.
    served.register(&agent);
    assert_eq!(served.ask("GET", &agent.path()).json(), before);
    // With its own answer it can move.
    let mut moved = agent.body();
    moved["ip"] = "192.0.2.11".into();
    moved["port"] = "9003".into();
    let asked = served.json("POST", &agent.path(), &moved).json();
    assert_eq!(served.ask("GET", &agent.path()).json(), before);
    assert_eq!(wrong(&served, &agent, &agent.auth_tag(&asked)).0, 200);
    let after = served.ask("GET", &agent.path()).json();
    assert_eq!(after["results"]["ip"], "192.0.2.11");
    assert_eq!(after["results"]["port"], 9003);
    assert_eq!(after["results"]["regcount"], 1);
    let audit = served.wait(served.store.audit_entries(0, 100)).unwrap();
    let actions: Vec<_> = audit.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["registration.activate", "registration.change"]);
}

#[test]
fn n10_of_an_enrolled_agent_a_proven_change_waits_for_an_operator() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    served.register(&agent);
    super::paths::enrol(&served, &agent, rat_engine::shard::AgentPath::KeylimePull);
    let before = served.ask("GET", &agent.path()).json();
    let mut moved = agent.body();
    moved["ip"] = "192.0.2.11".into();
    let move_it = || {
        let asked = served.json("POST", &agent.path(), &moved).json();
        assert_eq!(wrong(&served, &agent, &agent.auth_tag(&asked)).0, 200);
    };
    move_it();
    assert_eq!(served.ask("GET", &agent.path()).json(), before);
    let proposed = served.wait(served.store.keylime_proposals()).unwrap();
    assert_eq!(proposed.len(), 1);
    assert_eq!(
        proposed[0].proposed.as_ref().unwrap().ip.as_deref(),
        Some("192.0.2.11")
    );
    let id = AgentId::parse("a").unwrap();
    let settle =
        |approved| served.wait(served.store.settle_keylime_proposal(&id, approved, "op", 5));
    assert!(settle(false).unwrap());
    assert!(!settle(true).unwrap(), "none waits");
    assert_eq!(served.ask("GET", &agent.path()).json(), before);
    move_it();
    assert!(settle(true).unwrap());
    let after = served.ask("GET", &agent.path()).json();
    assert_eq!(after["results"]["ip"], "192.0.2.11");
    let registration = served.registration("a").unwrap();
    assert_eq!(registration.standing, KeylimeStanding::Active);
    assert_eq!(registration.proposed, None);
    assert_eq!(
        registration.details.mtls_cert,
        KeylimeMtlsCertificate::Disabled
    );
}

#[test]
fn n05_what_was_not_proven_ends_by_itself_and_its_id_is_free() {
    let served = Served::start(Settings::open(), &[]);
    let (first, second) = (Agent::new("a"), Agent::new("a"));
    served.json("POST", &first.path(), &first.body());
    let registration = served.registration("a").unwrap();
    let KeylimeStanding::Pending { expires_unix_ms } = registration.standing else {
        panic!("{registration:?}");
    };
    let id = AgentId::parse("a").unwrap();
    let at = |now| {
        served
            .wait(served.store.keylime_registration(&id, now))
            .unwrap()
    };
    assert!(at(expires_unix_ms - 1).is_some());
    assert!(at(expires_unix_ms).is_none());
    let ids = served.wait(served.store.keylime_registration_ids(expires_unix_ms));
    assert!(ids.unwrap().is_empty());
    // Nobody has to wait who is not asked to: until then the id is the first one's.
    let answer = served.json("POST", &second.path(), &second.body());
    assert_eq!(answer.status, 403);
}
