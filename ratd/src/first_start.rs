//! The first start: an administrator, whose random password is in a file of the data directory until
//! it is changed.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use rat_api::auth::account::{FIRST_USER, new_user};
use rat_api::auth::{Passwords, random_password, roles};
use rat_api::clock::unix_ms;
use rat_store::{Standing, Store};

use crate::data_dir::{first_password_in, read_private, write_private};

/// Who the audit log names for what the server does by itself.
const ACTOR: &str = "ratd";

/// Makes the first user if there is none, and says where its password is. A new one is shown to
/// whoever started the server at a terminal, this once; what is not a terminal is a journal or a
/// file, which keeps what it gets.
///
/// # Errors
/// When the file of the password can be used by others, or cannot be written.
pub(crate) async fn prepare(store: &Store, directory: &Path) -> anyhow::Result<()> {
    let path = first_password_in(directory);
    if store.users().await?.is_empty() {
        return make(store, &path).await;
    }
    if !path
        .try_exists()
        .with_context(|| path.display().to_string())?
    {
        return Ok(());
    }
    read_private(&path)?;
    let first = store.user_named(FIRST_USER).await?;
    if first.is_none_or(|user| user.standing != Standing::MustChangePassword) {
        // It was changed, and the server ended before the file was removed.
        forget(directory)?;
    }
    Ok(())
}

/// The file comes first: a user without it could not log in.
async fn make(store: &Store, path: &Path) -> anyhow::Result<()> {
    remove(path)?;
    let password = random_password()?;
    write_private(path, format!("{password}\n").as_bytes())
        .with_context(|| path.display().to_string())?;
    let hash = Passwords::hash_now(&password)?;
    let mut user = new_user(FIRST_USER, "", &[roles::ADMIN], hash, unix_ms())?;
    user.must_change = true;
    if !store.put_first_user(&user, ACTOR).await? {
        // Somebody made a user meanwhile, by `ratd user create`.
        return remove(path);
    }
    let mut out = io::stdout();
    let path = path.display();
    if out.is_terminal() {
        writeln!(
            out,
            "password of {FIRST_USER}, shown this once (it is in {path} until it is changed):\n{password}"
        )?;
    } else {
        writeln!(
            out,
            "password of {FIRST_USER}: in {path} until it is changed"
        )?;
    }
    Ok(())
}

/// Removes the file with the first password, if it is there.
pub(crate) fn forget(directory: &Path) -> anyhow::Result<()> {
    remove(&first_password_in(directory))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}
