//! Family I: the kernel's measurement list.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use rat_engine::appraisal::ImaState;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::{BankScheme, Committed, LogFormat, Start, Template};
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_tests::evidence::{
    BOOT_AND_IMA, Expectation, Judged, Machine, boot_value, policy_json, valid,
};
use rat_tests::measured::{self, Measured};
use rat_tests::oracle;

/// Judges a machine's genuine evidence with another list.
fn with_list(change: impl FnOnce(&mut Vec<Measured>)) -> Judged {
    let (machine, submission, expectation) = valid();
    let mut list = machine.list.clone();
    change(&mut list);
    expectation.judge(&submission.with(|s| s.log = Some(measured::ascii(&list))))
}

#[test]
fn i01_a_truncated_list_is_refused() {
    for length in 1..4 {
        with_list(|list| list.truncate(length)).is_refused_with("ima.pcr_mismatch");
    }
}

#[test]
fn i01_a_list_shorter_than_the_proven_position_is_truncated() {
    let (machine, submission, expectation) = valid();
    let before = expectation.judge(&submission).ima.unwrap().committed;
    let again = expectation.with(|e| e.start = Start::AgainInBoot(before.clone()));
    again.judge(&submission).is_trusted();
    let short = measured::ascii(&machine.list[..3]);
    again
        .judge(&submission.clone().with(|s| s.log = Some(short)))
        .is_refused_with("ima.truncated");
    // An older quote of the same boot, with its shorter list: the position would move back.
    let older = machine.with(|m| m.list.truncate(3));
    let nonce = again.nonce.clone();
    again
        .judge(&older.attest(&nonce))
        .is_refused_with("ima.truncated");
}

#[test]
fn i02_altered_removed_and_swapped_entries_are_refused() {
    with_list(|list| list[2] = Measured::file("/usr/bin/ls", b"other"))
        .is_refused_with("ima.pcr_mismatch");
    with_list(|list| {
        list.remove(2);
    })
    .is_refused_with("ima.pcr_mismatch");
    with_list(|list| list.swap(2, 3)).is_refused_with("ima.pcr_mismatch");
    with_list(|list| list.insert(2, Measured::file("/usr/bin/ls", b"ls")))
        .is_refused_with("ima.pcr_mismatch");
}

#[test]
fn i04_entries_after_the_cut_neither_pass_nor_fail() {
    let (machine, submission, expectation) = valid();
    let mut list = machine.list.clone();
    list.push(Measured::file("/tmp/evil", b"evil"));
    list.push(Measured {
        violation: true,
        ..Measured::file("/tmp/x", b"x")
    });
    let ahead = submission.with(|s| s.log = Some(measured::ascii(&list)));
    let judged = expectation.judge(&ahead);
    judged.is_trusted();
    let report = judged.report.unwrap();
    assert_eq!(
        (report.entries, report.pending, report.violations),
        (4, 2, 0)
    );
    // Bytes after the cut that are no entry: noted, not judged.
    let torn = ahead.with(|s| s.log.as_mut().unwrap().extend(b"10 garbage"));
    let judged = expectation.judge(&torn);
    judged.is_trusted();
    assert!(judged.report.unwrap().pending_malformed);
}

#[test]
fn i05_a_quote_ahead_of_the_list_is_refused() {
    let (machine, _, expectation) = valid();
    let log = measured::ascii(&machine.list);
    let ahead = machine.with(|m| m.list.push(Measured::file("/usr/bin/cat", b"cat")));
    let submission = ahead.attest(&expectation.nonce).with(|s| s.log = Some(log));
    expectation
        .judge(&submission)
        .is_refused_with("ima.pcr_mismatch");
}

/// The template's name is not hashed: data that the kernel hashed under one name, under another.
fn relabelled(genuine: Measured, label: Template) -> Judged {
    let (_, _, expectation) = valid();
    let machine = Machine::valid().with(|m| m.list.push(genuine));
    let expectation = expectation.with(|e| {
        e.ak_public = machine.ak.public();
        e.policy = Some(policy_json(
            serde_json::json!({ "/x": ["00".repeat(32)] }),
            &[".*"],
        ));
    });
    let submission = machine.attest(&expectation.nonce).with(|s| {
        let (last, others) = machine.list.split_last().unwrap();
        let relabelled = last.binary_labelled(HashAlg::Sha1, label);
        s.log = Some([measured::binary(others), relabelled].concat());
        s.format = LogFormat::Binary;
    });
    expectation.judge(&submission)
}

