//! `[[webhook]]`: who is told of changed statuses.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use figment::value::Value;
use rat_ops::limits::{WEBHOOK_CA_BYTES_MAX, WEBHOOK_SECRET_BYTES_MAX, WEBHOOKS_MAX};
use rat_ops::webhook::{
    ATTEMPTS, Content, Fault, GIVE_UP_AFTER_HOURS, Given, Roots, Secret, TIMEOUT_MS, Target,
    Webhook as Sound,
};
use serde::{Deserialize, Serialize};

use crate::data_dir;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webhook {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) secret_file: PathBuf,
    /// Empty: the CAs of the system.
    #[serde(default)]
    pub(crate) ca_file: PathBuf,
    #[serde(default)]
    pub(crate) content: Told,
    #[serde(default)]
    pub(crate) groups: Vec<String>,
    #[serde(default)]
    pub(crate) statuses: Vec<String>,
    #[serde(default)]
    pub(crate) allow: Vec<String>,
    #[serde(default)]
    pub(crate) plain_http: bool,
    #[serde(default = "timeout_ms")]
    pub(crate) timeout_ms: u64,
    #[serde(default = "attempts_max")]
    pub(crate) attempts_max: u64,
    #[serde(default = "give_up_after_hours")]
    pub(crate) give_up_after_hours: u64,
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Told {
    #[default]
    Status,
    Revocation,
}

const fn timeout_ms() -> u64 {
    TIMEOUT_MS.default
}

const fn attempts_max() -> u64 {
    ATTEMPTS.default
}

const fn give_up_after_hours() -> u64 {
    GIVE_UP_AFTER_HOURS.default
}

/// The members that need not be there, as they are then.
pub(crate) fn defaults() -> Value {
    let none = Webhook {
        name: String::new(),
        url: String::new(),
        secret_file: PathBuf::new(),
        ca_file: PathBuf::new(),
        content: Told::default(),
        groups: Vec::new(),
        statuses: Vec::new(),
        allow: Vec::new(),
        plain_http: false,
        timeout_ms: timeout_ms(),
        attempts_max: attempts_max(),
        give_up_after_hours: give_up_after_hours(),
    };
    let mut members = match Value::serialize(none) {
        Ok(Value::Dict(_, members)) => members,
        _ => figment::value::Dict::new(),
    };
    members.retain(|name, _| !["name", "url", "secret_file"].contains(&name.as_str()));
    members.into()
}

impl Webhook {
    fn target(&self) -> Result<Target, Vec<Fault>> {
        Target::parse(&Given {
            name: &self.name,
            url: &self.url,
            content: match self.content {
                Told::Status => Content::Status,
                Told::Revocation => Content::Revocation,
            },
            groups: &self.groups,
            statuses: &self.statuses,
            allow: &self.allow,
            plain_http: self.plain_http,
            timeout_ms: self.timeout_ms,
            attempts_max: self.attempts_max,
            give_up_after_hours: self.give_up_after_hours,
        })
    }

    fn read(&self) -> anyhow::Result<Sound> {
        let target = self.target().map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
            anyhow!(faults.join("; "))
        })?;
        let secret = data_dir::read_private_bytes(&self.secret_file, WEBHOOK_SECRET_BYTES_MAX)
            .context("secret_file")?;
        let secret = Secret::of_file(&secret)
            .with_context(|| format!("secret_file: {}", self.secret_file.display()))?;
        Ok(Sound::new(target, secret, self.roots()?))
    }

    fn roots(&self) -> anyhow::Result<Roots> {
        if self.ca_file.as_os_str().is_empty() {
            return Roots::of_system().context("ca_file");
        }
        let text = rat_identity::ek::read_trusted(&self.ca_file, WEBHOOK_CA_BYTES_MAX);
        let text = text.context("ca_file")?;
        let in_file = || format!("ca_file: {}", self.ca_file.display());
        Roots::of_pem(&text).with_context(in_file)
    }
}

/// Everything that is wrong with what is written, and where.
pub(crate) fn faults(webhooks: &[Webhook]) -> Vec<String> {
    let mut all = Vec::new();
    if webhooks.len() > WEBHOOKS_MAX {
        all.push(format!("more than {WEBHOOKS_MAX}"));
    }
    let mut names = BTreeSet::new();
    for (number, webhook) in (1_usize..).zip(webhooks) {
        if !names.insert(&webhook.name) {
            all.push(format!(
                "number {number} has the name of another: {:?}",
                webhook.name
            ));
        }
        for fault in webhook.target().err().unwrap_or_default() {
            all.push(format!("number {number}, {:?}: {fault}", webhook.name));
        }
    }
    all
}

/// All of them, with their files.
pub(crate) fn read(webhooks: &[Webhook]) -> anyhow::Result<Vec<Sound>> {
    let faults = faults(webhooks);
    ensure!(faults.is_empty(), "webhook: {}", faults.join("; "));
    let read = |webhook: &Webhook| {
        let read = webhook.read();
        read.with_context(|| format!("webhook {:?}", webhook.name))
    };
    webhooks.iter().map(read).collect()
}
