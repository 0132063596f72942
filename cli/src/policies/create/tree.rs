//! Folders as sources: their files hashed, on several threads.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use indicatif::ProgressBar;
use rat_engine::crypto::Hasher;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::limits::POLICY_PATHS_MAX;
use rat_engine::policy::PolicyDraft;
use rustix::fs::OFlags;

use super::super::progress;
use super::sieve::Sieve;
use crate::arguments::CreateArguments;
use crate::input::InputError;
use crate::output::name_text;

const OPTION: &str = "--from-directory";

/// What is never entered below a root: what a running system keeps there is not what it boots from.
///
/// Source: Keylime, `keylime/policy/create_runtime_policy.py`, `BASE_EXCLUDE_DIRS`.
const NOT_ENTERED: [&str; 10] = [
    "/sys",
    "/run",
    "/proc",
    "/lost+found",
    "/dev",
    "/media",
    "/snap",
    "/mnt",
    "/var",
    "/tmp",
];

/// Bytes of a file that are read at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// A file that is to be hashed, by its path and its name below the root.
struct Found {
    path: PathBuf,
    name: Vec<u8>,
}

/// What a walk found, and what it left out.
#[derive(Default)]
struct Walk {
    files: Vec<Found>,
    other_owners: u64,
    other_file_systems: Vec<PathBuf>,
    vanished: u64,
}

/// Lists the files of every folder that the options name.
pub(super) fn read(
    options: &CreateArguments,
    alg: HashAlg,
    draft: &mut PolicyDraft,
    sieve: &mut Sieve,
) -> Result<()> {
    let roots = options.from_directory.iter().map(|path| canonical(path));
    let roots: Vec<PathBuf> = roots.collect::<Result<_, _>>()?;
    let skipped = skipped(&options.skip_path, &roots)?;
    for root in &roots {
        let mut walk = Walk::new(root, options, &skipped)?;
        walk.files.retain(|found| {
            let name = rat_engine::policy::sources::measured_name(&found.name);
            !sieve.leaves_out(&name)
        });
        let length = u64::try_from(walk.files.len()).unwrap_or(u64::MAX);
        let bar = progress::bar("files", length);
        for (found, digest) in walk.files.iter().zip(hash_all(&walk.files, alg, &bar)?) {
            let Some(digest) = digest else {
                walk.vanished = walk.vanished.saturating_add(1);
                continue;
            };
            let listed = sieve.list(draft, &found.name, &digest);
            listed.map_err(|error| InputError::new(OPTION, &found.path, &error))?;
        }
        bar.finish_and_clear();
        walk.say(root)?;
    }
    Ok(())
}

fn canonical(path: &Path) -> Result<PathBuf, InputError> {
    let fault = |error: &dyn std::fmt::Display| InputError::new(OPTION, path, error);
    let root = path.canonicalize().map_err(|error| fault(&error))?;
    match root.is_dir() {
        true => Ok(root),
        false => Err(fault(&"is no folder")),
    }
}

/// Folders of `--skip-path`, each of which lies below one of the roots.
fn skipped(paths: &[PathBuf], roots: &[PathBuf]) -> Result<Vec<PathBuf>, InputError> {
    let skip = paths.iter().map(|path| {
        let fault = |error: &dyn std::fmt::Display| InputError::new("--skip-path", path, error);
        let skip = path.canonicalize().map_err(|error| fault(&error))?;
        match roots.iter().any(|root| skip.starts_with(root)) {
            true => Ok(skip),
            false => Err(fault(&"is not below a folder of --from-directory")),
        }
    });
    skip.collect()
}

