//! Who a machine is, and that nobody else becomes it.

use rat_identity::keylime::{EkCheck, Policy};
use rat_store::{KeylimeStanding, KeylimeVouch};
use rat_tests::endorsement::{Authority, Profile, SoftwareEk, Template};
use rat_tests::keylime::tpm2b;
use rat_tests::registrar::{Agent, Served, Settings};
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use serde_json::{Value, json};

use super::{assert_invalid, told};

const IDENTITY: &str =
    "Agent re-registration with different TPM identity is forbidden for security reasons";

fn root() -> Authority {
    Authority::root(&Profile::authority("a vendor"))
}

#[test]
fn an_agent_of_a_known_vendor_registers_and_is_read() {
    let ca = root();
    let served = Served::start(Settings::default(), &[&ca]);
    let agent = Agent::certified("d432fbb3-d2f1-4a97-9ef7-75bd81c00000", &ca);
    let answer = served.json("POST", &agent.path(), &agent.body());
    assert_eq!(told(&answer), (200, "Success".to_owned()));
    let shown = served.ask("GET", &agent.path());
    let text = format!("Agent with ID '{}' has not been activated", agent.id);
    assert_eq!(told(&shown), (404, text));
    let tag = agent.answer(&answer.json());
    assert_eq!(served.json("PUT", &agent.path(), &tag).status, 200);
    let shown = served.ask("GET", &agent.path()).json();
    let expected = json!({
        "agent_id": agent.id,
        "ek_tpm": tpm2b(&agent.ek.public()),
        "ekcert": agent.body()["ekcert"],
        "aik_tpm": tpm2b(&agent.ak.public()),
        "ip": "192.0.2.10",
        "port": 9002,
        "mtls_cert": "disabled",
        "regcount": 1,
    });
    assert_eq!(shown["results"], expected);
    let list = served.ask("GET", "/v2.6/agents").json();
    assert_eq!(list["results"], json!({"uuids": [agent.id]}));
    let vouch = served.registration(&agent.id).unwrap().details.vouch;
    assert!(matches!(vouch, KeylimeVouch::Chain { .. }));
    // Again, as after a restart: the same registration, and its count stays.
    served.register(&agent);
    let again = served.ask("GET", &agent.path()).json();
    assert_eq!(again["results"], expected);
    // The audit log names what happened once.
    let audit = served.wait(served.store.audit_entries(0, 100)).unwrap();
    let actions: Vec<_> = audit.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["registration.activate"]);
}

#[test]
fn n01_n09_a_tpm_that_nobody_vouches_for_is_refused_warned_of_or_taken() {
    let (ca, other) = (root(), root());
    let agents = [
        Agent::new("none"),
        Agent::certified("unknown-root", &other),
        Agent {
            ek_certificate: Some(ca.issue(
                &Profile::endorsement(false).with(
                    "2.5.29.37",
                    false,
                    rat_tests::endorsement::sequence(&[&rat_tests::endorsement::tcg(&[8, 3])]),
                ),
                &Agent::new("x").ek.spki(),
            )),
            ..Agent::new("key-mismatch")
        },
    ];
    let of = |ek_check| Settings {
        policy: Policy {
            ek_check,
            ..Policy::default()
        },
        ..Settings::default()
    };
    let enforcing = Served::start(of(EkCheck::Enforce), &[&ca]);
    for agent in &agents {
        assert_invalid(&enforcing.json("POST", &agent.path(), &agent.body()));
        assert!(enforcing.registration(&agent.id).is_none());
    }
    for (ek_check, vouch) in [
        (EkCheck::Warn, KeylimeVouch::Unknown),
        (EkCheck::Off, KeylimeVouch::Unchecked),
    ] {
        let served = Served::start(of(ek_check), &[&ca]);
        for agent in &agents[..2] {
            served.register(agent);
            assert_eq!(served.registration(&agent.id).unwrap().details.vouch, vouch);
        }
        // Another key's certificate is nobody's, whatever the policy.
        let agent = &agents[2];
        assert_invalid(&served.json("POST", &agent.path(), &agent.body()));
    }
}

#[test]
fn n02_n03_n13_keys_of_another_kind_are_refused() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    // restricted, sign, fixedTPM, fixedParent, sensitiveDataOrigin and userWithAuth: each is needed.
    for bit in [0x0001_0000, 0x0004_0000, 2, 0x10, 0x20, 0x40] {
        let mut weak = agent.clone();
        weak.ak.attributes &= !bit;
        assert_invalid(&served.json("POST", &weak.path(), &weak.body()));
    }
    let mut decrypts = agent.clone();
    decrypts.ak.attributes |= 0x0002_0000;
    assert_invalid(&served.json("POST", &decrypts.path(), &decrypts.body()));
    let mut body = agent.body();
    body["ek_tpm"] = body["aik_tpm"].clone();
    assert_invalid(&served.json("POST", &agent.path(), &body));
    let sha1 = Agent {
        ak: SoftwareAk::new(Scheme::RsaSsa(2048), rat_engine::hash::HashAlg::Sha1),
        ..agent.clone()
    };
    assert_invalid(&served.json("POST", &sha1.path(), &sha1.body()));
    assert!(served.registration("a").is_none());
    // RSA, and the templates of the high range, are as good as P-256.
    for (id, template, scheme) in [
        ("rsa", Template::Rsa2048, Scheme::RsaPss(2048)),
        ("p384", Template::P384, Scheme::Ecdsa(384)),
    ] {
        let hash = rat_engine::hash::HashAlg::Sha256;
        served.register(&Agent {
            ek: SoftwareEk::new(template),
            ak: SoftwareAk::new(scheme, hash),
            ..Agent::new(id)
        });
    }
}

