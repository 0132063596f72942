//! Files from the operator, read under the limits that the engine sets.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rat_engine::limits;
use rat_engine::verdict::Code;

/// A file that cannot be used: which one, and why.
#[derive(Debug)]
pub(crate) struct InputError {
    /// The option or argument that named it.
    pub(crate) option: &'static str,
    /// The file.
    pub(crate) file: PathBuf,
    /// The code of a verdict that would say the same.
    pub(crate) code: Option<Code>,
    reason: String,
}

impl InputError {
    /// The file of `option` is not what it should be.
    pub(crate) fn new(option: &'static str, file: &Path, reason: &dyn fmt::Display) -> Self {
        Self {
            option,
            file: file.to_owned(),
            code: None,
            reason: reason.to_string(),
        }
    }

    /// The same, with the code that a verdict would have.
    pub(crate) fn with_code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An argument needs no name beside its value.
        if self.option.starts_with('-') {
            write!(f, "{} ", self.option)?;
        }
        write!(f, "{}: {}", self.file.display(), self.reason)
    }
}

impl std::error::Error for InputError {}

/// An open file, and the option that named it.
#[derive(Debug)]
pub(crate) struct Input<'p> {
    option: &'static str,
    path: &'p Path,
    file: File,
    /// Its size; `None` when it is not a regular file, or one of the kernel that has no size.
    size_bytes: Option<u64>,
}

impl<'p> Input<'p> {
    /// Opens a file. `-` is refused, because two options could claim standard input.
    pub(crate) fn open(option: &'static str, path: &'p Path) -> Result<Self, InputError> {
        let fault = |reason: &dyn fmt::Display| InputError::new(option, path, reason);
        if path.as_os_str() == "-" {
            return Err(fault(&"name a file; /dev/stdin is standard input"));
        }
        let file = File::open(path).map_err(|error| fault(&error))?;
        let metadata = file.metadata().map_err(|error| fault(&error))?;
        if metadata.is_dir() {
            return Err(fault(&"is a directory"));
        }
        let size_bytes = (metadata.is_file() && metadata.len() > 0).then_some(metadata.len());
        Ok(Self {
            option,
            path,
            file,
            size_bytes,
        })
    }

    /// The size, where the file system knows it.
    pub(crate) const fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// An error about this file.
    pub(crate) fn error(&self, reason: &dyn fmt::Display) -> InputError {
        InputError::new(self.option, self.path, reason)
    }

    /// All of the file, if it has no more bytes than the limit of this name.
    pub(crate) fn read(mut self, limit_name: &str) -> Result<Vec<u8>, InputError> {
        let limit = limits::ALL.iter().find(|limit| limit.name == limit_name);
        let max = limit.map_or(0, |limit| limit.max);
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        if let Some(size) = self.size_bytes.filter(|size| *size > max) {
            return Err(self.error(&format_args!(
                "{size} bytes, {max} are allowed ({limit_name})"
            )));
        }
        let mut bytes = Vec::new();
        let mut bounded = (&mut self.file).take(max.saturating_add(1));
        let read = bounded.read_to_end(&mut bytes);
        read.map_err(|error| self.error(&error))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
            return Err(self.error(&format_args!(
                "more than the {max} bytes that are allowed ({limit_name})"
            )));
        }
        Ok(bytes)
    }

    /// Fills the front of `piece`, and returns how many bytes: fewer than fit only at the end.
    pub(crate) fn read_piece(&mut self, piece: &mut [u8]) -> Result<usize, InputError> {
        let mut filled = 0_usize;
        while let Some(free) = piece.get_mut(filled..).filter(|free| !free.is_empty()) {
            match self.file.read(free) {
                Ok(0) => break,
                Ok(more) => filled = filled.saturating_add(more),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(&error)),
            }
        }
        Ok(filled)
    }
}

/// Opens and reads a small file.
pub(crate) fn read(
    option: &'static str,
    path: &Path,
    limit_name: &str,
) -> Result<Vec<u8>, InputError> {
    Input::open(option, path)?.read(limit_name)
}
