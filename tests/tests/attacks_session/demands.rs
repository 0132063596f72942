//! What a group demands, and when that changes under evidence, machines and restarts: P06, L05, L07,
//! L12.

use rat_engine::evidence::{SessionId, Submission};
use rat_engine::hash::HashAlg;
use rat_engine::shard::{
    Coverage, EffectiveStatus, Event, Group, Input, ListFacts, ListRules, VerdictKind,
};
use rat_engine::verdict::Code;
use rat_tests::evidence::Machine;
use rat_tests::stage::{Enrolled, Stage, group_of};

use super::rejudge::{activate, kept, restart, stricter, wider};
use super::rules::{of_pcr_4, with_pcr_policy};

/// How a machine boots so that no list of that boot is seen.
struct Unseen {
    /// What its group demands while it does.
    group: Group,
    /// What it sends.
    change: fn(&mut Submission),
    reboots: bool,
    status: EffectiveStatus,
}

fn without_list(submission: &mut Submission) {
    submission.ima = None;
}

fn cut_short(submission: &mut Submission) {
    let list = submission.ima.as_mut().unwrap();
    let whole = list.whole.as_mut().unwrap();
    whole.truncate(whole.len() / 2);
}

fn unseen(machine: &Machine) -> Vec<(&'static str, Unseen)> {
    let usual = group_of(machine);
    let refusing = with_pcr_policy(usual.clone(), &of_pcr_4(machine, false));
    let of = |group: &Group| Unseen {
        group: group.clone(),
        change: without_list,
        reboots: true,
        status: EffectiveStatus::Untrusted,
    };
    let bypass = Group {
        bypass: true,
        ..usual.clone()
    };
    let cut = Unseen {
        change: cut_short,
        ..of(&refusing)
    };
    let bypassed = Unseen {
        status: EffectiveStatus::TrustedUnenforced,
        ..of(&bypass)
    };
    let without_policy = Unseen {
        status: EffectiveStatus::Unverified,
        ..of(&Group {
            enforced: None,
            ..usual
        })
    };
    let detection = Unseen {
        status: EffectiveStatus::TrustedUnenforced,
        ..of(&Group {
            protected: false,
            ..refusing.clone()
        })
    };
    let other_bank = Unseen {
        reboots: false,
        status: EffectiveStatus::TrustedUnenforced,
        ..of(&Group {
            bank: HashAlg::Sha384,
            ..bypass
        })
    };
    vec![
        ("values of PCRs", of(&refusing)),
        ("a list cut short", cut),
        ("bypass", bypassed),
        ("no policy", without_policy),
        ("detection", detection),
        ("another bank", other_bank),
    ]
}

#[test]
fn p06_l07_a_boot_whose_list_was_not_sent_inherits_nothing() {
    for (how, unseen) in unseen(&Machine::valid()) {
        let (mut stage, mut agent, session) = kept();
        stage.disconnect(&agent, session);
        stage.pass_ms(5_000);
        if unseen.reboots {
            agent.boot.reset_count += 1;
        }
        let bank = unseen.group.bank;
        agent.machine.banks[0].0 = bank;
        activate(&mut stage, unseen.group);
        let session = stage.connect(&agent);
        let challenge = stage.challenge(session);
        assert_eq!(challenge.ima_from_entry, Some(0), "{how}");
        let mut submission = stage.answer(&agent, session, &challenge);
        (unseen.change)(&mut submission);
        stage.submit(&agent, session, submission).unwrap();
        let view = stage.view(&agent);
        assert_eq!(view.status, unseen.status, "{how}");
        let state = view.state;
        assert_eq!(state.boot, Some(agent.boot), "{how}: it is the boot");
        assert_eq!((state.ima, state.passed_under), (None, None), "{how}");
        assert!(state.learned.is_empty(), "{how}");
        assert_eq!(state.list, ListFacts::default(), "{how}");
        // The operator enforces the policy again, and the machine extends the old list into its PCR.
        let usual = Group {
            bank,
            ..group_of(&agent.machine)
        };
        activate(&mut stage, usual);
        let challenge = stage.challenge(session);
        assert_eq!(challenge.ima_from_entry, Some(0), "{how}");
        let mut submission = stage.answer(&agent, session, &challenge);
        let list = submission.ima.as_mut().unwrap();
        (list.from_entry, list.length, list.whole) = (4, 0, Some(Vec::new()));
        let answer = stage.submit(&agent, session, submission).unwrap();
        assert_eq!(answer.code, Some(Code::ImaOffsetMismatch), "{how}");
        assert_ne!(answer.status, EffectiveStatus::Trusted, "{how}");
        assert_eq!(stage.view(&agent).state.passed_under, None, "{how}");
        // What it takes is its list.
        let challenge = stage.challenge(session);
        assert_eq!(challenge.ima_from_entry, Some(0), "{how}");
        let submission = stage.answer(&agent, session, &challenge);
        let answer = stage.submit(&agent, session, submission).unwrap();
        // In the other bank nothing shows that its boot_aggregate is of this boot.
        let is_aggregate_known = bank == HashAlg::Sha256;
        assert_eq!(answer.code.is_none(), is_aggregate_known, "{how}");
        if is_aggregate_known {
            assert_eq!(answer.status, EffectiveStatus::Trusted, "{how}");
        }
    }
}

