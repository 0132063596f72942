//! Complete evidence of real machines, and of the same machines tampered with.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rat_engine::appraisal::{Appraisal, Reference, Rules};
use rat_engine::crypto::VerifyingKey;
use rat_engine::hash::HashAlg;
use rat_engine::ima::{ImaOptions, Start};
use rat_engine::tpm::Public;
use rat_engine::tpm::attributes::check_attestation_key;
use rat_tests::vectors::{self, RecordedQuote};

/// The sets, the bank that each machine's group would pin, and whether it needs SHA-1.
const SETS: [(&str, HashAlg, bool); 4] = [
    ("gcp-cos85-rsa-sha256-boot", HashAlg::Sha256, false),
    ("gcp-cos85-rsa-sha384bank-boot", HashAlg::Sha384, false),
    ("gcp-windows-rsa-sha1-boot", HashAlg::Sha1, true),
    ("hpe-rsa-sha256-ima780-uefi", HashAlg::Sha256, false),
];

/// One set, or a tampered variant of it.
struct Evidence {
    quote: RecordedQuote,
    ima: Option<Vec<u8>>,
    boot: Option<Vec<u8>>,
}

struct Judged {
    verdict: &'static str,
    codes: Vec<&'static str>,
    warnings: Vec<&'static str>,
}

impl Evidence {
    fn genuine(set: &str) -> Self {
        let optional =
            |name: &str| std::fs::read(vectors::path(&format!("sets/{set}/{name}"))).ok();
        Self {
            quote: RecordedQuote::read(&format!("sets/{set}/quote.json")),
            ima: optional("ima_log.ascii"),
            boot: optional("boot_log.bin"),
        }
    }

    fn tampered(set: &str, variant: &str) -> Self {
        let mut evidence = Self::genuine(set);
        let name = |end: &str| format!("sets/{set}/tampered/{variant}.{end}");
        let replaced = |end: &str| std::fs::read(vectors::path(&name(end))).ok();
        let (quote, ima, boot) = (replaced("quote.json"), replaced("ima"), replaced("boot"));
        assert!(
            quote.is_some() || ima.is_some() || boot.is_some(),
            "{set}/{variant}"
        );
        if quote.is_some() {
            evidence.quote = RecordedQuote::read(&name("quote.json"));
        }
        evidence.ima = ima.or(evidence.ima);
        evidence.boot = boot.or(evidence.boot);
        evidence
    }

    fn judge(&self, rules: Rules) -> Judged {
        let quote = &self.quote;
        let bytes = quote.ak_public.as_ref().unwrap();
        let public = Public::parse(bytes).unwrap();
        let key = VerifyingKey::from_tpm(&public).unwrap();
        let pem = VerifyingKey::from_pem(quote.ak_pem.as_ref().unwrap().as_bytes()).unwrap();
        assert_eq!(key, pem);
        let reference = Reference {
            key: key.into(),
            key_attributes: Some(check_attestation_key(&public, rules.allow_sha1)),
            nonce: quote.nonce.as_deref().unwrap().into(),
            challenged: None,
            pcr_policy: None,
            boot_pcrs: None,
            measured_boot: None,
            judge: None,
        };
        let mut appraisal = Appraisal::of_quote(
            reference,
            rules,
            &quote.message,
            &quote.signature,
            quote.values.clone(),
        );
        if let Some(boot) = &self.boot {
            appraisal.boot_log(boot);
        }
        if let Some(ima) = &self.ima
            && let Some(mut appraiser) = appraisal.ima(ImaOptions::default(), Start::First)
        {
            appraiser.feed(ima);
            appraisal.ima_finished(appraiser.finish());
        }
        let appraised = appraisal.conclude();
        let codes = |findings: &[rat_engine::verdict::Finding]| {
            findings
                .iter()
                .map(|finding| finding.code.as_str())
                .collect()
        };
        Judged {
            verdict: appraised.verdict.as_str(),
            codes: codes(&appraised.findings),
            warnings: codes(&appraised.warnings),
        }
    }
}

