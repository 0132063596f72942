//! What is enrolled, and in which group.

use std::sync::Arc;

use rat_engine::agent_id::AgentId;
use rat_engine::hash::HashAlg;
use rat_engine::ima::judge::Judge;
use rat_engine::policy::RuntimePolicy;
use rat_engine::shard::{AgentPath, AgentRecord, Group, PolicyRef};
use rat_tests::evidence::Machine;
use rat_tests::measured::Measured;

use crate::machine::SimMachine;
use crate::world::UNIX_MS;

/// A machine, or the copy of it that pretends to be the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Body {
    pub(crate) agent: AgentId,
    pub(crate) is_copy: bool,
}

impl Body {
    pub(crate) fn original(agent: &AgentId) -> Self {
        Self {
            agent: agent.clone(),
            is_copy: false,
        }
    }

    pub(crate) fn copy_of(agent: &AgentId) -> Self {
        Self {
            agent: agent.clone(),
            is_copy: true,
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
    let mut machine = Machine::valid();
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
