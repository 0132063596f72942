//! One piece of evidence from an assignment to what is to be recorded: quote, list in pieces, kept
//! evidence.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Binding, qualifying_data};
use rat_engine::ima::{LearnedKeys, LearnedKeysError, LogFormat, Start};
use rat_engine::limits;
use rat_engine::shard::{
    AgentState, Assignment, BootEpoch, Judged, KeptEvidence, KeptLearnedKey, Overrun, Recheck,
    RecheckError, Retention, Task, VerdictKind,
};
use rat_tests::assignment::{
    BINDING, BOOT, agent, ak_name, answer, answer_with, assignment, challenge, codes, run, streamed,
};
use rat_tests::evidence::Machine;
use rat_tests::measured::{self, Measured};
use rat_tests::measured_keys::{SigningKey, policy_with_keyring};
use rat_tests::oracle;

/// A machine, and the assignment that its answer with the whole list gives.
fn first() -> (Machine, Assignment) {
    let machine = Machine::valid();
    let challenge = challenge(&machine, Some(0));
    let submission = answer(&machine, &challenge, 0);
    let assignment = assignment(&machine, challenge, submission);
    (machine, assignment)
}

#[track_caller]
fn is_refused(judged: &Judged, code: &str) {
    assert_eq!(judged.verdict, VerdictKind::Untrusted, "{judged:#?}");
    assert_eq!(codes(judged), [code], "{judged:#?}");
    assert_eq!(judged.first().unwrap().code.as_str(), code);
}

/// What continues after the machine measured one more file.
fn continued() -> (Machine, Assignment) {
    let (machine, before) = first();
    let proven = run(before).ima.unwrap();
    let machine = machine.with(|m| m.list.push(Measured::file("/usr/bin/new", b"new")));
    let challenge = challenge(&machine, Some(proven.committed.position()));
    let submission = answer(&machine, &challenge, 4);
    let mut next = assignment(&machine, challenge, submission);
    let judge = next.judge.as_ref().unwrap();
    next.start = Start::Continue {
        committed: proven.committed,
        learned: proven.learned,
        passed_under: Some(judge.policy().compiled().digest()),
    };
    next.boot = Some(BOOT);
    (machine, next)
}

#[test]
fn tasks_and_what_they_end_with_move_between_threads() {
    fn moves<T: Send + 'static>() {}
    moves::<Assignment>();
    moves::<Task>();
    moves::<Judged>();
    let (_, assignment) = first();
    let mut task = Task::new(assignment);
    task.begin();
    let judged = std::thread::spawn(move || task.finish()).join().unwrap();
    assert_eq!(judged.verdict, VerdictKind::Trusted);
}

#[test]
fn a_valid_answer_is_trusted_and_says_what_to_remember() {
    let (machine, assignment) = first();
    let policy = assignment
        .judge
        .as_ref()
        .unwrap()
        .policy()
        .compiled()
        .digest();
    let judged = run(assignment);
    assert_eq!(judged.verdict, VerdictKind::Trusted, "{judged:#?}");
    assert!(judged.findings.is_empty() && judged.warnings.is_empty());
    assert_eq!(judged.policy, Some(policy));
    let quote = judged.quote.unwrap();
    assert_eq!(BootEpoch::of(&quote.clock), BOOT);
    assert_eq!(judged.boot_pcrs().len(), 10);
    assert!(!judged.boot_log_explained);
    let ima = judged.ima.unwrap();
    assert_eq!(ima.committed.position(), 4);
    assert_eq!(ima.passed_under, Some(policy));
    let log = judged.log.unwrap();
    assert_eq!((log.from_entry, log.to_entry), (0, 4));
    assert_eq!(log.whole.as_deref(), Some(&*measured::ascii(&machine.list)));
    assert_eq!(log.length, log.whole.unwrap().len() as u64);
}

#[test]
fn only_entries_before_the_cut_are_kept() {
    let machine = Machine::valid();
    let challenge = challenge(&machine, Some(0));
    let newer = machine
        .clone()
        .with(|m| m.list.push(Measured::file("/usr/bin/new", b"new")));
    let mut submission = answer(&machine, &challenge, 0);
    let upload = submission.ima.as_mut().unwrap();
    let longer = measured::ascii(&newer.list);
    upload.length = longer.len() as u64;
    upload.whole = Some(longer);
    let judged = run(assignment(&machine, challenge, submission));
    assert_eq!(judged.verdict, VerdictKind::Trusted);
    assert_eq!(judged.report.unwrap().pending, 1);
    let log = judged.log.unwrap();
    assert_eq!((log.from_entry, log.to_entry), (0, 4));
    assert_eq!(log.whole.unwrap(), measured::ascii(&machine.list));
}

