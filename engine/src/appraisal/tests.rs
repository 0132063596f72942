//! Q11: whatever step of an appraisal fails, the verdict is not trusted.

use std::path::Path;

use super::*;
use crate::crypto::VerifyingKey;
use crate::fault::with_failing_step;
use crate::hash::HashAlg;
use crate::ima::judge::Judge;
use crate::ima::{Decoder, Event, LogFormat};
use crate::pcr_policy::PcrPolicy;
use crate::policy::RuntimePolicy;
use crate::tpm::Public;
use crate::tpm::attributes::check_attestation_key;
use crate::tpm::pcr_values::parse_pcr_json;

/// Genuine evidence of one machine: quote, boot log and measurement list.
struct Recorded {
    quote: Vec<u8>,
    signature: Vec<u8>,
    public: Vec<u8>,
    nonce: Vec<u8>,
    pcrs: Vec<u8>,
    boot: Vec<u8>,
    ima: Vec<u8>,
    policy: Vec<u8>,
}

impl Recorded {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/vectors/sets/hpe-rsa-sha256-ima780-uefi");
        let file = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&file("quote.json")).unwrap();
        let hex = |key: &str| hex::decode(json[key].as_str().unwrap()).unwrap();
        let ima = file("ima_log.ascii");
        Self {
            quote: hex("message_hex"),
            signature: hex("signature_tpmt_hex"),
            public: hex("ak_tpm2b_or_tpmt_hex"),
            nonce: hex("nonce_hex"),
            pcrs: json["pcrs"].to_string().into_bytes(),
            boot: file("boot_log.bin"),
            policy: policy_of(&ima),
            ima,
        }
    }

    /// Every step from bytes to verdict.
    fn judge(&self) -> Option<&'static str> {
        let public = Public::parse(&self.public).ok()?;
        let key = VerifyingKey::from_tpm(&public).ok()?;
        let policy = RuntimePolicy::parse(&self.policy).ok()?;
        let judge = Judge::new(policy.into()).ok()?;
        let pcr_policy = PcrPolicy::parse(br#"{"mask": "0x0107ff"}"#).ok()?;
        let reference = Reference {
            key: key.into(),
            key_attributes: Some(check_attestation_key(&public, false)),
            nonce: self.nonce.as_slice().into(),
            challenged: None,
            pcr_policy: Some(pcr_policy.into()),
            boot_pcrs: None,
            measured_boot: None,
            judge: Some(judge.into()),
        };
        let rules = Rules {
            strict: true,
            ..Rules::default()
        };
        let values = parse_pcr_json(&self.pcrs).ok()?;
        let mut appraisal =
            Appraisal::of_quote(reference, rules, &self.quote, &self.signature, values);
        appraisal.boot_log(&self.boot);
        if let Some(mut appraiser) = appraisal.ima(ImaOptions::default(), Start::First) {
            appraiser.feed(&self.ima);
            appraisal.ima_finished(appraiser.finish());
        }
        Some(appraisal.conclude().verdict.as_str())
    }
}

/// A policy that lists what the measurement list holds.
fn policy_of(ima: &[u8]) -> Vec<u8> {
    let mut digests = std::collections::BTreeMap::<String, Vec<String>>::new();
    let mut decoder = Decoder::new(LogFormat::Ascii, HashAlg::Sha1, u64::MAX);
    decoder
        .feed(ima, &mut |entry| {
            let event = Event::parse(entry.template, entry.data).unwrap();
            let name = String::from_utf8(event.name.to_vec()).unwrap();
            digests
                .entry(name)
                .or_default()
                .push(hex::encode(event.digest.bytes));
        })
        .unwrap();
    let policy = serde_json::json!({
        "meta": { "version": 1 }, "release": 0, "digests": digests, "excludes": [],
        "keyrings": {}, "ima-buf": {}, "verification-keys": "",
        "ima": { "ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null },
    });
    policy.to_string().into_bytes()
}

/// A boot variable whose data cannot be read is one that shows nothing: it reaches no policy.
const MAY_FAIL: [&str; 2] = ["UEFI_VARIABLE_DATA", "EFI_GUID"];

#[test]
fn q11_whatever_step_fails_nothing_is_trusted() {
    let recorded = Recorded::read();
    let whole = with_failing_step(None, || recorded.judge());
    assert_eq!(whole.result, Some("trusted"), "before any fault");
    assert!(whole.steps > 5_000, "only {} steps can fail", whole.steps);
    // Every step of quote, boot log and first entries, then a sample of the entries, which repeat
    // the same calls, and the end.
    let sampled = |step: &u64| *step < 3_000 || step.is_multiple_of(7) || *step + 200 > whole.steps;
    for step in (0..whole.steps).filter(sampled) {
        let struck = with_failing_step(Some(step), || recorded.judge());
        let place = struck.place.expect("the chosen step is taken again");
        if !MAY_FAIL.contains(&place) {
            assert!(
                !matches!(struck.result, Some("trusted" | "authentic")),
                "step {step}, in {place}, failed and nobody noticed"
            );
        }
    }
}
