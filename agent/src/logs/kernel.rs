//! The logs of a running Linux.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rat_engine::ima::LogFormat;
use rat_engine::limits;

use super::kept::{Kept, count_entries, failed};
use super::{BASELINE_LIST_BYTES_MAX, LogError, Logs, Measurements, Source, record};

/// Where the logs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPaths {
    /// The measurement list in binary form, which is sent where it is there.
    pub ima_binary: PathBuf,
    /// The measurement list in ascii form.
    pub ima_ascii: PathBuf,
    /// The firmware's log.
    pub boot_log: PathBuf,
    /// A text that is another one after each boot.
    pub boot_id: PathBuf,
}

impl Default for LogPaths {
    fn default() -> Self {
        Self {
            ima_binary: "/sys/kernel/security/ima/binary_runtime_measurements".into(),
            ima_ascii: "/sys/kernel/security/ima/ascii_runtime_measurements".into(),
            boot_log: "/sys/kernel/security/tpm0/binary_bios_measurements".into(),
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
        }
    }
}

impl LogPaths {
    /// The form in which the list can be read, and its entries; without a copy of it.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn count(&self) -> Result<(LogFormat, u64), LogError> {
        let format = self.format()?;
        let path = self.list(format);
        let list = File::open(path).map_err(failed(path))?;
        Ok((format, count_entries(&list, format, path)?))
    }

    /// The better form of the list that can be opened.
    fn format(&self) -> Result<LogFormat, LogError> {
        if File::open(&self.ima_binary).is_ok() {
            return Ok(LogFormat::Binary);
        }
        match File::open(&self.ima_ascii) {
            Ok(_) => Ok(LogFormat::Ascii),
            Err(source) => Err(LogError::NoList {
                binary: self.ima_binary.clone(),
                ascii: self.ima_ascii.clone(),
                source,
            }),
        }
    }

    fn list(&self, format: LogFormat) -> &Path {
        match format {
            LogFormat::Binary => &self.ima_binary,
            LogFormat::Ascii => &self.ima_ascii,
        }
    }
}

const COPY_PREFIX: &str = "measurements-";

/// Logs of the kernel, with a copy of the list of this boot in the state directory.
#[derive(Debug)]
pub struct KernelLogs {
    paths: LogPaths,
    state_dir: PathBuf,
    format: LogFormat,
    kept: Kept,
    boot_id: String,
}

impl KernelLogs {
    /// Opens the list in the better of its two forms, and the copy of it.
    ///
    /// Copies of earlier boots are removed.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(paths: LogPaths, state_dir: &Path) -> Result<Self, LogError> {
        let format = paths.format()?;
        let boot_id = boot_id(&paths.boot_id)?;
        let kept = open_copy(state_dir, &boot_id, format)?;
        Ok(Self {
            paths,
            state_dir: state_dir.to_path_buf(),
            format,
            kept,
            boot_id,
        })
    }

    fn follow(&mut self, whole: bool) -> Result<(), LogError> {
        let now = boot_id(&self.paths.boot_id)?;
        if now != self.boot_id {
            self.kept = open_copy(&self.state_dir, &now, self.format)?;
            self.boot_id = now;
        }
        let path = self.paths.list(self.format);
        let list = File::open(path).map_err(failed(path))?;
        self.kept.follow(&list, path, whole)
    }
}

impl Logs for KernelLogs {
    fn format(&self) -> LogFormat {
        self.format
    }

    fn count(&mut self) -> Result<u64, LogError> {
        self.follow(false)?;
        Ok(self.kept.entries())
    }

    fn measurements(&mut self, from_entry: u64) -> Result<Measurements, LogError> {
        self.follow(from_entry == 0)?;
        // A machine that has fewer entries shows all of them: then the verifier can say why.
        let from_entry = if from_entry > self.kept.entries() {
            0
        } else {
            from_entry
        };
        let (file, length) = self.kept.open_at(from_entry)?;
        Ok(Measurements {
            from_entry,
            count: self.kept.entries().saturating_sub(from_entry),
            format: self.format,
            length,
            source: Source::File(file),
        })
    }

    fn ascii(&mut self) -> Result<Vec<u8>, LogError> {
        let path = &self.paths.ima_ascii;
        let file = File::open(path).map_err(failed(path))?;
        let list = read_bounded(file, path, BASELINE_LIST_BYTES_MAX)?;
        let first = list.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
        if !first.is_empty() && !record::is_first_of_list(first) {
            return Err(LogError::Trimmed { path: path.clone() });
        }
        Ok(list)
    }

    fn boot_log(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        let path = &self.paths.boot_log;
        match File::open(path) {
            Ok(file) => read_bounded(file, path, limits::UEFI_LOG_BYTES_MAX).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(path)(error)),
        }
    }
}

/// Letters, digits and dashes of the kernel's boot id: it becomes part of a file's name.
fn boot_id(path: &Path) -> Result<String, LogError> {
    const BYTES_MAX: usize = 64;
    let file = File::open(path).map_err(failed(path))?;
    let read = read_bounded(file, path, BYTES_MAX)?;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    Ok(read.into_iter().filter(allowed).map(char::from).collect())
}

fn open_copy(state_dir: &Path, boot_id: &str, format: LogFormat) -> Result<Kept, LogError> {
    let suffix = match format {
        LogFormat::Binary => "binary",
        LogFormat::Ascii => "ascii",
    };
    let name = format!("{COPY_PREFIX}{boot_id}.{suffix}");
    for found in fs::read_dir(state_dir).map_err(failed(state_dir))? {
        let found = found.map_err(failed(state_dir))?;
        let other = found.file_name();
        let is_copy = other.to_string_lossy().starts_with(COPY_PREFIX);
        if is_copy && other.to_string_lossy() != name.as_str() {
            fs::remove_file(found.path()).map_err(failed(&found.path()))?;
        }
    }
    Kept::open(state_dir.join(name), format)
}

fn read_bounded(file: File, path: &Path, max: usize) -> Result<Vec<u8>, LogError> {
    let max_bytes = u64::try_from(max).unwrap_or(u64::MAX);
    let mut read = Vec::new();
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut read)
        .map_err(failed(path))?;
    if read.len() > max {
        let path = path.into();
        return Err(LogError::TooLong { path, max_bytes });
    }
    Ok(read)
}
