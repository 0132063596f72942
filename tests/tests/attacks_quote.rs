//! Family Q: the quote, its signature and its freshness.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use rat_engine::hash::HashAlg;
use rat_tests::evidence::{Expectation, Machine, valid};
use rat_tests::software_tpm::{Scheme, SoftwareAk};

#[test]
fn genuine_evidence_is_trusted_and_without_a_policy_authentic() {
    let (_, submission, expectation) = valid();
    expectation.judge(&submission).is_trusted();
    let judged = expectation.with(|e| e.policy = None).judge(&submission);
    assert_eq!(judged.verdict, "authentic", "{judged:#?}");
}

#[test]
fn q01_any_other_nonce_is_refused() {
    let (machine, _, expectation) = valid();
    let expected = expectation.nonce.clone();
    let mut others = vec![
        Vec::new(),
        expected[..31].to_vec(),
        [&expected[..], b"0"].concat(),
    ];
    for byte in 0..expected.len() {
        let mut other = expected.clone();
        other[byte] ^= 1;
        others.push(other);
    }
    for nonce in others {
        expectation
            .judge(&machine.attest(&nonce))
            .is_refused_with("quote.nonce_mismatch");
    }
}

#[test]
fn q01_an_empty_nonce_is_legal_only_where_it_is_expected() {
    let machine = Machine::valid();
    Expectation::of(&machine, b"")
        .judge(&machine.attest(b""))
        .is_trusted();
    Expectation::of(&machine, b"x")
        .judge(&machine.attest(b""))
        .is_refused_with("quote.nonce_mismatch");
}

#[test]
fn q05_a_quote_of_another_key_is_refused() {
    let (machine, submission, expectation) = valid();
    let other = machine.with(|m| m.ak = SoftwareAk::p256());
    expectation
        .judge(&other.attest(&expectation.nonce))
        .is_refused_with("quote.signature");
    let expectation = expectation.with(|e| e.ak_public = other.ak.public());
    expectation
        .judge(&submission)
        .is_refused_with("quote.signature");
}

#[test]
fn q06_other_magic_and_other_types_are_the_wrong_type() {
    let (_, submission, expectation) = valid();
    for magic in [0, 0xff54_4346, 0x4754_43ff, u32::MAX] {
        let forged = submission.clone().with_attest(|a| a.magic = magic);
        expectation
            .judge(&forged)
            .is_refused_with("quote.wrong_type");
    }
    // NV, command audit, session audit, time, NV digest, and no attestation at all.
    for kind in [0x8014, 0x8015, 0x8016, 0x8019, 0x801c, 0x8000, 0] {
        let forged = submission.clone().with_attest(|a| a.kind = kind);
        expectation
            .judge(&forged)
            .is_refused_with("quote.wrong_type");
    }
}

#[test]
fn q07_signature_over_other_bytes_and_trailing_bytes_are_refused() {
    let (_, submission, expectation) = valid();
    let other = submission.clone().with_attest(|a| a.clock += 1);
    let spliced = submission
        .clone()
        .with(|s| s.signature = other.signature.clone());
    expectation
        .judge(&spliced)
        .is_refused_with("quote.signature");

    let long = submission.clone().with_attest(|a| a.trailing = vec![0]);
    expectation.judge(&long).is_refused_with("quote.malformed");
    let long = submission.clone().with(|s| s.signature.push(0));
    expectation.judge(&long).is_refused_with("quote.malformed");
    let unsafe_flag = submission.clone().with_attest(|a| a.safe = 2);
    expectation
        .judge(&unsafe_flag)
        .is_refused_with("quote.malformed");
}

#[test]
fn q07_every_truncation_is_refused() {
    let (_, submission, expectation) = valid();
    for length in 0..submission.quote.len() {
        let short = submission.clone().with(|s| s.quote.truncate(length));
        expectation.judge(&short).is_refused_with("quote.malformed");
    }
    for length in 0..submission.signature.len() {
        let short = submission.clone().with(|s| s.signature.truncate(length));
        expectation.judge(&short).is_refused_with("quote.malformed");
    }
}

