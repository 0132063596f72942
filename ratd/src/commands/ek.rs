//! `ratd ek`: machines that an operator lets in one by one.

use anyhow::Context;
use rat_api::clock::unix_ms;

use super::ACTOR;
use crate::arguments::{EkCommand, EkInGroup};
use crate::config::Config;
use crate::data_dir;
use crate::failure::Failure;

pub(super) async fn run(config: &Config, command: &EkCommand) -> Result<(), Failure> {
    let (EkCommand::Approve(named) | EkCommand::Withdraw(named)) = command;
    let (group, ek, now) = (&named.group, digest(named)?, unix_ms());
    let store = data_dir::open(&config.data_dir).await?;
    let is_changed = match command {
        EkCommand::Approve(_) => store.approve_ek(group, &ek, ACTOR, now).await,
        EkCommand::Withdraw(_) => store.withdraw_ek(group, &ek, ACTOR, now).await,
    };
    store.close().await;
    if !is_changed? {
        eprintln!("ratd: it was so before");
    }
    Ok(())
}

fn digest(named: &EkInGroup) -> Result<[u8; 32], Failure> {
    let mut digest = [0; 32];
    hex::decode_to_slice(&named.ek_sha256, &mut digest).context("write 64 hexadecimal digits")?;
    Ok(digest)
}
