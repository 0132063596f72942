//! `ratd token`: enrolment tokens.

use std::io::{self, Write};

use anyhow::bail;
use rat_api::clock::unix_ms;
use rat_api::core::tokens::Token;
use rat_store::TokenKind;

use super::{ACTOR, group};
use crate::arguments::{TokenCommand, TokenOptions};
use crate::config::{Config, check};
use crate::data_dir;
use crate::failure::Failure;

const HOUR_MS: u64 = 60 * 60 * 1000;

pub(super) async fn run(config: &Config, command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(options) => create(config, options).await,
        TokenCommand::Revoke { id } => revoke(config, id).await,
    }
}

async fn create(config: &Config, options: &TokenOptions) -> Result<(), Failure> {
    // A baseline token makes its group; any other one needs a group that is there.
    let store = if options.baseline {
        data_dir::open_or_make(&config.data_dir).await?
    } else {
        data_dir::open(&config.data_dir).await?
    };
    let ca = data_dir::open_or_make_ca(&config.data_dir)?;
    let (kind, hours) = if options.baseline {
        (TokenKind::Baseline, 24)
    } else {
        (TokenKind::Enrol, 1)
    };
    let now = unix_ms();
    if store.group(&options.group).await?.is_none() {
        if !options.baseline {
            let group = &options.group;
            return Err(anyhow::anyhow!(
                "there is no group {group:?}: `ratd group create {group}` makes it"
            )
            .into());
        }
        group::create(&store, &options.group, rat_store::GroupSettings::default()).await?;
    }
    let token = Token::generate_now(kind, &ca.fingerprint())?;
    let life_ms = options.ttl_hours.unwrap_or(hours).saturating_mul(HOUR_MS);
    let expires = now.saturating_add(life_ms);
    let record = token.record(&options.group, options.max_uses, expires, ACTOR, now);
    store.put_token(&record).await?;
    store.close().await;
    writeln!(io::stdout(), "{}", token.as_str())?;
    let url = check::addresses(config, config.core.listen.port(), 0).core_url;
    writeln!(
        io::stderr(),
        "ratd: shown this once. On the machine: rat-agent enroll - --server {url}"
    )?;
    Ok(())
}

async fn revoke(config: &Config, id: &str) -> Result<(), Failure> {
    let store = data_dir::open(&config.data_dir).await?;
    let revoked = store.revoke_token(id, ACTOR, unix_ms()).await?;
    store.close().await;
    if revoked {
        return Ok(());
    }
    let nothing = || -> anyhow::Result<()> { bail!("no token with this id can be revoked") };
    Ok(nothing()?)
}