#[test]
fn n06_an_id_stays_with_its_machine_until_an_operator_removes_it() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    served.register(&agent);
    let other = Agent::new("a");
    let with_other_ak = Agent {
        ak: SoftwareAk::p256(),
        ..agent.clone()
    };
    for thief in [&other, &with_other_ak] {
        let answer = served.json("POST", &thief.path(), &thief.body());
        assert_eq!(told(&answer), (403, IDENTITY.to_owned()));
    }
    for member in ["ek_tpm", "aik_tpm"] {
        let mut body = agent.body();
        body[member] = Value::Null;
        let answer = served.json("POST", &agent.path(), &body);
        assert_eq!(told(&answer), (403, IDENTITY.to_owned()));
    }
    let kept = served.registration("a").unwrap();
    assert_eq!(kept.standing, KeylimeStanding::Active);
    assert_eq!(kept.challenge, None);
    assert_eq!(served.ask("DELETE", "/v2.6/agents/a").status, 200);
    served.register(&other);
    let answer = served.json("POST", &agent.path(), &agent.body());
    assert_eq!(answer.status, 403);
}

#[test]
fn n06_one_tpm_has_one_id_unless_an_operator_says_otherwise() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("first");
    let second = Agent {
        id: "second".to_owned(),
        ..agent.clone()
    };
    // Whoever asks first has nothing yet: only a proof counts.
    let blocked = served.json("POST", &second.path(), &second.body());
    assert_eq!(blocked.status, 200);
    served.register(&agent);
    let answer = served.json("PUT", &second.path(), &second.answer(&blocked.json()));
    assert_eq!(answer.status, 403);
    let answer = served.json("POST", &second.path(), &second.body());
    assert_eq!(answer.status, 403);
    assert_eq!(
        told(&answer).1,
        "This TPM is registered under another agent id"
    );
    let settings = Settings {
        shares_ek: true,
        ..Settings::open()
    };
    let sharing = Served::start(settings, &[]);
    sharing.register(&agent);
    sharing.register(&second);
}

#[test]
fn n06_ids_have_one_form() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("D432FBB3-D2F1-4A97-9EF7-75BD81C00000");
    // Its answer covers the id as it writes it itself.
    served.register(&agent);
    let lower = agent.id.to_lowercase();
    assert_eq!(
        served.ask("GET", &agent.path()).json()["results"]["agent_id"],
        lower
    );
    let other = Agent::new(&lower);
    let answer = served.json("POST", &other.path(), &other.body());
    assert_eq!(answer.status, 403);
    for id in [
        "a%20b",
        "a%0Ab",
        "%7Ba%7D",
        "a%C3%A9",
        "..",
        "pending",
        &"a".repeat(81),
    ] {
        let path = format!("/v2.6/agents/{id}");
        assert_invalid(&served.json("POST", &path, &Agent::new("x").body()));
        let answer = served.json("PUT", &path, &json!({"auth_tag": "00"}));
        let text = "Agent with ID '(no agent id)' not found".to_owned();
        assert_eq!(told(&answer), (404, text), "{id}");
        assert_eq!(served.ask("GET", &path).status, 404);
        assert_eq!(served.ask("DELETE", &path).status, 404);
    }
}

#[test]
fn n07_of_registrations_at_the_same_time_one_wins() {
    let served = Served::start(Settings::open(), &[]);
    let agents: Vec<Agent> = (0..8).map(|_| Agent::new("a")).collect();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = agents
            .iter()
            .map(|agent| scope.spawn(|| served.json("POST", &agent.path(), &agent.body())))
            .collect();
        asking.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let won: Vec<_> = answers
        .iter()
        .zip(&agents)
        .filter(|(it, _)| it.status == 200)
        .collect();
    assert_eq!(won.len(), 1);
    let lost = answers.iter().filter(|answer| answer.status == 403).count();
    assert_eq!(lost, 7);
    let (answer, winner) = won[0];
    let tag = winner.answer(&answer.json());
    // Of the same answer many times at once, one serves.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| served.json("PUT", &winner.path(), &tag).status))
            .collect();
        asking.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1);
    let kept = served.registration("a").unwrap();
    assert_eq!(kept.standing, KeylimeStanding::Active);
    let expected = winner.ak.public();
    assert!(kept.ak_public.ends_with(&expected));
}

#[test]
fn a_restart_keeps_registrations_and_what_was_asked() {
    let served = Served::start(Settings::open(), &[]);
    let (active, pending) = (Agent::new("active"), Agent::new("pending-one"));
    served.register(&active);
    let asked = served.json("POST", &pending.path(), &pending.body());
    let before = served.ask("GET", &active.path()).json();
    let folder = served.end();
    let served = Served::start_in(folder, Settings::open(), Default::default());
    assert_eq!(served.ask("GET", &active.path()).json(), before);
    let tag = pending.answer(&asked.json());
    assert_eq!(served.json("PUT", &pending.path(), &tag).status, 200);
    assert_eq!(served.ask("GET", &pending.path()).status, 200);
}
