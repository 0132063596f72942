//! What happens to a shard, and what it wants done.

use std::sync::Arc;

use super::record::{AgentRecord, Demands, Group, KeylimeTerms};
use super::rejudge::{Rejudge, RejudgeId, Rejudged, Unusable};
use super::state::{AgentState, EffectiveStatus};
use super::task::{Assignment, Judged};
use super::tick::Tick;
use crate::agent_id::AgentId;
use crate::evidence::{ChallengeId, Hello, SessionId, Submission, ToAgent};
use crate::hash::Digest;
use crate::ima::judge::Judge;
use crate::verdict::Code;

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// An agent is there: loaded from the store, or enrolled, or enrolled again.
    Agent {
        /// What was enrolled.
        record: Box<AgentRecord>,
        /// What is known of it.
        state: Box<AgentState>,
        /// The judge of the record's baseline candidate.
        candidate: Option<Arc<Judge>>,
    },
    /// An operator removed an agent. (N08)
    Remove(AgentId),
    /// An agent's record is being changed: it is not here until it comes as [`Input::Agent`] again,
    /// and its machine soon asks anew.
    SetAside(AgentId),
    /// What a group demands, for the first time or anew.
    Group(Arc<Group>),
    /// What is demanded of one of Keylime's agents, before it comes or anew.
    Terms {
        /// Which.
        agent: AgentId,
        /// What.
        terms: Arc<Group>,
    },
    /// An agent connected.
    Connected {
        /// The connection.
        session: SessionId,
        /// What it says.
        hello: Box<Hello>,
    },
    /// A connection ended.
    Disconnected {
        /// The connection.
        session: SessionId,
        /// Whose it was.
        agent: AgentId,
    },
    /// Evidence arrived.
    Evidence {
        /// By which connection.
        session: SessionId,
        /// Whose connection it is.
        agent: AgentId,
        /// The evidence.
        submission: Box<Submission>,
    },
    /// An appraisal ended.
    Judged(Box<Judged>),
    /// An appraisal will not end.
    Abandoned {
        /// Of which agent.
        agent: AgentId,
        /// Of which challenge.
        challenge: ChallengeId,
        /// Why.
        why: Abandon,
    },
    /// A stored list that is being judged goes on; one that stands still is given up.
    Rejudging {
        /// Of which agent.
        agent: AgentId,
        /// In which attempt.
        id: RejudgeId,
    },
    /// A stored list was judged, or could not be.
    Rejudged(Box<Rejudged>),
    /// The tick with this number is durable.
    Committed {
        /// Its number.
        seq: u64,
    },
    /// Logs that answer a challenge are on their way: its deadline holds for the evidence, which
    /// is here, and not for them.
    Arriving {
        /// Over which connection.
        session: SessionId,
        /// Whose.
        agent: AgentId,
        /// The challenge that they answer.
        challenge: ChallengeId,
        /// How long they are said to be.
        bytes: u64,
    },
    /// The tick with this number is not in the store and never will be. (S17)
    CommitFailed {
        /// Its number.
        seq: u64,
    },
    /// An operator acts on an agent.
    Operate {
        /// Which.
        agent: AgentId,
        /// How.
        operation: Operation,
    },
    /// The server stops: nothing new is begun, what runs is finished.
    Drain,
}

/// Why an appraisal will not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abandon {
    /// The list ended before its announced length, or its connection did.
    Incomplete,
    /// It took too long.
    Timeout,
    /// The code that judged it panicked.
    Panicked,
    /// There was no room for it.
    Overload,
}

impl Abandon {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Incomplete,
        Self::Timeout,
        Self::Panicked,
        Self::Overload,
    ];

    /// One lower-case word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Timeout => "timeout",
            Self::Panicked => "panicked",
            Self::Overload => "overload",
        }
    }
}

/// What an operator does to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Takes back its failure; it must pass from entry 0 before it is trusted.
    Clear,
    /// Has it attest now.
    Recheck,
}

/// Something to be done, in this order.
#[derive(Debug)]
pub enum Action {
    /// Send a message; after a refusal the connection is over.
    Send {
        /// To which connection.
        session: SessionId,
        /// What.
        message: ToAgent,
    },
    /// Judge evidence; answer with [`Input::Judged`] or [`Input::Abandoned`].
    Appraise(Box<Assignment>),
    /// Read the agent's newest stored list and judge it; answer with [`Input::Rejudged`].
    Rejudge(Box<Rejudge>),
    /// Make outcomes durable; answer with [`Input::Committed`] or [`Input::CommitFailed`]. The
    /// next tick comes after the answer.
    Commit(Arc<Tick>),
    /// Tell whoever listens.
    Event(Event),
}

