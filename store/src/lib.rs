//! Durable records in an embedded SQLite database.
//!
//! A shard's outcomes are committed as one row, a *tick*, however many they are; the *folder*
//! moves ticks into agent rows later. What an agent's state is, is therefore: its row, and over
//! it the newest outcome in the tail of ticks. Each tick extends its shard's hash chain.
//!
//! [`Store`] decides nothing: it keeps what others decided, refuses what contradicts what is
//! there, and says so by type. It reads no clock; the time is an argument.

mod activations;
mod agents;
mod api_tokens;
mod approvals;
mod attestation_keys;
mod audit;
mod backup;
mod chain;
mod commit;
mod database;
mod directory;
mod enrolment;
mod error;
mod evidence;
mod fold;
mod groups;
mod keylime_agents;
mod keylime_import;
mod keylime_policies;
mod keylime_source;
mod keylime_standing;
pub mod limits;
mod load;
mod logs;
mod noted;
mod packed;
mod policies;
mod registrations;
mod relays;
mod retention;
mod rows;
mod schema;
mod sessions;
mod tokens;
mod users;
mod waiting;
mod webhooks;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

pub use activations::RolledBack;
pub use agents::{AgentFilter, OnRemoval, RecordChange, Registration, Removed, StoredRecord};
pub use api_tokens::{NewApiToken, StoredApiToken};
pub use approvals::ApprovedEk;
pub use attestation_keys::key_sha256;
pub use audit::{AuditEntry, AuditRecord};
pub use backup::{RestoreError, Restored};
pub use chain::{ChainFault, HistoryOutcome, VerifiedChain};
pub use commit::CommitResult;
pub use directory::give_to_owner_of;
pub use enrolment::{Activated, Answered, Conflict, NewPending, Pending, TryResult};
pub use error::{DatabaseError, DirectoryError, GroupFault, RowName, SchemaError, StoreError};
pub use evidence::{LogReader, StoredEvidence, StoredLog};
pub use fold::Folded;
pub use groups::{Approval, GroupSettings, NewGroup, StoredGroup, VersionRef};
pub use keylime_agents::{
    JudgedBy, KeylimeFacts, KeylimePage, KeylimePageEnd, NewKeylimeAgent, PolicyOfAgent,
    StoredKeylimeAgent,
};
pub use keylime_import::{ImportMode, Imported};
pub use keylime_policies::{
    KeylimeKind, KeylimePolicy, KeylimePut, KeylimeRemoved, NewKeylimePolicy,
};
pub use keylime_source::{
    ColumnError, ColumnFault, KeylimeService, KeylimeSource, KeylimeTable, SourceError, SourceKey,
    SourceRow, SourceUrl, SourceUrlError,
};
pub use keylime_standing::{Halted, NotedStanding, ToldFailure};
pub use load::{Loaded, ShardHead, StoredAgent, Unreadable};
pub use logs::{LogPiece, Staged};
pub use noted::{NewMessage, Noted, StatusChange, StatusNote};
pub use packed::Fault;
pub use policies::{NewPolicy, PolicyStanding, Precondition, Slot, StoredPolicy};
pub use registrations::{
    KeylimeActivated, KeylimeChallenge, KeylimeConflict, KeylimeDetails, KeylimeDevice,
    KeylimeMtlsCertificate, KeylimeRegistration, KeylimeStanding, KeylimeVouch,
    NewKeylimeRegistration, Revision,
};
pub use relays::StoredRelay;
pub use retention::{Dropped, RetentionPolicy};
pub use sessions::{NewSession, StoredSession};
pub use tokens::{NewToken, StoredToken, TokenKind, TokenRefusal};
pub use users::{
    NewUser, PasswordChange, PasswordHash, Standing, StoredUser, UserChange, UserRefusal,
};
pub use waiting::{NewWaiting, Waiting};
pub use webhooks::{DeadLetter, Fate, QueuedMessage, Settled, WebhookStanding};

use database::{Pools, Use};

/// The durable records of one server. Clones share its connections.
///
/// # Security
/// What the store gives back is what was given to it, if its file was written by nobody else.
/// [`Store::verify_chain`] and [`Store::verify_audit`] find edits that left the heads as they
/// were; somebody who rewrites a chain together with its head is found only by comparing the
/// head with one that was noted elsewhere.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pools: Pools,
    /// The shard at which the folder goes on.
    fold_from: AtomicU16,
    /// None beside a running server. Released last: fields are dropped in order.
    _lock: Option<directory::DirectoryLock>,
}

impl Store {
    /// Opens the database of this data directory as its only server, makes both if they are not
    /// there (0700, files 0600), and brings the schema up to date.
    ///
    /// # Errors
    /// [`DirectoryError::Held`] when another process has it open, other [`DirectoryError`]s when
    /// others than its owner could read or change it, and [`SchemaError::Newer`] when a newer
    /// program wrote it.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        let lock = directory::lock(directory)?;
        let path = directory::database_in(directory);
        match directory::create_private(&path) {
            Ok(()) => directory::sync(directory)?,
            Err(DirectoryError::Occupied(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let pools = Pools::open_sqlite(&path, Use::Serve).await?;
        let migrated = schema::migrate(&pools).await;
        Self::opened(pools, Some(lock), migrated).await
    }

    /// Opens the database beside a running server, for a short command such as making a token.
    ///
    /// # Errors
    /// [`DirectoryError::Empty`] when there is none, and [`SchemaError`] unless its schema is
    /// exactly the one that this program knows.
    pub async fn open_shared(directory: &Path) -> Result<Self, StoreError> {
        directory::check(directory)?;
        let path = directory::database_in(directory);
        if !directory::exists(&path)? {
            return Err(DirectoryError::Empty(directory.to_owned()).into());
        }
        let pools = Pools::open_sqlite(&path, Use::Serve).await?;
        let checked = schema::check(&pools).await;
        Self::opened(pools, None, checked).await
    }

    /// Whether this directory holds a database. It is not opened.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub fn is_in(directory: &Path) -> std::io::Result<bool> {
        directory::database_in(directory).try_exists()
    }

    async fn opened(
        pools: Pools,
        lock: Option<directory::DirectoryLock>,
        schema: Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        match schema {
            Ok(()) => Ok(Self::new(pools, lock)),
            Err(error) => {
                pools.close().await;
                Err(error)
            }
        }
    }

    fn new(pools: Pools, lock: Option<directory::DirectoryLock>) -> Self {
        Self {
            inner: Arc::new(Inner {
                pools,
                fold_from: AtomicU16::new(0),
                _lock: lock,
            }),
        }
    }

    fn pools(&self) -> &Pools {
        &self.inner.pools
    }

    /// Closes every connection of every clone. What was committed is durable without this.
    pub async fn close(self) {
        self.pools().close().await;
    }
}