fn rules(bank: HashAlg, allow_sha1: bool) -> Rules {
    Rules {
        allow_sha1,
        strict: false,
        bank,
        needs_boot_pcrs: true,
    }
}

#[test]
fn genuine_sets_are_authentic() {
    for (set, bank, sha1) in SETS {
        let judged = Evidence::genuine(set).judge(rules(bank, sha1));
        assert_eq!(
            (judged.verdict, judged.codes.as_slice()),
            ("authentic", [].as_slice()),
            "{set}"
        );
        // Firmware of that platform left PCR 1, 2, 3 and 6 untouched in 2018.
        let known: &[&str] = if sha1 { &["pcr.bank_unextended"] } else { &[] };
        assert_eq!(judged.warnings, known, "{set}");
        let strict = Evidence::genuine(set).judge(Rules {
            strict: true,
            ..rules(bank, sha1)
        });
        assert_eq!(strict.codes, known, "{set}");
    }
}

#[test]
fn q09_a_sha1_set_is_refused_unless_sha1_is_allowed() {
    let judged = Evidence::genuine("gcp-windows-rsa-sha1-boot").judge(rules(HashAlg::Sha1, false));
    assert_eq!(judged.verdict, "untrusted");
    assert!(
        judged.codes.contains(&"quote.alg_not_allowed"),
        "{:?}",
        judged.codes
    );
}

/// The stages that a code belongs to, as `EXPECTED.json` names them.
fn stages(code: &str) -> &'static [&'static str] {
    match code {
        "quote.signature" => &["sig"],
        "quote.nonce_mismatch" => &["nonce"],
        "quote.wrong_type" | "quote.malformed" => &["err"],
        "ima.template_hash" => &["tmpl"],
        _ if code.starts_with("pcr.") => &["pcr"],
        _ if code.starts_with("ima.") => &["ima"],
        _ if code.starts_with("uefi.") => &["ev"],
        _ => &[],
    }
}

/// The stages that an independent checker found at fault.
fn faulty(checker: &BTreeMap<String, String>) -> Vec<&'static str> {
    let mut found = Vec::new();
    for (stage, result) in checker {
        let bad = result.contains("False") || result.contains("Error");
        match stage.as_str() {
            "sig" if bad => found.push("sig"),
            "nonce" if bad => found.push("nonce"),
            "pcr" if bad => found.push("pcr"),
            "tmpl" if bad => found.push("tmpl"),
            "err" => found.push("err"),
            _ if stage.starts_with("ima_") && bad => found.push("ima"),
            _ if stage.starts_with("ev_") && result != "bad []" => found.push("ev"),
            _ => {}
        }
    }
    found
}

#[test]
fn every_tampered_variant_is_refused_at_a_stage_that_is_at_fault() {
    let mut snapshot = String::new();
    for (set, bank, sha1) in SETS {
        let expected = vectors::json(&format!("sets/{set}/tampered/EXPECTED.json"));
        for (variant, expected) in expected.as_object().unwrap() {
            let judged = Evidence::tampered(set, variant).judge(rules(bank, sha1));
            assert_eq!(judged.verdict, "untrusted", "{set}/{variant}");
            let checker = serde_json::from_value(expected["checker"].clone()).unwrap();
            let faulty = faulty(&checker);
            for code in &judged.codes {
                let named = stages(code).iter().any(|stage| faulty.contains(stage));
                assert!(named, "{set}/{variant}: {code} is not among {faulty:?}");
            }
            writeln!(snapshot, "{set}/{variant}: {}", judged.codes.join(" ")).unwrap();
        }
    }
    assert_eq!(
        snapshot.trim(),
        SNAPSHOT.trim(),
        "codes changed:\n{snapshot}"
    );
}

/// What each variant was refused with when it was added.
const SNAPSHOT: &str = include_str!("sets_codes.txt");
