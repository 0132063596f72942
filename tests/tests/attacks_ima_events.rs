//! Family I: what measured events are held against, boot_aggregate among them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use rat_engine::hash::HashAlg;
use rat_engine::ima::{LogFormat, Template};
use rat_engine::pcr::PcrSet;
use rat_tests::evidence::{
    BOOT_AND_IMA, Expectation, Judged, Machine, boot_value, policy_json, valid,
};
use rat_tests::measured::{self, Measured};
use rat_tests::oracle;

/// Judges a machine whose kernel really measured this list, under a policy of valid()'s files.
fn measuring(change: impl FnOnce(&mut Machine)) -> (Judged, Expectation) {
    let (_, _, expectation) = valid();
    let machine = Machine::valid().with(change);
    let expectation = expectation.with(|e| e.ak_public = machine.ak.public());
    (
        expectation.judge(&machine.attest(&expectation.nonce)),
        expectation,
    )
}

#[test]
fn i09_i30_violations_fail_unless_accepted_and_excludes_never_excuse_them() {
    let (machine, _, expectation) = valid();
    let machine = machine.with(|m| {
        m.list.push(Measured {
            violation: true,
            ..Measured::file("/var/log/x", b"x")
        });
        m.list.push(Measured::file("/usr/bin/bash", b"bash"));
    });
    let expectation = expectation.with(|e| e.ak_public = machine.ak.public());
    let submission = machine.attest(&expectation.nonce);
    let judged = expectation.judge(&submission);
    judged.is_refused_with("ima.violation");
    assert_eq!(judged.findings[0].entry(), Some(4));
    let report = judged.report.unwrap();
    assert_eq!((report.violations, report.entries), (1, 6));

    let excluded = expectation.clone().with(|e| {
        let listed: serde_json::Value = serde_json::from_str(e.policy.as_ref().unwrap()).unwrap();
        e.policy = Some(policy_json(listed["digests"].clone(), &["/var/log/.*"]));
    });
    excluded.judge(&submission).is_refused_with("ima.violation");

    let judged = expectation
        .clone()
        .with(|e| e.ima.accept_violations = true)
        .judge(&submission);
    judged.is_trusted();
    assert_eq!(judged.report.unwrap().violations, 1);

    let judged = expectation.with(|e| e.policy = None).judge(&submission);
    assert_eq!(
        (judged.verdict, judged.report.unwrap().violations),
        ("authentic", 1)
    );
}

#[test]
fn i12_i24_boot_aggregate_must_be_first_and_right() {
    let boot = |bank: HashAlg, count: u8| {
        let values: Vec<_> = (0..count).map(|pcr| boot_value(bank, pcr)).collect();
        Measured::boot_aggregate(bank, &values)
    };
    let judge = |first: Measured| measuring(|m| m.list[0] = first).0;
    // Both forms of the SHA-256 aggregate, older and newer kernels.
    judge(boot(HashAlg::Sha256, 8)).is_trusted();
    judge(boot(HashAlg::Sha256, 10)).is_trusted();
    judge(boot(HashAlg::Sha256, 9)).is_refused_with("ima.boot_aggregate");
    // Its own algorithm names the bank, and that bank was not quoted.
    judge(boot(HashAlg::Sha384, 10)).is_refused_with("ima.boot_aggregate_unverifiable");
    judge(boot(HashAlg::Sha1, 8)).is_refused_with("ima.boot_aggregate_unverifiable");
    let zero = Measured {
        digest: vec![0; 32],
        ..boot(HashAlg::Sha256, 10)
    };
    judge(zero).is_refused_with("ima.boot_aggregate");
    // Missing, or not first.
    measuring(|m| {
        m.list.remove(0);
    })
    .0
    .is_refused_with("ima.boot_aggregate");
    measuring(|m| m.list.swap(0, 1))
        .0
        .is_refused_with("ima.boot_aggregate");
    let violation = Measured {
        violation: true,
        ..boot(HashAlg::Sha256, 10)
    };
    judge(violation).is_refused_with("ima.boot_aggregate");
}

