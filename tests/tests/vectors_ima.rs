//! Recorded measurement lists and quotes reach the verdicts that an independent checker gave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;

use rat_engine::appraisal::{Appraisal, Reference, Rules};
use rat_engine::crypto::VerifyingKey;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::{BootAggregateFault, BootAggregates};
use rat_engine::ima::{
    Decoder, Event, ImaAppraiser, ImaError, ImaOptions, ImaOutcome, LogFormat, Start,
};
use rat_engine::pcr::{PcrIndex, PcrValues};
use rat_engine::quote::Quote;
use rat_engine::tpm::{Attest, Attested, Signature, pcr_digest};
use rat_engine::verdict::{Finding, Reason};
use rat_tests::oracle::{self, OracleEntry};
use rat_tests::vectors::{self, RecordedQuote};

const HPE: &str = "sets/hpe-rsa-sha256-ima780-uefi/ima_log.ascii";
const RUST_KEYLIME: &str = "ima/rust-keylime_ascii_ima-ng_826";

/// What a list holds.
#[derive(Debug, PartialEq)]
struct Contents {
    template: &'static str,
    entries: usize,
    violations: usize,
    /// Entries whose template hash is not that of their data.
    wrong_hashes: usize,
}

/// Each list with its contents; every entry of all of them is in PCR 10.
const LISTS: [(&str, Contents); 10] = [
    (HPE, contents("ima-ng", 780, 0, 0)),
    (RUST_KEYLIME, contents("ima-ng", 826, 0, 0)),
    ("ima/keylime_ima-log-sha1", contents("ima-ng", 2, 1, 0)),
    ("ima/keylime_ima-log-sha256", contents("ima-ng", 2, 0, 0)),
    ("ima/keylime_ima-log-sha384", contents("ima-ng", 2, 1, 0)),
    ("ima/keylime_ima-log-sha512", contents("ima-ng", 2, 1, 0)),
    (
        "ima/keylime_test_bad_signatures.txt",
        contents("ima-sig", 1, 0, 1),
    ),
    (
        "ima/keylime_test_keyrings.txt",
        contents("ima-buf", 1, 0, 0),
    ),
    (
        "ima/keylime_test_measurements.txt",
        contents("ima-sig", 3, 0, 0),
    ),
    (
        "ima/keylime_test_signatures.txt",
        contents("ima-sig", 2, 0, 0),
    ),
];

const fn contents(
    template: &'static str,
    entries: usize,
    violations: usize,
    wrong_hashes: usize,
) -> Contents {
    Contents {
        template,
        entries,
        violations,
        wrong_hashes,
    }
}

/// Reads a whole list; the entries as the oracle wants them, and the counts.
fn read(name: &str) -> (Vec<OracleEntry>, BTreeMap<&'static str, Contents>) {
    let mut entries = Vec::new();
    let mut found = BTreeMap::new();
    let mut sink = |entry: rat_engine::ima::Entry<'_>| {
        assert_eq!(entry.pcr, 10);
        Event::parse(entry.template, entry.data).unwrap();
        let template = entry.template.name();
        let found = found.entry(template).or_insert(contents(template, 0, 0, 0));
        found.entries += 1;
        found.violations += usize::from(entry.is_violation());
        let hash = oracle::digest(HashAlg::Sha1, entry.data);
        found.wrong_hashes += usize::from(!entry.is_violation() && hash != entry.template_hash);
        entries.push(OracleEntry {
            pcr: 10,
            data: (!entry.is_violation()).then(|| entry.data.to_vec()),
        });
    };
    let mut decoder = Decoder::new(LogFormat::Ascii, HashAlg::Sha1, u64::MAX);
    decoder.feed(&vectors::read(name), &mut sink).unwrap();
    decoder.finish(&mut sink).unwrap();
    (entries, found)
}

/// Appraises a list against a quote that is taken after all that the list holds.
fn appraise(name: &str, log_hash: HashAlg) -> Result<ImaOutcome, ImaError> {
    let (entries, _) = read(name);
    let replayed = oracle::replay(&entries, &HashAlg::ALL, &[10])
        .pop()
        .unwrap();
    let mut quoted = PcrValues::new();
    for ((bank, _), value) in replayed {
        quoted.insert(PcrIndex::IMA, Digest::new(bank, &value).unwrap());
    }
    appraise_against(&quoted, name, log_hash)
}

fn appraise_against(
    quoted: &PcrValues,
    name: &str,
    log_hash: HashAlg,
) -> Result<ImaOutcome, ImaError> {
    let options = ImaOptions {
        log_hash,
        ..ImaOptions::default()
    };
    let boot = BootAggregates::default();
    let mut appraiser = ImaAppraiser::new(quoted, options, Start::First, boot, None)?;
    appraiser.feed(&vectors::read(name));
    appraiser.finish()
}

fn code(error: ImaError) -> &'static str {
    Finding::new(Reason::Ima(error)).code.as_str()
}

#[test]
fn every_list_holds_what_the_independent_checker_counted() {
    for (name, expected) in LISTS {
        let (_, found) = read(name);
        let found: Vec<_> = found.into_values().collect();
        assert_eq!(found, [expected], "{name}");
    }
}