/// A change of what is demanded of quotes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    PcrPolicy,
    Bank,
    BootLog,
}

impl Change {
    fn before(self, machine: &Machine) -> Group {
        Group {
            require_boot_log: self != Self::BootLog,
            ..group_of(machine)
        }
    }

    fn after(self, machine: &Machine) -> Group {
        let group = group_of(machine);
        match self {
            Self::PcrPolicy => with_pcr_policy(group, &of_pcr_4(machine, true)),
            Self::Bank => Group {
                bank: HashAlg::Sha384,
                ..group
            },
            Self::BootLog => group,
        }
    }

    /// A machine that is trusted by what is demanded before.
    fn trusted(self) -> (Stage, Enrolled, SessionId) {
        let machine = Machine::valid();
        let mut stage = Stage::new(self.before(&machine));
        stage.keeps_lists = true;
        let agent = stage.enrol("machine-1", machine);
        let session = stage.connect(&agent);
        let answer = self.attest(&mut stage, &agent, session);
        assert_eq!(answer, (EffectiveStatus::Trusted, None));
        stage.events.clear();
        (stage, agent, session)
    }

    /// The machine's answer; it sends no boot log where that is what is going to be demanded.
    fn answer(self, stage: &mut Stage, agent: &Enrolled, session: SessionId) -> Submission {
        let challenge = stage.challenge(session);
        let mut submission = stage.answer(agent, session, &challenge);
        if self == Self::BootLog {
            submission.boot_log = None;
        }
        submission
    }

    fn attest(
        self,
        stage: &mut Stage,
        agent: &Enrolled,
        session: SessionId,
    ) -> (EffectiveStatus, Option<Code>) {
        let submission = self.answer(stage, agent, session);
        let answer = stage.submit(agent, session, submission).unwrap();
        (answer.status, answer.code)
    }

    /// Nobody trusts the machine, which is asked at once for what is demanded now.
    fn is_pending(self, stage: &mut Stage, agent: &mut Enrolled, session: SessionId) {
        assert_eq!(stage.view(agent).status, EffectiveStatus::Pending);
        let asked_ms = stage.now.mono_ms;
        if self == Self::Bank {
            agent.machine.banks[0].0 = HashAlg::Sha384;
        }
        let challenge = stage.challenge(session);
        assert!(stage.now.mono_ms - asked_ms < 100, "{self:?}: at once");
        let submission = stage.answer(agent, session, &challenge);
        let answer = stage.submit(agent, session, submission).unwrap();
        let expected = match self {
            // Nothing shows in the other bank that its boot_aggregate is of this boot.
            Self::Bank => Some(Code::ImaBootAggregateUnverifiable),
            Self::PcrPolicy | Self::BootLog => None,
        };
        assert_eq!(answer.code, expected, "{self:?}");
        let is_trusted = answer.status == EffectiveStatus::Trusted;
        assert_eq!(is_trusted, expected.is_none(), "{self:?}");
    }
}

const CHANGES: [Change; 3] = [Change::PcrPolicy, Change::Bank, Change::BootLog];

#[test]
fn l05_l07_a_changed_pcr_policy_bank_or_boot_log_demand_trusts_nobody_before_its_quote() {
    for change in CHANGES {
        let (mut stage, mut agent, session) = change.trusted();
        activate(&mut stage, change.after(&agent.machine));
        let told = Event::Status {
            agent: agent.id.clone(),
            group: "fleet".to_owned(),
            from: EffectiveStatus::Trusted,
            to: EffectiveStatus::Pending,
            code: None,
            detail: String::new(),
        };
        assert!(stage.events.contains(&told), "{change:?}");
        change.is_pending(&mut stage, &mut agent, session);
    }
}

