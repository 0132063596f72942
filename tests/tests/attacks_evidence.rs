//! `POST /v2.6/verify/evidence`: what is valid, and every way not to be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_api::keylime::{ApiVersion, Keylime, MeasuredBoot};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::PcrSet;
use rat_tests::evidence::{BOOT_AND_IMA, Machine, boot_log, pcr, policy_json};
use rat_tests::keylime::{NONCE, answer, data, data_of, pcr_blob, quote_text, tpm2b, verify};
use rat_tests::measured::{self, Measured};
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use rat_tests::swtpm::Tpm;
use rat_tests::vectors::{self, RecordedQuote};
use serde_json::{Value, json};

const QUOTE: &str = "qoute_validation.quote_validation";
const KEY: &str = "qoute_validation.invalid_quote";

/// Panics unless the evidence is well-formed and invalid for exactly this.
#[track_caller]
fn fails(data: &Value, kind: &str, code: &str) {
    let answered = verify(data);
    assert_eq!(answered.status, 200, "{}", answered.body);
    assert!(!answered.is_valid());
    assert_eq!(answered.body["results"]["claims"], json!({}));
    let expected = [(kind.to_owned(), code.to_owned())];
    assert_eq!(answered.failures(), expected, "{}", answered.body);
}

#[track_caller]
fn refused(data: &Value, status: u16, text: &str) {
    let answered = verify(data);
    assert_eq!(answered.status, status, "{}", answered.body);
    assert_eq!(answered.body["code"], status);
    assert_eq!(answered.body["results"], json!({}));
    let said = answered.body["status"].as_str().unwrap();
    assert!(said.contains(text), "{said}");
}

fn with(machine: &Machine, member: &str, value: impl Into<Value>) -> Value {
    let mut data = data(machine);
    data[member] = value.into();
    data
}

fn without(machine: &Machine, members: &[&str]) -> Value {
    let mut data = data(machine);
    for member in members {
        data.as_object_mut().unwrap().remove(*member).unwrap();
    }
    data
}

/// A machine that quotes these PCRs of the SHA-256 bank.
fn quoting(bits: u32) -> Machine {
    let pcrs = PcrSet::from_bits(bits).unwrap();
    Machine::valid().with(|machine| machine.banks = vec![(HashAlg::Sha256, pcrs)])
}

/// A machine whose list is another one.
fn measuring(change: impl FnOnce(&mut Vec<Measured>)) -> Machine {
    Machine::valid().with(|machine| change(&mut machine.list))
}

#[test]
fn evidence_that_passes_is_valid_and_its_data_is_given_back() {
    let keys = [
        SoftwareAk::p256(),
        SoftwareAk::new(Scheme::Ecdsa(384), HashAlg::Sha256),
        SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha256),
        SoftwareAk::new(Scheme::RsaPss(2048), HashAlg::Sha256),
    ];
    for ak in keys {
        let machine = Machine::valid().with(|machine| machine.ak = ak);
        for boot in [None, Some(boot_log())] {
            let submission = machine.attest(NONCE.as_bytes());
            let data = data_of(&machine, &submission.with(|it| it.boot_log = boot));
            let answered = verify(&data);
            let expected = json!({
                "code": 200, "status": "Success",
                "results": {"valid": true, "claims": data, "failures": []},
            });
            assert_eq!((answered.status, &answered.body), (200, &expected));
        }
    }
}

#[test]
fn q01_the_nonce_is_its_characters_or_what_they_encode() {
    let machine = Machine::valid();
    let drawn = *b"0123456789abcdef";
    let mut pushed = data_of(&machine, &machine.attest(&drawn));
    pushed["nonce"] = "MDEyMzQ1Njc4OWFiY2RlZg==".into();
    assert!(verify(&pushed).is_valid());
    for nonce in [
        "MDEyMzQ1Njc4OWFiY2RlZg",
        "MDEyMzQ1Njc4OWFiY2Rl",
        "0123456789abcdeg",
        "====",
    ] {
        pushed["nonce"] = nonce.into();
        fails(&pushed, QUOTE, "quote.nonce_mismatch");
    }
    // A quote that was made for nobody is nobody's answer.
    let mut empty = data_of(&machine, &machine.attest(b""));
    empty["nonce"] = "====".into();
    fails(&empty, QUOTE, "quote.nonce_mismatch");
    let answered = verify(&with(&machine, "nonce", "another"));
    let context = &answered.body["results"]["failures"][0]["context"];
    assert_eq!(context["message"], "Quote data validation");
    let expected = "The nonce from the attestation differs from the expected nonce";
    assert_eq!(context["error"], expected);
}

