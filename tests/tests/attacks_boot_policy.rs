//! Measured boot policies over whole evidence: `verify/evidence`, and the appraisal behind it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;

use rat_api::keylime::{ApiVersion, Evaluate, Keylime, MeasuredBoot};
use rat_engine::appraisal::{Appraisal, Appraised, Reference, Rules};
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{ImaOptions, Start};
use rat_engine::policy::RuntimePolicy;
use rat_engine::uefi::policy::{MeasuredBootPolicy, PolicyName};
use rat_engine::verdict::{Code, Verdict};
use rat_tests::booted::{PCRS, booted, log, refstate};
use rat_tests::evidence::{Machine, Submission};
use rat_tests::keylime::{Answered, NONCE, answer, data_of};
use serde_json::{Value, json};

const ALWAYS: MeasuredBoot = MeasuredBoot {
    policy_name: PolicyName::Example,
    evaluate: Evaluate::Always,
};

fn ask(settings: MeasuredBoot, data: &Value) -> Answered {
    let body = json!({"type": "tpm", "data": data}).to_string();
    let keylime = Keylime::new(1, settings);
    answer(&keylime, ApiVersion::V2_6, body.as_bytes())
}

/// A request for what a machine sends that booted as this log says.
fn request(log: &[u8], pcrs: u32, policy: &str) -> Value {
    let (machine, submission) = booted(log, pcrs, NONCE.as_bytes());
    let mut data = data_of(&machine, &submission);
    data["mb_policy"] = policy.into();
    data
}

/// Type and code of the one failure there is.
#[track_caller]
fn failure(answered: &Answered) -> (String, String) {
    assert_eq!(answered.status, 200, "{}", answered.body);
    assert!(!answered.is_valid());
    let failures = answered.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    failures[0].clone()
}

#[test]
fn each_policy_judges_as_its_name_says() {
    let state = refstate().to_string();
    let good = request(&log(), PCRS, &state);
    for (name, evaluate, valid) in [
        (PolicyName::AcceptAll, Evaluate::Always, true),
        (PolicyName::AcceptAll, Evaluate::Once, true),
        (PolicyName::RejectAll, Evaluate::Always, false),
        (PolicyName::RejectAll, Evaluate::Once, false),
        (PolicyName::Example, Evaluate::Always, true),
        (PolicyName::Example, Evaluate::Once, true),
    ] {
        let settings = MeasuredBoot {
            policy_name: name,
            evaluate,
        };
        let answered = ask(settings, &good);
        assert_eq!(
            answered.is_valid(),
            valid,
            "{name} {evaluate}: {}",
            answered.body
        );
        if !valid {
            let expected = (
                "measured_boot.policy_reject-all".into(),
                "uefi.policy_rejected".into(),
            );
            assert_eq!(failure(&answered), expected);
        }
    }
}

#[test]
fn e05_another_reference_state_fails_with_the_rule_that_is_broken() {
    let mut state = refstate();
    state["kernels"][0]["kernel_cmdline"] = "/vmlinuz quiet".into();
    let data = request(&log(), PCRS, &state.to_string());
    let answered = ask(ALWAYS, &data);
    let expected = (
        "measured_boot.policy_example".into(),
        "uefi.policy_kernel".into(),
    );
    assert_eq!(failure(&answered), expected);
    let context = &answered.body["results"]["failures"][0]["context"];
    assert!(context["entry"].as_u64().is_some(), "{context}");
    let message = context["message"].as_str().unwrap();
    assert!(
        message.starts_with("Boot attestation failed: event "),
        "{message}"
    );
    // `once` does not judge what comes with a request, as in Keylime.
    let once = MeasuredBoot {
        evaluate: Evaluate::Once,
        ..ALWAYS
    };
    assert!(ask(once, &data).is_valid());
    // Secure Boot is on, and the state wants it off.
    let mut state = refstate();
    state["has_secureboot"] = false.into();
    let image = state["kernels"][0]["kernel_authcode_sha256"].clone();
    state["kernels"][0]["vmlinuz_plain_sha256"] = image;
    let answered = ask(ALWAYS, &request(&log(), PCRS, &state.to_string()));
    let codes: Vec<_> = answered
        .failures()
        .into_iter()
        .map(|(_, code)| code)
        .collect();
    assert!(
        codes.contains(&"uefi.policy_secure_boot".to_owned()),
        "{codes:?}"
    );
}

#[test]
fn p03_pcrs_that_the_policy_judges_must_be_quoted() {
    let state = refstate().to_string();
    for missing in [0, 7, 9, 14] {
        let data = request(&log(), PCRS & !(1 << missing), &state);
        let answered = ask(ALWAYS, &data);
        assert!(!answered.is_valid());
        let failures = answered.failures();
        let expected = (
            "measured_boot.missing_pcrs".to_owned(),
            "pcr.not_attested".to_owned(),
        );
        assert!(failures.contains(&expected), "{missing}: {failures:?}");
    }
}

#[test]
fn a_policy_with_content_wants_a_log() {
    let state = refstate().to_string();
    let mut data = request(&log(), PCRS, &state);
    data.as_object_mut().unwrap().remove("mb_log");
    for name in PolicyName::ALL {
        let settings = MeasuredBoot {
            policy_name: name,
            evaluate: Evaluate::Always,
        };
        let answered = ask(settings, &data);
        assert_eq!(failure(&answered).1, "uefi.log_missing", "{name}");
    }
    data["mb_policy"] = "{}".into();
    assert!(ask(ALWAYS, &data).is_valid());
}

