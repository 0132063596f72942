//! `rat webhooks`: who is told of changes, and what never arrived.

use anyhow::Result;

use super::{list, show};
use crate::Outcome;
use crate::arguments::WebhookCommand;
use crate::client::{Address, AddressError, Client, ClientError};
use crate::output::{Column, Item, Terminal};

const COLUMNS: [Column; 7] = [
    Column("NAME", "name"),
    Column("STATE", "state"),
    Column("QUEUED", "queued"),
    Column("DEAD LETTERS", "dead_letters"),
    Column("LAST DELIVERY", "last_delivery"),
    Column("URL", "url"),
    Column("LAST ERROR", "last_error"),
];

const DEAD_LETTERS: [Column; 6] = [
    Column("ID", "id"),
    Column("AGENT", "agent_id"),
    Column("QUEUED", "queued_at"),
    Column("GIVEN UP", "given_up_at"),
    Column("ATTEMPTS", "attempts"),
    Column("ERROR", "error"),
];

/// Runs one of the commands on webhooks.
pub(crate) fn run(command: &WebhookCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        WebhookCommand::List { remote } => list(remote, all(), None, &COLUMNS, terminal),
        WebhookCommand::Show { webhook, remote } => {
            let shown = named(&remote.client()?, webhook)?;
            show(terminal, remote.output, &shown)
        }
        WebhookCommand::DeadLetters {
            webhook,
            limit,
            remote,
        } => {
            let letters = address(webhook)?.child("dead-letters")?;
            list(remote, letters, *limit, &DEAD_LETTERS, terminal)
        }
        WebhookCommand::Redeliver {
            webhook,
            message,
            remote,
        } => {
            let at = address(webhook)?.child("dead-letters")?;
            let at = at.child(message)?.child("redeliver")?;
            let queued: Item = remote.client()?.post_empty(&at)?.read()?;
            show(terminal, remote.output, &queued)?;
            Ok(Outcome::Passed)
        }
        WebhookCommand::Test { webhook, remote } => {
            let at = address(webhook)?.child("test")?;
            let tested: Item = remote.client()?.post_empty(&at)?.read()?;
            show(terminal, remote.output, &tested)?;
            Ok(match tested.get("delivered") {
                Some(Item::Flag(true)) => Outcome::Passed,
                _ => Outcome::Failed,
            })
        }
    }
}

fn all() -> Address {
    Address::new("/webhooks/")
}

fn address(webhook: &str) -> Result<Address, AddressError> {
    all().child(webhook)
}

/// The webhook of this name. There are few, and the server has no address for one of them.
fn named(client: &Client, name: &str) -> Result<Item, ClientError> {
    let webhooks: Vec<Item> = client.get(&all())?.read()?;
    let mut webhooks = webhooks.into_iter();
    let found = webhooks.find(|webhook| webhook.text("name") == Some(name));
    found.ok_or_else(|| ClientError::unknown(format!("there is no webhook `{name}`")))
}
