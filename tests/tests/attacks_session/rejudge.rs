//! Stored lists that are judged again when a policy changes: L07, S14, S16, S17.

use std::sync::Arc;

use rat_engine::evidence::SessionId;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{
    AgentState, BootEpoch, ChainHash, Coverage, EffectiveStatus, Epoch, Event, Group, Input,
    Operation, Retention, Shard, Unusable, VerdictKind,
};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::lists::KeptList;
use rat_tests::measured::Measured;
use rat_tests::stage::{Enrolled, Stage, group_of, policy};

/// A machine that is trusted, whose list the store keeps.
pub(super) fn kept() -> (Stage, Enrolled, SessionId) {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    stage.keeps_lists = true;
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    stage.events.clear();
    stage.sent.clear();
    (stage, agent, session)
}

/// The group after a change of its policy that takes nothing away.
pub(super) fn wider(machine: &Machine) -> Group {
    let more = machine.clone().with(|machine| {
        machine.list.push(Measured::file("/usr/bin/id", b"id"));
    });
    Group {
        enforced: Some(policy(2, &more.policy())),
        ..group_of(machine)
    }
}

/// The group after a file that runs everywhere was taken from its policy.
pub(super) fn stricter(machine: &Machine) -> Group {
    let ls = hex::encode(rat_tests::oracle::digest(HashAlg::Sha256, b"ls"));
    let without = machine.policy().replace(&ls, &"00".repeat(32));
    Group {
        enforced: Some(policy(3, &without)),
        ..group_of(machine)
    }
}

pub(super) fn activate(stage: &mut Stage, group: Group) {
    stage.handle(Input::Group(Arc::new(group)));
}

fn digest_of(group: &Group) -> rat_engine::hash::Digest {
    let enforced = group.enforced.as_ref().unwrap();
    enforced.judge.policy().compiled().digest()
}

pub(super) fn unusable(stage: &Stage) -> Vec<Unusable> {
    let why = |event: &Event| match event {
        Event::ListUnusable { why, .. } => Some(*why),
        _ => None,
    };
    stage.events.iter().filter_map(why).collect()
}

fn coverage(stage: &Stage) -> (u64, u64) {
    let Coverage { judged, agents, .. } = stage.shard.coverage("fleet");
    (judged, agents)
}

#[test]
fn l07_s14_an_activation_judges_the_stored_list_and_trusts_no_longer_than_before() {
    let (mut stage, agent, session) = kept();
    let before = stage.view(&agent).state;
    stage.pass_ms(1_000);
    let group = wider(&agent.machine);
    let policy = digest_of(&group);
    activate(&mut stage, group);
    let view = stage.view(&agent);
    let expected = AgentState {
        passed_under: Some(policy),
        ..before.clone()
    };
    assert_eq!(
        view.state, expected,
        "nothing but the policy it passed under"
    );
    assert_eq!(view.status, EffectiveStatus::Trusted);
    let rejudged = Event::Rejudged {
        agent: agent.id.clone(),
        policy,
        code: None,
        entries: 4,
    };
    assert!(stage.events.contains(&rejudged));
    let outcome = &stage.ticks.last().unwrap().outcomes[0];
    assert_eq!(
        (outcome.verdict, outcome.code),
        (VerdictKind::Authentic, None)
    );
    assert_eq!(
        (outcome.policy, outcome.evidence_sha256),
        (Some(policy), [0; 32])
    );
    // Trust ends when it would have ended, if the machine stays silent.
    let left_ms = before.trusted_until_unix_ms - stage.now.unix_ms;
    stage.pass_ms(left_ms - 1);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
    stage.pass_ms(1);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Overdue);
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(4));
}