#[test]
fn i06_relabelled_templates_are_refused() {
    let file = Measured::file("/usr/bin/cat", b"cat");
    let signature = hex::decode("030204531f402500020102").unwrap();
    let signed = Measured {
        tail: signature,
        ..file.clone().in_template(Template::ImaSig)
    };
    let unsigned = file.clone().in_template(Template::ImaSig);
    let buffer = Measured::buffer("kexec-cmdline", b"root=/dev/sda1");

    // A signed file as a buffer, which would have to hash to the file's digest.
    relabelled(signed.clone(), Template::ImaBuf).is_refused_with("ima.buf_digest");
    relabelled(unsigned.clone(), Template::ImaBuf).is_refused_with("ima.buf_digest");
    // A buffer as a signed file: it is no signature, whatever the excludes say.
    relabelled(buffer.clone(), Template::ImaSig).is_refused_with("ima.sig_malformed");
    // Other fields than the label says.
    for label in [
        Template::ImaNg,
        Template::ImaNgV2,
        Template::ImaSigV2,
        Template::ImaModSig,
    ] {
        relabelled(signed.clone(), label).is_refused_with("ima.malformed");
        relabelled(buffer.clone(), label).is_refused_with("ima.malformed");
    }
    for label in [
        Template::ImaSig,
        Template::ImaBuf,
        Template::ImaNgV2,
        Template::ImaModSig,
    ] {
        relabelled(file.clone(), label).is_refused_with("ima.malformed");
    }
    let v2 = file.clone().in_template(Template::ImaNgV2);
    relabelled(v2, Template::ImaNg).is_refused_with("ima.malformed");
}

#[test]
fn i06_unknown_templates_and_templates_not_accepted_are_refused() {
    let (machine, submission, expectation) = valid();
    let text = String::from_utf8(measured::ascii(&machine.list)).unwrap();
    for name in ["evm-sig", "d-ng|n-ng", "ima-xx", "IMA-NG", ""] {
        let log = text.replacen("ima-ng", name, 1).into_bytes();
        let judged = expectation.judge(&submission.clone().with(|s| s.log = Some(log)));
        judged.is_refused_with("ima.template_unsupported");
    }
    let narrow = expectation.with(|e| e.ima.templates = vec![Template::ImaSig].into());
    narrow
        .judge(&submission)
        .is_refused_with("ima.template_unsupported");
}

#[test]
fn i07_a_template_hash_that_is_not_of_the_data_is_refused() {
    let (machine, submission, expectation) = valid();
    let text = String::from_utf8(measured::ascii(&machine.list)).unwrap();
    // The third entry's template hash, first digit; the data stays as quoted.
    let line = text.lines().nth(2).unwrap();
    let digit = if &line[3..4] == "f" { "e" } else { "f" };
    let forged = format!("{}{digit}{}", &line[..3], &line[4..]);
    let log = text.replace(line, &forged).into_bytes();
    let judged = expectation.judge(&submission.with(|s| s.log = Some(log)));
    judged.is_refused_with("ima.template_hash");
    assert_eq!(judged.findings[0].entry(), Some(2));
}

#[test]
fn i08_i26_entries_of_a_pcr_that_is_not_quoted_are_refused() {
    with_list(|list| list[1].pcr = 11).is_refused_with("ima.wrong_pcr");
    with_list(|list| {
        list.insert(
            1,
            Measured {
                pcr: 12,
                ..Measured::file("/x", b"x")
            },
        )
    })
    .is_refused_with("ima.wrong_pcr");
    let (machine, submission, expectation) = valid();
    let text = String::from_utf8(measured::ascii(&machine.list)).unwrap();
    let log = text.replacen("10 ", "99 ", 1).into_bytes();
    expectation
        .judge(&submission.with(|s| s.log = Some(log)))
        .is_refused_with("ima.wrong_pcr");
}

