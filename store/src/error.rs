//! Why the store refuses or fails.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rat_engine::agent_id::{AgentIdError, ShardIndex};
use thiserror::Error;

use crate::limits;
use crate::packed::Fault;

/// Why an operation did not happen.
///
/// Every one of them leaves what is stored as it was, save [`StoreError::Database`] from a
/// commit: then it is unknown whether it happened, and the same call may be made again. (S03)
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database failed, is busy or is gone. Worth another try.
    #[error("the database: {0}")]
    Database(#[source] DatabaseError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The schema is not one that this program may write.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A row's content cannot be read.
    #[error("{row} cannot be read: {fault}")]
    Unreadable {
        /// What it is.
        row: RowName,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A named limit is exceeded.
    #[error("{name}: {found} is more than {max}")]
    TooLarge {
        /// The limit.
        name: &'static str,
        /// What was given.
        found: u64,
        /// What is allowed.
        max: u64,
    },
    /// A number does not fit into the database's 63 bits.
    #[error("{0} does not fit into the database")]
    Number(u64),
    /// A value could not be packed.
    #[error("a record cannot be packed")]
    Pack,
    /// Something of this name is there already.
    #[error("{0} exists already")]
    Exists(RowName),
    /// Nothing of this name is there.
    #[error("{0} does not exist")]
    Missing(RowName),
    /// Settings of a group that no group can have.
    #[error(transparent)]
    Group(#[from] GroupFault),
}

/// What is wrong with a group's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GroupFault {
    /// Its interval is too short or too long.
    #[error(
        "interval_ms: {interval_ms} is not {} to {}",
        limits::INTERVAL_MS_MIN,
        limits::INTERVAL_MS_MAX
    )]
    Interval {
        /// The interval.
        interval_ms: u64,
    },
    /// It demands quotes of a bank that it does not accept. (Q09)
    #[error("bank: sha1 needs allow_sha1")]
    Sha1Bank,
}

/// An error of the database in use.
#[derive(Debug)]
pub struct DatabaseError(sqlx::Error);

/// SQLite's primary result codes (sqlite.org/rescode.html) of statements that fail each time:
/// CORRUPT, TOOBIG, CONSTRAINT and MISMATCH.
const LASTING_SQLITE_CODES: [u32; 4] = [11, 18, 19, 20];
/// Extended result codes have the primary one in their lowest byte.
const PRIMARY_SQLITE_CODE: u32 = 0xff;

impl DatabaseError {
    fn is_lasting(&self) -> bool {
        match &self.0 {
            // A row whose columns are not what they were written as.
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::RowNotFound => true,
            sqlx::Error::Database(error) => error
                .code()
                .and_then(|code| code.parse::<u32>().ok())
                .is_some_and(|code| LASTING_SQLITE_CODES.contains(&(code & PRIMARY_SQLITE_CODE))),
            _ => false,
        }
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for DatabaseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(DatabaseError(error))
    }
}

impl StoreError {
    /// Whether the same call would fail in the same way again: what was given, or a row that it
    /// needs, is at fault. Nothing was changed. Any other error is worth another try, and leaves it
    /// unknown whether the call took effect. (S03, S06)
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Database(error) => error.is_lasting(),
            Self::Directory(_) => false,
            Self::Schema(_)
            | Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::Number(_)
            | Self::Pack
            | Self::Exists(_)
            | Self::Missing(_)
            | Self::Group(_) => true,
        }
    }

    pub(crate) const fn unreadable(row: RowName, fault: Fault) -> Self {
        Self::Unreadable { row, fault }
    }
}

/// A row, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowName {
    /// The head of a shard.
    Shard(i64),
    /// One tick.
    Tick {
        /// Its shard.
        shard: ShardIndex,
        /// Its number.
        seq: u64,
    },
    /// A block of history.
    History {
        /// Its shard.
        shard: ShardIndex,
        /// Its first tick.
        from_seq: u64,
    },
    /// An agent's record.
    Agent(String),
    /// An agent's state.
    State(String),
    /// A machine's failure.
    EkFailure,
    /// A group.
    Group(String),
    /// A version of a group's policy.
    PolicyVersion {
        /// The group.
        group: String,
        /// The version.
        version: u64,
    },
    /// A policy's text.
    PolicyText,
    /// A token.
    Token(String),
    /// A person's account.
    User(String),
    /// A login.
    Session(String),
    /// A program's token.
    ApiToken(String),
    /// A pending activation.
    Pending(String),
    /// A chunk of a measurement list.
    Chunk,
    /// A measurement list.
    Log(i64),
    /// Kept evidence.
    Evidence(i64),
    /// An audit entry.
    Audit(i64),
    /// A relay.
    Relay(String),
    /// A policy that Keylime's clients gave a name.
    KeylimePolicy(String),
    /// A registration of an agent of Keylime.
    KeylimeRegistration(String),
    /// A webhook's queue, dead letters or standing.
    Webhook(String),
}

