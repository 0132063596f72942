//! Quotes of machines whose lists have not grown: what spares work for them changes no outcome.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use rat_engine::appraisal::{Appraisal, Reference};
use rat_engine::evidence::qualifying_data;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::Form;
use rat_engine::ima::{BankScheme, Committed, ImaError, Start};
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::shard::{Assignment, Task, VerdictKind};
use rat_engine::verdict::Reason;
use rat_tests::assignment::{BINDING, run, steady};
use rat_tests::measured::{self, Measured};
use rat_tests::software_tpm::Scheme;

/// What the stages make of an assignment that continues a list, without a task's shortcuts.
fn by_stages(it: &Assignment) -> String {
    let nonce = qualifying_data(&it.challenge, &BINDING, &it.ak_name, &it.agent);
    let reference = Reference {
        key: it.key.clone(),
        key_attributes: Some(Ok(())),
        nonce: nonce.as_slice().into(),
        challenged: Some(it.challenge.selection),
        pcr_policy: it.pcr_policy.clone(),
        boot_pcrs: it.boot_pcrs,
        measured_boot: None,
        judge: it.judge.clone(),
    };
    let sent = &it.submission;
    let (quote, signature, values) = (&sent.quote, &sent.signature, sent.pcr_values.clone());
    let mut appraisal = Appraisal::of_quote(reference, it.rules, quote, signature, values);
    let mut report = None;
    if let Some(mut appraiser) = appraisal.ima(it.ima.clone(), it.start.clone()) {
        appraiser.feed(sent.ima.as_ref().unwrap().whole.as_ref().unwrap());
        report = appraisal.ima_finished(appraiser.finish());
    }
    let ended = appraisal.conclude();
    let verdict = ended.verdict.as_str();
    format!(
        "{verdict} {:?} {:?} {:?} {report:?}",
        ended.findings, ended.warnings, ended.ima
    )
}

/// The same of a task.
fn by_task(it: &Assignment) -> String {
    let judged = Task::new(it.clone()).finish();
    let verdict = match judged.verdict {
        VerdictKind::Trusted => "trusted",
        VerdictKind::Authentic => "authentic",
        VerdictKind::Untrusted => "untrusted",
    };
    let (ima, report) = (judged.ima, judged.report);
    format!(
        "{verdict} {:?} {:?} {ima:?} {report:?}",
        judged.findings, judged.warnings
    )
}

#[test]
fn i24_a_list_without_new_entries_ends_as_with_every_boot_aggregate_known() {
    let assignment = steady(Scheme::Ecdsa(256), 1);
    let value = |byte| Digest::new(HashAlg::Sha256, &[byte; 32]).unwrap();
    let running = |of: &mut Assignment, running: Vec<(PcrIndex, Digest)>| {
        if let Start::Continue { committed, .. } = &mut of.start {
            *committed = Committed::new(committed.position(), running);
        }
    };
    let passed_under = |of: &mut Assignment, digest| {
        if let Start::Continue { passed_under, .. } = &mut of.start {
            *passed_under = digest;
        }
    };
    type Change<'c> = &'c dyn Fn(&mut Assignment);
    let changes: [(Change<'_>, &str); 9] = [
        (&|_| {}, "trusted"),
        (&|of| of.judge = None, "authentic"),
        (&|of| of.ima.boot_aggregate = Some(Form::Pcr0To7), "trusted"),
        (&|of| of.ima.scheme = BankScheme::PaddedSha1, "trusted"),
        (&|of| passed_under(of, None), "untrusted"),
        (&|of| passed_under(of, Some(value(1))), "untrusted"),
        (
            &|of| running(of, vec![(PcrIndex::IMA, value(2))]),
            "untrusted",
        ),
        (&|of| running(of, Vec::new()), "untrusted"),
        (
            &|of| of.ima.pcrs = PcrSet::from_bits(1 << 11).unwrap(),
            "untrusted",
        ),
    ];
    for (at, (change, expected)) in changes.iter().enumerate() {
        let mut changed = assignment.clone();
        change(&mut changed);
        let ended = by_task(&changed);
        assert_eq!(ended, by_stages(&changed), "change {at}");
        assert!(ended.starts_with(expected), "change {at}: {ended}");
    }
}

#[test]
fn x03_entries_behind_an_announcement_of_none_are_not_looked_at() {
    let mut assignment = steady(Scheme::Ecdsa(256), 2);
    let list = assignment.submission.ima.as_mut().unwrap();
    let file = measured::ascii(&[Measured::file("/usr/bin/new", b"new")]);
    let received = file.len() as u64;
    list.whole = Some(file);
    let judged = run(assignment);
    assert_eq!(judged.verdict, VerdictKind::Untrusted);
    let incomplete = ImaError::Incomplete {
        announced: 0,
        received,
    };
    assert_eq!(judged.first().unwrap().reason, Reason::Ima(incomplete));
    assert!(judged.ima.is_none() && judged.log.is_none());
}
