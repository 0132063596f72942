//! What goes wrong, and how often.

/// Chances in a thousand, each time the thing could go wrong; those of machines and operators each
/// second.
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
    /// Somebody runs an unlisted file.
    pub(crate) compromise: u64,
    /// A machine reboots.
    pub(crate) reboot: u64,
    /// A machine's TPM is started again without a reset of its counters: restartCount.
    pub(crate) restart: u64,
    /// An agent is killed and started again, and its connection is not closed.
    pub(crate) kill: u64,
    /// A running machine is copied, and the copy connects too.
    pub(crate) copy: u64,
    /// An operator sets a machine that failed right, and takes back its failure.
    pub(crate) repair: u64,
    /// An operator removes an agent, which enrols again later.
    pub(crate) remove: u64,
    /// Another policy is activated.
    pub(crate) policy: u64,
    /// What a group demands beside its policy is changed.
    pub(crate) demands: u64,
    /// A group gets another interval.
    pub(crate) interval: u64,
    /// A machine boots a kernel that measures nothing, and shows no list for a while.
    pub(crate) hide: u64,
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
            restart: 0,
            kill: 0,
            copy: 0,
            repair: 0,
            remove: 0,
            policy: 0,
            demands: 0,
            interval: 0,
            hide: 0,
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
            restart: 4,
            kill: 8,
            copy: 1,
            repair: 30,
            remove: 2,
            policy: 30,
            demands: 30,
            interval: 40,
            hide: 3,
            list: 150,
        }
    }
}