impl fmt::Display for RowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(shard) => write!(f, "shard {shard}"),
            Self::Tick { shard, seq } => write!(f, "tick {seq} of shard {}", shard.get()),
            Self::History { shard, from_seq } => {
                write!(
                    f,
                    "the history of shard {} from tick {from_seq}",
                    shard.get()
                )
            }
            Self::Agent(id) => write!(f, "agent {id}"),
            Self::State(id) => write!(f, "the state of agent {id}"),
            Self::EkFailure => f.write_str("the failure of a machine"),
            Self::Group(slug) => write!(f, "group {slug}"),
            Self::PolicyVersion { group, version } => {
                write!(f, "policy version {version} of group {group}")
            }
            Self::PolicyText => f.write_str("a policy's text"),
            Self::Token(id) => write!(f, "token {id}"),
            Self::Relay(name) => write!(f, "relay {name}"),
            Self::KeylimePolicy(name) => write!(f, "policy {name}"),
            Self::KeylimeRegistration(id) => write!(f, "the registration of agent {id}"),
            Self::User(name) => write!(f, "user {name}"),
            Self::Session(id) => write!(f, "session {id}"),
            Self::ApiToken(id) => write!(f, "API token {id}"),
            Self::Pending(id) => write!(f, "pending activation {id}"),
            Self::Chunk => f.write_str("a chunk of a measurement list"),
            Self::Log(id) => write!(f, "measurement list {id}"),
            Self::Evidence(id) => write!(f, "evidence {id}"),
            Self::Audit(seq) => write!(f, "audit entry {seq}"),
            Self::Webhook(name) => write!(f, "what is kept of webhook {name}"),
        }
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Another process uses it.
    #[error("{} is in use by process {}", .path.display(), Holder(*.pid))]
    Held {
        /// The directory.
        path: PathBuf,
        /// Who holds it, as its lock file says.
        pid: Option<u32>,
    },
    /// Others than its owner can write to it.
    #[error("{} has mode {mode:o}: others can write to it", .path.display())]
    WritableByOthers {
        /// The directory or file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others than its owner can read it.
    #[error("{} has mode {mode:o}: others can read it", .path.display())]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user than the files in it.
    #[error("{} belongs to user {found}, and its lock file to user {lock}", .path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// The lock file's owner.
        lock: u32,
    },
    /// It is no directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// It holds no database.
    #[error("{} holds no database", .0.display())]
    Empty(PathBuf),
    /// It holds a database already, which is never overwritten.
    #[error("{} exists; it is never overwritten", .0.display())]
    Occupied(PathBuf),
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DirectoryError {
    /// Names the path at which the operating system refused.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => pid.fmt(f),
            None => f.write_str("(unknown)"),
        }
    }
}

/// Why a database is not one that this program may write.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A newer program wrote it; an older one would lose what it does not know.
    #[error("the database has schema {found}, and this program knows up to {known}: downgrade")]
    Newer {
        /// Its schema.
        found: u64,
        /// The newest that this program knows.
        known: u64,
    },
    /// An older program wrote it, and this way of opening does not change it.
    #[error("the database has schema {found} of {known}: start the server once to bring it on")]
    Older {
        /// Its schema.
        found: u64,
        /// The newest that this program knows.
        known: u64,
    },
    /// A step of the schema was another when it was applied.
    #[error("step {version} of the schema is not the one that was applied")]
    Changed {
        /// The step.
        version: u64,
    },
    /// The file is a database of something else.
    #[error("the database was not made by ratd")]
    Foreign,
    /// The database itself says that it is damaged.
    #[error("the database is damaged: {0}")]
    Damaged(String),
}

/// Why a stored id or index is none.
impl From<AgentIdError> for Fault {
    fn from(_: AgentIdError) -> Self {
        Self::Content
    }
}
