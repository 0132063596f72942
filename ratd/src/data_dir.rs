//! What lies in the data directory, and who may read it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rat_api::clock::unix_ms;
use rat_identity::ca::Ca;
use rat_identity::keylime::{CA_FOLDER, KeylimeCa};
use rat_store::{DirectoryError, Store, StoreError, give_to_owner_of};

use crate::failure::{Exit, Failure, Means};

/// The CA's folder.
pub(crate) fn ca_in(directory: &Path) -> PathBuf {
    directory.join("ca")
}

/// The folder of the CA for Keylime's clients and servers.
pub(crate) fn keylime_ca_in(directory: &Path) -> PathBuf {
    directory.join(CA_FOLDER)
}

/// The CA's keys, in the data directory.
pub(crate) const CA_KEY: &str = "ca/ca.key";
/// The records, in the data directory.
const RECORDS: &str = "ratd.db";
/// Is there while a restore is under way, and after one that was cut short.
const RESTORING: &str = "restore.unfinished";

/// The file with the first user's password, as long as that was not changed.
pub(crate) const FIRST_PASSWORD: &str = "admin-password";

/// Where that file is.
pub(crate) fn first_password_in(directory: &Path) -> PathBuf {
    directory.join(FIRST_PASSWORD)
}

/// Makes a folder that only its owner can enter, unless it is there.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    match (builder.create(directory), directory.parent()) {
        (Ok(()), Some(parent)) if parent.components().count() > 0 => {
            give_to_owner_of(parent, &File::open(directory)?)
        }
        (Err(error), _) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            make_private(parent)?;
            make_private(directory)
        }
        (made, _) => made,
    }
}

/// What a restore has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoreState {
    /// Nothing, or all that it should bring.
    None,
    /// Files without the database.
    CutShort,
}

/// Whether a restore was cut short. The database comes last, so that with it all is there.
pub(crate) fn restore_state(directory: &Path) -> io::Result<RestoreState> {
    if !directory.join(RESTORING).try_exists()? {
        return Ok(RestoreState::None);
    }
    if Store::is_in(directory)? {
        end_restore(directory)?;
        return Ok(RestoreState::None);
    }
    Ok(RestoreState::CutShort)
}

/// Marks the directory, which is made if it is not there: a restore is under way.
pub(crate) fn begin_restore(directory: &Path) -> io::Result<()> {
    make_private(directory)?;
    match write_private(&directory.join(RESTORING), b"") {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }?;
    File::open(directory)?.sync_all()
}

/// Takes the mark away.
pub(crate) fn end_restore(directory: &Path) -> io::Result<()> {
    std::fs::remove_file(directory.join(RESTORING))?;
    File::open(directory)?.sync_all()
}

/// Refuses a directory with a part of a backup in it: started on that, a server would begin with a
/// CA that no agent knows, or without its agents.
pub(crate) fn require_whole(directory: &Path) -> Result<(), Failure> {
    let state = restore_state(directory)
        .with_context(|| directory.display().to_string())
        .means(Exit::Unusable)?;
    match state {
        RestoreState::None => Ok(()),
        RestoreState::CutShort => Err(anyhow::anyhow!(
            "{} holds a part of a backup: a restore was cut short; run `ratd restore` again",
            directory.display()
        ))
        .means(Exit::Unusable),
    }
}

/// Writes a new file that only its owner can read.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if let Some(directory) = path.parent() {
        give_to_owner_of(directory, &file)?;
    }
    file.write_all(contents)?;
    file.sync_all()
}

/// The contents of a file that only its owner can read. (A07)
pub(crate) fn read_private(path: &Path) -> anyhow::Result<String> {
    Ok(io::read_to_string(open_private(path)?)?)
}

/// The same of one that holds at most so many bytes of any kind.
pub(crate) fn read_private_bytes(path: &Path, max: usize) -> anyhow::Result<Vec<u8>> {
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let mut file = open_private(path)?.take(limit);
    let read = file.read_to_end(&mut bytes);
    read.with_context(|| path.display().to_string())?;
    ensure!(
        bytes.len() <= max,
        "{} has more than {max} bytes",
        path.display()
    );
    Ok(bytes)
}

fn open_private(path: &Path) -> anyhow::Result<File> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mode = file.metadata()?.mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "{} has mode {mode:o}: others than its owner can use it",
        path.display()
    );
    Ok(file)
}