#[test]
fn q06_q07_what_is_signed_must_be_a_quote_of_these_bytes() {
    let machine = Machine::valid();
    let made = machine.attest(NONCE.as_bytes());
    for (change, code) in [
        (
            made.clone().with_attest(|it| it.magic = 1),
            "quote.wrong_type",
        ),
        (
            made.clone().with_attest(|it| it.kind = 0x8019),
            "quote.wrong_type",
        ),
        (
            made.clone().with_attest(|it| it.trailing = vec![0]),
            "quote.malformed",
        ),
        (
            made.clone().with(|it| it.signature = Vec::new()),
            "quote.malformed",
        ),
    ] {
        fails(&data_of(&machine, &change), QUOTE, code);
    }
    // Every byte of quote and signature counts.
    let sizes = (made.quote.len(), made.signature.len());
    for index in 0..sizes.0 {
        let changed = made.clone().with(|it| it.quote[index] ^= 1);
        assert!(
            !verify(&data_of(&machine, &changed)).is_valid(),
            "quote {index}"
        );
    }
    for index in 0..sizes.1 {
        let changed = made.clone().with(|it| it.signature[index] ^= 1);
        assert!(
            !verify(&data_of(&machine, &changed)).is_valid(),
            "signature {index}"
        );
    }
    for text in ["r", "r::", "d", "rAAAA:AAAA:AAAA", "r*:AAAA:AAAA"] {
        fails(&with(&machine, "quote", text), QUOTE, "quote.malformed");
    }
}

#[test]
fn q08_q09_the_hash_is_the_callers_and_never_sha1() {
    let machine = Machine::valid();
    fails(
        &with(&machine, "hash_alg", "sha384"),
        QUOTE,
        "quote.alg_not_allowed",
    );
    for unknown in ["sha-256", "SHA256", "md5", "sm3_256", "x"] {
        let data = with(&machine, "hash_alg", unknown);
        fails(
            &data,
            "qoute_validation.invalid_hash_alg",
            "quote.alg_not_allowed",
        );
    }
    let old = Machine::valid().with(|machine| {
        machine.ak = SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha1);
    });
    let codes = verify(&with(&old, "hash_alg", "sha1")).failures();
    let codes: Vec<&str> = codes.iter().map(|(_, code)| code.as_str()).collect();
    assert_eq!(codes, ["ak.attributes", "quote.alg_not_allowed"]);
    let old = data_of(&machine, &old.attest(NONCE.as_bytes()));
    assert!(!verify(&old).is_valid());
    // A bank that can be forged beside a signature that cannot.
    let pcrs = PcrSet::from_bits(BOOT_AND_IMA).unwrap();
    let sha1 = Machine::valid().with(|machine| machine.banks = vec![(HashAlg::Sha1, pcrs)]);
    fails(&data(&sha1), QUOTE, "pcr.bank_not_allowed");
}

#[test]
fn n03_keys_that_could_sign_anything_and_keys_of_others_are_refused() {
    let machine = Machine::valid();
    let other = Machine::valid();
    fails(
        &with(&machine, "tpm_ak", tpm2b(&other.ak.public())),
        QUOTE,
        "quote.signature",
    );
    for clear in [
        0x0001_0000,
        0x0000_0002,
        0x0000_0010,
        0x0000_0020,
        0x0004_0000,
    ] {
        let machine = Machine::valid().with(|machine| machine.ak.attributes &= !clear);
        let answered = verify(&data(&machine));
        let expected = [(KEY.to_owned(), "ak.attributes".to_owned())];
        assert_eq!(answered.failures(), expected, "{clear:#x}");
    }
    for text in ["*", "AAAA", &tpm2b(&[0; 64]), &"A".repeat(4000)] {
        let answered = verify(&with(&machine, "tpm_ak", text));
        assert_eq!(answered.failures()[0].0, KEY);
        assert!(
            answered.failures()[0].1.starts_with("ak."),
            "{}",
            answered.body
        );
    }
}