impl Walk {
    /// Finds the files below a root. Symbolic links are not followed, so that nothing is found
    /// twice or outside; devices, sockets and pipes are no files.
    fn new(
        root: &Path,
        options: &CreateArguments,
        skipped: &[PathBuf],
    ) -> Result<Self, InputError> {
        let mut walk = Self::default();
        let metadata = root.symlink_metadata();
        let device = metadata
            .map_err(|error| InputError::new(OPTION, root, &error))?
            .dev();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            if skipped.contains(&folder) {
                continue;
            }
            let fault = |error: &dyn std::fmt::Display| InputError::new(OPTION, &folder, error);
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound && folder != root => continue,
                Err(error) => return Err(fault(&error)),
            };
            for entry in entries {
                let path = entry.map_err(|error| fault(&error))?.path();
                let metadata = match path.symlink_metadata() {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        walk.vanished = walk.vanished.saturating_add(1);
                        continue;
                    }
                    Err(error) => return Err(InputError::new(OPTION, &path, &error)),
                };
                walk.take(root, path, &metadata, (device, options), &mut folders)?;
            }
        }
        // In an order that does not depend on the file system.
        walk.files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(walk)
    }

    fn take(
        &mut self,
        root: &Path,
        path: PathBuf,
        metadata: &Metadata,
        (device, options): (u64, &CreateArguments),
        folders: &mut Vec<PathBuf>,
    ) -> Result<(), InputError> {
        let Ok(below) = path.strip_prefix(root) else {
            return Ok(());
        };
        let name = [b"/", below.as_os_str().as_bytes()].concat();
        if metadata.is_dir() {
            if NOT_ENTERED.iter().any(|folder| folder.as_bytes() == name) {
                return Ok(());
            }
            match metadata.dev() == device || options.cross_file_systems {
                true => folders.push(path),
                false => self.other_file_systems.push(path),
            }
        } else if metadata.is_file() {
            if metadata.uid() != 0 && !options.all_owners {
                self.other_owners = self.other_owners.saturating_add(1);
                return Ok(());
            }
            if self.files.len() >= POLICY_PATHS_MAX {
                let reason = "more files than a policy may list (POLICY_PATHS_MAX)";
                return Err(InputError::new(OPTION, root, &reason));
            }
            self.files.push(Found { path, name });
        }
        Ok(())
    }

    /// Says on stderr what was left out, and how to have it.
    fn say(&self, root: &Path) -> io::Result<()> {
        let root = name_text(root.as_os_str().as_bytes());
        let mut stderr = io::stderr();
        writeln!(stderr, "rat: {root}: {} files", self.files.len())?;
        if self.other_owners > 0 {
            writeln!(
                stderr,
                "     {} not of root left out; --all-owners takes them",
                self.other_owners
            )?;
        }
        for path in &self.other_file_systems {
            let path = name_text(path.as_os_str().as_bytes());
            writeln!(
                stderr,
                "     {path} is another file system and not entered; --cross-file-systems does"
            )?;
        }
        if self.vanished > 0 {
            writeln!(stderr, "     {} went away meanwhile", self.vanished)?;
        }
        Ok(())
    }
}

/// The digest of each file, in order; `None` for one that went away.
///
/// # Errors
/// [`InputError`] of a file that cannot be read: a policy without it would fail the machine later.
fn hash_all(
    files: &[Found],
    alg: HashAlg,
    bar: &ProgressBar,
) -> Result<Vec<Option<Digest>>, InputError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed = Mutex::new(None);
    let work = || {
        let mut hashed = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(at) else {
                break;
            };
            match hash(&file.path, alg, &mut piece) {
                Ok(digest) => hashed.push((at, digest)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    if let Ok(mut failed) = failed.lock() {
                        failed.get_or_insert(InputError::new(OPTION, &file.path, &error));
                    }
                }
            }
            bar.inc(1);
        }
        hashed
    };
    let hashed: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect()
    });
    if let Ok(Some(error)) = failed.into_inner() {
        return Err(error);
    }
    let mut digests = vec![None; files.len()];
    for hashed in hashed {
        let unfinished = |_| InputError::new(OPTION, Path::new("(files)"), &"hashing stopped");
        for (at, digest) in hashed.map_err(unfinished)? {
            if let Some(place) = digests.get_mut(at) {
                *place = digest;
            }
        }
    }
    Ok(digests)
}

/// The digest of one file; `None` when it is gone, or is no regular file any more.
fn hash(path: &Path, alg: HashAlg, piece: &mut [u8]) -> io::Result<Option<Digest>> {
    // What was put there since the walk is neither followed nor waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let mut file: File = match opened {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut hasher = Hasher::new(alg);
    loop {
        match file.read(piece) {
            Ok(0) => return Ok(Some(hasher.finish())),
            Ok(read) => hasher.update(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removed, or replaced by a symbolic link or a socket.
fn is_gone(error: &io::Error) -> bool {
    let replaced = [rustix::io::Errno::LOOP, rustix::io::Errno::NXIO];
    error.kind() == ErrorKind::NotFound
        || replaced
            .iter()
            .any(|it| error.raw_os_error() == Some(it.raw_os_error()))
}