#[test]
fn q07_a_genuine_quote_with_any_one_byte_changed_is_refused() {
    let (_, submission, expectation) = valid();
    for at in 0..submission.quote.len() {
        let forged = submission.clone().with(|s| s.quote[at] ^= 0x40);
        let judged = expectation.judge(&forged);
        assert_eq!(judged.verdict, "untrusted", "byte {at} of the quote");
        assert!(judged.codes[0].starts_with("quote.") || judged.codes[0].starts_with("pcr."));
    }
    for at in 0..submission.signature.len() {
        let forged = submission.clone().with(|s| s.signature[at] ^= 0x40);
        assert_eq!(
            expectation.judge(&forged).verdict,
            "untrusted",
            "byte {at} of the signature"
        );
    }
}

#[test]
fn q08_schemes_and_hashes_that_do_not_fit_the_key_are_refused() {
    let (_, submission, expectation) = valid();
    // RSASSA and RSAPSS for an ECC key; ECDAA, SM2, ECSCHNORR, HMAC, NULL; unknown.
    for scheme in [
        0x0014_u16, 0x0016, 0x001a, 0x001b, 0x001c, 0x0005, 0x0010, 0xffff,
    ] {
        let forged = submission.clone().with(|s| {
            s.signature[..2].copy_from_slice(&scheme.to_be_bytes());
        });
        let judged = expectation.judge(&forged);
        assert_eq!(judged.verdict, "untrusted");
        let codes = ["quote.alg_not_allowed", "quote.malformed"];
        assert!(codes.contains(&judged.codes[0]), "{scheme:#x}: {judged:?}");
    }
    // NULL, SM3, SHA3-256.
    for hash in [0x0010_u16, 0x0012, 0x0027] {
        let forged = submission.clone().with(|s| {
            s.signature[2..4].copy_from_slice(&hash.to_be_bytes());
        });
        expectation
            .judge(&forged)
            .is_refused_with("quote.alg_not_allowed");
    }
}

#[test]
fn q08_every_supported_scheme_is_trusted_and_no_other_reads_its_signature() {
    let schemes = [
        (Scheme::RsaSsa(2048), HashAlg::Sha256),
        (Scheme::RsaPss(2048), HashAlg::Sha256),
        (Scheme::RsaSsa(3072), HashAlg::Sha384),
        (Scheme::RsaSsa(4096), HashAlg::Sha512),
        (Scheme::RsaPss(3072), HashAlg::Sha512),
        (Scheme::Ecdsa(256), HashAlg::Sha256),
        (Scheme::Ecdsa(384), HashAlg::Sha384),
        (Scheme::Ecdsa(521), HashAlg::Sha512),
    ];
    let machines: Vec<_> = schemes
        .iter()
        .map(|(scheme, hash)| Machine::valid().with(|m| m.ak = SoftwareAk::new(*scheme, *hash)))
        .collect();
    for machine in &machines {
        let expectation = Expectation::of(machine, b"nonce");
        expectation.judge(&machine.attest(b"nonce")).is_trusted();
        for other in &machines {
            if other.ak.public() != machine.ak.public() {
                let judged = expectation.judge(&other.attest(b"nonce"));
                assert_eq!(judged.verdict, "untrusted");
            }
        }
    }
}

#[test]
fn q09_sha1_signatures_are_refused_unless_allowed() {
    for scheme in [Scheme::RsaSsa(2048), Scheme::Ecdsa(256)] {
        let machine = Machine::valid().with(|m| m.ak = SoftwareAk::new(scheme, HashAlg::Sha1));
        let submission = machine.attest(b"nonce");
        let expectation = Expectation::of(&machine, b"nonce");
        let judged = expectation.judge(&submission);
        assert_eq!(judged.verdict, "untrusted");
        assert!(
            judged.codes.contains(&"quote.alg_not_allowed"),
            "{judged:?}"
        );
        expectation
            .with(|e| e.rules.allow_sha1 = true)
            .judge(&submission)
            .is_trusted();
    }
}