#[test]
fn e01_events_hidden_from_the_log_leave_the_quote_unexplained() {
    // The two events of PCR 14 are left out: nothing is measured there, says the log.
    let bytes = log();
    let (machine, submission) = booted(&bytes, PCRS, NONCE.as_bytes());
    let parsed = rat_engine::uefi::EventLog::parse(&bytes).unwrap();
    let events = parsed.events();
    let mut without = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let end = events
            .get(index + 1)
            .map_or(bytes.len(), |next| next.place().offset);
        if event.pcr().is_none_or(|pcr| pcr.get() != 14) {
            without.extend(&bytes[event.place().offset..end]);
        }
    }
    assert!(without.len() < bytes.len());
    let submission = submission.with(|it| it.boot_log = Some(without));
    let mut data = data_of(&machine, &submission);
    data["mb_policy"] = refstate().to_string().into();
    let expected = (
        "measured_boot.invalid_pcr_14".into(),
        "uefi.pcr_mismatch".into(),
    );
    assert_eq!(failure(&ask(ALWAYS, &data)), expected);
    // Without a policy that judges it, PCR 14 is as it was: not compared where the log has nothing.
    data["mb_policy"] = "{}".into();
    assert!(ask(ALWAYS, &data).is_valid());
}

#[test]
fn x01_policies_that_cannot_be_read_are_refused() {
    let deep = format!("{{\"a\":{}", "[".repeat(10_000));
    for policy in ["x", "{} {}", "null", "{\"a\": 1, \"a\": 2}", "7", &deep] {
        for name in PolicyName::ALL {
            let settings = MeasuredBoot {
                policy_name: name,
                evaluate: Evaluate::Always,
            };
            let answered = ask(settings, &request(&log(), PCRS, policy));
            assert_eq!(answered.status, 400, "{name} {policy}");
            let said = answered.body["status"].as_str().unwrap();
            assert!(said.contains("mb_policy is malformatted"), "{said}");
        }
    }
    // Members are `example`'s.
    let other = request(&log(), PCRS, r#"{"has_secureboot": true}"#);
    assert_eq!(ask(ALWAYS, &other).status, 400);
    assert!(ask(MeasuredBoot::default(), &other).is_valid());
}

fn appraise(
    machine: &Machine,
    submission: &Submission,
    policy: Option<&Value>,
    log_first: bool,
) -> Appraised {
    let public = machine.ak.public();
    let public = rat_engine::tpm::Public::parse(&public).unwrap();
    let measured_boot = policy.map(|state| {
        let text = state.to_string();
        let policy = MeasuredBootPolicy::parse(PolicyName::Example, text.as_bytes());
        Arc::new(policy.unwrap().unwrap())
    });
    let judge = RuntimePolicy::parse(machine.policy().as_bytes()).unwrap();
    let reference = Reference {
        key: rat_engine::crypto::VerifyingKey::from_tpm(&public)
            .unwrap()
            .into(),
        key_attributes: Some(Ok(())),
        nonce: NONCE.as_bytes().into(),
        challenged: None,
        pcr_policy: None,
        boot_pcrs: None,
        measured_boot,
        judge: Some(Arc::new(Judge::new(Arc::new(judge)).unwrap())),
    };
    let values = submission.values.clone();
    let (quote, signature) = (&submission.quote, &submission.signature);
    let mut appraisal = Appraisal::of_quote(reference, Rules::default(), quote, signature, values);
    if log_first {
        appraisal.boot_log(submission.boot_log.as_deref().unwrap());
    }
    let mut appraiser = appraisal.ima(ImaOptions::default(), Start::First).unwrap();
    appraiser.feed(submission.log.as_deref().unwrap());
    appraisal.ima_finished(appraiser.finish());
    appraisal.conclude()
}

#[test]
fn trust_takes_the_proof_of_the_measured_boot_policy() {
    let (machine, submission) = booted(&log(), PCRS, NONCE.as_bytes());
    let state = refstate();
    let appraised = appraise(&machine, &submission, Some(&state), true);
    assert!(
        matches!(appraised.verdict, Verdict::Trusted(_)),
        "{:?}",
        appraised.findings
    );
    // Without the log there is a policy that judged nothing.
    let appraised = appraise(&machine, &submission, Some(&state), false);
    assert!(matches!(appraised.verdict, Verdict::Untrusted));
    assert_eq!(appraised.findings[0].code, Code::UefiLogMissing);
    let mut other = state;
    other["mokdig"] = json!([]);
    let appraised = appraise(&machine, &submission, Some(&other), true);
    assert!(matches!(appraised.verdict, Verdict::Untrusted));
    let codes: Vec<_> = appraised.findings.iter().map(|it| it.code).collect();
    assert_eq!(codes, [Code::UefiPolicyMok]);
    assert_eq!(appraised.findings[0].pcr().map(|pcr| pcr.get()), Some(14));
    assert!(appraised.findings[0].entry().is_some());
    // What the log explains stays explained: boot_aggregate needs it.
    assert!(appraised.boot_pcrs.is_some() && appraised.ima.is_some());
    let appraised = appraise(&machine, &submission, None, true);
    assert!(matches!(appraised.verdict, Verdict::Trusted(_)));
}
