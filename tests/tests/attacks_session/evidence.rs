//! What evidence shows of policies and of who made it: L04, L07, L10, T09, N04.

use rat_engine::evidence::Instance;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{EffectiveStatus, Event, Group};
use rat_engine::verdict::Code;
use rat_tests::evidence::{Machine, policy_json};
use rat_tests::measured::Measured;
use rat_tests::software_tpm::SoftwareAk;
use rat_tests::stage::{Stage, group_of, policy};

use super::rejudge::{activate, kept, restart, unusable};
use super::{trusted, turned_away, unchanged};

/// The group that enforces this policy.
fn enforcing(machine: &Machine, version: u64, text: &str) -> Group {
    Group {
        enforced: Some(policy(version, text)),
        ..group_of(machine)
    }
}

/// The policy of a machine after a change of its digests, with these exclude patterns.
fn policy_with(
    machine: &Machine,
    change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
    excludes: &[&str],
) -> String {
    let policy: serde_json::Value = serde_json::from_str(&machine.policy()).unwrap();
    let mut digests = policy["digests"].as_object().unwrap().clone();
    change(&mut digests);
    policy_json(serde_json::Value::Object(digests), excludes)
}

#[test]
fn l10_what_passes_by_exclude_is_counted_as_it_is_judged_and_judged_again() {
    let machine = Machine::valid();
    let usual = group_of(&machine);
    let without_ls = |excludes: &[&str]| {
        let text = policy_with(
            &machine,
            |digests| drop(digests.remove("/usr/bin/ls")),
            excludes,
        );
        enforcing(&machine, 2, &text)
    };
    let mut stage = Stage::new(without_ls(&["^/usr/bin/ls$"]));
    stage.keeps_lists = true;
    let mut agent = stage.enrol("machine-1", machine.clone());
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    assert_eq!(stage.view(&agent).state.list.excluded, Some(1));
    // What is added is added to the count.
    for name in ["/usr/bin/ls", "/usr/bin/bash"] {
        let content = name.rsplit('/').next().unwrap();
        let more = Measured::file(name, content.as_bytes());
        agent.machine.list.push(more);
    }
    stage.attest(&agent, session);
    assert_eq!(stage.view(&agent).state.list.excluded, Some(2));
    stage.disconnect(&agent, session);
    // The stored list is counted anew by another policy, and the machine by what it sends after.
    activate(&mut stage, usual.clone());
    assert_eq!(stage.view(&agent).state.list.excluded, Some(0));
    activate(&mut stage, without_ls(&["^/usr/bin/ls$", "^/usr/lib/"]));
    assert_eq!(stage.view(&agent).state.list.excluded, Some(2));
    activate(&mut stage, without_ls(&["^/usr/"]));
    let view = stage.view(&agent);
    assert_eq!(
        view.state.list.excluded,
        Some(2),
        "what is listed passes as such"
    );
    // Where nothing is enforced, nothing passes by exclude.
    activate(
        &mut stage,
        Group {
            bypass: true,
            ..usual
        },
    );
    let session = stage.connect(&agent);
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/ls", b"ls"));
    stage.attest(&agent, session);
    assert_eq!(stage.view(&agent).state.list.excluded, None);
}

#[test]
fn l04_an_exclude_pattern_passes_a_listed_path_with_another_digest_and_says_so() {
    let machine = Machine::valid();
    let other = vec!["00".repeat(32)];
    let listed = policy_with(
        &machine,
        |digests| drop(digests.insert("/usr/bin/ls".into(), serde_json::json!(other))),
        &[],
    );
    let shadowed = policy_with(
        &machine,
        |digests| drop(digests.insert("/usr/bin/ls".into(), serde_json::json!(other))),
        &["^/usr/bin/ls$"],
    );
    for (text, code, excluded) in [
        (listed, Some(Code::ImaDigestNotListed), 0),
        (shadowed, None, 1),
    ] {
        let mut stage = Stage::new(enforcing(&machine, 1, &text));
        let agent = stage.enrol("machine-1", machine.clone());
        let session = stage.connect(&agent);
        assert_eq!(stage.attest(&agent, session).code, code);
        assert_eq!(stage.view(&agent).state.list.excluded, Some(excluded));
    }
}

#[test]
fn l04_of_many_digests_for_one_path_any_is_allowed_and_no_other() {
    let machine = Machine::valid();
    let digest = |content: &[u8]| hex::encode(rat_tests::oracle::digest(HashAlg::Sha256, content));
    let many: Vec<String> = (0..500u32)
        .map(|nth| digest(&nth.to_be_bytes()))
        .chain([digest(b"ls")])
        .chain((500..1_000u32).map(|nth| digest(&nth.to_be_bytes())))
        .collect();
    let text = policy_with(
        &machine,
        |digests| drop(digests.insert("/usr/bin/ls".into(), serde_json::json!(many))),
        &[],
    );
    let contents: [(&[u8], Option<Code>); 4] = [
        (b"ls", None),
        (&0u32.to_be_bytes(), None),
        (&999u32.to_be_bytes(), None),
        (&1_000u32.to_be_bytes(), Some(Code::ImaDigestNotListed)),
    ];
    for (content, code) in contents {
        let machine = machine
            .clone()
            .with(|machine| machine.list[2] = Measured::file("/usr/bin/ls", content));
        let mut stage = Stage::new(enforcing(&machine, 1, &text));
        let agent = stage.enrol("machine-1", machine);
        let session = stage.connect(&agent);
        assert_eq!(stage.attest(&agent, session).code, code);
    }
}

