//! Groups with an interval of their own, and changes of it: Q14, S14, L07.

use std::sync::Arc;

use proptest::prelude::*;
use rat_engine::evidence::{SessionId, ToAgent};
use rat_engine::shard::{EffectiveStatus, Event, Group, Input};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::stage::{Enrolled, Stage, group_of};

use super::rejudge::{activate, restart, stricter};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn every(machine: &Machine, interval_ms: impl Into<Option<u64>>) -> Group {
    Group {
        interval_ms: interval_ms.into(),
        ..group_of(machine)
    }
}

/// A machine of a group with this interval that has just become trusted.
fn trusted_every(interval_ms: impl Into<Option<u64>>) -> (Stage, Enrolled, SessionId) {
    let machine = Machine::valid();
    let mut stage = Stage::new(every(&machine, interval_ms));
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    (stage, agent, session)
}

/// How long the machine stays trusted while it is silent.
fn trusted_for_ms(stage: &mut Stage, agent: &Enrolled) -> u64 {
    let from_ms = stage.now.mono_ms;
    while stage.view(agent).status == EffectiveStatus::Trusted {
        stage.pass_ms(1);
    }
    stage.now.mono_ms - from_ms
}

/// When the next challenge comes.
fn challenged_after_ms(stage: &mut Stage, session: SessionId) -> u64 {
    let from_ms = stage.now.mono_ms;
    stage.challenge(session);
    stage.now.mono_ms - from_ms
}

#[test]
fn q14_trust_lasts_for_three_intervals_of_the_group() {
    for interval_ms in [1_000, 60_000, DAY_MS] {
        let (mut stage, agent, session) = trusted_every(interval_ms);
        let until = stage.view(&agent).state.trusted_until_unix_ms;
        assert_eq!(until, stage.now.unix_ms + 3 * interval_ms);
        assert_eq!(challenged_after_ms(&mut stage, session), interval_ms);
        stage.pass_ms(2 * interval_ms - 1);
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
        stage.pass_ms(1);
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Overdue);
    }
}

#[test]
fn q14_the_answer_to_a_challenge_never_has_longer_than_trust() {
    // The server waits for five seconds.
    for (interval_ms, deadline_ms) in [(1_000, 2_000), (2_500, 5_000), (60_000, 5_000)] {
        let (mut stage, agent, session) = trusted_every(interval_ms);
        let challenge = stage.challenge(session);
        assert_eq!(challenge.deadline_ms, deadline_ms);
        let submission = stage.answer(&agent, session, &challenge);
        stage.pass_ms(u64::from(deadline_ms) - 1);
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(answer.code, None);
    }
}

#[test]
fn s14_a_failed_machine_is_asked_by_its_groups_interval() {
    let machine = Machine::valid();
    let group = Group {
        interval_ms: Some(60_000),
        ..stricter(&machine)
    };
    let mut stage = Stage::new(group);
    let agent = stage.enrol("machine-1", machine);
    let session = stage.connect(&agent);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::ImaDigestNotListed));
    assert_eq!(answer.next_after_ms, 6 * 60_000);
    // And sooner by a shorter one.
    stage.pass_ms(60_000);
    let group = Group {
        interval_ms: Some(6_000),
        ..stricter(&agent.machine)
    };
    activate(&mut stage, group);
    assert_eq!(challenged_after_ms(&mut stage, session), 5 * 6_000);
}

#[test]
fn s14_a_shorter_interval_ends_trust_that_a_longer_one_would_have_lent() {
    let (mut stage, agent, session) = trusted_every(HOUR_MS);
    let before = stage.view(&agent);
    stage.pass_ms(10_000);
    activate(&mut stage, every(&agent.machine, 10_000));
    let view = stage.view(&agent);
    assert_eq!(view.state, before.state, "nothing is proven by that");
    assert_eq!(
        view.trusted_until_unix_ms,
        before.trusted_until_unix_ms - 3 * HOUR_MS + 30_000
    );
    // The next challenge does not wait for the hour to pass.
    assert!(challenged_after_ms(&mut stage, session) <= 10_000);
    let left_ms = view.trusted_until_unix_ms - stage.now.unix_ms;
    assert_eq!(trusted_for_ms(&mut stage, &agent), left_ms);
}

