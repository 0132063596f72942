//! What the machine measured: the kernel's list and the firmware's boot log.

mod kept;
mod kernel;
mod record;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rat_engine::ima::LogFormat;
use thiserror::Error;

pub use kernel::{KernelLogs, LogPaths};
pub use record::RecordError;

/// Bytes of an ascii list that an enrolment with a baseline sends.
pub const BASELINE_LIST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A measurement list from some entry on.
#[derive(Debug)]
pub struct Measurements {
    /// Position of its first entry.
    pub from_entry: u64,
    /// Entries in it.
    pub count: u64,
    /// Its format.
    pub format: LogFormat,
    /// Its length in bytes.
    pub length: u64,
    /// Where its bytes are.
    pub source: Source,
}

/// Bytes to be sent.
#[derive(Debug)]
pub enum Source {
    /// Here.
    Bytes(Vec<u8>),
    /// In this file, from its present position on; exactly as many as were announced.
    File(File),
}

/// What a machine says about what was measured into its PCRs. Calls block.
///
/// A list must be read after the quote that it belongs to: then it holds everything that was
/// quoted, and newer entries do no harm. (I20)
pub trait Logs: Send {
    /// The format in which lists come.
    fn format(&self) -> LogFormat;

    /// How many entries the list has now.
    ///
    /// # Errors
    /// [`LogError`].
    fn count(&mut self) -> Result<u64, LogError>;

    /// The list from this entry on; from entry 0 when it has fewer.
    ///
    /// # Errors
    /// [`LogError`].
    fn measurements(&mut self, from_entry: u64) -> Result<Measurements, LogError>;

    /// The whole list in ascii form.
    ///
    /// # Errors
    /// [`LogError`].
    fn ascii(&mut self) -> Result<Vec<u8>, LogError>;

    /// The firmware's log; `None` where there is none.
    ///
    /// # Errors
    /// [`LogError`].
    fn boot_log(&mut self) -> Result<Option<Vec<u8>>, LogError>;
}

/// Why a log cannot be sent.
#[derive(Debug, Error)]
pub enum LogError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel shows no list in either form.
    #[error(
        "neither {binary} nor {ascii} can be read: {source}; \
         is IMA in the kernel, securityfs mounted, and this user allowed to read it?"
    )]
    NoList {
        /// The binary list's path.
        binary: PathBuf,
        /// The ascii list's path.
        ascii: PathBuf,
        /// Why the second cannot be read.
        source: io::Error,
    },
    /// The list is not what a kernel writes.
    #[error("{path}, byte {offset_bytes}: {fault}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Where the entry starts.
        offset_bytes: u64,
        /// What is wrong.
        fault: RecordError,
    },
    /// The log is longer than any verifier takes.
    #[error("{path} is longer than {max_bytes} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        max_bytes: u64,
    },
    /// The kernel dropped entries before the agent had seen them.
    #[error(
        "{path} was trimmed of entries that this agent has not read, and cannot be proven until \
         the next boot: reboot, and let nothing trim it before or while the agent is away"
    )]
    Trimmed {
        /// The file.
        path: PathBuf,
    },
    /// The kernel dropped entries each time that the list was read.
    #[error("{path} is trimmed while it is read, again and again")]
    Unsteady {
        /// The file.
        path: PathBuf,
    },
}
