//! Who takes messages: a webhook, or a channel that is no webhook and is delivered to as one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::client::{Attempt, Client, Failure};
use super::settings::{ATTEMPTS, Content, GIVE_UP_AFTER_HOURS, HOUR_MS};
use super::standing::Standing;

/// What came of carrying a message.
pub type Carried<'a> = Pin<Box<dyn Future<Output = Result<(), Unavailable>> + Send + 'a>>;

/// The channel cannot be used now: the message is to be brought again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel is not open")]
pub struct Unavailable;

/// Another way for messages than by a webhook. What waits for it, what is given up and how it stands
/// is kept and shown as a webhook's is.
pub trait Channel: Send + Sync {
    /// Its name among the webhooks.
    fn name(&self) -> &str;

    /// Where it leads, for people.
    fn place(&self) -> String;

    /// Carries a message about this subject. Messages about one subject come one after the other.
    fn carry<'a>(&'a self, subject: &'a str, body: &'a str) -> Carried<'a>;
}

/// A webhook or a channel, and how it stands.
pub(super) struct Recipient {
    pub(super) carrier: Carrier,
    pub(super) standing: Standing,
}

pub(super) enum Carrier {
    Webhook(Box<Client>),
    Channel(Arc<dyn Channel>),
}

impl Carrier {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Webhook(client) => &client.webhook.target.name,
            Self::Channel(channel) => channel.name(),
        }
    }
}

impl Recipient {
    pub(super) fn name(&self) -> &str {
        self.carrier.name()
    }

    /// Where it is, without what may be secret.
    pub(super) fn place(&self) -> String {
        match &self.carrier {
            Carrier::Webhook(client) => client.webhook.target.endpoint.shown(),
            Carrier::Channel(channel) => channel.place(),
        }
    }

    /// The webhook, if it is one.
    pub(super) fn client(&self) -> Option<&Client> {
        match &self.carrier {
            Carrier::Webhook(client) => Some(client),
            Carrier::Channel(_) => None,
        }
    }

    /// What it is told.
    pub(super) fn content(&self) -> Content {
        let client = self.client();
        client.map_or(Content::Revocation, |client| client.webhook.target.content)
    }

    pub(super) fn attempts_max(&self) -> u64 {
        let client = self.client();
        client.map_or(ATTEMPTS.default, |client| {
            client.webhook.target.attempts_max
        })
    }

    pub(super) fn give_up_after_ms(&self) -> u64 {
        let client = self.client();
        client.map_or(
            GIVE_UP_AFTER_HOURS.default.saturating_mul(HOUR_MS),
            |client| client.webhook.target.give_up_after_ms,
        )
    }

    /// Delivers a message once.
    pub(super) async fn deliver(
        &self,
        subject: &str,
        id: &str,
        body: &str,
        now_unix_ms: u64,
    ) -> Attempt {
        match &self.carrier {
            Carrier::Webhook(client) => client.post(id, body, now_unix_ms).await,
            Carrier::Channel(channel) => Attempt {
                result: channel
                    .carry(subject, body)
                    .await
                    .map_err(|Unavailable| Failure::Unavailable),
                retry_after: None,
            },
        }
    }
}
