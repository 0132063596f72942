//! `[keylime.revocation]`: who is told of Keylime's agents that fail.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::webhook::{Told, Webhook};

/// A way by which revocations go out, as Keylime's `enabled_revocation_notifications` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Channel {
    Agent,
    Zeromq,
    Webhook,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Revocation {
    pub(crate) channels: Vec<Channel>,
    pub(crate) zmq_listen: SocketAddr,
}

impl Default for Revocation {
    fn default() -> Self {
        Self {
            channels: vec![Channel::Agent],
            zmq_listen: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8992),
        }
    }
}

/// Names that webhooks cannot have: channels are shown by them.
pub(crate) const RESERVED: [&str; 2] = [super::AGENTS_CHANNEL, rat_ops::zeromq::NAME];

impl Revocation {
    /// What is wrong, though each value is of its type.
    pub(crate) fn faults(&self, webhooks: &[Webhook]) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut fault = |key, text: &str| faults.push((key, text.to_owned()));
        let mut told = webhooks.iter().map(|webhook| webhook.content);
        let is_there = told.any(|content| content == Told::Revocation);
        match (self.channels.contains(&Channel::Webhook), is_there) {
            (true, false) => fault(
                "keylime.revocation.channels",
                "webhook needs a [[webhook]] with content = \"revocation\"",
            ),
            (false, true) => fault(
                "webhook",
                "content = \"revocation\" needs webhook among keylime.revocation.channels",
            ),
            (true, true) | (false, false) => {}
        }
        let mut names = webhooks.iter().map(|webhook| webhook.name.as_str());
        if names.any(|name| RESERVED.contains(&name)) {
            fault("webhook", "has the name of a channel of revocations");
        }
        faults
    }
}