/// Something that people, alerts and metrics want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An attestation was concluded, and is durable.
    Attested {
        /// The agent.
        agent: AgentId,
        /// Its status from now on.
        status: EffectiveStatus,
        /// What failed first.
        code: Option<Code>,
        /// From the arrival of the evidence to the commit, in milliseconds.
        took_ms: u64,
        /// How old the evidence of the last pass had become when this pass replaced it, in
        /// milliseconds.
        age_ms: Option<u64>,
        /// Entries of the measurement list that it proved.
        entries: u64,
    },
    /// An agent's status changed.
    Status {
        /// The agent.
        agent: AgentId,
        /// Its group.
        group: String,
        /// Before.
        from: EffectiveStatus,
        /// From now on.
        to: EffectiveStatus,
        /// What failed, when something did.
        code: Option<Code>,
        /// What it is, in a sentence.
        detail: String,
    },
    /// Evidence or a connection was turned away, and nothing about the agent changed.
    TurnedAway {
        /// Whose name it came under.
        agent: AgentId,
        /// Why.
        code: Code,
        /// The agent whose challenge it answered, when that was another. (Q05)
        other: Option<AgentId>,
    },
    /// What came through a relay did not fit what the agent's key signed: the agent is to come
    /// directly. (Q16)
    RelayMismatch {
        /// The agent.
        agent: AgentId,
        /// SHA-256 of the relay's public key.
        relay: [u8; 32],
        /// What did not fit.
        code: Code,
    },
    /// A log did not fit its quote; the agent is asked once more, from entry 0. (I20)
    SecondLook {
        /// The agent.
        agent: AgentId,
        /// What did not fit.
        code: Code,
    },
    /// A quote covers the list that a baseline was made of. (L08)
    BaselineProven {
        /// The agent.
        agent: AgentId,
        /// Its group.
        group: String,
        /// The candidate's digest.
        policy: Digest,
    },
    /// An appraisal did not end.
    Abandoned {
        /// The agent.
        agent: AgentId,
        /// Why.
        why: Abandon,
    },
    /// An operator took back an agent's failure.
    Cleared {
        /// The agent.
        agent: AgentId,
    },
    /// A stored list was judged by what its agent's group demands now, and that is durable. (L07)
    Rejudged {
        /// The agent.
        agent: AgentId,
        /// The policy.
        policy: Digest,
        /// What it does not allow, when it does not.
        code: Option<Code>,
        /// Entries of the list.
        entries: u64,
    },
    /// A stored list could not be judged; the agent may be asked for it.
    ListUnusable {
        /// The agent.
        agent: AgentId,
        /// Why.
        why: Unusable,
    },
}

/// How much of a group was judged by what it demands. (L07)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Agents whose quote and whole list were judged, however that ended.
    pub judged: u64,
    /// Agents.
    pub agents: u64,
    /// What counts as judged; `None` when the group is not known.
    pub by: Option<Demands>,
}

impl Coverage {
    /// Both together; `None` when they were not counted by the same demands.
    #[must_use]
    pub fn and(self, other: Self) -> Option<Self> {
        (self.by == other.by).then_some(Self {
            judged: self.judged.saturating_add(other.judged),
            agents: self.agents.saturating_add(other.agents),
            by: self.by,
        })
    }
}

/// How an agent stands, in the few bytes that a list of many shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// What it amounts to at the time of asking.
    pub status: EffectiveStatus,
    /// When it was last asked for a quote that it answered; 0 for never. A stored list that is
    /// judged again is nothing that the agent did.
    pub challenged_unix_ms: u64,
}

impl Glance {
    /// Of an agent in this state.
    pub fn new(status: EffectiveStatus, state: &AgentState) -> Self {
        let verdict = state.verdict.as_ref();
        Self {
            status,
            challenged_unix_ms: verdict.map_or(0, |verdict| verdict.challenged_unix_ms),
        }
    }
}

/// An agent as surfaces show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// What was enrolled.
    pub record: Arc<AgentRecord>,
    /// How it is asked, where it is one of Keylime's agents and that is known.
    pub terms: Option<Arc<KeylimeTerms>>,
    /// What attestations have shown, as it is committed.
    pub state: AgentState,
    /// When trust ends; earlier than committed when its group's interval became shorter since.
    pub trusted_until_unix_ms: u64,
    /// What it amounts to at the time of asking.
    pub status: EffectiveStatus,
    /// Whether it is connected.
    pub is_connected: bool,
}
