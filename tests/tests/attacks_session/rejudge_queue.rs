//! Stored lists that wait to be judged, take long, or whose judgement is lost: L07, S01, S03, S06,
//! S07, S14, S17, S18.

use rat_engine::evidence::SessionId;
use rat_engine::shard::{EffectiveStatus, Input, Rejudge, Retention, Unusable};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::stage::{Enrolled, Stage, group_of};

use super::rejudge::{activate, kept, stricter, unusable, wider};

/// An attempt gets on by a piece.
fn goes_on(stage: &mut Stage, attempt: &Rejudge) {
    stage.handle(Input::Rejudging {
        agent: attempt.agent.clone(),
        id: attempt.id,
    });
}

#[test]
fn l07_a_list_that_takes_longer_than_an_interval_is_judged() {
    let (mut stage, agent, _) = kept();
    stage.holds_rejudges = true;
    activate(&mut stage, stricter(&agent.machine));
    let attempt = stage.rejudges[0].clone();
    for _ in 0..10 {
        stage.pass_ms(9_000);
        assert!(stage.shard.is_rejudging(&agent.id, attempt.id));
        goes_on(&mut stage, &attempt);
    }
    assert!(unusable(&stage).is_empty());
    stage.run_rejudges();
    let failure = stage.view(&agent).state.failure.unwrap();
    assert_eq!(failure.code, Code::ImaDigestNotListed);
}

#[test]
fn s01_an_attempt_that_stands_still_counts_no_more() {
    let (mut stage, agent, session) = kept();
    stage.disconnect(&agent, session);
    stage.holds_rejudges = true;
    activate(&mut stage, stricter(&agent.machine));
    let attempt = stage.rejudges[0].clone();
    stage.pass_ms(9_000);
    goes_on(&mut stage, &attempt);
    stage.pass_ms(10_000);
    assert_eq!(unusable(&stage), [Unusable::Timeout]);
    assert!(!stage.shard.is_rejudging(&agent.id, attempt.id));
    // A piece that comes late revives nothing, and prolongs no other attempt.
    let other = stage.rejudges[1].clone();
    assert_ne!(other.id, attempt.id);
    stage.pass_ms(9_999);
    goes_on(&mut stage, &attempt);
    stage.pass_ms(1);
    assert_eq!(unusable(&stage), [Unusable::Timeout; 2]);
}

#[test]
fn l07_a_list_that_was_sent_whole_gives_its_agent_all_attempts_again() {
    let (mut stage, agent, session) = kept();
    stage.disconnect(&agent, session);
    stage.holds_rejudges = true;
    activate(&mut stage, wider(&agent.machine));
    stage.pass_ms(20_000);
    stage.rejudges.clear();
    // Two of three are used up. It reboots, and sends its list.
    assert_eq!(unusable(&stage).len(), 2);
    let mut agent = agent;
    stage.pass_ms(5_000);
    agent.boot.reset_count += 1;
    let session = stage.connect(&agent);
    while stage.view(&agent).state.boot != Some(agent.boot) {
        stage.rejudges.clear();
        stage.attest(&agent, session);
    }
    stage.events.clear();
    activate(&mut stage, group_of(&agent.machine));
    stage.pass_ms(15_000);
    assert_eq!(unusable(&stage), [Unusable::Timeout]);
    assert_ne!(stage.challenge(session).ima_from_entry, Some(0));
}

#[test]
fn s03_s06_a_judgement_that_the_store_refuses_is_tried_when_its_agent_is_due_and_not_for_ever() {
    let (mut stage, agent, session) = kept();
    stage.disconnect(&agent, session);
    let before = stage.view(&agent).state;
    stage.holds_commits = true;
    let (committed, began_ms) = (stage.ticks.len(), stage.now.mono_ms);
    activate(&mut stage, stricter(&agent.machine));
    for attempt in 1..=3 {
        assert_eq!(stage.ticks.len(), committed + attempt);
        let pauses_ms = 5_000 * (attempt as u64 - 1);
        assert_eq!(stage.now.mono_ms, began_ms + pauses_ms);
        stage.answer_commit(false);
        stage.settle();
        stage.pass_ms(4_999);
        assert_eq!(stage.ticks.len(), committed + attempt, "no sooner");
        stage.pass_ms(1);
    }
    assert_eq!(stage.view(&agent).state, before);
    assert_eq!(unusable(&stage), [Unusable::StoreFailed; 3]);
    assert_eq!(stage.ticks.len(), committed + 3);
    stage.holds_commits = false;
    let session = stage.connect(&agent);
    assert_eq!(stage.challenge(session).ima_from_entry, Some(0));
}