#[test]
fn l04_a_policy_that_is_rolled_back_is_judged_like_any_other() {
    let (mut stage, agent, session) = kept();
    let machine = agent.machine.clone();
    let first = group_of(&machine);
    let without = policy_with(&machine, |digests| drop(digests.remove("/usr/bin/ls")), &[]);
    activate(&mut stage, enforcing(&machine, 2, &without));
    let failure = stage.view(&agent).state.failure.unwrap();
    assert_eq!(failure.code, Code::ImaPathNotListed);
    // The older version again: it counts for the whole list, and a quote has to pass under it.
    activate(&mut stage, first.clone());
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    let rules = first.demands().list.unwrap();
    assert!(view.state.has_passed(&rules));
    stage.sent.clear();
    for _ in 0..2 {
        stage.attest(&agent, session);
    }
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
    // And what the rolled back one did not allow is denied when it comes a second time.
    activate(&mut stage, enforcing(&machine, 2, &without));
    let again = stage.view(&agent).state.failure.unwrap();
    assert_eq!(again.under_policy, failure.under_policy);
}

#[test]
fn l07_a_reference_boot_aggregate_that_is_dropped_is_denied_by_the_policy_and_comes_back_with_it() {
    // The machine quotes another bank than its boot_aggregate is of.
    let machine = Machine::valid().with(|machine| machine.banks[0].0 = HashAlg::Sha384);
    let aggregate = hex::encode(&machine.list[0].digest);
    let of = |values: &[String], version| {
        let values = serde_json::json!(values);
        let text = policy_with(
            &machine,
            |digests| drop(digests.insert("boot_aggregate".into(), values)),
            &[],
        );
        Group {
            bank: HashAlg::Sha384,
            require_boot_log: false,
            ..enforcing(&machine, version, &text)
        }
    };
    let listed = of(&[aggregate], 1);
    let others = of(&["ab".repeat(32)], 2);
    let without = Group {
        enforced: group_of(&machine).enforced,
        ..listed.clone()
    };
    for dropped in [others, without] {
        let mut stage = Stage::new(listed.clone());
        stage.keeps_lists = true;
        let agent = stage.enrol("machine-1", machine.clone());
        let session = stage.connect(&agent);
        let challenge = stage.challenge(session);
        let mut submission = stage.answer(&agent, session, &challenge);
        // A boot log would show the values of the other bank, and authenticate none.
        submission.boot_log = None;
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(
            (answer.code, answer.status),
            (None, EffectiveStatus::Trusted)
        );
        let policy = dropped.demands().list.unwrap().policy;
        activate(&mut stage, dropped);
        assert_eq!(unusable(&stage), []);
        let failure = stage.view(&agent).state.failure.unwrap();
        assert_eq!(failure.code, Code::ImaBootAggregateUnverifiable);
        assert_eq!(failure.under_policy, Some(policy));
        activate(&mut stage, listed.clone());
        stage.sent.clear();
        for _ in 0..2 {
            stage.attest(&agent, session);
        }
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
    }
}

#[test]
fn t09_clones_that_connect_answer_and_leave_are_told_by_their_tpms_clocks() {
    let (mut stage, agent, session) = trusted();
    stage.disconnect(&agent, session);
    let [mut one, mut other] = [agent.clone(), agent];
    one.instance = Instance([1; 16]);
    other.instance = Instance([2; 16]);
    // The clone was started ten minutes later, from a snapshot, and its clock is behind by that.
    let mut codes = Vec::new();
    for _ in 0..3 {
        for (clone, behind_ms) in [(&mut one, 0), (&mut other, 600_000)] {
            stage.pass_ms(10_000);
            clone.clock_ms = Some(stage.now.mono_ms - behind_ms);
            let session = stage.connect(clone);
            codes.push(stage.attest(clone, session).code);
            stage.disconnect(clone, session);
        }
        let failure = stage.view(&one).state.failure.unwrap();
        let expected = match codes.len() {
            // A clock that goes back could also be of one machine that was put back.
            2 => Code::TimeRollback,
            // One that is ahead again is of another TPM.
            _ => Code::IdentityCloneSuspected,
        };
        assert_eq!(failure.code, expected, "{codes:?}");
    }
    let [back, ahead] = [Code::TimeRollback, Code::IdentityCloneSuspected].map(Some);
    assert_eq!(codes, [None, back, ahead, back, ahead, back]);
    let view = stage.view(&one);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    assert_eq!(view.state.boot, Some(one.boot));
}