#[test]
fn a_second_ima_pcr_is_replayed_when_it_is_declared() {
    let machine = Machine::valid().with(|m| {
        m.banks[0].1 = PcrSet::from_bits(BOOT_AND_IMA | 1 << 11).unwrap();
        m.list.insert(
            2,
            Measured {
                pcr: 11,
                ..Measured::file("/usr/bin/id", b"id")
            },
        );
        m.list.push(Measured {
            pcr: 11,
            ..Measured::file("/usr/bin/cat", b"cat")
        });
    });
    let submission = machine.attest(b"n");
    let expectation = Expectation::of(&machine, b"n");
    expectation
        .judge(&submission)
        .is_refused_with("ima.wrong_pcr");
    let both = expectation.with(|e| e.ima.pcrs = PcrSet::from_bits(0b11 << 10).unwrap());
    both.judge(&submission).is_trusted();
    // Declared and not quoted.
    let more = both.with(|e| e.ima.pcrs = PcrSet::from_bits(0b111 << 10).unwrap());
    more.judge(&submission).is_refused_with("pcr.not_attested");
}

#[test]
fn i26_every_declared_ima_pcr_is_replayed() {
    let pcrs = PcrSet::from_bits(0b1_1111 << 10).unwrap();
    let machine = Machine::valid().with(|m| {
        m.banks[0].1 = pcrs.union(m.banks[0].1);
        m.list.extend((11..15).map(|pcr| Measured {
            pcr,
            ..Measured::file("/usr/bin/ls", b"ls")
        }));
    });
    let expectation = Expectation::of(&machine, b"n").with(|e| e.ima.pcrs = pcrs);
    expectation.judge(&machine.attest(b"n")).is_trusted();
    // The list hides what was measured into the highest of them.
    let hidden = measured::ascii(&machine.list[..machine.list.len() - 1]);
    expectation
        .judge(&machine.attest(b"n").with(|s| s.log = Some(hidden)))
        .is_refused_with("ima.pcr_mismatch");
}

#[test]
fn p05_a_pcr_that_software_resets_is_no_ima_pcr() {
    for index in [16, 23] {
        let pcrs = PcrSet::from_bits(1 << 10 | 1 << index).unwrap();
        let machine = Machine::valid().with(|m| m.banks[0].1 = pcrs.union(m.banks[0].1));
        Expectation::of(&machine, b"n")
            .with(|e| e.ima.pcrs = pcrs)
            .judge(&machine.attest(b"n"))
            .is_refused_with("policy.resettable_pcr");
    }
}

#[test]
fn i09_a_violation_extends_ones_and_not_its_data() {
    // The machine measured a file; the list shows a violation in its place, and the reverse.
    with_list(|list| list[2].violation = true).is_refused_with("ima.pcr_mismatch");
    let (machine, _, expectation) = valid();
    let genuine = machine.with(|m| m.list[2].violation = true);
    let expectation = expectation.with(|e| e.ak_public = genuine.ak.public());
    let mut list = genuine.list.clone();
    list[2].violation = false;
    let submission = genuine
        .attest(&expectation.nonce)
        .with(|s| s.log = Some(measured::ascii(&list)));
    expectation
        .judge(&submission)
        .is_refused_with("ima.pcr_mismatch");
}

