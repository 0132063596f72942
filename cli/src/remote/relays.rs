//! `rat relays`: machines that carry the evidence of others.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::{list, prompt, show};
use crate::Outcome;
use crate::arguments::RelayCommand;
use crate::client::Address;
use crate::input::InputError;
use crate::output::{Column, Item, Terminal};

const COLUMNS: [Column; 4] = [
    Column("NAME", "name"),
    Column("KEY SHA-256", "key_sha256"),
    Column("CREATED BY", "created_by"),
    Column("CREATED AT", "created_at"),
];

/// A request with an RSA-4096 key and signature is under 2 KiB of PEM.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;

/// Runs one of the commands on relays.
pub(crate) fn run(command: &RelayCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        RelayCommand::List { remote } => {
            list(remote, Address::new("/relays/"), None, &COLUMNS, terminal)
        }
        RelayCommand::Add { relay, csr, remote } => {
            let body = json!({ "name": relay, "csr": request(csr)? });
            let added: Item = remote
                .client()?
                .post(&Address::new("/relays/"), &body)?
                .read()?;
            show(terminal, remote.output, &added)
        }
        RelayCommand::Remove { relay, yes, remote } => {
            let at = Address::new("/relays").child(relay)?;
            if !yes {
                prompt::confirm(&format!("Remove relay {relay}?"), "give --yes")?;
            }
            let removed: Item = remote.client()?.delete(&at)?.read()?;
            show(terminal, remote.output, &removed)
        }
    }
}

/// The base64 of a request in PEM; the server reads what is in it.
fn request(path: &Path) -> Result<String, InputError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
    const END: &str = "-----END CERTIFICATE REQUEST-----";
    let no_request = || InputError::new("--csr", path, &"no certificate request in PEM");
    let fault = |error: std::io::Error| InputError::new("--csr", path, &error);
    let file = File::open(path).map_err(fault)?;
    let mut text = String::new();
    file.take(REQUEST_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(fault)?;
    let (_, rest) = text.split_once(BEGIN).ok_or_else(no_request)?;
    let (base64, _) = rest.split_once(END).ok_or_else(no_request)?;
    Ok(base64.split_whitespace().collect())
}