#[test]
fn t09_one_machine_that_was_put_back_is_no_two_machines() {
    let (mut stage, mut agent, session) = trusted();
    let mut codes = Vec::new();
    for _ in 0..8 {
        let challenge = stage.challenge(session);
        agent.clock_ms = Some(stage.now.mono_ms - 200_000);
        let submission = stage.answer(&agent, session, &challenge);
        let answer = stage.submit(&agent, session, submission);
        codes.push(answer.unwrap().code);
        let failure = stage.view(&agent).state.failure.unwrap();
        assert_eq!(failure.code, Code::TimeRollback, "{codes:?}");
    }
    // Until its clock is where it was before it went back.
    assert_eq!(codes.first(), Some(&Some(Code::TimeRollback)));
    assert_eq!(codes.last(), Some(&None), "{codes:?}");
    assert!(!codes.contains(&Some(Code::IdentityCloneSuspected)));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
}

#[test]
fn t09_lists_that_diverge_from_one_position_are_of_two_machines() {
    let (mut stage, agent, session) = trusted();
    let [mut one, mut other] = [agent.clone(), agent];
    // Both run what the policy lists, in another order.
    one.machine.list.push(Measured::file("/usr/bin/ls", b"ls"));
    other
        .machine
        .list
        .push(Measured::file("/usr/bin/bash", b"bash"));
    assert_eq!(stage.attest(&one, session).code, None);
    stage.disconnect(&one, session);
    let session = stage.connect(&other);
    let looked_at_once = stage.attest(&other, session);
    assert_eq!(looked_at_once.code, Some(Code::ImaPcrMismatch));
    let before = stage.view(&one).state;
    let answer = stage.attest(&other, session);
    assert_eq!(answer.code, Some(Code::IdentityCloneSuspected));
    assert_eq!(answer.status, EffectiveStatus::Untrusted);
    // What the first of them proved is not given up for it.
    let after = stage.view(&one).state;
    assert_eq!((&after.ima, after.boot), (&before.ima, before.boot));
    let failure = after.failure.unwrap();
    assert_eq!(failure.code, Code::IdentityCloneSuspected);
    // The one that was there first is not trusted either.
    stage.disconnect(&other, session);
    let session = stage.connect(&one);
    let answer = stage.attest(&one, session);
    assert_eq!(answer.status, EffectiveStatus::Untrusted);
    let failure = stage.view(&one).state.failure.unwrap();
    assert_eq!(failure.code, Code::IdentityCloneSuspected);
}

#[test]
fn t09_i01_a_copy_that_measured_nothing_of_its_own_shows_what_was_proven_before() {
    let (mut stage, mut agent, session) = trusted();
    let copy = agent.clone();
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/ls", b"ls"));
    assert_eq!(stage.attest(&agent, session).code, None);
    stage.disconnect(&agent, session);
    let session = stage.connect(&copy);
    let looked_at_once = stage.attest(&copy, session);
    assert_eq!(looked_at_once.code, Some(Code::ImaPcrMismatch));
    // Its list does not part from the other's, it only ends before: that is I01.
    let answer = stage.attest(&copy, session);
    assert_eq!(answer.code, Some(Code::ImaTruncated));
    assert_eq!(answer.status, EffectiveStatus::Untrusted);
}

#[test]
fn n04_a_first_quote_by_another_key_than_the_activated_one_is_refused_and_told() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let before = stage.view(&agent).state;
    let mut substituted = agent.clone();
    substituted.machine.ak = SoftwareAk::p256();
    // It names the key that was activated, and signs with another.
    let challenge = stage.challenge(session);
    let genuine = stage.answer(&agent, session, &challenge);
    let mut forged = stage.answer(&substituted, session, &challenge);
    forged.quote = genuine.quote;
    forged.signature = substituted.machine.ak.sign(&forged.quote);
    let answer = stage.submit(&agent, session, forged).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteSignature));
    assert_eq!(turned_away(&stage, Code::QuoteSignature), 1);
    unchanged(&before, &stage.view(&agent).state);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    // What was turned away stands in the chain.
    let outcome = &stage.ticks.last().unwrap().outcomes[0];
    assert_eq!(outcome.code, Some(Code::QuoteSignature));
    assert_ne!(outcome.evidence_sha256, [0; 32]);
    // Nor does a quote count that binds the other key. The machine itself is served on, also after a
    // restart.
    let challenge = stage.challenge(session);
    let forged = stage.answer(&substituted, session, &challenge);
    let answer = stage.submit(&agent, session, forged).unwrap();
    assert!(answer.code.is_some());
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
    let told = |event: &&Event| matches!(event, Event::TurnedAway { .. });
    assert_eq!(stage.events.iter().filter(told).count(), 2);
    restart(&mut stage, &agent, group_of(&agent.machine));
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}
