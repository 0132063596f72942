//! The data directory: who may read and write it, and who uses it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::error::DirectoryError;

const DATABASE: &str = "ratd.db";
const LOCK: &str = "lock";
const OTHERS_WRITE: u32 = 0o022;
const OTHERS_READ: u32 = 0o044;
const PERMISSIONS: u32 = 0o7777;
/// A process id has at most ten digits.
const PID_BYTES_MAX: u64 = 16;

/// The database's path in this directory.
pub(crate) fn database_in(directory: &Path) -> PathBuf {
    directory.join(DATABASE)
}

/// The right to be the only server of a data directory, for as long as this value lives. The
/// operating system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

/// Makes the directory (0700) if it is not there, checks who can write to it, and locks it.
///
/// # Errors
/// [`DirectoryError`]; [`DirectoryError::Held`] names the process that holds the lock.
pub(crate) fn lock(directory: &Path) -> Result<DirectoryLock, DirectoryError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(DirectoryError::at(directory))?;
    check(directory)?;
    let path = directory.join(LOCK);
    let mut file = open_lock(directory, &path).map_err(DirectoryError::at(&path))?;
    let owner = owner_of(directory)?;
    let lock_owner = owner_of(&path)?;
    if owner != lock_owner {
        return Err(DirectoryError::Owner {
            path: directory.to_owned(),
            found: owner,
            lock: lock_owner,
        });
    }
    match file.try_lock() {
        Ok(()) => {
            write_pid(&mut file).map_err(DirectoryError::at(&path))?;
            Ok(DirectoryLock { _file: file })
        }
        Err(TryLockError::WouldBlock) => Err(DirectoryError::Held {
            path: directory.to_owned(),
            pid: read_pid(&mut file),
        }),
        Err(TryLockError::Error(source)) => Err(DirectoryError::Io { path, source }),
    }
}

fn open_lock(directory: &Path, path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Ok(made) => {
            give_to_owner_of(directory, &made)?;
            Ok(made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

/// Gives a file or folder that was made just now in this directory to the directory's owner, when
/// root made it: an operator's command must leave nothing that the service cannot open.
///
/// # Errors
/// What the operating system says.
///
/// # Security
/// The file was made by this process and never followed to: a link that somebody put there would
/// have root give away what it leads to.
pub fn give_to_owner_of(directory: &Path, made: &File) -> io::Result<()> {
    const ROOT: u32 = 0;
    let (owner, maker) = (fs::metadata(directory)?, made.metadata()?.uid());
    if maker != ROOT || owner.uid() == ROOT {
        return Ok(());
    }
    fchown(made, Some(owner.uid()), Some(owner.gid()))
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn metadata(path: &Path) -> Result<fs::Metadata, DirectoryError> {
    fs::metadata(path).map_err(DirectoryError::at(path))
}

fn owner_of(path: &Path) -> Result<u32, DirectoryError> {
    Ok(metadata(path)?.uid())
}

/// Refuses a directory, or a database in it, that others than its owner can write to, and a
/// database that they can read.
pub(crate) fn check(directory: &Path) -> Result<(), DirectoryError> {
    if !metadata(directory)?.is_dir() {
        return Err(DirectoryError::NotADirectory(directory.to_owned()));
    }
    refuse_bits(directory, OTHERS_WRITE)?;
    let database = database_in(directory);
    if exists(&database)? {
        refuse_bits(&database, OTHERS_WRITE | OTHERS_READ)?;
    }
    Ok(())
}

fn refuse_bits(path: &Path, bits: u32) -> Result<(), DirectoryError> {
    let mode = metadata(path)?.mode() & PERMISSIONS;
    let path = path.to_owned();
    if mode & bits & OTHERS_WRITE != 0 {
        Err(DirectoryError::WritableByOthers { path, mode })
    } else if mode & bits != 0 {
        Err(DirectoryError::ReadableByOthers { path, mode })
    } else {
        Ok(())
    }
}

/// Whether something is there; a broken link counts.
pub(crate) fn exists(path: &Path) -> Result<bool, DirectoryError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DirectoryError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes an empty file that only its owner can read; SQLite gives its side files the same mode.
///
/// A file that is there is not opened: closing it again would drop SQLite's own locks on it.
///
/// # Errors
/// [`DirectoryError::Occupied`] when the file is there.
pub(crate) fn create_private(path: &Path) -> Result<(), DirectoryError> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Ok(made) => match path.parent() {
            Some(directory) => give_to_owner_of(directory, &made).map_err(DirectoryError::at(path)),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(DirectoryError::Occupied(path.to_owned()))
        }
        Err(source) => Err(DirectoryError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes what happened to the file or directory itself survive a loss of power.
pub(crate) fn sync(path: &Path) -> Result<(), DirectoryError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(DirectoryError::at(path))
}