#[test]
fn i18_a_list_in_pieces_ends_like_the_whole_one() {
    let (_, whole) = first();
    let expected = run(whole.clone());
    for size in [1, 7, 100, 10_000] {
        let mut pieces = whole.clone();
        let (submission, bytes) = streamed(pieces.submission);
        pieces.submission = submission;
        let mut task = Task::new(pieces);
        task.begin();
        let mut left = bytes.len() as u64;
        assert_eq!(task.remaining(), left);
        for piece in bytes.chunks(size) {
            task.feed(piece).unwrap();
            left -= piece.len() as u64;
            assert_eq!(task.remaining(), left);
        }
        let judged = task.finish();
        assert_eq!(judged.verdict, VerdictKind::Trusted);
        assert_eq!(format!("{:?}", judged.ima), format!("{:?}", expected.ima));
        assert_eq!(judged.evidence_sha256, expected.evidence_sha256);
        let log = judged.log.unwrap();
        assert_eq!(
            (log.to_entry, log.length, log.whole),
            (4, bytes.len() as u64, None)
        );
    }
}

#[test]
fn i01_more_bytes_than_announced_are_refused_and_never_trusted() {
    let (_, mut assignment) = first();
    let (submission, bytes) = streamed(assignment.submission);
    assignment.submission = submission;
    let announced = bytes.len() as u64;
    let mut task = Task::new(assignment);
    task.begin();
    task.feed(&bytes).unwrap();
    assert_eq!(task.feed(b"1"), Err(Overrun { announced }));
    assert_eq!(task.remaining(), 0);
    let judged = task.finish();
    is_refused(&judged, "ima.incomplete");
    assert!(judged.ima.is_none() && judged.log.is_none());
}

#[test]
fn i01_fewer_bytes_than_announced_are_never_trusted() {
    let (_, whole) = first();
    for missing in [1, 100] {
        let mut assignment = whole.clone();
        let (submission, bytes) = streamed(assignment.submission);
        assignment.submission = submission;
        let mut task = Task::new(assignment);
        task.begin();
        task.feed(&bytes[..bytes.len() - missing]).unwrap();
        assert_eq!(task.remaining(), missing as u64);
        is_refused(&task.finish(), "ima.incomplete");
    }
    for change in [1, u64::MAX] {
        let mut assignment = whole.clone();
        let upload = assignment.submission.ima.as_mut().unwrap();
        upload.length = upload.length.wrapping_add(change);
        is_refused(&run(assignment), "ima.incomplete");
    }
    let mut task = Task::new(whole);
    assert_eq!(task.feed(b"1"), Err(Overrun { announced: 0 }), "not begun");
    assert_eq!(task.finish().verdict, VerdictKind::Trusted);
}

#[test]
fn i01_a_last_line_without_its_end_is_not_kept() {
    let (_, mut assignment) = first();
    let upload = assignment.submission.ima.as_mut().unwrap();
    upload.length -= 1;
    assert_eq!(upload.whole.as_mut().unwrap().pop(), Some(b'\n'));
    let judged = run(assignment);
    is_refused(&judged, "ima.incomplete");
    assert!(judged.log.is_none());
}

#[test]
fn i29_a_list_over_the_limit_is_refused_before_it_is_sent() {
    let (_, mut assignment) = first();
    let (submission, bytes) = streamed(assignment.submission);
    assignment.submission = submission;
    assignment.ima.limit_bytes = bytes.len() as u64 - 1;
    let mut task = Task::new(assignment);
    task.begin();
    assert_eq!(task.remaining(), 0);
    is_refused(&task.finish(), "ima.limit");
}

#[test]
fn a_list_is_not_waited_for_when_the_quote_is_not_genuine() {
    let (_, mut assignment) = first();
    let (submission, _) = streamed(assignment.submission);
    assignment.submission = submission;
    assignment.submission.signature[20] ^= 1;
    let mut task = Task::new(assignment);
    task.begin();
    assert_eq!(task.remaining(), 0);
    let judged = task.finish();
    is_refused(&judged, "quote.signature");
    assert!(judged.quote.is_none() && judged.ima.is_none() && judged.log.is_none());
    assert!(judged.boot_pcrs().is_empty());
}