#[test]
fn i10_names_of_every_length_and_kind_are_exact_or_malformed() {
    let judge_name = |template: Template, name: &[u8]| {
        let machine = Machine::valid().with(|m| {
            let file = Measured {
                name: name.to_vec(),
                ..Measured::file("/x", b"x")
            };
            m.list.push(file.in_template(template));
        });
        let expectation = Expectation::of(&machine.clone().with(|m| m.list.truncate(4)), b"n")
            .with(|e| {
                let policy: serde_json::Value =
                    serde_json::from_str(e.policy.as_ref().unwrap()).unwrap();
                e.policy = Some(policy_json(policy["digests"].clone(), &["/a"]));
            });
        let submission = machine.attest(b"n").with(|s| {
            s.log = Some(measured::binary(&machine.list));
            s.format = LogFormat::Binary;
        });
        expectation.judge(&submission)
    };
    for template in [Template::Ima, Template::ImaNg] {
        for length in [1, 2, 254, 255] {
            let name = [&b"/a"[..], &vec![b'x'; length]].concat();
            judge_name(template, &name[..length.max(2)]).is_trusted();
        }
        for bad in [&b""[..], b"/a\0b", b"/a b"] {
            judge_name(template, bad).is_refused_with("ima.malformed");
        }
    }
    judge_name(Template::ImaNg, &[&b"/a"[..], &vec![b'x'; 4094]].concat()).is_trusted();
    judge_name(Template::ImaNg, &[&b"/a"[..], &vec![b'x'; 4200]].concat())
        .is_refused_with("ima.malformed");
    judge_name(Template::Ima, &vec![b'/'; 256]).is_refused_with("ima.malformed");
    // Not UTF-8: an exact path that no pattern excludes and this policy does not list.
    let judged = judge_name(Template::ImaNg, b"/a\xff\xfe");
    judged.is_refused_with("ima.path_not_listed");
    assert_eq!(judged.findings[0].path(), Some(&b"/a\xff\xfe"[..]));
}

#[test]
fn i11_ascii_lines_that_could_be_read_in_two_ways_are_malformed() {
    let (machine, submission, expectation) = valid();
    let text = String::from_utf8(measured::ascii(&machine.list)).unwrap();
    let line = text.lines().nth(1).unwrap().to_owned();
    let forged = [
        format!("{line} (deleted)"),
        format!("{line} "),
        line.replace("/usr/bin/bash", "/usr/bin/ba\nsh"),
        line.replace(" ima-ng ", "  ima-ng "),
        line.replacen("10 ", "+10 ", 1),
        line.replacen("10 ", "0x0a ", 1),
        line.replacen("10 ", "", 1),
        line.replace("sha256:", "sha256"),
        line.replace("sha256:", "SHA256:"),
        line.replace("sha256:", "sha384:"),
        line.replace("sha256:", ":"),
        line.to_uppercase().replace("IMA-NG", "ima-ng"),
        line.replace('\n', "\r\n") + "\r",
    ];
    for other in forged {
        assert_ne!(other, line);
        let log = text.replace(&line, &other).into_bytes();
        let judged = expectation.judge(&submission.clone().with(|s| s.log = Some(log)));
        assert_eq!(judged.verdict, "untrusted", "{other:?}");
        let codes = [
            "ima.malformed",
            "ima.template_hash",
            "ima.template_unsupported",
        ];
        assert!(codes.contains(&judged.codes[0]), "{other:?}: {judged:?}");
    }
}

#[test]
fn i13_i22_padded_sha1_banks_match_only_where_they_are_declared() {
    let (machine, _, expectation) = valid();
    let machine = machine.with(|m| {
        m.list.push(Measured {
            violation: true,
            ..Measured::file("/v", b"v")
        });
    });
    let padded = |bytes: &[u8]| {
        let mut event = bytes.to_vec();
        event.resize(32, 0);
        event
    };
    let mut value = vec![0; 32];
    for entry in &machine.list {
        let event = if entry.violation {
            padded(&[0xff; 20])
        } else {
            padded(&oracle::digest(HashAlg::Sha1, &entry.data()))
        };
        value = oracle::extend(HashAlg::Sha256, &value, &event);
    }
    let mut submission = machine.attest(&expectation.nonce);
    let mut values = rat_engine::pcr::PcrValues::new();
    for (_, pcr, old) in submission.values.iter() {
        let ima = Digest::new(HashAlg::Sha256, &value).unwrap();
        values.insert(pcr, if pcr.get() == 10 { ima } else { old });
    }
    let hash = machine.ak.hash();
    submission.attest =
        rat_tests::software_tpm::Attest::quote(hash, &expectation.nonce, &machine.banks, &values);
    submission.values = values;
    submission.sign();
    let own = expectation.with(|e| {
        e.ak_public = machine.ak.public();
        e.ima.accept_violations = true;
    });
    own.judge(&submission).is_refused_with("ima.pcr_mismatch");
    let declared = own.with(|e| e.ima.scheme = BankScheme::PaddedSha1);
    declared.judge(&submission).is_trusted();
    declared
        .judge(&machine.attest(&declared.nonce))
        .is_refused_with("ima.pcr_mismatch");
}

