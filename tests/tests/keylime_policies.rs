//! Policies that tenants bring to Keylime's verifier: what a boot may be, and who signed what may
//! run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use rat_engine::policy::dsse;
use rat_engine::uefi::policy::PolicyName;
use rat_runtime::KeylimeSettings;
use rat_tests::booted::{self, PCRS, refstate};
use rat_tests::keylime_verifier::{Pusher, Served, often, shown};
use serde_json::{Value, json};

fn judging_boots(boot_log_always: bool) -> KeylimeSettings {
    KeylimeSettings {
        boot_policy: PolicyName::Example,
        boot_log_always,
        ..often()
    }
}

/// An agent whose machine booted as the recorded log says.
fn booted_pusher() -> Pusher {
    Pusher {
        machine: booted::machine(&booted::log(), PCRS),
        ..Pusher::new("machine-1")
    }
}

fn added_with(served: &Served, agent: &Pusher, mb_policy: &str) {
    let mut body = agent.body();
    body["mb_policy"] = json!(mb_policy);
    let answer = served.ask("POST", &agent.path(), &body);
    assert_eq!(answer.status, 200, "{}", shown(&answer));
}

/// The reference state of machines with other firmware.
fn other() -> Value {
    let mut state = refstate();
    state["scrtm_and_bios"][0]["scrtm"] = json!({"sha256": format!("0x{}", "ab".repeat(32))});
    state
}

/// Whether an attestation that begins now asks for the boot log.
fn asks_for_boot_log(begun: &Value) -> bool {
    let requested = begun["data"]["attributes"]["evidence_requested"].as_array();
    let is_it = |item: &Value| item["evidence_type"] == "uefi_log";
    requested.unwrap().iter().any(is_it)
}

#[test]
fn a_boot_that_the_reference_state_does_not_allow_fails_until_it_is_allowed() {
    let served = Served::start_with(judging_boots(false));
    let mut agent = booted_pusher();
    added_with(&served, &agent, &other().to_string());
    agent.open(&served);
    assert_eq!(agent.attest(&served).status, 202);
    let failed = served.standing(&agent);
    assert_eq!(failed["attestation_status"], "FAIL", "{failed}");
    assert_eq!(failed["failure_code"], "uefi.policy_firmware");
    assert_eq!(failed["last_event_id"], "measured_boot.policy_example");
    assert_eq!(failed["has_mb_refstate"], 1);
    let body = json!({"mb_policy": refstate().to_string()});
    let answer = served.ask("PUT", "/v2.6/mbpolicies/machine-1", &body);
    assert_eq!(answer.status, 201, "{}", shown(&answer));
    let begun = agent.begin_when_due(&served);
    assert!(asks_for_boot_log(&begun.json()), "{}", shown(&begun));
    let answer = agent.conclude(&served, &begun);
    assert_eq!(answer.status, 202, "{}", shown(&answer));
    let passed = served.standing(&agent);
    assert_eq!(passed["attestation_status"], "PASS", "{passed}");
    // What this boot's log holds is known now.
    let begun = agent.begin_when_due(&served);
    assert!(!asks_for_boot_log(&begun.json()), "{}", shown(&begun));
}

#[test]
fn boot_logs_are_asked_for_always_where_that_is_configured() {
    let served = Served::start_with(judging_boots(true));
    let mut agent = booted_pusher();
    added_with(&served, &agent, &refstate().to_string());
    agent.open(&served);
    for _ in 0..2 {
        let begun = agent.begin_when_due(&served);
        assert!(asks_for_boot_log(&begun.json()), "{}", shown(&begun));
        assert_eq!(agent.conclude(&served, &begun).status, 202);
        assert_eq!(served.standing(&agent)["attestation_status"], "PASS");
    }
}

#[test]
fn a_reference_state_that_cannot_be_used_is_refused_and_changes_nothing() {
    let served = Served::start_with(judging_boots(true));
    let agent = booted_pusher();
    let mut lacking = refstate();
    lacking.as_object_mut().unwrap().remove("dbx");
    for text in ["[1]", "{", r#"{"dbx": 1}"#, &lacking.to_string()] {
        let mut body = agent.body();
        body["mb_policy"] = json!(text);
        let refused = served.ask("POST", &agent.path(), &body);
        assert_eq!(refused.status, 400, "{text}: {}", shown(&refused));
        assert!(shown(&refused).contains("mb_policy is malformatted"));
        assert_eq!(served.ask("GET", &agent.path(), &Value::Null).status, 404);
        let path = "/v2.6/mbpolicies/bad";
        let refused = served.ask("POST", path, &json!({"mb_policy": text}));
        assert_eq!(refused.status, 400, "{text}: {}", shown(&refused));
        assert_eq!(served.ask("GET", path, &Value::Null).status, 404);
    }
}

/// A key, and its public half as tenants send it.
fn signer() -> (PKey<Private>, String) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let public = BASE64.encode(key.public_key_to_pem().unwrap());
    (key, public)
}

fn signed(key: &PKey<Private>, policy: &str) -> String {
    let mut signer = Signer::new(MessageDigest::sha256(), key).unwrap();
    let message = dsse::pae(dsse::PAYLOAD_TYPE, policy.as_bytes());
    let signature = signer.sign_oneshot_to_vec(&message).unwrap();
    dsse::envelope(policy.as_bytes(), "hint", &signature)
}

#[test]
fn l06_a_signed_policy_judges_and_one_of_another_key_is_refused() {
    let (key, public) = signer();
    let (_, other) = signer();
    for demands in [false, true] {
        let served = Served::start_demanding(often(), demands);
        let mut agent = Pusher::new("machine-1");
        let envelope = signed(&key, &agent.policy());
        let with = |policy: &str, key: &str| {
            let mut body = agent.body();
            body["runtime_policy"] = json!(BASE64.encode(policy));
            body["runtime_policy_key"] = json!(key);
            body
        };
        let path = agent.path();
        let status = |body: &Value| served.ask("POST", &path, body).status;
        assert_eq!(status(&with(&envelope, &other)), 401);
        assert_eq!(status(&with(&agent.policy(), &public)), 400);
        if demands {
            assert_eq!(status(&with(&envelope, "")), 401);
            assert_eq!(status(&with(&agent.policy(), "")), 401);
        }
        assert_eq!(served.ask("GET", &path, &Value::Null).status, 404);
        assert_eq!(status(&with(&envelope, &public)), 200);
        let kept = served.ask("GET", "/v2.6/allowlists/machine-1", &Value::Null);
        assert_eq!(kept.json()["results"]["runtime_policy"], envelope);
        agent.open(&served);
        assert_eq!(agent.attest(&served).status, 202);
        let standing = served.standing(&agent);
        assert_eq!(standing["attestation_status"], "PASS", "{standing}");
        assert_eq!(standing["has_runtime_policy"], 1);
    }
}
