//! Machines that an operator let in one by one, for groups with `approval = manual`. (N12)

use std::io;
use std::path::{Path, PathBuf};

/// The file with the SHA-256 of each approved endorsement key, one a line in hexadecimal.
#[derive(Debug, Clone)]
pub struct Approvals {
    path: PathBuf,
}

/// The largest file that is read: a hundred thousand lines.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

impl Approvals {
    /// The file in this data directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join("approved-ek"),
        }
    }

    /// Whether this endorsement key is approved. Read anew each time, so that an approval needs
    /// no restart.
    ///
    /// # Errors
    /// When the file is there and cannot be read: then nobody is approved.
    pub fn contains(&self, ek_sha256: &[u8; 32]) -> io::Result<bool> {
        let wanted = hex::encode(ek_sha256);
        Ok(self.read()?.lines().any(|line| line.trim() == wanted))
    }

    /// Approves an endorsement key; false when it was approved already.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn add(&self, ek_sha256: &[u8; 32]) -> io::Result<bool> {
        if self.contains(ek_sha256)? {
            return Ok(false);
        }
        let mut text = self.read()?;
        text.push_str(&hex::encode(ek_sha256));
        text.push('\n');
        // Written beside it and renamed: a reader sees the old list or the new one.
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, &self.path)?;
        Ok(true)
    }

    fn read(&self) -> io::Result<String> {
        match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                return Err(io::Error::other("the file of approvals is too long"));
            }
            Ok(_) => {}
        }
        std::fs::read_to_string(&self.path)
    }
}