/// The secret by which agents believe a server that was started again, made if there is none.
///
/// Whoever has it can end agents' connections, and nothing else.
pub(crate) fn reset_secret(directory: &Path) -> anyhow::Result<[u8; 32]> {
    let path = directory.join("quic-reset.key");
    let mut secret = [0; 32];
    if path.exists() {
        let text = read_private(&path)?;
        hex::decode_to_slice(text.trim(), &mut secret)
            .with_context(|| format!("{} does not hold 64 digits", path.display()))?;
        return Ok(secret);
    }
    getrandom::fill(&mut secret).context("the operating system gives no random numbers")?;
    let text = format!("{}\n", hex::encode(secret));
    write_private(&path, text.as_bytes()).with_context(|| path.display().to_string())?;
    Ok(secret)
}

/// The CA of this data directory, made if there is none.
pub(crate) fn open_or_make_ca(directory: &Path) -> Result<Ca, Failure> {
    require_whole(directory)?;
    make_private(&ca_in(directory)).means(Exit::Unusable)?;
    read_ca(directory)
}

/// The CA that is in this data directory. Nothing is made where there is none.
pub(crate) fn open_ca(directory: &Path) -> Result<Ca, Failure> {
    require_whole(directory)?;
    let key = directory.join(CA_KEY);
    let is_there = key.try_exists();
    if !is_there
        .with_context(|| key.display().to_string())
        .means(Exit::Unusable)?
    {
        return Err(not_there(directory, "CA", CA_KEY));
    }
    read_ca(directory)
}

/// The CA for Keylime's clients and servers, made if there is none.
pub(crate) fn open_or_make_keylime_ca(
    directory: &Path,
    names: &[String],
) -> Result<KeylimeCa, Failure> {
    require_whole(directory)?;
    let folder = keylime_ca_in(directory);
    make_private(&folder).means(Exit::Unusable)?;
    let opened = match KeylimeCa::open(&folder, unix_ms()) {
        Ok(None) => KeylimeCa::make(&folder, names, unix_ms()).map(Some),
        opened => opened,
    };
    let in_folder = || format!("the CA in {}", folder.display());
    let opened = opened.with_context(in_folder).means(Exit::Unusable)?;
    opened.with_context(in_folder).means(Exit::Unusable)
}

fn read_ca(directory: &Path) -> Result<Ca, Failure> {
    let folder = ca_in(directory);
    Ca::open(&folder, unix_ms())
        .with_context(|| format!("the CA in {}", folder.display()))
        .means(Exit::Unusable)
}

/// The records that are in this data directory, for a short command beside a running server.
/// Nothing is made where there are none.
pub(crate) async fn open(directory: &Path) -> Result<Store, Failure> {
    match opened(directory).await? {
        Some(store) => Ok(store),
        None => Err(not_there(directory, "records", RECORDS)),
    }
}

/// The same, made if there are none: for what is prepared before the first start of a server.
pub(crate) async fn open_or_make(directory: &Path) -> Result<Store, Failure> {
    if let Some(store) = opened(directory).await? {
        return Ok(store);
    }
    // Whoever meant another folder must learn that this one knows no server.
    eprintln!("ratd: {} is new", directory.display());
    Store::open(directory).await.means(Exit::Unusable)
}

/// Refuses a folder that no server has used: most often it is not the one that was meant.
pub(crate) fn require_records(directory: &Path) -> Result<(), Failure> {
    let is_there = Store::is_in(directory);
    let is_there = is_there.with_context(|| directory.display().to_string());
    match is_there.means(Exit::Unusable)? {
        true => Ok(()),
        false => Err(not_there(directory, "records", RECORDS)),
    }
}

async fn opened(directory: &Path) -> Result<Option<Store>, Failure> {
    require_whole(directory)?;
    match Store::open_shared(directory).await {
        Err(StoreError::Directory(DirectoryError::Empty(_))) => Ok(None),
        Err(StoreError::Directory(DirectoryError::Io { source, .. }))
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        other => other.map(Some).means(Exit::Unusable),
    }
}

/// Most often the folder is not the one that was meant.
fn not_there(directory: &Path, what: &str, file: &str) -> Failure {
    let shown = std::path::absolute(directory);
    let shown = shown.as_deref().unwrap_or(directory).display();
    let error = anyhow::anyhow!(
        "no {what} in the data directory {shown}: there is no {file}, and nothing was made. Name the \
         directory of the server with --data-dir or RATD_DATA_DIR; a new one is made when the server \
         starts in it"
    );
    Failure {
        exit: Exit::Unusable,
        error,
    }
}
