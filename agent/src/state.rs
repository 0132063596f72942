//! What an agent remembers: one file with its identity, one with what it last knew.
//!
//! The directory is the agent's alone (0700), and each file is replaced as a whole: a crash leaves
//! the old one or the new one, never half of either.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rat_engine::agent_id::AgentId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::KeyKind;

const IDENTITY: &str = "identity.json";
const STATUS: &str = "status.json";
const LOCK: &str = "lock";
/// A state file is some KiB; certificates of a few CAs are the most of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How an agent stays in touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The connection stays; challenges come over it.
    Stay,
    /// It connects when it is due, answers, and leaves.
    Leave,
}

/// What an enrolment led to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// The machine.
    pub agent: AgentId,
    /// Its group.
    pub group: String,
    /// Base URL of the server's HTTPS interface.
    pub server: String,
    /// Where evidence goes: `host:port`, tried in order.
    pub evidence_addresses: Vec<String>,
    /// The name in the certificate of the evidence listener.
    pub evidence_server_name: String,
    /// The agent's private key, PKCS#8 in PEM.
    pub key_pem: String,
    /// Its certificate and what signed it, in PEM.
    pub certificate_pem: String,
    /// The CAs that a server may have its certificate from, in PEM.
    pub ca_pem: Vec<String>,
    /// CAs that servers told to pin or to drop, and that are not confirmed yet.
    #[serde(default)]
    pub ca_changes: Vec<CaChange>,
    /// The type of the TPM's keys.
    pub kind: KeyKind,
    /// The Name of the attestation key that was enrolled, in hexadecimal.
    pub ak_name: String,
    /// Milliseconds between attestations, as the server asked for at enrolment.
    pub interval_ms: u64,
    /// How to stay in touch.
    pub mode: Mode,
}

/// A CA that is to be pinned if it is not, and dropped if it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaChange {
    /// Its certificate, in PEM.
    pub certificate_pem: String,
    /// When a server told it first.
    pub since_unix_ms: u64,
}

/// What the running agent last knew, for `rat-agent status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastKnown {
    /// When this was written.
    pub at_unix_ms: u64,
    /// The process that wrote it.
    pub process: u32,
    /// Whether it was connected.
    pub connected: bool,
    /// The server that it spoke to last.
    pub address: Option<String>,
    /// What the last verdict said.
    pub verdict: Option<LastVerdict>,
    /// Why it is not connected, or could not answer.
    pub trouble: Option<String>,
    /// When its certificate ends.
    pub certificate_until_unix_ms: u64,
    /// Entries in the measurement list when it last looked.
    pub entries: u64,
    /// Attestations since it started.
    pub attestations: u64,
}

/// A verdict, as it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerdict {
    /// The status.
    pub status: String,
    /// The first thing that failed.
    pub code: Option<String>,
    /// What it is.
    pub detail: String,
    /// When it came.
    pub at_unix_ms: u64,
}

/// Why the state cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read or write it. (A07)
    #[error("{path} has mode {mode:03o}: others may read it; run chmod {wanted:03o} {path}")]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What they must be at most.
        wanted: u32,
    },
    /// It is not what this program wrote.
    #[error("{path} cannot be read ({source}); remove it and enrol again")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another agent runs on this directory.
    #[error("another rat-agent runs on {path}; stop it first: systemctl stop rat-agent")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// This machine is not enrolled.
    #[error("{path} holds no enrolment; run rat-agent enroll - --server <url>")]
    NotEnrolled {
        /// The directory.
        path: PathBuf,
    },
}

/// The directory.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// While it lives, no other agent runs on the directory.
#[derive(Debug)]
pub struct Running(#[allow(dead_code, reason = "held for its lock")] File);

impl StateDir {
    /// The directory, made when it is not there.
    ///
    /// # Errors
    /// [`StateError::Mode`] when others can look into it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        if !path.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(failed(path))?;
        }
        check_mode(path, &fs::metadata(path).map_err(failed(path))?, 0o700)?;
        Ok(Self(path.to_path_buf()))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Keeps other agents away.
    ///
    /// # Errors
    /// [`StateError::InUse`].
    pub fn lock(&self) -> Result<Running, StateError> {
        let path = self.0.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Running(file)),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse {
                path: self.0.clone(),
            }),
            Err(TryLockError::Error(source)) => Err(StateError::File { path, source }),
        }
    }

    /// The enrolment; `None` where there is none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn enrolled(&self) -> Result<Option<Enrolled>, StateError> {
        self.load(IDENTITY)
    }

    /// Saves an enrolment, durably.
    ///
    /// # Errors
    /// [`StateError::File`]; then the one before is still there.
    pub fn save_enrolled(&self, enrolled: &Enrolled) -> Result<(), StateError> {
        self.save(IDENTITY, enrolled, true)
    }

    /// What the running agent last knew.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn last_known(&self) -> Result<Option<LastKnown>, StateError> {
        self.load(STATUS)
    }

    /// Saves it. A power loss may lose it.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn save_last_known(&self, known: &LastKnown) -> Result<(), StateError> {
        self.save(STATUS, known, false)
    }

    pub(crate) fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.0.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::File { path, source }),
        };
        check_mode(&path, &file.metadata().map_err(failed(&path))?, 0o600)?;
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(failed(&path))?;
        let value = serde_json::from_slice(&text);
        value.map_err(|source| StateError::Content { path, source })
    }

    pub(crate) fn save<T: Serialize>(
        &self,
        name: &str,
        value: &T,
        durable: bool,
    ) -> Result<(), StateError> {
        let path = self.0.join(name);
        let new = self.0.join(format!("{name}.new"));
        let write = || {
            // One that an earlier crash left may have any content, and is no one else's.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec_pretty(value)?)?;
            file.write_all(b"\n")?;
            if durable {
                file.sync_all()?;
            }
            fs::rename(&new, &path)?;
            if durable {
                File::open(&self.0)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(failed(&path))
    }
}

fn check_mode(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), StateError> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(StateError::Mode {
        path: path.into(),
        mode,
        wanted,
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_path_buf();
    |source| StateError::File { path, source }
}
