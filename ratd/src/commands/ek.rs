//! `ratd ek`: machines that an operator lets in one by one.

use anyhow::Context;
use rat_api::clock::unix_ms;
use rat_api::core::approvals::Approvals;
use rat_store::AuditEntry;

use super::ACTOR;
use crate::arguments::EkCommand;
use crate::config::Config;
use crate::data_dir;
use crate::failure::Failure;

pub(super) async fn run(config: &Config, command: &EkCommand) -> Result<(), Failure> {
    let EkCommand::Approve { ek_sha256 } = command;
    let mut digest = [0; 32];
    hex::decode_to_slice(ek_sha256, &mut digest).context("write 64 hexadecimal digits")?;
    let store = data_dir::open_beside(&config.data_dir).await?;
    if Approvals::in_directory(&config.data_dir).add(&digest)? {
        let entry = AuditEntry {
            at_unix_ms: unix_ms(),
            actor: ACTOR,
            action: "ek.approve",
            target: &hex::encode(digest),
            detail: "",
        };
        store.audit(entry).await?;
    }
    store.close().await;
    Ok(())
}
