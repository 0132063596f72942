//! `ratd api-token`: tokens of programs, on the data directory.

use std::io::{self, Write};

use anyhow::{Context, ensure};
use rat_api::auth::account::check_roles;
use rat_api::auth::credential::{Credential, CredentialKind};
use rat_api::clock::{rfc3339, unix_ms};
use rat_api::limits::API_TOKEN_NAME_CHARACTERS_MAX;
use rat_store::{NewApiToken, Store, StoredApiToken};
use serde::Serialize;

use super::ACTOR;
use crate::arguments::{ApiTokenCommand, ApiTokenOptions};
use crate::config::Config;
use crate::data_dir;
use crate::failure::Failure;

const HOUR_MS: u64 = 60 * 60 * 1000;

pub(super) async fn run(config: &Config, command: &ApiTokenCommand) -> Result<(), Failure> {
    let store = match command {
        ApiTokenCommand::Create(_) => data_dir::open_or_make(&config.data_dir).await?,
        ApiTokenCommand::Revoke { .. } | ApiTokenCommand::List => {
            data_dir::open(&config.data_dir).await?
        }
    };
    match command {
        ApiTokenCommand::Create(options) => create(&store, options).await?,
        ApiTokenCommand::Revoke { id } => {
            let revoked = store.revoke_api_token(id, ACTOR, unix_ms()).await?;
            require(revoked, "no API token with this id can be revoked")?;
        }
        ApiTokenCommand::List => list(&store).await?,
    }
    store.close().await;
    Ok(())
}

fn require(condition: bool, otherwise: &str) -> anyhow::Result<()> {
    ensure!(condition, "{otherwise}");
    Ok(())
}

async fn create(store: &Store, options: &ApiTokenOptions) -> anyhow::Result<()> {
    let name = options.name.trim();
    let short = name.chars().nth(API_TOKEN_NAME_CHARACTERS_MAX).is_none();
    ensure!(
        !name.is_empty() && short && !name.chars().any(char::is_control),
        "a name has 1 to {API_TOKEN_NAME_CHARACTERS_MAX} readable characters"
    );
    check_roles([options.role.as_str()])?;
    let credential = Credential::generate(CredentialKind::ApiToken)?;
    let now = unix_ms();
    let token = NewApiToken {
        id: credential.id().to_owned(),
        sha256: credential.sha256(),
        name: name.to_owned(),
        owner: None,
        role: options.role.clone(),
        created_by: ACTOR.to_owned(),
        created_unix_ms: now,
        expires_unix_ms: now.saturating_add(options.ttl_hours.saturating_mul(HOUR_MS)),
    };
    store.put_api_token(&token).await?;
    writeln!(io::stdout(), "{}", credential.as_str())?;
    let end = rfc3339(token.expires_unix_ms).context("no such time")?;
    writeln!(io::stderr(), "ratd: shown this once. It ends at {end}")?;
    Ok(())
}

async fn list(store: &Store) -> anyhow::Result<()> {
    let mut after = String::new();
    loop {
        let most = rat_store::limits::PAGE_MAX;
        let page = store.api_tokens(None, &after, most).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after.clone_from(&last.token.id);
        for stored in &page {
            print(stored)?;
        }
    }
}

/// An API token, one line of JSON, without its secret.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    name: &'a str,
    role: &'a str,
    owner: Option<&'a str>,
    created_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    last_used: Option<String>,
}

fn print(stored: &StoredApiToken) -> anyhow::Result<()> {
    let token = &stored.token;
    let shown = Shown {
        id: &token.id,
        name: &token.name,
        role: &token.role,
        owner: stored.owner.as_ref().map(|owner| owner.username.as_str()),
        created_at: rfc3339(token.created_unix_ms),
        expires_at: rfc3339(token.expires_unix_ms),
        revoked_at: stored.revoked_unix_ms.and_then(rfc3339),
        last_used: stored.last_used_unix_ms.and_then(rfc3339),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&shown)?)?;
    Ok(())
}