#[test]
fn l07_a_digest_taken_away_is_found_in_the_stored_list_of_a_machine_that_is_away() {
    let (mut stage, agent, session) = kept();
    let passed_unix_ms = stage.now.unix_ms;
    stage.disconnect(&agent, session);
    stage.pass_ms(2_000);
    activate(&mut stage, stricter(&agent.machine));
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    assert_eq!(view.state.trusted_until_unix_ms, 0);
    // Nothing came from the machine meanwhile.
    let verdict = view.state.verdict.unwrap();
    assert_eq!(verdict.at_unix_ms, passed_unix_ms);
    let failure = view.state.failure.unwrap();
    let policy = digest_of(&stricter(&agent.machine));
    assert_eq!(failure.code, Code::ImaDigestNotListed);
    assert_eq!(failure.path.as_deref(), Some(&b"/usr/bin/ls"[..]));
    assert_eq!(
        (failure.entry, failure.under_policy),
        (Some(2), Some(policy))
    );
    assert_eq!(coverage(&stage), (1, 1));
    // The pass that proved this list is kept.
    let outcome = &stage.ticks.last().unwrap().outcomes[0];
    assert_eq!(
        (outcome.verdict, outcome.code),
        (VerdictKind::Untrusted, Some(failure.code))
    );
    let kept = outcome.kept.iter();
    let kept: Vec<_> = kept.map(|kept| (kept.reason, kept.at_unix_ms)).collect();
    assert_eq!(kept, [(Retention::BeforeFailure, passed_unix_ms)]);
    assert_eq!(failure.at_unix_ms, passed_unix_ms + 2_000);
    assert_eq!(failure.group.as_deref(), Some("fleet"));
}

#[test]
fn l07_s16_a_policy_taken_back_clears_the_failure_with_the_next_quote_and_not_before() {
    let (mut stage, agent, session) = kept();
    activate(&mut stage, stricter(&agent.machine));
    stage.sent.clear();
    activate(&mut stage, group_of(&agent.machine));
    let view = stage.view(&agent);
    assert_eq!(
        view.status,
        EffectiveStatus::Untrusted,
        "no quote, no recovery"
    );
    assert_eq!(
        view.state.passed_under,
        Some(digest_of(&group_of(&agent.machine)))
    );
    let asked_ms = stage.now.mono_ms;
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(4));
    assert!(stage.now.mono_ms - asked_ms < 100, "at once");
    let submission = stage.answer(&agent, session, &challenge);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    assert_eq!(stage.view(&agent).state.failure, None);
}

#[test]
fn l07_another_kind_of_failure_outlives_the_rejudging() {
    let (mut stage, mut agent, session) = kept();
    agent.clock_ms = Some(999_999);
    assert_eq!(stage.attest(&agent, session).code, Some(Code::TimeRollback));
    agent.clock_ms = None;
    let failure = stage.view(&agent).state.failure;
    activate(&mut stage, wider(&agent.machine));
    let answer = stage.attest(&agent, session);
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Untrusted)
    );
    assert_eq!(stage.view(&agent).state.failure, failure);
}

#[test]
fn l07_while_its_list_waits_a_machine_is_asked_as_usual_and_not_trusted() {
    let (mut stage, mut agent, session) = kept();
    stage.holds_rejudges = true;
    // Other lists are being judged: the pacer lets no more through.
    let others = ["other-1", "other-2"].map(|name| stage.enrol(name, Machine::valid()));
    for other in &others {
        let session = stage.connect(other);
        stage.attest(other, session);
    }
    activate(&mut stage, wider(&agent.machine));
    assert_eq!(stage.rejudges.len(), 2, "no more than the pacer allows");
    let queued = [&agent, &others[0], &others[1]].into_iter().find(|it| {
        stage
            .rejudges
            .iter()
            .all(|under_way| under_way.agent != it.id)
    });
    let mut queued = queued.unwrap().clone();
    let session = match queued.id == agent.id {
        true => session,
        false => stage.connect(&queued),
    };
    queued
        .machine
        .list
        .push(Measured::file("/usr/bin/id", b"id"));
    stage.handle(Input::Operate {
        agent: queued.id.clone(),
        operation: Operation::Recheck,
    });
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(4));
    let submission = stage.answer(&queued, session, &challenge);
    let answer = stage.submit(&queued, session, submission).unwrap();
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Pending, None)
    );
    let view = stage.view(&queued);
    assert_eq!(view.state.passed_under, None);
    assert_eq!(view.state.ima.unwrap().position(), 5);
    // Its turn comes: all five entries are judged.
    stage.holds_rejudges = false;
    stage.run_rejudges();
    assert_eq!(coverage(&stage), (3, 3));
    let answer = stage.attest(&queued, session);
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
    agent.machine.list.clear();
}

