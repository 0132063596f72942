//! Settings of a relay: a TOML file, then `RAT_RELAY_*`, then flags.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rat_transport::quic::server::ServerLimits;
use serde::{Deserialize, Serialize};

use crate::settings::{SettingsError, layered, state_dir};

/// Where the file is, unless a flag says otherwise.
pub const DEFAULT_FILE: &str = "/etc/rat-relay.toml";
/// Where the state is, unless a flag or systemd says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/rat-relay";
/// Where agents connect, unless something else is set.
pub const DEFAULT_PORT: u16 = 8883;
const ENVIRONMENT: &str = "RAT_RELAY_";

/// Everything that can be set. Flags that are given override the file and the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct RelaySettings {
    /// Where the relay keeps its key (default: $STATE_DIRECTORY, or /var/lib/rat-relay)
    #[arg(id = "relay_state_dir", long = "relay-state-dir", value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// Where agents connect (default: port 8883 of every address)
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Agents that may be connected (default: 65536)
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<usize>,
    /// Agents that may be connected from one IPv4 address or IPv6 /64 network (default: 8192)
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents_per_address: Option<usize>,
}

impl RelaySettings {
    /// File, environment and flags, each over the one before. The default file may be missing.
    ///
    /// # Errors
    /// [`SettingsError`], also for keys that nobody knows.
    pub fn load(file: Option<&Path>, flags: &Self) -> Result<Self, SettingsError> {
        layered(file, DEFAULT_FILE, ENVIRONMENT, flags)
    }

    /// The state directory: as set, else systemd's, else the default.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(self.state_dir.as_ref(), DEFAULT_STATE_DIR)
    }

    /// Where agents connect.
    pub fn listen(&self) -> SocketAddr {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
        self.listen.unwrap_or(any)
    }

    pub(super) fn limits(&self) -> ServerLimits {
        let usual = ServerLimits::default();
        ServerLimits {
            connections_max: self.agents.unwrap_or(usual.connections_max),
            connections_per_address_max: self
                .agents_per_address
                .unwrap_or(usual.connections_per_address_max),
            ..usual
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn the_reference_page_names_every_setting_and_its_default() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/relay.md");
        let page = fs::read_to_string(page).unwrap();
        let all = RelaySettings {
            state_dir: Some("x".into()),
            listen: Some(RelaySettings::default().listen()),
            agents: Some(1),
            agents_per_address: Some(1),
        };
        let keys = serde_json::to_value(all).unwrap();
        let documented: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let keys = keys.as_object().unwrap();
        assert_eq!(documented, keys.keys().map(String::as_str).collect());
        let limits = RelaySettings::default().limits();
        for default in [
            DEFAULT_FILE.to_owned(),
            DEFAULT_STATE_DIR.to_owned(),
            RelaySettings::default().listen().to_string(),
            limits.connections_max.to_string(),
            limits.connections_per_address_max.to_string(),
        ] {
            assert!(page.contains(&format!("`{default}`")), "{default}");
        }
    }
}
