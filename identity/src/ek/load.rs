//! Files of CA certificates.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::limits;
use crate::pem::{self, PemError};
use crate::x509::certificate::Certificate;
use crate::x509::chain::Anchors;
use crate::x509::fields::FieldError;

/// Names under which certificates lie in a folder.
const EXTENSIONS: [&str; 4] = ["pem", "crt", "cer", "der"];

/// What is wrong with a file or folder that an operator named.
#[derive(Debug, Error)]
pub enum TrustError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than its owner can change what it says, and with it whom the server trusts. (A07)
    #[error(
        "{path}: others than its owner can change it; take the write permission for group and \
         others from {at} (mode {mode:04o})"
    )]
    WritableByOthers {
        /// The file that was named, or found in a folder that was.
        path: PathBuf,
        /// What they can write to: the file, or a folder that it lies in.
        at: PathBuf,
        /// The permission bits of that.
        mode: u32,
    },
    /// Its length is over a limit.
    #[error("{path} has more than {max} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// There is nothing in it.
    #[error("{0} holds no certificate and no key")]
    Empty(PathBuf),
    /// More certificates, or more keys, than there may be in all.
    #[error("{path}: more than {max} entries")]
    TooMany {
        /// The file with the first that is too much.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// A file that is neither DER nor PEM.
    #[error("{path}: {fault}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: PemError,
    },
    /// A certificate that cannot be read.
    #[error("{path}: certificate {number}: {fault}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which certificate of it, from 1.
        number: usize,
        /// What is wrong.
        fault: FieldError,
    },
    /// A certificate that is not a CA's.
    #[error("{path}: certificate {number} is not that of a CA; list single keys instead")]
    NotCa {
        /// The file.
        path: PathBuf,
        /// Which certificate of it, from 1.
        number: usize,
    },
    /// A line of a list that is not a SHA-256.
    #[error("{path}:{line}: not 64 hexadecimal digits")]
    Line {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// Reads a file, or the files of a folder.
pub(super) fn chains(path: &Path, anchors: &mut Anchors) -> Result<(), TrustError> {
    let before = anchors.len();
    if path.is_dir() {
        for file in files(path)? {
            certificates(&file, anchors)?;
        }
    } else {
        certificates(path, anchors)?;
    }
    if anchors.len() == before {
        return Err(TrustError::Empty(path.to_owned()));
    }
    Ok(())
}

/// Files of a folder that hold certificates by their names, in the order of these.
fn files(folder: &Path) -> Result<Vec<PathBuf>, TrustError> {
    let failed = |source| TrustError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_known = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()));
        if is_known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

const PERMISSIONS: u32 = 0o7777;
const OTHERS_WRITE: u32 = 0o022;
const OTHERS_ENTER: u32 = 0o011;
/// In a folder with this bit only their owners can replace files.
const STICKY: u32 = 0o1000;

/// Refuses a trust anchor that others than its owner can change or replace: by writing to it, if
/// they can enter its folder, or by writing to that folder. A link is as good as the folder that it
/// lies in and the file that it leads to.
fn refuse_writable(path: &Path, file: &File) -> Result<(), TrustError> {
    let failed = |source| TrustError::Io {
        path: path.to_owned(),
        source,
    };
    let writable = |at: &Path, mode| TrustError::WritableByOthers {
        path: path.to_owned(),
        at: at.to_owned(),
        mode,
    };
    let real = path.canonicalize().map_err(failed)?;
    let own = file.metadata().map_err(failed)?.mode() & PERMISSIONS;
    for place in [path, &real] {
        let folder = match place.parent() {
            Some(folder) if folder.components().count() > 0 => folder,
            _ => Path::new("."),
        };
        let mode = folder.metadata().map_err(failed)?.mode() & PERMISSIONS;
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            return Err(writable(folder, mode));
        }
        if place == real && own & OTHERS_WRITE != 0 && mode & OTHERS_ENTER != 0 {
            return Err(writable(place, own));
        }
    }
    Ok(())
}

/// Reads a whole file of at most `max` bytes that says whom the server believes.
///
/// # Errors
/// [`TrustError`].
///
/// # Security
/// Whoever can write the file decides whom the server trusts: see [`TrustError::WritableByOthers`].
pub fn read(path: &Path, max: usize) -> Result<Vec<u8>, TrustError> {
    let failed = |source| TrustError::Io {
        path: path.to_owned(),
        source,
    };
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    refuse_writable(path, &file)?;
    let mut file = file.take(limit);
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max {
        let path = path.to_owned();
        return Err(TrustError::TooLong { path, max });
    }
    Ok(bytes)
}

fn certificates(path: &Path, anchors: &mut Anchors) -> Result<(), TrustError> {
    let bytes = read(path, limits::TRUST_FILE_BYTES_MAX)?;
    let ders = if pem::is_pem(&bytes) {
        let text = String::from_utf8_lossy(&bytes);
        let blocks = pem::blocks(&text).map_err(|fault| TrustError::Pem {
            path: path.to_owned(),
            fault,
        })?;
        blocks
            .into_iter()
            .filter(|(label, _)| matches!(*label, "CERTIFICATE" | "TRUSTED CERTIFICATE"))
            .map(|(_, der)| der)
            .collect()
    } else {
        vec![bytes]
    };
    if ders.is_empty() {
        return Err(TrustError::Empty(path.to_owned()));
    }
    for (number, der) in (1..).zip(ders) {
        if anchors.len() >= limits::TRUST_CERTIFICATES_MAX {
            return Err(TrustError::TooMany {
                path: path.to_owned(),
                max: limits::TRUST_CERTIFICATES_MAX,
            });
        }
        let is_ca = |certificate: Certificate| {
            let is_ca = certificate.fields()?.is_ca()?;
            Ok((certificate, is_ca))
        };
        let read = Certificate::parse(&der).and_then(is_ca);
        match read {
            Ok((certificate, true)) => anchors.add(certificate),
            Ok((_, false)) => {
                return Err(TrustError::NotCa {
                    path: path.to_owned(),
                    number,
                });
            }
            Err(fault) => {
                return Err(TrustError::Certificate {
                    path: path.to_owned(),
                    number,
                    fault,
                });
            }
        }
    }
    Ok(())
}