#[test]
fn l07_what_was_added_while_the_list_waited_is_judged_too() {
    let (mut stage, mut agent, session) = kept();
    let challenge = stage.challenge(session);
    // Evidence is on its way when the policy changes: it is judged by the old one. (L05)
    agent
        .machine
        .list
        .push(Measured::file("/usr/bin/ls", b"ls"));
    stage.holds_tasks = true;
    let submission = stage.answer(&agent, session, &challenge);
    stage.submit(&agent, session, submission);
    activate(&mut stage, stricter(&agent.machine));
    assert!(unusable(&stage).is_empty());
    stage.holds_tasks = false;
    stage.run_tasks();
    let view = stage.view(&agent);
    assert_eq!(view.status, EffectiveStatus::Untrusted);
    assert_eq!(view.state.ima.unwrap().position(), 5);
    assert_eq!(view.state.failure.unwrap().entry, Some(2));
}

#[test]
fn l07_s18_a_list_that_is_not_the_committed_one_is_not_used_and_the_agent_is_asked() {
    type Change = fn(&mut KeptList);
    let changes: [(Unusable, Change); 8] = [
        (Unusable::OtherBoot, |list| list.boot = None),
        (Unusable::OtherBoot, |list| {
            list.boot = Some(BootEpoch {
                reset_count: 8,
                restart_count: 0,
            });
        }),
        (Unusable::Incomplete, |list| list.gap_at_entry = Some(3)),
        (Unusable::Incomplete, |list| list.entries = 3),
        (Unusable::NotReproduced, |list| list.bytes.truncate(150)),
        (Unusable::NotReproduced, |list| {
            // A genuine list of another machine.
            let other = Machine::valid().with(|machine| {
                machine.list[3] = Measured::file("/usr/bin/id", b"id");
            });
            list.bytes = rat_tests::measured::ascii(&other.list);
        }),
        (Unusable::NotReproduced, |list| list.bytes.clear()),
        (Unusable::NotReproduced, |list| {
            let last = list.bytes.len() - 5;
            list.bytes[last] ^= 1;
        }),
    ];
    for (why, change) in changes {
        let (mut stage, agent, session) = kept();
        stage.lists.damage(&agent.id, change);
        let before = stage.view(&agent).state;
        activate(&mut stage, wider(&agent.machine));
        assert_eq!(unusable(&stage), [why]);
        assert_eq!(stage.view(&agent).state, before);
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
        assert_eq!(coverage(&stage), (0, 1));
        asked_for_everything(&mut stage, &agent, session);
    }
    // A gap behind what was proven hurts nobody.
    let (mut stage, agent, _) = kept();
    stage
        .lists
        .damage(&agent.id, |list| list.gap_at_entry = Some(4));
    activate(&mut stage, wider(&agent.machine));
    assert_eq!(coverage(&stage), (1, 1));
}

#[test]
fn l07_an_agent_without_a_stored_list_is_asked_for_it() {
    let (mut stage, agent, session) = kept();
    stage.lists.lose(&agent.id);
    activate(&mut stage, wider(&agent.machine));
    assert_eq!(unusable(&stage), [Unusable::Missing]);
    asked_for_everything(&mut stage, &agent, session);
    // The list that it sent is kept, and serves the next time.
    activate(&mut stage, group_of(&agent.machine));
    assert_eq!(unusable(&stage), [Unusable::Missing]);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
}

fn asked_for_everything(stage: &mut Stage, agent: &Enrolled, session: SessionId) {
    let asked_ms = stage.now.mono_ms;
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(0));
    assert!(stage.now.mono_ms - asked_ms < 100, "at once");
    let submission = stage.answer(agent, session, &challenge);
    let answer = stage.submit(agent, session, submission).unwrap();
    assert_eq!(
        (answer.status, answer.code),
        (EffectiveStatus::Trusted, None)
    );
}