#[test]
fn lists_replay_in_four_banks_into_what_the_oracle_computes() {
    // Those whose first entry is an aggregate that no PCR value is known for.
    for name in [
        "ima/keylime_ima-log-sha256",
        "ima/keylime_test_measurements.txt",
        HPE,
    ] {
        let outcome = appraise(name, HashAlg::Sha1).unwrap();
        assert_eq!(
            outcome.boot_aggregate,
            Some(Err(BootAggregateFault::Unverifiable)),
            "{name}"
        );
        assert_eq!(outcome.report.pending, 0);
        assert_eq!(outcome.committed.running().len(), 4);
    }
}

#[test]
fn i24_lists_without_a_right_boot_aggregate_are_refused() {
    // A violation, a file, or a buffer stands first; or the machine had no TPM at boot.
    for name in [
        RUST_KEYLIME,
        "ima/keylime_ima-log-sha1",
        "ima/keylime_ima-log-sha384",
        "ima/keylime_ima-log-sha512",
        "ima/keylime_test_keyrings.txt",
        "ima/keylime_test_signatures.txt",
    ] {
        let error = appraise(name, HashAlg::Sha1).unwrap_err();
        assert_eq!(code(error), "ima.boot_aggregate", "{name}");
    }
}

#[test]
fn i02_a_list_whose_template_hash_was_not_made_of_its_data_is_refused() {
    let error = appraise("ima/keylime_test_bad_signatures.txt", HashAlg::Sha1).unwrap_err();
    assert_eq!(error, ImaError::TemplateHash { entry: 0 });
}

#[test]
fn lists_in_a_hash_that_we_do_not_compute_and_other_texts_are_refused() {
    let mut quoted = PcrValues::new();
    quoted.insert(PcrIndex::IMA, Digest::ones(HashAlg::Sha256));
    for name in [
        "ima/keylime_ima-log-sm3_256",
        "ima/keylime_ima-log-unknown",
        "ima/keylime_ima-allowlist-short.txt",
    ] {
        let error = appraise_against(&quoted, name, HashAlg::Sha1).unwrap_err();
        assert_eq!(code(error), "ima.malformed", "{name}");
        // Declaring another hash of the same size makes them no more acceptable.
        assert!(
            appraise_against(&quoted, name, HashAlg::Sha256).is_err(),
            "{name}"
        );
    }
}

/// The code of what a recorded quote fails on, without a log and without a policy.
fn judge(quote: &RecordedQuote, nonce: &[u8], allow_sha1: bool) -> Vec<&'static str> {
    let key = VerifyingKey::from_pem(quote.ak_pem.as_ref().unwrap().as_bytes()).unwrap();
    let reference = Reference {
        key: key.into(),
        key_attributes: None,
        nonce: nonce.into(),
        challenged: None,
        pcr_policy: None,
        boot_pcrs: None,
        measured_boot: None,
        judge: None,
    };
    let rules = Rules {
        allow_sha1,
        ..Rules::default()
    };
    let RecordedQuote {
        message,
        signature,
        values,
        ..
    } = quote;
    let appraised =
        Appraisal::of_quote(reference, rules, message, signature, values.clone()).conclude();
    assert_eq!(
        appraised.verdict.as_str() == "authentic",
        appraised.findings.is_empty()
    );
    appraised
        .findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect()
}

#[test]
fn every_recorded_quote_reaches_its_verdict() {
    let mut judged = 0;
    for file in std::fs::read_dir(vectors::path("quotes")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let json = vectors::json(&format!("quotes/{name}"));
        let quote = RecordedQuote::read(&format!("quotes/{name}"));
        let Attest {
            extra_data,
            attested,
            ..
        } = Attest::parse(&quote.message).unwrap();
        let signature = Signature::parse(&quote.signature).unwrap();
        let nonce = quote.nonce.clone().unwrap_or_else(|| extra_data.to_vec());
        judged += 1;
        let Attested::Quote {
            selection,
            pcr_digest: quoted,
        } = attested
        else {
            assert!(Quote::parse(&quote.message).is_err(), "{name}");
            assert_eq!(judge(&quote, &nonce, true), ["quote.wrong_type"], "{name}");
            continue;
        };
        let digest = pcr_digest(signature.hash(), &selection, &quote.values).unwrap();
        assert_eq!(digest.as_bytes(), quoted, "{name}");
        if quote.ak_pem.is_none() {
            continue;
        }
        let genuine = json["independent_check"]["sig_ok"].as_bool().unwrap();
        let expected: &[&str] = if genuine { &[] } else { &["quote.signature"] };
        assert_eq!(judge(&quote, &nonce, true), expected, "{name}");
        assert_eq!(
            judge(&quote, b"wrong", true),
            ["quote.nonce_mismatch"],
            "{name}"
        );
        let has_sha1 =
            signature.hash() == HashAlg::Sha1 || !selection.pcrs(HashAlg::Sha1).is_empty();
        let strict = judge(&quote, &nonce, false);
        match signature.hash() {
            HashAlg::Sha1 => assert_eq!(strict, ["quote.alg_not_allowed"], "{name}"),
            _ if has_sha1 => assert_eq!(strict, ["pcr.bank_not_allowed"], "{name}"),
            _ => assert_eq!(strict, expected, "{name}"),
        }
    }
    assert_eq!(judged, 14);
}
