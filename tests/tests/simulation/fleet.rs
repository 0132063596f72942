//! What is enrolled, and in which group.

use std::sync::Arc;

use rat_engine::agent_id::AgentId;
use rat_engine::hash::HashAlg;
use rat_engine::ima::judge::Judge;
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::policy::RuntimePolicy;
use rat_engine::shard::{AgentPath, AgentRecord, Group, PolicyRef};
use rat_tests::evidence::{Machine, boot_value};
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

/// The groups: one that keeps the server's interval, and one with an interval of its own.
pub(crate) const GROUPS: [&str; 2] = ["fleet", "yard"];

/// The group of a machine: every other one is in the yard.
pub(crate) fn group_of(agent: &AgentId) -> &'static str {
    let last = agent.as_str().bytes().last().unwrap();
    GROUPS[usize::from(last % 2)]
}

pub(crate) fn record(machine: &SimMachine) -> AgentRecord {
    AgentRecord {
        id: machine.id.clone(),
        group: group_of(&machine.id).into(),
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

/// What the groups demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demanded {
    pub(crate) allows: Allows,
    /// The PCR policy: none, or whether it lists what machines booted.
    pub(crate) pcrs: Option<bool>,
    pub(crate) bypass: bool,
    pub(crate) protected: bool,
    /// Whether signatures of files must be valid; no machine has any.
    pub(crate) signatures: bool,
}

impl Demanded {
    pub(crate) const fn usual(allows: Allows) -> Self {
        Self {
            allows,
            pcrs: None,
            bypass: false,
            protected: true,
            signatures: false,
        }
    }

    /// Whether anybody can be trusted: every machine runs what the strict policy does not allow.
    pub(crate) fn can_be_met(&self) -> bool {
        self.allows != Allows::Less && self.pcrs != Some(false) && !self.bypass && self.protected
    }
}

/// Both groups; the yard's machines are challenged this often.
pub(crate) fn groups(demanded: Demanded, yard_interval_ms: Option<u64>) -> [Arc<Group>; 2] {
    let fleet = group(demanded);
    let yard = Group {
        slug: GROUPS[1].into(),
        interval_ms: yard_interval_ms,
        ..fleet.clone()
    };
    [Arc::new(fleet), Arc::new(yard)]
}

fn group(demanded: Demanded) -> Group {
    let mut machine = Machine::valid();
    match demanded.allows {
        Allows::Usual => {}
        Allows::More => machine.list.push(Measured::file("/usr/bin/id", b"id")),
        Allows::Less => machine.list[2].digest.fill(0),
    }
    let policy = machine.policy();
    let policy = RuntimePolicy::parse(policy.as_bytes()).unwrap();
    let judge = Arc::new(Judge::new(Arc::new(policy)).unwrap());
    Group {
        slug: GROUPS[0].into(),
        row_version: 1,
        enforced: Some(PolicyRef { version: 1, judge }),
        pcr_policy: demanded.pcrs.map(pcr_policy),
        measured_boot: None,
        bank: HashAlg::Sha256,
        protected: demanded.protected,
        bypass: demanded.bypass,
        block: false,
        require_boot_log: true,
        accept_violations: false,
        auto_recover: false,
        interval_ms: None,
        allow_sha1: false,
        require_valid_ima_sig: demanded.signatures,
        keylime: None,
    }
}

fn pcr_policy(is_listed: bool) -> Arc<PcrPolicy> {
    let value = match is_listed {
        true => boot_value(HashAlg::Sha256, 4),
        false => vec![0xab; 32],
    };
    let text = format!("{{\"4\": [\"{}\"]}}", hex::encode(value));
    Arc::new(PcrPolicy::parse(text.as_bytes()).unwrap())
}