#[test]
fn l07_s01_an_attempt_that_does_not_end_is_repeated_and_then_given_up() {
    let (mut stage, agent, session) = kept();
    stage.holds_rejudges = true;
    activate(&mut stage, wider(&agent.machine));
    let mut attempts = std::mem::take(&mut stage.rejudges);
    for nth in 1..=3 {
        assert_eq!(attempts.len(), nth);
        // The agent waits for its list, but not for long: trust could bridge that.
        stage.pass_ms(10_001);
        assert_eq!(unusable(&stage).len(), nth);
        if nth < 3 {
            let challenge = stage.challenge(session);
            assert_eq!(challenge.ima_from_entry, Some(4));
            let submission = stage.answer(&agent, session, &challenge);
            stage.submit(&agent, session, submission);
        }
        stage.pass_ms(1);
        attempts.append(&mut stage.rejudges);
    }
    assert_eq!(unusable(&stage), [Unusable::Timeout; 3]);
    // What comes late is of no attempt that counts.
    let before = stage.view(&agent).state;
    for late in attempts {
        let rejudged = stage.lists.rejudge(late);
        stage.handle(Input::Rejudged(rejudged));
    }
    assert_eq!(stage.view(&agent).state, before);
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(0));
}

#[test]
fn l05_l07_a_policy_that_changed_again_fails_nobody() {
    let (mut stage, agent, _) = kept();
    stage.holds_rejudges = true;
    activate(&mut stage, stricter(&agent.machine));
    assert_eq!(stage.rejudges.len(), 1);
    activate(&mut stage, wider(&agent.machine));
    stage.holds_rejudges = false;
    stage.run_rejudges();
    let view = stage.view(&agent);
    assert_eq!(
        (view.status, view.state.failure),
        (EffectiveStatus::Trusted, None)
    );
    assert_eq!(
        stage.ticks.len(),
        2,
        "the strict policy's result is not even recorded"
    );
}

#[test]
fn s03_s17_what_was_judged_counts_when_it_is_durable() {
    let (mut stage, agent, session) = kept();
    let before = stage.view(&agent).state;
    stage.holds_commits = true;
    activate(&mut stage, stricter(&agent.machine));
    assert_eq!(stage.view(&agent).state, before);
    stage.answer_commit(false);
    assert_eq!(stage.view(&agent).state, before, "it did not happen");
    // It is judged again, not asked for; but not at once: the agent is due first.
    let committed = stage.ticks.len();
    stage.pass_ms(4_999);
    assert_eq!(stage.ticks.len(), committed);
    stage.holds_commits = false;
    let challenge = stage.challenge(session);
    assert_eq!(challenge.ima_from_entry, Some(4));
    let submission = stage.answer(&agent, session, &challenge);
    stage.submit(&agent, session, submission);
    let view = stage.view(&agent);
    assert_eq!(view.state.failure.unwrap().code, Code::ImaDigestNotListed);
    assert!(stage.challenge(session).ima_from_entry > Some(0));
}

#[test]
fn s05_after_a_restart_lists_that_were_not_judged_are() {
    let (mut stage, agent, _) = kept();
    stage.holds_rejudges = true;
    activate(&mut stage, stricter(&agent.machine));
    restart(&mut stage, &agent, stricter(&agent.machine));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
    assert_eq!(coverage(&stage), (1, 1));
}

/// Ends the process. The next one has what is durable, and this group.
pub(super) fn restart(stage: &mut Stage, agent: &Enrolled, group: Group) {
    let view = stage.view(agent);
    let (seq, head) = stage.shard.head();
    let index = rat_engine::agent_id::ShardIndex::new(0).unwrap();
    let settings = rat_engine::shard::Settings::default();
    assert_ne!(head, ChainHash::default());
    stage.shard = Shard::new(index, Epoch(2), seq, head, settings);
    stage.pacer = rat_engine::shard::Pacer::new(Default::default());
    stage.rejudges.clear();
    stage.holds_rejudges = false;
    activate(stage, group);
    stage.handle(Input::Agent {
        record: Box::new((*view.record).clone()),
        state: Box::new(view.state),
        candidate: None,
    });
}

