//! Slow senders and what they may hold: S07, S08, X04.

use rat_engine::evidence::{Challenge, Refusal, SessionId, Submission, ToAgent};
use rat_engine::shard::{EffectiveStatus, Input, Pacer, PacerSettings};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::stage::{Enrolled, Stage, group_of};

use super::{trusted, unchanged};

fn announce(stage: &mut Stage, agent: &Enrolled, session: SessionId, of: &Challenge, bytes: u64) {
    stage.handle(Input::Arriving {
        session,
        agent: agent.id.clone(),
        challenge: of.id,
        bytes,
    });
}

/// The answer whose list is announced, and never comes.
fn without_list(stage: &Stage, agent: &Enrolled, session: SessionId, of: &Challenge) -> Submission {
    let mut submission = stage.answer(agent, session, of);
    let list = submission.ima.as_mut().unwrap();
    list.whole = None;
    list.length = 1 << 30;
    submission
}

#[test]
fn x04_logs_of_evidence_that_came_in_time_have_the_time_that_they_need() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    stage.pass_ms(4_000);
    // Eight seconds at the least rate, and once more the deadline.
    announce(&mut stage, &agent, session, &challenge, 128 * 1024);
    stage.pass_ms(12_000);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(
        (answer.code, answer.status),
        (None, EffectiveStatus::Trusted)
    );
}

#[test]
fn x04_logs_that_come_slower_than_the_least_rate_are_not_waited_for() {
    let (mut stage, agent, session) = trusted();
    let challenge = stage.challenge(session);
    let submission = stage.answer(&agent, session, &challenge);
    announce(&mut stage, &agent, session, &challenge, 128 * 1024);
    // A second announcement buys no time.
    stage.pass_ms(12_000);
    announce(&mut stage, &agent, session, &challenge, 1 << 30);
    stage.pass_ms(2_000);
    let before = stage.view(&agent).state;
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteStale));
    unchanged(&before, &stage.view(&agent).state);
}

#[test]
fn q03_logs_that_are_announced_too_late_or_by_others_buy_no_time() {
    let (mut stage, agent, session) = trusted();
    let other = stage.enrol("machine-2", Machine::valid());
    let elsewhere = stage.connect(&other);
    let challenge = stage.challenge(session);
    announce(&mut stage, &agent, elsewhere, &challenge, 128 * 1024);
    announce(&mut stage, &other, elsewhere, &challenge, 128 * 1024);
    let submission = stage.answer(&agent, session, &challenge);
    stage.pass_ms(5_001);
    announce(&mut stage, &agent, session, &challenge, 128 * 1024);
    let answer = stage.submit(&agent, session, submission).unwrap();
    assert_eq!(answer.code, Some(Code::QuoteStale));
}

/// What a connection that just came was told: `None` when it may stay, or how long to stay away.
fn sent_away_ms(stage: &Stage, session: SessionId) -> Option<u64> {
    let of_session = stage.sent.iter().filter(|(to, _)| *to == session);
    let mut told = of_session.map(|(_, message)| message);
    match told.next().expect("it was told nothing") {
        ToAgent::Welcome { .. } => None,
        ToAgent::Refused {
            code: Refusal::Busy,
            retry_after_ms,
        } => Some(u64::from(*retry_after_ms)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn s08_a_herd_comes_back_spread_out_and_all_of_it_is_served() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    stage.nonces.jitters = true;
    stage.pacer = Pacer::new(PacerSettings {
        admissions_per_second_max: 3,
        ..PacerSettings::default()
    });
    let agents: Vec<_> = (0..10)
        .map(|nth| stage.enrol(&format!("machine-{nth}"), machine.clone()))
        .collect();
    let mut served = Vec::new();
    // Whoever was sent away, and when it comes back.
    let mut away = Vec::new();
    for agent in agents {
        let session = stage.connect(&agent);
        match sent_away_ms(&stage, session) {
            None => served.push((agent, session)),
            Some(ms) => away.push((stage.now.mono_ms + ms, agent)),
        }
    }
    assert_eq!((served.len(), away.len()), (3, 7));
    let mut times: Vec<u64> = away.iter().map(|(at_ms, _)| at_ms - 1_000_000).collect();
    times.sort_unstable();
    times.dedup();
    assert_eq!(times.len(), 7, "jitter spreads them");
    assert!(
        times.iter().all(|ms| (5_000..10_000).contains(ms)),
        "{times:?}"
    );
    for _ in 0..100 {
        away.sort_by_key(|(at_ms, _)| std::cmp::Reverse(*at_ms));
        let Some((at_ms, agent)) = away.pop() else {
            break;
        };
        stage.pass_ms(at_ms.saturating_sub(stage.now.mono_ms));
        let session = stage.connect(&agent);
        match sent_away_ms(&stage, session) {
            None => served.push((agent, session)),
            Some(ms) => away.push((stage.now.mono_ms + ms, agent)),
        }
    }
    assert_eq!(served.len(), 10);
    for (agent, session) in served {
        // Challenges that it did not answer meanwhile are over.
        stage.pass_ms(5_001);
        stage.sent.clear();
        let answer = stage.attest(&agent, session);
        assert_eq!(answer.status, EffectiveStatus::Trusted);
    }
}

#[test]
fn s07_agents_that_drip_their_lists_hold_nobody_up() {
    let machine = Machine::valid();
    let mut stage = Stage::new(group_of(&machine));
    let limit = stage.pacer.limit();
    let slow: Vec<_> = (0..limit)
        .map(|nth| stage.enrol(&format!("slow-{nth}"), machine.clone()))
        .collect();
    let sessions: Vec<_> = slow.iter().map(|agent| stage.connect(agent)).collect();
    stage.holds_tasks = true;
    for (agent, session) in slow.iter().zip(&sessions) {
        let challenge = stage.challenge(*session);
        let submission = without_list(&stage, agent, *session, &challenge);
        assert_eq!(stage.submit(agent, *session, submission), None);
    }
    assert_eq!((stage.pacer.open(), stage.pacer.limit()), (0, limit));
    stage.holds_tasks = false;
    stage.tasks.clear();
    let quick = stage.enrol("quick", machine);
    let session = stage.connect(&quick);
    let answer = stage.attest(&quick, session);
    assert_eq!(answer.status, EffectiveStatus::Trusted);
    // However long the others took: none of that was our service.
    stage.pass_ms(24 * 3_600_000);
    assert!(stage.pacer.limit() >= limit);
    assert!(stage.pacer.open() <= limit);
}
