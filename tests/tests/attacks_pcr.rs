//! Family P: selections, banks and values of PCRs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::{PcrSet, PcrValues};
use rat_tests::evidence::{BOOT_AND_IMA, Expectation, Machine, boot_value, pcr, valid};
use rat_tests::oracle;
use rat_tests::software_tpm::Attest;

fn set(bits: u32) -> PcrSet {
    PcrSet::from_bits(bits).unwrap()
}

fn quoting(banks: &[(HashAlg, u32)]) -> Machine {
    Machine::valid().with(|m| {
        m.banks = banks
            .iter()
            .map(|(bank, bits)| (*bank, set(*bits)))
            .collect();
    })
}

#[test]
fn p01_selections_that_were_not_asked_for_are_refused() {
    let (_, _, expectation) = valid();
    let others: [&[(HashAlg, u32)]; 5] = [
        &[(HashAlg::Sha256, BOOT_AND_IMA >> 1)],
        &[(HashAlg::Sha256, BOOT_AND_IMA | 1 << 16)],
        &[(HashAlg::Sha384, BOOT_AND_IMA)],
        &[(HashAlg::Sha256, BOOT_AND_IMA), (HashAlg::Sha384, 1)],
        &[],
    ];
    for banks in others {
        let mut machine = quoting(banks);
        machine.ak = valid().0.ak;
        let expectation = expectation
            .clone()
            .with(|e| e.ak_public = machine.ak.public());
        expectation
            .judge(&machine.attest(&expectation.nonce))
            .is_refused_with("pcr.selection_mismatch");
    }
}

#[test]
fn p01_selections_that_no_tpm_writes_are_refused() {
    let (_, submission, expectation) = valid();
    let select = submission.attest.selection[0].2.clone();
    let forge: [&dyn Fn(&mut Attest); 6] = [
        &|a| a.selection = vec![(0x000b, 0, vec![])],
        &|a| a.selection = vec![(0x000b, 4, [&select[..], &[0]].concat())],
        &|a| a.selection = vec![(0x000b, 255, vec![0xff; 255])],
        &|a| a.selection = vec![(0x000b, 3, select.clone()), (0x000b, 3, select.clone())],
        // SM3, a bank whose values we cannot replay.
        &|a| a.selection = vec![(0x0012, 3, select.clone())],
        &|a| a.selection = vec![(0x000b, 3, select.clone()); 17],
    ];
    for change in forge {
        let forged = submission.clone().with_attest(|attest| change(attest));
        expectation
            .judge(&forged)
            .is_refused_with("pcr.selection_mismatch");
    }
}

#[test]
fn p01_an_empty_selection_proves_nothing_even_without_a_challenge() {
    let machine = quoting(&[]);
    let expectation = Expectation::of(&machine, b"n").with(|e| e.challenged = None);
    expectation
        .judge(&machine.attest(b"n"))
        .is_refused_with("pcr.selection_mismatch");
    // A bank that is listed with no PCR.
    let machine = quoting(&[(HashAlg::Sha256, 0)]);
    expectation
        .with(|e| e.ak_public = machine.ak.public())
        .judge(&machine.attest(b"n"))
        .is_refused_with("pcr.selection_mismatch");
}

#[test]
fn p02_values_that_are_not_the_quoted_ones_are_refused() {
    let (_, submission, expectation) = valid();
    let bank = HashAlg::Sha256;
    let refused = |change: &dyn Fn(&PcrValues) -> PcrValues| {
        let forged = submission.clone().with(|s| s.values = change(&s.values));
        expectation
            .judge(&forged)
            .is_refused_with("pcr.digest_mismatch");
    };
    let replace = |values: &PcrValues, index: u64, digest: Digest| {
        let mut changed = PcrValues::new();
        for (_, at, value) in values.iter() {
            changed.insert(at, if at == pcr(index) { digest } else { value });
        }
        changed
    };
    for index in 0..=10 {
        refused(&|values| replace(values, index, Digest::ones(bank)));
        // One value missing.
        refused(&|values| {
            let mut fewer = PcrValues::new();
            for (_, at, value) in values.iter().filter(|(_, at, _)| *at != pcr(index)) {
                fewer.insert(at, value);
            }
            fewer
        });
    }
    // Right values in the wrong places.
    refused(&|values| {
        let one = values.get(bank, pcr(1)).unwrap();
        let four = values.get(bank, pcr(4)).unwrap();
        replace(&replace(values, 1, four), 4, one)
    });
    // A value that the quote does not cover, in the same bank and in another.
    for extra in [Digest::zero(bank), Digest::zero(HashAlg::Sha384)] {
        refused(&|values| {
            let mut more = values.clone();
            more.insert(pcr(20), extra);
            more
        });
    }
}

