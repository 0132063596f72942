//! One partition of the fleet, as a state machine without clock, thread or socket.
//!
//! Whoever drives a shard gives it inputs and the time, and carries out the actions it asks for.
//! The same inputs at the same times give the same actions.

mod kept;
mod record;
mod state;
mod task;
mod tick;

pub use kept::{KeptParts, Recheck, RecheckError};
pub use record::{AgentPath, AgentRecord, BaselineCandidate, Group, PolicyRef};
pub use state::{
    AgentState, BootEpoch, EffectiveStatus, Failure, KeptLearnedKey, LastVerdict, TpmClock,
    VerdictKind,
};
pub use task::{Assignment, Judged, Overrun, QuoteFacts, Task};
pub use tick::{ChainHash, Epoch, KeptEvidence, KeptLog, Outcome, Retention, Tick};
