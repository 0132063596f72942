//! `ratd group`: policy groups, as far as a first fleet needs them.

use std::io::{self, Write};

use anyhow::{Context, anyhow, bail, ensure};
use rat_api::clock::{rfc3339, unix_ms};
use rat_api::core::groups::{is_slug, new_group};
use rat_api::limits::GROUP_CHARACTERS_MAX;
use rat_engine::hash::HashAlg;
use rat_store::{Approval, GroupSettings, Store, StoredGroup};
use serde::Serialize;

use super::ACTOR;
use crate::arguments::{ApprovalOption, GroupCommand, GroupOptions, IntervalOption};
use crate::config::Config;
use crate::config::check::group_interval_ms_min;
use crate::data_dir;
use crate::failure::Failure;

pub(super) async fn run(config: &Config, command: &GroupCommand) -> Result<(), Failure> {
    let store = match command {
        GroupCommand::Create { .. } => data_dir::open_or_make(&config.data_dir).await?,
        GroupCommand::Set { .. } | GroupCommand::Show { .. } => {
            data_dir::open(&config.data_dir).await?
        }
    };
    match command {
        GroupCommand::Create { slug, settings } => {
            let mut of_group = GroupSettings::default();
            settings.apply(&mut of_group, config)?;
            create(&store, slug, of_group).await?;
        }
        GroupCommand::Set { slug, settings } => {
            let mut of_group = existing(&store, slug).await?.settings;
            settings.apply(&mut of_group, config)?;
            store
                .update_group(slug, &of_group, ACTOR, unix_ms())
                .await?;
        }
        GroupCommand::Show { slug: Some(slug) } => print(&existing(&store, slug).await?)?,
        GroupCommand::Show { slug: None } => {
            for group in store.groups().await? {
                print(&group)?;
            }
        }
    }
    store.close().await;
    Ok(())
}

async fn existing(store: &Store, slug: &str) -> anyhow::Result<StoredGroup> {
    let group = store.group(slug).await?;
    group.ok_or_else(|| anyhow!("there is no group {slug:?}"))
}

/// Makes a group of this slug. Its name in the rulesets API is drawn now, and stays.
pub(super) async fn create(
    store: &Store,
    slug: &str,
    settings: GroupSettings,
) -> anyhow::Result<()> {
    ensure!(
        is_slug(slug),
        "a group's slug has 1 to {GROUP_CHARACTERS_MAX} of a-z, 0-9, `-` and `_`"
    );
    let settings = GroupSettings {
        name: slug.to_owned(),
        ..settings
    };
    let group = new_group(slug, settings);
    let group = group.context("the operating system gives no random numbers")?;
    Ok(store.create_group(&group, ACTOR, unix_ms()).await?)
}

impl GroupOptions {
    fn apply(&self, settings: &mut GroupSettings, config: &Config) -> anyhow::Result<()> {
        if let Some(bank) = &self.bank {
            settings.bank = match HashAlg::from_name(bank.as_bytes()) {
                Some(bank) => bank,
                None => bail!("{bank:?} is no bank: sha1, sha256, sha384 or sha512"),
            };
        }
        if let Some(require) = self.require_boot_log {
            settings.require_boot_log = require;
        }
        if let Some(protected) = self.protected {
            settings.protected = protected;
        }
        if let Some(approval) = self.approval {
            settings.approval = match approval {
                ApprovalOption::Auto => Approval::Auto,
                ApprovalOption::List => Approval::List,
                ApprovalOption::Manual => Approval::Manual,
            };
        }
        if let Some(IntervalOption(interval_ms)) = self.interval_ms {
            let least_ms = group_interval_ms_min(config);
            ensure!(
                interval_ms.is_none_or(|interval_ms| interval_ms >= least_ms),
                "an interval of a group has {least_ms} ms or more: trust lasts for three, and the \
                 answer to a challenge has two of them"
            );
            settings.interval_ms = interval_ms;
        }
        if let Some(allow_sha1) = self.allow_sha1 {
            settings.allow_sha1 = allow_sha1;
        }
        if let Some(require) = self.require_valid_ima_sig {
            settings.require_valid_ima_sig = require;
        }
        Ok(())
    }
}

/// A group, one line of JSON.
#[derive(Serialize)]
struct Shown<'a> {
    slug: &'a str,
    hex_id: &'a str,
    bank: &'a str,
    require_boot_log: bool,
    protected: bool,
    approval: &'a str,
    interval_ms: Option<u64>,
    allow_sha1: bool,
    require_valid_ima_sig: bool,
    enforced_version: Option<u64>,
    created_at: Option<String>,
}

fn print(group: &StoredGroup) -> anyhow::Result<()> {
    let settings = &group.settings;
    let shown = Shown {
        slug: &group.slug,
        hex_id: &group.hex_id,
        bank: settings.bank.name(),
        require_boot_log: settings.require_boot_log,
        protected: settings.protected,
        approval: settings.approval.as_str(),
        interval_ms: settings.interval_ms,
        allow_sha1: settings.allow_sha1,
        require_valid_ima_sig: settings.require_valid_ima_sig,
        enforced_version: group.enforced.map(|enforced| enforced.version),
        created_at: rfc3339(group.created_unix_ms),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&shown)?)?;
    Ok(())
}