#[test]
fn i17_oversized_entries_and_logs_end_in_a_limit_code() {
    let (_, submission, expectation) = valid();
    let log = submission.log.clone().unwrap();
    let tight = expectation
        .clone()
        .with(|e| e.ima.limit_bytes = log.len() as u64 - 1);
    tight.judge(&submission).is_refused_with("ima.limit");
    let exact = expectation
        .clone()
        .with(|e| e.ima.limit_bytes = log.len() as u64);
    exact.judge(&submission).is_trusted();

    let endless = submission
        .clone()
        .with(|s| s.log = Some(vec![b'1'; 3 << 20]));
    expectation
        .judge_in_pieces(&endless, 4096)
        .is_refused_with("ima.malformed");
    // A binary entry that claims four gigabytes.
    let huge = submission.with(|s| {
        let mut log = vec![10, 0, 0, 0];
        log.extend([1; 20]);
        log.extend(6_u32.to_le_bytes());
        log.extend(b"ima-ng");
        log.extend(u32::MAX.to_le_bytes());
        s.log = Some(log);
        s.format = LogFormat::Binary;
    });
    expectation.judge(&huge).is_refused_with("ima.malformed");
}

#[test]
fn i21_banks_that_match_after_different_entries_are_refused() {
    let pcrs = PcrSet::from_bits(BOOT_AND_IMA).unwrap();
    let machine =
        Machine::valid().with(|m| m.banks = vec![(HashAlg::Sha256, pcrs), (HashAlg::Sha384, pcrs)]);
    let earlier = machine.clone().with(|m| m.list.truncate(3));
    let mut values = rat_engine::pcr::PcrValues::new();
    for (_, pcr, value) in machine
        .values()
        .iter()
        .filter(|(bank, ..)| *bank == HashAlg::Sha256)
    {
        values.insert(pcr, value);
    }
    let older = earlier.values();
    for (_, pcr, value) in older.iter().filter(|(bank, ..)| *bank == HashAlg::Sha384) {
        values.insert(pcr, value);
    }
    let mut submission = machine.attest(b"n");
    submission.attest =
        rat_tests::software_tpm::Attest::quote(machine.ak.hash(), b"n", &machine.banks, &values);
    submission.values = values;
    submission.sign();
    Expectation::of(&machine, b"n")
        .judge(&submission)
        .is_refused_with("ima.banks_disagree");
}

#[test]
fn i03_i21_a_list_continues_where_it_was_proven_and_nowhere_else() {
    let (machine, submission, expectation) = valid();
    let first = expectation.judge(&submission).ima.unwrap();
    let later = machine.clone().with(|m| {
        m.list.push(Measured::file("/usr/bin/ls", b"ls"));
        m.list.push(Measured::file("/usr/bin/bash", b"bash"));
    });
    let nonce = expectation.nonce.clone();
    let answer = |from: usize| {
        later
            .attest(&nonce)
            .with(|s| s.log = Some(measured::ascii(&later.list[from..])))
    };
    let continued = expectation.with(|e| {
        e.start = Start::Continue {
            committed: first.committed.clone(),
            learned: first.learned.clone(),
            passed_under: first.passed_under,
        };
    });
    let judged = continued.judge(&answer(4));
    judged.is_trusted();
    assert_eq!(judged.ima.unwrap().committed.position(), 6);
    // The same delta again gives the same verdict.
    continued.judge(&answer(4)).is_trusted();
    // From another entry: a gap, an overlap.
    continued
        .judge(&answer(5))
        .is_refused_with("ima.pcr_mismatch");
    continued
        .judge(&answer(3))
        .is_refused_with("ima.pcr_mismatch");
    // Nothing new: the quoted values are the committed ones.
    let same = continued
        .clone()
        .judge(&machine.attest(&nonce).with(|s| s.log = Some(Vec::new())));
    same.is_trusted();
    // A resend from 0 reproduces the committed state on its way.
    let again = continued.with(|e| e.start = Start::AgainInBoot(first.committed.clone()));
    again.judge(&answer(0)).is_trusted();
}

