//! Limits that are not settings.

/// Bytes of one piece of a measurement list, as transports cut them.
pub(crate) const PIECE_BYTES_MAX: u64 = 64 * 1024;
/// Pieces of one list that are asked for and not staged yet.
pub(crate) const PIECES_IN_FLIGHT_MAX: usize = 2;
/// Messages of one connection that may wait: evidence, two pieces, and some to spare.
pub(crate) const REQUESTS_PER_SESSION_MAX: usize = 8;
/// Requests of operators that find room in a full mailbox.
pub(crate) const CONTROL_REQUESTS_MAX: usize = 256;
/// Messages that a worker takes before it polls its shards: a flood delays others by one batch.
pub(crate) const BATCH_MAX: usize = 256;
/// Actions of one shard before the next shard has its turn.
pub(crate) const ACTIONS_PER_TURN_MAX: usize = 64;
/// Jobs that the store thread takes at once. A shard has one tick on its way, so these are never
/// more ticks than one commit takes.
pub(crate) const JOBS_PER_ROUND_MAX: usize = 1_024;
/// Staged pieces of one transaction, for which a tick may have to wait: 256 KiB.
pub(crate) const PIECES_PER_STAGING_MAX: usize = 4;
/// Ticks that the folder moves between two commits.
pub(crate) const TICKS_PER_FOLD_MAX: u32 = 256;
/// The longest that a worker sleeps: its heartbeat.
pub(crate) const HEARTBEAT_MS: u64 = 1_000;
/// A worker whose heartbeat is older than this hangs. (S14)
pub(crate) const HANGING_MS: u64 = 10_000;
/// The first pause before the store is tried again, and the longest.
pub(crate) const RETRY_MS_MIN: u64 = 20;
pub(crate) const RETRY_MS_MAX: u64 = 2_000;
/// Tries to read a piece of a stored list, before its agent is asked for it instead.
pub(crate) const READ_TRIES_MAX: u32 = 5;
/// Shards whose agents are read from the store together when a server starts.
pub(crate) const SHARDS_PER_LOAD_MAX: usize = 4;
/// How many such readings there are at a time: each has a thread that reads, and one that decodes.
pub(crate) const LOADS_AT_ONCE_MAX: usize = 3;
/// Shards of one worker whose agents one request counts.
pub(crate) const SHARDS_PER_COUNT_MAX: usize = 32;
/// Evidence of somebody else under agents' names that one worker tells the audit log of in the time
/// after which it tells of the same again: an hour.
pub(crate) const AUDITED_FAULTS_MAX: usize = 64;
pub(crate) const AUDITED_FAULTS_MS: u64 = 3_600_000;
/// From one folding to the next, and from one retention to the next.
pub(crate) const FOLD_INTERVAL_MS: u64 = 500;
pub(crate) const RETENTION_INTERVAL_MS: u64 = 60_000;
/// A list that came with its evidence and is this short is judged inline.
pub(crate) const INLINE_LIST_BYTES_MAX: usize = 16 * 1024;
/// Tasks of one turn that a worker judges itself when there are lanes.
pub(crate) const INLINE_TASKS_MAX: usize = 2;
/// Bytes that the caches of measurement lists are given at least: less holds no list.
pub const IMA_CACHE_BYTES_MIN: usize = 1 << 20;
/// Bytes that they are given at most: the files of no fleet need more.
pub const IMA_CACHE_BYTES_MAX: usize = 64 << 30;
/// Bytes of these that one machine alone may be given, at least; at most it is a quarter, which is
/// the room of what only one machine has shown.
pub const IMA_CACHE_AGENT_BYTES_MIN: usize = 64 << 10;