#[test]
fn p03_policy_pcrs_outside_the_quote_are_not_attested() {
    let (_, submission, expectation) = valid();
    let value = hex::encode([0; 32]);
    let policies = [
        format!(r#"{{"14": "{value}"}}"#),
        r#"{"mask": "0x004001"}"#.into(),
    ];
    for policy in policies {
        let expectation = expectation.clone().with(|e| e.pcr_policy = Some(policy));
        expectation
            .judge(&submission)
            .is_refused_with("pcr.not_attested");
    }
}

#[test]
fn pcr_policy_values_are_compared_in_the_quoted_bank() {
    let (_, submission, expectation) = valid();
    let good = hex::encode(boot_value(HashAlg::Sha256, 7));
    let of_sha1 = hex::encode(boot_value(HashAlg::Sha1, 7));
    let with = |text: String| expectation.clone().with(|e| e.pcr_policy = Some(text));
    with(format!(
        r#"{{"7": ["{of_sha1}", "{good}"], "mask": "0x000080"}}"#
    ))
    .judge(&submission)
    .is_trusted();
    let other = hex::encode([9; 32]);
    with(format!(r#"{{"7": "{other}"}}"#))
        .judge(&submission)
        .is_refused_with("pcr.value_not_allowed");
    with(format!(r#"{{"7": "{of_sha1}"}}"#))
        .judge(&submission)
        .is_refused_with("pcr.not_attested");
}

#[test]
fn p04_values_of_two_boots_cannot_be_spliced() {
    let (machine, submission, expectation) = valid();
    // A second boot in which PCR 7 differs; its value with the first boot's quote.
    let other = machine.clone();
    let mut values = PcrValues::new();
    for (_, at, value) in other.values().iter() {
        let second_boot = oracle::digest(HashAlg::Sha256, b"second boot");
        let second_boot = Digest::new(HashAlg::Sha256, &second_boot).unwrap();
        values.insert(at, if at == pcr(7) { second_boot } else { value });
    }
    let spliced = submission.with(|s| s.values = values);
    expectation
        .judge(&spliced)
        .is_refused_with("pcr.digest_mismatch");
}

#[test]
fn p05_a_zero_ima_pcr_proves_no_list() {
    let (machine, _, expectation) = valid();
    let empty = machine.clone().with(|m| m.list.clear());
    let log = rat_tests::measured::ascii(&machine.list);
    // PCR 10 is quoted as zero, and a list is sent all the same.
    let forged = empty.attest(&expectation.nonce).with(|s| s.log = Some(log));
    expectation
        .judge(&forged)
        .is_refused_with("ima.boot_aggregate");
    // No list at all.
    let none = empty.attest(&expectation.nonce).with(|s| s.log = None);
    expectation.judge(&none).is_refused_with("ima.log_missing");
    let blank = empty
        .attest(&expectation.nonce)
        .with(|s| s.log = Some(Vec::new()));
    expectation
        .judge(&blank)
        .is_refused_with("ima.boot_aggregate");
}

#[test]
fn p06_ima_without_boot_pcrs_warns_and_fails_when_strict() {
    let machine = quoting(&[(HashAlg::Sha256, 1 << 10)]);
    let submission = machine.attest(b"n");
    let strict = Expectation::of(&machine, b"n");
    let judged = strict.judge(&submission);
    assert_eq!(judged.verdict, "untrusted");
    assert_eq!(
        judged.codes,
        ["pcr.boot_not_quoted", "ima.boot_aggregate_unverifiable"]
    );
    let judged = strict.with(|e| e.rules.strict = false).judge(&submission);
    assert_eq!(judged.verdict, "trusted");
    assert_eq!(
        judged.warnings,
        ["pcr.boot_not_quoted", "ima.boot_aggregate_unverifiable"]
    );
}

#[test]
fn p06_a_list_of_another_boot_is_refused() {
    let (machine, _, expectation) = valid();
    // The list and its PCR 10 are consistent; boot_aggregate is of a kernel that did not boot.
    let old: Vec<_> = (0..10)
        .map(|n| oracle::digest(HashAlg::Sha256, &[n]))
        .collect();
    let replayed = machine.with(|m| {
        m.list[0] = rat_tests::measured::Measured::boot_aggregate(HashAlg::Sha256, &old);
    });
    expectation
        .judge(&replayed.attest(&expectation.nonce))
        .is_refused_with("ima.boot_aggregate");
}

#[test]
fn p06_the_list_is_proven_in_the_pinned_bank() {
    let machine = quoting(&[(HashAlg::Sha256, 0x3ff), (HashAlg::Sha384, BOOT_AND_IMA)]);
    let submission = machine.attest(b"n");
    let strict = Expectation::of(&machine, b"n");
    strict
        .judge(&submission)
        .is_refused_with("pcr.bank_not_pinned");
    let judged = strict.with(|e| e.rules.strict = false).judge(&submission);
    assert_eq!(
        (judged.verdict, judged.warnings.as_slice()),
        ("trusted", ["pcr.bank_not_pinned"].as_slice())
    );
}

#[test]
fn p07_a_bank_that_firmware_never_extended_warns_and_fails_when_strict() {
    for reset in [Digest::zero(HashAlg::Sha256), Digest::ones(HashAlg::Sha256)] {
        let machine = quoting(&[(HashAlg::Sha256, BOOT_AND_IMA)]);
        let mut values = PcrValues::new();
        for (_, at, value) in machine.values().iter() {
            values.insert(at, if at == pcr(3) { reset } else { value });
        }
        let mut submission = machine.attest(b"n");
        submission.attest = Attest::quote(machine.ak.hash(), b"n", &machine.banks, &values);
        submission.sign();
        submission.values = values;
        submission.log = None;
        let strict = Expectation::of(&machine, b"n").with(|e| e.policy = None);
        strict
            .judge(&submission)
            .is_refused_with("pcr.bank_unextended");
        let judged = strict.with(|e| e.rules.strict = false).judge(&submission);
        assert_eq!(
            (judged.verdict, judged.warnings.as_slice()),
            ("authentic", ["pcr.bank_unextended"].as_slice())
        );
    }
}

#[test]
fn p08_banks_are_hashed_in_the_order_of_the_attestation() {
    for banks in [
        [HashAlg::Sha256, HashAlg::Sha384],
        [HashAlg::Sha384, HashAlg::Sha256],
    ] {
        let machine = quoting(&banks.map(|bank| (bank, BOOT_AND_IMA)));
        let expectation = Expectation::of(&machine, b"n");
        expectation.judge(&machine.attest(b"n")).is_trusted();
        // The challenge named them the other way round: the same set.
        let swapped = quoting(&[(banks[1], BOOT_AND_IMA), (banks[0], BOOT_AND_IMA)]);
        let expectation = expectation.with(|e| {
            e.challenged = rat_engine::tpm::PcrSelection::new(swapped.banks.iter().copied());
        });
        expectation.judge(&machine.attest(b"n")).is_trusted();
        // A digest over the other order is not the digest.
        let values = machine.values();
        let wrong = Attest::quote(machine.ak.hash(), b"n", &swapped.banks, &values);
        let forged = machine
            .attest(b"n")
            .with_attest(|a| a.pcr_digest = wrong.pcr_digest);
        expectation
            .judge(&forged)
            .is_refused_with("pcr.digest_mismatch");
    }
}

/// A boot log in which firmware ended PCR 0-7, and the values of PCR 0-9 that it leads to.
fn boot_log(bank: HashAlg) -> (Vec<u8>, PcrValues) {
    let le16 = |n: usize| (n as u16).to_le_bytes();
    let le32 = |n: usize| (n as u32).to_le_bytes();
    let id = le16(bank.tpm_id().into());
    let mut spec = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0".to_vec();
    spec.extend([&id[..], &le16(bank.size()), &[0]].concat());
    let mut log = [&le32(0)[..], &le32(3), &[0; 20], &le32(spec.len()), &spec].concat();
    let separator = oracle::digest(bank, &[0; 4]);
    let ended = oracle::extend(bank, &vec![0; bank.size()], &separator);
    let mut values = PcrValues::new();
    for index in 0..8 {
        log.extend([le32(index), le32(4), le32(1)].concat());
        log.extend([&id[..], &separator, &le32(4), &[0; 4]].concat());
        values.insert(pcr(index as u64), Digest::new(bank, &ended).unwrap());
    }
    values.insert(pcr(8), Digest::zero(bank));
    values.insert(pcr(9), Digest::zero(bank));
    (log, values)
}

#[test]
fn p08_banks_without_boot_pcrs_are_not_held_against_the_boot_log() {
    let (log, booted) = boot_log(HashAlg::Sha256);
    let machine = quoting(&[
        (HashAlg::Sha512, 0),
        (HashAlg::Sha256, BOOT_AND_IMA),
        (HashAlg::Sha384, 1 << 10),
    ]);
    let mut values = machine.values();
    for (_, pcr, value) in booted.iter() {
        values.insert(pcr, value);
    }
    let attest = Attest::quote(machine.ak.hash(), b"n", &machine.banks, &values);
    let mut submission = machine.attest(b"n").with_attest(|a| *a = attest);
    submission.values = values;
    submission.log = None;
    let judge = |log: Vec<u8>| {
        Expectation::of(&machine, b"n")
            .with(|e| e.policy = None)
            .judge(&submission.clone().with(|s| s.boot_log = Some(log)))
    };
    let event = 4 + 4 + 4 + 2 + 32 + 4 + 4;
    judge(log[..log.len() - event].to_vec()).is_refused_with("uefi.pcr_mismatch");
    let judged = judge(log);
    assert_eq!(judged.verdict, "authentic", "{judged:?}");
}

#[test]
fn q09_the_sha1_bank_is_refused_unless_allowed() {
    let machine = quoting(&[
        (HashAlg::Sha1, BOOT_AND_IMA),
        (HashAlg::Sha256, BOOT_AND_IMA),
    ]);
    let submission = machine.attest(b"n");
    let expectation = Expectation::of(&machine, b"n");
    expectation
        .judge(&submission)
        .is_refused_with("pcr.bank_not_allowed");
    expectation
        .with(|e| e.rules.allow_sha1 = true)
        .judge(&submission)
        .is_trusted();
    // Only SHA-1: allowed, but not the bank that is pinned.
    let machine = quoting(&[(HashAlg::Sha1, BOOT_AND_IMA)]);
    let expectation = Expectation::of(&machine, b"n").with(|e| {
        e.rules.allow_sha1 = true;
        e.policy = None;
    });
    let submission = machine.attest(b"n").with(|s| s.log = None);
    expectation
        .judge(&submission)
        .is_refused_with("pcr.bank_not_pinned");
}

#[test]
fn q07_a_pcr_digest_of_the_wrong_size_is_malformed() {
    let (_, submission, expectation) = valid();
    for size in [0, 20, 31, 33, 48] {
        let forged = submission
            .clone()
            .with_attest(|a| a.pcr_digest = vec![1; size]);
        expectation
            .judge(&forged)
            .is_refused_with("quote.malformed");
    }
}
