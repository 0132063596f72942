//! Who else may read or write the files that the agent relies on. (A07)

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file is not relied on.
#[derive(Debug, Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds a secret, and others can read it.
    #[error("{0} can be read by others; run chmod 600 {0}")]
    Readable(PathBuf),
    /// It says what the agent does, and others can write it.
    #[error("{0} can be written by others than its owner; run chmod go-w {0}")]
    Writable(PathBuf),
    /// It is longer than what it should hold.
    #[error("{path} holds more than {max_bytes} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        max_bytes: usize,
    },
}

/// The content of a file with a secret, which nobody but its owner can read or write.
///
/// # Errors
/// [`AccessError`].
pub fn read_secret(path: &Path, max_bytes: usize) -> Result<Vec<u8>, AccessError> {
    let (file, metadata) = open(path)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(AccessError::Readable(path.into()));
    }
    let most = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    let mut secret = Vec::new();
    file.take(most.saturating_add(1))
        .read_to_end(&mut secret)
        .map_err(failed(path))?;
    if secret.len() > max_bytes {
        let path = path.into();
        return Err(AccessError::TooLong { path, max_bytes });
    }
    Ok(secret)
}

/// Requires that nobody but its owner, and root, can write this file.
///
/// # Errors
/// [`AccessError`]; [`AccessError::File`] also when it is not there.
pub fn require_unwritable(path: &Path) -> Result<(), AccessError> {
    let (_, metadata) = open(path)?;
    if metadata.permissions().mode() & 0o022 != 0 {
        return Err(AccessError::Writable(path.into()));
    }
    Ok(())
}

/// The file, and the permissions of what was opened rather than of what the path names later.
fn open(path: &Path) -> Result<(File, Metadata), AccessError> {
    let file = File::open(path).map_err(failed(path))?;
    let metadata = file.metadata().map_err(failed(path))?;
    Ok((file, metadata))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> AccessError {
    let path = path.to_path_buf();
    |source| AccessError::File { path, source }
}
