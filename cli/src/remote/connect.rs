//! `rat connect`: which server from now on. (N14)

use anyhow::Result;

use super::show;
use super::status::Health;
use crate::Outcome;
use crate::arguments::{Connect, Fingerprint};
use crate::client::saved::Saved;
use crate::client::{Address, Client, Pinned};
use crate::output::{Item, Record, Terminal};

/// Remembers a server that has proven itself.
///
/// # Security
/// The fingerprint came another way, so that the first contact takes nothing on faith; and this
/// request shows no credential.
pub(crate) fn run(options: &Connect, terminal: &mut Terminal) -> Result<Outcome> {
    let Fingerprint(ca_sha256) = options.ca_sha256;
    let pinned = Pinned {
        server: options.server.clone(),
        ca_sha256,
    };
    let saved = Saved::of_environment()?;
    let client = Client::new(&pinned)?;
    let health: Health = client.get(&Address::new("/health"))?.read()?;
    saved.keep_server(&pinned.to_saved())?;
    let record = Record::new()
        .with("connected", client.server())
        .with("status", health.status)
        .with("version", health.version)
        .with("saved_in", saved.server_file().display().to_string());
    show(terminal, options.output, &Item::Record(record))
}
