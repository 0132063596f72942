//! `rat groups`.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::{list, show};
use crate::Outcome;
use crate::arguments::{GroupCommand, GroupSettings};
use crate::client::{Address, AddressError};
use crate::input::{self, InputError};
use crate::output::{Column, Item, Terminal};

const COLUMNS: [Column; 7] = [
    Column("GROUP", "policy_group_id"),
    Column("NAME", "name"),
    Column("APPROVAL", "approval"),
    Column("PROTECTED", "protected"),
    Column("BLOCK", "block"),
    Column("ENFORCED", "enforced_policy_id"),
    Column("SHADOW", "shadow_policy_id"),
];

/// Runs one of the commands on groups.
pub(crate) fn run(command: &GroupCommand, terminal: &mut Terminal) -> Result<Outcome> {
    match command {
        GroupCommand::List { remote } => {
            list(remote, Address::new("/groups/"), None, &COLUMNS, terminal)
        }
        GroupCommand::Show { group, remote } => {
            let shown: Item = remote.client()?.get(&address(group)?)?.read()?;
            show(terminal, remote.output, &shown)
        }
        GroupCommand::Create {
            group,
            settings,
            remote,
        } => {
            let mut body = members(settings)?;
            body.insert("policy_group_id".to_owned(), json!(group));
            let made = remote.client()?.post(&Address::new("/groups/"), &body)?;
            show(terminal, remote.output, &made.read::<Item>()?)
        }
        GroupCommand::Set {
            group,
            settings,
            if_version,
            remote,
        } => {
            let body = members(settings)?;
            if body.is_empty() {
                bail!("give a setting to change; `rat groups set --help` lists them");
            }
            let changed = remote.client()?.put(&address(group)?, *if_version, &body)?;
            show(terminal, remote.output, &changed.read::<Item>()?)
        }
    }
}

/// Where a group is.
pub(super) fn address(group: &str) -> Result<Address, AddressError> {
    Address::new("/groups").child(group)
}

/// The settings that were given.
fn members(settings: &GroupSettings) -> Result<Map<String, Value>> {
    const OPTION: &str = "--pcr-policy";
    let Value::Object(mut members) = serde_json::to_value(settings)? else {
        bail!("settings are no object");
    };
    if let Some(given) = &settings.pcr_policy {
        let (source, text) = match given.strip_prefix('@') {
            Some(file) => {
                let file = Path::new(file);
                (file, input::read(OPTION, file, "TPM_POLICY_BYTES_MAX")?)
            }
            None => (Path::new("JSON"), given.as_bytes().to_vec()),
        };
        let policy: Value = serde_json::from_slice(&text)
            .map_err(|error| InputError::new(OPTION, source, &error))?;
        members.insert("pcr_policy".to_owned(), policy);
    }
    Ok(members)
}