#[test]
fn q13_a_quote_of_another_connection_is_named_as_such() {
    let (machine, assignment) = first();
    for claimed in [[1; 32], [2; 32]] {
        for binding in [Binding::Channel(claimed), Binding::Relay(claimed)] {
            let mut relayed = assignment.clone();
            let challenge = &relayed.challenge;
            let nonce = qualifying_data(challenge, &binding, &ak_name(&machine), &agent());
            let made = machine.attest(&nonce);
            relayed.submission.quote = made.quote;
            relayed.submission.signature = made.signature;
            is_refused(&run(relayed.clone()), "quote.nonce_mismatch");
            relayed.submission.claimed_binding = Some(claimed);
            let judged = run(relayed.clone());
            is_refused(&judged, "quote.channel_mismatch");
            assert!(judged.quote.is_none() && judged.ima.is_none());
            relayed.submission.claimed_binding = Some([3; 32]);
            is_refused(&run(relayed), "quote.nonce_mismatch");
        }
    }
    // What is claimed beside a right quote decides nothing.
    let mut right = assignment;
    right.submission.claimed_binding = Some([9; 32]);
    assert_eq!(run(right).verdict, VerdictKind::Trusted);
}

#[test]
fn q15_a_relays_binding_is_not_a_channels() {
    let (_, mut assignment) = first();
    let Binding::Channel(bytes) = BINDING else {
        panic!("a channel");
    };
    assignment.submission.binding = Binding::Relay(bytes);
    is_refused(&run(assignment), "quote.nonce_mismatch");
}

#[test]
fn i03_a_list_from_another_entry_than_asked_for_is_refused() {
    let (machine, assignment) = continued();
    assert_eq!(run(assignment.clone()).verdict, VerdictKind::Trusted);
    for from in [1, 3, 5, u64::MAX] {
        let mut other = assignment.clone();
        other.submission.ima.as_mut().unwrap().from_entry = from;
        let judged = run(other);
        is_refused(&judged, "ima.offset_mismatch");
        assert!(judged.ima.is_none());
    }
    // From 0 it may always come.
    let mut whole = assignment.clone();
    whole.submission = answer(&machine, &assignment.challenge, 0);
    let judged = run(whole);
    assert_eq!(judged.verdict, VerdictKind::Trusted, "{judged:#?}");
    assert_eq!(judged.log.unwrap().from_entry, 0);
}

#[test]
fn i03_a_list_that_was_not_asked_for_is_refused() {
    let (machine, mut assignment) = first();
    assignment.challenge.ima_from_entry = None;
    assignment.submission = answer(&machine, &assignment.challenge, 0);
    is_refused(&run(assignment), "ima.offset_mismatch");
}

#[test]
fn t02_after_a_reboot_only_a_list_from_0_counts() {
    let (machine, assignment) = continued();
    let rebooted = |from| {
        answer_with(&machine, &assignment.challenge, from, |attest| {
            attest.reset_count += 1;
        })
    };
    let mut delta = assignment.clone();
    delta.submission = rebooted(4);
    let judged = run(delta);
    is_refused(&judged, "ima.offset_mismatch");
    assert_eq!(
        judged.quote.unwrap().clock.reset_count,
        8,
        "so that it can be asked again"
    );
    let mut whole = assignment.clone();
    whole.submission = rebooted(0);
    assert_eq!(run(whole).verdict, VerdictKind::Trusted);
}

#[test]
fn i01_a_shorter_list_of_the_same_boot_is_truncated_and_of_a_new_one_is_not() {
    let (machine, assignment) = continued();
    let shorter = machine.with(|m| m.list.truncate(2));
    for (resets, expected) in [(0, vec!["ima.truncated"]), (1, vec![])] {
        let mut whole = assignment.clone();
        whole.submission = answer_with(&shorter, &assignment.challenge, 0, |attest| {
            attest.reset_count += resets;
        });
        assert_eq!(codes(&run(whole)), expected);
    }
}

#[test]
fn s18_the_evidence_digest_covers_every_part() {
    let (_, assignment) = first();
    let digest = |assignment: Assignment| run(assignment).evidence_sha256;
    let valid = digest(assignment.clone());
    assert_eq!(valid, digest(assignment.clone()));
    let changes: [fn(&mut Assignment); 4] = [
        |a| a.submission.quote[40] ^= 1,
        |a| a.submission.signature[20] ^= 1,
        |a| a.challenge.nonce.0[0] ^= 1,
        |a| a.submission.pcr_values = rat_engine::pcr::PcrValues::new(),
    ];
    for change in changes {
        let mut other = assignment.clone();
        change(&mut other);
        assert_ne!(digest(other), valid);
    }
}

