//! Why there is no CA.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::pem::PemError;
use crate::{FieldError, LibraryError};

/// Why the CA cannot be opened, imported, rotated or used.
#[derive(Debug, Error)]
pub enum CaError {
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may read or write the private keys. (A07)
    #[error("{path} has mode {mode:04o}; private keys need 0600")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There are certificates without the keys that belong to them.
    #[error("{0} is there without ca.key; put the key back, or remove it to begin a new CA")]
    KeyMissing(PathBuf),
    /// The file is longer than one with two keys is.
    #[error("{path} has more than {max} bytes", max = crate::limits::CA_FILE_BYTES_MAX)]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Not the blocks that should be there: pairs of key and certificate.
    #[error("the PEM text does not hold a private key and its certificate, each once")]
    Blocks,
    /// A block is damaged.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] FieldError),
    /// The private key cannot be read; encrypted ones are not taken.
    #[error("the private key cannot be read (PKCS#8, PKCS#1 or SEC1, not encrypted)")]
    Key,
    /// The key is not the certificate's.
    #[error("the private key is not that of the certificate")]
    Mismatch,
    /// A type or size of key that is not accepted: P-256, P-384, RSA of 2048 to 4096 bits are.
    #[error("the CA's key is not on P-256 or P-384, nor RSA of 2048, 3072 or 4096 bits")]
    KeyType,
    /// The certificate is not that of a CA.
    #[error("the certificate is not that of a CA (basicConstraints)")]
    NotCa,
    /// A certificate of the CA, or one that it would issue, is longer than frames carry.
    #[error(
        "{which} would have {found} bytes, and agents are sent at most {max}",
        max = crate::limits::CARRIED_CERTIFICATE_BYTES_MAX
    )]
    CertificateTooLong {
        /// Which certificate.
        which: &'static str,
        /// Its length.
        found: usize,
    },
    /// The certificate may not sign certificates.
    #[error("the certificate's key usage does not allow to sign certificates")]
    NotSigner,
    /// The CA is not valid at this time.
    #[error("the CA's certificate is not valid now")]
    Validity,
    /// There is no next key to promote.
    #[error("there is no next CA key; prepare or import one first")]
    NextMissing,
    /// Not a list of DNS names and IP addresses.
    #[error(
        "not between 1 and {} DNS names or IP addresses",
        crate::limits::SERVER_NAMES_MAX
    )]
    ServerName,
    /// The library failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
}
