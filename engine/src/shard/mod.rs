//! One partition of the fleet, as a state machine without clock, thread or socket.
//!
//! Whoever drives a [`Shard`] gives it inputs and the time, and carries out the actions that it
//! asks for. The same inputs at the same times give the same actions.

mod agent;
mod challenge;
mod commit;
mod conclude;
mod counting;
mod epoch;
mod failing;
mod groups;
mod input;
mod intake;
mod kept;
mod machine;
mod pacing;
mod record;
mod rejudge;
mod rejudging;
mod resting;
mod roster;
mod settings;
mod settle;
mod state;
mod task;
mod tick;
mod told;
mod turns;
mod wheel;

pub use counting::StatusCounts;
pub use failing::is_of_policy;
pub use input::{Abandon, Action, AgentView, Coverage, Event, Glance, Input, Operation};
pub use kept::{KeptParts, Recheck, RecheckError, Tied};
pub use machine::{Driver, Shard};
pub use pacing::{Pacer, PacerSettings};
pub use record::{
    Accepted, AgentPath, AgentRecord, BaselineCandidate, Demands, Group, KEYLIME_GROUP,
    KeylimeTerms, PolicyRef, QuoteScheme,
};
pub use rejudge::{ListOnRecord, Rejudge, RejudgeId, RejudgeTask, Rejudged, Rejudgement, Unusable};
pub use settings::Settings;
pub use state::{
    AgentState, BootEpoch, Denied, EffectiveStatus, Failure, KeptLearnedKey, LastVerdict,
    ListFacts, ListRules, QuoteRules, TpmClock, VerdictKind,
};
pub use task::{Assignment, Judged, Overrun, QuoteFacts, Task};
pub use tick::{ChainHash, Epoch, KeptEvidence, KeptLog, Outcome, Retention, Tick};
