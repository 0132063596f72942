//! Keylime's agents that push: from a tenant's `add` to the verdict, over TLS, on real shards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use rat_engine::hash::HashAlg;
use rat_tests::keylime_verifier::{Pusher, Served, often, shown};
use rat_tests::measured::Measured;
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use serde_json::{Value, json};

#[test]
fn an_agent_that_keeps_to_its_policy_passes_and_sends_what_is_new() {
    let served = Served::start();
    let mut agent = Pusher::new("machine-1");
    served.add(&agent);
    let pending = served.standing(&agent);
    assert_eq!(pending["attestation_status"], "PENDING");
    assert_eq!(pending["operational_state"], Value::Null);
    agent.open(&served);
    let begun = agent.begin_when_due(&served);
    assert_eq!(begun.status, 201, "{}", shown(&begun));
    let asked = &begun.json()["data"]["attributes"]["evidence_requested"];
    assert_eq!(
        asked[0]["chosen_parameters"]["selected_subjects"]["sha256"],
        json!([10, 16])
    );
    assert_eq!(
        asked[0]["chosen_parameters"]["selected_subjects"]["sha1"],
        Value::Null
    );
    assert_eq!(asked[1]["chosen_parameters"]["starting_offset"], 0);
    let answer = agent.attest(&served);
    assert_eq!(answer.status, 202, "{}", shown(&answer));
    assert!(answer.json()["meta"]["seconds_to_next_attestation"].is_u64());
    assert_eq!(answer.json()["data"]["attributes"]["evidence"], json!([]));
    let passed = served.standing(&agent);
    assert_eq!(passed["attestation_status"], "PASS", "{passed}");
    assert_eq!(passed["effective_status"], "trusted");
    assert_eq!(
        (&passed["attestation_count"], &passed["operational_state"]),
        (&json!(1), &json!(3))
    );
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/ls", b"ls"));
    let begun = agent.begin_when_due(&served);
    let asked = &begun.json()["data"]["attributes"]["evidence_requested"];
    assert_eq!(
        asked[1]["chosen_parameters"]["starting_offset"],
        4,
        "{}",
        shown(&begun)
    );
    assert_eq!(agent.attest(&served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_count"], 2);
    let results = served.ask(
        "GET",
        "/v3.0/agents/machine-1/attestations/latest",
        &Value::Null,
    );
    let attributes = &results.json()["data"]["attributes"];
    assert_eq!(attributes["evaluation"], "pass", "{}", shown(&results));
}

#[test]
fn what_the_policy_does_not_list_fails_and_stays_failed_until_the_policy_lists_it() {
    let served = Served::start();
    let mut agent = Pusher::new("machine-1");
    served.add(&agent);
    agent.open(&served);
    assert_eq!(agent.attest(&served).status, 202);
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/evil", b"evil"));
    assert_eq!(agent.attest(&served).status, 202);
    let failed = served.standing(&agent);
    assert_eq!(failed["attestation_status"], "FAIL", "{failed}");
    assert_eq!(failed["failure_code"], "ima.path_not_listed");
    assert_eq!(
        failed["last_event_id"],
        "ima.validation.ima-ng.not_in_allowlist"
    );
    let latest = served.ask(
        "GET",
        "/v3/agents/machine-1/attestations/latest",
        &Value::Null,
    );
    let attributes = latest.json()["data"]["attributes"].clone();
    assert_eq!(
        attributes["failure_reason"], "policy_violation",
        "{attributes}"
    );
    assert_eq!(agent.attest(&served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_status"], "FAIL");
    let body = json!({"runtime_policy": base64(&agent.policy())});
    let path = "/v2.6/allowlists/machine-1";
    let answer = served.ask("PUT", path, &body);
    assert_eq!(answer.status, 201, "{}", shown(&answer));
    assert_eq!(agent.attest(&served).status, 202);
    let passed = served.standing(&agent);
    assert_eq!(passed["attestation_status"], "PASS", "{passed}");
}

#[test]
fn s16_a_tenants_update_is_an_administrators_clear() {
    let served = Served::start();
    let mut agent = Pusher::new("machine-1");
    served.add(&agent);
    agent.open(&served);
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/evil", b"evil"));
    assert_eq!(agent.attest(&served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_status"], "FAIL");
    assert_eq!(
        served.ask("DELETE", &agent.path(), &Value::Null).status,
        200
    );
    assert_eq!(served.ask("GET", &agent.path(), &Value::Null).status, 404);
    let again = served.ask("POST", &agent.path(), &agent.body());
    assert_eq!(again.status, 200, "{}", shown(&again));
    // Its session goes on, as in Keylime.
    assert_eq!(agent.attest(&served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_status"], "PASS");
    let audit = served.wait(served.store.audit_entries(0, 100)).unwrap();
    let removal = audit.iter().find(|it| it.action == "agent.remove").unwrap();
    assert_eq!(
        (removal.actor.as_str(), removal.detail.as_str()),
        ("keylime:client", "failure cleared")
    );
}

#[test]
fn an_agent_without_a_policy_is_authentic_and_passes_on_the_wire() {
    let served = Served::start();
    let mut agent = Pusher::new("machine-1");
    let mut body = agent.body();
    body["runtime_policy"] = json!("");
    body["tpm_policy"] = json!("{}");
    assert_eq!(served.ask("POST", &agent.path(), &body).status, 200);
    agent.open(&served);
    assert_eq!(agent.attest(&served).status, 202);
    let standing = served.standing(&agent);
    assert_eq!(standing["attestation_status"], "PASS", "{standing}");
    assert_eq!(standing["effective_status"], "authentic");
    assert_eq!(standing["has_runtime_policy"], 0);
}

#[test]
fn keys_of_every_kind_attest() {
    let served = Served::start();
    for (nth, (scheme, hash, algorithm)) in [
        (Scheme::RsaSsa(2048), HashAlg::Sha256, "rsa"),
        (Scheme::Ecdsa(256), HashAlg::Sha256, "ecc"),
        (Scheme::Ecdsa(384), HashAlg::Sha384, "ecc"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut agent = Pusher::new(&format!("machine-{nth}"));
        agent.machine.ak = SoftwareAk::new(scheme, hash);
        agent.algorithm = algorithm;
        served.add(&agent);
        agent.open(&served);
        let answer = agent.attest(&served);
        assert_eq!(answer.status, 202, "{}", shown(&answer));
        let standing = served.standing(&agent);
        assert_eq!(standing["attestation_status"], "PASS", "{standing}");
        assert_eq!(standing["hash_alg"], hash.name());
    }
}

#[test]
fn t02_a_boot_is_noticed_and_the_list_asked_for_from_its_first_entry() {
    let served = Served::start();
    let mut agent = Pusher::new("machine-1");
    served.add(&agent);
    agent.open(&served);
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/ls", b"ls"));
    assert_eq!(agent.attest(&served).status, 202);
    // The same list again in the next boot: nothing but the TPM tells them apart.
    (agent.reset_count, agent.clock) = (8, 10);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(agent.attest(&served).status, 202);
    let begun = agent.begin_when_due(&served);
    let asked = &begun.json()["data"]["attributes"]["evidence_requested"];
    assert_eq!(
        asked[1]["chosen_parameters"]["starting_offset"],
        0,
        "{}",
        shown(&begun)
    );
    assert_eq!(agent.attest(&served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_status"], "PASS");
}

#[test]
fn agents_and_their_states_are_there_after_a_restart() {
    let served = Served::start();
    let mut agent = Pusher::new("machine-1");
    served.add(&agent);
    agent.open(&served);
    assert_eq!(agent.attest(&served).status, 202);
    let folder = served.end();
    let served = Served::start_in(folder, often());
    let begun = agent.begin_when_due(&served);
    assert_eq!(begun.status, 401, "its session is gone: {}", shown(&begun));
    agent.open(&served);
    let begun = agent.begin_when_due(&served);
    let asked = &begun.json()["data"]["attributes"]["evidence_requested"];
    assert_eq!(
        asked[1]["chosen_parameters"]["starting_offset"],
        4,
        "{}",
        shown(&begun)
    );
    assert_eq!(agent.attest(&served).status, 202);
    assert_eq!(served.standing(&agent)["attestation_count"], 2);
}

#[test]
fn a01_sessions_are_of_those_who_proved_their_key() {
    let served = Served::start();
    let agent = Pusher::new("machine-1");
    // Whoever is not enrolled is told nothing.
    let answer = agent.prove(&served);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["data"]["attributes"]["evaluation"], "fail");
    assert!(answer.json()["data"]["attributes"].get("token").is_none());
    served.add(&agent);
    // Another key than the enrolled one.
    let thief = Pusher::new("machine-1");
    let answer = thief.prove(&served);
    assert_eq!(answer.status, 401, "{}", shown(&answer));
    // A proof serves once.
    let asked = agent.send(&served, "POST", "/v3.0/sessions", &agent.asks());
    let (name, body) = agent.proves(&asked.json());
    let path = format!("/v3.0/sessions/{name}");
    assert_eq!(agent.send(&served, "PATCH", &path, &body).status, 200);
    let again = agent.send(&served, "PATCH", &path, &body);
    assert_eq!(again.status, 404, "{}", shown(&again));
    // And for its own challenge.
    let asked = agent.send(&served, "POST", "/v3.0/sessions", &agent.asks());
    let name = asked.json()["data"]["id"].as_str().unwrap().to_owned();
    let mut other = body.clone();
    other["data"]["id"] = json!(name);
    let answer = agent.send(&served, "PATCH", &format!("/v3.0/sessions/{name}"), &other);
    assert_eq!(answer.status, 401, "{}", shown(&answer));
}

#[test]
fn a01_an_agent_acts_for_itself_and_no_administrator_for_it() {
    let served = Served::start();
    let mut one = Pusher::new("machine-1");
    let two = Pusher::new("machine-2");
    served.add(&one);
    served.add(&two);
    let anonymous = one.begin(&served);
    assert_eq!(anonymous.status, 403, "{}", shown(&anonymous));
    one.open(&served);
    let other = Pusher {
        token: one.token.clone(),
        ..two.clone()
    };
    let answer = other.begin(&served);
    assert_eq!(answer.status, 403, "{}", shown(&answer));
    let headers = ["content-type: application/vnd.api+json"];
    let path = "/v3.0/agents/machine-1/attestations";
    let body = one.offers().to_string();
    let answer = served
        .admin()
        .request_of_own("POST", path, &headers, body.as_bytes());
    assert_eq!(answer.status, 403, "{}", shown(&answer));
    // It reads itself, and nobody else, and no results.
    let token = format!("authorization: Bearer {}", one.token.clone().unwrap());
    for (path, status) in [
        ("/v2.6/agents/machine-1", 200),
        ("/v2.6/agents/machine-2", 403),
        ("/v2.6/agents", 403),
        ("/v3.0/agents/machine-1/attestations", 403),
        ("/v2.6/allowlists/machine-1", 403),
    ] {
        let answer = served
            .anonymous()
            .request_of_own("GET", path, &[&token], b"");
        assert_eq!(answer.status, status, "{path}: {}", shown(&answer));
    }
}

#[test]
fn q01_q03_evidence_answers_its_own_challenge_once() {
    let served = Served::start();
    let mut agent = Pusher::new("machine-1");
    served.add(&agent);
    agent.open(&served);
    let first = agent.begin_when_due(&served);
    let evidence = agent.evidence(&first.json());
    // Another attestation is begun: the first one's evidence is none of its.
    let second = agent.begin_when_due(&served);
    let location = second.header("location").unwrap().to_owned();
    let answer = agent.send(&served, "PATCH", &location, &evidence);
    assert_eq!(answer.status, 202, "{}", shown(&answer));
    assert_eq!(served.standing(&agent)["attestation_count"], 0);
    assert_ne!(served.standing(&agent)["attestation_status"], "PASS");
    let answer = agent.attest(&served);
    assert_eq!(answer.status, 202, "{}", shown(&answer));
    assert_eq!(served.standing(&agent)["attestation_status"], "PASS");
    let again = agent.send(&served, "PATCH", &location, &evidence);
    assert_eq!(again.status, 403, "{}", shown(&again));
    assert_eq!(again.json()["errors"][0]["code"], "evidence_immutable");
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