#[test]
fn l05_l07_evidence_in_flight_earns_no_trust_by_what_was_demanded_before() {
    for change in CHANGES {
        let (mut stage, mut agent, session) = change.trusted();
        let before = stage.view(&agent).state;
        stage.holds_tasks = true;
        let submission = change.answer(&mut stage, &agent, session);
        stage.submit(&agent, session, submission);
        activate(&mut stage, change.after(&agent.machine));
        stage.holds_tasks = false;
        stage.run_tasks();
        let state = stage.view(&agent).state;
        assert_eq!(state.attestations, before.attestations + 1);
        assert_eq!(state.trusted_until_unix_ms, before.trusted_until_unix_ms);
        assert_eq!(state.passed, before.passed);
        change.is_pending(&mut stage, &mut agent, session);
    }
}

#[test]
fn l05_l07_a_change_while_a_verdict_is_being_stored_trusts_nobody() {
    for change in CHANGES {
        let (mut stage, mut agent, session) = change.trusted();
        stage.holds_commits = true;
        let submission = change.answer(&mut stage, &agent, session);
        stage.submit(&agent, session, submission);
        activate(&mut stage, change.after(&agent.machine));
        stage.holds_commits = false;
        stage.answer_commit(true);
        stage.settle();
        change.is_pending(&mut stage, &mut agent, session);
    }
}

#[test]
fn l05_l07_a_changed_demand_reaches_machines_that_are_away_and_lasts_over_a_restart() {
    for change in CHANGES {
        let (mut stage, mut agent, session) = change.trusted();
        stage.disconnect(&agent, session);
        activate(&mut stage, change.after(&agent.machine));
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
        let session = stage.connect(&agent);
        change.is_pending(&mut stage, &mut agent, session);
        let (mut stage, mut agent, _) = change.trusted();
        restart(&mut stage, &agent, change.after(&agent.machine));
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
        let session = stage.connect(&agent);
        change.is_pending(&mut stage, &mut agent, session);
    }
}

#[test]
fn l05_l07_a_move_to_a_group_that_demands_more_trusts_nobody_before_its_quote() {
    for change in CHANGES {
        let (mut stage, mut agent, session) = change.trusted();
        let other = Group {
            slug: "other".to_owned(),
            ..change.after(&agent.machine)
        };
        activate(&mut stage, other);
        // Evidence for the group that it leaves is on its way.
        stage.holds_tasks = true;
        let submission = change.answer(&mut stage, &agent, session);
        stage.submit(&agent, session, submission);
        let view = stage.view(&agent);
        let mut record = (*view.record).clone();
        record.group = "other".to_owned();
        stage.handle(Input::Agent {
            record: Box::new(record),
            state: Box::new(view.state),
            candidate: None,
        });
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
        stage.holds_tasks = false;
        stage.run_tasks();
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Pending);
        let session = stage.connect(&agent);
        change.is_pending(&mut stage, &mut agent, session);
    }
}

#[test]
fn l05_what_is_demanded_no_more_takes_no_trust_away() {
    for change in [Change::PcrPolicy, Change::BootLog] {
        let machine = Machine::valid();
        let mut stage = Stage::new(change.after(&machine));
        let agent = stage.enrol("machine-1", machine);
        let session = stage.connect(&agent);
        assert_eq!(
            stage.attest(&agent, session).status,
            EffectiveStatus::Trusted
        );
        activate(&mut stage, change.before(&agent.machine));
        assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
        // And a boot that a log explained is explained when one is demanded again.
        if change == Change::BootLog {
            activate(&mut stage, change.after(&agent.machine));
            assert_eq!(stage.view(&agent).status, EffectiveStatus::Trusted);
        }
    }
}

#[test]
fn l05_l07_a_group_that_is_told_late_does_not_replace_a_newer_one() {
    let (mut stage, agent, _) = kept();
    let of_version = |row_version, group| Group {
        row_version,
        ..group
    };
    let machine = &agent.machine;
    activate(&mut stage, of_version(7, stricter(machine)));
    assert_eq!(stage.view(&agent).status, EffectiveStatus::Untrusted);
    let coverage = stage.shard.coverage("fleet");
    activate(&mut stage, of_version(6, wider(machine)));
    assert_eq!(stage.shard.coverage("fleet"), coverage);
    assert_eq!(coverage.by, Some(stricter(machine).demands()));
    activate(&mut stage, of_version(8, wider(machine)));
    let by = stage.shard.coverage("fleet").by;
    assert_eq!(by, Some(wider(machine).demands()));
}