/// The kept form of evidence that was judged, and the list it proves.
fn kept(judged: Judged) -> (KeptEvidence, Vec<u8>) {
    let preimage = judged.evidence.preimage();
    let parts = judged.evidence;
    let log = judged.log.unwrap();
    let evidence = KeptEvidence {
        reason: Retention::FirstPass,
        at_unix_ms: 0,
        quote: parts.quote,
        signature: parts.signature,
        pcr_values: parts
            .pcr_values
            .iter()
            .map(|(bank, pcr, value)| (bank.tpm_id(), pcr.get(), value.as_bytes().to_vec()))
            .collect(),
        preimage,
        boot_log: parts.boot_log,
        ima_entries: log.to_entry,
    };
    (evidence, log.whole.unwrap())
}

#[test]
fn s18_kept_evidence_can_be_checked_again() {
    let (machine, assignment) = first();
    let name = ak_name(&machine);
    let machine_id = agent();
    let judged = run(assignment.clone());
    let digest = judged.evidence_sha256;
    let (evidence, list) = kept(judged);
    assert_eq!(evidence.digest(), digest);
    let against = |list| Recheck {
        agent: &machine_id,
        key: assignment.key.clone(),
        ak_name: &name,
        rules: assignment.rules,
        pcr_policy: None,
        boot_pcrs: None,
        judge: assignment.judge.clone(),
        ima: assignment.ima.clone(),
        list: Some(list),
    };
    let appraised = evidence.recheck(against(&list)).unwrap();
    assert_eq!(appraised.verdict.as_str(), "trusted");
    // Another machine's, another key's, other entries.
    let other = AgentId::parse("machine-2").unwrap();
    let foreign = Recheck {
        agent: &other,
        ..against(&list)
    };
    assert_eq!(
        evidence.recheck(foreign).unwrap_err(),
        RecheckError::OtherAgent
    );
    let foreign = Recheck {
        ak_name: b"another",
        ..against(&list)
    };
    assert_eq!(
        evidence.recheck(foreign).unwrap_err(),
        RecheckError::OtherKey
    );
    let fewer = KeptEvidence {
        ima_entries: 3,
        ..evidence.clone()
    };
    let entries = RecheckError::Entries {
        found: 4,
        recorded: 3,
    };
    assert_eq!(fewer.recheck(against(&list)).unwrap_err(), entries);
    // Every byte of what is kept counts.
    let edits: [fn(&mut KeptEvidence); 4] = [
        |kept| kept.quote[40] ^= 1,
        |kept| *kept.signature.last_mut().unwrap() ^= 1,
        |kept| kept.pcr_values[3].2[0] ^= 1,
        |kept| kept.preimage[30] ^= 1,
    ];
    for edit in edits {
        let mut edited = evidence.clone();
        edit(&mut edited);
        let appraised = edited.recheck(against(&list)).unwrap();
        assert_eq!(appraised.verdict.as_str(), "untrusted");
    }
    let mut shorter = evidence.clone();
    shorter.preimage.pop();
    assert!(matches!(
        shorter.recheck(against(&list)),
        Err(RecheckError::Preimage(_))
    ));
    let mut altered = list.clone();
    altered[60] ^= 1;
    let appraised = evidence.recheck(against(&altered)).unwrap();
    assert_eq!(appraised.verdict.as_str(), "untrusted");
}

#[test]
fn q15_the_kept_preimage_hashes_to_the_qualifying_data() {
    let (machine, assignment) = first();
    let expected = qualifying_data(
        &assignment.challenge,
        &BINDING,
        &ak_name(&machine),
        &agent(),
    );
    let judged = run(assignment);
    let alg = rat_engine::hash::HashAlg::Sha256;
    assert_eq!(oracle::digest(alg, &judged.evidence.preimage()), expected);
}

/// A machine that learned keys, and what it learned.
fn learned(keys: &[SigningKey]) -> LearnedKeys {
    let certificates: Vec<_> = keys
        .iter()
        .map(|key| Measured::buffer(".ima", &key.spki_der()))
        .collect();
    let mut policy = Machine::valid().policy();
    for certificate in &certificates {
        policy = policy_with_keyring(&policy, ".ima", &certificate.digest);
    }
    let machine = Machine::valid().with(|m| m.list.extend(certificates));
    let challenge = challenge(&machine, Some(0));
    let submission = answer(&machine, &challenge, 0);
    // The machine's own policy takes names of files only.
    let mut assignment = assignment(
        &Machine::valid().with(|m| m.ak = machine.ak.clone()),
        challenge,
        submission,
    );
    let policy = rat_engine::policy::RuntimePolicy::parse(policy.as_bytes()).unwrap();
    let judge = rat_engine::ima::judge::Judge::new(policy.into()).unwrap();
    assignment.judge = Some(judge.into());
    let judged = run(assignment);
    judged.ima.unwrap().learned
}