/// So many machines with lists, of which the last ones are connected.
fn fleet(count: usize, connected: usize) -> (Stage, Vec<Enrolled>, SessionId) {
    let mut stage = Stage::new(group_of(&Machine::valid()));
    stage.keeps_lists = true;
    let names = (0..count).map(|nth| format!("machine-{nth}"));
    let agents: Vec<_> = names
        .map(|name| stage.enrol(&name, Machine::valid()))
        .collect();
    let mut last = SessionId(0);
    for (nth, agent) in agents.iter().enumerate() {
        last = stage.connect(agent);
        stage.attest(agent, last);
        if nth + connected < count {
            stage.disconnect(agent, last);
        }
    }
    (stage, agents, last)
}

#[test]
fn s07_l07_connected_machines_do_not_wait_behind_absent_ones() {
    let (mut stage, agents, _) = fleet(6, 1);
    stage.holds_rejudges = true;
    activate(&mut stage, wider(&agents[0].machine));
    assert_eq!(stage.rejudges.len(), 2, "no more than the pacer allows");
    let under_way: Vec<_> = stage.rejudges.iter().map(|it| it.agent.clone()).collect();
    assert!(under_way.contains(&agents[5].id), "{under_way:?}");
}

#[test]
fn s14_l07_a_machine_whose_list_waits_for_too_long_is_asked_for_it() {
    let (mut stage, agents, session) = fleet(3, 3);
    stage.holds_rejudges = true;
    activate(&mut stage, wider(&agents[0].machine));
    let connected = &agents[2];
    // Two lists get on slowly, and others wait.
    let under_way = stage.rejudges.clone();
    assert!(under_way.iter().all(|it| it.agent != connected.id));
    let go_on = |stage: &mut Stage| {
        for _ in 0..2 {
            stage.pass_ms(4_500);
            under_way.iter().for_each(|attempt| goes_on(stage, attempt));
        }
    };
    let mut asked = Vec::new();
    for _ in 0..8 {
        go_on(&mut stage);
        let challenge = stage.challenge(session);
        asked.push(challenge.ima_from_entry);
        let submission = stage.answer(connected, session, &challenge);
        let answer = stage.submit(connected, session, submission).unwrap();
        if answer.status == EffectiveStatus::Trusted {
            break;
        }
    }
    let (last, before) = asked.split_last().unwrap();
    assert_eq!(*last, Some(0), "{asked:?}");
    assert!(before.len() >= 2, "{asked:?}");
    assert!(before.iter().all(|from| *from == Some(4)), "{asked:?}");
    assert_eq!(
        stage.view(connected).status,
        EffectiveStatus::Trusted,
        "judged from what it sent"
    );
    assert!(unusable(&stage).is_empty());
}

#[test]
fn s17_s18_the_pass_before_a_failure_is_kept_with_it_when_the_first_commit_fails() {
    let (mut stage, agent, session) = kept();
    let passed_unix_ms = stage.now.unix_ms;
    stage.disconnect(&agent, session);
    stage.pass_ms(2_000);
    stage.holds_commits = true;
    activate(&mut stage, stricter(&agent.machine));
    let kept = |stage: &Stage| {
        let outcome = &stage.ticks.last().unwrap().outcomes[0];
        let kept = outcome.kept.iter();
        kept.map(|it| (it.reason, it.at_unix_ms))
            .collect::<Vec<_>>()
    };
    let expected = [(Retention::BeforeFailure, passed_unix_ms)];
    assert_eq!(kept(&stage), expected);
    stage.answer_commit(false);
    stage.holds_commits = false;
    stage.pass_ms(5_001);
    assert!(stage.view(&agent).state.failure.is_some());
    assert_eq!(kept(&stage), expected);
}

#[test]
fn s17_s18_the_same_when_a_quote_failed() {
    let (mut stage, mut agent, session) = kept();
    stage.holds_commits = true;
    agent.clock_ms = Some(999_999);
    for is_kept in [false, true] {
        let challenge = stage.challenge(session);
        let submission = stage.answer(&agent, session, &challenge);
        stage.submit(&agent, session, submission);
        let outcome = &stage.ticks.last().unwrap().outcomes[0];
        let reasons: Vec<_> = outcome.kept.iter().map(|it| it.reason).collect();
        assert_eq!(reasons, [Retention::BeforeFailure, Retention::Failure]);
        stage.answer_commit(is_kept);
        stage.settle();
    }
    // It goes with the failure that it came before, and with no other.
    stage.holds_commits = false;
    agent.clock_ms = None;
    agent.machine.list.remove(1);
    for _ in 0..2 {
        stage.attest(&agent, session);
    }
    let outcome = &stage.ticks.last().unwrap().outcomes[0];
    let reasons: Vec<_> = outcome.kept.iter().map(|it| it.reason).collect();
    assert_eq!(reasons, [Retention::Failure]);
}