#[test]
fn l07_entries_that_did_not_pass_under_this_policy_are_judged_from_the_first() {
    let (machine, submission, expectation) = valid();
    let machine = machine.with(|m| m.list.push(Measured::file("/tmp/evil", b"evil")));
    let expectation = expectation.with(|e| e.ak_public = machine.ak.public());
    let continued = |expectation: &Expectation, first: ImaState| {
        expectation.clone().with(|e| {
            e.start = Start::Continue {
                committed: first.committed,
                learned: first.learned,
                passed_under: first.passed_under,
            };
        })
    };
    let nothing_new = machine
        .attest(&expectation.nonce)
        .with(|s| s.log = Some(Vec::new()));
    // What failed stays failed when nothing is added to it.
    let failed = expectation.judge(&machine.attest(&expectation.nonce));
    failed.is_refused_with("ima.path_not_listed");
    let failed = failed.ima.unwrap();
    continued(&expectation, failed)
        .judge(&nothing_new)
        .is_refused_with("ima.offset_mismatch");
    // Without a policy nothing was judged; another policy judged something else.
    let unjudged = expectation.clone().with(|e| e.policy = None);
    let unjudged = unjudged.judge(&submission).ima.unwrap();
    continued(&expectation, unjudged)
        .judge(&submission.clone().with(|s| s.log = Some(Vec::new())))
        .is_refused_with("ima.offset_mismatch");
    let passed = expectation.judge(&submission).ima.unwrap();
    let other = policy_json(serde_json::json!({ "/x": ["00".repeat(32)] }), &[]);
    let other = expectation.with(|e| e.policy = Some(other));
    continued(&other, passed)
        .judge(&submission.with(|s| s.log = Some(Vec::new())))
        .is_refused_with("ima.offset_mismatch");
}

#[test]
fn i21_t09_a_resend_that_does_not_reproduce_the_proven_values_is_of_another_machine() {
    let (_, submission, expectation) = valid();
    let other = vec![(PcrIndex::IMA, Digest::ones(HashAlg::Sha256))];
    for position in [0, 1, 3, 4] {
        let before = Committed::new(position, other.clone());
        expectation
            .clone()
            .with(|e| e.start = Start::AgainInBoot(before))
            .judge(&submission)
            .is_refused_with("identity.clone_suspected");
    }
}

#[test]
fn i25_a_list_lost_at_a_kexec_and_one_kept_over_hibernation_are_told_apart() {
    let (machine, submission, expectation) = valid();
    let before = expectation.judge(&submission).ima.unwrap().committed;
    let nonce = expectation.nonce.clone();
    let boot: Vec<_> = (0..10)
        .map(|pcr| boot_value(HashAlg::Sha256, pcr))
        .collect();
    let fresh = [
        Measured::boot_aggregate(HashAlg::Sha256, &boot),
        Measured::file("/usr/bin/ls", b"ls"),
    ];
    // kexec: PCR 10 goes on, the list starts again.
    let kexec = machine.clone().with(|m| m.list.extend(fresh.clone()));
    let lost = kexec
        .attest(&nonce)
        .with(|s| s.log = Some(measured::ascii(&fresh)));
    let again = expectation
        .clone()
        .with(|e| e.start = Start::AgainInBoot(before.clone()));
    again.judge(&lost).is_refused_with("ima.kexec_log_lost");
    // Hibernation: PCR 10 starts again, the list goes on.
    let resumed = machine.clone().with(|m| m.list = fresh.to_vec());
    let kept: Vec<_> = machine.list.iter().chain(&fresh).cloned().collect();
    let woken = resumed
        .attest(&nonce)
        .with(|s| s.log = Some(measured::ascii(&kept)));
    let after = expectation.with(|e| e.start = Start::AfterBoot(before));
    after.judge(&woken).is_refused_with("ima.hibernated");
    // An ordinary reboot is neither.
    after.judge(&resumed.attest(&nonce)).is_trusted();
}