#[test]
fn s14_what_is_older_than_the_new_age_is_overdue_at_once_and_asked_again() {
    let (mut stage, agent, session) = trusted_every(HOUR_MS);
    stage.pass_ms(10 * 60_000);
    stage.events.clear();
    activate(&mut stage, every(&agent.machine, None));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Overdue);
    let told = |event: &Event| {
        matches!(
            event,
            Event::Status {
                to: EffectiveStatus::Overdue,
                ..
            }
        )
    };
    assert_eq!(stage.events.iter().filter(|it| told(it)).count(), 1);
    assert!(challenged_after_ms(&mut stage, session) <= 10_000);
    stage.sent.clear();
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
}

#[test]
fn s14_a_longer_interval_lengthens_no_trust_and_puts_off_no_challenge() {
    let (mut stage, agent, session) = trusted_every(None);
    let before = stage.view(&agent);
    stage.pass_ms(4_000);
    activate(&mut stage, every(&agent.machine, DAY_MS));
    assert_eq!(stage.view(&agent), before);
    // It is asked while what it showed is still trusted, and earns by that what the group grants.
    assert_eq!(challenged_after_ms(&mut stage, session), 6_000);
    let (mut stage, agent, session) = trusted_every(None);
    activate(&mut stage, every(&agent.machine, DAY_MS));
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.next_after_ms, u32::try_from(DAY_MS).unwrap());
    let until = stage.view(&agent).trusted_until_unix_ms;
    assert_eq!(until, stage.now.unix_ms + 3 * DAY_MS);
}

#[test]
fn s14_an_interval_that_comes_and_goes_lends_nothing() {
    let (mut stage, agent, _) = trusted_every(None);
    let until = stage.view(&agent).trusted_until_unix_ms;
    for interval_ms in [Some(DAY_MS), None, Some(HOUR_MS), Some(10_000)] {
        activate(&mut stage, every(&agent.machine, interval_ms));
        assert_eq!(stage.view(&agent).trusted_until_unix_ms, until);
    }
    activate(&mut stage, every(&agent.machine, 2_000));
    activate(&mut stage, every(&agent.machine, DAY_MS));
    assert_eq!(stage.view(&agent).trusted_until_unix_ms, until - 24_000);
    assert_eq!(trusted_for_ms(&mut stage, &agent), 6_000);
}

#[test]
fn s05_s14_a_restart_gives_no_trust_back_that_a_shorter_interval_ended() {
    let (mut stage, agent, session) = trusted_every(HOUR_MS);
    stage.pass_ms(20_000);
    activate(&mut stage, every(&agent.machine, 10_000));
    let before = stage.view(&agent);
    stage.disconnect(&agent, session);
    restart(&mut stage, &agent, every(&agent.machine, 10_000));
    let view = stage.view(&agent);
    assert_eq!(view.trusted_until_unix_ms, before.trusted_until_unix_ms);
    assert_eq!(trusted_for_ms(&mut stage, &agent), 10_000);
}

#[test]
fn s14_s17_evidence_on_its_way_earns_what_the_group_grants_when_it_is_durable() {
    let (mut stage, agent, session) = trusted_every(HOUR_MS);
    let challenge = stage.challenge(session);
    let issued_unix_ms = stage.now.unix_ms;
    stage.holds_commits = true;
    let submission = stage.answer(&agent, session, &challenge);
    stage.submit(&agent, session, submission);
    stage.pass_ms(1_000);
    activate(&mut stage, every(&agent.machine, 10_000));
    stage.holds_commits = false;
    stage.answer_commit(true);
    stage.settle();
    let answer = stage.answer_to(challenge.id).unwrap();
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    assert!(answer.next_after_ms <= 11_000, "{}", answer.next_after_ms);
    let view = stage.view(&agent);
    assert_eq!(view.trusted_until_unix_ms, issued_unix_ms + 30_000);
    assert!(challenged_after_ms(&mut stage, session) <= 11_000);
}

#[test]
fn s16_moving_to_a_group_with_a_shorter_interval_ends_trust_earlier() {
    let (mut stage, agent, session) = trusted_every(HOUR_MS);
    let other = Group {
        slug: "other".into(),
        ..every(&agent.machine, 10_000)
    };
    activate(&mut stage, other);
    stage.pass_ms(20_000);
    stage.disconnect(&agent, session);
    let view = stage.view(&agent);
    let mut record = (*view.record).clone();
    record.group = "other".into();
    let until = view.trusted_until_unix_ms - 3 * HOUR_MS + 30_000;
    for by_removal in [false, true] {
        if by_removal {
            stage.handle(Input::SetAside(agent.id.clone()));
        }
        stage.handle(Input::Agent {
            record: Box::new(record.clone()),
            state: Box::new(view.state.clone()),
            candidate: None,
        });
        let moved = stage.view(&agent);
        assert_eq!(moved.status, EffectiveStatus::Trusted);
        assert_eq!(moved.trusted_until_unix_ms, until);
    }
    let session = stage.connect(&agent);
    assert_eq!(challenged_after_ms(&mut stage, session), 0);
    stage.pass_ms(10_000);
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Overdue);
}