#[test]
fn i24_the_sha1_aggregate_covers_pcr_0_to_7_only() {
    let banks = vec![
        (HashAlg::Sha1, PcrSet::from_bits(0x3ff).unwrap()),
        (HashAlg::Sha256, PcrSet::from_bits(BOOT_AND_IMA).unwrap()),
    ];
    for (count, trusted) in [(8, true), (10, false)] {
        let values: Vec<_> = (0..count)
            .map(|pcr| boot_value(HashAlg::Sha1, pcr))
            .collect();
        let machine = Machine::valid().with(|m| {
            m.banks.clone_from(&banks);
            m.list[0] = Measured::boot_aggregate(HashAlg::Sha1, &values);
        });
        let expectation = Expectation::of(&machine, b"n").with(|e| e.rules.allow_sha1 = true);
        let judged = expectation.judge(&machine.attest(b"n"));
        assert_eq!(judged.verdict == "trusted", trusted, "{judged:?}");
    }
}

#[test]
fn i24_excludes_and_digests_never_approve_boot_aggregate() {
    let other = Measured::boot_aggregate(HashAlg::Sha256, &[vec![1; 32]]);
    let digest = hex::encode(&other.digest);
    let (machine, _, expectation) = valid();
    let machine = machine.with(|m| m.list[0] = other);
    let listed: serde_json::Value =
        serde_json::from_str(expectation.policy.as_ref().unwrap()).unwrap();
    let mut digests = listed["digests"].clone();
    digests["boot_aggregate"] = serde_json::json!([digest]);
    let expectation = expectation.with(|e| {
        e.ak_public = machine.ak.public();
        e.policy = Some(policy_json(digests, &["boot_aggregate"]));
    });
    expectation
        .judge(&machine.attest(&expectation.nonce))
        .is_refused_with("ima.boot_aggregate");
    // Where the boot PCRs were not quoted, the policy's reference value is what there is.
    let ima_only = machine.with(|m| m.banks[0].1 = PcrSet::from_bits(1 << 10).unwrap());
    let lax = expectation.with(|e| {
        e.rules.strict = false;
        e.challenged = None;
    });
    let judged = lax.judge(&ima_only.attest(&lax.nonce));
    assert_eq!(
        (judged.verdict, judged.warnings.as_slice()),
        ("trusted", ["pcr.boot_not_quoted"].as_slice())
    );
}

#[test]
fn i14_equal_bytes_of_another_algorithm_never_match() {
    for alg in ["sm3", "sha3-256", "sha512-256", "streebog256"] {
        let (judged, _) = measuring(|m| m.list[1].digest_prefix = alg.into());
        judged.is_refused_with("ima.digest_not_listed");
    }
}

#[test]
fn i19_i23_a_learned_key_counts_for_later_entries_of_its_machine_only() {
    use rat_tests::measured_keys::{SigningKey, policy_with_keyring};
    let key = SigningKey::p256();
    let certificate = Measured::buffer(".ima", &key.spki_der());
    let signed = key.signed_file("/usr/bin/signed", b"content");
    let judge = |list: Vec<Measured>, policy: String| {
        let machine = Machine::valid().with(|m| m.list.extend(list));
        let expectation = Expectation::of(&Machine::valid(), b"n").with(|e| {
            e.ak_public = machine.ak.public();
            e.policy = Some(policy);
        });
        expectation.judge(&machine.attest(b"n"))
    };
    let base = Machine::valid().policy();
    let approves = policy_with_keyring(&base, ".ima", &certificate.digest);
    judge(vec![certificate.clone(), signed.clone()], approves.clone()).is_trusted();
    // Not learned; learned afterwards; not approved; approved for another keyring.
    judge(vec![signed.clone()], approves.clone()).is_refused_with("ima.path_not_listed");
    judge(vec![signed.clone(), certificate.clone()], approves.clone())
        .is_refused_with("ima.path_not_listed");
    let judged = judge(vec![certificate.clone(), signed.clone()], base.clone());
    assert_eq!(judged.codes, ["ima.key_not_listed", "ima.path_not_listed"]);
    let elsewhere = policy_with_keyring(&base, ".evm", &certificate.digest);
    let judged = judge(vec![certificate, signed], elsewhere);
    assert_eq!(judged.codes, ["ima.key_not_listed", "ima.path_not_listed"]);
}

