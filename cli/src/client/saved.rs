//! What is kept between two runs: which server, and the session there. (A03, A07)
//!
//! Files in `$XDG_CONFIG_HOME/rat`, or `~/.config/rat`, which only their owner can read.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rat_client::access::{self, AccessError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const SERVER_FILE: &str = "server.json";
const SESSION_FILE: &str = "session.json";
const FILE_BYTES_MAX: usize = 16 * 1024;

/// The folder of these files.
#[derive(Debug, Clone)]
pub(crate) struct Saved(PathBuf);

/// The server that `rat connect` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedServer {
    /// Its URL.
    pub(crate) server: String,
    /// SHA-256 of its CA's certificate, in hexadecimal.
    pub(crate) ca_sha256: String,
}

/// The session that `rat login` opened.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SavedSession {
    /// The one server that may see the token.
    #[serde(flatten)]
    pub(crate) at: SavedServer,
    /// Who logged in.
    pub(crate) username: String,
    /// The session's token.
    pub(crate) token: String,
    /// When the session ends.
    pub(crate) expires_at: Option<String>,
}

/// Why nothing can be read from there, or written there.
#[derive(Debug, Error)]
pub(crate) enum SavedError {
    /// The environment does not say where.
    #[error("neither XDG_CONFIG_HOME nor HOME names a folder for rat's files")]
    NoFolder,
    /// A file cannot be read, or others can read it.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A file has been changed by somebody else.
    #[error("{path} is not what rat wrote: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Saved {
    /// The folder that the environment names. A relative XDG_CONFIG_HOME counts for nothing.
    /// (XDG Base Directory Specification, 0.8)
    pub(crate) fn of_environment() -> Result<Self, SavedError> {
        let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
        let xdg = std::env::var_os("XDG_CONFIG_HOME").and_then(absolute);
        let home = std::env::var_os("HOME").and_then(absolute);
        let base = xdg.or_else(|| home.map(|home| home.join(".config")));
        base.map(|base| Self(base.join("rat")))
            .ok_or(SavedError::NoFolder)
    }

    /// The connected server.
    pub(crate) fn server(&self) -> Result<Option<SavedServer>, SavedError> {
        read(&self.server_file())
    }

    /// Where that is written.
    pub(crate) fn server_file(&self) -> PathBuf {
        self.0.join(SERVER_FILE)
    }

    /// The open session.
    pub(crate) fn session(&self) -> Result<Option<SavedSession>, SavedError> {
        read(&self.0.join(SESSION_FILE))
    }

    /// Remembers a server. A session at another one is forgotten.
    pub(crate) fn keep_server(&self, server: &SavedServer) -> Result<(), SavedError> {
        if self
            .session()
            .is_ok_and(|session| session.is_some_and(|session| session.at != *server))
        {
            self.forget_session()?;
        }
        self.write(SERVER_FILE, server)
    }

    /// Remembers a session.
    pub(crate) fn keep_session(&self, session: &SavedSession) -> Result<(), SavedError> {
        self.write(SESSION_FILE, session)
    }

    /// Forgets the session.
    pub(crate) fn forget_session(&self) -> Result<(), SavedError> {
        let path = self.0.join(SESSION_FILE);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(SavedError::Write { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Writes a file beside the old one and puts it in its place, so that there is never half of
    /// one. Temporary files can be read by their owner alone.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), SavedError> {
        let path = self.0.join(name);
        let failed = |source| SavedError::Write {
            path: path.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0).map_err(failed)?;
        serde_json::to_writer_pretty(&mut file, value).map_err(|error| failed(error.into()))?;
        writeln!(file).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// A file's value; `None` when there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SavedError> {
    let text = match access::read_secret(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(AccessError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let value = serde_json::from_slice(&text);
    value.map(Some).map_err(|source| SavedError::Content {
        path: path.to_owned(),
        source,
    })
}
