//! Every limit of the store: what one call may bring, and what one step may do.

use crate::error::StoreError;

/// Outcomes in one tick: what one worker judges between two commits, with much to spare.
pub const TICK_OUTCOMES_MAX: usize = 65_536;
/// Ticks in one call of `commit`: one for each shard, twice.
pub const COMMIT_TICKS_MAX: usize = 2_048;
/// Bytes of one packed tick: 65,536 states of 4 KiB.
pub const TICK_BYTES_MAX: usize = 256 << 20;
/// Bytes of one unpacked record: kept evidence with a boot log of the largest size.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Bytes of one policy.
pub const POLICY_BYTES_MAX: usize = 64 << 20;
/// Raw bytes of one chunk of a measurement list, and of one staged piece.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Pieces of one staged list: 1 GiB.
pub const STAGED_PIECES_MAX: u64 = 16_384;
/// Bytes of pieces that one agent has staged: the longest list, and one that was given up. (S07)
pub const STAGED_AGENT_BYTES_MAX: u64 = 2 << 30;
/// Bytes of pieces that are staged in all.
pub const STAGED_BYTES_MAX: u64 = 16 << 30;
/// Pieces of evidence that are kept of one agent for one reason: the newest, beside those of the
/// failure that it is in. A machine that fails again and again must not fill the disk. (S07)
pub const EVIDENCE_PER_REASON_MAX: u32 = 16;
/// Pending activations at once.
pub const PENDING_MAX: usize = 100_000;
/// Bytes of the caller's part of a pending activation.
pub const PENDING_BYTES_MAX: usize = 64 << 10;
/// Ids under which one machine waits for an operator's approval into one group.
pub const WAITING_PER_MACHINE_MAX: usize = 4;
/// Machines that wait for an operator's approval into one group.
pub const WAITING_PER_GROUP_MAX: usize = 1_000;
/// Machines that wait for an operator's approval in all.
pub const WAITING_MAX: usize = 10_000;
/// How long a machine that does not ask again is remembered: a week.
pub const WAITING_TTL_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
/// The shortest interval of a group: trust lasts three, and the two after the first leave a slow TPM
/// two seconds for its quote.
pub const INTERVAL_MS_MIN: u64 = 1_000;
/// The longest interval of a group: a day, so that no machine stays unseen for longer than three.
pub const INTERVAL_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Rows of one page of a listing.
pub const PAGE_MAX: u32 = 1_000;
/// Bytes of a name, an actor, an origin, an action or a target.
pub const NAME_BYTES_MAX: usize = 1_024;
/// Bytes of the detail of an audit entry.
pub const DETAIL_BYTES_MAX: usize = 16 << 10;
/// Ticks that one transaction of the folder moves.
pub const FOLD_TICKS_MAX: u32 = 4_096;
/// Rows that one step of retention drops.
pub const RETENTION_ROWS_MAX: u32 = 10_000;
/// Bytes of packed ticks after which one transaction of the folder takes no more.
pub const FOLD_BYTES_MAX: usize = 64 << 20;

/// People's accounts, disabled ones included: they are never removed.
pub const USERS_MAX: i64 = 10_000;
/// Bytes of a password's hash, with its parameters and salt.
pub const PASSWORD_HASH_BYTES_MAX: usize = 512;
/// Logins of one user at once; one more ends the oldest.
pub const SESSIONS_PER_USER_MAX: i64 = 32;
/// API tokens of one owner that have not ended; those made on the data directory count as one owner's.
pub const API_TOKENS_PER_OWNER_MAX: i64 = 256;
/// How long an API token that has ended is still listed.
pub const API_TOKEN_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How exactly it is known when an API token was last used: not every request costs a write.
pub const LAST_USED_EVERY_MS: u64 = 60 * 1000;

/// Bytes of what a tenant says of one of Keylime's agents, without its policies.
pub const KEYLIME_FACTS_BYTES_MAX: usize = 1 << 20;
/// Rows of one table of a Keylime that is left behind: more than any fleet has.
pub const KEYLIME_SOURCE_ROWS_MAX: u64 = 2_000_000;
/// Registrations of agents of Keylime that have proven nothing yet.
pub const KEYLIME_PENDING_MAX: usize = 20_000;
/// Of these, from one address: honest agents prove themselves within seconds.
pub const KEYLIME_PENDING_PER_ADDRESS_MAX: usize = 256;
/// Changes of Keylime registrations that wait for an operator, as they are listed.
pub const KEYLIME_PROPOSALS_LISTED_MAX: u32 = 1_000;

/// Relays that an operator may name.
pub const RELAYS_MAX: usize = 1_000;

/// Bytes of a webhook's message.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Dead letters of one webhook that are kept: the newest.
pub const DEAD_LETTERS_MAX: u32 = 10_000;
/// Messages that one transaction gives up.
pub const GIVEN_UP_MAX: u32 = 256;

/// Refuses a text that is longer than any real one.
pub(crate) fn check_name(name: &'static str, text: &str) -> Result<(), StoreError> {
    check(name, text.len(), NAME_BYTES_MAX)
}

/// Refuses more than `max`.
pub(crate) fn check(name: &'static str, found: usize, max: usize) -> Result<(), StoreError> {
    if found <= max {
        return Ok(());
    }
    Err(StoreError::TooLarge {
        name,
        found: u64::try_from(found).unwrap_or(u64::MAX),
        max: u64::try_from(max).unwrap_or(u64::MAX),
    })
}