/// As they stand in a store.
fn kept_keys(learned: &LearnedKeys) -> Vec<KeptLearnedKey> {
    let mut state = AgentState::default();
    state.keep_learned(learned);
    state.learned
}

fn restore(kept: &[KeptLearnedKey]) -> Result<LearnedKeys, LearnedKeysError> {
    let state = AgentState {
        learned: kept.to_vec(),
        ..AgentState::default()
    };
    state.learned_keys()
}

#[test]
fn i23_learned_keys_are_restored_as_they_were() {
    let keys = [SigningKey::p256()];
    let learned = learned(&keys);
    assert_eq!(learned.len(), 1);
    let kept = kept_keys(&learned);
    assert_eq!(kept[0].keyring, b".ima");
    assert_eq!(kept[0].measured, keys[0].spki_der());
    let restored = restore(&kept).unwrap();
    assert_eq!(restored, learned);
    assert_eq!(restored.identity(), learned.identity());
    assert!(restored.identity().is_some());
    assert_eq!(restore(&[]).unwrap(), LearnedKeys::default());
}

#[test]
fn i23_what_cannot_be_a_key_is_not_restored() {
    let good = KeptLearnedKey {
        keyring: b".ima".to_vec(),
        measured: SigningKey::p256().spki_der(),
    };
    for bytes in [&b""[..], b"no key", &[0x30; 64]] {
        let bad = KeptLearnedKey {
            measured: bytes.to_vec(),
            ..good.clone()
        };
        let restored = restore(&[good.clone(), bad]);
        assert_eq!(
            restored.unwrap_err(),
            LearnedKeysError::NotAKey { index: 1 }
        );
    }
    let many = vec![good; limits::IMA_KEYS_MAX + 1];
    assert!(restore(&many[1..]).is_ok());
    assert_eq!(restore(&many).unwrap_err(), LearnedKeysError::TooMany);
}

#[test]
fn i23_a_restored_key_verifies_what_the_learned_one_does() {
    let key = SigningKey::p256();
    let certificate = Measured::buffer(".ima", &key.spki_der());
    let policy = policy_with_keyring(&Machine::valid().policy(), ".ima", &certificate.digest);
    let machine = Machine::valid().with(|m| {
        m.list.push(certificate);
        m.list.push(key.signed_file("/usr/bin/signed", b"content"));
    });
    let before = machine.clone().with(|m| m.list.truncate(5));
    let judge = rat_engine::policy::RuntimePolicy::parse(policy.as_bytes()).unwrap();
    let judge = rat_engine::ima::judge::Judge::new(judge.into()).unwrap();
    let judge = std::sync::Arc::new(judge);
    let plain = Machine::valid().with(|m| m.ak = machine.ak.clone());
    let at_first = challenge(&machine, Some(0));
    let mut first = assignment(&plain, at_first, answer(&before, &at_first, 0));
    first.judge = Some(judge.clone());
    let proven = run(first).ima.unwrap();
    let kept = kept_keys(&proven.learned);
    let then = challenge(&machine, Some(5));
    let next = |learned| {
        let mut next = assignment(&plain, then, answer(&machine, &then, 5));
        next.judge = Some(judge.clone());
        next.boot = Some(BOOT);
        next.start = Start::Continue {
            committed: proven.committed.clone(),
            learned,
            passed_under: proven.passed_under,
        };
        run(next)
    };
    let judged = next(restore(&kept).unwrap());
    assert_eq!(judged.verdict, VerdictKind::Trusted, "{judged:#?}");
    is_refused(&next(LearnedKeys::default()), "ima.path_not_listed");
}

#[test]
fn blank_lines_before_the_cut_belong_to_what_is_kept() {
    let (machine, mut assignment) = first();
    let lines: Vec<_> = machine
        .list
        .iter()
        .map(|m| m.ascii(rat_engine::hash::HashAlg::Sha1))
        .collect();
    let list = lines.join(&b"\n\n"[..]);
    let upload = assignment.submission.ima.as_mut().unwrap();
    let proven = list.len() as u64;
    upload.whole = Some([&list[..], b"\n\n"].concat());
    upload.length = proven + 2;
    assert_eq!(upload.format, LogFormat::Ascii);
    let judged = run(assignment);
    assert_eq!(judged.report.unwrap().proven_bytes, proven);
    assert_eq!(judged.log.unwrap().whole.unwrap(), list);
}
