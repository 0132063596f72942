//! What may go wrong, and whom it happens to.

use std::sync::Arc;

use rat_engine::hash::HashAlg;
use rat_engine::ima::judge::Judge;
use rat_engine::policy::RuntimePolicy;
use rat_engine::shard::{AgentPath, AgentRecord, Group, PolicyRef};
use rat_tests::measured::Measured;

use crate::machine::SimMachine;

/// Wall clock of the virtual epoch.
pub(crate) const UNIX_MS: u64 = 1_750_000_000_000;

/// Chances in a thousand, each time the thing could go wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// The connection breaks instead of delivering.
    pub(crate) drop: u64,
    /// Evidence is delivered twice.
    pub(crate) duplicate: u64,
    /// A message is delayed by up to this many milliseconds.
    pub(crate) delay_ms_max: u64,
    /// The server crashes before a step.
    pub(crate) crash: u64,
    /// A commit fails for good, or is delayed.
    pub(crate) commit_fails: u64,
    /// Somebody runs an unlisted file, each second.
    pub(crate) compromise: u64,
    /// A machine reboots, each second.
    pub(crate) reboot: u64,
    /// Another policy is activated, each second.
    pub(crate) policy: u64,
    /// A stored list is lost, damaged, or never read to its end.
    pub(crate) list: u64,
}

impl Faults {
    pub(crate) const fn none() -> Self {
        Self {
            drop: 0,
            duplicate: 0,
            delay_ms_max: 0,
            crash: 0,
            commit_fails: 0,
            compromise: 0,
            reboot: 0,
            policy: 0,
            list: 0,
        }
    }

    pub(crate) const fn all() -> Self {
        Self {
            drop: 60,
            duplicate: 80,
            delay_ms_max: 3_000,
            crash: 4,
            commit_fails: 60,
            compromise: 3,
            reboot: 6,
            policy: 30,
            list: 150,
        }
    }
}

pub(crate) fn record(machine: &SimMachine) -> AgentRecord {
    AgentRecord {
        id: machine.id.clone(),
        group: "fleet".into(),
        path: AgentPath::Native,
        ak_public: machine.machine.ak.public(),
        ak_epoch: 1,
        ek_sha256: rat_tests::oracle::digest(HashAlg::Sha256, machine.id.as_str().as_bytes())
            .try_into()
            .unwrap(),
        client_key_sha256: [1; 32],
        relay_key_sha256: None,
        baseline: None,
        enrolled_unix_ms: UNIX_MS,
    }
}

/// What a policy allows of what machines run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allows {
    /// What clean machines run.
    Usual,
    /// The same, and something that none of them runs.
    More,
    /// All but one file that every machine runs.
    Less,
}

pub(crate) fn group(allows: Allows) -> Group {
    let mut machine = rat_tests::evidence::Machine::valid();
    match allows {
        Allows::Usual => {}
        Allows::More => machine.list.push(Measured::file("/usr/bin/id", b"id")),
        Allows::Less => machine.list[2].digest.fill(0),
    }
    let policy = machine.policy();
    let policy = RuntimePolicy::parse(policy.as_bytes()).unwrap();
    let judge = Arc::new(Judge::new(Arc::new(policy), false).unwrap());
    Group {
        slug: "fleet".into(),
        enforced: Some(PolicyRef { version: 1, judge }),
        pcr_policy: None,
        bank: HashAlg::Sha256,
        protected: true,
        bypass: false,
        block: false,
        require_boot_log: true,
        accept_violations: false,
        auto_recover: false,
    }
}
