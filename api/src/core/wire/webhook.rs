//! Webhooks.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::clock::rfc3339;
use crate::core::webhooks::{ShownWebhook, WebhookState};

/// A webhook of the server's configuration.
#[derive(Serialize, ToSchema)]
pub(crate) struct Webhook {
    #[schema(example = "ops")]
    pub(crate) name: String,
    /// Without its query, which may hold a secret.
    pub(crate) url: String,
    pub(crate) state: State,
    /// Messages that it has not taken yet.
    pub(crate) queued: u64,
    /// When it took a message last.
    #[schema(format = DateTime)]
    pub(crate) last_delivery: Option<String>,
    /// Why the last failed attempt failed, and when that was; what came after it may have arrived.
    pub(crate) last_error: Option<LastError>,
    /// Messages that were given up, since the webhook was configured.
    pub(crate) dead_letters: u64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = WebhookState)]
pub(crate) enum State {
    /// There is nothing to deliver.
    Idle,
    /// Messages are on their way.
    Delivering,
    /// The last attempt failed; it is tried again, more and more seldom.
    Failing,
}

#[derive(Serialize, ToSchema)]
#[schema(as = WebhookError)]
pub(crate) struct LastError {
    #[schema(format = DateTime)]
    pub(crate) at: Option<String>,
    #[schema(example = "it answered 503")]
    pub(crate) error: String,
}

impl From<ShownWebhook> for Webhook {
    fn from(shown: ShownWebhook) -> Self {
        let standing = shown.standing;
        let at = standing.failed_unix_ms.and_then(rfc3339);
        Self {
            name: shown.name,
            url: shown.url,
            state: match shown.state {
                WebhookState::Idle => State::Idle,
                WebhookState::Delivering => State::Delivering,
                WebhookState::Failing => State::Failing,
            },
            queued: standing.queued,
            last_delivery: standing.delivered_unix_ms.and_then(rfc3339),
            last_error: standing.error.map(|error| LastError { at, error }),
            dead_letters: standing.dead_letters,
        }
    }
}

/// A message that was given up.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeadLetter {
    /// Its number among all that were given up.
    pub(crate) number: u64,
    /// Its id, as its receiver would have seen it.
    pub(crate) id: String,
    pub(crate) agent_id: String,
    /// What was to be told.
    #[schema(value_type = Option<Object>)]
    pub(crate) message: Option<Box<RawValue>>,
    #[schema(format = DateTime)]
    pub(crate) queued_at: Option<String>,
    #[schema(format = DateTime)]
    pub(crate) given_up_at: Option<String>,
    pub(crate) attempts: u64,
    /// What ended the last attempt.
    pub(crate) error: String,
}

/// A message that waits to be sent again.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookRedelivery)]
pub(crate) struct Redelivery {
    /// The message's id.
    pub(crate) id: String,
    pub(crate) agent_id: String,
}

/// How a test message was taken.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookTested)]
pub(crate) struct Tested {
    /// The message's id.
    pub(crate) id: String,
    pub(crate) delivered: bool,
    /// Why it was not.
    pub(crate) error: Option<String>,
}