#[test]
fn i15_signatures_by_unknown_keys_and_colliding_key_ids_do_not_verify() {
    use rat_tests::measured_keys::{SigningKey, policy_with_verification_keys};
    let (approved, other) = (SigningKey::p256(), SigningKey::p256());
    let judge = |file: Measured, policy: String, require: bool| {
        let machine = Machine::valid().with(|m| m.list.push(file));
        let expectation = Expectation::of(&Machine::valid(), b"n").with(|e| {
            e.ak_public = machine.ak.public();
            e.policy = Some(policy);
            e.ima.require_valid_ima_sig = require;
        });
        expectation.judge(&machine.attest(b"n"))
    };
    let base = Machine::valid().policy();
    let policy = policy_with_verification_keys(&base, &[&approved]);
    let path = "/usr/bin/signed";
    let judged = judge(approved.signed_file(path, b"c"), policy.clone(), false);
    judged.is_trusted();
    assert_eq!(judged.report.unwrap().signed, 1);
    let foreign = other.signed_file(path, b"c");
    judge(foreign.clone(), policy.clone(), false).is_refused_with("ima.path_not_listed");
    // The approved key's identifier on the other key's signature.
    let mut collides = foreign.clone();
    collides.tail[3..7].copy_from_slice(&approved.key_id().to_be_bytes());
    judge(collides.clone(), policy.clone(), false).is_refused_with("ima.path_not_listed");
    // The signature is another file's.
    let mut moved = approved.signed_file(path, b"c");
    moved.digest = oracle::digest(HashAlg::Sha256, b"d");
    judge(moved, policy.clone(), false).is_refused_with("ima.path_not_listed");
    // A listed digest rescues a signature that does not verify, unless valid ones are demanded.
    let listed: serde_json::Value = serde_json::from_str(&policy).unwrap();
    let mut rescue = listed.clone();
    rescue["digests"][path] = serde_json::json!([hex::encode(&foreign.digest)]);
    judge(foreign.clone(), rescue.to_string(), false).is_trusted();
    judge(foreign, rescue.to_string(), true).is_refused_with("ima.sig_invalid");
    // A malformed signature is rescued by nothing.
    let mut malformed = collides;
    malformed.tail[0] = 4;
    judge(malformed, rescue.to_string(), false).is_refused_with("ima.sig_malformed");
}

#[test]
fn i25_a_second_boot_aggregate_after_kexec_is_checked() {
    let boot: Vec<_> = (0..10)
        .map(|pcr| boot_value(HashAlg::Sha256, pcr))
        .collect();
    let second = Measured::boot_aggregate(HashAlg::Sha256, &boot);
    measuring(|m| m.list.push(second)).0.is_trusted();
    let wrong = Measured::boot_aggregate(HashAlg::Sha256, &boot[..9]);
    measuring(|m| m.list.push(wrong))
        .0
        .is_refused_with("ima.boot_aggregate");
}

/// The kernel names a file that it cannot reach from the root by its last component alone.
#[test]
fn i24_a_file_of_that_name_that_cannot_be_checked_is_refused() {
    let file = Measured::file("boot_aggregate", b"evil");
    let verity = Measured {
        digest_prefix: "verity:sha256".into(),
        ..file.clone().in_template(Template::ImaNgV2)
    };
    let other_bank = Measured {
        digest_prefix: "sha1".into(),
        digest: vec![1; 20],
        ..file
    };
    for file in [verity, other_bank] {
        let machine = Machine::valid().with(|m| m.list.push(file));
        Expectation::of(&Machine::valid(), b"n")
            .with(|e| {
                e.ak_public = machine.ak.public();
                e.rules.strict = false;
            })
            .judge(&machine.attest(b"n"))
            .is_refused_with("ima.boot_aggregate_unverifiable");
    }
}

#[test]
fn i24_an_aggregate_over_pcrs_that_were_not_quoted_cannot_be_checked() {
    let machine = Machine::valid().with(|m| m.banks[0].1 = PcrSet::from_bits(0x4ff).unwrap());
    let expectation = Expectation::of(&machine, b"n").with(|e| e.rules.strict = false);
    let judged = expectation.judge(&machine.attest(b"n"));
    assert_eq!(
        (judged.verdict, judged.warnings.as_slice()),
        (
            "trusted",
            ["pcr.boot_not_quoted", "ima.boot_aggregate_unverifiable"].as_slice()
        )
    );
}

#[test]
fn i28_verity_digests_match_verity_entries_only() {
    let (_, _, expectation) = valid();
    let verity = |m: &mut Machine| {
        m.list[1].template = Template::ImaNgV2;
        m.list[1].digest_prefix = "verity:sha256".into();
    };
    let machine = Machine::valid().with(verity);
    let plain = expectation
        .clone()
        .with(|e| e.ak_public = machine.ak.public());
    let submission = machine.attest(&expectation.nonce);
    plain
        .judge(&submission)
        .is_refused_with("ima.digest_not_listed");
    // The same file by content in the second version's template is the same file.
    let by_content = Machine::valid().with(|m| {
        m.list[1] = m.list[1].clone().in_template(Template::ImaNgV2);
    });
    let expectation = expectation.with(|e| e.ak_public = by_content.ak.public());
    expectation
        .judge(&by_content.attest(&expectation.nonce))
        .is_trusted();
}