#[test]
fn l07_coverage_is_of_the_policy_that_it_is_shown_with() {
    let (mut stage, agent, session) = kept();
    let machine = agent.machine.clone();
    let usual = stage.shard.coverage("fleet");
    assert_eq!((usual.judged, usual.agents), (1, 1));
    let rules = usual.by.unwrap().list;
    let policy = group_of(&machine).enforced.unwrap();
    let expected = ListRules {
        policy: policy.judge.policy().compiled().digest(),
        accept_violations: false,
        require_valid_ima_sig: false,
    };
    assert_eq!(rules, Some(expected));
    let both = usual.and(usual).unwrap();
    assert_eq!((both.judged, both.agents, both.by), (2, 2, usual.by));
    // What was counted by other demands is not added to it, be it the policy or the PCR policy.
    activate(&mut stage, wider(&machine));
    let wider = stage.shard.coverage("fleet");
    assert_eq!(usual.and(wider), None);
    assert_eq!(usual.and(Coverage::default()), None);
    let tighter = with_pcr_policy(group_of(&machine), &of_pcr_4(&machine, true));
    activate(&mut stage, tighter);
    let tighter = stage.shard.coverage("fleet");
    assert_eq!(usual.and(tighter), None);
    // Nobody was held against the PCR policy before a quote was, however that ends.
    assert_eq!((tighter.judged, tighter.agents), (0, 1));
    // The first answers what was asked by demands of before.
    for _ in 0..2 {
        stage.attest(&agent, session);
    }
    assert_eq!(stage.shard.coverage("fleet").judged, 1);
    let refusing = with_pcr_policy(group_of(&machine), &of_pcr_4(&machine, false));
    activate(&mut stage, refusing);
    assert_eq!(stage.shard.coverage("fleet").judged, 0);
    let answer = stage.attest(&agent, session);
    assert_eq!(answer.code, Some(Code::PcrValueNotAllowed));
    assert_eq!(stage.shard.coverage("fleet").judged, 1);
}

#[test]
fn l12_what_was_denied_in_detection_fails_when_the_group_enforces() {
    let machine = Machine::valid();
    for is_away in [true, false] {
        let detection = Group {
            protected: false,
            ..stricter(&machine)
        };
        let mut stage = Stage::new(detection);
        stage.keeps_lists = true;
        let agent = stage.enrol("machine-1", machine.clone());
        let session = stage.connect(&agent);
        let answer = stage.attest(&agent, session);
        assert_eq!(answer.code, Some(Code::ImaDigestNotListed));
        assert_eq!(answer.status, EffectiveStatus::TrustedUnenforced);
        if is_away {
            stage.disconnect(&agent, session);
        }
        let last_seen_ms = stage.now.unix_ms;
        stage.pass_ms(2_000);
        // No list has to be read for that.
        stage.lists.lose(&agent.id);
        activate(&mut stage, stricter(&machine));
        let view = stage.view(&agent);
        assert_eq!(view.status, EffectiveStatus::Untrusted);
        assert_eq!(view.state.trusted_until_unix_ms, 0);
        let failure = view.state.failure.unwrap();
        assert_eq!(failure.code, Code::ImaDigestNotListed);
        assert_eq!(failure.path.as_deref(), Some(&b"/usr/bin/ls"[..]));
        assert_eq!(failure.at_unix_ms, stage.now.unix_ms);
        // Nothing came from the machine meanwhile.
        assert_eq!(view.state.verdict.unwrap().at_unix_ms, last_seen_ms);
        let outcome = &stage.ticks.last().unwrap().outcomes[0];
        assert_eq!(outcome.verdict, VerdictKind::Untrusted);
        assert_eq!(outcome.evidence_sha256, [0; 32]);
        let told = |event: &Event| {
            matches!(event, Event::Status { to: EffectiveStatus::Untrusted, code, .. }
                if *code == Some(Code::ImaDigestNotListed))
        };
        assert!(stage.events.iter().any(told));
        // It ends like any failure by a policy.
        let session = stage.connect(&agent);
        activate(&mut stage, group_of(&machine));
        let answer = stage.attest(&agent, session);
        assert_eq!(answer.status, EffectiveStatus::Trusted, "{is_away}");
    }
}
