//! `rat account`: one's own account.

use anyhow::{Context, Result};
use serde_json::json;

use super::{done, password, prompt, show};
use crate::Outcome;
use crate::arguments::AccountCommand;
use crate::client::Address;
use crate::output::{Item, Record, Terminal};

/// Runs one of the commands on one's own account.
pub(crate) fn run(command: &AccountCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        AccountCommand::Set { email, remote } => {
            let at = Address::new("/api/v1/auth/me");
            let body = json!({ "email": email });
            let changed: Item = remote.client()?.put(&at, None, &body)?.read()?;
            show(terminal, remote.output, &changed)
        }
        AccountCommand::Password {
            present,
            new_password_file,
            remote,
        } => {
            let client = remote.client()?;
            let present = match password::given(present)? {
                Some(present) => present,
                None => prompt::secret("Present password: ").context(password::OTHERWISE)?,
            };
            let new = password::new("New password", new_password_file.as_deref())?;
            password::replace(&client, &present, &new)?;
            let changed = Record::new().with("password", "changed");
            done(terminal, remote.output, changed)
        }
    }
}