#[test]
fn s05_s09_a_failure_that_was_taken_back_does_not_come_back_from_the_stored_list() {
    let (mut stage, agent, session) = kept();
    activate(&mut stage, stricter(&agent.machine));
    assert!(stage.view(&agent).state.failure.is_some());
    stage.disconnect(&agent, session);
    stage.handle(Input::Operate {
        agent: agent.id.clone(),
        operation: Operation::Clear,
    });
    restart(&mut stage, &agent, stricter(&agent.machine));
    activate(&mut stage, wider(&agent.machine));
    assert_eq!(stage.view(&agent).state.failure, None);
    assert_eq!(coverage(&stage), (0, 1));
    // What the machine shows again counts, and is kept like any other list.
    let session = stage.connect(&agent);
    asked_for_everything(&mut stage, &agent, session);
    activate(&mut stage, stricter(&agent.machine));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
    assert_eq!(coverage(&stage), (1, 1));
}

#[test]
fn s09_a_clear_during_the_rejudging_wins_and_the_agent_must_show_its_list() {
    let (mut stage, mut agent, session) = kept();
    agent.clock_ms = Some(999_999);
    stage.attest(&agent, session);
    agent.clock_ms = None;
    stage.holds_rejudges = true;
    activate(&mut stage, wider(&agent.machine));
    assert_eq!(stage.rejudges.len(), 1);
    let id = agent.id.clone();
    stage.handle(Input::Operate {
        agent: id,
        operation: Operation::Clear,
    });
    stage.run_rejudges();
    let state = stage.view(&agent).state;
    assert_eq!((state.failure, state.passed_under), (None, None));
    asked_for_everything(&mut stage, &agent, session);
    // The pacer's place is free again.
    stage.holds_rejudges = false;
    activate(&mut stage, group_of(&agent.machine));
    assert_eq!(coverage(&stage), (1, 1));
}

#[test]
fn n08_a_removed_agent_leaves_its_place_to_others() {
    let (mut stage, agent, _) = kept();
    stage.holds_rejudges = true;
    activate(&mut stage, wider(&agent.machine));
    let late = stage.rejudges.remove(0);
    stage.handle(Input::Remove(agent.id.clone()));
    assert_eq!(stage.pacer.rejudging_room(), 2);
    let rejudged = stage.lists.rejudge(late);
    stage.handle(Input::Rejudged(rejudged));
    assert!(stage.shard.is_empty());
    assert_eq!(stage.ticks.len(), 1);
}

#[test]
fn s14_a_draining_shard_begins_no_list_and_waits_for_none() {
    let (mut stage, agent, _) = kept();
    stage.holds_rejudges = true;
    activate(&mut stage, wider(&agent.machine));
    stage.handle(Input::Drain);
    assert!(!stage.shard.is_busy());
    stage.run_rejudges();
    activate(&mut stage, stricter(&agent.machine));
    assert!(stage.rejudges.is_empty());
    assert_eq!(stage.ticks.len(), 1);
}

#[test]
fn l07_coverage_counts_agents_of_the_group_that_were_judged() {
    let (mut stage, agent, _) = kept();
    stage.enrol("never-seen", Machine::valid());
    let state = AgentState::default();
    stage.enrol_with("elsewhere", Machine::valid(), state, |record| {
        record.group = "other".into();
    });
    assert_eq!(coverage(&stage), (1, 2));
    stage.holds_rejudges = true;
    activate(&mut stage, stricter(&agent.machine));
    assert_eq!(coverage(&stage), (0, 2));
    stage.run_rejudges();
    // Judged and denied is judged.
    assert_eq!(coverage(&stage), (1, 2));
    let without = Group {
        enforced: None,
        ..group_of(&agent.machine)
    };
    activate(&mut stage, without);
    assert_eq!(coverage(&stage), (0, 2));
    assert_eq!(stage.shard.coverage("nowhere"), Coverage::default());
}