#[test]
fn p02_values_that_were_not_quoted_are_refused() {
    let machine = Machine::valid();
    let made = machine.attest(NONCE.as_bytes());
    let forged = Digest::new(HashAlg::Sha256, &[7; 32]).unwrap();
    let changed = made.clone().with(|it| {
        it.values.insert(pcr(4), forged);
    });
    fails(&data_of(&machine, &changed), QUOTE, "pcr.digest_mismatch");
    // One more than was quoted.
    let more = PcrSet::from_bits(BOOT_AND_IMA | 1 << 16).unwrap();
    let mut values = made.values.clone();
    values.insert(pcr(16), forged);
    let mut data = data(&machine);
    let blob = pcr_blob(&[(HashAlg::Sha256, more)], &values);
    data["quote"] = quote_text(&made.quote, &made.signature, &blob).into();
    fails(&data, QUOTE, "pcr.digest_mismatch");
    // None at all.
    let nothing = made.with_attest(|it| it.selection.clear());
    fails(
        &data_of(&machine, &nothing),
        QUOTE,
        "pcr.selection_mismatch",
    );
}

#[test]
fn p03_what_the_pcr_policy_names_must_be_quoted_with_a_listed_value() {
    let machine = Machine::valid();
    let value = hex::encode(rat_tests::evidence::boot_value(HashAlg::Sha256, 4));
    let policy = |pcr: u8, value: &str| json!({pcr.to_string(): [value]}).to_string();
    let judged = |policy: String| verify(&with(&machine, "tpm_policy", policy));
    assert!(judged(policy(4, &value)).is_valid());
    let other = judged(policy(4, &"00".repeat(32)));
    let failure = &other.body["results"]["failures"][0];
    assert_eq!(failure["type"], "pcr_validation.invalid_pcr_4");
    assert_eq!(failure["context"]["got"], value);
    let missing = judged(json!({"14": [value], "15": [value]}).to_string());
    let failure = &missing.body["results"]["failures"][0];
    assert_eq!(failure["type"], "pcr_validation.missing_pcrs");
    assert_eq!(failure["context"]["data"], json!([14, 15]));
    fails(
        &with(&machine, "tpm_policy", r#"{"mask": "0x10000"}"#),
        "pcr_validation.missing_pcrs",
        "pcr.not_attested",
    );
    // P05: what software can reset is no policy; nor is what is none.
    for text in [policy(16, &value), "{".into(), "[]".into(), "7".into()] {
        refused(
            &with(&machine, "tpm_policy", text),
            400,
            "tpm_policy is malformatted",
        );
    }
}

#[test]
fn p07_a_bank_that_firmware_never_extended_proves_nothing() {
    let machine = Machine::valid();
    let mut values = machine.values();
    let zero = Digest::new(HashAlg::Sha256, &[0; 32]).unwrap();
    values.insert(pcr(3), zero);
    let attest = rat_tests::software_tpm::Attest::quote(
        HashAlg::Sha256,
        NONCE.as_bytes(),
        &machine.banks,
        &values,
    );
    let mut made = machine.attest(NONCE.as_bytes());
    (made.attest, made.values) = (attest, values);
    made.sign();
    let kinds = verify(&data_of(&machine, &made)).failures();
    let expected = "pcr_validation.bank_unextended".to_owned();
    assert!(kinds.iter().any(|(kind, _)| *kind == expected), "{kinds:?}");
}

#[test]
fn i01_a_list_that_does_not_lead_to_the_quote_is_refused() {
    let machine = Machine::valid();
    let lists: [fn(&mut Vec<Measured>); 3] = [
        |list| drop(list.pop()),
        |list| list.swap(1, 2),
        |list| list[2].digest[0] ^= 1,
    ];
    for change in lists {
        let mut list = machine.list.clone();
        change(&mut list);
        let text = String::from_utf8(measured::ascii(&list)).unwrap();
        let answered = verify(&with(&machine, "ima_measurement_list", text));
        let kinds = answered.failures();
        assert_eq!(kinds[0].0, "ima.pcr_mismatch", "{kinds:?}");
        assert!(!answered.is_valid());
    }
    // I04: what is newer than the quote is neither judged nor proven.
    let newer = [machine.list.clone(), vec![Measured::file("/new", b"new")]].concat();
    let text = String::from_utf8(measured::ascii(&newer)).unwrap();
    assert!(verify(&with(&machine, "ima_measurement_list", text)).is_valid());
    // I07: an edited hash.
    let text = String::from_utf8(measured::ascii(&machine.list)).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let edited = format!("{first}\n10 {}{}", "ab".repeat(20), &rest[43..]);
    fails(
        &with(&machine, "ima_measurement_list", edited),
        "ima.validation.ima_hash",
        "ima.template_hash",
    );
    for text in ["nonsense\n", "10 00 ima-ng\n"] {
        let data = with(&machine, "ima_measurement_list", text);
        fails(&data, "ima.parser.entry", "ima.malformed");
    }
    // I08: an entry of another PCR.
    let other = measuring(|list| list[1].pcr = 11);
    fails(&data(&other), "ima.validation.ima_pcr", "ima.wrong_pcr");
}

#[test]
fn l01_what_the_policy_does_not_list_is_named_and_counted() {
    let machine = measuring(|list| {
        list.push(Measured::file("/tmp/evil", b"evil"));
        list.push(Measured::file("/tmp/evil2", b"evil"));
    });
    let policy = Machine::valid().policy();
    let answered = verify(&with(&machine, "runtime_policy", policy));
    let failures = answered.body["results"]["failures"].clone();
    let expected = json!([{
        "type": "ima.validation.ima-ng.not_in_allowlist",
        "context": {
            "message": "File not found in allowlist: /tmp/evil",
            "code": "ima.path_not_listed",
            "got": hex::encode(&machine.list[4].digest),
            "path": "/tmp/evil",
            "entry": 4,
            "count": 2,
        },
    }]);
    assert_eq!(failures, expected);
    let changed = measuring(|list| list[1].digest[0] ^= 1);
    fails(
        &with(&changed, "runtime_policy", Machine::valid().policy()),
        "ima.validation.ima-ng.runtime_policy_hash",
        "ima.digest_not_listed",
    );
    // I09: Keylime's default passes over violations.
    let violation = measuring(|list| list[2].violation = true);
    fails(&data(&violation), "ima.validation.tomtou", "ima.violation");
}

#[test]
fn l01_neither_list_nor_policy_is_passed_over() {
    let machine = Machine::valid();
    let names = |data: &Value| -> Vec<String> {
        let answered = verify(data);
        assert!(!answered.is_valid(), "{}", answered.body);
        answered
            .failures()
            .into_iter()
            .map(|(kind, _)| kind)
            .collect()
    };
    // A policy, and nothing to judge: Keylime's answer for PCR 10 not quoted is "valid".
    let alone = without(&machine, &["ima_measurement_list"]);
    assert_eq!(names(&alone), ["pcr_validation.unused_pcr_10"]);
    let boot = quoting(0x03ff);
    let alone = without(&boot, &["ima_measurement_list", "tpm_policy"]);
    assert_eq!(names(&alone), ["pcr_validation.unused_pcr_10"]);
    let mut with_list = without(&boot, &["tpm_policy"]);
    assert_eq!(names(&with_list), ["pcr_validation.missing_pcrs"]);
    // A list, and no policy.
    let unjudged = without(&machine, &["runtime_policy"]);
    let expected = [
        "ima.validation.ima-ng.not_in_allowlist",
        "ima.validation.runtime_policy_empty",
    ];
    assert_eq!(names(&unjudged), expected);
    let empty = policy_json(json!({}), &[]);
    assert_eq!(names(&with(&machine, "runtime_policy", empty)), expected);
    // IMA's PCR, and neither.
    let neither = without(&machine, &["runtime_policy", "ima_measurement_list"]);
    assert_eq!(names(&neither), ["ima.pcr_mismatch"]);
    // A quote of the boot alone says what it says.
    with_list = without(&boot, &["runtime_policy", "ima_measurement_list"]);
    with_list["tpm_policy"] = r#"{"mask": "0x3ff"}"#.into();
    assert!(verify(&with_list).is_valid());
    refused(
        &with(&machine, "runtime_policy", "{}"),
        400,
        "Runtime policy is malformatted",
    );
    refused(
        &with(&machine, "runtime_policy", 7),
        400,
        "must be a string",
    );
    let signed = r#"{"payload": "e30=", "payloadType": "x", "signatures": []}"#;
    refused(
        &with(&machine, "runtime_policy", signed),
        400,
        "signed policy",
    );
}

#[test]
fn i12_boot_aggregate_is_of_this_boot() {
    let not_listed = "ima.validation.ima-ng.not_in_allowlist";
    // Keylime's clients quote PCR 10 without the boot, and list boot_aggregate.
    let machine = quoting(0x400);
    fails(
        &data(&machine),
        not_listed,
        "ima.boot_aggregate_unverifiable",
    );
    let listed = |machine: &Machine, digest: &str| {
        let mut policy: Value = serde_json::from_str(&machine.policy()).unwrap();
        policy["digests"]["boot_aggregate"] = json!([digest]);
        with(machine, "runtime_policy", policy.to_string())
    };
    let aggregate = hex::encode(&machine.list[0].digest);
    assert!(verify(&listed(&machine, &aggregate)).is_valid());
    assert!(!verify(&listed(&machine, &"ab".repeat(32))).is_valid());
    // The boot's PCRs are quoted, and give it.
    assert!(verify(&data(&Machine::valid())).is_valid());
    // A kernel that had no TPM: Keylime takes what is listed.
    let zero = quoting(0x400).with(|machine| machine.list[0].digest = vec![0; 32]);
    let answered = verify(&listed(&zero, &"00".repeat(32)));
    assert_eq!(
        answered.failures()[0].1,
        "ima.boot_aggregate",
        "{}",
        answered.body
    );
}

#[test]
fn e01_a_boot_log_explains_the_quote_and_a_boot_policy_wants_one() {
    let machine = Machine::valid();
    let made = |log: Vec<u8>| {
        let submission = machine.attest(NONCE.as_bytes());
        data_of(&machine, &submission.with(|it| it.boot_log = Some(log)))
    };
    let mut log = boot_log();
    let last = log.len() - 1;
    // The last event's data, which its digests do not cover.
    log[last] ^= 1;
    assert!(verify(&made(log.clone())).is_valid());
    // Its SHA-256 digest, behind which are two longer ones with their algorithms, and the data.
    log[last] ^= 1;
    log[last - 140] ^= 1;
    let answered = verify(&made(log));
    let kinds = answered.failures();
    assert_eq!(kinds[0].0, "measured_boot.invalid_pcr_9", "{kinds:?}");
    let answered = verify(&made(vec![1, 2, 3]));
    assert_eq!(
        answered.failures()[0].0,
        "measured_boot.parser.tpm2_eventlog.error"
    );
    refused(&with(&machine, "mb_log", "*"), 400, "mb_log");
    for empty in ["{}", " { \n } ", "[]"] {
        assert!(verify(&with(&machine, "mb_policy", empty)).is_valid());
    }
    for policy in ["x", "{} {}", "null"] {
        refused(&with(&machine, "mb_policy", policy), 400, "mb_policy");
    }
    // One with content wants a log, whichever policy judges.
    let answered = verify(&with(&machine, "mb_policy", r#"{"has_secureboot": true}"#));
    assert_eq!(answered.failures()[0].1, "uefi.log_missing");
}

#[test]
fn x01_requests_that_name_too_little_are_answered_as_keylime_does() {
    let machine = Machine::valid();
    for name in ["quote", "nonce", "hash_alg", "tpm_ek", "tpm_ak"] {
        for data in [
            without(&machine, &[name]),
            with(&machine, name, ""),
            with(&machine, name, Value::Null),
        ] {
            let answered = verify(&data);
            let expected = json!({
                "code": 400, "status": "Bad Request",
                "results": {"valid": false, "claims": {}, "failures": [{
                    "type": "default.missing_param",
                    "context": {
                        "message": format!("missing parameter \"{name}\""),
                        "code": "missing_param",
                    },
                }]},
            });
            assert_eq!((answered.status, answered.body), (400, expected));
        }
        refused(&with(&machine, name, 7), 400, "must be a string");
    }
    let answered = verify(&without(&machine, &["runtime_policy", "tpm_policy"]));
    assert_eq!(answered.status, 400);
    assert_eq!(answered.failures()[0].0, "default.missing_policy");
}

#[test]
fn x01_bodies_that_are_no_request_are_refused() {
    let keylime = Keylime::new(1, MeasuredBoot::default());
    let data = data(&Machine::valid());
    let deep = [vec![b'['; 2000], vec![b']'; 2000]].concat();
    let twice = br#"{"type":"tpm","data":{"nonce":"a","nonce":"b"}}"#;
    let cases: [(&[u8], u16, &str); 14] = [
        (b"", 400, "malformed JSON"),
        (b"{", 400, "malformed JSON"),
        (b"[]", 400, "must be a JSON object"),
        (&deep, 400, "must be a JSON object"),
        (b"{}", 400, "missing parameter 'type'"),
        (br#"{"type":""}"#, 400, "missing parameter 'type'"),
        (br#"{"type":"tpm"}"#, 400, "missing parameter 'data'"),
        (
            br#"{"type":"tpm","data":""}"#,
            400,
            "missing parameter 'data'",
        ),
        (br#"{"type":"tpm","data":[]}"#, 400, "must be an object"),
        (br#"{"type":"x","data":{}}"#, 400, "invalid evidence type"),
        (br#"{"type":7,"data":{}}"#, 400, "invalid evidence type"),
        (br#"{"type":"tee","data":{}}"#, 501, "tee"),
        (
            br#"{"type":"tpm","data":{},"data":{}}"#,
            400,
            "occurs twice",
        ),
        (twice, 400, "occurs twice"),
    ];
    for (body, status, text) in cases {
        let answered = answer(&keylime, ApiVersion::V2_6, body);
        let said = answered.body["status"].as_str().unwrap();
        assert!(said.contains(text), "{said}");
        assert_eq!(
            (answered.status, &answered.body["results"]),
            (status, &json!({}))
        );
    }
    // Members that nobody asks for are left alone, and given back.
    let mut more = data.clone();
    more["note"] = json!({"a": [1, 2]});
    let answered = verify(&more);
    assert_eq!(answered.body["results"]["claims"], more);
}

#[test]
fn each_version_answers_in_its_own_shape() {
    let keylime = Keylime::new(1, MeasuredBoot::default());
    let good = data(&Machine::valid());
    let mut bad = good.clone();
    bad["nonce"] = "another".into();
    let wrapped = |data: &Value| json!({"type": "tpm", "data": data}).to_string();
    for version in [ApiVersion::V2_5, ApiVersion::V2_6] {
        let answered = answer(&keylime, version, wrapped(&good).as_bytes());
        assert_eq!(answered.body["results"]["valid"], true);
        assert_eq!(answered.body["results"]["claims"], good);
        // The shape of 2.4 is not theirs.
        let flat = answer(&keylime, version, good.to_string().as_bytes());
        assert_eq!(flat.status, 400);
    }
    for body in [wrapped(&good), good.to_string()] {
        let answered = answer(&keylime, ApiVersion::V2_4, body.as_bytes());
        assert_eq!(
            answered.body["results"],
            json!({"valid": 1, "failures": []})
        );
    }
    for body in [wrapped(&bad), bad.to_string()] {
        let answered = answer(&keylime, ApiVersion::V2_4, body.as_bytes());
        assert_eq!(answered.body["results"]["valid"], 0);
        assert_eq!(answered.failures()[0].0, QUOTE);
        assert!(answered.body["results"]["claims"].is_null());
    }
}

/// The evidence of a recorded set, or of a variant.
fn recorded(set: &str, variant: Option<&str>) -> Value {
    let name = |file: &str| format!("sets/{set}/{file}");
    let of = |file: &str| std::fs::read(vectors::path(&name(file))).ok();
    let replaced = |end: &str| variant.and_then(|it| of(&format!("tampered/{it}.{end}")));
    let quote = match variant {
        Some(it) if replaced("quote.json").is_some() => {
            RecordedQuote::read(&name(&format!("tampered/{it}.quote.json")))
        }
        _ => RecordedQuote::read(&name("quote.json")),
    };
    let list = of("ima_log.ascii").unwrap();
    let list = replaced("ima").unwrap_or(list);
    let log = replaced("boot").or_else(|| of("boot_log.bin")).unwrap();
    let pcrs = quote.values.pcrs(HashAlg::Sha256);
    let blob = pcr_blob(&[(HashAlg::Sha256, pcrs)], &quote.values);
    let ak = quote.ak_public.unwrap();
    let original = String::from_utf8(of("ima_log.ascii").unwrap()).unwrap();
    let mut digests = serde_json::Map::new();
    for line in original.lines() {
        let [_, _, _, digest, path] = line.splitn(5, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let digest = digest.rsplit(':').next().unwrap();
        let listed = digests.entry(path).or_insert_with(|| json!([]));
        listed.as_array_mut().unwrap().push(digest.into());
    }
    json!({
        "quote": quote_text(&quote.message, &quote.signature, &blob),
        "nonce": String::from_utf8(quote.nonce.unwrap()).unwrap(),
        "hash_alg": "sha256",
        "tpm_ek": "unused",
        "tpm_ak": BASE64.encode(ak),
        "runtime_policy": policy_json(digests.into(), &[]),
        "ima_measurement_list": String::from_utf8(list).unwrap(),
        "mb_log": BASE64.encode(log),
    })
}

#[test]
fn a_recorded_machine_passes_and_no_tampered_copy_of_it_does() {
    let set = "hpe-rsa-sha256-ima780-uefi";
    let answered = verify(&recorded(set, None));
    assert!(
        answered.is_valid(),
        "{}",
        answered.body["results"]["failures"]
    );
    let variants = vectors::json(&format!("sets/{set}/tampered/EXPECTED.json"));
    let variants = variants.as_object().unwrap();
    assert!(variants.len() >= 12);
    for variant in variants.keys() {
        let answered = verify(&recorded(set, Some(variant)));
        assert_eq!(answered.status, 200);
        assert!(!answered.is_valid(), "{variant}");
        assert!(!answered.failures().is_empty(), "{variant}");
    }
}

/// A TPM whose PCR 10 a kernel has extended with a machine's list.
fn measured_by(tpm: &Tpm, machine: &Machine) {
    for entry in &machine.list {
        let digest = rat_tests::oracle::digest(HashAlg::Sha256, &entry.data());
        let extended = format!("10:sha256={}", hex::encode(digest));
        tpm.run("tpm2_pcrextend", &[&extended]).unwrap();
    }
}

#[test]
fn quotes_of_a_tpm_are_valid_with_every_key_that_it_has() {
    let tpm = Tpm::start().unwrap();
    let machine = quoting(0x400);
    measured_by(&tpm, &machine);
    let mut policy: Value = serde_json::from_str(&machine.policy()).unwrap();
    policy["digests"]["boot_aggregate"] = json!([hex::encode(&machine.list[0].digest)]);
    let list = String::from_utf8(measured::ascii(&machine.list)).unwrap();
    for (ek, key, hash, scheme) in [
        ("rsa", "rsa", "sha256", "rsassa"),
        ("rsa", "rsa", "sha256", "rsapss"),
        ("ecc", "ecc", "sha256", "ecdsa"),
        ("ecc", "ecc384", "sha384", "ecdsa"),
    ] {
        tpm.create_ek(ek).unwrap();
        tpm.create_ak(key, hash, scheme).unwrap();
        tpm.quote("sha256:10,16", hash, scheme).unwrap();
        let [message, signature, blob, ak] =
            ["msg", "sig", "pcrs", "ak.pub"].map(|file| tpm.read(file).unwrap());
        let mut data = json!({
            "quote": quote_text(&message, &signature, &blob),
            "nonce": BASE64.encode([0xc0, 0xff, 0xee]),
            "hash_alg": hash,
            "tpm_ek": "unused",
            "tpm_ak": BASE64.encode(&ak),
            "runtime_policy": policy.to_string(),
            "ima_measurement_list": list,
        });
        let answered = verify(&data);
        // A signature of SHA-384 over a bank of SHA-256: the caller has said nothing of that bank.
        let expected: &[&str] = match hash {
            "sha256" => &[],
            _ => &["pcr_validation.bank_not_quoted"],
        };
        let kinds: Vec<String> = answered
            .failures()
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(kinds, expected, "{key}: {}", answered.body);
        data["nonce"] = BASE64.encode([0xc0, 0xff, 0xef]).into();
        fails(&data, QUOTE, "quote.nonce_mismatch");
    }
}