#[test]
fn s08_agents_stay_spread_when_their_interval_becomes_shorter() {
    let machine = Machine::valid();
    let mut stage = Stage::new(every(&machine, HOUR_MS));
    stage.nonces.jitters = true;
    let agents: Vec<Enrolled> = (0..20)
        .map(|nth| stage.enrol(&format!("machine-{nth}"), machine.clone()))
        .collect();
    for agent in &agents {
        stage.pass_ms(HOUR_MS / 21);
        let session = stage.connect(agent);
        stage.attest(agent, session);
    }
    stage.sent.clear();
    let changed_ms = stage.now.mono_ms;
    activate(&mut stage, every(&machine, 10_000));
    let mut challenged_ms = Vec::new();
    while challenged_ms.len() < agents.len() {
        let next = stage.shard.next_deadline_ms().unwrap();
        stage.pass_ms(next.saturating_sub(stage.now.mono_ms).max(1));
        let new = stage.sent.drain(..);
        let new = new.filter(|(_, message)| matches!(message, ToAgent::Challenge(_)));
        challenged_ms.extend(new.map(|_| stage.now.mono_ms - changed_ms));
    }
    assert!(
        challenged_ms.iter().all(|ms| *ms <= 11_000),
        "{challenged_ms:?}"
    );
    for half in [0..5_000, 5_000..11_001] {
        let in_half = challenged_ms.iter().filter(|ms| half.contains(*ms)).count();
        assert!(in_half >= 5, "{challenged_ms:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever interval follows whatever other, with agents that answer, come and go: each is asked
    /// within the interval that its group has then, and trusted for no longer than three.
    #[test]
    fn s14_no_change_of_interval_loses_an_agent_or_lends_it_trust(
        steps in prop::collection::vec((0_usize..6, 0_u64..90_000, 0_usize..3, any::<bool>()), 1..20),
    ) {
        let intervals = [None, Some(1_000), Some(2_500), Some(60_000), Some(HOUR_MS), Some(DAY_MS)];
        let machine = Machine::valid();
        let mut stage = Stage::new(group_of(&machine));
        stage.nonces.jitters = true;
        let agents = [0, 1, 2].map(|nth| stage.enrol(&format!("machine-{nth}"), machine.clone()));
        let mut sessions = [0, 1, 2].map(|nth| stage.connect(&agents[nth]));
        for (interval, pause_ms, nth, reconnects) in steps {
            let interval_ms = intervals[interval];
            let before = [0, 1, 2].map(|nth| stage.view(&agents[nth]).trusted_until_unix_ms);
            stage.handle(Input::Group(Arc::new(every(&machine, interval_ms))));
            let wait_ms = interval_ms.unwrap_or(10_000);
            for (agent, before) in agents.iter().zip(before) {
                let view = stage.view(agent);
                prop_assert!(view.trusted_until_unix_ms <= before);
                prop_assert!(view.trusted_until_unix_ms <= view.state.trusted_until_unix_ms);
                if let Some(verdict) = &view.state.verdict {
                    let age_ms = stage.now.unix_ms - verdict.challenged_unix_ms;
                    let is_young = age_ms < 3 * wait_ms;
                    prop_assert!(is_young || view.status != EffectiveStatus::Trusted);
                }
            }
            stage.pass_ms(pause_ms);
            if reconnects {
                stage.disconnect(&agents[nth], sessions[nth]);
                sessions[nth] = stage.connect(&agents[nth]);
            } else {
                // Not what was asked too long ago.
                stage.sent.clear();
                let answer = stage.attest(&agents[nth], sessions[nth]);
                prop_assert_eq!(answer.code, None);
                prop_assert!(u64::from(answer.next_after_ms) <= wait_ms + wait_ms / 10);
            }
        }
        // Challenges that are open end first; then each agent is asked once in the interval.
        let wait_ms = 11_000;
        stage.handle(Input::Group(Arc::new(every(&machine, 10_000))));
        stage.pass_ms(5_001);
        stage.sent.clear();
        stage.pass_ms(wait_ms);
        for session in sessions {
            let is_challenge = |(to, message): &(SessionId, ToAgent)| {
                *to == session && matches!(message, ToAgent::Challenge(_))
            };
            prop_assert!(stage.sent.iter().any(is_challenge), "{session:?} was forgotten");
        }
    }
}