#[test]
fn q10_degenerate_ecdsa_signatures_are_refused() {
    let (_, submission, expectation) = valid();
    let order =
        hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let zero = vec![0_u8; 32];
    let ones = vec![0xff_u8; 32];
    let one = [vec![0; 31], vec![1]].concat();
    let long = vec![1_u8; 33];
    let values = [&order, &zero, &ones, &one, &long];
    for r in values {
        for s in values {
            let forged = submission.clone().with(|it| {
                it.signature.truncate(4);
                for part in [r, s] {
                    it.signature.extend((part.len() as u16).to_be_bytes());
                    it.signature.extend(part);
                }
            });
            let judged = expectation.judge(&forged);
            assert_eq!(judged.verdict, "untrusted");
            assert!(judged.codes[0].starts_with("quote."), "{judged:?}");
        }
    }
}

#[test]
fn q10_a_weak_or_odd_key_never_verifies_anything() {
    let (_, submission, expectation) = valid();
    // A point off the curve: the last byte of y changed.
    let off_curve = expectation
        .clone()
        .with(|e| *e.ak_public.last_mut().unwrap() ^= 1);
    off_curve
        .judge(&submission)
        .is_refused_with("ak.not_allowed");

    let machine =
        Machine::valid().with(|m| m.ak = SoftwareAk::new(Scheme::RsaSsa(1024), HashAlg::Sha256));
    let weak = Expectation::of(&machine, b"n");
    weak.judge(&machine.attest(b"n"))
        .is_refused_with("ak.not_allowed");

    let machine =
        Machine::valid().with(|m| m.ak = SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha256));
    let submission = machine.attest(b"n");
    // The exponent stands before the modulus' size and 256 bytes.
    for exponent in [1_u32, 2, 65536] {
        let odd = Expectation::of(&machine, b"n").with(|e| {
            let at = e.ak_public.len() - 256 - 2 - 4;
            e.ak_public[at..at + 4].copy_from_slice(&exponent.to_be_bytes());
        });
        odd.judge(&submission).is_refused_with("ak.not_allowed");
    }
    let even = Expectation::of(&machine, b"n").with(|e| *e.ak_public.last_mut().unwrap() &= !1);
    even.judge(&submission).is_refused_with("ak.not_allowed");
}

#[test]
fn n03_a_key_that_is_no_attestation_key_is_refused() {
    let good = rat_tests::software_tpm::AK_ATTRIBUTES;
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign: each missing.
    for bit in [1, 4, 5, 6, 16, 18] {
        let machine = Machine::valid().with(|m| m.ak.attributes = good & !(1 << bit));
        let judged = Expectation::of(&machine, b"n").judge(&machine.attest(b"n"));
        judged.is_refused_with("ak.attributes");
    }
    // stClear, encryptedDuplication, decrypt: each added.
    for bit in [2, 11, 17] {
        let machine = Machine::valid().with(|m| m.ak.attributes = good | 1 << bit);
        let judged = Expectation::of(&machine, b"n").judge(&machine.attest(b"n"));
        judged.is_refused_with("ak.attributes");
    }
    // noDA and adminWithPolicy are allowed.
    for bit in [7, 10] {
        let machine = Machine::valid().with(|m| m.ak.attributes = good | 1 << bit);
        Expectation::of(&machine, b"n")
            .judge(&machine.attest(b"n"))
            .is_trusted();
    }
}

#[test]
fn t06_a_clock_that_is_not_safe_is_recorded_and_not_judged() {
    let (_, submission, expectation) = valid();
    let after_power_loss = submission.with_attest(|a| a.safe = 0);
    expectation.judge(&after_power_loss).is_trusted();
}