#[test]
fn l01_a_policy_without_a_list_and_an_empty_policy_are_never_trusted() {
    let (machine, submission, expectation) = valid();
    let none = submission.clone().with(|s| s.log = None);
    expectation.judge(&none).is_refused_with("ima.log_missing");
    let empty = expectation.with(|e| e.policy = Some(policy_json(serde_json::json!({}), &[])));
    let judged = empty.judge(&submission);
    assert_eq!(judged.verdict, "untrusted");
    assert!(judged.codes.contains(&"policy.missing"), "{judged:?}");
    // Even when nothing but boot_aggregate was measured.
    let idle = machine.with(|m| m.list.truncate(1));
    let empty = empty.with(|e| e.ak_public = idle.ak.public());
    empty
        .judge(&idle.attest(&empty.nonce))
        .is_refused_with("policy.missing");
}

#[test]
fn measured_files_and_buffers_outside_the_policy_are_named() {
    let (judged, _) = measuring(|m| m.list.push(Measured::file("/usr/bin/new", b"new")));
    judged.is_refused_with("ima.path_not_listed");
    assert_eq!(judged.findings[0].path(), Some(&b"/usr/bin/new"[..]));
    assert_eq!(judged.findings[0].entry(), Some(4));
    let (judged, _) = measuring(|m| m.list[1] = Measured::file("/usr/bin/bash", b"other"));
    judged.is_refused_with("ima.digest_not_listed");
    let (judged, _) = measuring(|m| {
        m.list
            .push(Measured::buffer("kexec-cmdline", b"init=/bin/sh"))
    });
    judged.is_refused_with("ima.buf_not_listed");
}

#[test]
fn every_template_and_format_gives_the_same_verdict() {
    for template in Template::ALL
        .into_iter()
        .filter(|it| *it != Template::ImaBuf)
    {
        let machine = Machine::valid().with(|m| {
            for file in &mut m.list[1..] {
                *file = file.clone().in_template(template);
            }
        });
        let expectation = Expectation::of(&machine, b"n");
        expectation.judge(&machine.attest(b"n")).is_trusted();
        let binary = machine.attest(b"n").with(|s| {
            s.log = Some(measured::binary(&machine.list));
            s.format = LogFormat::Binary;
        });
        expectation.judge(&binary).is_trusted();
    }
}

#[test]
fn i24_the_form_of_boot_aggregate_is_pinned_at_the_first_full_list() {
    use rat_engine::ima::boot_aggregate::Form;
    let (machine, submission, expectation) = valid();
    let pinned = |form| {
        expectation
            .clone()
            .with(|e| e.ima.boot_aggregate = Some(form))
    };
    pinned(Form::Pcr0To9).judge(&submission).is_trusted();
    pinned(Form::Pcr0To7)
        .judge(&submission)
        .is_refused_with("ima.boot_aggregate");
    let boot: Vec<_> = (0..8).map(|pcr| boot_value(HashAlg::Sha256, pcr)).collect();
    let older = machine.with(|m| m.list[0] = Measured::boot_aggregate(HashAlg::Sha256, &boot));
    let older_submission = older.attest(&expectation.nonce);
    let of = |form| pinned(form).with(|e| e.ak_public = older.ak.public());
    of(Form::Pcr0To7).judge(&older_submission).is_trusted();
    of(Form::Pcr0To9)
        .judge(&older_submission)
        .is_refused_with("ima.boot_aggregate");
}

#[test]
fn i06_a_malformed_signature_on_boot_aggregate_is_named() {
    let (judged, _) = measuring(|m| {
        m.list[0] = m.list[0].clone().in_template(Template::ImaSig);
        m.list[0].tail = b"no signature".to_vec();
    });
    judged.is_refused_with("ima.sig_malformed");
}

#[test]
fn a_buffer_too_long_for_a_key_is_a_buffer_for_policy_maker_and_judge_alike() {
    use rat_engine::crypto::FileKey;
    let long = vec![0x30; rat_engine::limits::KEY_FILE_BYTES_MAX + 1];
    assert!(matches!(FileKey::from_measured(&long), Ok(None)));
    let (judged, _) = measuring(|m| m.list.push(Measured::buffer("critical-data", &long)));
    judged.is_refused_with("ima.buf_not_listed");
}
